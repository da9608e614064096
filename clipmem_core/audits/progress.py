"""How far the members of an audit are, their loss so far, and how long their training still takes."""

import heapq
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from clipmem_core.audits.store import MEMBERS, SECOND, SECOND_FIT, SECOND_TABLE, TEXT_EMBEDDINGS
from clipmem_core.training.names import CHECKPOINT, LOG

# At chance the true partner is one of batch_size, so its log-probability is −ln(batch_size).
CHANCE_SHARE = 0.98
FEATURES, TRAINING = "computing features", "training"  # what a line of the output begins with once a stage began
LEFT = "time left: about"  # in a line of the output of a study
POINTS = 300  # of a loss curve


def seconds_left(seconds: float, done: float, total: float) -> float:
    """Return how long the rest takes at the pace so far; NaN before anything is done.

    Example:
        >>> seconds_left(10.0, 1, 4)
        30.0
    """
    return seconds / done * (total - done) if done else math.nan


@dataclass(frozen=True)
class MemberProgress:
    """One member: its stage and the last line of its log."""

    name: str
    stage: str
    step: int = 0
    steps: int = 0
    loss: float = math.nan
    log_probability: float = math.nan
    samples_per_second: float = math.nan
    seconds: float = 0.0

    @property
    def seconds_left(self) -> float:
        """Training time left at the pace so far; NaN before the first line."""
        return seconds_left(self.seconds, self.step, self.steps)

    @property
    def share(self) -> float:
        """How much of it is trained, from 0 to 1."""
        if self.stage in ("embedding", "done"):
            return 1.0
        return min(1.0, self.step / self.steps) if self.steps else 0.0

    def at_chance(self, batch_size: int) -> bool:
        """Tell whether the loss is still that of guessing after a fifth of the run."""
        late = self.steps > 0 and self.step >= self.steps / 5
        return late and self.log_probability <= -CHANCE_SHARE * math.log(batch_size)


def training_seconds_left(members: Sequence[MemberProgress]) -> float:
    """Return how long the training of all members still takes at the pace so far; NaN before the first line.

    As many as are at it now go on side by side, and who waits takes as long as those that are known do on average.
    """
    paces = [member.seconds * member.steps / member.step for member in members if member.step]
    lanes = [0.0 if member.stage == "embedding" else member.seconds_left for member in members if _active(member)]
    if not lanes:
        return math.nan
    heapq.heapify(lanes)
    for member in members:
        if member.stage == "waiting":
            heapq.heapreplace(lanes, lanes[0] + sum(paces) / len(paces))
    return max(lanes)


def _active(member: MemberProgress) -> bool:
    return member.step > 0 and member.stage in ("training", "embedding")


def loss_curves(audit: Path, names: Sequence[str]) -> pd.DataFrame:
    """Return the loss of each member while it trained: member, epoch, loss, at most `POINTS` rows a member."""
    tables = [_loss_curve(audit / MEMBERS / name / LOG).assign(member=name) for name in names]
    known, columns = [table for table in tables if len(table)], ["member", "epoch", "loss"]
    return pd.concat(known)[columns] if known else pd.DataFrame(columns=columns)


def _loss_curve(path: Path) -> pd.DataFrame:
    """Read every so many lines of a log, the last whole one among them."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return pd.DataFrame()
    step = max(1, math.ceil(len(lines) / POINTS))
    points = [parsed for line in lines[::-step][::-1] if (parsed := _parsed(line))]
    table = pd.DataFrame(points).reindex(columns=["epoch", "loss"])
    return table.apply(pd.to_numeric, errors="coerce").dropna().astype(float)


def _parsed(line: bytes) -> dict[str, Any]:
    """Return what a line of a log says; the line being written, or one that is broken, says nothing."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def tail(path: Path) -> bytes:
    """Return the last 4 kB of a file; nothing where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4096))
            return file.read()
    except FileNotFoundError:
        return b""


def last_line(path: Path) -> dict[str, Any]:
    """Return the last whole line of a JSON-lines file, or nothing; reads only the file's end."""
    return next((parsed for line in reversed(tail(path).splitlines()) if (parsed := _parsed(line))), {})


def member_progress(audit: Path, name: str) -> MemberProgress:
    """Read how far a member is."""
    folder = audit / MEMBERS / name
    line = last_line(folder / LOG)
    if (folder / TEXT_EMBEDDINGS).is_file() or (folder / SECOND_FIT).is_file():  # the last file of either training
        stage = "done"
    elif (folder / CHECKPOINT).is_file():
        stage = "embedding"
    else:
        stage = "training" if line else "waiting"
    fields = [key for key in MemberProgress.__dataclass_fields__ if key not in ("name", "stage")]
    known = {key: line[key] for key in fields if isinstance(line.get(key), (int, float))}
    return MemberProgress(name=name, stage=stage, **known)


def all_progress(audit: Path, names: Sequence[str]) -> list[MemberProgress]:
    """Read how far members are, and behind them, where there is a second round, how far they are in that."""
    second = second_names(names) if (audit / SECOND_TABLE).is_file() else []
    return [member_progress(audit, name) for name in (*names, *second)]


def second_names(names: Sequence[str]) -> list[str]:
    """Return what members are called in the second round: the paths of their folders there.

    Example:
        >>> second_names(["r0-f0"])
        ['r0-f0/second']
    """
    return [f"{name}/{SECOND}" for name in names]
