"""The page Audits: the list with its actions, and the form that checks and starts an audit."""

import hashlib
import itertools
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st
from rich.filesize import decimal

from clipmem_core.auditing.folder.jobs import (
    DONE,
    JobRecord,
    State,
    audit_request,
    cancel,
    delete_audit,
    folder_bytes,
    jobs_folder,
    list_states,
)
from clipmem_core.auditing.folder.settings import REPLICATES, audit_name
from clipmem_core.auditing.folder.store import CONFIG, Audit, is_name
from clipmem_core.auditing.run.console import Request, check_request, find_check
from clipmem_core.config import (
    DEFAULT_PRESET,
    FIELDS,
    PRESETS,
    SETS,
    AuditConfig,
    SourceOptions,
    data_folder,
    ineffective_fields,
    preset_config,
)
from clipmem_core.dashboard.page import link, read_audit, store_choice, write_address
from clipmem_core.dashboard.plain import (
    draw_fault,
    draw_table,
    explained_errors,
    in_a_row,
    show_strong,
)
from clipmem_core.dashboard.running_audit import draw_progress, on_page
from clipmem_core.dataset.readers.containers import SOURCE_SUFFIXES
from clipmem_core.dataset.source import DRAWN, lacks_captions
from clipmem_core.scores.membership import MIN_PAIRS
from clipmem_core.scores.registry import words
from clipmem_core.utils.columns import group_words
from clipmem_core.utils.glossary import PROTOCOL, meaning
from clipmem_core.utils.io import InputError, shortage, write_once

_TABLE = "audits-table"
_PATH = "new-path"
_MESSAGE = "audits-message"  # shown once, after the rerun that follows an action
_ORDER = dict.fromkeys(["name", "state", "begun"])  # the first columns
_COLUMNS = {
    "state": st.column_config.TextColumn(width=170),  # of the longest stage
    "pairs": st.column_config.NumberColumn(format="localized"),
    "begun": st.column_config.DatetimeColumn("started", format="YYYY-MM-DD HH:mm"),
}
# Fields that have another widget above the grids
_DRAWN_ABOVE = [
    "preset",
    "protocol",
    "folds",
    "members",
    "seeds",
    "features",
    "lock_image",
    "lock_text",
    "image_tower",
    "text_tower",
]
_PRESET_HELP = {
    "locked": "Both towers are pretrained and locked, and members train heads on their features: "
    "minutes on a processor, and the best choice to find wrong captions. clipmem measures what the "
    "heads memorized.",
    "tiny": "The smallest encoders, trained from scratch: for a quick test.",
    "small": "Small encoders, trained from scratch, for thousands of pairs on two cores: what "
    "encoders memorize.",
    "base": "ViT-B/32 from scratch, as in the paper; it needs a GPU.",
}
_PERSIST: dict[str, Any] = {"persist_state": "session"}
_GRID: dict[str, Any] = {"columns": 4, "min_column_width": 150, "vertical_alignment": "bottom"}


def draw_list() -> None:
    """Draw all audits, and the progress and actions of the selected one."""
    if message := st.session_state.pop(_MESSAGE, ""):
        st.success(message)
    states = list_states()
    _watch([(state, state.at_work) for state in states])
    if not states:
        st.info("No audit yet. Start one above.")
        return
    selected = _draw_table(states)
    if selected is None:
        st.caption("Select a row to open or delete an audit, or to see its progress.")
        return
    with st.container(border=True):
        show_strong(selected.audit.name)
        if selected.word != DONE:
            draw_progress(selected.audit.name)
        _draw_actions(selected)


@st.fragment(run_every=2)
def _watch(drawn: list[tuple[State, bool]]) -> None:
    """Rerun the page when an audit starts or ends, or begins another stage."""
    if [(state, state.at_work) for state in list_states()] != drawn:
        st.rerun()


def _draw_table(states: list[State]) -> State | None:
    """Draw the list, and return the state of the audit that is selected in it."""
    names = [state.audit.name for state in states]
    name = read_audit()
    selected = [names.index(name)] if name in names else []
    rows = []
    for state in states:
        config = state.audit.folder / CONFIG
        begun = config.stat().st_mtime if state.audit.begun else None
        rows.append(_ORDER | state.row | {"begun": begun and datetime.fromtimestamp(begun)})

    def select() -> None:
        chosen = st.session_state[_TABLE].selection.rows
        store_choice(names[chosen[0]] if chosen else None)

    st.session_state[_TABLE] = {"selection": {"rows": selected, "columns": [], "cells": []}}
    st.dataframe(
        pd.DataFrame(rows),
        key=_TABLE,
        hide_index=True,
        column_config=_COLUMNS,
        placeholder="",
        on_select=select,
        selection_mode="single-row",
        alt="All audits: name, state, data set, protocol, sizes",
    )
    return states[selected[0]] if selected else None


def _draw_actions(state: State) -> None:
    name = state.audit.name
    with in_a_row():
        if state.word == DONE and st.button("Open", type="primary", icon=":material/dashboard:"):
            st.switch_page("pages/overview.py", query_params=link(state.audit))
        if state.at_work:
            return
        with st.popover("Delete", icon=":material/delete:", key=f"delete-{name}"):
            size = folder_bytes(state.audit.folder) + folder_bytes(jobs_folder() / name)
            st.markdown(f"Deletes {decimal(size)}: members, scores, output. Decisions are kept.")
            typed = st.text_input("Type its name to confirm", key=f"confirm-{name}")
            confirmed = st.button(
                "Delete for good",
                key=f"delete-now-{name}",
                type="primary",
                disabled=typed.strip() != name,
            )
    if confirmed:
        try:
            freed = delete_audit(name)
        except (InputError, OSError) as error:
            draw_fault("The audit was not deleted.", error)
            return
        st.session_state[_MESSAGE] = f"Deleted; {decimal(freed)} freed."
        store_choice(None)
        st.rerun()


def draw_request() -> Request:
    """Draw the form, a field for the data set and a closed part for all others, and return its
    request."""
    field, upload = st.columns([3, 2])
    upload.file_uploader(
        "Or drop a file",
        SOURCE_SUFFIXES,
        key="new-file",
        help="Stored once in data/sets/uploads.",
        on_change=_store_upload,
    )
    source = field.text_input(
        "Path, shards or Hugging Face name",
        key=_PATH,
        help="A CSV, TSV, JSONL, Parquet or COCO file, shards, a folder of pictures with "
        "captions, or owner/name.",
        placeholder="/data/pairs.csv",
        **_PERSIST,
    ).strip()
    if Path(source).is_relative_to(_uploads()):
        label = FIELDS["image_folder"].label
        st.caption(f"If this file lists paths of pictures, set their folder: Settings → {label}.")
    st.caption(
        f"At least {MIN_PAIRS} pictures with captions. No data at hand? Type {DRAWN}: 1,100 drawn "
        "pictures, some with wrong captions."
    )
    options: dict[str, Any] = {}
    if source and lacks_captions(source):
        st.caption("These are folders of pictures without captions.")
        if st.toggle("Use folder names as captions", key="new-folder-names", **_PERSIST):
            options = {"caption_template": _draw_field("caption_template", "a photo of a {label}")}
    with st.expander("Settings", icon=":material/tune:"):
        return _draw_settings(source, options)


def _uploads() -> Path:
    return data_folder().absolute() / SETS / "uploads"


def _store_upload() -> None:
    """Store the dropped file once, and put its path into the field. A callback."""
    if (file := st.session_state["new-file"]) is None:
        return
    content = file.getvalue()

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    path = _uploads() / re.sub(r"^\.+|[^\w.-]+", "_", file.name)[-50:]
    try:
        if path.is_file() and path.read_bytes() != content:
            path = path.with_stem(f"{path.stem}-{hashlib.sha256(content).hexdigest()[:8]}")
        write_once(path, write)
    except OSError as error:
        draw_fault("The file was not stored.", shortage(error) or error)
        return
    st.session_state[_PATH] = str(path)


def _draw_settings(source: str, options: dict[str, Any]) -> Request:
    """Draw the name, preset and fields of a new audit, and return its request."""
    name = st.container()
    with in_a_row(gap="large"):
        preset, protocol = (
            st.segmented_control(
                name.capitalize(),
                options,
                default=options[0],
                key=f"new-{name}",
                help=help,
                required=True,
                **_PERSIST,
            )
            for name, options, help in (
                ("preset", list(PRESETS), None),
                ("protocol", FIELDS["protocol"].choices, meaning(PROTOCOL)),
            )
        )
    st.caption(_PRESET_HELP[preset])
    defaults = replace(preset_config(preset), protocol=protocol)
    defaults = replace(defaults, **_draw_towers(defaults))
    unavailable = ineffective_fields(defaults)
    omitted = {*_DRAWN_ABOVE, *unavailable, *options}
    if not defaults.lock_image:
        omitted.add("tower_size")
    if source != DRAWN:
        omitted.update(["scenes_pairs", "scenes_seed"])
    with st.grid(**_GRID) as grid:
        options |= _draw_fields(grid, _further_fields(SourceOptions, omitted), SourceOptions())
        repetitions = "seeds"
        if protocol == "ensemble":
            repetitions = "members"
            folds = _draw_fields(grid, ["folds"], defaults)
            usual = REPLICATES * folds["folds"]
            defaults = replace(defaults, **folds, members=usual)
        further = _further_fields(AuditConfig, omitted)
        values = _draw_fields(grid, [repetitions, *further], defaults)
    if protocol == "ensemble" and values["members"] == usual:
        values["members"] = 0  # the default
    if unavailable:
        labels = ", ".join(FIELDS[name].label for name in unavailable)
        st.caption(f"Without effect on a locked tower, so not offered: {labels}.")
    config = replace(defaults, **values, source=SourceOptions(**options))
    proposed = free_name(audit_name(source, config), taken=is_taken)
    typed = name.text_input(
        "Name", key="new-name", placeholder=proposed, help="The audit's folder.", **_PERSIST
    )
    return Request(source, typed.strip() or proposed, config)


def free_name(name: str, *, taken: Callable[[str], bool]) -> str:
    """Return a name, with a number behind it if it is taken."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(free for free in itertools.chain([name], numbered) if not taken(free))


def is_taken(name: str) -> bool:
    """Tell whether an audit or a job has a name."""
    with explained_errors():
        return is_name(name) and (
            (Audit.parent() / name / CONFIG).is_file() or audit_request(name).find() is not None
        )


def draw_check(request: Request) -> None:
    """Draw the buttons that check and start an audit, and the progress and result of its check."""
    check = find_check(request)
    running = check is not None and check.job.running
    st.fragment(_draw_check, run_every=1 if running else None)(request, running)


def _draw_check(request: Request, running: bool) -> None:
    check = find_check(request)
    if check and running and not check.job.running:
        st.rerun()
    record = check.job.record if check else JobRecord()
    starts = record.result is not None and not (check and check.error)
    with in_a_row():
        checked = st.button(
            "Check",
            type="secondary" if starts else "primary",
            icon=":material/fact_check:",
            disabled=running,
            help="Reads the data set and opens its pictures.",
        )
        started = st.button(
            "Start",
            type="primary" if starts else "secondary",
            icon=":material/play_arrow:",
            disabled=not starts,
            help="Trains the members, after a check.",
        )
        if check and running and st.button("Stop the check", icon=":material/stop_circle:"):
            cancel(check.job)
    if started:
        audit_request(request.name, request.arguments).start()
        write_address(view="list", audit=request.name)
        st.rerun()
    if checked:
        try:
            check_request(request)  # without reading the data set
        except InputError as error:
            draw_fault("This audit cannot start.", on_page(error))
            return
        request.check.start()
        st.rerun()
    if check and check.error:
        draw_fault("This audit cannot start.", on_page(check.error))
    if running:
        share = record.done / record.total if record.total else 0.0
        text = f"Opening pictures: {record.done:,} of {record.total:,}. You can start meanwhile."
        st.progress(share, text=text if starts and record.total else "Reading the data set")
    if record.result is not None:
        _draw_counts(record.result)


def _draw_counts(counts: dict[str, Any]) -> None:
    with st.grid(4, min_column_width=140) as grid:
        for name in ("pairs", "captions", "quarantined", "near_duplicates"):
            known = counts["exact"] or name != "near_duplicates"
            label = words(name).capitalize()
            grid.metric(label, f"{counts[name]:,}" if known else "…", border=True)
    if counts["groups"]:
        groups = [f"{count:,} {group_words(name)}" for name, count in counts["groups"].items()]
        st.caption(f"Groups: {', '.join(groups)}")
    if counts["reasons"]:
        reasons = pd.DataFrame(counts["reasons"], columns=["rows", "reason", "example"])
        draw_table(reasons, alt="The most frequent reasons why rows cannot be used")
        rows = pd.DataFrame(counts["rows_in_quarantine"], columns=["row", "reason"])
        with st.expander(f"The first {len(rows):,} rows that cannot be used"):
            draw_table(rows, alt="Rows that cannot be used, and why")


def _draw_towers(defaults: AuditConfig) -> dict[str, Any]:
    """Draw which towers are locked and the name of each locked one; return these fields and the
    model."""
    values = dict[str, Any]()
    locked = PRESETS[DEFAULT_PRESET]
    with st.grid(**_GRID) as grid:
        for side in ("image", "text"):
            lock = f"lock_{side}"
            tower = f"{side}_tower"
            values |= _draw_fields(grid, [lock], defaults) | {tower: ""}
            if values[lock]:
                with grid.container():
                    values[tower] = _draw_field(tower, getattr(defaults, tower) or locked[tower])
    if defaults.model == locked["model"] and not (values["lock_image"] and values["lock_text"]):
        values["model"] = AuditConfig.model  # the model of heads alone has no encoder to train
    return values


def _draw_fields(
    grid: Any, names: Sequence[str], defaults: AuditConfig | SourceOptions
) -> dict[str, Any]:
    values = {}
    for name in names:
        with grid.container():
            values[name] = _draw_field(name, getattr(defaults, name))
    return values


def _further_fields(kind: type, omitted: Collection[str]) -> list[str]:
    return [
        field.name
        for field in fields(kind)
        if field.name not in omitted and isinstance(field.default, (bool, int, float, str))
    ]


def _draw_field(name: str, default: Any) -> Any:
    """Draw the widget of a field and return its value; the key holds the default, so presets have
    separate widgets."""
    field = FIELDS[name]
    key = f"new-{name}-{default}"
    st.session_state.setdefault(key, default)
    options: dict[str, Any] = {"key": key, "help": field.help or None} | _PERSIST
    if field.choices:
        return st.selectbox(field.label, field.choices, **options)
    if isinstance(default, bool):
        return st.toggle(field.label, **options)
    if isinstance(default, str):
        return st.text_input(field.label, **options).strip()
    kind = type(default)
    options |= {"step": 1} if kind is int else {"step": default / 10 or 0.1, "format": "%.6g"}
    return kind(st.number_input(field.label, **options) or 0)
