"""Two members of an audit against two runs of open_clip's own trainer on the same pairs: seconds and their ratio.

Ours is the command a person types, `python -m clipmem_core audit`, by the paper's protocol with one seed: two members
side by side. The audit is given as many pairs (2,444) as it takes for each member to train on exactly 2,000. That is to
our disadvantage: ours decodes the 444 pairs that a member leaves out too, looks for broken pictures and look-alikes,
and keeps a trajectory.

Theirs is `python -m open_clip_train.main`, once on the 2,000 pairs of f and once on those of g, one run after the
other, each free to use every core. Model config, captions, batch, steps, epochs, precision, optimiser, schedule and
crop scale are equal; a batch of 250 divides the pairs, since theirs drops what is left over. No validation; one
checkpoint a run, at the end.

Time runs from the start of the first process until the second checkpoint is written. Ours starts with an empty data
folder each time: no decoded pictures, no tokens. Both find the pictures' files in the system's page cache.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from clipmem_core.audits.settings import resolve
from clipmem_core.audits.store import Audit
from clipmem_core.config import AuditConfig, data_folder
from clipmem_core.training.names import model_config
from tests.bench.clipart import CAPTION, IMAGE, Clipart, audit_config, make_clipart
from tests.bench.report import Measure, Measures, console, spread

WORKERS = (1, 2)  # of their data loader; the better one counts


@dataclass(frozen=True)
class Case:
    """One kind of pictures, and the ratio that is wanted on it."""

    name: str
    target: str
    small: bool  # pictures already at the training size


CASES = (
    Case("original files", "at least 3, aim 5", small=False),
    Case("pictures at the training size", "at least 1.5, aim 2", small=True),
)


@dataclass(frozen=True)
class Ours:
    """Seconds of one audit: until both checkpoints, of the whole command, and of its first part."""

    checkpoints: float
    whole: float
    prepare: float


def measure(quick: bool, repeats: int) -> Measures:
    """Time both cases, alternating which side goes first."""
    trained, epochs = (200, 1) if quick else (2_000, 5)
    data_folder().mkdir(parents=True, exist_ok=True)
    lines: Measures = []
    for case in CASES:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=data_folder().resolve()) as temporary:
            lines += time_case(case, Path(temporary), trained=trained, epochs=epochs, repeats=repeats)
    return lines


def time_case(case: Case, folder: Path, *, trained: int, epochs: int, repeats: int) -> Measures:
    """Time one case `repeats` times and compare."""
    size = model_config("small")["vision_cfg"]["image_size"] if case.small else 0
    config = audit_config(trained=trained, epochs=epochs, cache_size=size)
    clipart = make_clipart(folder / "clipart", trained=trained, config=config, size=size)
    ours: list[Ours] = []
    theirs: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    for repeat in range(repeats):

        def time_ours(repeat: int = repeat) -> None:
            ours.append(run_ours(clipart, config, folder / f"ours-{repeat}"))
            console.print(f"{case.name}: ours {ours[-1].checkpoints:.1f} s, whole audit {ours[-1].whole:.1f} s")

        def time_theirs(repeat: int = repeat) -> None:
            for workers in WORKERS:
                seconds = run_theirs(clipart, config, folder / f"theirs-{repeat}-{workers}", workers=workers)
                theirs[workers].append(seconds)
                console.print(f"{case.name}: open_clip with {workers} workers {seconds:.1f} s")

        for side in in_turn(repeat, time_ours, time_theirs):
            side()
    return compare(case, ours, theirs)


def in_turn(repeat: int, *sides: Callable[[], None]) -> Sequence[Callable[[], None]]:
    """Return the sides in the order of a repeat: every other one the other way round."""
    return sides if repeat % 2 == 0 else sides[::-1]


def compare(case: Case, ours: list[Ours], theirs: dict[int, list[float]]) -> Measures:
    """Set the seconds of both sides beside each other; a ratio is theirs / ours of one repeat."""
    best = [min(seconds) for seconds in zip(*theirs.values(), strict=True)]
    middle = statistics.median
    return [
        Measure(f"{case.name}: ours, until both checkpoints (s)", middle(run.checkpoints for run in ours)),
        Measure(f"{case.name}: ours, of that reading and decoding (s)", middle(run.prepare for run in ours)),
        Measure(f"{case.name}: ours, the whole audit (s)", middle(run.whole for run in ours)),
        *(
            Measure(f"{case.name}: two runs of open_clip, --workers {workers} (s)", middle(seconds))
            for workers, seconds in theirs.items()
        ),
        *spread(
            f"{case.name}: open_clip / ours, until both checkpoints",
            [b / run.checkpoints for b, run in zip(best, ours, strict=True)],
            case.target,
        ),
        *spread(
            f"{case.name}: open_clip / ours, the whole audit",
            [b / run.whole for b, run in zip(best, ours, strict=True)],
            "",
        ),
    ]


def run_ours(clipart: Clipart, config: AuditConfig, data: Path) -> Ours:
    """Audit the pictures in a fresh data folder and return its seconds.

    Raises:
        RuntimeError: the audit failed, or its members trained on other pairs than theirs will.
    """
    began = time.time()
    run_command(audit_command(clipart, config), log=data.with_suffix(".log"), data=data)
    ended = time.time()
    audit = Audit(data / "audits" / "bench")
    _check_pairs(audit, clipart)
    written = [(audit.member(name) / "checkpoint.pt").stat().st_mtime for name in clipart.trained]
    return Ours(max(written) - began, ended - began, audit.record.prepare_seconds)


def audit_command(clipart: Clipart, config: AuditConfig) -> list[str]:
    """Return the audit as a person would type it."""
    flags = {
        "name": "bench",
        "preset": config.preset,
        "protocol": config.protocol,
        "epochs": config.epochs,
        "batch-size": config.batch_size,
        "cache-size": config.cache_size,
        "csv-img-key": IMAGE,
        "csv-caption-key": CAPTION,
    }
    given = [f"--{name}={value}" for name, value in flags.items()]
    return [sys.executable, "-m", "clipmem_core", "audit", str(clipart.source), *given]


def _check_pairs(audit: Audit, clipart: Clipart) -> None:
    membership = audit.membership
    for name, trained in clipart.trained.items():
        if not np.array_equal(membership[name].to_numpy(), trained):
            raise RuntimeError(f"member {name} of {audit.folder} trained on other pairs than were drawn for it")


def run_theirs(clipart: Clipart, config: AuditConfig, folder: Path, *, workers: int) -> float:
    """Train on the pairs of each member with open_clip's trainer and return the seconds until the last checkpoint."""
    folder.mkdir()
    described = json.dumps({"model_cfg": model_config(config.model)})
    (folder / "open_clip_config.json").write_text(described, encoding="utf-8")
    commands = {
        member: _their_command(clipart.write_trained(member), config, folder, member, workers)
        for member in clipart.trained
    }
    began = time.time()
    for member, command in commands.items():
        run_command(command, log=folder / f"{member}.log", cwd=clipart.folder)
    checkpoints = [folder / member / "checkpoints" / f"epoch_{config.epochs}.pt" for member in commands]
    return max(path.stat().st_mtime for path in checkpoints) - began


def _their_command(pairs: Path, config: AuditConfig, folder: Path, member: str, workers: int) -> list[str]:
    steps = config.epochs * (len(pd.read_csv(pairs, sep="\t")) // config.batch_size)
    flags = {
        "train-data": pairs,
        "dataset-type": "csv",
        "csv-img-key": IMAGE,
        "csv-caption-key": CAPTION,
        "model": f"local-dir:{folder}",
        "aug-cfg": f"scale=({config.crop_scale},1.0)",
        "batch-size": config.batch_size,
        "epochs": config.epochs,
        "lr": config.lr,
        "wd": config.weight_decay,
        "beta1": config.beta1,
        "beta2": config.beta2,
        "eps": config.eps,
        "warmup": min(config.warmup, steps // 10),
        "precision": resolve(config).precision,
        "device": "cpu",
        "workers": workers,
        "save-frequency": 0,
        "seed": config.seed,
        "logs": folder,
        "name": member,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "open_clip_train.main", *words]


def run_command(command: Sequence[str], *, log: Path, data: Path | None = None, cwd: Path | None = None) -> None:
    """Run one process to its end, with its output in a file.

    Raises:
        RuntimeError: it failed; the message ends with the end of its output.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **({"CLIPMEM_DATA": str(data)} if data else {})}
    with log.open("wb") as output:
        finished = subprocess.run(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        )
    if finished.returncode != 0:
        end = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"{' '.join(command)} ended with {finished.returncode}:\n{end}")
