"""Shows an audit on a terminal while it runs and when it is finished, and writes its results as a CSV file."""

import math
import time
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from clipmem_core import columns as c
from clipmem_core.audits.settings import typed, typed_flags
from clipmem_core.audits.status import MemberProgress, State
from clipmem_core.audits.store import Audit, audits_folder
from clipmem_core.audits.verdict import RELIABILITY, WHOLE_HEAD, likely_wrong, uses, whole_rows
from clipmem_core.columns import of_one_split
from clipmem_core.config import affecting, as_dict
from clipmem_core.scores.registry import PLANTED, scores_in

MEASURES = ("auroc", "average_precision", "precision_at_k", "auroc_difference", "average_precision_difference")


def command_of(audit: Audit) -> str:
    """Return the command that makes an audit again."""
    record = audit.record
    config = record.config
    # What depends on the machine or follows from others, nobody types.
    following = (
        *affecting("machine"),
        "members" if config.protocol == "paper" or config.members == 2 * config.folds else "",
    )
    words = ["python -m clipmem_core audit", record.source, f"--name {audit.name}", f"--preset {config.preset}"]
    given = {name: value for name, value in typed(as_dict(config)).items() if name not in following}
    return " ".join([*words, *typed_flags(given)])


def result_rows(audit: Audit) -> pd.DataFrame:
    """Return an audit's results as a tidy table: what, of, measure, value, low, high, kind."""
    verdict = audit.verdict
    rows: list[dict[str, Any]] = [
        {"what": "clipmem", "of": r["group"], "measure": "mean", "value": r["mean"], "low": r["low"], "high": r["high"]}
        | {"kind": c.of_one_split(r["kind"]), "n": r["n"]}
        for r in verdict["groups"]
    ]
    for planted in verdict["planted"]:
        names = [name for name in planted if name not in (c.PLANTED, "n")]
        rows += [
            {"what": "planted", "of": planted[c.PLANTED], "measure": name, "value": planted[name], "n": planted["n"]}
            for name in names
        ]
    for score in verdict["detection"]:
        rows += [
            {"what": "detection", "of": score["score"], "measure": name, "value": score[name]}
            | {"low": score.get(f"{name}_low"), "high": score.get(f"{name}_high"), "kind": "95% paired bootstrap"}
            for name in MEASURES
        ]
    rows += [
        _plain("membership", name, "auroc", value) for name, value in verdict["membership_auroc_by_member"].items()
    ]
    rows += [_plain("ranking", "halves of the members", "spearman", verdict["ranking_stability"])]
    rows += [_plain("ranking", "all members", "reliability", verdict[RELIABILITY])]
    rows += [
        _plain("encoders", "scored or candidate", name, verdict["encoders"][name]) for name in ("image", "text", "fit")
    ]
    for row in verdict["attacks"]:
        for over, kind in (("members", "95% interval over members"), ("pairs", "95% bootstrap over pairs")):
            ends = {"low": row[f"{over}_low"], "high": row[f"{over}_high"], "kind": kind, "n": row["targets"]}
            if row["value"] is not None and ends["low"] is not None:
                rows.append(_plain("attack", row["attack"], row["measure"], row["value"]) | ends)
    utility = audit.utility[~audit.utility[c.METRIC].isin(c.ATTACK_METRICS.values())]
    for metric, values in utility.groupby(c.METRIC, sort=False)[c.VALUE]:
        spread = {"low": values.min(), "high": values.max(), "kind": "range over members", "n": len(values)}
        rows.append(_plain("utility", "external", str(metric), values.mean()) | spread)
    rows += [_plain("seconds", "audit", name, verdict["seconds"][name]) for name in ("prepare", "members", "scoring")]
    rows += unit_rows(audit)
    return pd.DataFrame(rows, columns=["what", "of", "measure", "value", "low", "high", "kind", "n"])


def unit_rows(audit: Audit) -> list[dict[str, Any]]:
    """Return UnitMem by layer, of the members and of what it is read against; no row where it was not measured."""
    from clipmem_core.audits import unitmem as t  # torch

    units, references = t.read_units(audit), t.read_units(audit, t.REFERENCES)
    if units is None:
        return []
    rows = []
    for (tower, layer), values in t.layer_means(units).groupby([t.TOWER, t.LAYER], sort=False)[t.UNITMEM_MEAN]:
        spread = {"low": values.min(), "high": values.max(), "kind": "range over members", "n": len(values)}
        rows.append(_plain("unitmem", f"{tower} encoder, layer {layer}", "members", values.mean()) | spread)
    if references is not None:
        found = t.layer_means(references, by=[c.MEMBER, t.REFERENCE, t.TOWER, t.LAYER])
        for row in found.to_dict("records"):
            of, alone = f"{row[t.TOWER]} encoder, layer {row[t.LAYER]}", f"member {row[c.MEMBER]} alone"
            rows.append(_plain("unitmem", of, row[t.REFERENCE], row[t.UNITMEM_MEAN]) | {"kind": alone, "n": 1})
    return rows


def _plain(what: str, of: str, measure: str, value: Any) -> dict[str, Any]:
    return {"what": what, "of": of, "measure": measure, "value": value}


def write_results(audit: Audit, path: Path) -> None:
    """Write the table with a head of comment lines that say where it comes from."""
    record = audit.record
    head = [
        f"command: {command_of(audit)}",
        machine_line(record.machine, record.values),
        f"seeds: {', '.join(f'{name} {seed}' for name, seed in record.seeds.items())}",
        f"pairs: {record.pairs:,}, of which external (the gallery) {record.external_pairs:,}",
        f"data set: {record.dataset_fingerprint}",
    ]
    write_csv(path, head, result_rows(audit))


def machine_line(machine: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Say what something was computed on; `config` has device, precision and threads."""
    return (
        f"machine: {machine['processor']}, {machine['cores']} cores; {config['device']}, {config['precision']}, "
        f"{config['threads']} threads a member"
    )


def write_csv(path: Path, head: Sequence[str], rows: pd.DataFrame) -> None:
    """Write a table below comment lines."""
    body = rows.to_csv(index=False, float_format="%.5g")
    path.write_text("".join(f"# {line}\n" for line in head) + body, encoding="utf-8")


SECONDS_BETWEEN_LINES = 1.0  # that say on a pipe how many are done
PAGE = "http://localhost:8501/overview"  # where the dashboard shows an audit, unless it was started elsewhere


def plain(text: str) -> Text:
    """Return text of others as it is: markup stands for itself, and control characters do not reach the terminal."""
    shown = "".join(" " if char in "\t\r\n" else "�" if unicodedata.category(char) == "Cc" else char for char in text)
    return Text(shown)


class RichScreen:
    """Bars and lines; on a pipe, lines only."""

    def __init__(self, batch_size: int = 0) -> None:
        self.console = Console(highlight=False)
        self.batch_size = batch_size
        self.progress = Progress(
            TextColumn("{task.description:12}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
        )
        self.tasks: dict[str, TaskID] = {}
        self.stages: dict[str, str] = {}
        self.warned: set[str] = set()
        self.said, self.counted = "", 0.0  # the last line, and when a count was last printed

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        """Show a line."""
        self.said = text
        self.progress.console.print(plain(text), soft_wrap=True)

    def pictures(self, done: int, total: int) -> None:
        """Show how many pictures are finished."""
        self._count("pictures", done, total)

    def captions(self, done: int, total: int) -> None:
        """Show how many captions are finished."""
        self._count("captions", done, total)

    def members(self, progress: list[MemberProgress]) -> None:
        """Show how far each member is, and say once when one is done or its loss stays at chance."""
        for member in progress:
            if member.stage != "waiting":
                self._bar(f"member {member.name}", member.step, member.steps, self._note(member))
            if self.stages.get(member.name, "waiting") != member.stage and not self.console.is_terminal:
                self.say(f"member {member.name}: {member.stage}")
            self.stages[member.name] = member.stage
            if self.batch_size and member.at_chance(self.batch_size) and member.name not in self.warned:
                self.warned.add(member.name)
                self.say(
                    f"warning: member {member.name} still guesses (loss {member.loss:.2f}): "
                    "try another --lr, a smaller --batch-size or more --epochs"
                )

    def _note(self, member: MemberProgress) -> str:
        if member.stage != "training" or math.isnan(member.loss):
            return "" if member.stage == "training" else member.stage
        return f"loss {member.loss:.3f}  {member.samples_per_second:,.0f} samples/s"

    def _count(self, what: str, done: int, total: int) -> None:
        """Show a bar; on a pipe, a line now and then that says again what is counted for: a page reads the last."""
        if self.console.is_terminal:
            self._bar(what, done, total, "")
        elif done == total or time.monotonic() - self.counted >= SECONDS_BETWEEN_LINES:
            self.counted = time.monotonic()
            line = f"{done:,} of {total:,} {what}"
            self.console.print(plain(f"{self.said}: {line}" if self.said else line), soft_wrap=True)

    def _bar(self, name: str, done: int, total: int, note: str) -> None:
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total or None, note=note)
        self.progress.update(self.tasks[name], completed=done, total=total or None, note=note)


def show_verdict(audit: Audit) -> None:
    """Print an audit's tables and its verdict on itself."""
    console, verdict = Console(highlight=False), audit.verdict
    groups = [row | {"kind": of_one_split(row["kind"])} for row in verdict["groups"]]
    console.print(_table("clipmem by group", groups, ["group", "n", "mean", "low", "high", "kind"]))
    if verdict["planted"]:
        # Its parts beside clipmem.
        columns = ["planted", "n", *sorted(scores_in(PLANTED), key=lambda name: not name.startswith("clipmem"))]
        console.print(_table("planted pairs beside the others (means)", verdict["planted"], columns))
    if verdict["detection"]:
        rows = [_detection(row) for row in verdict["detection"]]
        console.print(_table("finding planted mis-captions, with 95 % bootstrap intervals", rows, list(rows[0])))
    if attacks := [row for row in verdict["attacks"] if row["value"] is not None]:
        console.print(_table("attacks on membership, each member by the others", attacks, list(attacks[0])[:-2]))
    utility = [{"metric": metric, "mean over members": value} for metric, value in verdict["utility"].items()]
    console.print(_table("utility", utility, ["metric", "mean over members"]))
    for check in verdict["checks"]:
        mark = {True: ("✓ ", "green"), False: ("✗ ", "red"), None: ("? ", "yellow")}[check["good"]]
        advice = f" → {check['advice']}" if check["advice"] else ""
        console.print(Text.assemble(mark, plain(check["sentence"] + advice)), soft_wrap=True)
    console.print()
    console.print(Text(verdict["sentence"], style="bold"), soft_wrap=True)
    if likely := likely_wrong(verdict)[0]:
        console.print(plain(likely), style="bold", soft_wrap=True)
    if whole := whole_rows(verdict):
        rows = [dict(zip(WHOLE_HEAD, row, strict=True)) for row in whole]
        console.print(_table(f"counts of all {audit.record.sampled_of:,} pairs", rows, list(WHOLE_HEAD)))
    for score, use in uses(verdict).items():
        console.print(Text.assemble("  ", (score, "bold"), f" {use}"), soft_wrap=True)
    console.print()
    console.print(plain(f"{audit.folder}"), soft_wrap=True)
    console.print(plain(f"browse it: `streamlit run app.py`, then {PAGE}?audit={audit.name}"), soft_wrap=True)


def show_audits(states: list[State], studies: list[str]) -> None:
    """Print how every audit stands, those at work first, and which studies there are."""
    console = Console(highlight=False)
    if states:
        columns = ["name", "state", "data set", "preset", "pairs", "members"]
        console.print(_table(f"audits in {audits_folder()}", [state.row for state in states], columns))
    else:
        console.print(plain(f"no audit in {audits_folder()}: python -m clipmem_core audit PATH --name NAME"))
    if studies:
        console.print(plain(f"studies: {', '.join(studies)}"), soft_wrap=True)


def _detection(row: dict[str, Any]) -> dict[str, Any]:
    """Return a detector's row for the screen: its metrics, and how far the first detector leads it."""
    shown = {
        "score": row["score"],
        "AUROC": row["auroc"],
        "AP": row["average_precision"],
        "P@50": row["precision_at_k"],
    }
    for short, name in (("AUROC", "auroc"), ("AP", "average_precision")):
        lead, low, high = (row[f"{name}_difference{end}"] for end in ("", "_low", "_high"))
        shown[f"behind in {short}"] = f"{lead:.3f} [{low:.2f}, {high:.2f}]" if lead else "–"
    return shown


def _table(title: str, rows: list[dict[str, Any]], columns: list[str]) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for column in columns:
        numbers = all(isinstance(row.get(column), (int, float, type(None))) for row in rows)
        table.add_column(column.removeprefix("clipmem_"), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    return table


def _cell(value: Any) -> Text:
    if value is None:
        return Text("–")
    if isinstance(value, float):
        return Text(f"{value:.3f}")
    return Text(f"{value:,}") if isinstance(value, int) else plain(str(value))
