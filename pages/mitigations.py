"""Mitigations: train the members of an audit again with settings on, and see memorization against
utility."""

import functools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core import figures as f
from clipmem_core.auditing.folder.jobs import JobRequest, jobs_folder
from clipmem_core.auditing.folder.settings import shares_process
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.dashboard.cards import draw_change_cards
from clipmem_core.dashboard.controls import draw_setting
from clipmem_core.dashboard.page import (
    choose_listed,
    draw_job_request,
    open_page,
    read_part,
    write_address,
)
from clipmem_core.dashboard.plain import (
    draw_fault,
    draw_figure,
    duration,
    explained_errors,
    in_a_row,
    show_command,
    show_strong,
    show_text,
)
from clipmem_core.lab import experiment as r
from clipmem_core.lab import mitigated
from clipmem_core.lab.lab_pool import LabPool
from clipmem_core.lab.setting import BASELINE, Setting, control_of
from clipmem_core.scores.metrics import interval_text
from clipmem_core.utils import columns as c

# Seconds: while a setting trains, and while nothing does
POLL = 0.4
HEARTBEAT = 10.0
PAIRS_SHOWN = 12  # of those that changed
PERCENT = (r.CLIPMEM_NET, mitigated.RETRIEVAL)
HELP = {
    r.CLIPMEM_NET: "Mean clipmem less that of held-out pairs, in % of the baseline's.",
    c.ATTACK_TPR: "Share of its training pairs that an attacker detects at 1 % FPR, who has the "
    "other members.",
    c.ATTACK_AUROC: "The same over all thresholds.",
    mitigated.MEMBERSHIP_AUROC: c.meaning(c.AUROC),
    mitigated.RETRIEVAL: "Mean of six recalls on held-out pairs, in % of the baseline's.",
    mitigated.SECONDS: "Seconds of training, relative to the baseline.",
}
shown_errors = functools.partial(
    explained_errors, "This part of the page cannot be shown.", ends=False
)


@st.cache_resource(show_spinner=False)
def pool_of(folder: Path) -> LabPool:
    """Return what trains the members of an audit's folder, which ends with this server."""
    return LabPool(Audit(folder))


def count_members(audit: Audit, setting: str) -> tuple[int, int]:
    """Return on how many members a setting is compared, and how many there are."""
    return len(mitigated.compared_members(audit, setting)), len(mitigated.paired_members(audit))


def time_needed(audit: Audit, members: int) -> str:
    """Return how long members train, as text; empty if that is unknown."""
    time = duration(mitigated.seconds_needed(audit, members))
    return f", about {time}" if time else ""


def draw_lab(audit: Audit) -> None:
    """Draw the chart beside the switches of an audit, then what the chosen setting changes."""
    left, right = st.columns([5, 3], gap="medium")
    with left, shown_errors(), st.spinner("Measuring the audit's members…"):
        mitigated.ensure_baseline(audit, mitigated.FIRST_MEMBERS)
    titles = {}
    provisional = []
    for name, title in {BASELINE: "baseline", **mitigated.list_settings(audit)}.items():
        done, total = count_members(audit, name)
        if done >= min(mitigated.FIRST_MEMBERS, total):
            titles[name] = title
            if done < total:
                titles[name] += f" ({done} of {total} members)"
                provisional.append(name)
    trained = {name: title for name, title in titles.items() if name != BASELINE}
    texts = {mitigated.read_setting(audit, name).text: title for name, title in trained.items()}
    with right:
        setting = draw_setting(audit, texts)
    with left:
        with explained_errors("This setting cannot be trained."):
            setting = mitigated.begin(audit, setting)
        chosen = setting.name if setting.name in trained else None
        compared = r.differences(mitigated.lab_table(audit, [*trained, BASELINE]))
        done, total = count_members(audit, setting.name)
        if chosen:
            unsure = chosen in provisional
            sentence = r.sentence_of(compared, chosen, trained[chosen])
            show_strong(f"{'Provisional: ' * unsure}{sentence}", provisional=unsure)
        elif not setting.overrides:
            st.caption(
                f"Switch a mitigation on: models train with it{time_needed(audit, total)}, and its "
                "point appears here."
            )
        control = control_of(setting)
        if control and done == total:
            control = mitigated.begin(audit, control)
            if control.name in trained:
                show_text(r.sentence_of(compared, control.name, trained[control.name]))
            r.store_effect(audit, setting)
            follow(audit, control)
        else:
            follow(audit, setting)
        if BASELINE in titles:
            draw_chart(compared, titles, chosen, provisional)
    if trained:
        with shown_errors():
            draw_table(compared, trained, r.OF_MEMBERS, chosen, provisional)
    if chosen:
        st.caption(
            "The intervals cover another training on the same pairs, not other pairs. Before you "
            "rely on a small difference, repeat it on several splits of the pairs: "
            "`python -m clipmem_core study`."
        )
        with st.popover("Remove this setting"):
            if st.button("Delete its results"):
                mitigated.remove_setting(audit, chosen)
                write_address(setting=None, page=None)
                st.rerun()
        words = ["python", "-m", "clipmem_core", "mitigate", audit.name, *setting.flags]
        show_command(shlex.join(words))
        with shown_errors():
            draw_changed_pairs(audit, chosen)


def follow(audit: Audit, setting: Setting) -> None:
    """Report that the page is open, draw the progress of a setting, and rerun the page when members
    are finished."""
    seen, total = count_members(audit, setting.name)
    is_pending = seen < total or count_members(audit, BASELINE)[0] < total
    st.fragment(run_every=POLL if is_pending else HEARTBEAT)(draw_training)(audit, setting, seen)


def draw_training(audit: Audit, setting: Setting, seen: int) -> None:
    """Train a setting in processes of this server or by a job, and draw its progress."""
    with shown_errors():
        if measured := len(mitigated.finished_members(audit, BASELINE)):  # else its fault is shown
            mitigated.ensure_baseline(audit, measured + 2)
        done, total = count_members(audit, setting.name)
        if shares_process(audit.record.config):
            if fault := pool_of(audit.folder).ask(setting.name):
                draw_fault("The training stopped.", fault)
                if st.button("Try again"):
                    pool_of(audit.folder).ask(setting.name, again=True)
                    st.rerun()
                return
        elif setting.overrides and done < total:
            folder = jobs_folder() / ".mitigations" / audit.name / setting.name
            draw_job_request(
                JobRequest(folder, ["mitigate", audit.name, *setting.flags]),
                reason=f"{total - done} members train again{time_needed(audit, total - done)}.",
                label="Train",
            )
        # Once enough are finished, twice as many as the page has seen, and all
        first = mitigated.FIRST_MEMBERS if seen < mitigated.FIRST_MEMBERS else 2 * seen
        if done >= min(first, total) > seen:
            st.rerun()
        if setting.overrides and done < total:
            text = f"{done} of {total} members{time_needed(audit, total - done)} left"
            st.progress(done / total, text=text)


def draw_chart(
    table: pd.DataFrame, titles: Mapping[str, str], chosen: str | None, provisional: Sequence[str]
) -> None:
    """Draw utility against memorization with intervals, and the choice of both measures."""
    chart = st.container()
    measured = set(table["measure"])
    with in_a_row("bottom"):
        memorized, useful = (
            choose_listed(
                label,
                {name: text for name, text in names.items() if name in measured},
                parameter=label.lower(),
                width=225,
            )
            for label, names in (("Memorization", r.MEMORIZATIONS), ("Utility", r.UTILITIES))
        )
    # A row per setting: the baseline, plus the difference with half its interval. Settings without
    # all members, or pairs, are compared with the baseline on the same ones.
    columns = dict[str, pd.Series]()
    for axis, error, measure in (
        (f.MEMORIZATION, f.MEMORIZATION_ERROR, memorized),
        (f.UTILITY, f.UTILITY_ERROR, useful),
    ):
        rows = table[table["measure"] == measure].set_index(mitigated.SETTING)
        columns[axis] = rows["difference"] + rows["value"][BASELINE]
        columns[error] = rows["high"] - rows["difference"]
    points = pd.DataFrame(columns).dropna(subset=[f.MEMORIZATION, f.UTILITY])
    points = points.rename_axis(mitigated.SETTING).sort_values(f.MEMORIZATION)
    points[f.TITLE] = [titles.get(setting, "baseline") for setting in points.index]
    final = points.drop(index=provisional, errors="ignore").reset_index()
    best = r.front(final, f.MEMORIZATION, f.UTILITY)
    kinds = dict.fromkeys(best, f.PARETO_OPTIMAL) | dict.fromkeys(provisional, f.PROVISIONAL)
    kinds[BASELINE] = f.BASELINE
    points[f.KIND] = [kinds.get(setting, f.DOMINATED) for setting in points.index]
    labels = (r.MEASURE_LABELS[memorized], r.MEASURE_LABELS[useful])
    with chart:
        draw_figure(
            f.tradeoff_figure(
                points,
                titles=labels,
                chosen=chosen if chosen in points.index else None,
                start=0.5 if memorized in r.AUROCS else 0.0,
            ),
            key="mitigation-chart",
            alt=f"{labels[1]} against {labels[0]} of {len(points)} settings. Pareto-optimal, from "
            f"the least memorized: {', '.join(best)}.",
        )
        show_text("\n".join(f"{at} {title}" for at, title in enumerate(points[f.TITLE], 1)))
    st.caption(
        "Bars: 95 % interval; for a setting, of its difference from the baseline. Hollow points "
        "are provisional: some members are still training."
    )


def draw_table(
    table: pd.DataFrame,
    titles: Mapping[str, str],
    over: str,
    chosen: str | None,
    provisional: Sequence[str],
) -> None:
    """Draw every setting against the baseline in a table, the chosen one first, provisional ones
    in grey."""
    st.subheader("Each setting against the baseline")
    rows = table[table[mitigated.SETTING] != BASELINE].dropna(subset=["difference"])
    rows = rows.assign(text=[cell_text(row) for row in rows.to_dict("records")])
    cells = rows.pivot(index=mitigated.SETTING, columns="measure", values="text").fillna("–")
    cells = cells.reindex(columns=[name for name in r.MEASURE_LABELS if name in cells])
    cells.insert(0, "setting", [titles.get(setting, setting) for setting in cells.index])
    cells.insert(1, "n", rows.groupby(mitigated.SETTING)["n"].max())
    cells = cells.sort_index(key=lambda settings: settings != chosen, kind="stable")
    columns: dict[str, Any] = {
        name: st.column_config.TextColumn(head, help=HELP.get(name))
        for name, head in r.MEASURE_LABELS.items()
    }
    columns["setting"] = st.column_config.TextColumn(pinned=True)
    columns["n"] = st.column_config.NumberColumn(help=f"How many {over} are compared.")
    st.dataframe(
        cells.style.set_properties(pd.IndexSlice[cells.index.isin(provisional), :], color="grey"),
        hide_index=True,
        column_config=columns,
        alt=f"Differences of {len(cells)} settings to the baseline, with intervals over {over}",
    )
    st.caption(
        f"Mean difference from the baseline, in brackets its 95 % interval over {over}. *: other "
        "than 0, corrected for the number of settings (Holm)."
    )


def cell_text(row: Mapping[Any, Any]) -> str:
    """Return the text of a cell, with * if it differs from 0 after Holm's correction."""
    if row["measure"] == mitigated.SECONDS:
        return f"×{row['value'] / row['baseline']:.2f}"
    star = " *" if row[r.P_OF_ALL] < r.SIGNIFICANCE else ""
    if row["measure"] in PERCENT:
        return f"{r.relative(row)}{star}"
    return f"{interval_text(row['difference'], row['low'], row['high'], '+z.3f')}{star}"


def draw_changed_pairs(audit: Audit, setting: str) -> None:
    """Draw the pairs whose clipmem changed most from the baseline to a setting, a page of them."""
    members = mitigated.compared_members(audit, setting)
    one, other = (mitigated.clipmem_by_pair(audit, name, members) for name in (BASELINE, setting))
    pairs = pd.DataFrame({"one": one, "other": other, "difference": other - one})
    pairs = pairs.assign(row_one=pairs.index, row_other=pairs.index)
    pairs = pairs[mitigated.read_changes(audit, setting).compared].dropna()
    pairs = pairs.sort_values("difference", key=lambda change: -change.abs(), kind="stable")
    st.subheader("Pairs that changed most")
    st.caption(
        f"By the change of their clipmem in {len(members)} members. The largest changes are "
        "partly chance."
    )
    shown, draw_numbers = read_part(pairs, PAIRS_SHOWN)
    draw_change_cards(audit, audit, c.CLIPMEM, shown, key="mitigation")
    draw_numbers()


with open_page("Mitigations") as audit:
    studies = [study.name for study in r.Study.every() if study.rows_files]
    study = ""
    if studies:
        names = {"": f"this audit: {audit.name}"} | {name: f"study: {name}" for name in studies}
        clears = ["setting", "page"]
        study = choose_listed("Results of", names, parameter="study", clears=clears, width=400)
    if study:
        rows = r.Study.open(study).rows
        compared = r.differences(rows)
        titles = r.titles_of(rows)
        for setting in compared[mitigated.SETTING].unique():
            if setting in titles:
                show_text(r.sentence_of(compared, setting, titles[setting]))
        draw_chart(compared, titles, None, ())
        draw_table(compared, titles, r.OF_SPLITS, None, ())
    else:
        draw_lab(audit)
