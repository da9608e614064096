"""Checks of a data set before its audit: `inspect`, and the check that the dashboard runs in a job."""

import dataclasses
import json
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from clipmem_core import columns as c
from clipmem_core.audits import prepare
from clipmem_core.audits.console import RichScreen, make_table, plain
from clipmem_core.audits.jobs import OUTPUT, Job, Task, audit_task, jobs_folder, resume_arguments
from clipmem_core.audits.prepare import DataSet, FeatureRows
from clipmem_core.audits.settings import check_config, resolve
from clipmem_core.audits.setup import check_same
from clipmem_core.audits.store import Audit, write_json
from clipmem_core.config import (
    DEFAULT_PRESET,
    AuditConfig,
    InputError,
    SourceOptions,
    as_dict,
    data_folder,
    fingerprint,
    preset_config,
)
from clipmem_core.io import parse_json, read_json
from clipmem_core.pairs.checks import CHECKS, Captions, check_captions
from clipmem_core.pairs.table import check_source, read_source
from clipmem_core.scores.membership import MIN_PAIRS

SHOWN = 5  # pairs, and reasons of a check
PIXELS = 32  # enough to open a picture and to find near-duplicates
FOLDER, REQUEST = ".checks", "request.json"
SECONDS_STORED = 7 * 24 * 3600.0  # older checks are deleted
AGAIN = "check the audit again"
SECONDS_BETWEEN_LINES = 0.5
WRONG_INPUT = 2


def inspect_source(source: str, options: SourceOptions) -> None:
    """Print what a data set holds; nothing is stored."""
    with tempfile.TemporaryDirectory(prefix="clipmem-") as folder, RichScreen() as screen:
        data = Path(folder)
        if prepare.holds_features(source):
            config = dataclasses.replace(preset_config(DEFAULT_PRESET), source=options, features=source)
            found = prepare.load_data_set(source, config, cache=data)
        else:
            raw = read_source(source, options, data=data if source == "scenes" else data_folder(), say=screen.say)
            config = dataclasses.replace(AuditConfig(), cache_size=PIXELS)
            found = prepare.read_pictures(raw, config, cache=data / "pixels", progress=screen.pictures)
        screen.progress.stop()
        _show(source, found)


def _show(source: str, found: DataSet) -> None:
    """Print the summary, the reasons in quarantine, the captions that checks find, and the first pairs."""
    console, pairs, raw = Console(highlight=False), found.pairs, found.raw
    counts, labels = pairs[c.CAPTIONS].map(len), pairs[c.LABEL].dropna()
    too_few = "" if len(pairs) >= MIN_PAIRS else f" (an audit needs {MIN_PAIRS})"
    facts = {
        "source": source,
        "format": raw.format,
        "folder of pictures": str(raw.root),
        "rows": f"{raw.rows:,}",
        "pairs that can be used": f"{len(pairs):,}{too_few}",
        "captions a pair": f"{counts.min()} to {counts.max()}, {counts.mean():.2f} on average",
        "labels": f"{labels.nunique():,} on {len(labels):,} pairs" if len(labels) else "none",
    }
    if isinstance(found.pixels, FeatureRows):
        facts["features"] = f"precomputed, {found.pixels.values.shape[1]:,} numbers a picture: no picture is opened"
    else:
        for name, column in (("picture widths", c.WIDTH), ("picture heights", c.HEIGHT)):
            facts[name] = f"{pairs[column].min():,} to {pairs[column].max():,} pixels"
    facts["near-duplicates"] = f"{found.lookalikes:,} of the pictures"
    facts["in quarantine"] = f"{len(found.quarantine):,} rows"
    for name, fact in facts.items():
        console.print(plain(f"{name:24} {fact}"), soft_wrap=True)
    if len(found.quarantine):
        reasons = _reasons(found.quarantine, found.quarantine[c.REASON])
        console.print(make_table("in quarantine", reasons, ["rows", "reason", "example"]))
    captions = Captions.from_pairs([list(own) for own in pairs[c.CAPTIONS]])
    checks = [
        {"captions": int(flags.sum()), "check": CHECKS[name].label}
        | {"example": captions.texts[int(flags.argmax())][:80] if flags.any() else ""}
        for name, flags in check_captions(captions).items()
    ]
    console.print(make_table("captions that checks find", checks, ["captions", "check", "example"]))
    first = [
        {name: row[name] if isinstance(row[name], str) else None for name in (c.PAIR_ID, c.IMAGE, c.LABEL)}
        | {c.CAPTIONS: " | ".join(caption[:200] for caption in row[c.CAPTIONS])}
        for row in pairs.head(SHOWN).to_dict("records")
    ]
    console.print(make_table(f"the first {SHOWN} pairs", first, [c.PAIR_ID, c.IMAGE, c.LABEL, c.CAPTIONS]))


def _reasons(quarantine: pd.DataFrame, kinds: pd.Series) -> list[dict[str, Any]]:
    """Return the reasons in quarantine, the most common first, with an example each."""
    reasons = [
        {"rows": len(rows), "reason": str(reason), "example": str(rows[c.SOURCE].iloc[0])}
        for reason, rows in quarantine.groupby(kinds)
    ]
    return sorted(reasons, key=lambda reason: -int(reason["rows"]))


@dataclass(frozen=True)
class Request:
    """The audit that a form describes."""

    source: str
    name: str
    config: AuditConfig

    @property
    def key(self) -> str:
        """The folder of its check, 16 hex digits."""
        return fingerprint([self.source, self.name, as_dict(self.config)])

    @property
    def arguments(self) -> list[str]:
        return resume_arguments(self.name, self.source, self.config)


@dataclass(frozen=True)
class Check:
    """The progress of a check: `found` is what the data set holds, `error` why the audit cannot start."""

    job: Job
    found: dict[str, Any] | None = None
    pictures: tuple[int, int] = (0, 0)
    error: str = ""

    @property
    def exact(self) -> bool:
        """Tell whether every picture was opened."""
        return bool(self.found and self.found["exact"])


def refuse_at_once(request: Request) -> None:
    """Refuse what is wrong without reading the data set."""
    audit, job = Audit.of(request.name), audit_task(request.name).find()
    if not request.source.strip():
        raise InputError("no data set is given: type its path, or choose one")
    check_source(request.source)
    check_config(request.config)
    if job is not None and job.running:
        raise InputError(f"audit {request.name!r} waits or runs already: take another name, or cancel it first")
    if audit.begun:
        check_same(audit, request.source, resolve(prepare.with_features(request.source, request.config)))


def start_check(request: Request) -> Job:
    """Start the check of a request, or return the one that runs; old checks are deleted."""
    for folder in (jobs_folder() / FOLDER).glob("*"):
        job = _task(folder.name).find()
        if time.time() - folder.stat().st_mtime > SECONDS_STORED and not (job and job.running):
            shutil.rmtree(folder, ignore_errors=True)
    task = _task(request.key)
    task.folder.mkdir(parents=True, exist_ok=True)
    values = {"source": request.source, "name": request.name, "config": as_dict(request.config)}
    write_json(task.folder / REQUEST, values)
    return task.start()


def read_request(path: Path) -> Request:
    """Read a request."""
    return read_json(path, Request, repair=AGAIN)


def find_request(key: str) -> Request | None:
    """Return the request of a key, or None."""
    path = _task(key).folder / REQUEST
    return read_request(path) if path.is_file() else None


def find_check(key: str) -> Check | None:
    """Return the progress of a request's check, or None."""
    job = _task(key).find()
    if job is None:
        return None
    last: dict[str, dict[str, Any]] = {}
    for line in (job.folder / OUTPUT).read_bytes().splitlines(keepends=True):
        if line.startswith(b'{"stage"') and line.endswith(b"\n"):
            values = parse_json(line.decode("utf-8", "replace"), dict[str, Any], path=job.folder / OUTPUT, repair=AGAIN)
            last[values.pop("stage")] = values
    pictures = last.get("pictures", {"done": 0, "total": 0})
    return Check(job, last.get("found"), (pictures["done"], pictures["total"]), _error(job))


def _error(job: Job) -> str:
    if job.running or job.exit_code == 0:
        return ""
    if job.cancelled:
        return "the check was stopped: check again"
    line = job.last_line
    if job.exit_code == WRONG_INPUT and line.startswith("error: "):
        return line.removeprefix("error: ")
    return f"the check stopped with exit code {job.exit_code}: {line or 'it printed nothing'}"


def _task(key: str) -> Task:
    valid = re.fullmatch(r"[0-9a-f]{16}", key)  # a key may come from a URL
    folder = jobs_folder() / FOLDER / (key if valid else "none")
    return Task(folder, ["check", str(folder / REQUEST)])


def check(request: Request) -> None:
    """Print what a data set holds as lines of JSON; pictures are opened last and stored as the audit would."""
    config = resolve(prepare.with_features(request.source, request.config))
    if config.features:
        data_set = prepare.load_data_set(request.source, config)
    else:
        raw, _ = prepare.sampled(read_source(request.source, config.source, data=data_folder()), config)
        if len(raw.pairs):
            clusters = np.arange(len(raw.pairs))
            _print_found(raw.pairs, raw.quarantine, clusters, config, exact=False, rows=raw.rows, lookalikes=0)
        data_set = prepare.read_pictures(raw, config, progress=PictureLines())
    more = {"exact": True, "rows": data_set.raw.rows, "lookalikes": data_set.lookalikes}
    _print_found(data_set.pairs, data_set.quarantine, data_set.clusters, config, **more)


def _print_found(
    pairs: pd.DataFrame, quarantine: pd.DataFrame, clusters: np.ndarray, config: AuditConfig, **more: int
) -> None:
    """Print what a data set holds; draws the membership and injects errors as the audit will, for what they refuse."""
    membership = prepare.draw_membership(clusters, config)
    prepare.plant(pairs, membership, config)
    counts = pairs[c.CAPTIONS].map(len)
    kinds = quarantine[c.REASON].astype(str).str.replace(r"^look-alike of .*", "look-alike of another pair", regex=True)
    _print(
        "found",
        **more,
        pairs=len(pairs),
        captions=int((counts.clip(upper=config.captions) if config.captions else counts).sum()),
        quarantined=len(quarantine),
        reasons=_reasons(quarantine, kinds)[:SHOWN],
        groups={str(name): int(count) for name, count in pd.Series(membership.group).value_counts().items()},
    )


def _print(stage: str, **values: Any) -> None:
    print(json.dumps({"stage": stage, **values}), flush=True)


class PictureLines:
    """Prints the number of opened pictures, twice a second at most."""

    def __init__(self) -> None:
        self.printed = 0.0

    def __call__(self, done: int, total: int) -> None:
        if done == total or time.monotonic() - self.printed > SECONDS_BETWEEN_LINES:
            self.printed = time.monotonic()
            _print("pictures", done=done, total=total)
