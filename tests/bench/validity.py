"""Whether counts of wrong captions, standard errors, p and q values hold what they say.

    python -m tests.bench wrong coverage [--sets 200]       simulated sets and reviews: how often
                                                            intervals cover
    python -m tests.bench wrong planted AUDIT [--sets 40]   errors planted in the evidence of a
                                                            finished audit
    python -m tests.bench coverage [AUDIT…] [--seeds 20] [--out FOLDER]

`coverage` takes simulated audits, whose truth is known, and finished audits of many members
(`audit … --folds 4 --members 64`): these are cut into blocks of members that share none, and what
one block says of a pair is compared with another, whose error is known as well. All blocks of an
audit have one split of the pairs.
"""

import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import tyro

from clipmem_core.auditing.folder.prepare import caption_features, membership_of, sides_of
from clipmem_core.auditing.folder.store import (
    CAPTION_SCORES,
    CAPTION_TABLE,
    Audit,
    read_array,
    read_captions,
    read_decoys,
    read_table,
)
from clipmem_core.auditing.run.word_table import read_words
from clipmem_core.auditing.tables.scoring import gather_evidence
from clipmem_core.errors.calibration import CaptionEvidence, probabilities
from clipmem_core.errors.certificate import bound_wrong
from clipmem_core.errors.counts import estimate_wrong, posterior_at
from clipmem_core.errors.posterior import Posterior, plan_review
from clipmem_core.scores.membership import Membership, MemberSides, side_means
from clipmem_core.scores.score_tables import Texts, caption_evidence
from clipmem_core.scores.uncertainty import Errors, shrunk_by_group, standard_errors
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError
from tests.bench import save_table
from tests.scores.simulated import simulate

DESIGNS: dict[str, dict[str, Any]] = {
    "2 folds": {"folds": 2, "halves": False},
    "halves of 4": {"folds": 4},
    "halves of 8": {"folds": 8},
}
MEMBERS = (4, 8, 16)
TOP = 50
LEVEL = 0.1  # of q
SEEDS = {
    "simulated": "seeds: 0 to {} of simulated audits, each of 2,000 scored and 200 held-out pairs",
    "audits": "seeds: 0, one split; the members of an audit are cut into blocks that share none",
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
    """Return one row a design and number of members: means over seeds."""
    lines = []
    for name, design in DESIGNS.items():
        for members in (count for count in MEMBERS if count % design["folds"] == 0):
            rows = [_simulate_once(seed, members=members, **design) for seed in range(seeds)]
            means = pd.DataFrame(rows).mean().to_dict()
            lines.append({"design": name, "members": members, "seeds": seeds} | means)
    return pd.DataFrame(lines)


def _simulate_once(seed: int, **design: Any) -> dict[str, float]:
    null = simulate(seed, memorized=0, **design)
    significant = (null.p() <= 0.05)[null.scored]
    tenths = np.array_split(significant[np.argsort(null.noise[null.scored])], 10)
    audit = simulate(seed, **design)
    rate, power = audit.false_finds(LEVEL)
    return {
        "coverage": audit.covered(),
        "p_05": significant.mean(),
        "p_05_quietest_tenth": tenths[0].mean(),
        "p_05_noisiest_tenth": tenths[-1].mean(),
        "false_at_q_10": rate,
        "found_at_q_10": power,
    }


def of_audit(name: str) -> pd.DataFrame:
    """Return one row a number of members: what blocks of so many say, held against other blocks."""
    audit = Audit.open(name)
    evidence = gather_evidence(audit, audit.pairs, read_captions(audit))
    sides = evidence.sides
    values = np.stack(evidence.alignments)
    scored = ~sides.held_out
    lines = []
    for members in MEMBERS:
        blocks = list(_blocks(values, sides, members))
        if len(blocks) > 1:
            first = {"audit": name, "scored_pairs": int(scored.sum()), "members": members}
            lines.append(first | _compare(blocks, scored))
    return pd.DataFrame(lines)


def _blocks(values: np.ndarray, sides: MemberSides, members: int) -> Iterator[Block]:
    """Yield what each block of so many members, in whole repeats, says."""
    names = sides.membership.members
    trained = sides.membership.trained
    replicates = members // len(sides.replicates[0])
    for first in range(0, len(sides.replicates) - replicates + 1, replicates) if replicates else ():
        rows = np.concatenate(sides.replicates[first : first + replicates])
        group = sides.membership.group
        drawn = Membership(group, tuple(names[row] for row in rows.tolist()), trained[rows])
        block = MemberSides(drawn, sides.seed)
        mean_in, mean_out = side_means(list(values[rows]), block.inside)
        errors = standard_errors(list(values[rows]), block)
        shrunk = shrunk_by_group(mean_in - mean_out, errors, group, seed=block.seed)
        welch = np.zeros(len(shrunk))
        for side in (block.inside, ~block.inside):
            count = side.sum(axis=0)
            mean = (values[rows] * side).sum(axis=0) / count
            welch += (side * (values[rows] - mean) ** 2).sum(axis=0) / (count - 1) / count
        yield Block(mean_in - mean_out, errors, shrunk, welch)


def _compare(blocks: Sequence[Block], scored: np.ndarray) -> dict[str, float]:
    """Compare blocks two by two."""
    covered = []
    covered_by_welch = []
    tops = []
    rows = np.flatnonzero(scored)
    pairs = list(zip(blocks[::2], blocks[1::2], strict=False))
    for first, second in pairs:
        off = np.abs(first.clipmem - second.clipmem)[scored]
        covered.append((off <= 1.96 * np.hypot(first.errors.se, second.errors.se)[scored]).mean())
        welch = 1.96 * np.sqrt(first.welch + second.welch)[scored]
        covered_by_welch.append((off <= welch).mean())
        for one, other in ((first, second), (second, first)):
            top = rows[np.argsort(-one.clipmem[rows])[:TOP]]
            tops.append([block[top].mean() for block in (one.clipmem, one.shrunk, other.clipmem)])
    highest, shrunk, in_other_members = np.mean(tops, axis=0)
    return {
        "comparisons": len(pairs),
        "coverage": np.mean(covered),
        "coverage_lowest": np.min(covered),
        "coverage_highest": np.max(covered),
        "coverage_of_own_members_alone": np.mean(covered_by_welch),
        f"top_{TOP}": highest,
        f"top_{TOP}_shrunk": shrunk,
        f"top_{TOP}_other_members": in_other_members,
    }


# Standard deviations between the scores of right and of wrong captions
KINDS = {"random": 3.0, "hard": 1.0}


@dataclass(frozen=True)
class Intervals:
    """Review simulated sets, and say how often the interval and the bound of what remains hold."""

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


def intervals(asked: Intervals) -> pd.DataFrame:
    """Return one row a setting: how often the interval and the bound hold the number of wrong
    captions that remain, and their means."""
    rows = []
    for kind, share, reviewed in itertools.product(KINDS, asked.shares, asked.reviewed):
        ends = np.array(
            [_review(asked.pairs, kind, share, reviewed, seed) for seed in range(asked.sets)]
        )
        left, low, high, most = ends.T
        covered = ((low <= left) & (left <= high)).mean()
        rows.append((kind, share, reviewed, covered, (left <= most).mean(), *ends.mean(axis=0)))
    columns = ["kind", "share", "reviewed", "coverage", "coverage_of_bound"]
    return pd.DataFrame(rows, columns=[*columns, "left", "low", "high", "bound"])


def _review(n: int, kind: str, share: float, most: int, seed: int) -> tuple[float, ...]:
    """Review a simulated set, and stop where the bound pleases; return the number of wrong captions
    that remain, its interval and its bound.

    The person changes between ranked and random pairs, looks at the bound after each twenty and
    stops once it is at most a quarter of the wrong captions.
    """
    rng = np.random.default_rng([seed, round(1000 * share), len(kind)])
    wrong = np.zeros(n, dtype=bool)
    wrong[rng.choice(n, round(share * n), replace=False)] = True
    # How well captions fit: normal with a heavier left side, wrong ones lower
    right = np.where(rng.random(n) < 0.8, rng.normal(0, 1, n), rng.normal(-0.5, 1.3, n))
    fit = np.where(wrong, rng.normal(-KINDS[kind], 1, n), right)
    swapped = rng.normal(-KINDS[kind], 1, n)
    review = plan_review(-fit, seed=seed)
    first = np.zeros(n, int)
    for start in range(0, most, 20):
        queue = review.drawn if rng.random() < 0.5 else review.ranked
        chosen = queue[first[queue] == 0][:20]
        first[chosen] = start + 1 + np.arange(len(chosen))
        bound = bound_wrong(review.drawn, first, wrong & (first > 0)).most
        if bound <= 0.25 * wrong.sum():
            break
    decided = first > 0
    posterior = Posterior.of(posterior_at(estimate_wrong(fit, swapped).curve, fit))
    left = posterior.remaining(decided & ~wrong, decided & wrong, ~decided)
    return float((wrong & ~decided).sum()), round(left.low), round(left.high), bound


def counts_of_audit(asked: Planted) -> pd.DataFrame:
    """Return one row a kind and share: the number of planted errors, and its estimate.

    Errors are planted in the evidence of a finished audit, in four fifths of its pairs drawn at
    random: the score of a picture with another caption, of a decoy, or of another word takes the
    place of a caption's own. Pairs with injected errors are left out.
    """
    audit = Audit.open(asked.audit)
    evidence = _caption_evidence(audit)
    right = np.flatnonzero(audit.pairs[c.INJECTED].isna())
    kinds = ["pairs", *(["captions"] if evidence.decoys is not None else []), "words"]
    rows = []
    for kind, share in itertools.product(kinds, asked.shares):
        estimates = []
        for seed in range(asked.sets):
            rng = np.random.default_rng([seed, round(1000 * share)])
            pairs = np.sort(rng.choice(right, round(0.8 * len(right)), False))
            planted, n = plant(evidence, kind, share, pairs, rng)
            estimates.append(probabilities(planted).counts[kind].estimate)
        values = np.array(estimates, dtype=float)
        rows.append((asked.audit, kind, share, n, values.mean(), values.std()))
    return pd.DataFrame(rows, columns=["audit", "kind", "share", "planted", "estimate", "sd"])


def _caption_evidence(audit: Audit) -> CaptionEvidence:
    of_pairs = read_captions(audit)
    sides = sides_of(audit, audit.record.config, membership_of(audit.membership))
    table = read_table(audit.folder / CAPTION_TABLE, columns=[c.READ, c.CHECK])
    read, reasons = table[c.READ].to_numpy(bool), table[c.CHECK].to_numpy(object)
    decoys = read_decoys(audit)
    features = caption_features(audit) if len(decoys) else None
    texts = Texts(of_pairs, read, reasons, np.arange(len(of_pairs)), features)
    members = (read_array(audit.member(name) / CAPTION_SCORES) for name in audit.record.members)
    return caption_evidence(audit.scores, texts, sides, members, decoys, read_words(audit))[0]


def plant(
    evidence: CaptionEvidence, kind: str, share: float, rows: np.ndarray, rng: np.random.Generator
) -> tuple[CaptionEvidence, int]:
    """Return the evidence of some pairs with errors of one kind, and their number."""
    chosen = np.isin(np.arange(len(evidence.of_pairs)), rows)
    chosen_captions = chosen[evidence.of_pairs.owner]
    assert evidence.words is not None
    words = evidence.words[chosen_captions[evidence.words[c.CAPTION_ROW]]].reset_index(drop=True)
    fit = np.where(chosen, evidence.fit, np.nan)
    swapped = np.where(chosen, evidence.swapped, np.nan)
    planted = {"fit": fit, "swapped": swapped, "words": words}
    if evidence.captions is not None and evidence.decoys is not None:
        captions = np.where(chosen_captions[:, None], evidence.captions, np.nan)
        decoys = evidence.decoys.copy()
        planted |= {"captions": captions, "decoys": decoys}
    if kind == "pairs":
        n = round(share * np.isfinite(fit).sum())
        wrong = rng.choice(np.flatnonzero(np.isfinite(fit + swapped)), n, replace=False)
        fit[wrong] = swapped[wrong]
        swapped[wrong] = np.nan
    elif kind == "captions":
        scored = np.flatnonzero(np.isfinite(captions).all(axis=1))
        usable = np.flatnonzero(np.isfinite(decoys).all(axis=1))
        n = min(round(share * len(scored)), len(usable) // 2)
        wrong = rng.choice(usable, n, replace=False)
        captions[rng.choice(scored, n, replace=False)] = decoys[wrong]
        decoys[wrong] = np.nan
    else:
        of_word = words[c.CAPTION_ROW].to_numpy()
        drawn = rng.permutation(np.flatnonzero(np.isfinite(words[c.CHANGED])))
        n = round(share * words[c.CAPTION_ROW].nunique())
        drawn = rng.permutation(drawn[np.unique(of_word[drawn], return_index=True)[1]])[:n]
        changed = words[c.CHANGED].to_numpy(copy=True)
        words.loc[drawn, c.SURPRISE] = changed[drawn]
        words.loc[drawn, c.CHANGED] = rng.permutation(changed)[drawn]
    return dataclasses.replace(evidence, **planted), n


def measure_coverage(asked: Coverage) -> None:
    tables = {"simulated": simulated(asked.seeds)} if asked.seeds else {}
    if asked.audits:
        tables["audits"] = pd.concat([of_audit(name) for name in asked.audits], ignore_index=True)
    for name, table in tables.items():
        path = f"{asked.out}/coverage-{name}.csv" if asked.out else ""
        save_table(table, path, SEEDS[name].format(asked.seeds - 1))


def command(words: Sequence[str]) -> int:
    """Run `wrong` or `coverage` from the command line; return the exit code."""
    what, *arguments = words
    prog = f"python -m tests.bench {what}"
    try:
        if what == "coverage":
            measure_coverage(tyro.cli(Coverage, args=arguments, prog=prog))
        else:
            kinds = {"coverage": Intervals, "planted": Planted}
            asked = tyro.extras.subcommand_cli_from_dict(kinds, args=arguments, prog=prog)
            measure = intervals if isinstance(asked, Intervals) else counts_of_audit
            save_table(measure(asked), asked.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
