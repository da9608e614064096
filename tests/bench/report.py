"""What a part of the benchmark measured → a table on screen and a CSV file that the README can quote."""

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from rich.console import Console
from rich.table import Table

from clipmem_core.audits.settings import machine

RESULTS = Path(__file__).resolve().parents[2] / "data" / "results"
COLUMNS = ["command", "machine", "date", "measure", "value", "ratio", "target"]

console = Console(highlight=False)


class Skipped(Exception):
    """A part cannot be measured here; the message says why, and what to do."""


@dataclass(frozen=True)
class Measure:
    """One line: a value whose unit is in the measure's name, or a ratio beside its target."""

    measure: str
    value: float | None = None
    ratio: float | None = None
    target: str = ""


Measures = list[Measure]


def spread(name: str, ratios: Sequence[float], target: str) -> Measures:
    """Return the median of a ratio beside its target, and the smallest and largest where there are several."""
    lines = [Measure(name, ratio=statistics.median(ratios), target=target)]
    if len(ratios) > 1:
        lines += [Measure(f"{name}, {which.__name__} of {len(ratios)}", ratio=which(ratios)) for which in (min, max)]
    return lines


def show(parts: Mapping[str, Measures]) -> None:
    """Print the lines of some parts as one table."""
    table = Table(title="bench", title_justify="left")
    table.add_column("part")
    table.add_column("measure")
    for column in ("value", "ratio", "target"):
        table.add_column(column, justify="left" if column == "target" else "right")
    for part, measures in parts.items():
        for place, line in enumerate(measures):
            table.add_row("" if place else part, line.measure, _text(line.value), _text(line.ratio), line.target)
        table.add_section()
    console.print(table)


def save(part: str, measures: Measures, *, command: str) -> None:
    """Write the lines of a part to data/results/bench-<part>.csv."""
    made_on = machine()
    where = f"{made_on['processor']}, {made_on['cores']} cores"
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"bench-{part}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for line in measures:
            numbers = (_text(line.value), _text(line.ratio))
            writer.writerow([command, where, date.today().isoformat(), line.measure, *numbers, line.target])
    console.print(f"written to {path}", markup=False)


def _text(number: float | None) -> str:
    return "" if number is None else f"{number:.4g}" if abs(number) < 1000 else f"{number:.0f}"
