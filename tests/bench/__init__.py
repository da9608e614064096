"""What the benchmarks share: a measurement, the table of them, and a temporary folder in the data
folder."""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pandas as pd
from rich.console import Console

from clipmem_core.audit.console import make_table
from clipmem_core.audit.settings import machine
from clipmem_core.config import data_folder
from clipmem_core.lab.results import write_csv

ROOT = Path(__file__).resolve().parents[2]
HEAD = """# Speed

Each part is one run, made by the command below the table. `value` is ours; `floor` is the least
that the work can take, in the same unit and run; `ratio` is the alternative's value over ours:
above 1, ours is faster. Core ms are milliseconds of one processor core.
"""
COLUMNS = ["what", "unit", "value", "floor", "alternative", "alternative_value", "ratio", "target"]
NUMBERS = ["value", "floor", "alternative_value", "ratio"]

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
    columns = ["part", *COLUMNS]
    rows = [
        dict(zip(columns, [part, *line.cells], strict=True))
        for part, measures in parts.items()
        for line in measures
    ]
    console.print(make_table("bench", rows, columns, right=NUMBERS))


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
