"""Whether ± 1.96 se of a pair's clipmem covers 95 %, p and q hold what they say, and shrunken values are not too high.

    python -m tests.bench coverage [AUDIT…] [--seeds 20] [--out FOLDER]

Simulated audits, whose truth is known, and audits of many members, finished or not (`audit … --folds 4 --members 64`),
judged by members of their own: these are cut into blocks that share no member, and what one block says of a pair is
held against another, whose error is known as well. All blocks of an audit have one split of the pairs.
"""

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro
from scipy.stats import t

from clipmem_core.audits import settings
from clipmem_core.audits.prepare import membership_of
from clipmem_core.audits.store import TEXT_EMBEDDINGS, Audit, read_embeddings
from clipmem_core.columns import ALIGNMENT
from clipmem_core.config import InputError, data_folder
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.membership import Membership, Sides, replicate_rows, side_means
from clipmem_core.scores.memorization import shrunk_by_group
from clipmem_core.scores.uncertainty import Errors, Noise, share_above, standard_errors
from tests.bench.report import console
from tests.scores.simulated import Simulated, simulate

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
    "simulated": "# seeds: 0 to {} of simulated audits, each of 2,000 scored and 200 external pairs",
    "audits": "# seeds: 0, one split; the members of an audit are cut into blocks that share none",
}


@dataclass(frozen=True)
class Coverage:
    """Measure whether errors, p and q values and shrunken values of clipmem hold what they say."""

    audits: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="AUDIT")] = ()
    seeds: int = 20  # simulated audits of each kind; 0: none
    out: str = ""  # a folder for the tables


@dataclass(frozen=True, eq=False)
class Block:
    """What some members of an audit say."""

    clipmem: np.ndarray
    errors: Errors
    shrunk: np.ndarray
    welch: np.ndarray  # variance of clipmem by the pair's own members alone, each side for itself


def simulated(seeds: int) -> pd.DataFrame:
    """Return one row a design and number of members: means over seeds, and half a 95 % interval of the coverage."""
    lines = []
    for name, how in DESIGNS.items():
        for members in (count for count in MEMBERS if count % how["folds"] == 0):
            rows = pd.DataFrame([_one(seed, members=members, **how) for seed in range(seeds)])
            half = t.ppf(0.975, seeds - 1) * rows["coverage"].std() / seeds**0.5 if seeds > 1 else float("nan")
            lines.append({"design": name, "members": members, "seeds": seeds, **rows.mean(), "coverage_half": half})
            console.print(str(lines[-1]), markup=False)
    return pd.DataFrame(lines)


def _one(seed: int, **how: Any) -> dict[str, float]:
    nothing = simulate(seed, memorized=0, **how)
    small = (nothing.p() <= 0.05)[nothing.scored]
    tenths = [small[rows].mean() for rows in np.array_split(np.argsort(nothing.noise[nothing.scored]), 10)]
    half = simulate(seed, **how)
    found = {"coverage": half.covered(), "share_coverage": _shares_within(half), "p_05": small.mean()}
    found |= {"p_05_quietest_tenth": tenths[0], "p_05_noisiest_tenth": tenths[-1]}
    for name, other in {"": {}, "_quiet_external": {"external_noise": 0.8}, "_few": {"memorized": 0.1}}.items():
        rate, power = simulate(seed, **how, **other).false_finds(LEVEL)
        found |= {f"false_at_q_10{name}": rate, f"found_at_q_10{name}": power}
    return found


def _shares_within(drawn: Simulated) -> float:
    """Return how many of the intervals of the share of pairs above a size hold the true one."""
    rows = np.flatnonzero(drawn.scored)
    table = share_above(drawn.clipmem[rows], Noise.of(drawn.errors, rows), SIZES, seed=0)
    true = (drawn.true[rows, None] >= SIZES).mean(axis=0)
    return float(((table["low"] <= true) & (true <= table["high"])).mean())


def of_audit(name: str) -> pd.DataFrame:
    """Return one row a number of members: what blocks of so many say, held against other blocks."""
    values, sides = _alignments(Audit(data_folder() / "audits" / name))
    lines = []
    for members in MEMBERS:
        repeats = members // len(sides.replicates[0])
        blocks = list(_blocks(values, sides, repeats)) if repeats else []
        twos = list(zip(blocks[::2], blocks[1::2], strict=False))
        if twos:
            read = {"audit": name, "scored_pairs": int((~sides.external).sum()), "members_read": len(values)}
            lines.append({**read, "members": members, **_against(twos, ~sides.external)})
            console.print(str(lines[-1]), markup=False)
    return pd.DataFrame(lines)


def _alignments(audit: Audit) -> tuple[np.ndarray, Sides]:
    """Return the alignments of finished members, as far as these are whole repeats, and who trains on what."""
    drawn, config = membership_of(audit.membership), audit.record.config
    names = list(itertools.takewhile(lambda name: (audit.member(name) / TEXT_EMBEDDINGS).is_file(), drawn.members))
    size = len(replicate_rows(drawn.members)[0])
    names = names[: len(names) // size * size]
    sides = Sides(Membership(drawn.group, tuple(names), drawn.trained[: len(names)]), config.protocol, config.seed)
    vectors = [read_embeddings(audit.member(name)) for name in names]
    return np.stack([pair_terms(image, text, sides.external)[ALIGNMENT] for image, text in vectors]), sides


def _blocks(values: np.ndarray, sides: Sides, repeats: int) -> Iterator[Block]:
    """Yield what each block of whole repeats says."""
    names = sides.membership.members
    for first in range(0, len(sides.replicates) - repeats + 1, repeats):
        rows = np.concatenate(sides.replicates[first : first + repeats])
        drawn = Membership(
            sides.membership.group, tuple(names[row] for row in rows.tolist()), sides.membership.trained[rows]
        )
        own = Sides(drawn, sides.protocol, sides.seed)
        alignments = list(values[rows])
        mean_in, mean_out = side_means(alignments, own.inside)
        errors = standard_errors(alignments, own)
        expected = shrunk_by_group(mean_in - mean_out, errors, drawn.group, seed=own.seed)
        welch = sum(_own_variance(values[rows], side) for side in (own.inside, ~own.inside))
        yield Block(mean_in - mean_out, errors, expected, np.asarray(welch))


def _own_variance(values: np.ndarray, side: np.ndarray) -> np.ndarray:
    count = side.sum(axis=0)
    mean = (values * side).sum(axis=0) / count
    return (side * (values - mean) ** 2).sum(axis=0) / (count - 1) / count


def _against(twos: Sequence[tuple[Block, Block]], scored: np.ndarray) -> dict[str, float]:
    """Compare blocks two by two."""
    covered, before, tops = [], [], []
    for one, other in twos:
        off = np.abs(one.clipmem - other.clipmem)[scored]
        covered.append((off <= 1.96 * np.hypot(one.errors.se, other.errors.se)[scored]).mean())
        before.append((off <= 1.96 * np.sqrt(one.welch + other.welch)[scored]).mean())
        tops += [_top(one, other, scored), _top(other, one, scored)]
    found = {"comparisons": len(twos), "coverage": np.mean(covered)}
    found |= {"coverage_lowest": np.min(covered), "coverage_highest": np.max(covered)}
    return found | {"coverage_of_own_members_alone": np.mean(before)} | pd.DataFrame(tops).mean().to_dict()


def _top(one: Block, other: Block, scored: np.ndarray) -> dict[str, float]:
    """Return the means of the pairs that are highest in one block: raw, shrunken, and in the other block."""
    rows = np.flatnonzero(scored)
    top = rows[np.argsort(-one.clipmem[rows])[:TOP]]
    again = rows[np.argsort(-one.shrunk[rows])[:TOP]]
    return {
        f"top_{TOP}": one.clipmem[top].mean(),
        f"top_{TOP}_shrunk": one.shrunk[top].mean(),
        f"top_{TOP}_other_members": other.clipmem[top].mean(),
        f"top_{TOP}_by_shrunk": one.shrunk[again].mean(),
        f"top_{TOP}_by_shrunk_other_members": other.clipmem[again].mean(),
    }


def main(asked: Coverage) -> int:
    """Measure, print and write the tables; return the exit code."""
    tables = {"simulated": simulated(asked.seeds)} if asked.seeds else {}
    if asked.audits:
        tables["audits"] = pd.concat([of_audit(name) for name in asked.audits], ignore_index=True)
    for name, table in tables.items():
        console.print(table.round(3).T.to_string())
        if asked.out:
            write(name, table, asked)
    return 0


def write(name: str, table: pd.DataFrame, asked: Coverage) -> None:
    """Write a table with the command, machine and seeds that made it."""
    made_on = settings.machine()
    lines = [
        f"# command: python -m tests.bench coverage {' '.join(asked.audits)} --seeds {asked.seeds}",
        f"# machine: {made_on['processor']}, {made_on['cores']} cores; {date.today().isoformat()}",
        SEEDS[name].format(asked.seeds - 1),
    ]
    path = Path(asked.out) / f"coverage-{name}.csv"
    path.write_text("\n".join(lines) + "\n" + table.round(4).to_csv(index=False), encoding="utf-8")


def command(arguments: Sequence[str]) -> int:
    """Run it from the command line."""
    asked = tyro.cli(
        Coverage, args=arguments, prog="python -m tests.bench coverage", config=(tyro.conf.FlagCreatePairsOff,)
    )
    try:
        return main(asked)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
