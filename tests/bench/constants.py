"""What the constants of the search for displaced captions and of the estimate of wrong captions do:
each is halved and doubled, alone, on simulated sets.

    python -m tests.bench.constants [--out data/results/constants.csv]

Of `errors/runs.py`: how many planted runs are found, and how many runs are named in sets without
any. Of `errors/counts.py` and `errors/posterior.py`: in how many simulated reviews, those of
`tests.bench wrong`, the interval holds the number of wrong captions that remain, and its width.
Constants that only bound memory or time show no difference.
"""

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pandas as pd
import tyro
from rich.progress import track

from clipmem_core.errors import counts, posterior, runs
from clipmem_core.utils.embeddings import unit
from tests.bench import save_table
from tests.bench.validity import KINDS, review_simulated

Measured = tuple[float, float]
PAIRS = 800
LENGTHS = (12, 25, 60)  # of the planted runs
LOOKS = ((0.7, 0.0), (1.1, 0.0), (0.5, 0.5))  # noise of a member, and how similar pictures are


@dataclass(frozen=True)
class Constants:
    """Halve and double each constant, and measure what changes."""

    sets: int = 5  # simulated, of each kind
    out: str = ""


def simulated(source: np.ndarray, noise: float, similar: float, seed: int) -> runs.Fits:
    """Return the fits of pairs whose captions are those of `source`, by four members that trained
    on half of the pairs each. `similar`: share of its look that a picture has in common with the
    nineteen beside it."""
    n = len(source)
    rng = np.random.default_rng(seed)
    scenes = np.repeat(rng.normal(size=(n // 20, 24)), 20, axis=0)
    meaning = (1 - similar) * rng.normal(size=(n, 24)) + similar * scenes
    trained = rng.random((4, n)) < 0.5
    drawn = np.stack([meaning, meaning[source]])[:, None] + noise * rng.normal(size=(2, 4, n, 24))
    image, text = drawn.astype(np.float32)
    text[trained] = image[trained]
    return runs.Fits(list(map(unit, image)), list(map(unit, text)), trained, seed=0)


def found_runs(sets: int) -> Measured:
    """Return the planted runs that are found with their kind and ends, and the runs in sets without
    any."""
    found = named = 0
    for seed, length, (noise, similar) in itertools.product(range(sets), LENGTHS, LOOKS):
        source = np.arange(PAIRS)
        rows = np.arange(length)
        source[101 + rows] = 100 + rows
        source[250 + rows], source[600 + rows] = 600 + rows, 250 + rows
        source[400 + rows] = 400 + rows[::-1]
        starts = {runs.SHIFT: 101, runs.EXCHANGE: 250, runs.REVERSAL: 400}
        for run in runs.find_runs(simulated(source, noise, similar, seed), []):
            found += abs(run.rows[0] - starts.get(run.kind, -PAIRS)) <= 4
        swapped = np.random.default_rng(seed).choice(PAIRS, PAIRS // 3, replace=False)
        source = np.arange(PAIRS)
        source[swapped] = np.roll(swapped, 1)
        named += len(runs.find_runs(simulated(source, noise, similar, seed), []))
    return found, named


def interval_holds(sets: int) -> Measured:
    """Return how many intervals hold what remains, and their mean width."""
    ends = [
        review_simulated(1_000, kind, share, reviewed, seed)[:3]
        for kind in KINDS
        for share in (0.01, 0.05, 0.2)
        for reviewed in (20, 100)
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
