"""Measures how fast the program is, each part once, and prints its table.

    python -m tests.bench [towers] [heads] [training] [audit] [browse] [lab] [--quick]
    python -m tests.bench wrong coverage             how many captions are wrong
    python -m tests.bench coverage AUDIT…            standard errors
    python -m tests.bench.large FOLDER               audits of up to ten million pairs

Each part replaces its lines in data/results/bench.csv; `--quick` tries the code on small sizes and
writes nothing. Run it on a machine that does nothing else.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import tyro

from tests.bench import Measures, Skipped, console, large, pages, save, training, validity

PARTS: dict[str, Callable[[bool], Measures]] = {
    "towers": large.measure_towers,
    "heads": training.measure_heads,
    "training": training.measure,
    "audit": large.measure_audit,
    "browse": pages.measure_browse,
    "lab": pages.measure_lab,
}


@dataclass(frozen=True)
class Bench:
    """Measure how fast the program is."""

    parts: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PART")] = tuple(
        PARTS
    )
    quick: bool = False  # small sizes: try the code, write no results


def main(bench: Bench) -> int:
    """Run the parts; return the exit code."""
    if unknown := set(bench.parts) - set(PARTS):
        print(
            f"error: part {min(unknown)!r} is unknown: choose of {', '.join(PARTS)}",
            file=sys.stderr,
        )
        return 2
    for part in bench.parts:
        try:
            measured = PARTS[part](bench.quick)
        except Skipped as reason:
            console.print(f"{part} is skipped: {reason}", markup=False)
            continue
        save(part, measured, "" if bench.quick else f"python -m tests.bench {part}")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] in (["wrong"], ["coverage"]):
        sys.exit(validity.command(sys.argv[1:]))
    sys.exit(
        main(tyro.cli(Bench, prog="python -m tests.bench", config=(tyro.conf.FlagCreatePairsOff,)))
    )
