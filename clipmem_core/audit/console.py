"""Shows the progress and results of an audit on a terminal, and writes its results as a CSV
file."""

import math
import shlex
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import pandas as pd
import rich.progress as bars
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipmem_core import columns as c
from clipmem_core.audit.settings import typed, typed_flags
from clipmem_core.audit.status import MemberProgress, State
from clipmem_core.audit.store import Audit, audits_folder
from clipmem_core.audit.verdict import RELIABILITY, WHOLE_HEAD, summary_lines, uses, whole_rows
from clipmem_core.config import AuditConfig, affecting, as_dict
from clipmem_core.scores.registry import INJECTED_SCORES

MEASURES = (
    "auroc",
    "average_precision",
    "precision_at_k",
    "auroc_difference",
    "average_precision_difference",
)
_SECONDS_BETWEEN_LINES = 1.0  # of counts, on a pipe
_PAGE = "http://localhost:8501/overview"


def reproducing_command(
    words: Sequence[str], config: AuditConfig, defaults: Mapping[str, Any] = MappingProxyType({})
) -> str:
    """Return the command that reproduces a run: its words, and the fields of the config that differ
    from its preset or from the command's own `defaults`."""
    values = as_dict(config)
    fields = typed(values) | {name: values[name] for name in defaults}
    # Without fields that depend on the machine or follow from others
    omitted = [*affecting("machine")]
    if config.protocol == "paper" or config.members == 2 * config.folds:
        omitted.append("members")
    flags = {
        name: value
        for name, value in fields.items()
        if name not in omitted and (name not in defaults or value != defaults[name])
    }
    start = ["python", "-m", "clipmem_core", *words, f"--preset={config.preset}"]
    return shlex.join([*start, *typed_flags(flags)])


def result_rows(audit: Audit) -> pd.DataFrame:
    """Return an audit's results as a tidy table: what, of, measure, value, low, high, kind, n."""
    verdict = audit.verdict
    rows = list[tuple[Any, ...]]()

    def add(*row: Any) -> None:
        rows.append(row)

    for row in verdict["groups"]:
        kind = c.of_one_split(row["kind"])
        ends = (row["low"], row["high"])
        add("clipmem", row["group"], "mean", row["mean"], *ends, kind, row["n"])
    for row in verdict["injected"]:
        for name in (name for name in row if name not in (c.INJECTED, "n")):
            add("injected", row[c.INJECTED], name, row[name], None, None, None, row["n"])
    for row in verdict["detection"]:
        for name in MEASURES:
            ends = (row.get(f"{name}_low"), row.get(f"{name}_high"))
            add("detection", row["score"], name, row[name], *ends, "95% paired bootstrap")
    for name, value in verdict["membership_auroc_by_member"].items():
        add("membership", name, "auroc", value)
    add("ranking", "halves of the members", "spearman", verdict["ranking_stability"])
    add("ranking", "all members", "reliability", verdict[RELIABILITY])
    for name in ("image", "text", "fit"):
        add("encoders", "scored or candidate", name, verdict["encoders"][name])
    for row in verdict["attacks"]:
        for unit, kind in (
            ("members", "95% interval over members"),
            ("pairs", "95% bootstrap over pairs"),
        ):
            ends = (row[f"{unit}_low"], row[f"{unit}_high"])
            if row["value"] is not None and ends[0] is not None:
                measured = (row["attack"], row["measure"], row["value"])
                add("attack", *measured, *ends, kind, row["targets"])
    utility = audit.utility[~audit.utility[c.METRIC].isin(c.ATTACK_METRICS.values())]
    for metric, values in utility.groupby(c.METRIC, sort=False)[c.VALUE]:
        ends = (values.min(), values.max())
        add("utility", "external", metric, values.mean(), *ends, "range over members", len(values))
    for name, value in audit.seconds.items():
        add("seconds", "audit", name, value)
    return pd.DataFrame(
        rows, columns=["what", "of", "measure", "value", "low", "high", "kind", "n"]
    )


def write_audit_results(audit: Audit, path: Path) -> None:
    """Write an audit's results as a CSV file."""
    record = audit.record
    write_results(
        path,
        result_rows(audit),
        command=reproducing_command(
            ["audit", record.source, f"--name={audit.name}"], record.config
        ),
        machine=record.machine,
        config=record.config,
        seeds=", ".join(f"{name} {seed}" for name, seed in record.seeds.items()),
        notes=[
            f"pairs: {record.pairs:,}, of which external (the gallery) {record.external_pairs:,}",
            f"data set: {record.dataset_fingerprint}",
        ],
    )


def write_results(
    path: Path,
    rows: pd.DataFrame,
    *,
    command: str,
    machine: Mapping[str, Any],
    config: AuditConfig,
    seeds: str,
    notes: Sequence[str],
) -> None:
    """Write results below comment lines with the command, the machine and how a config uses it, the
    seeds and notes."""
    head = [
        f"command: {command}",
        f"machine: {machine['processor']}, {machine['cores']} cores; {config.device}, "
        f"{config.precision}, {config.threads} threads a member",
        f"seeds: {seeds}",
        *notes,
    ]
    write_csv(path, head, rows)


def write_csv(path: Path, head: Sequence[str], rows: pd.DataFrame) -> None:
    """Write a table below comment lines."""
    body = rows.to_csv(index=False, float_format="%.5g")
    path.write_text("".join(f"# {line}\n" for line in head) + body, encoding="utf-8")


def plain(text: str) -> Text:
    """Return foreign text without markup and control characters."""
    shown = "".join(
        " " if char in "\t\r\n" else "�" if unicodedata.category(char) == "Cc" else char
        for char in text
    )
    return Text(shown)


class RichScreen:
    """Progress bars and lines; on a pipe, lines only."""

    def __init__(self, batch_size: int = 0) -> None:
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
        )
        self.tasks: dict[str, bars.TaskID] = {}
        self.stages: dict[str, str] = {}
        self.warned: set[str] = set()
        # the second is the time of the last printed count
        self.last_line = ""
        self.counted = 0.0

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        self.last_line = text
        self.progress.console.print(plain(text), soft_wrap=True)

    def pictures(self, done: int, total: int) -> None:
        self._count("pictures", done, total)

    def captions(self, done: int, total: int) -> None:
        self._count("captions", done, total)

    def members(self, progress: list[MemberProgress]) -> None:
        """Show the progress of each member, and warn once if its loss stays at chance."""
        for member in progress:
            if member.stage != "waiting":
                note = member.stage if member.stage != "training" else ""
                if not note and not math.isnan(member.loss):
                    note = f"loss {member.loss:.3f}  {member.samples_per_second:,.0f} samples/s"
                self._bar(f"member {member.name}", member.step, member.steps, note)
            if (
                self.stages.get(member.name, "waiting") != member.stage
                and not self.console.is_terminal
            ):
                self.say(f"member {member.name}: {member.stage}")
            self.stages[member.name] = member.stage
            if member.at_chance(self.batch_size) and member.name not in self.warned:
                self.warned.add(member.name)
                self.say(
                    f"warning: the loss of member {member.name} is at chance ({member.loss:.2f}): "
                    "try another --lr, a smaller --batch-size or more --epochs"
                )

    def _count(self, what: str, done: int, total: int) -> None:
        """Show a bar; on a pipe, print a line once a second that repeats the stage, because a page
        reads one line."""
        if self.console.is_terminal:
            self._bar(what, done, total)
        elif done == total or time.monotonic() - self.counted >= _SECONDS_BETWEEN_LINES:
            self.counted = time.monotonic()
            line = f"{done:,} of {total:,} {what}"
            self.console.print(
                plain(f"{self.last_line}: {line}" if self.last_line else line), soft_wrap=True
            )

    def _bar(self, name: str, done: int, total: int, note: str = "") -> None:
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, note=note)
        self.progress.update(self.tasks[name], completed=done, total=total or None, note=note)


def show_verdict(audit: Audit) -> None:
    """Print an audit's tables, its checks of itself and its verdict."""
    console = Console(highlight=False)
    verdict = audit.verdict

    def show(title: str, rows: Iterable[dict[str, Any]], columns: Sequence[str] = ()) -> None:
        if rows := list(rows):
            console.print(make_table(title, rows, columns or list(rows[0])))

    groups = [row | {"kind": c.of_one_split(row["kind"])} for row in verdict["groups"]]
    show("clipmem by group", groups, ["group", "n", "mean", "low", "high", "kind"])
    injected = [row | {"injected error": row["injected"]} for row in verdict["injected"]]
    show(
        "injected errors and other pairs (means)",
        injected,
        ["injected error", "n", *INJECTED_SCORES],
    )
    show(
        "detector accuracy on injected errors, with 95 % bootstrap intervals",
        map(_detection, verdict["detection"]),
    )
    attacks = [row for row in verdict["attacks"] if row["value"] is not None]
    show(
        "attacks on membership, each member by the others",
        attacks,
        list(attacks[0])[:-2] if attacks else (),
    )
    show(
        "utility",
        [
            {"metric": name, "mean over members": value}
            for name, value in verdict["utility"].items()
        ],
    )
    for check in verdict["checks"]:
        mark = {True: ("✓ ", "green"), False: ("✗ ", "red"), None: ("? ", "yellow")}[check["good"]]
        advice = f" → {check['advice']}" if check["advice"] else ""
        console.print(Text.assemble(mark, plain(check["sentence"] + advice)), soft_wrap=True)
    console.print()
    console.print(Text(verdict["sentence"], style="bold"), soft_wrap=True)
    for line in filter(None, summary_lines(verdict)):
        console.print(plain(line), style="bold", soft_wrap=True)
    counts = [dict(zip(WHOLE_HEAD, row, strict=True)) for row in whole_rows(verdict)]
    show(f"counts of all {audit.record.sampled_of:,} pairs", counts)
    for score, use in uses(verdict).items():
        console.print(Text.assemble("  ", (score, "bold"), f" {use}"), soft_wrap=True)
    console.print()
    console.print(plain(f"{audit.folder}"), soft_wrap=True)
    console.print(
        plain(f"browse it: `streamlit run app.py`, then {_PAGE}?audit={audit.name}"), soft_wrap=True
    )


def show_audits(states: list[State], studies: list[str]) -> None:
    """Print the state of every audit, and the names of the studies."""
    console = Console(highlight=False)
    if states:
        columns = ["name", "state", "data set", "preset", "pairs", "members"]
        console.print(
            make_table(f"audits in {audits_folder()}", [state.row for state in states], columns)
        )
    else:
        console.print(
            plain(f"no audit in {audits_folder()}: python -m clipmem_core audit PATH --name NAME")
        )
    if studies:
        console.print(plain(f"studies: {', '.join(studies)}"), soft_wrap=True)


def _detection(row: dict[str, Any]) -> dict[str, Any]:
    """Return a detector's row for the screen: its metrics, and its distance to the best
    detector."""
    names = {
        "score": "score",
        "AUROC": "auroc",
        "AP": "average_precision",
        "P@50": "precision_at_k",
    }
    shown = {short: row[name] for short, name in names.items()}
    for short, name in (("AUROC", "auroc"), ("AP", "average_precision")):
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
