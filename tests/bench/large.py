"""Audits of very many made features, with what a person does with the result: exports, and pages of Browse.

    python -m tests.bench.large FOLDER [--pairs N …] [--epochs E] [--dim D]

Works in FOLDER, where features and audits stay: 10,000,000 pairs × 512 numbers take 50 GB there. Where memory holds
fewer features than there are, seconds are those of the disk; features of fewer numbers tell what the code takes.
Each part is a command of its own; own memory is that of all its processes without files that are mapped. An audit that
was stopped goes on, but its seconds are then those of the rest alone.
"""

import math
from pathlib import Path
from typing import Annotated

import tyro

from clipmem_core.audits.store import Audit
from tests.bench.browse import turn
from tests.bench.given_features import FLAGS, WIDTH, run_command
from tests.bench.report import Measure, Measures, console, save, show
from tests.made_features import make_features

CHANGES = ("open", "page", "order", "decision", "table")  # those that find pairs in any audit
WANTED = {"audit": "under 6000"}


def measure(folder: Path, *, pairs: int, epochs: int, dim: int) -> tuple[Measures, float]:
    """Audit so many pairs; return what was measured, and the seconds of the audit."""
    made = folder / f"features-{pairs}-{dim}"
    if not (made / "done").is_file():
        console.print(f"making {pairs:,} features")
        make_features(made, pairs=pairs, dim=dim)
        (made / "done").touch()
    data, audit = folder / f"data-{pairs}-{dim}", ["audit", str(made / "pairs.parquet"), "--name", "large", *FLAGS]
    parts = {"audit": [*audit, "--epochs", str(epochs)]}
    for kind, ending in (("csv", "csv"), ("datacomp", "npy")):
        parts[kind] = ["export", "large", "--format", kind, "--out", str(data / f"{kind}.{ending}"), "--overwrite"]
    lines: Measures = []
    spent: dict[str, float] = {}
    for part, words in parts.items():
        spent[part], processor, peak = run_command(words, data)
        console.print(f"{pairs:,} pairs, {part}: {spent[part]:.0f} s, {peak / 1e6:.0f} MB")
        lines += [
            Measure(f"{pairs:,} pairs, {part} (s)", spent[part]),
            Measure(f"{pairs:,} pairs, {part}, processors (s)", processor),
            Measure(f"{pairs:,} pairs, {part}, own memory (MB)", peak / 1e6, target=WANTED.get(part, "")),
        ]
    own = Audit(data / "audits" / "large").verdict["seconds"]
    lines += [Measure(f"{pairs:,} pairs, {part} (s)", own[part]) for part in ("prepare", "members", "scoring")]
    return lines, spent["audit"]


def browse(data: Path, pairs: int) -> Measures:
    """Turn pages of Browse, change by change; the first of each change is not counted."""
    found = turn(data, "browse", "2", *CHANGES)
    memory = found.pop("memory_mb")
    slowest = max((max(times), kind) for kind, times in found.items() if kind != "plain")
    return [
        Measure(f"{pairs:,} pairs, slowest change of Browse ({slowest[1]}) (ms)", slowest[0]),
        Measure(f"{pairs:,} pairs, memory of Browse (MB)", memory),
    ]


def main(
    folder: Annotated[Path, tyro.conf.Positional],
    pairs: tuple[int, ...] = (1_000_000, 10_000_000),
    epochs: int = 1,
    dim: int = WIDTH,
) -> None:
    """Measure each size, print a table, and leave it in data/results."""
    lines: Measures = []
    spent: dict[int, float] = {}
    for count in pairs:
        measured, spent[count] = measure(folder, pairs=count, epochs=epochs, dim=dim)
        lines += [*measured, *browse(folder / f"data-{count}-{dim}", count)]
        show({"large": lines})
    for few, many in zip(pairs, pairs[1:], strict=False):
        exponent = math.log(spent[many] / spent[few]) / math.log(many / few)
        lines.append(Measure(f"growth exponent, {few:,} to {many:,} pairs", exponent, target="at most 1.05"))
    show({"large": lines})
    listed = " ".join(map(str, pairs))
    command = f"python -m tests.bench.large FOLDER --pairs {listed} --epochs {epochs} --dim {dim}"
    save(f"large-{dim}", lines, command=command)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m tests.bench.large")
