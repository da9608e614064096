"""What the constants of the search for displaced captions and of the estimate of wrong captions do:
each is halved and doubled, alone, on simulated sets.

    python -m tests.bench.constants [--out data/results/constants.csv]

Of `errors/runs.py`: how many planted runs are found, and how many runs are named in sets without
any. Of `errors/counts.py` and `errors/posterior.py`: in how many simulated reviews, those of
`tests.bench wrong`, the interval holds the number of wrong captions that remain, and its width.
Constants that only bound memory or time show no difference.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pandas as pd
import tyro
from rich.progress import track

from clipmem_core.errors import counts, posterior, runs
from tests.bench import save_table
from tests.bench.validity import KINDS, review_simulated
from tests.errors.test_runs import N, fits_of, planted

Measured = tuple[float, float]


@dataclass(frozen=True)
class Constants:
    """Halve and double each constant, and measure what changes."""

    sets: int = 5  # simulated, of each kind
    out: str = ""


def found_runs(sets: int) -> Measured:
    """Return the planted runs that are found with their kind, and the runs in sets without any."""
    found = named = 0
    for seed in range(sets):
        for noise in (0.7, 1.2):
            source, expected = planted()
            for run in runs.find_runs(fits_of(source, noise=noise, seed=seed)):
                first, last = expected.get(run.kind, (-N, -N))
                found += abs(run.rows[0] - first) <= 4 and abs(run.rows[-1] - last) <= 4
            swapped = np.random.default_rng(seed).choice(N, N // 3, replace=False)
            source = np.arange(N)
            source[swapped] = np.roll(swapped, 1)
            named += len(runs.find_runs(fits_of(source, noise=noise, seed=seed)))
    return found, named


def interval_holds(sets: int) -> Measured:
    """Return how many intervals hold what remains, and their mean width."""
    ends = [
        review_simulated(1_000, kind, share, reviewed, seed)[:3]
        for kind in KINDS
        for share in (0.01, 0.05, 0.2)
        for reviewed in (0, 100)
        for seed in range(sets)
    ]
    left, low, high = np.array(ends).T
    return float(((low <= left) & (left <= high)).sum()), float((high - low).mean())


PARTS: list[tuple[ModuleType, Callable[[int], Measured]]] = [
    (runs, found_runs),
    (counts, interval_holds),
    (posterior, interval_holds),
]


def measure(sets: int) -> pd.DataFrame:
    """Return a row a constant: both measures with it as it is, halved and doubled."""
    rows = []
    for module, part in PARTS:
        usual = part(sets)
        constants = {
            name: value
            for name, value in vars(module).items()
            if name.isupper() and isinstance(value, (int, float, np.ndarray))
        }
        for name, value in track(constants.items(), module.__name__):
            changed = []
            for factor in (0.5, 2):
                scaled = value * factor
                setattr(module, name, int(scaled) if isinstance(value, int) else scaled)
                try:
                    changed += part(sets)
                except (ValueError, IndexError, ZeroDivisionError):  # no number can be this large
                    changed += [np.nan, np.nan]
            setattr(module, name, value)
            shown = value if np.isscalar(value) else "grid"
            rows.append((module.__name__.rpartition(".")[2], name, shown, *usual, *changed))
    kinds = ["found_or_held", "named_or_width"]
    columns = [f"{kind}{end}" for end in ("", "_halved", "_doubled") for kind in kinds]
    return pd.DataFrame(rows, columns=["module", "constant", "value", *columns])


if __name__ == "__main__":
    asked = tyro.cli(Constants, prog="python -m tests.bench.constants")
    save_table(measure(asked.sets), asked.out, f"seeds 0 to {asked.sets - 1}")
    sys.exit(0)
