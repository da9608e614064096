"""What a terminal and the form of a new audit show: progress, results, and the content of a data
set before its audit."""

import dataclasses
import functools
import math
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import rich.progress as bars
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipmem_core import config as configs
from clipmem_core.auditing.folder import prepare
from clipmem_core.auditing.folder.jobs import (
    Job,
    JobRequest,
    MemberProgress,
    Screen,
    audit_request,
    jobs_folder,
)
from clipmem_core.auditing.folder.prepare import (
    DataSet,
    FeaturePixels,
    check_same,
    faults_without_model,
)
from clipmem_core.auditing.folder.settings import check_config, resolve, resume_arguments
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.tables.fault_tables import fault_cause
from clipmem_core.auditing.tables.verdict import WHOLE_HEAD, summary_lines, uses, whole_rows
from clipmem_core.config import AuditConfig, as_dict, data_folder
from clipmem_core.dataset.checks import CHECKS, Captions, caption_flags
from clipmem_core.dataset.languages import language_shares
from clipmem_core.dataset.pictures import Pixels
from clipmem_core.dataset.source import check_source, read_source
from clipmem_core.features.tower_by_language import describe_languages, with_text_tower
from clipmem_core.scores.membership import MIN_PAIRS
from clipmem_core.scores.registry import INJECTED_SCORES
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError

_PAGE = "http://localhost:8501/overview"
_SHOWN = 5  # pairs, and reasons of a check
_LISTED = 1000  # rows in quarantine
PIXELS = 32  # enough to find near-duplicates


def plain(text: str) -> Text:
    """Return foreign text without markup and control characters."""
    return Text(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text))


class RichScreen(Screen):
    """Shows progress as bars and lines; on a pipe as lines only: one for each stage, and one for
    each tenth of it."""

    def __init__(self, batch_size: int = 0) -> None:
        super().__init__()
        self.console = Console(highlight=False)
        self.batch_size = batch_size
        self.progress = bars.Progress(
            bars.TextColumn("{task.description:12}"),
            bars.BarColumn(bar_width=28),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.tasks: dict[str, bars.TaskID] = {}
        self.warned: set[str] = set()
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

    def members(self, progress: list[MemberProgress]) -> None:
        """Show the progress of each member, and warn once if its loss stays at chance."""
        if not self.console.is_terminal:
            super().members(progress)
        for member in progress:
            if member.stage != "waiting":
                note = member.stage
                if note == "training" and not math.isnan(member.loss):
                    note = f"loss {member.loss:.3f}  {member.samples_per_second:,.0f} samples/s"
                self._bar(f"member {member.name}", member.step, member.steps, note)
            if member.at_chance(self.batch_size) and member.name not in self.warned:
                self.warned.add(member.name)
                self.say(
                    f"warning: the loss of member {member.name} is at chance ({member.loss:.2f}): "
                    "try another --lr, a smaller --batch-size or more --epochs"
                )

    def count(self, noun: str, done: int, total: int) -> None:
        super().count(noun, done, total)
        self._bar(noun, done, total)
        share, done, total, noun = min(self.counts.values())
        if not self.console.is_terminal and (tenths := int(10 * share)) > self.tenths:
            self.tenths = tenths
            self.console.print(f"{done:,} of {total:,} {noun}")

    def _bar(self, name: str, done: int, total: int, note: str = "") -> None:
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, note=note)
        self.progress.update(self.tasks[name], completed=done, total=total or None, note=note)


def show_verdict(audit: Audit) -> None:
    """Print an audit's tables, its checks of itself and its verdict."""
    console = Console(highlight=False)
    say = functools.partial(console.print, soft_wrap=True)
    verdict = audit.verdict

    def show(title: str, rows: Iterable[dict[str, Any]], columns: Sequence[str] = ()) -> None:
        if rows := list(rows):
            console.print(make_table(title, rows, columns or list(rows[0])))

    groups = [row | {"kind": c.of_one_split(row["kind"])} for row in verdict["groups"]]
    show("clipmem by group", groups, ["group", "n", "mean", "low", "high", "kind"])
    injected = [row | {"injected error": row["injected"]} for row in verdict["injected"]]
    columns = ["injected error", "n", *INJECTED_SCORES]
    show("injected errors and other pairs (means)", injected, columns)
    detection = map(_detection, verdict["detection"])
    show("detector accuracy on injected errors, with 95 % bootstrap intervals", detection)
    attacks = [row for row in verdict["attacks"] if row["value"] is not None]
    columns = ["attack", "measure", "value"]
    columns += [f"{what}_{end}" for what in ("members", "pairs") for end in ("low", "high")]
    show("attacks on membership, each member by the others", attacks, columns)
    utility = verdict["utility"].items()
    show("utility", [{"metric": name, "mean over members": value} for name, value in utility])
    for check in verdict["checks"]:
        mark = {True: ("✓ ", "green"), False: ("✗ ", "red"), None: ("? ", "yellow")}[check["good"]]
        advice = f" → {check['advice']}" if check["advice"] else ""
        say(Text.assemble(mark, plain(check["sentence"] + advice)))
    console.print()
    say(Text(verdict["sentence"], style="bold"))
    for line in filter(None, summary_lines(verdict)):
        say(plain(line), style="bold")
    counts = [dict(zip(WHOLE_HEAD, row, strict=True)) for row in whole_rows(verdict)]
    show(f"counts of all {audit.record.sampled_of:,} pairs", counts)
    for score, use in uses(verdict).items():
        say(Text.assemble("  ", (score, "bold"), f" {use}"))
    console.print()
    say(plain(str(audit.folder)))
    say(plain(f"browse it: `streamlit run app.py`, then {_PAGE}?audit={audit.name}"))


def _detection(row: dict[str, Any]) -> dict[str, Any]:
    """Return a detector's row for the screen: its metrics, and its distance to the best
    detector."""
    shown = {"score": row["score"], "P@50": row["precision_at_k"]}
    for short, name in (("AUROC", "auroc"), ("AP", "average_precision")):
        shown[short] = row[name]
        lead, low, high = (row[f"{name}_difference{end}"] for end in ("", "_low", "_high"))
        shown[f"behind in {short}"] = f"{lead:.3f} [{low:.2f}, {high:.2f}]" if lead else "–"
    return shown


def make_table(
    title: str,
    rows: Sequence[Mapping[Any, Any]],
    columns: Sequence[str],
    *,
    right: Sequence[str] = (),
) -> Table:
    """Return a table for the terminal, foreign text in it plain; numbers and the columns `right`
    are aligned right."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in columns:
        numbers = column in right or all(
            isinstance(row.get(column), (int, float, type(None))) for row in rows
        )
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    return table


def _cell(value: Any) -> Text:
    if value is None:
        return Text("–")
    if isinstance(value, float):
        return Text(f"{value:.3f}")
    return Text(f"{value:,}") if isinstance(value, int) else plain(str(value))


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
        console.print(plain(f"{fault.kind}: {fault_cause(fault)}"), soft_wrap=True)
    columns = [c.PAIR_ID, c.IMAGE, c.LABEL, c.CAPTIONS]
    first = pairs[columns].head(_SHOWN).to_dict("records")
    for row in first:
        row[c.LABEL] = None if pd.isna(row[c.LABEL]) else row[c.LABEL]
        row[c.CAPTIONS] = " | ".join(caption[:200] for caption in row[c.CAPTIONS])
    console.print(make_table(f"the first {_SHOWN} pairs", first, columns))


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
    screen = RichScreen()
    if config.features:
        data_set = prepare.load_data_set(source, config)
    else:
        raw, _ = prepare.sampled(read_source(source, config.source, data=data_folder()), config)
        rows = np.arange(len(raw.pairs))
        unread = DataSet(raw, raw.pairs, raw.quarantine, rows, Pixels(Path(), rows, 0))
        _report_content(screen, unread, config, exact=False)
        data_set = prepare.load_pictures(raw, config, progress=screen.pictures)
    _report_content(screen, data_set, config, exact=True)


def _report_content(screen: Screen, data_set: DataSet, config: AuditConfig, *, exact: bool) -> None:
    """Report the content of a data set; drawing the membership and injecting errors refuses what
    the audit would."""
    pairs = data_set.pairs
    quarantine = data_set.quarantine
    counts = pairs[c.CAPTIONS].map(len)
    listed = quarantine[[c.SOURCE, c.REASON]].head(_LISTED)
    content = {
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
    screen.result(content)  # of a refused data set, too
    membership = prepare.draw_membership(data_set.groups, config)
    prepare.inject(pairs, membership, config)
    screen.result(content | {"groups": pd.Series(membership.group).value_counts().to_dict()})
