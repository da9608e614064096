"""How far each member is, read from the files it leaves: what the command line's bars and the dashboard show."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipmem_core.audits.store import MEMBERS, TEXT_INDEX
from clipmem_core.training.files import CHECKPOINT, LOG

STAGES = ("waiting", "training", "embedding", "done")
# At chance the true partner is one of batch_size, so its log-probability is −ln(batch_size).
CHANCE_SHARE = 0.98


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
        return self.seconds * (self.steps - self.step) / self.step if self.step else math.nan

    def at_chance(self, batch_size: int) -> bool:
        """Tell whether the loss is still that of guessing after a fifth of the run."""
        late = self.steps > 0 and self.step >= self.steps / 5
        return late and self.log_probability <= -CHANCE_SHARE * math.log(batch_size)


def last_line(path: Path) -> dict[str, Any]:
    """Return the last whole line of a JSON-lines file, or nothing; reads only the file's end."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4096))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        try:
            return json.loads(line)
        except ValueError:  # the line being written
            continue
    return {}


def member_progress(audit: Path, name: str) -> MemberProgress:
    """Read how far a member is."""
    folder = audit / MEMBERS / name
    line = last_line(folder / LOG)
    if (folder / TEXT_INDEX).is_file():
        stage = "done"
    elif (folder / CHECKPOINT).is_file():
        stage = "embedding"
    else:
        stage = "training" if line else "waiting"
    known = {key: line[key] for key in MemberProgress.__dataclass_fields__ if key in line}
    return MemberProgress(name=name, stage=stage, **known)
