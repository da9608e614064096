"""Features from towers, and audits of synthetic features: seconds, memory, how both grow; exports
and Browse.

    python -m tests.bench.large FOLDER [--pairs N …] [--epochs E] [--dim D]

Works in FOLDER and leaves features and audits there: 10,000,000 pairs × 512 numbers take 70 GB. An
interrupted audit resumes, but its seconds are then those of the rest alone. Each measurement is a
command of its own; memory is the anonymous memory (RssAnon) of all its processes: mapped files do
not count.

`towers` compares features of synthetic pictures and captions, from files to the cache, with the
towers alone on decoded pictures and captions (the floor).
"""

import dataclasses
import functools
import hashlib
import itertools
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import numpy as np
import psutil
import torch
import tyro

from clipmem_core import columns as c
from clipmem_core.audit.settings import resolve, towers_of
from clipmem_core.audit.store import Audit
from clipmem_core.config import DATA_VARIABLE, SourceOptions, preset_config
from clipmem_core.dataset.readers.containers import read_bytes
from clipmem_core.dataset.source import read_source
from clipmem_core.dataset.workers import cores
from clipmem_core.features import embed
from clipmem_core.features.embed import FeatureExtractor, batch_size
from clipmem_core.features.towers import Tower
from clipmem_core.io import keep_memory
from tests.bench import Measure, Measures, console, save, scratch, show
from tests.bench.pages import turn
from tests.large_fixtures import make_features

WIDTH = 512
FLAGS = ("--preset", "locked", "--folds", "4", "--members", "4")
SIZES = (1_000, 10_000, 100_000)
QUICK = (500, 1_000)
CHANGES = ("open", "page", "order", "decision", "table")  # of Browse; these find pairs in any audit


def measure_features(quick: bool) -> Measures:
    """Audit features of 1,000 to 100,000 pairs."""
    flags = ["--epochs", "3"] if quick else []
    lines: Measures = []
    processor: dict[int, float] = {}
    for pairs in QUICK if quick else SIZES:
        with scratch() as folder:
            table = make_features(folder / "features", pairs=pairs, dim=WIDTH)
            measured, _, processor[pairs] = audit(table, folder / "data", pairs, flags)
        lines += measured
    return lines + growth(processor)


def growth(spent: dict[int, float]) -> Measures:
    """Return the exponent e of seconds ~ pairs^e between sizes."""
    lines = []
    for few, many in itertools.pairwise(spent):
        exponent = math.log(spent[many] / spent[few]) / math.log(many / few)
        lines.append(
            Measure(f"growth from {few:,} to {many:,} pairs", exponent, "exponent", target="≤ 1.05")
        )
    return lines


def audit(table: Path, data: Path, pairs: int, flags: list[str]) -> tuple[Measures, float, float]:
    """Audit a table of features; return what was measured, the seconds and the processor
    seconds."""
    seconds, processor, peak, stages = run_audit(
        ["audit", str(table), "--name", "large", *FLAGS, *flags], data
    )
    console.print(f"{pairs:,} pairs: {seconds:.0f} s, {peak / 1e6:.0f} MB")
    name = f"audit of {pairs:,} pairs of features × {WIDTH}, 4 members"
    parts = ", ".join(
        f"{part} {stages[part]:.0f}" for part in ("prepare", "words", "members", "scoring")
    )
    lines = [
        Measure(f"{name} ({parts} s)", seconds, "s"),
        Measure(f"{name}, each pair", 1e6 * seconds / pairs, "µs"),
        Measure(f"{name}: own memory", peak / 1e6, "MB", target="< 3000"),
    ]
    return lines, seconds, processor


def measure_audit(quick: bool) -> Measures:
    """Audit drawn pictures with five captions each, from files to scores, with words; then once
    more."""
    pairs, members = (300, 8) if quick else (8_000, 16)
    lines: Measures = []
    with scratch() as data:
        read_source("scenes", SourceOptions(scenes_pairs=pairs), data=data)
        for name, target in (("first", "≤ 150"), ("second", "≤ 60")):
            words = [
                "audit",
                "scenes",
                "--scenes-pairs",
                str(pairs),
                "--name",
                name,
                "--members",
                str(members),
            ]
            seconds, _, _, stages = run_audit([*words, "--seed", str(len(lines))], data)
            parts = ", ".join(
                f"{part} {stages[part]:.0f}" for part in ("prepare", "words", "members", "scoring")
            )
            what = (
                f"{name} audit of {pairs:,} drawn pictures × 5 captions, {members} members "
                f"({parts} s)"
            )
            lines.append(Measure(what, seconds, "s", target=target))
    return lines


def run_audit(words: list[str], data: Path) -> tuple[float, float, int, dict[str, float]]:
    """Run an audit; return what `run_command` does, and the seconds of its stages."""
    return *run_command(words, data), Audit(
        data / "audits" / words[words.index("--name") + 1]
    ).seconds


def run_command(
    words: list[str], data: Path, *, module: str = "clipmem_core"
) -> tuple[float, float, int]:
    """Run a command of the package; return its seconds, processor seconds and peak of anonymous
    bytes."""
    command = [sys.executable, "-m", module, *words]
    before = os.times()
    began = time.perf_counter()
    peak = 0
    with subprocess.Popen(
        command, env={**os.environ, DATA_VARIABLE: str(data)}, stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            peak = max(peak, _anonymous(process.pid))
            time.sleep(0.2)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode}")
    after = os.times()
    return time.perf_counter() - began, sum(after[2:4]) - sum(before[2:4]), peak


def _anonymous(pid: int) -> int:
    """Return the anonymous bytes of a process and its descendants."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            total += next(
                (int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0
            )
    except (psutil.NoSuchProcess, OSError):  # it has just ended
        pass
    return total


def measure_towers(quick: bool) -> Measures:
    """Compute the features of each side once in each precision."""
    keep_memory()
    found = resolve(preset_config("locked")).precision
    return [
        line for precision in dict.fromkeys(("fp32", found)) for line in _towers(quick, precision)
    ]


def _towers(quick: bool, precision: str) -> Measures:
    config = dataclasses.replace(resolve(preset_config("locked")), precision=precision)
    with scratch() as temporary, mock.patch.dict(os.environ, {DATA_VARIABLE: str(temporary)}):
        count = 200 if quick else 1_100
        raw = read_source("scenes", SourceOptions(scenes_pairs=count), data=temporary)
        pairs = raw.pairs.assign(
            **{
                c.SHA256: [
                    hashlib.sha256(read_bytes(raw.root, image)).hexdigest()
                    for image in raw.pairs[c.IMAGE]
                ]
            }
        )
        captions = [text for texts in pairs[c.CAPTIONS] for text in texts]
        texts = list(dict.fromkeys(captions))  # equal ones are computed once
        towers = towers_of(config)
        assert towers.image
        assert towers.text
        images = towers.image
        square = np.random.default_rng(0).integers(
            0, 256, (images.size, images.size, 3), dtype=np.uint8
        )
        squares = [
            np.stack([square] * len(part)) for part in _parts(pairs.index, batch_size(images))
        ]
        by_length = _parts(sorted(texts, key=len), batch_size(towers.text))  # as they are embedded
        with mock.patch.object(embed, "COMPILED_FROM", 1):
            return [
                _compare(
                    "picture",
                    len(pairs),
                    images,
                    squares,
                    lambda: FeatureExtractor(images, raw.root).images(pairs),
                ),
                _compare(
                    "caption",
                    len(texts),
                    towers.text,
                    by_length,
                    lambda: FeatureExtractor(towers.text).captions(captions),
                ),
            ]


def _parts(values: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [values[at : at + size] for at in range(0, len(values), size)]


def _compare(
    what: str, count: int, tower: Tower, batches: Sequence[Any], compute: Callable[[], object]
) -> Measure:
    """Compute features; compare their cost with that of the tower alone, by the faster engine and
    by torch."""
    opened = tower.opened
    alone = dict[str, float]()
    engines = {embed.TORCH: opened.embed} | (
        {embed.ONNX: opened.compile(batches[0])} if opened.compile else {}
    )

    def timed(run: Callable[[Any], Any], batch: Any) -> float:
        began = time.perf_counter()
        run(batch)
        return time.perf_counter() - began

    with ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for engine, run in engines.items():
            list(pool.map(functools.partial(timed, run), batches[:4]))
            alone[engine] = 1000 * sum(pool.map(functools.partial(timed, run), batches)) / count
    before = os.times()
    compute()
    total = (
        1000 * (sum(os.times()[:4]) - sum(before[:4])) / count
    )  # also of processes that it starts and ends
    fastest = min(alone, key=alone.__getitem__)
    name = f"{what}, file to features, {tower.precision}; floor: {tower.name} alone in {fastest}"
    other = f"{tower.name} alone in torch"
    return Measure(
        name, total, "core ms", alone[fastest], other, alone[embed.TORCH], target="≤ 1.3 floor"
    )


def main(
    folder: Annotated[Path, tyro.conf.Positional],
    pairs: tuple[int, ...] = (1_000_000, 10_000_000),
    epochs: int = 1,
    dim: int = WIDTH,
) -> None:
    """Measure each size, print a table, and write it to data/results."""
    lines: Measures = []
    spent: dict[int, float] = {}
    for count in pairs:
        made = folder / f"features-{count}-{dim}"
        data = folder / f"data-{count}-{dim}"
        if not (made / "done").is_file():
            console.print(f"making {count:,} features")
            make_features(made, pairs=count, dim=dim)
            (made / "done").touch()
        measured, spent[count], _ = audit(
            made / "pairs.parquet", data, count, ["--epochs", str(epochs)]
        )
        lines += measured
        for kind, ending in (("csv", "csv"), ("datacomp", "npy")):
            out = str(data / f"{kind}.{ending}")
            seconds, _, peak = run_command(
                ["export", "large", "--format", kind, "--out", out, "--overwrite"], data
            )
            lines.append(Measure(f"export of {count:,} pairs to {kind}", seconds, "s"))
            lines.append(Measure(f"export of {count:,} pairs to {kind}: memory", peak / 1e6, "MB"))
        times_by_kind = turn(data, "browse", "2", *CHANGES)
        memory = times_by_kind.pop("memory_mb")
        plain = min(times_by_kind.pop("plain"))
        slowest, kind = max((max(times), kind) for kind, times in times_by_kind.items())
        lines.append(
            Measure(f"Browse, {count:,} pairs, slowest change ({kind})", slowest, "ms", floor=plain)
        )
        lines.append(Measure(f"Browse, {count:,} pairs: memory", memory, "MB"))
    lines += growth(spent)
    show({"large": lines})
    listed = " ".join(map(str, pairs))
    command = f"python -m tests.bench.large FOLDER --pairs {listed} --epochs {epochs} --dim {dim}"
    save(f"large-{dim}", lines, command=command)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m tests.bench.large")
