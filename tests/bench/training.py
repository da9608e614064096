"""Training: two members compared with open_clip's own trainer, and a step of heads compared with
its matrix products.

Ours is the command `python -m clipmem_core audit` by the paper's protocol: two members side by
side, each on exactly 2,000 of 2,444 clip-art pairs; it also decodes the other 444, looks for broken
pictures and near-duplicates, and stores trajectories. Theirs is `python -m open_clip_train.main`,
once on the pairs of each member, one run after the other on every core; model, captions, batch,
steps, epochs, precision, optimiser, schedule and crop scale are equal, there is no validation, and
one checkpoint is written at the end. Time runs from the start of the first process until the second
checkpoint is written. Ours starts with an empty data folder; both find the files in the system's
page cache.
"""

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from clipmem_core.auditing.folder.prepare import load_pictures
from clipmem_core.auditing.folder.settings import resolve
from clipmem_core.auditing.folder.store import Audit, write_json
from clipmem_core.config import AuditConfig, data_folder, preset_config
from clipmem_core.dataset.source import read_source
from clipmem_core.scores.membership import group_size
from clipmem_core.training import model_config
from clipmem_core.training.augmentation import FeatureRows, TrainingData
from clipmem_core.training.model import TEXT_HEAD_WIDTH, feature_views, locked_model
from clipmem_core.training.trainer import Trainer
from clipmem_core.utils import columns as c
from clipmem_core.utils.ragged import Ragged
from tests.bench import Measure, Measures, Skipped, console, scratch

WORKERS = (1, 2)  # of their data loader; the better one counts
# open_clip's defaults, with tabs between
IMAGE = "filepath"
CAPTION = "title"


def measure(quick: bool) -> Measures:
    """Train two members on clip-art pairs, from their files to both checkpoints."""
    trained, epochs = (200, 1) if quick else (2_000, 5)
    # The batch divides the pairs: theirs drops the rest
    changes = {"protocol": "paper", "epochs": epochs, "batch_size": min(250, trained // 4)}
    config = dataclasses.replace(preset_config("small"), **changes)
    with scratch() as folder:
        table = make_clipart(folder / "clipart", trained=trained, config=config)
        seconds, audit = run_ours(table, config, folder / "ours")
        theirs = {
            workers: run_theirs(audit, config, folder / f"theirs-{workers}", workers)
            for workers in WORKERS
        }
    workers = min(theirs, key=theirs.__getitem__)
    what = f"2 members × {trained:,} clip-art pairs × {epochs} epochs, to both checkpoints"
    return [
        Measure(
            what,
            seconds,
            "s",
            alternative=f"open_clip_train.main ×2, {workers} workers",
            alternative_value=theirs[workers],
            target="ratio ≥ 3",
        )
    ]


def make_clipart(folder: Path, *, trained: int, config: AuditConfig) -> Path:
    """Copy pictures of OpenClipart into a folder, as many as let each member train on `trained`;
    return their table."""
    source = data_folder() / "sets" / "openclipart"
    if not source.is_dir():
        raise Skipped("OpenClipart is missing: `python -m tests.bench.openclipart`")
    needed = next(n for n in range(trained, 3 * trained) if n - 2 * group_size(n) == trained)
    raw = read_source(str(source), config.source, data=data_folder())
    # A few pictures are broken
    order = np.random.default_rng(0).permutation(len(raw.pairs))[: needed + 50]
    drawn = dataclasses.replace(raw, pairs=raw.pairs.iloc[order].reset_index(drop=True))
    (folder / "pictures").mkdir(parents=True)
    usable = load_pictures(drawn, config, cache=folder / "checked").pairs.iloc[:needed]
    shutil.rmtree(folder / "checked")
    rows = []
    for image, captions in zip(usable[c.IMAGE], usable[c.CAPTIONS], strict=True):
        name = f"pictures/{len(rows):05}.png"
        shutil.copyfile(raw.root / image, folder / name)
        rows.append((name, " ".join(captions[0].replace('"', " ").split())))
    table = folder / "pairs.tsv"
    pd.DataFrame(rows, columns=[IMAGE, CAPTION]).to_csv(table, sep="\t", index=False)
    return table


def run_ours(table: Path, config: AuditConfig, data: Path) -> tuple[float, Audit]:
    """Audit in an empty data folder; return the seconds until both checkpoints, and the audit."""
    flags = {
        "name": "bench",
        "preset": config.preset,
        "protocol": config.protocol,
        "epochs": config.epochs,
        "batch-size": config.batch_size,
        "csv-img-key": IMAGE,
        "csv-caption-key": CAPTION,
    }
    command = [sys.executable, "-m", "clipmem_core", "audit", str(table), *_words(flags)]
    began = time.time()
    run_command(command, log=data.with_suffix(".log"), CLIPMEM_DATA=str(data))
    audit = Audit(data / "audits" / "bench")
    written = [
        (audit.member(name) / "checkpoint.pt").stat().st_mtime for name in audit.record.members
    ]
    console.print(f"ours {max(written) - began:.1f} s")
    return max(written) - began, audit


def run_theirs(audit: Audit, config: AuditConfig, folder: Path, workers: int) -> float:
    """Train on the pairs of each member with open_clip's trainer and return the seconds until the
    last checkpoint."""
    folder.mkdir()
    write_json(folder / "open_clip_config.json", {"model_cfg": model_config(config.model)})
    membership = audit.membership
    captions = audit.pairs[c.CAPTIONS].str[0]
    pairs = pd.DataFrame({IMAGE: audit.pairs[c.IMAGE], CAPTION: captions})
    commands = {}
    for member in audit.record.members:
        rows = pairs[membership[member]]
        rows.to_csv(folder / f"{member}.tsv", sep="\t", index=False)
        commands[member] = _their_command(config, folder, member, len(rows), workers)
    began = time.time()
    for member, command in commands.items():
        run_command(command, log=folder / f"{member}.log", cwd=audit.record.pictures)
    checkpoints = [
        folder / member / "checkpoints" / f"epoch_{config.epochs}.pt" for member in commands
    ]
    seconds = max(path.stat().st_mtime for path in checkpoints) - began
    console.print(f"open_clip with {workers} workers {seconds:.1f} s")
    return seconds


def _their_command(
    config: AuditConfig, folder: Path, member: str, pairs: int, workers: int
) -> list[str]:
    steps = config.epochs * (pairs // config.batch_size)
    flags = {
        "train-data": folder / f"{member}.tsv",
        "dataset-type": "csv",
        "csv-img-key": IMAGE,
        "csv-caption-key": CAPTION,
        "model": f"local-dir:{folder}",
        "aug-cfg": f"scale=({config.crop_scale},1.0)",
        "batch-size": config.batch_size,
        "epochs": config.epochs,
        "lr": config.lr,
        "wd": config.weight_decay,
        "warmup": min(config.warmup, steps // 10),
        "beta1": config.beta1,
        "beta2": config.beta2,
        "eps": config.eps,
        "precision": resolve(config).precision,
        "device": "cpu",
        "workers": workers,
        "save-frequency": 0,
        "seed": config.seed,
        "logs": folder,
        "name": member,
    }
    return [sys.executable, "-m", "open_clip_train.main", *_words(flags)]


def _words(flags: dict[str, object]) -> list[str]:
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def run_command(
    command: Sequence[str], *, log: Path, cwd: Path | None = None, **environment: str
) -> None:
    """Run one process to its end, with its output in a file."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    with log.open("wb") as output:
        subprocess.run(command, cwd=cwd, env=environment, stdout=output, stderr=output, check=True)


def measure_heads(quick: bool) -> Measures:
    """Time a step of the heads of a locked audit on one thread; its floor is its matrix products at
    the peak rate."""
    lines = []
    rng = np.random.default_rng(0)
    image = 1280
    text = 384
    pairs = 6_000 if quick else 20_000
    rows = np.arange(pairs)
    features = [
        rng.standard_normal((pairs, width), dtype=np.float32).astype(np.float16)
        for width in (image, text)
    ]
    data = TrainingData(
        FeatureRows(features[0]),
        features[1],
        Ragged(np.arange(pairs + 1)),
        rows.astype(np.uint64),
        rows,
    )
    preset = preset_config("locked")
    dim = model_config("locked")["embed_dim"]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for precision in dict.fromkeys(("fp32", resolve(preset).precision)):
        config = dataclasses.replace(preset, precision=precision)
        model = locked_model(image, text, dim=dim, loss=config.loss, seed=0)
        views = feature_views(model, 0)
        trainer = Trainer(model.train(), data, config, views, seed=0)
        steps = trainer.steps()
        square = torch.randn(1024, 1024)
        square = square.bfloat16() if precision == "amp_bf16" else square
        rate = 2 * 1024**3 / _seconds(lambda: square @ square)  # noqa: B023
        batch = pairs / trainer.batches
        heads = image * dim + text * TEXT_HEAD_WIDTH + TEXT_HEAD_WIDTH * dim
        products = 2 * batch * (2 * heads + TEXT_HEAD_WIDTH * dim + 3 * dim * batch)
        seconds = _seconds(lambda: next(steps))  # noqa: B023
        name = f"a training step of heads, {batch:.0f} pairs, {precision}"
        lines.append(
            Measure(
                f"{name}; floor: its matrix products",
                1000 * seconds,
                "core ms",
                floor=1000 * products / rate,
            )
        )
    torch.set_num_threads(before)
    return lines


def _seconds(work: Callable[[], object], times: int = 12) -> float:
    """Return the processor seconds of a piece of work: the least of five means."""
    work()
    means = []
    for _ in range(5):
        began = time.process_time()
        for _ in range(times):
            work()
        means.append((time.process_time() - began) / times)
    return min(means)
