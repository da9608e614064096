"""What the benchmarks share: a measurement, the table of them, and a temporary folder in the data folder."""

import csv
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from rich.console import Console
from rich.table import Table

from clipmem_core.audit.settings import machine
from clipmem_core.config import data_folder

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ["what", "unit", "value", "floor", "alternative", "alternative_value", "ratio", "target"]

console = Console(highlight=False)


class Skipped(Exception):
    """A part cannot be measured on this machine; the message says why, and what to do."""


@dataclass(frozen=True)
class Measure:
    """One line of the table.

    `floor` is the least that the work can take, in the same unit and run. `ratio` is the alternative's value over
    ours: above 1, ours is faster.
    """

    what: str
    value: float
    unit: str
    floor: float | None = None
    alternative: str = ""
    alternative_value: float | None = None
    target: str = ""

    @property
    def cells(self) -> list[str]:
        ratio = None if self.alternative_value is None else self.alternative_value / self.value
        numbers = [_text(number) for number in (self.value, self.floor, self.alternative_value, ratio)]
        return [self.what, self.unit, *numbers[:2], self.alternative, *numbers[2:], self.target]


Measures = list[Measure]


def _text(number: float | None) -> str:
    return "" if number is None else f"{number:.4g}" if abs(number) < 1000 else f"{number:.0f}"


def show(parts: Mapping[str, Measures]) -> None:
    """Print the measurements of some parts as one table."""
    table = Table(title="bench", title_justify="left")
    for column in ("part", *COLUMNS):
        numeric = column in ("value", "floor", "alternative_value", "ratio")
        table.add_column(column.replace("_", " "), justify="right" if numeric else "left")
    for part, measures in parts.items():
        for place, line in enumerate(measures):
            table.add_row("" if place else part, *line.cells)
        table.add_section()
    console.print(table)


def made_on() -> str:
    """Return the machine in words."""
    facts = machine()
    return f"{facts['processor']}, {facts['cores']} cores"


def save(part: str, measures: Measures, *, command: str) -> None:
    """Write the measurements of a part to data/results/bench-<part>.csv."""
    path = ROOT / "data" / "results" / f"bench-{part}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["command", "machine", "date", *COLUMNS])
        writer.writerows([command, made_on(), date.today().isoformat(), *line.cells] for line in measures)
    console.print(f"written to {path}", markup=False)


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield an empty folder in the data folder, which is deleted at the end."""
    data_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=data_folder().resolve()) as folder:
        yield Path(folder)
