"""All audits: start one, follow its progress, open or delete it."""

import os
import shlex
from collections.abc import Collection
from datetime import datetime
from typing import Any

import pandas as pd
import streamlit as st
from rich.filesize import decimal

from clipmem_core.auditing.folder.jobs import (
    DONE,
    State,
    audit_request,
    delete_audit,
    folder_bytes,
    jobs_folder,
    list_states,
)
from clipmem_core.auditing.folder.settings import audit_name, resume_arguments
from clipmem_core.auditing.folder.store import CONFIG
from clipmem_core.auditing.run.console import check_request
from clipmem_core.config import (
    DEFAULT_PRESET,
    FIELDS,
    PRESETS,
    AuditConfig,
    as_dict,
    configured,
    flat,
    ineffective_fields,
    preset_config,
)
from clipmem_core.dashboard.page import (
    choose_listed,
    choose_segment,
    draw_progress,
    free_name,
    link,
    on_page,
    open_bare_page,
    read_choice,
    write_address,
)
from clipmem_core.dashboard.plain import draw_fault, in_a_row, show_command, show_strong
from clipmem_core.dataset.source import DRAWN
from clipmem_core.scores.membership import MIN_PAIRS
from clipmem_core.utils.columns import PROTOCOL, meaning
from clipmem_core.utils.io import InputError

VIEWS = {"list": "All audits", "start": "Start an audit"}
VIEW = "view"  # in the address
MESSAGE = "audits-message"  # shown once, after the rerun that follows an action
COLUMNS = {
    "state": st.column_config.TextColumn(width=170),  # of the longest stage
    "pairs": st.column_config.NumberColumn(format="localized"),
    "started": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm"),
}
# Fields that the form draws in another place, or not at all
DRAWN_ABOVE = ["preset", "features"]
OF_OTHER_PROTOCOL = {"ensemble": ["seeds"], "paper": ["folds", "members"]}
PRESET_HELP = {
    "locked": "Both towers are pretrained and locked, and members train heads on their features: "
    "minutes on a processor, and the best choice to find wrong captions. clipmem measures what the "
    "heads memorized.",
    "tiny": "The smallest encoders, trained from scratch: for a quick test.",
    "small": "Small encoders, trained from scratch, for thousands of pairs on two cores: what "
    "encoders memorize.",
    "base": "ViT-B/32 from scratch, as in the paper; it needs a GPU.",
}
PERSIST: dict[str, Any] = {"persist_state": "session"}
GRID: dict[str, Any] = {"columns": 4, "min_column_width": 150, "vertical_alignment": "bottom"}


def draw_list() -> None:
    """Draw all audits, and the progress and actions of the selected one."""
    if message := st.session_state.pop(MESSAGE, ""):
        st.success(message)
    states = list_states()
    watch([(state, state.at_work) for state in states])
    if not states:
        st.info("No audit yet. Start one above.")
        return
    rows = []
    for state in states:
        started = None
        if state.audit.begun:
            config = state.audit.folder / CONFIG
            started = datetime.fromtimestamp(config.stat().st_mtime)
        rows.append(state.row | {"started": started})
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        column_config=COLUMNS,
        placeholder="",
        alt="All audits: name, state, data set, protocol, sizes",
    )
    names = {"": "–"} | {state.audit.name: state.audit.name for state in states}
    name = choose_listed("Open, watch or delete", names, parameter="audit", width=320)
    for state in states:
        if state.audit.name == name:
            draw_selected(state)


@st.fragment(run_every=2)
def watch(drawn: list[tuple[State, bool]]) -> None:
    """Rerun the page when an audit starts or ends, or begins another stage."""
    if [(state, state.at_work) for state in list_states()] != drawn:
        st.rerun()


def draw_selected(state: State) -> None:
    """Draw the progress of an audit, and the buttons that open and delete it."""
    name = state.audit.name
    with st.container(border=True):
        show_strong(name)
        if state.word != DONE:
            draw_progress(name)
        elif st.button("Open", type="primary"):
            st.switch_page("pages/overview.py", query_params=link(state.audit))
        if state.at_work:
            return
        with st.popover("Delete", key=f"delete-{name}"):
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
            st.session_state[MESSAGE] = f"Deleted; {decimal(delete_audit(name))} freed."
        except (InputError, OSError) as error:
            draw_fault("The audit was not deleted.", error)
            return
        write_address(audit=None)
        st.rerun()


def draw_form() -> None:
    """Draw a field for the data set, a closed part for all others, and the button that starts the
    audit."""
    source = st.text_input(
        "Path, shards or Hugging Face name",
        key="new-path",
        help="A CSV, TSV, JSONL, Parquet or COCO file, shards, a folder of pictures with "
        "captions, or owner/name.",
        placeholder="/data/pairs.csv",
        **PERSIST,
    ).strip()
    st.caption(
        f"At least {MIN_PAIRS} pictures with captions. No data at hand? Type {DRAWN}: 1,100 drawn "
        "pictures, some with wrong captions."
    )
    chosen = dict[str, Any]()
    if os.path.isdir(os.path.expanduser(source)) and st.toggle(
        "Use folder names as captions", key="new-folder-names", **PERSIST
    ):
        chosen = draw_fields({"caption_template": "a photo of a {label}"})
    with st.expander("Settings"):
        name = st.container()
        with in_a_row(gap="large"):
            preset = draw_choice("preset", PRESETS)
            protocol = draw_choice("protocol", FIELDS["protocol"].choices, help=meaning(PROTOCOL))
        st.caption(PRESET_HELP[preset])
        chosen |= {"protocol": protocol} | draw_towers(preset_config(preset))
        config = configured(preset, chosen)
        unavailable = ineffective_fields(config)
        omitted = {*DRAWN_ABOVE, *OF_OTHER_PROTOCOL[protocol], *unavailable, *chosen}
        if not config.lock_image:
            omitted.add("tower_size")
        if source != DRAWN:
            omitted.update(["scenes_pairs", "scenes_seed"])
        values = flat(as_dict(config)).items()
        chosen |= draw_fields({name: value for name, value in values if name not in omitted})
        config = configured(preset, chosen)
        if unavailable:
            labels = ", ".join(FIELDS[name].label for name in unavailable)
            st.caption(f"Without effect on a locked tower, so not offered: {labels}.")
        proposed = free_name(audit_name(source, config))
        typed = name.text_input(
            "Name", key="new-name", placeholder=proposed, help="The audit's folder.", **PERSIST
        )
    if st.button("Start", type="primary", help="Reads the data set, and trains the members."):
        start(source, typed.strip() or proposed, config)
    show_command(
        f"python -m clipmem_core inspect {shlex.quote(source or 'PATH')}",
        "What is in it and what is broken:",
    )


def start(source: str, name: str, config: AuditConfig) -> None:
    """Start an audit, and open the list of all; or draw why it cannot start."""
    try:
        check_request(source, name, config)
    except InputError as error:
        draw_fault("This audit cannot start.", on_page(error))
        return
    audit_request(name, resume_arguments(name, source, config)).start()
    write_address(view="list", audit=name)
    st.rerun()


def draw_choice(name: str, options: Collection[str], **style: Any) -> str:
    """Draw options side by side, the first one chosen, and return the chosen one."""
    default = next(iter(options))
    style |= {"default": default, "key": f"new-{name}", "required": True} | PERSIST
    return st.segmented_control(name.capitalize(), options, **style)


def draw_towers(config: AuditConfig) -> dict[str, Any]:
    """Draw which towers are locked and the name of each locked one, and return these fields and the
    model."""
    preset = PRESETS[DEFAULT_PRESET]
    values = draw_fields({name: getattr(config, name) for name in ("lock_image", "lock_text")})
    towers = [f"{side}_tower" for side in ("image", "text") if values[f"lock_{side}"]]
    values |= {"image_tower": "", "text_tower": "", "model": config.model}
    values |= draw_fields({name: getattr(config, name) or preset[name] for name in towers})
    if config.model == preset["model"] and len(towers) < 2:
        values["model"] = AuditConfig.model  # that of heads has no encoder to train
    return values


def draw_fields(defaults: dict[str, Any]) -> dict[str, Any]:
    """Draw a widget for each field and return their values; a key holds the default, so that each
    preset has its own widgets."""
    values = dict[str, Any]()
    with st.grid(**GRID) as grid:
        for name, default in defaults.items():
            field = FIELDS[name]
            key = f"new-{name}-{default}"
            st.session_state.setdefault(key, default)
            style: dict[str, Any] = {"key": key, "help": field.help or None} | PERSIST
            kind = type(default)
            draw: Any = {bool: grid.toggle, str: grid.text_input}.get(kind, grid.number_input)
            if field.choices:
                draw = grid.selectbox
                style["options"] = field.choices
            elif kind is float:
                style |= {"step": default / 10 or 0.1, "format": "%.6g"}
            value = draw(field.label, **style)
            values[name] = value.strip() if kind is str else kind(value or 0)
    return values


with open_bare_page("Audits"):
    usual = "list" if list_states() else "start"
    view = read_choice(VIEW, VIEWS, usual)
    # Each view has its own widget: a late message of the browser for the previous view changes
    # nothing.
    choose_segment("View", VIEWS, parameter=VIEW, key=f"{VIEW}-{view}", default=usual, hidden=True)
    if view == "start":
        draw_form()
    else:
        draw_list()
