"""Shows the progress and results of an audit on a terminal."""

import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import rich.progress as bars
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipmem_core.auditing.folder.jobs import report
from clipmem_core.auditing.folder.status import MemberProgress, TaskScreen
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.tables.verdict import WHOLE_HEAD, summary_lines, uses, whole_rows
from clipmem_core.scores.registry import INJECTED_SCORES
from clipmem_core.utils import columns as c

_PAGE = "http://localhost:8501/overview"


def plain(text: str) -> Text:
    """Return foreign text without markup and control characters."""
    return Text(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text))


class RichScreen(TaskScreen):
    """Progress bars and lines; on a pipe, lines only: one for each stage, and one for each tenth of
    it."""

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
        # On a pipe: share, done, total and noun of what the stage counts, and its printed tenths
        self.counts: dict[str, tuple[float, int, int, str]] = {}
        self.tenths = 0

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        report(stage=text, total=0)
        self.counts.clear()
        self.tenths = 0
        self.progress.console.print(plain(text), soft_wrap=True)

    def members(self, progress: list[MemberProgress]) -> None:
        """Show the progress of each member, and warn once if its loss stays at chance."""
        if not self.console.is_terminal:
            trained = sum(member.share for member in progress)
            self._count("% trained", round(100 * trained / len(progress)), 100)
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

    def _count(self, noun: str, done: int, total: int) -> None:
        """Show a bar; on a pipe, report and print what is furthest from its end."""
        if self.console.is_terminal:
            self._bar(noun, done, total)
            return
        self.counts[noun] = done / max(1, total), done, total, noun
        share, done, total, noun = min(self.counts.values())
        super()._count(noun, done, total)
        if (tenths := int(10 * share)) > self.tenths:
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
