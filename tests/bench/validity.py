"""Whether counts of wrong captions, standard errors, p and q values hold what they say.

    python -m tests.bench wrong coverage [--sets 200]        simulated sets and reviews: how often
                                                             intervals cover
    python -m tests.bench wrong planted AUDIT [--sets 40]   errors planted in the evidence of a
                                                            finished audit
    python -m tests.bench coverage [AUDIT…] [--seeds 20] [--out FOLDER]

`coverage` takes simulated audits, whose truth is known, and audits of many members, finished or not
(`audit … --folds 4
--members 64`): these are cut into blocks of members that share none, and what one block says of a
pair is compared with another, whose error is known as well. All blocks of an audit have one split
of the pairs. Audits stay in the data folder and are resumed.
"""

import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import tyro
from scipy.stats import t

from clipmem_core import columns as c
from clipmem_core.audit.prepare import membership_of, sides_of
from clipmem_core.audit.scoring import caption_table
from clipmem_core.audit.store import TEXT_EMBEDDINGS, Audit, caption_counts, read_embeddings
from clipmem_core.audit.word_table import read_words
from clipmem_core.config import data_folder
from clipmem_core.io import InputError
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.evidence import CaptionEvidence, probabilities
from clipmem_core.scores.membership import Membership, Sides, replicate_rows, side_means
from clipmem_core.scores.prevalence import count_reviewed, plan_review
from clipmem_core.scores.uncertainty import (
    Errors,
    Noise,
    share_above,
    shrunk_by_group,
    standard_errors,
)
from tests.bench import console, made_on
from tests.scores.simulated import simulate

DESIGNS: dict[str, dict[str, Any]] = {
    "2 folds": {"folds": 2, "halves": False},
    "halves of 4": {"folds": 4},
    "halves of 8": {"folds": 8},
}
MEMBERS = (4, 8, 16)
TOP = 50
LEVEL = 0.1  # of q
SIZES = np.array([0.3, 0.4, 0.5])  # three times the noise of four members and more
SEEDS = {
    "simulated": "# seeds: 0 to {} of simulated audits, each of 2,000 scored and 200 external "
    "pairs",
    "audits": "# seeds: 0, one split; the members of an audit are cut into blocks that share none",
}


@dataclass(frozen=True)
class Coverage:
    """Measure whether errors, p and q values and shrunken values of clipmem hold what they say."""

    audits: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="AUDIT")] = ()
    seeds: int = 20  # simulated audits of each kind; 0: none
    out: str = ""  # a folder for the tables


class Block(NamedTuple):
    """The estimates of some members of an audit."""

    clipmem: np.ndarray
    errors: Errors
    shrunk: np.ndarray
    welch: np.ndarray  # variance of clipmem by the members of the pair alone, each side for itself


def simulated(seeds: int) -> pd.DataFrame:
    """Return one row a design and number of members: means over seeds, and half a 95 % interval of
    the coverage."""
    lines = []
    for name, how in DESIGNS.items():
        for members in (count for count in MEMBERS if count % how["folds"] == 0):
            rows = pd.DataFrame([_one(seed, members=members, **how) for seed in range(seeds)])
            half = (
                t.ppf(0.975, seeds - 1) * rows["coverage"].std() / seeds**0.5
                if seeds > 1
                else float("nan")
            )
            lines.append(
                {
                    "design": name,
                    "members": members,
                    "seeds": seeds,
                    **rows.mean(),
                    "coverage_half": half,
                }
            )
            console.print(str(lines[-1]), markup=False)
    return pd.DataFrame(lines)


def _one(seed: int, **how: Any) -> dict[str, float]:
    nothing = simulate(seed, memorized=0, **how)
    small = (nothing.p() <= 0.05)[nothing.scored]
    tenths = [
        small[rows].mean() for rows in np.array_split(np.argsort(nothing.noise[nothing.scored]), 10)
    ]
    half = simulate(seed, **how)
    rows = np.flatnonzero(half.scored)
    shares = share_above(half.clipmem[rows], Noise.of(half.errors, rows), SIZES, seed=0)
    true = (half.true[rows, None] >= SIZES).mean(axis=0)
    within = float(((shares["low"] <= true) & (true <= shares["high"])).mean())
    row = {"coverage": half.covered(), "share_coverage": within, "p_05": small.mean()}
    row |= {"p_05_quietest_tenth": tenths[0], "p_05_noisiest_tenth": tenths[-1]}
    for name, other in {
        "": {},
        "_quiet_external": {"external_noise": 0.8},
        "_few": {"memorized": 0.1},
    }.items():
        rate, power = simulate(seed, **how, **other).false_finds(LEVEL)
        row |= {f"false_at_q_10{name}": rate, f"found_at_q_10{name}": power}
    return row


def of_audit(name: str) -> pd.DataFrame:
    """Return one row a number of members: what blocks of so many say, held against other blocks."""
    values, sides = _alignments(Audit(data_folder() / "audits" / name))
    lines = []
    for members in MEMBERS:
        repeats = members // len(sides.replicates[0])
        blocks = list(_blocks(values, sides, repeats)) if repeats else []
        twos = list(zip(blocks[::2], blocks[1::2], strict=False))
        if twos:
            read = {
                "audit": name,
                "scored_pairs": int((~sides.external).sum()),
                "members_read": len(values),
            }
            lines.append({**read, "members": members, **_against(twos, ~sides.external)})
            console.print(str(lines[-1]), markup=False)
    return pd.DataFrame(lines)


def _alignments(audit: Audit) -> tuple[np.ndarray, Sides]:
    """Return the alignments of finished members, as far as these are whole repeats, and who trains
    on what."""
    drawn = membership_of(audit.membership)
    config = audit.record.config
    names = list(
        itertools.takewhile(
            lambda name: (audit.member(name) / TEXT_EMBEDDINGS).is_file(), drawn.members
        )
    )
    size = len(replicate_rows(drawn.members)[0])
    names = names[: len(names) // size * size]
    sides = Sides(
        Membership(drawn.group, tuple(names), drawn.trained[: len(names)]),
        config.protocol,
        config.seed,
    )
    vectors = [read_embeddings(audit.member(name)) for name in names]
    return np.stack(
        [pair_terms(image, text, sides.external)[c.ALIGNMENT] for image, text in vectors]
    ), sides


def _blocks(values: np.ndarray, sides: Sides, repeats: int) -> Iterator[Block]:
    """Yield what each block of whole repeats says."""
    names = sides.membership.members
    for first in range(0, len(sides.replicates) - repeats + 1, repeats):
        rows = np.concatenate(sides.replicates[first : first + repeats])
        drawn = Membership(
            sides.membership.group,
            tuple(names[row] for row in rows.tolist()),
            sides.membership.trained[rows],
        )
        block_sides = Sides(drawn, sides.protocol, sides.seed)
        alignments = list(values[rows])
        mean_in, mean_out = side_means(alignments, block_sides.inside)
        errors = standard_errors(alignments, block_sides)
        expected = shrunk_by_group(mean_in - mean_out, errors, drawn.group, seed=block_sides.seed)
        welch = np.zeros(len(expected))
        for side in (block_sides.inside, ~block_sides.inside):
            count = side.sum(axis=0)
            mean = (values[rows] * side).sum(axis=0) / count
            welch += (side * (values[rows] - mean) ** 2).sum(axis=0) / (count - 1) / count
        yield Block(mean_in - mean_out, errors, expected, welch)


def _against(twos: Sequence[tuple[Block, Block]], scored: np.ndarray) -> dict[str, float]:
    """Compare blocks two by two."""
    covered = []
    before = []
    tops = []
    for first, second in twos:
        off = np.abs(first.clipmem - second.clipmem)[scored]
        covered.append((off <= 1.96 * np.hypot(first.errors.se, second.errors.se)[scored]).mean())
        before.append((off <= 1.96 * np.sqrt(first.welch + second.welch)[scored]).mean())
        tops += [_top(first, second, scored), _top(second, first, scored)]
    row = {"comparisons": len(twos), "coverage": np.mean(covered)}
    row |= {"coverage_lowest": np.min(covered), "coverage_highest": np.max(covered)}
    return (
        row
        | {"coverage_of_own_members_alone": np.mean(before)}
        | pd.DataFrame(tops).mean().to_dict()
    )


def _top(first: Block, second: Block, scored: np.ndarray) -> dict[str, float]:
    """Return the means of the pairs that are highest in one block: raw, shrunken, and in the other
    block."""
    rows = np.flatnonzero(scored)
    top = rows[np.argsort(-first.clipmem[rows])[:TOP]]
    by_shrunk = rows[np.argsort(-first.shrunk[rows])[:TOP]]
    return {
        f"top_{TOP}": first.clipmem[top].mean(),
        f"top_{TOP}_shrunk": first.shrunk[top].mean(),
        f"top_{TOP}_other_members": second.clipmem[top].mean(),
        f"top_{TOP}_by_shrunk": first.shrunk[by_shrunk].mean(),
        f"top_{TOP}_by_shrunk_other_members": second.clipmem[by_shrunk].mean(),
    }


KINDS = {
    "random": 3.0,
    "hard": 1.0,
}  # standard deviations between the scores of right and of wrong captions


@dataclass(frozen=True)
class Intervals:
    """Count wrong captions of simulated sets by reviews, and say how often intervals cover."""

    sets: int = 200  # of each setting
    pairs: int = 1000
    shares: tuple[float, ...] = (0.01, 0.05, 0.2, 0.4)
    reviewed: tuple[int, ...] = (100, 400)  # pairs looked at
    out: str = ""


@dataclass(frozen=True)
class Planted:
    """Plant errors in the evidence of a finished audit, and hold the counts against them."""

    audit: Annotated[str, tyro.conf.Positional]
    sets: int = 40  # of each kind and share
    shares: tuple[float, ...] = (0.01, 0.05, 0.2)
    out: str = ""


def scores_of(rng: np.random.Generator, wrong: np.ndarray, kind: str) -> np.ndarray:
    """Draw how well captions fit: normal with a heavier left side, wrong ones lower by so many
    SD."""
    right = np.where(
        rng.random(len(wrong)) < 0.8,
        rng.normal(0, 1, len(wrong)),
        rng.normal(-0.5, 1.3, len(wrong)),
    )
    return np.where(wrong, rng.normal(-KINDS[kind], 1, len(wrong)), right)


def intervals(asked: Intervals) -> pd.DataFrame:
    """Return one row a setting: how often each interval holds the truth, and its mean width."""
    rows = []
    for kind in KINDS:
        for share in asked.shares:
            sets = [one_set(asked, kind, share, seed) for seed in range(asked.sets)]
            for method in sets[0]:
                ends = np.array([values[method] for values in sets])
                truth = round(share * asked.pairs)
                covered = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
                rows.append((kind, share, method, covered.mean(), *ends.mean(axis=0)))
                console.print(*map(str, rows[-1]))
    return pd.DataFrame(rows, columns=["kind", "share", "method", "coverage", "low", "high"])


def one_set(asked: Intervals, kind: str, share: float, seed: int) -> dict[str, tuple[float, float]]:
    """Return the interval of each method for one simulated set."""
    rng = np.random.default_rng([seed, round(1000 * share), len(kind)])
    wrong = np.zeros(asked.pairs, dtype=bool)
    wrong[rng.choice(asked.pairs, round(share * asked.pairs), replace=False)] = True
    fit = scores_of(rng, wrong, kind)
    methods = {}
    review = plan_review(-fit, seed=seed)
    for looked_at in asked.reviewed:
        decided = np.zeros(asked.pairs, dtype=bool)
        decided[review.order[:looked_at]] = True
        count = count_reviewed(review, wrong & decided, decided)
        methods[f"review of {looked_at}"] = (count.low or 0.0, count.high or 0.0)
    return methods


def counts_of_audit(asked: Planted) -> pd.DataFrame:
    """Return one row a kind and share: how often the interval holds the number of planted errors,
    and its mean ends.

    Errors are planted in the evidence of a finished audit, in four fifths of its pairs drawn at
    random: the score of a picture with another caption, of a decoy, or of another word takes the
    place of a caption's own. Pairs with injected errors are left out.
    """
    audit = Audit(data_folder() / "audits" / asked.audit)
    rows = []
    counts = caption_counts(audit)
    membership = membership_of(audit.membership)
    sides = sides_of(audit, audit.record.config, membership)
    evidence = caption_table(audit, audit.scores, counts, sides, read_words(audit, counts))[1]
    right = np.flatnonzero(audit.pairs[c.INJECTED].isna())
    kinds = ["pairs", *(["captions"] if evidence.decoys is not None else []), "words"]
    for kind, share in itertools.product(kinds, asked.shares):
        ends = []
        for seed in range(asked.sets):
            rng = np.random.default_rng([seed, round(1000 * share)])
            planted, n = plant(
                evidence,
                kind,
                share,
                np.sort(rng.choice(right, round(0.8 * len(right)), False)),
                rng,
            )
            count = probabilities(planted).counts[kind]
            ends.append((count.estimate, count.low, count.high))
        estimate, low, high = np.array(ends, dtype=float).T
        covered = ((low <= n) & (n <= high)).mean()
        rows.append(
            (asked.audit, kind, share, n, covered, estimate.mean(), low.mean(), high.mean())
        )
        console.print(*map(str, rows[-1]))
    columns = ["audit", "kind", "share", "planted", "coverage", "estimate", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def plant(
    evidence: CaptionEvidence, kind: str, share: float, rows: np.ndarray, rng: np.random.Generator
) -> tuple[CaptionEvidence, int]:
    """Return the evidence of some pairs with errors of one kind, and their number."""
    owner = np.repeat(np.arange(len(evidence.counts)), evidence.counts)
    chosen = np.isin(np.arange(len(evidence.counts)), rows)
    inside = np.isin(owner, rows)
    fit, swapped = (np.where(chosen, values, np.nan) for values in (evidence.fit, evidence.swapped))
    assert evidence.words is not None
    captions = (
        None if evidence.captions is None else np.where(inside[:, None], evidence.captions, np.nan)
    )
    decoys = None if evidence.decoys is None else evidence.decoys.copy()
    words = evidence.words[inside[evidence.words[c.CAPTION]]].reset_index(drop=True)
    if kind == "pairs":
        n = round(share * np.isfinite(fit).sum())
        wrong = rng.choice(np.flatnonzero(np.isfinite(fit + swapped)), n, replace=False)
        fit[wrong] = swapped[wrong]
        swapped[wrong] = np.nan
    elif kind == "captions" and captions is not None and decoys is not None:
        places, usable = (
            np.flatnonzero(np.isfinite(values).all(axis=1)) for values in (captions, decoys)
        )
        n = min(round(share * len(places)), len(usable) // 2)
        wrong = rng.choice(usable, n, replace=False)
        captions[rng.choice(places, n, replace=False)] = decoys[wrong]
        decoys[wrong] = np.nan
    else:
        of_word = words[c.CAPTION].to_numpy()
        drawn = rng.permutation(np.flatnonzero(np.isfinite(words[c.CHANGED])))
        n = round(share * words[c.CAPTION].nunique())
        drawn = rng.permutation(drawn[np.unique(of_word[drawn], return_index=True)[1]])[:n]
        known = words[c.CHANGED].to_numpy(copy=True)
        words.loc[drawn, c.SURPRISE] = known[drawn]
        words.loc[drawn, c.CHANGED] = rng.permutation(known)[drawn]
    planted = {
        "fit": fit,
        "swapped": swapped,
        "captions": captions,
        "decoys": decoys,
        "words": words,
    }
    return dataclasses.replace(evidence, **planted), n


def write(path: str, table: pd.DataFrame, words: Sequence[str], more: Sequence[str] = ()) -> None:
    """Write a table below comments that say what made it."""
    command = f"python -m tests.bench {' '.join(Path(word).name for word in words)}"
    head = [f"# command: {command}", f"# machine: {made_on()}; {date.today().isoformat()}", *more]
    Path(path).write_text(
        "\n".join(head) + "\n" + table.round(4).to_csv(index=False), encoding="utf-8"
    )


def measure_coverage(asked: Coverage, words: Sequence[str]) -> None:
    tables = {"simulated": simulated(asked.seeds)} if asked.seeds else {}
    if asked.audits:
        tables["audits"] = pd.concat([of_audit(name) for name in asked.audits], ignore_index=True)
    for name, table in tables.items():
        console.print(table.round(3).T.to_string())
        if asked.out:
            write(
                f"{asked.out}/coverage-{name}.csv",
                table,
                words,
                [SEEDS[name].format(asked.seeds - 1)],
            )


def command(what: str, arguments: Sequence[str]) -> int:
    """Run `wrong` or `coverage` from the command line; return the exit code."""
    prog = f"python -m tests.bench {what}"
    words = [what, *arguments]
    try:
        if what == "coverage":
            flags = (tyro.conf.FlagCreatePairsOff,)
            measure_coverage(tyro.cli(Coverage, args=arguments, prog=prog, config=flags), words)
        else:
            kinds = {"coverage": Intervals, "planted": Planted}
            measures = {Intervals: intervals, Planted: counts_of_audit}
            asked = tyro.extras.subcommand_cli_from_dict(kinds, args=arguments, prog=prog)
            table = measures[type(asked)](asked)
            console.print(table.round(3).to_string(), markup=False)
            if asked.out:
                write(asked.out, table, words)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
