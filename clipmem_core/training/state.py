"""What a member leaves on disk while it trains: the state a killed run goes on from, and its log."""

import io
import json
import platform
import resource
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipmem_core.atomic import replacing, whole_archive
from clipmem_core.shortage import shortage
from clipmem_core.training.mitigations import HeldOutLevel
from clipmem_core.training.model import Model
from clipmem_core.training.names import STATE


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
