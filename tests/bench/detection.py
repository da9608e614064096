"""Which formula of misfit finds planted mistakes best: from what the members of finished benchmarks left.

    python -m tests.bench detection NAME… [--out FILE.csv]

NAME is a benchmark (`python -m clipmem_core benchmark`), whose plantings keep what each detector says of each pair, so
that a formula of them needs no training. Formulas are held against the misfit of the plantings, which is of the formula
that benchmark.json names; intervals are 95 %, Student's t over plantings.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import tyro
from scipy.stats import zscore

from clipmem_core import columns as c
from clipmem_core.audits.console import write_csv
from clipmem_core.config import InputError
from clipmem_core.scores.detection import CONFIDENT_LEARNING, LEMON_OUT, RANDOM, detection_table
from clipmem_core.studies.benchmark.planting import ROW, K
from clipmem_core.studies.benchmark.results import (
    DETECTOR,
    KIND,
    MEASURE,
    METRICS,
    OVER,
    SEED,
    SHARE,
    Benchmark,
    Piece,
    benchmark_table,
    open_benchmark,
)
from tests.bench.report import console

SET = "set"


def weighted(**weights: float) -> Callable[[pd.DataFrame], np.ndarray]:
    """Return a formula: the sum of z-scores over the judged pairs, each larger where more suspicious."""
    return lambda scores: sum(weight * zscore(scores[name].to_numpy(float)) for name, weight in weights.items())


def shrunken(scores: pd.DataFrame) -> np.ndarray:
    """Sum the normal scores of the ranks: no pair's part outweighs all others by being far out."""
    ranks = [scores[name].rank().to_numpy() / (len(scores) + 1) for name in (c.LEARNED, c.CSLS_OUT)]
    return -np.log1p(-ranks[0]) - 2 * np.log1p(-ranks[1])


FORMULAS: dict[str, Callable[[pd.DataFrame], np.ndarray]] = {
    "learned + similarity_out": weighted(learned=1, similarity_out=1),
    "learned + csls_out": weighted(learned=1, csls_out=1),
    "learned + 2 csls_out": weighted(learned=1, csls_out=2),
    "learned + 3 csls_out": weighted(learned=1, csls_out=3),
    "learned + 2 similarity_out": weighted(learned=1, similarity_out=2),
    "learned + 2 log_probability_out": weighted(learned=1, log_probability_out=2),
    "margin + 2 csls_out": weighted(area_under_margin=1, csls_out=2),
    "csls_out + similarity_out": weighted(csls_out=1, similarity_out=1),
    "csls_out + lemon_out": weighted(csls_out=1, lemon_out=1),
    "learned + csls_out + lemon_out": weighted(learned=1, csls_out=1, lemon_out=1),
    "learned + 2 csls_out + 2 lemon_out": weighted(learned=1, csls_out=2, lemon_out=2),
    "learned + 2 csls_out by ranks": shrunken,
}
# Where there was a second round of training.
OF_TWO_ROUNDS: dict[str, Callable[[pd.DataFrame], np.ndarray]] = {
    f"learned + {weight} log_probability_second": weighted(learned=1, log_probability_second=weight)
    for weight in (1, 2, 3, 4, 6)
} | {
    "learned + log_probability_out + 2 log_probability_second": weighted(
        learned=1, log_probability_out=1, log_probability_second=2
    ),
    "learned + log_probability_out + 4 log_probability_second": weighted(
        learned=1, log_probability_out=1, log_probability_second=4
    ),
}
SINGLE = (c.SIMILARITY_OUT, c.CSLS_OUT, c.LOG_PROBABILITY_OUT, LEMON_OUT, c.LEARNED)


@dataclass(frozen=True)
class Detection:
    """Compare formulas of misfit on the plantings of benchmarks."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    out: str = ""  # a CSV file for the table


def measured(benchmark: Benchmark, piece: Piece) -> pd.DataFrame:
    """Return a row a formula and detector: how well it finds what one planting planted."""
    scores = pd.read_parquet(benchmark.scores(piece))
    truth = scores[c.PLANTED].to_numpy(bool)
    kept = [name for name in scores if name not in (ROW, c.PLANTED, RANDOM, CONFIDENT_LEARNING)]
    values = {name: scores[name].to_numpy(float) for name in kept}
    formulas = FORMULAS | (OF_TWO_ROUNDS if c.LOG_PROBABILITY_SECOND in scores else {})
    values |= {name: formula(scores) for name, formula in formulas.items()}
    table = detection_table(values, truth, k=K, n_boot=1).rename(columns={"score": DETECTOR})
    return table[[DETECTOR, *METRICS]].assign(**{KIND: piece.kind, SHARE: piece.share, SEED: piece.seed})


def compared(benchmark: Benchmark) -> pd.DataFrame:
    """Return the table of one benchmark: its name, and what `benchmark_table` says of each formula."""
    pieces = [piece for piece in benchmark.done if benchmark.scores(piece).is_file()]
    if not pieces:
        raise InputError(f"benchmark {benchmark.name!r} has no planting yet: run it")
    table = benchmark_table(pd.concat([measured(benchmark, piece) for piece in pieces], ignore_index=True))
    return table.assign(**{SET: benchmark.name})


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Count for each formula where it is above misfit, inside the noise and below, and by how much on average.

    `behind` counts the cells in which some single detector is above the formula by their means.
    """
    rows = []
    cells = table.set_index([SET, KIND, SHARE, MEASURE])
    best = cells[cells[DETECTOR].isin(SINGLE)]["mean"].groupby(level=[0, 1, 2, 3]).max()
    for (name, measure), own in table[table[MEASURE].isin(METRICS[:2])].groupby([DETECTOR, MEASURE], sort=False):
        above, below = own[f"{OVER}_low"] > 0, own[f"{OVER}_high"] < 0
        means = own.set_index([SET, KIND, SHARE, MEASURE])["mean"]
        rows.append(
            {DETECTOR: name, MEASURE: measure, "cells": len(own), "above": int(above.sum()), "below": int(below.sum())}
            | {"over misfit": own[OVER].mean(), "worst": own[OVER].min(), "mean": own["mean"].mean()}
            | {"behind": int((best.loc[means.index] > means + 1e-9).sum())}
        )
    return pd.DataFrame(rows).sort_values([MEASURE, "mean"], ascending=[True, False])


def main(asked: Detection) -> int:
    """Compare, print and write; return the exit code."""
    table = pd.concat([compared(open_benchmark(name)) for name in asked.names], ignore_index=True)
    with pd.option_context("display.width", 200, "display.float_format", "{:.4f}".format):
        console.print(verdicts(table).to_string(index=False), markup=False, soft_wrap=True)
    if asked.out:
        head = [f"command: python -m tests.bench detection {' '.join(asked.names)}", f"means and intervals: {__doc__}"]
        head += [f"misfit of {name}: {open_benchmark(name).misfit}" for name in asked.names]
        write_csv(Path(asked.out), [" ".join(line.split()) for line in head], table)
    return 0


def command(arguments: Sequence[str]) -> int:
    """Run it from the command line."""
    asked = tyro.cli(
        Detection, args=arguments, prog="python -m tests.bench detection", config=(tyro.conf.FlagCreatePairsOff,)
    )
    try:
        return main(asked)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
