"""A dry run over a data set: what is in it, what is broken and where. Nothing is kept."""

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
from rich.table import Table

from clipmem_core import columns as c
from clipmem_core.audits.console import RichScreen, plain
from clipmem_core.audits.jobs import OUTPUT, Job, Task, audit_task, jobs_folder, resume_arguments
from clipmem_core.audits.prepare import (
    DataSet,
    GivenRows,
    draw_membership,
    holds_features,
    load_data_set,
    look_at_pictures,
    plant,
    sampled,
    with_features,
)
from clipmem_core.audits.settings import check_config, resolve
from clipmem_core.audits.setup import check_same
from clipmem_core.audits.store import Audit, audits_folder, check_name, write_json
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
from clipmem_core.files import parse_json, read_json
from clipmem_core.pairs.checks import CHECKS, Captions, check_captions
from clipmem_core.pairs.table import RawPairs, check_there, read_source
from clipmem_core.scores.membership import MIN_PAIRS

SHOWN = 5
PIXELS = 32  # enough to see that a picture opens and whom it looks like


def inspect_source(source: str, options: SourceOptions) -> None:
    """Print what a data set holds."""
    with tempfile.TemporaryDirectory(prefix="clipmem-") as folder, RichScreen() as screen:
        data = Path(folder)
        if holds_features(source):
            config = dataclasses.replace(preset_config(DEFAULT_PRESET), source=options, features=source)
            given = load_data_set(source, config, cache=data)
            show(source, given.raw, given, Console(highlight=False))
            return
        raw = read_source(source, options, data=data if source == "scenes" else data_folder(), say=screen.say)
        config = dataclasses.replace(AuditConfig(), cache_size=PIXELS)
        found = look_at_pictures(raw, config, cache=data / "pixels", progress=screen.pictures)
        screen.progress.stop()
        show(source, raw, found, Console(highlight=False))


def show(source: str, raw: RawPairs, found: DataSet, console: Console) -> None:
    """Print the summary, the reasons in quarantine with an example each, and the first pairs."""
    pairs = found.pairs
    counts = pairs[c.CAPTIONS].map(len)
    labels = pairs[c.LABEL].dropna()
    too_few = "" if len(pairs) >= MIN_PAIRS else f" (an audit needs {MIN_PAIRS})"
    facts = {
        "source": source,
        "format": raw.format,
        "pictures lie in": str(raw.root),
        "rows": f"{raw.rows:,}",
        "pairs that can be used": f"{len(pairs):,}{too_few}",
        "captions a pair": f"{counts.min()} to {counts.max()}, {counts.mean():.2f} on average",
        "labels": f"{labels.nunique():,} on {len(labels):,} pairs" if len(labels) else "none",
        **sizes(found),
        "look-alikes": f"{found.lookalikes:,} pictures look like an earlier one",
        "in quarantine": f"{len(found.quarantine):,} rows",
    }
    for name, value in facts.items():
        console.print(plain(f"{name:24} {value}"), soft_wrap=True)
    if len(found.quarantine):
        console.print(quarantine_table(found.quarantine))
    console.print(checks_table(pairs))
    table = Table(title=f"the first {SHOWN} pairs", title_justify="left")
    for column in (c.PAIR_ID, c.IMAGE, c.LABEL, c.CAPTIONS):
        table.add_column(column, overflow="fold")
    for _, row in pairs.head(SHOWN).iterrows():
        label = row[c.LABEL] if isinstance(row[c.LABEL], str) else "–"
        captions = " | ".join(caption[:200] for caption in row[c.CAPTIONS])
        table.add_row(*(plain(text) for text in (row[c.PAIR_ID], row[c.IMAGE], label, captions)))
    console.print(table)


def checks_table(pairs: pd.DataFrame) -> Table:
    """Return how many captions each check finds, with an example of each."""
    captions = Captions.from_pairs([list(own) for own in pairs[c.CAPTIONS]])
    table = Table(title="captions to look at", title_justify="left")
    table.add_column("captions", justify="right")
    table.add_column("check", overflow="fold")
    table.add_column("for example", overflow="fold")
    for name, flags in check_captions(captions).items():
        first = captions.texts[int(flags.argmax())][:80] if flags.any() else ""
        table.add_row(f"{flags.sum():,}", CHECKS[name].label, plain(first))
    return table


def sizes(found: DataSet) -> dict[str, str]:
    """Return how large the pictures are, or the features that stand for them."""
    if isinstance(found.pixels, GivenRows):
        return {"features": f"computed elsewhere, {found.pixels.values.shape[1]:,} numbers a picture: none is opened"}
    pairs = found.pairs
    return {
        "picture widths": f"{pairs[c.WIDTH].min():,} to {pairs[c.WIDTH].max():,} pixels",
        "picture heights": f"{pairs[c.HEIGHT].min():,} to {pairs[c.HEIGHT].max():,} pixels",
    }


def quarantine_table(quarantine: pd.DataFrame) -> Table:
    """Return the reasons rows were set aside, the commonest first, each with one place to look at."""
    table = Table(title="in quarantine", title_justify="left")
    table.add_column("rows", justify="right")
    table.add_column("reason", overflow="fold")
    table.add_column("for example", overflow="fold")
    for reason, rows in sorted(quarantine.groupby(c.REASON), key=lambda item: -len(item[1])):
        table.add_row(f"{len(rows):,}", plain(str(reason)), plain(str(rows[c.SOURCE].iloc[0])))
    return table


FOLDER = ".checks"
REQUEST = "request.json"
KEPT_SECONDS = 7 * 24 * 3600.0  # a check older than this is thrown away
AGAIN = "check the audit again"
FOUND, PICTURES = "found", "pictures"
REASONS = 5  # shown, the commonest first
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

    `found` is what the data set holds, None at first; it is `exact` once every picture was opened. `error` says why the
    audit cannot start.
    """

    job: Job
    found: dict[str, Any] | None = None
    pictures: tuple[int, int] = (0, 0)
    error: str = ""

    @property
    def exact(self) -> bool:
        return bool(self.found and self.found["exact"])


def refuse_at_once(request: Request) -> None:
    """Refuse what can be seen to be wrong without reading the data set."""
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
    """Read a request."""
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
    return Check(job, last.get(FOUND), (pictures["done"], pictures["total"]), _end(job))


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
    folder = jobs_folder() / FOLDER / key
    return Task(folder, ["check", str(folder / REQUEST)])


def _sweep() -> None:
    for folder in (jobs_folder() / FOLDER).glob("*"):
        job = _task(folder.name).find()
        if time.time() - folder.stat().st_mtime > KEPT_SECONDS and not (job and job.running):
            shutil.rmtree(folder, ignore_errors=True)


def check(request: Request) -> None:
    """Print what a data set holds, a line of JSON for each thing that is found out.

    Pictures are opened last and stored small as the audit would, so that nothing of it is done twice.
    """
    config = resolve(with_features(request.source, request.config))
    if config.features:  # no picture is opened
        data_set = load_data_set(request.source, config)
    else:
        raw, _ = sampled(read_source(request.source, config.source, data=data_folder()), config)
        if len(raw.pairs):
            clusters = np.arange(len(raw.pairs))
            say_found(raw.pairs, raw.quarantine, clusters, config, exact=False, rows=raw.rows, lookalikes=0)
        data_set = look_at_pictures(raw, config, progress=PictureLines())
    how = {"exact": True, "rows": data_set.raw.rows, "lookalikes": data_set.lookalikes}
    say_found(data_set.pairs, data_set.quarantine, data_set.clusters, config, **how)


def say(stage: str, **values: Any) -> None:
    """Print a line of JSON."""
    print(json.dumps({"stage": stage, **values}), flush=True)


def say_found(
    pairs: pd.DataFrame, quarantine: pd.DataFrame, clusters: np.ndarray, config: AuditConfig, **more: int
) -> None:
    """Print what a data set holds; draws the membership and plants as the audit will, for the errors of both."""
    membership = draw_membership(clusters, config)
    plant(pairs, membership, config)
    counts = pairs[c.CAPTIONS].map(len)
    kinds = quarantine[c.REASON].astype(str).str.replace(r"^look-alike of .*", "look-alike of another pair", regex=True)
    reasons: list[dict[str, Any]] = [
        {"rows": len(rows), "reason": reason, "example": str(rows[c.SOURCE].iloc[0])}
        for reason, rows in quarantine.groupby(kinds)
    ]
    say(
        FOUND,
        **more,
        pairs=len(pairs),
        captions=int((counts.clip(upper=config.captions) if config.captions else counts).sum()),
        quarantined=len(quarantine),
        reasons=sorted(reasons, key=lambda reason: -reason["rows"])[:REASONS],
        groups={str(name): int(count) for name, count in pd.Series(membership.group).value_counts().items()},
    )


class PictureLines:
    """Prints how many pictures are opened, twice a second at most."""

    def __init__(self) -> None:
        self.printed = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Take note of the pictures done."""
        if done == total or time.monotonic() - self.printed > SECONDS_BETWEEN_LINES:
            self.printed = time.monotonic()
            say(PICTURES, done=done, total=total)
