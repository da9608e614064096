"""A request for an audit → what its data set holds, and how long it will take by a few real steps, before it starts.

    python -m clipmem_core.audits.estimate REQUEST.json

Prints a line of JSON for each thing it finds out: `found` (sizes, reasons in quarantine, groups), `time` (seconds),
`pictures` (how many are opened), `error`. Pictures are opened last and stored small as the audit would, so nothing of
that is done twice.
"""

import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.preflight import ERROR, FOUND, PICTURES, TIME, Request, read_request
from clipmem_core.audits.prepare import draw_membership, look_at_pictures, plant
from clipmem_core.audits.rehearsal import measure_pace
from clipmem_core.audits.settings import resolve, side_by_side
from clipmem_core.audits.throughput import Pace, undisturbed
from clipmem_core.config import AuditConfig, InputError, data_folder
from clipmem_core.pairs.pixel_cache.facts import check_chunk
from clipmem_core.pairs.pixel_cache.workers import cores
from clipmem_core.pairs.table import RawPairs, read_source
from clipmem_core.scores.membership import Membership

REASONS = 5  # shown, the commonest first
PICTURES_TRIED = 50
SECONDS_BETWEEN_LINES = 0.5
# Reading vectors, aligning and ranking them; measured once, since it is a hundredth of an audit.
SCORING = 2e-5  # seconds a pair and member


@dataclass(frozen=True)
class Sizes:
    """What the time of an audit depends on, beside its config."""

    pairs: int
    captions: int  # of all pairs together
    trained: int  # pairs that a member trains on


def audit_seconds(
    pace: Pace, config: AuditConfig, sizes: Sizes, *, starting: float, preparing: float
) -> dict[str, float]:
    """Return how long an audit takes when nothing else runs, in seconds, by what they are spent on.

    Args:
        pace: of one member while as many train as will.
        config: a resolved one.
        sizes: of the data set.
        starting: until a member's process makes its first step.
        preparing: reading the data set and opening its pictures.

    Example:
        >>> config = AuditConfig(members=4, epochs=10, batch_size=100, views=2, device="cpu", threads=10_000)
        >>> pace, sizes = Pace(0, 0, 0.5, 0.001, 0.002, 1), Sizes(500, 500, 250)
        >>> audit_seconds(pace, config, sizes, starting=3, preparing=1)["training"]  # 4 turns, 10 epochs, 3 batches
        60.0
    """
    turns = math.ceil(config.members / side_by_side(config))
    steps = config.trained_epochs * math.ceil(sizes.trained / config.batch_size)
    embedding = sizes.pairs * config.views * pace.picture + sizes.captions * pace.caption
    return {
        "preparing": preparing,
        "starting": turns * starting,
        "training": turns * steps * pace.step,
        "embedding": turns * embedding,
        "scoring": sizes.pairs * config.members * SCORING,
    }


def check(request: Request) -> None:
    """Print what a data set holds and how long its audit takes.

    Raises:
        InputError: the audit could not start.
    """
    config = resolve(request.config)
    began = time.monotonic()
    raw = read_source(request.source, config.source, data=data_folder())
    reading = time.monotonic() - began
    if raw.pairs.empty:
        look_at_pictures(raw, config)  # says what became of the rows
    membership = _draw(raw.pairs, np.arange(len(raw.pairs)), config)
    say(FOUND, exact=False, rows=raw.rows, lookalikes=0, **found(raw.pairs, raw.quarantine, membership, config))
    readable, opening = open_some(raw, config)
    pace, starting = measure_pace(config, raw, membership, readable)
    say_time(pace, config, raw.pairs, membership, starting=starting, preparing=reading + opening)
    data_set = look_at_pictures(raw, config, progress=PictureLines())
    membership = _draw(data_set.pairs, data_set.clusters, config)
    say(
        FOUND,
        exact=True,
        rows=raw.rows,
        lookalikes=data_set.lookalikes,
        **found(data_set.pairs, data_set.quarantine, membership, config),
    )
    say_time(pace, config, data_set.pairs, membership, starting=starting, preparing=reading)


def _draw(pairs: pd.DataFrame, clusters: np.ndarray, config: AuditConfig) -> Membership:
    """Draw the membership and plant as the audit will, for the errors that this may end in."""
    membership = draw_membership(clusters, config)
    plant(pairs, membership, config)
    return membership


def say(stage: str, **values: Any) -> None:
    """Print a line of JSON."""
    print(json.dumps({"stage": stage, **values}), flush=True)


def say_time(
    pace: Pace,
    config: AuditConfig,
    pairs: pd.DataFrame,
    membership: Membership,
    *,
    starting: float,
    preparing: float,
) -> None:
    """Print how long the audit takes when nothing else runs, from what that follows, and how busy the machine is."""
    trained = round(float(membership.trained.sum(axis=1).mean()))
    sizes = Sizes(len(pairs), int(_captions(pairs, config).sum()), trained)
    seconds = audit_seconds(pace, config, sizes, starting=starting, preparing=preparing)
    say(
        TIME,
        seconds={name: round(value, 2) for name, value in seconds.items()},
        busy=round(pace.busy, 2),
        step=round(pace.step, 4),
        steps=config.trained_epochs * math.ceil(trained / config.batch_size),
        members=config.members,
        side_by_side=side_by_side(config),
        trained=trained,
    )


def found(pairs: pd.DataFrame, quarantine: pd.DataFrame, membership: Membership, config: AuditConfig) -> dict[str, Any]:
    """Return what a data set holds, as JSON has it."""
    kinds = quarantine[c.REASON].astype(str).str.replace(r"^look-alike of .*", "look-alike of another pair", regex=True)
    reasons: list[dict[str, Any]] = [
        {"rows": len(rows), "reason": reason, "example": str(rows[c.SOURCE].iloc[0])}
        for reason, rows in quarantine.groupby(kinds)
    ]
    return {
        "pairs": len(pairs),
        "captions": int(_captions(pairs, config).sum()),
        "quarantined": len(quarantine),
        "reasons": sorted(reasons, key=lambda reason: -reason["rows"])[:REASONS],
        "groups": {str(name): int(count) for name, count in pd.Series(membership.group).value_counts().items()},
    }


def _captions(pairs: pd.DataFrame, config: AuditConfig) -> pd.Series:
    counts = pairs[c.CAPTIONS].map(len)
    return counts.clip(upper=config.captions) if config.captions else counts


def open_some(raw: RawPairs, config: AuditConfig) -> tuple[list[str], float]:
    """Open a few pictures: references of those that can be used, and the seconds that all of the data set will take."""
    images = raw.pairs[c.IMAGE].sample(min(PICTURES_TRIED, len(raw.pairs)), random_state=config.seed).tolist()
    began = undisturbed()
    facts = check_chunk(
        list(enumerate(images)), root=raw.root, size=config.cache_size, resize_mode=config.resize_mode, pixels=None
    )
    spent = undisturbed() - began
    readable = [images[row] for row, fact in facts if fact.reason is None]
    return readable, spent / len(images) * len(raw.pairs) / cores()


class PictureLines:
    """Prints how many pictures are opened, twice a second at most."""

    def __init__(self) -> None:
        self.printed = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Take note of the pictures done."""
        if done == total or time.monotonic() - self.printed > SECONDS_BETWEEN_LINES:
            self.printed = time.monotonic()
            say(PICTURES, done=done, total=total)


def main(arguments: list[str]) -> int:
    """Check one request; what is wrong with it is a line too."""
    try:
        check(read_request(Path(arguments[0])))
    except InputError as error:
        say(ERROR, text=" ".join(str(error).splitlines()))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
