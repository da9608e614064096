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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from clipmem_core import columns as c
from clipmem_core.audit.member import feature_views
from clipmem_core.audit.prepare import draw_membership, read_pictures
from clipmem_core.audit.settings import resolve
from clipmem_core.audit.store import Audit, write_json
from clipmem_core.config import AuditConfig, data_folder, preset_config
from clipmem_core.dataset.pictures import decode, resize
from clipmem_core.dataset.source import read_source
from clipmem_core.scores.membership import group_size
from clipmem_core.training.model import TEXT_HEAD_WIDTH, locked_model
from clipmem_core.training.names import model_config
from clipmem_core.training.trainer import Trainer
from clipmem_core.training.views import FeatureRows, TrainingData
from tests.bench import Measure, Measures, Skipped, console, scratch

WORKERS = (1, 2)  # of their data loader; the better one counts
# open_clip's defaults, with tabs between
IMAGE = "filepath"
CAPTION = "title"


@dataclass(frozen=True)
class Clipart:
    """A folder with pairs.tsv and pictures/, and the pairs that each member of an audit trains
    on."""

    folder: Path
    pairs: pd.DataFrame  # IMAGE and CAPTION, [n_pairs]
    trained: dict[str, np.ndarray]  # bool [n_pairs] a member


def measure(quick: bool) -> Measures:
    """Train on the original files, and on pictures that have the training size."""
    trained, epochs = (200, 1) if quick else (2_000, 5)
    size = model_config("small")["vision_cfg"]["image_size"]
    lines: Measures = []
    for name, side, target in (
        ("original files", 0, "ratio ≥ 3"),
        ("pictures of that size", size, "ratio ≥ 1.5"),
    ):
        with scratch() as folder:
            config = preset_config("small")
            config = dataclasses.replace(
                config,
                protocol="paper",
                epochs=epochs,
                batch_size=min(250, trained // 4),  # divides the pairs: theirs drops the rest
                cache_size=side or config.cache_size,
            )
            clipart = make_clipart(folder / "clipart", trained=trained, config=config, size=side)
            ours, total, prepare = run_ours(clipart, config, folder / "ours")
            theirs = {
                workers: run_theirs(clipart, config, folder / f"theirs-{workers}", workers=workers)
                for workers in WORKERS
            }
        workers = min(theirs, key=theirs.__getitem__)
        best = {
            "alternative": f"open_clip_train.main ×2, {workers} workers",
            "alternative_value": theirs[workers],
        }
        what = f"2 members × {trained:,} clip-art pairs × {epochs} epochs, {name}"
        lines += [
            Measure(f"{what}, to both checkpoints", ours, "s", **best, target=target),
            Measure(f"{what}, the audit", total, "s", **best),
            Measure(f"{what}, of it reading and decoding", prepare, "s"),
            Measure(f"{what}, throughput", 2 * trained * epochs / ours, "pairs/s"),
        ]
    return lines


def make_clipart(folder: Path, *, trained: int, config: AuditConfig, size: int) -> Clipart:
    """Draw usable pictures of OpenClipart into a folder, so that each member trains on `trained`.

    Pictures become squares of `size` pixels; 0 copies the original files.
    """
    source = data_folder() / "sets" / "openclipart"
    if not source.is_dir():
        command = [sys.executable, "-m", "clipmem_core", "fetch", "openclipart"]
        console.print("fetching OpenClipart")
        if subprocess.run(command, check=False).returncode != 0:
            raise Skipped(
                "OpenClipart cannot be fetched: see `python -m clipmem_core fetch openclipart`"
            )
    needed = next(n for n in range(trained, 3 * trained) if n - 2 * group_size(n) == trained)
    raw = read_source(str(source), AuditConfig().source, data=data_folder())
    order = np.random.default_rng(0).permutation(len(raw.pairs))[
        : needed + 50
    ]  # a few pictures are broken
    drawn = dataclasses.replace(raw, pairs=raw.pairs.iloc[order].reset_index(drop=True))
    usable = read_pictures(drawn, config, cache=folder / "checked").pairs.iloc[:needed]
    if len(usable) < needed:
        raise Skipped(
            f"only {len(usable)} of {len(order)} pictures of OpenClipart can be used, {needed} "
            "are needed"
        )
    (folder / "pictures").mkdir(parents=True)
    rows = []
    for number, (image, captions) in enumerate(
        zip(usable[c.IMAGE], usable[c.CAPTIONS], strict=True)
    ):
        name = f"pictures/{number:05}.png"
        if size:
            square = resize(decode((raw.root / image).read_bytes())[0], size, config.resize_mode)
            Image.fromarray(square).save(folder / name)
        else:
            shutil.copyfile(raw.root / image, folder / name)
        rows.append((name, " ".join(captions[0].replace('"', " ").split())))
    pairs = pd.DataFrame(rows, columns=[IMAGE, CAPTION])
    pairs.to_csv(folder / "pairs.tsv", sep="\t", index=False)
    copied = read_source(str(folder / "pairs.tsv"), config.source, data=data_folder())
    data_set = read_pictures(copied, config, cache=folder / "checked")
    membership = draw_membership(data_set.clusters, resolve(config))
    shutil.rmtree(folder / "checked")
    return Clipart(folder, pairs, dict(zip(membership.members, membership.trained, strict=True)))


def run_ours(clipart: Clipart, config: AuditConfig, data: Path) -> tuple[float, float, float]:
    """Audit in an empty data folder; return the seconds until both checkpoints, in all, and of
    preparing."""
    words = [
        "--name=bench",
        f"--preset={config.preset}",
        f"--protocol={config.protocol}",
        f"--epochs={config.epochs}",
    ]
    words += [f"--batch-size={config.batch_size}", f"--cache-size={config.cache_size}"]
    words += [f"--csv-img-key={IMAGE}", f"--csv-caption-key={CAPTION}"]
    command = [
        sys.executable,
        "-m",
        "clipmem_core",
        "audit",
        str(clipart.folder / "pairs.tsv"),
        *words,
    ]
    began = time.time()
    run_command(command, log=data.with_suffix(".log"), data=data)
    ended = time.time()
    audit = Audit(data / "audits" / "bench")
    membership = audit.membership
    for name, trained in clipart.trained.items():
        if not np.array_equal(membership[name].to_numpy(), trained):
            raise RuntimeError(
                f"member {name} of {audit.folder} trained on other pairs than open_clip will"
            )
    written = [(audit.member(name) / "checkpoint.pt").stat().st_mtime for name in clipart.trained]
    console.print(f"ours {max(written) - began:.1f} s, the audit {ended - began:.1f} s")
    return max(written) - began, ended - began, audit.record.prepare_seconds


def run_theirs(clipart: Clipart, config: AuditConfig, folder: Path, *, workers: int) -> float:
    """Train on the pairs of each member with open_clip's trainer and return the seconds until the
    last checkpoint."""
    folder.mkdir()
    write_json(folder / "open_clip_config.json", {"model_cfg": model_config(config.model)})
    commands = {
        member: _their_command(clipart, config, folder, member, workers)
        for member in clipart.trained
    }
    began = time.time()
    for member, command in commands.items():
        run_command(command, log=folder / f"{member}.log", cwd=clipart.folder)
    checkpoints = [
        folder / member / "checkpoints" / f"epoch_{config.epochs}.pt" for member in commands
    ]
    seconds = max(path.stat().st_mtime for path in checkpoints) - began
    console.print(f"open_clip with {workers} workers {seconds:.1f} s")
    return seconds


def _their_command(
    clipart: Clipart, config: AuditConfig, folder: Path, member: str, workers: int
) -> list[str]:
    rows = clipart.pairs[clipart.trained[member]]
    rows.to_csv(clipart.folder / f"{member}.tsv", sep="\t", index=False)
    steps = config.epochs * (len(rows) // config.batch_size)
    flags: dict[str, object] = {
        "train-data": clipart.folder / f"{member}.tsv",
        "dataset-type": "csv",
    }
    flags |= {"csv-img-key": IMAGE, "csv-caption-key": CAPTION, "model": f"local-dir:{folder}"}
    flags |= {
        "aug-cfg": f"scale=({config.crop_scale},1.0)",
        "batch-size": config.batch_size,
        "epochs": config.epochs,
    }
    flags |= {"lr": config.lr, "wd": config.weight_decay, "warmup": min(config.warmup, steps // 10)}
    flags |= {
        "beta1": config.beta1,
        "beta2": config.beta2,
        "eps": config.eps,
        "precision": resolve(config).precision,
    }
    flags |= {"device": "cpu", "workers": workers, "save-frequency": 0, "seed": config.seed}
    flags |= {"logs": folder, "name": member}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "open_clip_train.main", *words]


def run_command(
    command: Sequence[str], *, log: Path, data: Path | None = None, cwd: Path | None = None
) -> None:
    """Run one process to its end, with its output in a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        **({"CLIPMEM_DATA": str(data)} if data else {}),
    }
    with log.open("wb") as output:
        finished = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=False,
        )
    if finished.returncode != 0:
        end = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"{' '.join(command)} ended with {finished.returncode}:\n{end}")


def measure_heads(quick: bool) -> Measures:
    """Time a step of the heads of a locked audit on one thread; its floor is its matrix products at
    the peak rate."""
    lines = []
    rng = np.random.default_rng(0)
    image = 1280
    text = 384
    pairs = 6_000 if quick else 20_000
    features = [
        rng.standard_normal((pairs, width), dtype=np.float32).astype(np.float16)
        for width in (image, text)
    ]
    dim = model_config("locked")["embed_dim"]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for precision in ("fp32", "amp_bf16")[
        : 1 + (resolve(preset_config("locked")).precision == "amp_bf16")
    ]:
        config = dataclasses.replace(preset_config("locked"), precision=precision)
        model = locked_model(image, text, dim=dim, loss=config.loss, seed=0)
        rows = np.arange(pairs)
        data = TrainingData(
            FeatureRows(features[0]),
            features[1],
            np.arange(pairs + 1),
            rows.astype(np.uint64),
            rows,
        )
        trainer = Trainer(
            model.train(), data, config, feature_views(model, 0), seed=0, device="cpu"
        )
        steps = trainer.steps()
        square = torch.randn(1024, 1024)
        square = square.bfloat16() if precision == "amp_bf16" else square
        rate = 2 * 1024**3 / _seconds(lambda: square @ square)  # noqa: B023
        batch = pairs / trainer.batches
        products = (
            2
            * batch
            * (
                2 * (image * dim + text * TEXT_HEAD_WIDTH + TEXT_HEAD_WIDTH * dim)
                + TEXT_HEAD_WIDTH * dim
                + 3 * dim * batch
            )
        )
        what = (
            f"a training step of heads, {batch:.0f} pairs, {precision}; floor: its matrix products"
        )
        lines.append(
            Measure(
                what,
                1000 * _seconds(lambda: next(steps)),  # noqa: B023
                "core ms",
                1000 * products / rate,
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
