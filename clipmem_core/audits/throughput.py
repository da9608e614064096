"""A few real steps of a model → how fast it trains and embeds on this machine, as one of several side by side.

    python -m clipmem_core.audits.throughput FOLDER

FOLDER holds a `Sample`: the config, tokens of real captions, and where pictures stream, their references. The process
says `ready` once it is warm, waits for a line, measures, and prints a `Pace` as JSON.
"""

import dataclasses
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from clipmem_core.audits.member import EVALUATION, view_maker
from clipmem_core.audits.settings import config_from
from clipmem_core.audits.store import write_json
from clipmem_core.config import AuditConfig, InputError, as_dict
from clipmem_core.files import read_json
from clipmem_core.pairs.pixels import StreamedPixels
from clipmem_core.training.draws import draw_keys
from clipmem_core.training.embed import mean_image_embeddings, text_embeddings
from clipmem_core.training.loop import PixelSource, Trainer, TrainingData
from clipmem_core.training.model import build_model, tokenize
from clipmem_core.training.state import Progress

SAMPLE = "sample.json"
TOKENS = "tokens.npy"
EPOCHS = 1000  # of the sample: more than is ever run
WARM_STEPS = 2
SECONDS, STEPS = 3.0, 8  # measured for at least this long and this many steps,
PATIENCE = 15.0  # unless the steps are so slow that two must do


@dataclass(frozen=True)
class Pace:
    """Seconds of one member while its neighbours run too, and nothing else does."""

    warm_up: float  # the steps before it was measured
    waited: float  # for a core that something else had, until it was warm
    step: float
    picture: float  # one view of one picture, embedded
    caption: float  # one caption, embedded
    busy: float  # how many times longer the steps took, since something else ran too; at least 1


def waited() -> float:
    """Return the seconds this thread was ready to run and had no core, since it began; 0 where that is not known."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def undisturbed() -> float:
    """Return a clock, in seconds, that stands still while this thread waits for a core."""
    return time.monotonic() - waited()


class RandomPixels:
    """Noise in the place of stored pictures: a step takes as long on any."""

    def __init__(self, count: int, size: int) -> None:
        self.squares = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return uint8 [len(rows), size, size, 3]."""
        return self.squares[rows]


def write_sample(
    folder: Path, config: AuditConfig, captions: Sequence[str], *, batch: int, root: Path, streamed: Sequence[str]
) -> None:
    """Write what the processes measure with: a few batches, each pair with one caption.

    Args:
        folder: where it goes.
        config: a resolved one.
        captions: real ones; repeated where they are fewer than a batch.
        batch: pairs in a batch, as the audit's batches have.
        root: the folder that picture references are relative to.
        streamed: references of pictures that open, if pictures are to be decoded at every use.
    """
    batches = max(1, min(3, len(captions) // batch))
    rows = range(batches * batch)
    np.save(folder / TOKENS, tokenize(config.model, [captions[row % len(captions)] for row in rows]))
    images = [streamed[row % len(streamed)] for row in rows] if streamed else []
    sample = {"config": as_dict(config), "batch": batch, "root": str(root), "images": images}
    write_json(folder / SAMPLE, sample)


def measure(folder: Path) -> Pace:
    """Warm up, wait for the word, and measure."""
    sample, tokens = read_json(folder / SAMPLE), np.load(folder / TOKENS)
    config = dataclasses.replace(config_from(sample["config"]), epochs=EPOCHS, batch_size=sample["batch"])
    torch.set_num_threads(config.threads)
    data = _training_data(config, tokens, Path(sample["root"]), sample["images"])
    model = build_model(
        config.model,
        loss=config.loss,
        seed=0,
        image_size=config.image_size,
        pretrained=config.pretrained,
        device=config.device,
    )
    model.train()
    trainer = Trainer(model, data, config, view_maker(model, config, 0), seed=0, device=config.device)
    steps = trainer.steps(Progress(0, np.full((EPOCHS, len(tokens), 2), np.nan, dtype=np.float16)))
    began = undisturbed()
    for _ in range(WARM_STEPS):
        next(steps)
    warm_up, waited_so_far = undisturbed() - began, waited()
    print("ready", flush=True)
    sys.stdin.readline()
    step, busy = _seconds_a_step(steps)
    picture, caption = _embedding_seconds(trainer)
    return Pace(warm_up, waited_so_far, step, picture, caption, busy)


def _training_data(config: AuditConfig, tokens: np.ndarray, root: Path, images: list[str]) -> TrainingData:
    rows = np.arange(len(tokens))
    pixels: PixelSource = RandomPixels(len(rows), config.cache_size)
    if images:
        pixels = StreamedPixels(root, rows, config.cache_size, resize_mode=config.resize_mode, root=root, images=images)
    return TrainingData(
        pixels=pixels,
        tokens=tokens,
        caption_start=np.arange(len(tokens) + 1),
        keys=draw_keys([str(row) for row in rows]),
        rows=rows,
        external=rows[: len(rows) // 11],
    )


def _seconds_a_step(steps: Iterator[None]) -> tuple[float, float]:
    """Return the seconds of a step when nothing else runs, and how many times longer it takes now."""
    began, began_undisturbed, count = time.monotonic(), undisturbed(), 0
    for _ in steps:
        count += 1
        spent = time.monotonic() - began
        if (spent > SECONDS and count >= STEPS) or (spent > PATIENCE and count >= WARM_STEPS):
            break
    alone = max(undisturbed() - began_undisturbed, 1e-9)
    return alone / count, max(1.0, spent / alone)


def _embedding_seconds(trainer: Trainer) -> tuple[float, float]:
    """Return the seconds of embedding one view of a picture, and one caption."""
    config, data = trainer.config, trainer.data
    how = {"precision": config.precision, "device": config.device}
    views = view_maker(trainer.model, config, EVALUATION)
    began = undisturbed()
    mean_image_embeddings(trainer.model, data, views, n_views=2, **how)
    between = undisturbed()
    text_embeddings(trainer.model, data.tokens, **how)
    return (between - began) / (2 * len(data.keys)), (undisturbed() - between) / len(data.tokens)


def main(arguments: list[str]) -> int:
    """Measure; an error is one line of JSON on stdout."""
    logging.getLogger().setLevel(logging.ERROR)
    try:
        print(json.dumps(asdict(measure(Path(arguments[0])))), flush=True)
    except InputError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
