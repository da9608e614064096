"""What can be said to be wrong with an audit before it starts, what is in its data set, and how long it will take.

    <data>/jobs/.checks/<key>/   request.json · job.json, output.log, exit_code

The check is a detached process. It prints a line of JSON for each thing it finds out: `found` (sizes, reasons in
quarantine, groups), `time` (seconds), `pictures` (how many are opened); the page reads them.
"""

import json
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.estimate import (
    Pace,
    audit_seconds,
    measure_pace,
    member_seconds,
    steps_of,
    trained_pairs,
    undisturbed,
)
from clipmem_core.audits.given import with_features
from clipmem_core.audits.jobs import OUTPUT, Job, Task, audit_task, jobs_folder, resume_arguments
from clipmem_core.audits.prepare import draw_membership, load_data_set, look_at_pictures, plant
from clipmem_core.audits.sample import sampled
from clipmem_core.audits.settings import check_config, opens_towers, resolve, side_by_side
from clipmem_core.audits.setup import check_same
from clipmem_core.audits.store import Audit, audits_folder, check_name, write_json
from clipmem_core.config import AuditConfig, InputError, as_dict, data_folder, fingerprint
from clipmem_core.files import parse_json, read_json
from clipmem_core.pairs.pictures import check_chunk
from clipmem_core.pairs.table import RawPairs, check_there, read_source
from clipmem_core.pairs.workers import cores
from clipmem_core.scores.membership import Membership

CHECKS = ".checks"
REQUEST = "request.json"
KEPT_SECONDS = 7 * 24 * 3600.0  # a check older than this is thrown away
AGAIN = "check the audit again"
FOUND, TIME, PICTURES = "found", "time", "pictures"
REASONS = 5  # shown, the commonest first
PICTURES_TRIED, CAPTIONS_TRIED = 50, 512
SECONDS_BETWEEN_LINES = 0.5
WRONG_INPUT = 2


@dataclass(frozen=True)
class Request:
    """An audit that somebody wants: the fields of request.json."""

    source: str
    name: str
    config: AuditConfig

    @property
    def key(self) -> str:
        """What tells one request from another, 16 hex digits."""
        return fingerprint([self.source, self.name, as_dict(self.config)])

    @property
    def arguments(self) -> list[str]:
        """What follows `audit` on the command line."""
        return resume_arguments(self.name, self.source, self.config)


@dataclass(frozen=True)
class Check:
    """How far a check is.

    `found` is what the data set holds, None at first; it is `exact` once every picture was opened. `time` is how long
    the audit takes when nothing else runs: `seconds` by what they are spent on, the steps this follows from, and how
    many times longer it takes while the machine is as `busy` as now. `error` says why the audit cannot start.
    """

    job: Job
    found: dict[str, Any] | None = None
    time: dict[str, Any] | None = None
    pictures: tuple[int, int] = (0, 0)
    error: str = ""

    @property
    def exact(self) -> bool:
        return bool(self.found and self.found["exact"])


def refuse_at_once(request: Request) -> None:
    """Refuse what can be seen to be wrong without reading the data set.

    Raises:
        InputError: the name, the source or a field is wrong, the name is another audit's, or its audit is at work.
    """
    check_name(request.name)
    if not request.source.strip():
        raise InputError("no data set is given: type its path, or choose one")
    check_there(request.source)
    check_config(request.config)
    job = audit_task(request.name).find()
    if job is not None and job.running:
        raise InputError(f"audit {request.name!r} waits or runs already: take another name, or cancel it first")
    audit = Audit(audits_folder() / request.name)
    if audit.begun:
        check_same(audit, request.source, resolve(with_features(request.source, request.config)))


def start_check(request: Request) -> Job:
    """Start the check of a request, or return the one that runs; throws old checks away."""
    _sweep()
    task = _task(request.key)
    task.folder.mkdir(parents=True, exist_ok=True)
    asked = {"source": request.source, "name": request.name, "config": as_dict(request.config)}
    write_json(task.folder / REQUEST, asked)
    return task.start()


def read_request(path: Path) -> Request:
    """Read a request.

    Raises:
        InputError: the file is missing, or is none.
    """
    return read_json(path, Request, mend=AGAIN)


def find_request(key: str) -> Request | None:
    """Return the request of a key, or None."""
    path = _task(key).folder / REQUEST if re.fullmatch(r"[0-9a-f]{16}", key) else None
    return read_request(path) if path is not None and path.is_file() else None


def find_check(key: str) -> Check | None:
    """Return how far the check of a request is, or None where none was started."""
    job = _task(key).find() if re.fullmatch(r"[0-9a-f]{16}", key) else None
    return _read(job) if job is not None else None


def _read(job: Job) -> Check:
    """Gather the last word on each thing that a check has printed."""
    last: dict[str, dict[str, Any]] = {}
    for line in (job.folder / OUTPUT).read_bytes().splitlines(keepends=True):
        if line.startswith(b'{"stage"') and line.endswith(b"\n"):
            said = parse_json(line.decode("utf-8", "replace"), dict[str, Any], path=job.folder / OUTPUT, mend=AGAIN)
            last[said.pop("stage")] = said
    pictures = last.get(PICTURES, {"done": 0, "total": 0})
    return Check(job, last.get(FOUND), last.get(TIME), (pictures["done"], pictures["total"]), _end(job))


def _end(job: Job) -> str:
    """Return what a check said is wrong, or how it ended; nothing while it runs, or where it ended well."""
    if job.running or job.exit_code == 0:
        return ""
    if job.cancelled:
        return "the check was stopped: check again"
    said = job.last_line
    if job.exit_code == WRONG_INPUT and said.startswith("error: "):
        return said.removeprefix("error: ")
    return f"the check stopped with exit code {job.exit_code}: {said or 'it said nothing'}"


def _task(key: str) -> Task:
    folder = jobs_folder() / CHECKS / key
    return Task(folder, ["check", str(folder / REQUEST)])


def _sweep() -> None:
    for folder in (jobs_folder() / CHECKS).glob("*"):
        job = _task(folder.name).find()
        if time.time() - folder.stat().st_mtime > KEPT_SECONDS and not (job and job.running):
            shutil.rmtree(folder, ignore_errors=True)


def check(request: Request) -> None:
    """Print what a data set holds and how long its audit takes, a line of JSON for each thing that is found out.

    Pictures are opened last and stored small as the audit would, so that nothing of it is done twice.

    Raises:
        InputError: the audit could not start.
    """
    config = resolve(with_features(request.source, request.config))
    if config.features:
        _check_given(request.source, config)
        return
    began = time.monotonic()
    raw, _ = sampled(read_source(request.source, config.source, data=data_folder()), config)
    reading = time.monotonic() - began
    if raw.pairs.empty:
        look_at_pictures(raw, config)  # says what became of the rows
    membership = _draw(raw.pairs, np.arange(len(raw.pairs)), config)
    say(FOUND, exact=False, rows=raw.rows, lookalikes=0, **found(raw.pairs, raw.quarantine, membership, config))
    readable, opening = open_some(raw, config)
    features = seconds_of_features(config, raw.pairs, opening)
    pace, starting = measure_pace(config, raw, membership, readable)
    say_time(pace, config, raw.pairs, membership, starting=starting, preparing=reading + opening, features=features)
    data_set = look_at_pictures(raw, config, progress=PictureLines())
    membership = _draw(data_set.pairs, data_set.clusters, config)
    say(
        FOUND,
        exact=True,
        rows=raw.rows,
        lookalikes=data_set.lookalikes,
        **found(data_set.pairs, data_set.quarantine, membership, config),
    )
    say_time(pace, config, data_set.pairs, membership, starting=starting, preparing=reading, features=features)


def _check_given(source: str, config: AuditConfig) -> None:
    """Print the same of a data set whose features were computed elsewhere: no picture is opened, and all is exact."""
    began = time.monotonic()
    data_set = load_data_set(source, config)
    preparing = time.monotonic() - began
    membership = _draw(data_set.pairs, data_set.clusters, config)
    kinds = data_set.pairs, data_set.quarantine
    rows, lookalikes = data_set.raw.rows, data_set.lookalikes
    say(FOUND, exact=True, rows=rows, lookalikes=lookalikes, **found(*kinds, membership, config))
    pace, starting = measure_pace(config, data_set.raw, membership, [])
    say_time(pace, config, data_set.pairs, membership, starting=starting, preparing=preparing)


def seconds_of_features(config: AuditConfig, pairs: pd.DataFrame, opening: float) -> float:
    """Return how long locked towers take on all pairs; 0 without any. Features that are kept are not reckoned with.

    Args:
        config: a resolved one.
        pairs: the data set's.
        opening: seconds that it takes to open all pictures, which are decoded once more.
    """
    if not opens_towers(config):
        return 0.0
    from clipmem_core.audits.throughput import features_seconds  # torch

    drawn = pairs[c.CAPTIONS].sample(min(CAPTIONS_TRIED, len(pairs)), random_state=config.seed)
    captions = [own[0] for own in drawn]
    count = int(_captions(pairs, config).sum())
    spent = features_seconds(config, captions, pictures=len(pairs), count=count)
    return spent + (opening if config.lock_image else 0.0)


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
    features: float = 0.0,
) -> None:
    """Print how long the audit takes when nothing else runs, from what that follows, and how busy the machine is."""
    member = member_seconds(pace, config, membership, captions=int(_captions(pairs, config).sum()))
    computing = {"features": features} if features else {}
    spent = {"preparing": preparing} | computing | audit_seconds(member, config, starting=starting, pairs=len(pairs))
    say(
        TIME,
        seconds={name: round(value, 2) for name, value in spent.items()},
        busy=round(pace.busy, 2),
        step=round(pace.step, 4),
        steps=steps_of(config, membership),
        members=config.members,
        side_by_side=side_by_side(config),
        trained=trained_pairs(membership),
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
