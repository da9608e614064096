"""Whether counts of wrong captions and standard errors hold what they say.

    python -m tests.bench wrong coverage [--sets 200]       simulated sets and reviews: how often
                                                            intervals cover
    python -m tests.bench coverage AUDIT… [--out FOLDER]

`coverage` takes finished audits of many members (`audit … --folds 4 --members 64`). They are cut
into blocks of members that share none, and the estimates of one block are compared with those of
another. All blocks of an audit have one split of the pairs.
"""

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
import tyro

from clipmem_core.auditing.folder.store import Audit, read_captions
from clipmem_core.auditing.tables.scoring import gather_evidence
from clipmem_core.errors.certificate import bound_wrong
from clipmem_core.errors.counts import estimate_wrong, posterior_at
from clipmem_core.errors.posterior import Posterior, plan_review
from clipmem_core.scores.membership import InOut, Membership, in_out_means
from clipmem_core.scores.uncertainty import Errors, shrunk_by_group, standard_errors
from clipmem_core.utils.io import InputError
from tests.bench import save_table

MEMBERS = (4, 8, 16)
TOP = 50


@dataclass(frozen=True)
class Coverage:
    """Measure whether errors and shrunken values of clipmem hold what they say."""

    audits: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="AUDIT")]
    out: str = ""  # a folder for the table


class Block(NamedTuple):
    """The estimates of some members of an audit."""

    clipmem: np.ndarray
    errors: Errors
    shrunk: np.ndarray
    welch: np.ndarray  # variance of clipmem by the members of the pair alone, each side for itself


def of_audit(name: str) -> pd.DataFrame:
    """Return one row a number of members: what blocks of so many say, held against other blocks."""
    audit = Audit.open(name)
    evidence = gather_evidence(audit, audit.pairs, read_captions(audit))
    in_out = evidence.in_out
    values = np.stack(evidence.alignments)
    scored = ~in_out.held_out
    lines = []
    for members in MEMBERS:
        blocks = list(_blocks(values, in_out, members))
        if len(blocks) > 1:
            first = {"audit": name, "scored_pairs": int(scored.sum()), "members": members}
            lines.append(first | _compare(blocks, scored))
    return pd.DataFrame(lines)


def _blocks(values: np.ndarray, in_out: InOut, members: int) -> Iterator[Block]:
    """Yield what each block of so many members, in whole repeats, says."""
    names = in_out.membership.members
    trained = in_out.membership.trained
    replicates = members // len(in_out.replicates[0])
    for first in (
        range(0, len(in_out.replicates) - replicates + 1, replicates) if replicates else ()
    ):
        rows = np.concatenate(in_out.replicates[first : first + replicates])
        group = in_out.membership.group
        drawn = Membership(group, tuple(names[row] for row in rows.tolist()), trained[rows])
        block = InOut(drawn, in_out.seed)
        mean_in, mean_out = in_out_means(list(values[rows]), block.inside)
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


def intervals(asked: Intervals) -> pd.DataFrame:
    """Return one row a setting: how often the interval and the bound hold the number of wrong
    captions that remain, and their means."""
    rows = []
    for kind, share, reviewed in itertools.product(KINDS, asked.shares, asked.reviewed):
        ends = np.array(
            [
                review_simulated(asked.pairs, kind, share, reviewed, seed)
                for seed in range(asked.sets)
            ]
        )
        left, low, high, most = ends.T
        covered = ((low <= left) & (left <= high)).mean()
        rows.append((kind, share, reviewed, covered, (left <= most).mean(), *ends.mean(axis=0)))
    columns = ["kind", "share", "reviewed", "coverage", "coverage_of_bound"]
    return pd.DataFrame(rows, columns=[*columns, "left", "low", "high", "bound"])


def review_simulated(n: int, kind: str, share: float, most: int, seed: int) -> tuple[float, ...]:
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
    review = plan_review(-fit)
    ranked = np.argsort(fit)
    first = np.zeros(n, int)
    for start in range(0, most, 20):
        queue = review.drawn if rng.random() < 0.5 else ranked
        chosen = queue[first[queue] == 0][:20]
        first[chosen] = start + 1 + np.arange(len(chosen))
        bound = bound_wrong(review.drawn, first, wrong & (first > 0), kept=n).most
        if bound <= 0.25 * wrong.sum():
            break
    decided = first > 0
    posterior = Posterior.of(posterior_at(estimate_wrong(fit, swapped).curve, fit))
    left = posterior.remaining(decided & ~wrong, decided & wrong, ~decided)
    return float((wrong & ~decided).sum()), round(left.low), round(left.high), bound


def command(words: Sequence[str]) -> int:
    """Run `wrong coverage` or `coverage` from the command line; return the exit code."""
    what, *arguments = words
    prog = f"python -m tests.bench {what}"
    try:
        if what == "coverage":
            coverage = tyro.cli(Coverage, args=arguments, prog=prog)
            table = pd.concat([of_audit(name) for name in coverage.audits], ignore_index=True)
            path = f"{coverage.out}/coverage-audits.csv" if coverage.out else ""
            note = (
                "seeds: 0, one split; the members of an audit are cut into blocks that share none"
            )
            save_table(table, path, note)
        else:
            asked = tyro.extras.subcommand_cli_from_dict(
                {"coverage": Intervals}, args=arguments, prog=prog
            )
            save_table(intervals(asked), asked.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
