"""Checks a data set before its audit: the command `inspect`, and the job that the form of a new
audit starts."""

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from clipmem_core import config as configs
from clipmem_core.auditing.folder import prepare
from clipmem_core.auditing.folder.jobs import (
    Job,
    JobRequest,
    audit_request,
    jobs_folder,
    report,
)
from clipmem_core.auditing.folder.prepare import DataSet, FeaturePixels
from clipmem_core.auditing.folder.settings import check_config, resolve, resume_arguments
from clipmem_core.auditing.folder.setup import check_same
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.run.console import RichScreen, make_table, plain
from clipmem_core.config import AuditConfig, as_dict, data_folder
from clipmem_core.dataset.checks import CHECKS, Captions, caption_flags, not_captions
from clipmem_core.dataset.faults import Fault, sorted_captions, text_faults
from clipmem_core.dataset.languages import language_shares
from clipmem_core.dataset.pictures import Pixels
from clipmem_core.dataset.source import check_source, read_source
from clipmem_core.features.tower_by_language import describe_languages, with_text_tower
from clipmem_core.scores.membership import MIN_PAIRS
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError

_SHOWN = 5  # pairs, and reasons of a check
_LISTED = 1000  # rows in quarantine
PIXELS = 32  # enough to find near-duplicates


def inspect_source(source: str, options: configs.SourceOptions) -> None:
    """Print a summary of a data set; nothing is stored."""
    with tempfile.TemporaryDirectory(prefix="clipmem-") as folder, RichScreen() as screen:
        data = Path(folder)
        preset = configs.preset_config(configs.DEFAULT_PRESET)
        if prepare.holds_features(source):
            config = dataclasses.replace(preset, source=options, features=source)
            data_set = prepare.load_data_set(source, config, cache=data)
        else:
            raw = read_source(
                source, options, data=data if source == "scenes" else data_folder(), say=screen.say
            )
            config = dataclasses.replace(preset, cache_size=PIXELS)
            data_set = prepare.load_pictures(
                raw, config, cache=data / "pixels", progress=screen.pictures
            )
        screen.progress.stop()
        _show(source, data_set, config)


def _show(source: str, data_set: DataSet, config: AuditConfig) -> None:
    """Print the summary, the reasons in quarantine, the flagged captions, and the first pairs."""
    console = Console(highlight=False)
    pairs = data_set.pairs
    raw = data_set.raw
    counts = pairs[c.CAPTIONS].map(len)
    labels = pairs[c.LABEL].dropna()
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
    captions = Captions.from_pairs([list(captions) for captions in pairs[c.CAPTIONS]])
    languages = language_shares(captions.texts)
    facts["languages"] = describe_languages(languages, with_text_tower(config, languages))
    if isinstance(data_set.pixels, FeaturePixels):
        facts["features"] = (
            f"precomputed, {data_set.pixels.values.shape[1]:,} numbers a picture: no picture is "
            "opened"
        )
    else:
        for name, column in (("picture widths", c.WIDTH), ("picture heights", c.HEIGHT)):
            facts[name] = f"{pairs[column].min():,} to {pairs[column].max():,} pixels"
    facts["near-duplicates"] = f"{data_set.near_duplicates:,} of the pictures"
    facts["in quarantine"] = f"{len(data_set.quarantine):,} rows"
    for name, fact in facts.items():
        console.print(plain(f"{name:24} {fact}"), soft_wrap=True)
    if len(data_set.quarantine):
        reasons = _reasons(data_set.quarantine)
        console.print(make_table("in quarantine", reasons, ["rows", "reason", "example"]))
    checks = []
    for check, flagged in caption_flags(captions).items():
        example = captions.texts[int(flagged.argmax())][:80] if flagged.any() else ""
        count = int(flagged.sum())
        checks.append({"captions": count, "check": CHECKS[check].label, "example": example})
    console.print(make_table("flagged captions", checks, ["captions", "check", "example"]))
    for fault in faults_without_model(pairs, data_set.clusters):
        console.print(plain(f"{fault.kind}: {fault.cause}"), soft_wrap=True)
    columns = [c.PAIR_ID, c.IMAGE, c.LABEL, c.CAPTIONS]
    first = pairs[columns].head(_SHOWN).to_dict("records")
    for row in first:
        row[c.LABEL] = None if pd.isna(row[c.LABEL]) else row[c.LABEL]
        row[c.CAPTIONS] = " | ".join(caption[:200] for caption in row[c.CAPTIONS])
    console.print(make_table(f"the first {_SHOWN} pairs", first, columns))


def faults_without_model(pairs: pd.DataFrame, clusters: np.ndarray) -> list[Fault]:
    """Return the faults of a pipeline that pairs show before any training."""
    captions = Captions.from_pairs(pairs[c.CAPTIONS].tolist())
    flags = {
        name: np.bincount(captions.owner, flagged, minlength=len(pairs)) > 0
        for name, flagged in caption_flags(captions).items()
    }
    reasons = not_captions(captions.texts)
    return [
        *text_faults(pairs, clusters, pd.DataFrame(flags), reasons),
        *sorted_captions(pairs),
    ]


def _reasons(quarantine: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the reasons in quarantine, the most common first, with an example each; all
    near-duplicates are one reason."""
    is_copy = quarantine[c.KIND] == c.NEAR_DUPLICATE
    reasons = quarantine[c.REASON].mask(is_copy, f"{c.NEAR_DUPLICATE} of another pair")
    examples = quarantine[c.SOURCE].groupby(reasons).first()
    counts = reasons.value_counts()
    return [
        {"rows": int(counts[reason]), "reason": reason, "example": str(examples[reason])}
        for reason in map(str, counts.index)
    ]


@dataclass(frozen=True)
class Request:
    """The audit that a form describes."""

    source: str
    name: str
    config: AuditConfig

    @property
    def arguments(self) -> list[str]:
        """The arguments of the command `audit`."""
        return resume_arguments(self.name, self.source, self.config)

    @property
    def check(self) -> JobRequest:
        """The task of its check."""
        key = configs.fingerprint([self.source, self.name, as_dict(self.config)])
        return JobRequest(jobs_folder() / ".checks" / key, ["check", *self.arguments])


@dataclass(frozen=True)
class Check:
    """A check: its job, whose result is the content of the data set, and why the audit cannot
    start."""

    job: Job
    error: str


def check_request(request: Request) -> None:
    """Refuse a request that is wrong without reading its data set."""
    audit = Audit.of(request.name)
    job = audit_request(request.name).find()
    if not request.source.strip():
        raise InputError("no data set is named: type its path")
    check_source(request.source)
    check_config(request.config)
    if job is not None and job.running:
        raise InputError(
            f"audit {request.name!r} waits or runs already: use another name, or cancel it first"
        )
    if audit.begun:
        check_same(
            audit, request.source, resolve(prepare.with_features(request.source, request.config))
        )


def find_check(request: Request) -> Check | None:
    """Return the progress of a request's check, or None."""
    job = request.check.find()
    if job is None:
        return None
    error = ""
    if job.cancelled:
        error = "The check was stopped. Check again."
    elif job.failed:
        error = job.last_line.removeprefix("error: ") or "The check was killed. Check again."
    return Check(job, error)


def check(source: str, config: AuditConfig) -> None:
    """Report the content of a data set; pictures are opened last and stored as in the
    audit."""
    config = resolve(prepare.with_features(source, config))
    if config.features:
        data_set = prepare.load_data_set(source, config)
    else:
        raw, _ = prepare.sampled(read_source(source, config.source, data=data_folder()), config)
        rows = np.arange(len(raw.pairs))
        unread = DataSet(raw, raw.pairs, raw.quarantine, rows, Pixels(Path(), rows, 0))
        _report_found(unread, config, exact=False)
        data_set = prepare.load_pictures(raw, config, progress=RichScreen().pictures)
    _report_found(data_set, config, exact=True)


def _report_found(data_set: DataSet, config: AuditConfig, *, exact: bool) -> None:
    """Report the content of a data set; drawing the membership and injecting errors refuses what
    the audit would."""
    pairs = data_set.pairs
    quarantine = data_set.quarantine
    counts = pairs[c.CAPTIONS].map(len)
    listed = quarantine[[c.SOURCE, c.REASON]].head(_LISTED)
    summary = {
        "pairs": len(pairs),
        "captions": int((counts.clip(upper=config.captions) if config.captions else counts).sum()),
        "quarantined": len(quarantine),
        "reasons": _reasons(quarantine)[:_SHOWN],
        "rows_in_quarantine": listed.astype(str).to_numpy().tolist(),
        "groups": {},
        "exact": exact,
        "rows": data_set.raw.rows,
        "near_duplicates": data_set.near_duplicates,
    }
    try:
        membership = prepare.draw_membership(data_set.groups, config)
        prepare.inject(pairs, membership, config)
        summary["groups"] = pd.Series(membership.group).value_counts().to_dict()
    finally:  # a refused data set is shown too
        report(result=summary)
