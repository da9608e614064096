"""What the benchmarks share: a measurement, the table of them, and a temporary folder in the data
folder."""

import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pandas as pd
from rich.console import Console

from clipmem_core.auditing.folder.settings import machine
from clipmem_core.config import data_folder
from clipmem_core.lab.experiment import write_csv

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "data" / "results" / "bench.csv"
NUMBERS = ["value", "floor", "alternative", "alternative_value", "ratio"]

console = Console(highlight=False)


class Skipped(Exception):
    """A part cannot be measured on this machine; the message says why, and what to do."""


@dataclass(frozen=True)
class Measure:
    """One line of the table.

    `floor` is the least that the work can take, in the same unit and run. `ratio` is the
    alternative's value over ours: above 1, ours is faster.
    """

    what: str
    value: float
    unit: str
    floor: float = math.nan
    alternative: str = ""
    alternative_value: float = math.nan
    target: str = ""


Measures = list[Measure]


def made_on() -> str:
    """Return the machine in words."""
    facts = machine()
    return f"{facts['processor']}, {facts['cores']} cores"


def save(part: str, measures: Measures, command: str = "") -> None:
    """Print what a part measured and, if there is a command, put it into data/results/bench.csv in
    place of the part's lines there."""
    table = pd.DataFrame(map(vars, measures)).assign(part=part)
    table["ratio"] = table["alternative_value"] / table["value"]
    table = table[["part", "what", "unit", *NUMBERS, "target"]]
    console.print(table.round(3).to_string(index=False, na_rep=""), markup=False, soft_wrap=True)
    if command:
        new = table.assign(command=command, machine=made_on(), date=date.today().isoformat())
        old = pd.read_csv(TABLE)
        table = pd.concat([old[old["part"] != part], new], ignore_index=True)
        table.to_csv(TABLE, index=False, float_format="%.6g")
        console.print(f"written to {TABLE}", markup=False)


def save_table(table: pd.DataFrame, path: str, *notes: str) -> None:
    """Print a table and, if there is a path, write it below comment lines that say what made it."""
    console.print(table.round(3).to_string(index=False), markup=False, soft_wrap=True)
    if path:
        arguments = " ".join(Path(word).name for word in sys.argv[1:])
        module = f"tests.bench.{Path(sys.argv[0]).stem}".removesuffix(".__main__")
        head = [
            f"command: python -m {module} {arguments}",
            f"machine: {made_on()}; {date.today().isoformat()}",
            *notes,
        ]
        write_csv(Path(path), head, table)


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield an empty folder in the data folder, which is deleted at the end."""
    data_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=data_folder().resolve()) as folder:
        yield Path(folder)
