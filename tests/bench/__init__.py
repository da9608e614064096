"""What the benchmarks share: a measurement, the table of them, and a temporary folder in the data
folder."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from clipmem_core.audit.settings import machine
from clipmem_core.config import data_folder

ROOT = Path(__file__).resolve().parents[2]
HEAD = """# Speed

Each part is one run, made by the command below the table. `value` is ours; `floor` is the least
that the work can take, in the same unit and run; `ratio` is the alternative's value over ours:
above 1, ours is faster. Core ms are milliseconds of one processor core.
"""
COLUMNS = ["what", "unit", "value", "floor", "alternative", "alternative_value", "ratio", "target"]

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
    floor: float | None = None
    alternative: str = ""
    alternative_value: float | None = None
    target: str = ""

    @property
    def cells(self) -> list[str]:
        ratio = None if self.alternative_value is None else self.alternative_value / self.value
        numbers = [
            _text(number) for number in (self.value, self.floor, self.alternative_value, ratio)
        ]
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
    """Replace a part's lines in data/results/bench.csv, and write all of it as a page, bench.md."""
    path = ROOT / "data" / "results" / "bench.csv"
    new = pd.DataFrame([line.cells for line in measures], columns=COLUMNS)
    new.insert(0, "part", part)
    new = new.assign(command=command, machine=made_on(), date=date.today().isoformat())
    old = pd.read_csv(path, dtype=str, keep_default_na=False) if path.is_file() else new[:0]
    table = pd.concat([old[old["part"] != part], new], ignore_index=True)
    table.to_csv(path, index=False, lineterminator="\n")
    lines = [HEAD, f"| {' | '.join(COLUMNS)} |".replace("_", " "), "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in table[COLUMNS].to_numpy()]
    made = table[["command", "machine", "date"]].drop_duplicates().to_numpy()
    lines += ["", *(f"- `{command}`: {machine}, {day}" for command, machine, day in made)]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    console.print(f"written to {path}", markup=False)


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield an empty folder in the data folder, which is deleted at the end."""
    data_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=data_folder().resolve()) as folder:
        yield Path(folder)
