"""The page Audits: the list with its actions, and the form that checks and starts an audit."""

import itertools
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

import pandas as pd
import streamlit as st
from rich.filesize import decimal

from clipmem_core.audit.jobs import audit_request, cancel, jobs_folder
from clipmem_core.audit.preflight import Request, check_request, find_check
from clipmem_core.audit.settings import audit_name
from clipmem_core.audit.status import DONE, State, delete_audit, folder_bytes, list_states
from clipmem_core.audit.store import CONFIG, audits_folder, is_name
from clipmem_core.columns import group_words
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
from clipmem_core.dashboard.page import draw_link, draw_set, read_audit, store_choice, write_address
from clipmem_core.dashboard.plain import (
    draw_fault,
    draw_table,
    explained_errors,
    in_a_row,
    show_strong,
)
from clipmem_core.dashboard.running_audit import draw_progress
from clipmem_core.dataset.source import DRAWN, lacks_captions
from clipmem_core.export.cleaned import CLEANED
from clipmem_core.glossary import DRAWN as DRAWN_SET
from clipmem_core.glossary import PROTOCOL, meaning
from clipmem_core.io import InputError
from clipmem_core.scores.membership import MIN_PAIRS
from clipmem_core.scores.registry import words

_TABLE = "audits-table"
_MESSAGE = "audits-message"  # shown once, after the rerun that follows an action
_COLUMNS = {
    "pairs": st.column_config.NumberColumn(format="localized"),
    "begun": st.column_config.DatetimeColumn("started", format="YYYY-MM-DD HH:mm"),
}
_MAIN = ("epochs", "batch_size", "captions", "inject_miscaptions", "drop_near_duplicates", "seed")
# Fields that have another widget above the grids
_DRAWN_ABOVE = [
    "preset",
    "protocol",
    "members",
    "seeds",
    "features",
    "lock_image",
    "lock_text",
    "image_tower",
    "text_tower",
    "scenes_pairs",
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
_TOWERS = {"image": "sees pictures unchanged", "text": "reads captions unchanged"}
_PERSIST: dict[str, Any] = {"persist_state": "session"}
_GRID: dict[str, Any] = {"columns": 4, "min_column_width": 150, "vertical_alignment": "bottom"}
_PATH = "new-path"


def draw_list() -> None:
    """Draw all audits, and the progress and actions of the selected one."""
    if message := st.session_state.pop(_MESSAGE, ""):
        st.success(message)
    states = list_states()
    _watch([(state.audit.name, state.word) for state in states])
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
        if not selected.at_work:
            _draw_actions(selected)


@st.fragment(run_every=2)
def _watch(drawn: list[tuple[str, str]]) -> None:
    """Rerun the page when an audit starts or ends."""
    if [(state.audit.name, state.word) for state in list_states()] != drawn:
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
        rows.append(state.row | {"begun": begun and datetime.fromtimestamp(begun)})

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
        if state.word == DONE:
            draw_link("overview", "Open", state.audit)
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
    """Draw the form and return its request."""
    st.caption(f"An audit needs at least {MIN_PAIRS} pictures with captions.")
    source = _draw_path()
    options: dict[str, Any] = {}
    if source and lacks_captions(source):
        st.caption("These are folders of pictures without captions.")
        if st.toggle("Use folder names as captions", key="new-folder-names", **_PERSIST):
            options = {"caption_template": _draw_field("caption_template", "a photo of a {label}")}
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
    with st.grid(**_GRID) as grid:
        repetitions = "seeds" if protocol == "paper" else "members"
        values = _draw_fields(grid, [repetitions, *_MAIN], defaults)
        if source == DRAWN:
            options |= _draw_fields(grid, ["scenes_pairs"], SourceOptions())
    with st.expander("Further settings"):
        unavailable = ineffective_fields(defaults)
        omitted = {*_MAIN, *_DRAWN_ABOVE, *unavailable, *options}
        if not defaults.lock_image:
            omitted.add("tower_size")
        with st.grid(**_GRID) as grid:
            values |= _draw_fields(grid, _further_fields(AuditConfig, omitted), defaults)
            reader_names = _further_fields(SourceOptions, omitted)
            options |= _draw_fields(grid, reader_names, SourceOptions())
        for side, effect in _TOWERS.items():
            if labels := [FIELDS[name].label for name, by in unavailable.items() if by == side]:
                st.caption(
                    f"Not available, as the {side} tower is locked and {effect}: "
                    f"{', '.join(labels)}."
                )
    config = replace(defaults, **values, source=SourceOptions(**options))
    proposed = free_name(audit_name(source, config), taken=is_taken)
    typed = st.text_input(
        "Name", key="new-name", placeholder=proposed, help="The audit's folder.", **_PERSIST
    )
    return Request(source, typed.strip() or proposed, config)


def _draw_path() -> str:
    """Draw the field for a data set and buttons for those that need no typing; return its path or
    name."""
    sets = [
        str(path)
        for path in sorted((data_folder() / SETS).glob("[!.]*"))
        if not (path / CLEANED).is_file() and not re.fullmatch(rf"{DRAWN}-\d+-\d+", path.name)
    ]
    offered = [DRAWN, *sets]  # the synthetic set, and those in the data folder
    typed = st.text_input(
        "Path, shards or Hugging Face name",
        key=_PATH,
        help="A CSV, TSV, JSONL, Parquet or COCO file, shards, a folder of pictures with "
        "captions, or owner/name.",
        placeholder="/data/pairs.csv",
        **_PERSIST,
    ).strip()
    draw_set(
        st.pills,
        "Or choose one",
        offered,
        key=f"{_PATH}-offered",
        value=typed if typed in offered else None,
        on_choose=lambda chosen: st.session_state.update({_PATH: chosen or ""}),
        format_func=lambda source: source.removeprefix(f"{data_folder() / SETS}/"),
        help=f"{DRAWN} is the synthetic set. {meaning(DRAWN_SET)}",
    )
    return typed


def free_name(name: str, *, taken: Callable[[str], bool]) -> str:
    """Return a name, with a number behind it if it is taken."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(free for free in itertools.chain([name], numbered) if not taken(free))


def is_taken(name: str) -> bool:
    """Tell whether an audit or a job has a name."""
    with explained_errors():
        return is_name(name) and (
            (audits_folder() / name / CONFIG).is_file() or audit_request(name).find() is not None
        )


def draw_check(request: Request) -> None:
    """Draw the button that checks a request, and the result of its check."""
    check = find_check(request)
    label = "Check again" if check else "Check"
    kind: Any = "secondary" if check else "primary"
    if st.button(label, type=kind, icon=":material/fact_check:"):
        with explained_errors("This audit cannot start.", ends=False):
            check_request(request)  # without reading the data set
            request.check.start()
            st.rerun()
    if check:
        _draw_check(request)
    else:
        st.caption("Reads the data set and opens its pictures.")


@st.fragment(run_every=1)
def _draw_check(request: Request) -> None:
    """Draw the progress and the result of a check, and the button that starts the audit."""
    check = find_check(request)
    if check is None:
        return
    if check.error:
        draw_fault("This audit cannot start.", check.error)
    record = check.job.record
    if record.result is not None:
        _draw_counts(record.result)
    if check.error:
        return
    with in_a_row():
        if record.result is not None and st.button(
            "Start", type="primary", icon=":material/play_arrow:"
        ):
            audit_request(request.name, request.arguments).start()
            write_address(view="list", audit=request.name)
            st.rerun()
        if check.job.running and st.button("Stop the check", icon=":material/stop_circle:"):
            cancel(check.job)
    if check.job.running:
        if record.result is None:
            st.progress(0.0, text="Reading the data set")
        elif record.total:
            st.progress(
                record.done / record.total,
                text=f"Opening pictures: {record.done:,} of {record.total:,}. "
                "You can start meanwhile.",
            )


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
        for side in _TOWERS:
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
    options: dict[str, Any] = {
        "key": key,
        "help": field.help or None,
        **_PERSIST,
    }
    if field.choices:
        return st.selectbox(field.label, field.choices, **options)
    if isinstance(default, bool):
        return st.toggle(field.label, **options)
    if isinstance(default, int):
        return int(st.number_input(field.label, step=1, **options) or 0)
    if isinstance(default, float):
        return float(
            st.number_input(field.label, step=default / 10 or 0.1, format="%.6g", **options) or 0.0
        )
    return st.text_input(field.label, **options).strip()
