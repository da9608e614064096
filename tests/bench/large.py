"""Features from towers, and audits of synthetic features: seconds and memory.

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
import os
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import numpy as np
import psutil
import torch
import tyro

from clipmem_core.auditing.folder.settings import resolve, towers_of
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.config import DATA_VARIABLE, AuditConfig, SourceOptions, preset_config
from clipmem_core.dataset.containers import read_bytes
from clipmem_core.dataset.source import read_source
from clipmem_core.features import towers
from clipmem_core.features.embed import FeatureExtractor, batch_size
from clipmem_core.features.fast_ops import keep_memory
from clipmem_core.features.towers import Tower, built_in_tower
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import cores
from tests.bench import Measure, Measures, console, save, scratch
from tests.large_fixtures import make_features

WIDTH = 512
FLAGS = ("--preset", "locked", "--folds", "4", "--members", "4")


def audit(table: Path, data: Path, pairs: int, flags: Sequence[str]) -> Measures:
    """Audit a table of features."""
    words = ["audit", str(table), "--name", "large", *FLAGS, *flags]
    seconds, peak, stages = run_audit(words, data)
    name = f"audit of {pairs:,} pairs of features × {WIDTH}, 4 members"
    return [
        Measure(f"{name} ({stages})", seconds, "s"),
        Measure(f"{name}: own memory", peak / 1e6, "MB", target="< 3000"),
    ]


def measure_audit(quick: bool) -> Measures:
    """Audit drawn pictures with five captions each, from files to scores, with words; then once
    more."""
    pairs, members = (300, 8) if quick else (8_000, 16)
    lines: Measures = []
    with scratch() as data:
        read_source("scenes", SourceOptions(scenes_pairs=pairs), data=data)
        for name, target in (("first", "≤ 150"), ("second", "≤ 60")):
            flags = ["--scenes-pairs", pairs, "--members", members, "--seed", len(lines)]
            words = ["audit", "scenes", "--name", name, *map(str, flags)]
            seconds, _, stages = run_audit(words, data)
            audited = f"{pairs:,} drawn pictures × 5 captions, {members} members"
            what = f"{name} audit of {audited} ({stages})"
            lines.append(Measure(what, seconds, "s", target=target))
    return lines


def run_audit(words: list[str], data: Path) -> tuple[float, int, str]:
    """Run an audit; return what `run_command` does, and the seconds of its stages in words."""
    measured = run_command(words, data)
    seconds = Audit(data / "audits" / words[words.index("--name") + 1]).seconds
    return *measured, ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()) + " s"


def run_command(words: list[str], data: Path) -> tuple[float, int]:
    """Run a command of the package; return its seconds and peak of anonymous bytes."""
    command = [sys.executable, "-m", "clipmem_core", *words]
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
    return time.perf_counter() - began, peak


def _anonymous(pid: int) -> int:
    """Return the anonymous bytes of a process and its descendants."""
    total = 0
    with suppress(psutil.NoSuchProcess, OSError):  # it has just ended
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            sizes = [int(line.split()[1]) for line in lines if line.startswith("RssAnon")]
            total += 1024 * sum(sizes)
    return total


def measure_towers(quick: bool) -> Measures:
    """Compute the features of each tower once in each precision."""
    gains = _gains()
    config = resolve(preset_config("locked"))
    return gains + [
        line
        for precision in dict.fromkeys(("fp32", config.precision))
        for line in _towers(quick, dataclasses.replace(config, precision=precision))
    ]


def _gains() -> Measures:
    """Measure how many times as long a tower takes without each call of fast_ops.py."""
    tower = dataclasses.replace(built_in_tower("efficientnet-lite2"), precision="amp_bf16")
    squares = np.zeros((8, 192, 192, 3), np.uint8)

    def seconds() -> float:
        embed = dataclasses.replace(tower).opened.embed
        return min(timeit.repeat(lambda: embed(squares), number=1, repeat=40))

    with mock.patch.object(towers, "has_fused_convolution", bool):
        slow = seconds()
        keep_memory()
        fast = seconds()
    return [
        Measure("pictures, without keep_memory", slow / fast, "×"),
        Measure("pictures, in two passes", fast / seconds(), "×"),
    ]


def _towers(quick: bool, config: AuditConfig) -> Measures:
    count = 200 if quick else 1_100
    with scratch() as temporary, mock.patch.dict(os.environ, {DATA_VARIABLE: str(temporary)}):
        raw = read_source("scenes", SourceOptions(scenes_pairs=count), data=temporary)
        files = [read_bytes(raw.root, image) for image in raw.pairs[c.IMAGE]]
        hashes = [hashlib.sha256(file).hexdigest() for file in files]
        pairs = raw.pairs.assign(**{c.SHA256: hashes})
        captions = [text for texts in pairs[c.CAPTIONS] for text in texts]
        different = set(captions)  # equal ones are computed once
        chosen = towers_of(config)
        images = chosen.image
        texts = chosen.text
        assert images
        assert texts
        shape = (images.size, images.size, 3)
        square = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        batches = [
            np.stack([square] * len(part)) for part in _parts(pairs.index, batch_size(images))
        ]
        by_length = _parts(sorted(different, key=len), batch_size(texts))  # as they are embedded
        compute_images = functools.partial(FeatureExtractor(images, raw.root).images, pairs)
        compute_texts = functools.partial(FeatureExtractor(texts).captions, captions)
        return [
            _compare("picture", count, images, batches, compute_images),
            _compare("caption", len(different), texts, by_length, compute_texts),
        ]


def _parts(values: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [values[at : at + size] for at in range(0, len(values), size)]


def _compare(
    what: str, count: int, tower: Tower, batches: Sequence[Any], compute: Callable[[], object]
) -> Measure:
    """Compute features; compare their cost with that of the tower alone."""
    embed = tower.opened.embed

    def timed(batch: Any) -> float:
        began = time.perf_counter()
        embed(batch)
        return time.perf_counter() - began

    with ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(timed, batches[:4]))
        floor = 1000 * sum(pool.map(timed, batches)) / count
    before = os.times()
    compute()
    spent = sum(os.times()[:4]) - sum(before[:4])  # also of processes that it starts and ends
    return Measure(
        f"{what}, file to features, {tower.precision}; floor: {tower.name} alone",
        1000 * spent / count,
        "core ms",
        floor=floor,
        target="≤ 1.3 floor",
    )


def main(
    folder: Annotated[Path, tyro.conf.Positional],
    pairs: tuple[int, ...] = (1_000_000, 10_000_000),
    epochs: int = 1,
    dim: int = WIDTH,
) -> None:
    """Measure each size, print a table, and write it to data/results."""
    lines: Measures = []
    for count in pairs:
        made = folder / f"features-{count}-{dim}"
        data = folder / f"data-{count}-{dim}"
        if not (made / "done").is_file():
            console.print(f"making {count:,} features")
            make_features(made, pairs=count, dim=dim)
            (made / "done").touch()
        flags = ["--epochs", str(epochs)]
        lines += audit(made / "pairs.parquet", data, count, flags)
    listed = " ".join(map(str, pairs))
    command = f"python -m tests.bench.large FOLDER --pairs {listed} --epochs {epochs} --dim {dim}"
    save(f"large-{dim}", lines, command)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m tests.bench.large")
