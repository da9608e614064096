"""Checks an audit before it starts: what its data set holds, and how long it will take by a few real steps.

    python -m clipmem_core.audits.estimate REQUEST.json

Prints a line of JSON for each thing it finds out: `found` (sizes, reasons in quarantine, groups), `time` (seconds),
`pictures` (how many are opened), `error`. Pictures are opened last and stored small as the audit would, so nothing of
that is done twice.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.preflight import ERROR, FOUND, PICTURES, TIME, Request, read_request
from clipmem_core.audits.prepare import draw_membership, look_at_pictures, plant
from clipmem_core.audits.progress import MemberSeconds, audit_seconds
from clipmem_core.audits.settings import resolve, side_by_side
from clipmem_core.audits.throughput import Pace, measure_pace, undisturbed
from clipmem_core.config import AuditConfig, InputError, data_folder
from clipmem_core.pairs.pictures import check_chunk
from clipmem_core.pairs.table import RawPairs, read_source
from clipmem_core.pairs.workers import cores
from clipmem_core.scores.membership import Membership

REASONS = 5  # shown, the commonest first
PICTURES_TRIED = 50
SECONDS_BETWEEN_LINES = 0.5


def member_seconds(pace: Pace, config: AuditConfig, membership: Membership, *, captions: int) -> MemberSeconds:
    """Return what one member takes, of a pace that was measured.

    Args:
        pace: of one member while as many train as will.
        config: a resolved one.
        membership: who trains on what.
        captions: of all pairs together.
    """
    views = len(membership.group) * config.views
    return MemberSeconds(_steps(config, membership) * pace.step, views * pace.picture + captions * pace.caption)


def _trained(membership: Membership) -> int:
    """Return the pairs that a member trains on."""
    return round(float(membership.trained.sum(axis=1).mean()))


def _steps(config: AuditConfig, membership: Membership) -> int:
    return config.trained_epochs * math.ceil(_trained(membership) / config.batch_size)


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
    member = member_seconds(pace, config, membership, captions=int(_captions(pairs, config).sum()))
    spent = {"preparing": preparing} | audit_seconds(member, config, starting=starting, pairs=len(pairs))
    say(
        TIME,
        seconds={name: round(value, 2) for name, value in spent.items()},
        busy=round(pace.busy, 2),
        step=round(pace.step, 4),
        steps=_steps(config, membership),
        members=config.members,
        side_by_side=side_by_side(config),
        trained=_trained(membership),
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
