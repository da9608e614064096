"""Measures how fast the program is: ratios of things timed side by side in one run.

    python -m tests.bench [training] [pass] [products] [browse] [towers] [features] [review] [engines] [million]
        [--quick] [--repeats N]
    python -m tests.bench detection NAME…: no speed, but which formula of misfit finds most in finished benchmarks
    python -m tests.bench wrong coverage|count|captions: how many captions are wrong, and which of several
    python -m tests.bench coverage [AUDIT…] [--seeds 20]: nor here, but whether errors, p and q hold what they say
    python -m tests.bench.large FOLDER [--pairs N …] [--epochs E] [--dim D]: up to ten million pairs, exports, Browse

`training` is held against open_clip's own trainer, `pass` (scoring) against reading the files, `towers` against the
towers alone and clip-retrieval's loop, `engines` is Ray against local, `features` and `million` are audits of made
features from 1,000 pairs to a million: that takes half an hour and 10 GB of disk, and runs only when named. Each part
leaves data/results/bench-<part>.csv, and all that ran are one table at the end; `--quick` tries the code on small sizes
and leaves nothing. Run it on a machine that does nothing else.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import tyro

from tests.bench import (
    browse,
    coverage,
    detection,
    engines,
    given_features,
    products,
    review,
    scoring_pass,
    towers,
    training,
    wrong,
)
from tests.bench.report import Measures, Skipped, console, save, show

PARTS: dict[str, Callable[[bool, int], Measures]] = {
    "training": training.measure,
    "pass": scoring_pass.measure,
    "products": products.measure,
    "browse": browse.measure,
    "towers": towers.measure,
    "features": given_features.measure,
    "million": given_features.measure_million,
    "review": review.measure,
    "engines": engines.measure,
}
NAMED = ("million",)  # only when they are asked for


@dataclass(frozen=True)
class Bench:
    """Measure how fast the program is."""

    parts: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PART")] = tuple(
        part for part in PARTS if part not in NAMED
    )
    quick: bool = False  # small sizes: try the code, leave no results
    repeats: int = 1  # of `training`: each repeat runs both sides, in the other order


def main(bench: Bench) -> int:
    """Run the parts that were asked for; return the exit code."""
    unknown = [part for part in bench.parts if part not in PARTS]
    if unknown or bench.repeats < 1:
        wrong = (
            f"part {unknown[0]!r} is unknown: choose of {', '.join(PARTS)}" if unknown else "--repeats is at least 1"
        )
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    measured: dict[str, Measures] = {}
    for part in bench.parts:
        try:
            measured[part] = PARTS[part](bench.quick, bench.repeats)
        except Skipped as reason:
            console.print(f"{part} is left out: {reason}", markup=False)
            continue
        if not bench.quick:
            save(part, measured[part], command=f"python -m tests.bench {part} --repeats {bench.repeats}")
    show(measured)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["detection"]:
        sys.exit(detection.command(sys.argv[2:]))
    if sys.argv[1:2] == ["wrong"]:
        sys.exit(wrong.command(sys.argv[2:]))
    if sys.argv[1:2] == ["coverage"]:
        sys.exit(coverage.command(sys.argv[2:]))
    sys.exit(main(tyro.cli(Bench, prog="python -m tests.bench", config=(tyro.conf.FlagCreatePairsOff,))))
