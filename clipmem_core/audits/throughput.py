"""How fast a model trains and embeds on this machine, by a few real steps in as many processes as an audit has members
side by side.

    python -m clipmem_core.audits.throughput SAMPLE

SAMPLE is a pickle of what `measure` takes. Each process says `ready` once it is warm, waits for a line, measures, and
prints a `Pace` as JSON.
"""

import dataclasses
import json
import logging
import math
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from clipmem_core import columns as c
from clipmem_core.audits.executor import environment, stop
from clipmem_core.audits.member import EVALUATION, view_maker
from clipmem_core.audits.settings import side_by_side
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.pairs.pixels import StreamedPixels
from clipmem_core.pairs.table import RawPairs
from clipmem_core.scores.membership import Membership
from clipmem_core.training.draws import draw_keys
from clipmem_core.training.embed import mean_image_embeddings, text_embeddings
from clipmem_core.training.loop import PixelSource, Trainer, TrainingData
from clipmem_core.training.model import build_model, tokenize
from clipmem_core.training.state import Progress

CAPTIONS_TRIED = 1024
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


def measure_pace(
    config: AuditConfig, raw: RawPairs, membership: Membership, readable: Sequence[str]
) -> tuple[Pace, float]:
    """Train a little, as many processes side by side as the audit will: their mean pace, and the seconds they start in.

    Args:
        config: a resolved one.
        raw: the data set's pairs.
        membership: who trains on what.
        readable: references of pictures that open; some are decoded at every use where an audit would do so.

    Raises:
        InputError: the model cannot be built or trained.
    """
    trained = max(1, round(float(membership.trained.sum(axis=1).mean())))
    batch = math.ceil(trained / math.ceil(trained / config.batch_size))
    drawn = raw.pairs[c.CAPTIONS].sample(min(CAPTIONS_TRIED, len(raw.pairs)), random_state=config.seed)
    rows = range(max(1, min(3, len(drawn) // batch)) * batch)
    tokens = tokenize(config.model, [drawn.iloc[row % len(drawn)][0] for row in rows])
    streams = readable and len(raw.pairs) * config.cache_size**2 * 3 > config.cache_gb * 2**30
    images = [readable[row % len(readable)] for row in rows] if streams else []
    with tempfile.NamedTemporaryFile(prefix="clipmem-") as sample:
        pickle.dump((dataclasses.replace(config, epochs=EPOCHS, batch_size=batch), tokens, raw.root, images), sample)
        sample.flush()
        return _run_side_by_side(sample.name, side_by_side(config), threads=config.threads)


def _run_side_by_side(sample: str, count: int, *, threads: int) -> tuple[Pace, float]:
    command = [sys.executable, "-m", "clipmem_core.audits.throughput", sample]
    began = time.monotonic()
    processes = [
        subprocess.Popen(command, env=environment(threads), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(count)
    ]
    try:
        for process in processes:
            _line(process)  # it is warm
        starting = time.monotonic() - began
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()
        paces = [Pace(**json.loads(_line(process))) for process in processes]
    finally:
        stop(processes)
    mean = Pace(*np.mean([list(vars(pace).values()) for pace in paces], axis=0).tolist())
    return mean, max(0.0, starting - mean.waited - mean.warm_up)


def _line(process: subprocess.Popen[bytes]) -> bytes:
    """Return the next line that a process says.

    Raises:
        InputError: it says what is wrong.
        RuntimeError: it died.
    """
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if line.startswith(b'{"error"'):
        raise InputError(json.loads(line)["error"])
    if not line:
        raise RuntimeError(f"the process that measures the steps ended with exit code {process.wait()}")
    return line


def measure(config: AuditConfig, tokens: np.ndarray, root: Path, images: list[str]) -> Pace:
    """Warm up, wait for the word, and measure.

    Args:
        config: a resolved one, of more epochs than are run.
        tokens: of a few batches of captions, one a pair: int [n_pairs, context].
        root: the folder that picture references are relative to.
        images: references, one a pair, where pictures are decoded at every use.
    """
    torch.set_num_threads(config.threads)
    data = _training_data(config, tokens, root, images)
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


def main(sample: str) -> int:
    """Measure; an error is one line of JSON on stdout."""
    logging.getLogger().setLevel(logging.ERROR)
    try:
        print(json.dumps(asdict(measure(*pickle.loads(Path(sample).read_bytes())))), flush=True)
    except InputError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
