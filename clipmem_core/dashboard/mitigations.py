"""The page Mitigations: a setting trains, by workers that wait beside an open page or by a job, and
its results."""

import functools
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from clipmem_core import columns as c
from clipmem_core import glossary
from clipmem_core.audit.executor import STDERR, Task, start
from clipmem_core.audit.settings import shares_process, side_by_side
from clipmem_core.audit.status import Task as JobTask
from clipmem_core.audit.status import jobs_folder
from clipmem_core.audit.store import MITIGATIONS, Audit
from clipmem_core.dashboard.cards import draw_change_cards
from clipmem_core.dashboard.controls import PARAMETER, draw_setting
from clipmem_core.dashboard.page import PAGE, choose_listed, draw_pages, read_page, write_address
from clipmem_core.dashboard.plain import (
    draw_fault,
    draw_figure,
    duration,
    explained_errors,
    in_a_row,
    show_command,
    show_strong,
)
from clipmem_core.dashboard.running import draw_task
from clipmem_core.figures import MEMORIZATION, TEXT, UTILITY, means_figure, tradeoff_figure
from clipmem_core.io import InputError
from clipmem_core.scores.seeds import interval_text
from clipmem_core.studies import lab
from clipmem_core.studies import results as r
from clipmem_core.studies.arm import BASELINE, Arm

# Key in the session of the name by which its page is known to the workers
_SESSION = "mitigation-session"
# Seconds: while a setting trains, and while nothing does
_POLL = 0.4
_HEARTBEAT = 10.0
_PAIRS_SHOWN = 12  # of those that changed
_PERCENT = (r.CLIPMEM_NET, lab.RETRIEVAL)
_HELP = {
    r.CLIPMEM_NET: "Mean clipmem less that of held-out pairs, in % of the baseline's.",
    c.ATTACK_TPR: "Share of its training pairs that an attacker detects at 1 % FPR, who has the "
    "other members.",
    c.ATTACK_AUROC: "The same over all thresholds.",
    lab.MEMBERSHIP_AUROC: glossary.meaning(glossary.AUROC),
    c.CLIPMEM_IMAGE: "The image encoder's part of clipmem.",
    c.CLIPMEM_TEXT: "The text encoder's part of clipmem.",
    lab.RETRIEVAL: "Mean of six recalls on held-out pairs, in % of the baseline's.",
    "linear_probe": "Accuracy of a linear probe.",
    "zero_shot": "Accuracy without any training on labels.",
    lab.SECONDS: "Seconds of training, relative to the baseline.",
}
_shown_errors = functools.partial(explained_errors, "This part of the page", ends=False)


# Processes that train heads for the open pages of an audit, by the file of their errors
Workers = dict[Path, "subprocess.Popen[bytes]"]


@st.cache_resource(show_spinner=False)
def _workers_of(folder: Path) -> Workers:
    """Return the workers of an audit's folder, which end with this server."""
    return {}


def ensure_workers(audit: Audit) -> Workers:
    """Start the workers of an audit unless they run or failed."""
    workers = _workers_of(audit.folder)
    if _fault_of(workers) or any(process.poll() is None for process in workers.values()):
        return workers
    workers.clear()
    work = "clipmem_core.studies.training:serve"
    for number in range(side_by_side(audit.record.config)):
        folder = audit.folder / MITIGATIONS / f".worker-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        task = Task((folder,), work, audit.folder, (str(number),), audit.record.threads)
        workers[folder / STDERR] = start(task)
    return workers


def _fault_of(workers: Workers) -> str:
    """Return the last line of a worker that failed."""
    for path, process in workers.items():
        if process.poll():
            lines = path.read_text(errors="replace").strip().splitlines()
            return lines[-1] if lines else "it was killed"
    return ""


def _missing_members(audit: Audit, arm: str) -> int:
    """Return on how many members an arm is not compared yet."""
    return len(lab.paired_members(audit)) - len(lab.compared_members(audit, arm))


def follow(audit: Audit, arm: Arm) -> None:
    """Report that the page is open, draw the progress of a setting, and rerun the page when members
    are finished."""
    pending = arm.name != BASELINE and _missing_members(audit, arm.name)
    seen = len(lab.compared_members(audit, arm.name))
    draw = _follow_workers if shares_process(audit.record.config) else _follow_job
    every = _POLL if pending else _HEARTBEAT
    st.fragment(run_every=every)(draw)(audit, arm, seen)


def _follow_workers(audit: Audit, arm: Arm, seen: int) -> None:
    with _shown_errors():
        session = st.session_state.setdefault(_SESSION, uuid.uuid4().hex)
        lab.want(audit, session, [arm.name] if arm.overrides else [])
        workers = ensure_workers(audit)
        if fault := _fault_of(workers):
            draw_fault("The training stopped.", fault)
            if st.button("Try again", key="mitigation-again", icon=":material/play_arrow:"):
                workers.clear()
                st.rerun()
            return
        _draw_members(audit, arm, seen)


def _draw_members(audit: Audit, arm: Arm, seen: int) -> None:
    """Draw how many members are finished; rerun the page once enough are, twice as many as it has
    seen, and all."""
    if fault := lab.fault_of(audit, BASELINE) or lab.fault_of(audit, arm.name):
        draw_fault("This setting cannot be trained.", fault)
        return
    done = len(lab.compared_members(audit, arm.name))
    total = len(lab.paired_members(audit))
    first = lab.FIRST_MEMBERS if seen < lab.FIRST_MEMBERS else 2 * seen
    if done >= min(first, total) > seen:
        st.rerun()
    if arm.overrides and done < total:
        st.progress(done / total, text=f"{done} of {total} members")


def _follow_job(audit: Audit, arm: Arm, seen: int) -> None:
    if not arm.overrides:
        return
    with _shown_errors():
        _draw_members(audit, arm, seen)
    if members := _missing_members(audit, arm.name):
        seconds = lab.seconds_needed(audit, members, side_by_side(audit.record.config))
        time_left = duration(seconds) or "as long as the audit took"
        folder = jobs_folder() / ".mitigations" / audit.name / arm.name
        draw_task(
            JobTask(folder, ["mitigate", audit.name, *arm.flags]),
            lambda: not _missing_members(audit, arm.name),
            reason=f"{members} members train again: about {time_left}.",
            label="Train",
        )


def draw_study(name: str) -> None:
    """Draw the results of a study."""
    study = r.open_study(name)
    compared = r.differences(study.rows)
    titles = study.request["arms"]
    for arm, title in titles.items():
        if (compared[lab.ARM] == arm).any():
            st.text(r.sentence_of(compared, arm, title))
    _draw_chart(compared, titles, over=r.OF_SPLITS, key=name)
    _draw_table(compared, titles, over=r.OF_SPLITS)


def draw_lab(audit: Audit) -> None:
    """Draw the settings of an audit beside the chart, then what the chosen one changes."""
    total = len(lab.paired_members(audit))
    titles = {}
    listed = {}  # a label of a list must not change while it is open
    for name, title in lab.list_arms(audit).items():
        done = len(lab.compared_members(audit, name))
        if done >= min(lab.FIRST_MEMBERS, total):
            part = f" (provisional: {done} of {total} members)" if done < total else ""
            titles[name] = f"{title}{part}"
            listed[lab.read_arm(audit, name).text] = title
    left, right = st.columns([1, 2], gap="medium")
    with left:
        arm = draw_setting(audit, listed)
    with right:
        try:
            arm = lab.begin(audit, arm)
        except InputError as error:
            draw_fault("This setting cannot be trained.", error)
            return
        chosen = arm.name if arm.name in titles else None
        compared = r.differences(lab.lab_table(audit, [*titles, BASELINE]))
        if chosen:
            show_strong(r.sentence_of(compared, chosen, titles[chosen]))
            done = len(lab.compared_members(audit, chosen))
            st.caption(
                f"{done} of {total} members. An attacker who has more of them finds more pairs. "
                "The interval covers other members of this audit; they share its pairs and its "
                "held-out pairs: `python -m clipmem_core study` covers other splits of the pairs "
                "too."
            )
        elif not arm.overrides:
            st.caption(
                "Switch a mitigation on: the members train again, and its effect appears here."
            )
        follow(audit, arm)
        if (compared[lab.ARM] == BASELINE).any():
            _draw_chart(compared, titles, over=r.OF_MEMBERS, key=audit.name, chosen=chosen)
    if chosen:
        with _shown_errors():
            _draw_parts(compared, chosen, arm.title)
    if titles:
        with _shown_errors():
            _draw_table(compared, titles, over=r.OF_MEMBERS, chosen=chosen)
            _draw_actions(audit, titles)
    if chosen:
        show_command(r.mitigate_command(audit, arm))
        with _shown_errors():
            _draw_changed_pairs(audit, chosen)


def _draw_actions(audit: Audit, titles: Mapping[str, str]) -> None:
    """Draw the download of all rows, and the removal of a setting."""
    with in_a_row():
        rows: pd.DataFrame = lab.lab_table(audit)
        st.download_button(
            "CSV, one row per member",
            # Called on a click: nothing is stored that a rerun replaces.
            data=lambda: rows.to_csv(index=False),
            file_name=f"{audit.name}-mitigations.csv",
            mime="text/csv",
            on_click="ignore",
            icon=":material/download:",
        )
        with st.popover("Remove a setting", icon=":material/delete:"):
            removed = st.selectbox(
                "Setting", list(titles), format_func=titles.__getitem__, key="mitigation-removed"
            )
            if st.button("Delete its results", key="mitigation-remove"):
                lab.remove_arm(audit, removed)
                write_address(**{PARAMETER: None, PAGE: None})
                st.rerun()


def _draw_chart(
    table: pd.DataFrame,
    titles: Mapping[str, str],
    *,
    over: str,
    key: str,
    chosen: str | None = None,
) -> None:
    """Draw the choice of two measures, and utility against memorization with intervals."""
    with in_a_row("bottom"):
        memorized = _choose_measure("Memorization", r.MEMORIZATIONS, table)
        useful = _choose_measure("Utility", r.UTILITIES, table)
    # A row per arm: the baseline, plus the difference with half its interval. Arms without all
    # members, or pairs, are compared with the baseline on the same ones.
    axes = []
    for axis, measure in ((MEMORIZATION, memorized), (UTILITY, useful)):
        rows = table[table["measure"] == measure].set_index(lab.ARM)
        ends = rows.loc[BASELINE, "value"] + rows[["difference", "high"]]
        ends.columns = [axis, f"{axis}_error"]
        ends[f"{axis}_error"] -= ends[axis]
        ends[measure] = [
            f"{r.MEASURE_LABELS[measure]} {value:.3f}; against the baseline {_interval(row)}"
            for value, row in zip(ends[axis], rows.to_dict("records"), strict=True)
        ]
        axes.append(ends)
    points = pd.concat(axes, axis=1, join="inner").reset_index()
    points["title"] = [titles.get(arm, arm) for arm in points[lab.ARM]]
    points[TEXT] = points[["title", memorized, useful]].to_numpy().tolist()
    labels = (r.MEASURE_LABELS[memorized], r.MEASURE_LABELS[useful])
    best = r.front(points, MEMORIZATION, UTILITY)
    draw_figure(
        tradeoff_figure(points, titles=labels, front=best, chosen=chosen),
        key=f"mitigation-chart-{key}",
        alt=f"{labels[1]} against {labels[0]} of {len(points)} settings. Pareto-optimal, from the "
        f"least memorized: {', '.join(best)}.",
    )
    st.caption(
        f"Each dot is a setting, its bars the 95 % interval of its difference to the baseline over "
        f"{over}. The line joins the Pareto-optimal settings."
    )


def _choose_measure(label: str, names: Mapping[str, str], table: pd.DataFrame) -> str:
    return choose_listed(
        label,
        {name: text for name, text in names.items() if (table["measure"] == name).any()},
        parameter=label.lower(),
        width=250,
    )


def _interval(row: Mapping[Any, Any]) -> str:
    return interval_text(row["difference"], row["low"], row["high"], "+z.3f")


def _draw_table(
    table: pd.DataFrame, titles: Mapping[str, str], *, over: str, chosen: str | None = None
) -> None:
    """Draw every arm against the baseline in a table, the chosen one first."""
    rows = table[table[lab.ARM] != BASELINE].dropna(subset=["difference"])
    st.subheader("Each setting against the baseline", anchor=False)
    in_percent = rows["measure"].isin(_PERCENT) & (rows["baseline"] > 0)
    number = rows["difference"].mask(in_percent, 100 * rows["difference"] / rows["baseline"])
    is_time = rows["measure"] == lab.SECONDS
    rows = rows.assign(number=number.mask(is_time, rows["value"] / rows["baseline"]))
    rows["text"] = [_cell_text(row) for row in rows.to_dict("records")]
    numbers = rows.pivot(index=lab.ARM, columns="measure", values="number")
    numbers = numbers.reindex(columns=[name for name in r.MEASURE_LABELS if name in numbers])
    numbers.insert(0, "setting", [titles.get(arm, arm) for arm in numbers.index])
    numbers.insert(1, "n", rows.groupby(lab.ARM)["n"].max())
    arms = sorted(rows[lab.ARM].unique(), key=lambda arm: arm != chosen)
    # Cells show texts, and columns sort by their numbers.
    formats: dict[Any, Any] = {
        measure: dict(zip(cells["number"], cells["text"], strict=True)).get
        for measure, cells in rows.groupby("measure")
    }
    columns: dict[str, Any] = {
        name: st.column_config.NumberColumn(head, help=_HELP[name])
        for name, head in r.MEASURE_LABELS.items()
    }
    columns["setting"] = st.column_config.TextColumn(pinned=True)
    columns["n"] = st.column_config.NumberColumn(help=f"How many {over} are compared.")
    st.dataframe(
        numbers.loc[arms].style.format(formats, na_rep="–"),
        hide_index=True,
        column_config=columns,
        key="mitigation-differences",
        alt=f"Differences of {len(arms)} settings to the baseline, with 95 % intervals over {over}",
    )
    st.caption(
        f"Each cell is the mean paired difference to the baseline with its 95 % interval over "
        f"{over}; * differs from 0 after Holm's correction for the number of settings."
    )


def _cell_text(row: Mapping[Any, Any]) -> str:
    """Return the text of a cell, with * if it differs from 0 after Holm's correction."""
    if row["measure"] == lab.SECONDS:
        return f"×{row['number']:.2f}"
    star = " *" if row[r.P_OF_ALL] < r.SIGNIFICANCE else ""
    return f"{r.relative(row) if row['measure'] in _PERCENT else _interval(row)}{star}"


def _draw_parts(table: pd.DataFrame, chosen: str, title: str) -> None:
    """Draw the parts of the encoders in clipmem without and with an arm."""
    rows = table[(table[lab.ARM] == chosen) & table["measure"].isin(r.PARTS)]
    if rows.empty:
        return
    rows = rows.assign(encoder=rows["measure"].map(r.PARTS).str.split().str[0])
    base = rows["baseline"]
    without = rows.assign(name="without", mean=base, low=np.nan, high=np.nan)
    with_arm = rows.assign(
        name="with", mean=rows["value"], low=base + rows["low"], high=base + rows["high"]
    )
    st.subheader("In which encoder", anchor=False)
    means = pd.concat([without, with_arm])
    draw_figure(
        means_figure(means, means[:0], title="part of clipmem", noun="members"),
        key="mitigation-parts",
        alt=f"Parts of the image and the text encoder in clipmem, without and with: {title}",
    )
    parts = [f"{r.PARTS[row['measure']]} {r.relative(row)}" for row in rows.to_dict("records")]
    paper = "The paper finds most memorization in the text encoder."
    st.caption(f"{'; '.join(parts).capitalize()}. {paper} Bars: interval of the difference.")


def _draw_changed_pairs(audit: Audit, arm: str) -> None:
    """Draw the pairs whose clipmem changed most from the baseline to an arm, a page of them."""
    members = lab.compared_members(audit, arm)
    pairs = pd.DataFrame(
        {
            "one": lab.clipmem_by_pair(audit, BASELINE, members),
            "other": lab.clipmem_by_pair(audit, arm, members),
        }
    )
    pairs["difference"] = pairs["other"] - pairs["one"]
    pairs = pairs[lab.read_changes(audit, arm).compared].dropna()
    pairs = pairs.sort_values("difference", key=lambda change: -change.abs(), kind="stable")
    pairs = pairs.assign(row_one=pairs.index, row_other=pairs.index)
    st.subheader("Pairs that changed most", anchor=False)
    st.caption(
        f"By the change of their clipmem in {len(members)} members. The largest changes are "
        "partly chance."
    )
    page, pages = read_page(len(pairs), _PAIRS_SHOWN)
    shown = pairs[(page - 1) * _PAIRS_SHOWN : page * _PAIRS_SHOWN]
    changes = shown.to_dict("records")
    links = {"Open pair": audit}
    draw_change_cards(audit, audit, c.CLIPMEM, changes, key="mitigation", links=links)
    draw_pages(page, pages)
