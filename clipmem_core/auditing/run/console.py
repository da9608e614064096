"""What a terminal and the form of a new audit show: progress, results, and the content of a data
set before its audit."""

import dataclasses
import functools
import math
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd
import rich.progress as bars
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipmem_core import config as configs
from clipmem_core.auditing.folder import prepare
from clipmem_core.auditing.folder.jobs import Job, JobRequest, Screen, audit_request, jobs_folder
from clipmem_core.auditing.folder.prepare import check_same, faults_without_model
from clipmem_core.auditing.folder.settings import check_config, resolve, resume_arguments
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.tables.fault_tables import fault_cause
from clipmem_core.auditing.tables.verdict import summary_lines, uses
from clipmem_core.config import AuditConfig, as_dict
from clipmem_core.dataset.checks import CHECKS, Captions, caption_flags
from clipmem_core.dataset.languages import language_shares
from clipmem_core.dataset.source import check_source
from clipmem_core.features.tower_by_language import describe_languages, with_text_tower
from clipmem_core.scores.registry import INJECTED_SCORES
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError

_PAGE = "http://localhost:8501/overview"
_SHOWN = 5  # pairs, and reasons of a check
_LISTED = 1000  # rows in quarantine
PIXELS = 32  # enough to find near-duplicates
_DETECTION = ["score", "precision_at_k", "auroc", "auroc_low", "auroc_high", "average_precision"]
_ATTACKS = ["attack", "measure", "value", "members_low", "members_high", "pairs_low", "pairs_high"]


def plain(text: str) -> Text:
    """Return foreign text without markup and control characters."""
    return Text(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text))


class RichScreen(Screen):
    """Shows progress as lines and a bar; on a pipe as lines only, one for each tenth of a stage."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Console(highlight=False)
        self.progress = bars.Progress(console=self.console, disable=not self.console.is_terminal)
        self.bar = self.progress.add_task("", visible=False)
        self.tenths = 0  # printed ones of the stage, on a pipe

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        super().say(text)
        self.tenths = 0
        self.progress.console.print(plain(text), soft_wrap=True)

    def report(self, noun: str, done: int, total: int) -> None:
        super().report(noun, done, total)
        self.progress.update(self.bar, description=noun, completed=done, total=total, visible=True)
        tenths = 10 * done // max(1, total)
        if not self.console.is_terminal and tenths > self.tenths:
            self.tenths = tenths
            self.console.print(f"{done:,} of {total:,} {noun}")


def show_verdict(audit: Audit) -> None:
    """Print an audit's tables, its checks of itself and its verdict."""
    console = Console(highlight=False)
    say = functools.partial(console.print, soft_wrap=True)
    verdict = audit.verdict
    for title, rows, columns in (
        ("clipmem by group", verdict["groups"], ["group", "n", "mean", "low", "high", "kind"]),
        ("means by injected error", verdict["injected"], ["injected", "n", *INJECTED_SCORES]),
        ("how well scores find injected errors", verdict["detection"], _DETECTION),
        ("attacks on membership, each member by the others", verdict["attacks"], _ATTACKS),
        ("utility, mean over members", verdict["utility"].items(), ["metric", "value"]),
    ):
        if rows:
            console.print(make_table(title, rows, columns))
    for check in verdict["checks"]:
        mark = {True: ("✓ ", "green"), False: ("✗ ", "red"), None: ("? ", "yellow")}[check["good"]]
        advice = f" → {check['advice']}" if check["advice"] else ""
        say(Text.assemble(mark, plain(check["sentence"] + advice)))
    console.print()
    for line in (verdict["sentence"], *filter(None, summary_lines(verdict))):
        say(plain(line), style="bold")
    for score, use in uses(verdict).items():
        say(Text.assemble("  ", (score, "bold"), f" {use}"))
    console.print()
    say(plain(str(audit.folder)))
    say(plain(f"browse it: `streamlit run app.py`, then {_PAGE}?audit={audit.name}"))


def make_table(title: str, rows: Iterable[Any], columns: Sequence[str]) -> Table:
    """Return a table for the terminal, foreign text in it plain; numbers are aligned right."""
    values = pd.DataFrame(rows, columns=list(columns))
    style: Any = {"title_style": "bold", "box": SIMPLE_HEAD, "pad_edge": False}
    table = Table(title=title, title_justify="left", padding=(0, 1, 0, 0), **style)
    numbers = values.select_dtypes("number")
    for column in columns:
        justify: Any = "right" if column in numbers else "left"
        table.add_column(column, justify=justify, overflow="fold")
    for row in values.itertuples(index=False):
        table.add_row(*map(_cell, row))
    return table


def _cell(value: Any) -> Text:
    if isinstance(value, int):
        return Text(f"{value:,}")
    if isinstance(value, float):
        return Text("–" if math.isnan(value) else f"{value:.3f}")
    return plain("–" if value is None else str(value))


def inspect_source(source: str, options: configs.SourceOptions) -> None:
    """Print a summary of a data set; no picture is stored."""
    preset = configs.preset_config(configs.DEFAULT_PRESET)
    config = dataclasses.replace(preset, source=options, cache_size=PIXELS)
    config = prepare.with_features(source, config)
    with tempfile.TemporaryDirectory(prefix="clipmem-") as folder, RichScreen() as screen:
        data_set = prepare.load_data_set(
            source, config, cache=Path(folder) / "cache", progress=screen.pictures, say=screen.say
        )
    console = Console(highlight=False)
    pairs = data_set.pairs
    raw = data_set.raw
    captions = Captions.from_pairs(pairs[c.CAPTIONS].tolist())
    languages = language_shares(captions.texts)
    sizes = [f"{pairs[side].min():,} to {pairs[side].max():,}" for side in (c.WIDTH, c.HEIGHT)]
    facts = {
        "format": raw.format,
        "folder of pictures": raw.root,
        "rows": f"{raw.rows:,}",
        "pairs that can be used": f"{len(pairs):,}",
        "captions": f"{len(captions.texts):,}",
        "languages": describe_languages(languages, with_text_tower(config, languages)),
        "labels": f"{pairs[c.LABEL].nunique():,}",
        "pictures": "replaced by features" if config.features else f"{' × '.join(sizes)} pixels",
        "near-duplicates": f"{data_set.near_duplicates:,} of the pictures",
        "in quarantine": f"{len(data_set.quarantine):,} rows",
    }
    for name, fact in facts.items():
        console.print(plain(f"{name:24} {fact}"), soft_wrap=True)
    flagged = [
        (flags.sum(), CHECKS[check].label, captions.texts[int(flags.argmax())][:80])
        for check, flags in caption_flags(captions).items()
        if flags.any()
    ]
    first = pairs[[c.PAIR_ID, c.LABEL]].assign(captions=pairs[c.CAPTIONS].map(" | ".join))
    for title, rows, columns in (
        ("in quarantine", _reasons(data_set.quarantine), ["rows", "reason", "example"]),
        ("flagged captions", flagged, ["captions", "check", "example"]),
        (f"the first {_SHOWN} pairs", first.head(_SHOWN), first.columns.tolist()),
    ):
        console.print(make_table(title, rows, columns))
    for fault in faults_without_model(pairs, data_set.clusters):
        console.print(plain(f"{fault.kind}: {fault_cause(fault)}"), soft_wrap=True)


def _reasons(quarantine: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return the reasons in quarantine, the most common first, with an example each; all
    near-duplicates are one reason."""
    is_copy = quarantine[c.KIND] == c.NEAR_DUPLICATE
    reasons = quarantine[c.REASON].mask(is_copy, f"{c.NEAR_DUPLICATE} of another pair")
    sources = quarantine[c.SOURCE].astype(str).groupby(reasons.astype(str).rename("reason"))
    counts = sources.agg(rows="size", example="first").reset_index()
    return counts.sort_values("rows", ascending=False, kind="stable").to_dict("records")


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
        return JobRequest(jobs_folder() / ".checks" / key, ["preflight", *self.arguments])


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


def preflight(source: str, config: AuditConfig) -> None:
    """Report the content of a data set; its pictures are stored as in the audit."""
    config = resolve(prepare.with_features(source, config))
    screen = RichScreen()
    data_set = prepare.load_data_set(source, config, progress=screen.pictures)
    pairs = data_set.pairs
    quarantine = data_set.quarantine
    listed = quarantine[[c.SOURCE, c.REASON]].head(_LISTED)
    content = {
        "pairs": len(pairs),
        "captions": int(pairs[c.CAPTIONS].map(len).sum()),
        "quarantined": len(quarantine),
        "near_duplicates": data_set.near_duplicates,
        "reasons": _reasons(quarantine)[:_SHOWN],
        "rows_in_quarantine": listed.astype(str).to_numpy().tolist(),
        "groups": {},
    }
    screen.result(content)  # of a refused data set, too
    # Refuse what the audit would refuse
    membership = prepare.draw_membership(data_set.groups, config)
    prepare.inject(pairs, membership, config)
    screen.result(content | {"groups": pd.Series(membership.group).value_counts().to_dict()})
