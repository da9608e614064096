"""The results of a study: on a terminal, and as the small CSV behind a table of results, with what made it."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipmem_core import columns as c
from clipmem_core.audits.console import machine_line, plain, write_csv
from clipmem_core.config import InputError
from clipmem_core.studies.arguments import commands_of
from clipmem_core.studies.effects import TEXT_LEAD, all_differences, counted, differences, replicates, with_lead
from clipmem_core.studies.plans import find_study
from clipmem_core.studies.scaling import extrapolated
from clipmem_core.studies.store import (
    ARM,
    CLIPMEM_CANDIDATE,
    EPOCH,
    MEMBERSHIP_AUROC,
    PEAK_MB,
    RETRIEVAL,
    SECONDS,
    SEED,
    SPLIT,
    StudyFolder,
)

HEADS = {
    ARM: "arm",
    EPOCH: "epoch",
    CLIPMEM_CANDIDATE: "clipmem",
    MEMBERSHIP_AUROC: "AUROC",
    c.CLIPMEM_IMAGE: "image",
    c.CLIPMEM_TEXT: "text",
    TEXT_LEAD: "text − image",
    RETRIEVAL: "retrieval",
    SECONDS: "s",
    PEAK_MB: "MB",
}
COMPARED = (CLIPMEM_CANDIDATE, MEMBERSHIP_AUROC, TEXT_LEAD, RETRIEVAL)
PRICED = (SECONDS, PEAK_MB)
FURTHER = {c.ONE_SPLIT: "; other pairs drawn for each group may move a result further"}


def sentences(study: StudyFolder) -> list[str]:
    """Return what came out of a study, in plain sentences."""
    plan, arms = find_study(study.asked["study"]), study.arms
    if arms.empty:
        return []
    told, over = plan.answer(with_lead(arms), study.times), replicates(arms)
    if plan.extrapolates:
        told = [*told, *extrapolated(with_lead(arms), study.asked.get("at", 0))]
    if any("[" in sentence for sentence in told):
        told = [*told, f"In brackets: 95 % intervals over {over}{FURTHER.get(over, '')}."]
    return [*told, plan.untuned] if plan.untuned else told


def show_study(study: StudyFolder) -> None:
    """Print a study's tables and its answer."""
    console, asked, times = Console(highlight=False), study.asked, study.times
    arms = study.arms
    console.print(_arms_table(differences(arms, asked["reference"]), asked["reference"], arms))
    if len(times):
        console.print(_times_table(times))
    for sentence in sentences(study):
        console.print(plain(sentence), style="bold", soft_wrap=True)
    console.print()
    console.print(plain(str(study.folder)), soft_wrap=True)


def result_rows(study: StudyFolder) -> pd.DataFrame:
    """Return a study's results as a tidy table: each arm and measure with its paired difference to a reference; arms
    that leave tokens out have rows for each of the two that they are compared with.

    Of a study that keeps snapshots, rows of each epoch follow: the mean over seeds, lowest and highest.
    """
    rows = all_differences(study.arms, study.asked["reference"])
    times = study.times
    if times.empty:
        return rows
    measures = [name for name in times.columns if name not in (ARM, SEED, SPLIT, EPOCH)]
    long = times.melt(id_vars=[ARM, SEED, EPOCH], value_vars=measures, var_name="measure")
    found = long.groupby([ARM, EPOCH, "measure"], sort=False)["value"].agg(["size", "mean", "min", "max"])
    named = {"size": "n", "mean": "value", "min": "low", "max": "high"}
    return pd.concat([rows, found.rename(columns=named).reset_index()], ignore_index=True)


def write_results(study: StudyFolder, path: Path) -> None:
    """Write the table with a head of comment lines that say where it comes from and what came out.

    Raises:
        InputError: no arm has a row yet.
    """
    if study.arms.empty:
        raise InputError(f"study {study.name!r} has no result yet: run it again, it goes on where it stopped")
    asked = study.asked
    config = asked["config"]
    head = [
        *(f"command: {command}" for command in commands_of(study)),
        machine_line(asked["machine"], config),
        f"seeds: {', '.join(str(config['seed'] + number) for number in range(config['seeds']))}",
        f"value: mean over seeds; low, high: 95 % interval over {replicates(study.arms)} of the paired difference to "
        "the arm in the column reference, of an epoch the lowest and highest seed; n: how many; low_of_all, "
        "high_of_all: the same for all arms at once (Bonferroni's t); p_of_all: Holm's p",
        *sentences(study),
    ]
    write_csv(path, head, result_rows(study))


def _arms_table(table: pd.DataFrame, reference: str, arms: pd.DataFrame) -> Table:
    half = f"half their 95 % interval over {replicates(arms)}; *: other than 0 after Holm's correction for all arms"
    over = counted(int(table["n"].max()), arms)
    shown = _table(f"{reference} over {over}, and paired differences to it with {half}")
    measures = [name for name in (*COMPARED, *PRICED) if (table["measure"] == name).any()]
    for name in (ARM, *measures):
        shown.add_column(HEADS[name], justify="left" if name == ARM else "right", overflow="fold")
    for arm, rows in table.groupby(ARM, sort=False):
        of = {str(row["measure"]): row for row in rows.to_dict("records")}
        shown.add_row(plain(str(arm)), *(_cell(of.get(name), name, arm == reference) for name in measures))
    return shown


def _cell(row: Mapping[Hashable, Any] | None, measure: str, is_reference: bool) -> Text:
    if row is None:
        return Text("–")
    if measure in PRICED:
        return Text(f"{row['value']:,.0f}")
    if is_reference:
        return Text(f"{row['value']:.3f}")
    half = "" if pd.isna(row["low"]) else f" ± {(row['high'] - row['low']) / 2:.3f}"
    return Text(f"{row['difference']:+.3f}{half}{'*' if row['p_of_all'] < 0.05 else ''}")


def _times_table(times: pd.DataFrame) -> Table:
    measures = [CLIPMEM_CANDIDATE, c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT, MEMBERSHIP_AUROC]
    shown = _table("means over seeds after each epoch")
    for name in (EPOCH, *measures):
        shown.add_column(HEADS[name], justify="right")
    for epoch, means in times.groupby(EPOCH)[measures].mean().iterrows():
        shown.add_row(str(epoch), *(f"{means[name]:.3f}" for name in measures))
    return shown


def _table(title: str) -> Table:
    style: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "pad_edge": False}
    return Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), **style)
