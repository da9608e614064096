"""The state of a member while it trains: its progress, the held-out level, the files a killed run resumes from."""

import io
import json
import math
import platform
import resource
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipmem_core.atomic import replacing, whole_archive
from clipmem_core.columns import ALIGNMENT
from clipmem_core.mitigations import ADAPTIVE
from clipmem_core.scores.alignment import external_means, pair_terms
from clipmem_core.shortage import shortage
from clipmem_core.training.model import Model
from clipmem_core.training.names import STATE


class HeldOutLevel:
    """The alignment level of the external pairs, and which trained pairs are ahead of it.

    Alignment grows for all pairs while a model learns; what it grows beyond that of held-out pairs is memorized. So
    every few epochs the external pairs are embedded, one view and one caption each, and a quantile of their alignments
    is the level. A trained pair is ahead from the step that sees it above that level until one that sees it below.
    The trained pairs' embeddings are those of the training step.
    """

    MIN_EXTERNAL = 2  # a pair leaves itself out of the means

    def __init__(self, n_pairs: int, quantile: float, every: int) -> None:
        self.quantile, self.every = quantile, every
        self.ahead = np.zeros(n_pairs, dtype=bool)
        self.level = math.inf  # no pair is ahead before the first measurement
        self.means: tuple[Any, ...] = ()  # ν_I and ν_T, float32 [dim] each

    @classmethod
    def of(cls, config: Any, n_pairs: int) -> "HeldOutLevel | None":
        """Return the level that a config's adaptive mitigations need; None if all of them are off."""
        adaptive = any(getattr(config, name) for name in ADAPTIVE)
        return cls(n_pairs, config.adaptive_quantile, config.adaptive_every) if adaptive else None

    def due(self, epoch: int) -> bool:
        """Return whether the external pairs are measured before this epoch; never before the first."""
        return epoch > 0 and epoch % self.every == 0

    def measure(self, image: Tensor, text: Tensor) -> None:
        """Set the level from the unit vectors of the external pairs, [n_external, dim] each."""
        if len(image) < self.MIN_EXTERNAL:
            return
        own, other = image.float().cpu().numpy(), text.float().cpu().numpy()
        everyone = np.ones(len(own), dtype=bool)
        self.level = float(np.quantile(pair_terms(own, other, everyone)[ALIGNMENT], self.quantile))
        self.means = tuple(torch.from_numpy(mean.astype(np.float32)) for mean in external_means(own, other, everyone))

    def compare(self, rows: np.ndarray, image: Tensor, text: Tensor) -> None:
        """Update which pairs of a batch are ahead, from their unit vectors in this step, [n, dim] each."""
        if math.isinf(self.level):
            return
        image_mean, text_mean = (mean.to(image.device) for mean in self.means)
        alignment = (image * text).sum(dim=1) - image @ text_mean - text @ image_mean
        self.ahead[rows] = (alignment > self.level).cpu().numpy()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"ahead": torch.from_numpy(self.ahead), "level": self.level, "means": self.means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.ahead, self.level = state["ahead"].cpu().numpy(), state["level"]
        self.means = tuple(state["means"])


@dataclass
class Progress:
    """Where a run stands: all that a resumed run needs beside weights and optimiser state."""

    step: int
    trajectory: np.ndarray  # float16 [epochs, n_pairs, 2]
    seconds: float = 0.0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # loss, log-probability, count since a line

    def note(
        self, epoch: int, rows: np.ndarray, cosine: np.ndarray, log_probability: np.ndarray, *, loss: float
    ) -> None:
        """Note what one step told of its pairs."""
        self.trajectory[epoch, rows, 0] = cosine
        self.trajectory[epoch, rows, 1] = log_probability
        for place, value in enumerate((loss, float(log_probability.mean()), 1.0)):
            self.sums[place] += value


def save_atomically(value: Any, path: Path) -> None:
    """Write a torch value under a temporary name and rename; through a buffer, since the bytes depend on the name."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    _write(path, buffer.getbuffer())


def _write(path: Path, content: bytes | memoryview) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def save_state(
    model: Model,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    folder: Path,
    *,
    held_out: HeldOutLevel | None = None,
) -> None:
    """Save all that a resumed run needs."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": progress.step,
        "seconds": progress.seconds,
        "trajectory": torch.from_numpy(progress.trajectory),
        "sums": progress.sums,
    } | ({} if held_out is None else {"held_out": held_out.state_dict()})
    save_atomically(state, folder / STATE)


def load_state(
    model: Model,
    optimizer: torch.optim.Optimizer,
    folder: Path,
    *,
    device: str,
    held_out: HeldOutLevel | None = None,
) -> Progress | None:
    """Return where the last run stopped, its weights and what is ahead loaded; None where that is not known any more.

    A file that is broken is as good as none.
    """
    if not whole_archive(folder / STATE):
        return None
    try:
        state = torch.load(folder / STATE, map_location=device, weights_only=True)
    except Exception as error:  # torch, pickle and zip each raise their own kinds
        if shortage(error):
            raise
        return None
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if held_out is not None:
        held_out.load_state_dict(state["held_out"])
    return Progress(state["step"], state["trajectory"].cpu().numpy(), state["seconds"], state["sums"])


def save_array(array: np.ndarray, path: Path) -> None:
    """Write a .npy file atomically."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    _write(path, buffer.getbuffer())


class Log:
    """The member's log.jsonl: one line about every second and at each epoch's end."""

    def __init__(self, path: Path, step: int) -> None:
        kept = [line for line in _lines(path) if line.get("step", 0) <= step]
        _write(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self.path = path

    def add(self, **values: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # the line that a kill cut short
            continue
    return lines


def peak_mb(device: str) -> float:
    """Return the most memory that this process has held so far, the GPU's where it trains there, in MB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if platform.system() == "Darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
