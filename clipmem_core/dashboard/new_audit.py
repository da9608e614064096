"""The form that starts an audit: data set, settings and name, and the check of the request."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core.audits.jobs import audit_task, cancel, fetch_task
from clipmem_core.audits.preflight import Check, Request, find_check, find_request, refuse_at_once, start_check
from clipmem_core.audits.settings import audit_name
from clipmem_core.audits.store import CONFIG, audits_folder, is_name
from clipmem_core.config import (
    DEFAULT_PRESET,
    FIELDS,
    PRESETS,
    SETS,
    AuditConfig,
    InputError,
    SourceOptions,
    data_folder,
    preset_config,
    without_meaning,
)
from clipmem_core.dashboard.page import draw_set
from clipmem_core.dashboard.plain import draw_fault, explained_errors, show_text
from clipmem_core.exports.reaudit import CLEANED
from clipmem_core.glossary import DRAWN as DRAWN_SET
from clipmem_core.glossary import PROTOCOL, meaning
from clipmem_core.pairs.debian import CAPTIONS_FILE, PACKAGES
from clipmem_core.pairs.table import DRAWN, check_there, lacks_captions

CHECK = "check"  # parameter of the address: the key of the request that was checked
TEMPLATE = "a photo of a {label}"
MAIN = sorted((name for name, own in FIELDS.items() if own.main), key=lambda name: FIELDS[name].main)
PROTOCOLS = FIELDS["protocol"].choices
USUAL_REPEATS = 2
REPETITIONS = {  # protocol → label, usual number, meaning
    "ensemble": ("Repeats", USUAL_REPEATS, "Random partitions into folds; each trains one member per fold."),
    "paper": ("Seeds", 1, "Pairs of models f and g; 3 give intervals."),
}
LOADED = "new-loaded"
PRESET_MEANINGS = {
    "locked": "Both towers are pretrained and locked, members train heads on what these give: minutes on a processor, "
    "and the one to find wrong captions with. clipmem measures what the heads memorized.",
    "tiny": "Whole encoders from scratch, as small as they can be: for a quick test.",
    "small": "Whole encoders from scratch, for thousands of pairs on two cores: what encoders memorize.",
    "base": "ViT-B/32 from scratch, as in the paper; it needs a GPU.",
}
TOWERS = {"image": "sees pictures whole and as they are", "text": "reads captions whole and as they are"}


def draw_request() -> Request:
    """Draw the choices and return what they ask for; a checked request of the address fills them in at first."""
    _fill_in()
    source, reading = _draw_source()
    preset_column, protocol_column, _ = st.columns([3, 2, 2])
    with preset_column:
        preset = _choose("Preset", list(PRESETS), DEFAULT_PRESET, help="Explained below.")
    with protocol_column:
        protocol = _choose("Protocol", list(PROTOCOLS), AuditConfig.protocol, help=meaning(PROTOCOL))
    st.caption(PRESET_MEANINGS[preset])
    usual = dataclasses.replace(preset_config(preset), protocol=protocol)
    usual = dataclasses.replace(usual, **_draw_towers(usual))
    values, options = _draw_main(usual, drawn=source == DRAWN)
    options |= reading
    with st.expander("Further settings", icon=":material/tune:"):
        idle = without_meaning(usual)
        left_out = {*MAIN, *idle, *(() if usual.lock_image else ("tower_size",))}
        values |= _draw_grid([name for name in _drawn_fields() if name not in left_out], usual)
        draw_left_out(idle)
        reader_options = [name for name in field_names(SourceOptions) if name not in {*options, "scenes_pairs"}]
        options |= _draw_grid(reader_options, SourceOptions())
    values |= _members(protocol, values.pop("repetitions"), values["folds"])
    config = dataclasses.replace(usual, **values, source=SourceOptions(**options))
    return Request(source, _draw_name(source, config), config)


def _drawn_fields() -> list[str]:
    return [name for name in field_names(AuditConfig) if not FIELDS[name].own_widget]


def draw_left_out(idle: Mapping[str, str], *, called: Callable[[str], str] = lambda name: FIELDS[name].label) -> None:
    """Say which fields are not offered as an encoder is locked."""
    for side, does in TOWERS.items():
        if labels := [called(name) for name, own in idle.items() if own == side]:
            st.caption(f"Not available, as the {side} tower is locked and {does}: {', '.join(labels)}.")


def _draw_towers(usual: AuditConfig) -> dict[str, Any]:
    """Draw which towers are locked, and beside each that is which one it is."""
    values: dict[str, Any] = {}
    with st.grid(4, min_column_width=150, vertical_alignment="bottom") as grid:
        for side in TOWERS:
            lock, tower = f"lock_{side}", f"{side}_tower"
            with grid.container():
                values[lock] = _draw(lock, usual)
            values[tower] = ""
            if values[lock]:
                known = dataclasses.replace(usual, **{tower: getattr(usual, tower) or PRESETS[DEFAULT_PRESET][tower]})
                with grid.container():
                    values[tower] = _draw(tower, known)
    return values | _model_of(usual, trained=not (values["lock_image"] and values["lock_text"]))


def _model_of(usual: AuditConfig, *, trained: bool) -> dict[str, str]:
    """Return the usual model: that of heads alone has no encoder of its own that could be trained."""
    heads = PRESETS[DEFAULT_PRESET]["model"]
    if usual.model != heads:
        return {}
    model, other = (AuditConfig.model, heads) if trained else (heads, AuditConfig.model)
    key = f"new-{usual.preset}-model"
    if st.session_state.get(key) == other:
        st.session_state[key] = model
    return {"model": model}


def _choose(label: str, options: list[str], default: str, *, help: str) -> str:
    key = f"new-{label.lower()}"
    st.session_state.setdefault(key, default)
    return st.segmented_control(label, options, key=key, help=help, required=True, persist_state="session") or default


def built_in_sources() -> list[str]:
    """Return the sources that need no typing: the drawn set, and what the data folder holds."""
    drawn = re.compile(rf"{DRAWN}-\d+-\d+")
    there = [path for path in sorted((data_folder() / SETS).glob("[!.]*")) if not (path / CLEANED).is_file()]
    return [DRAWN, *(str(path) for path in there if not drawn.fullmatch(path.name))]


def draw_path(key: str, offered: Sequence[str]) -> str:
    """Draw the field for a data set and, below it, those that need no typing; return its path or name."""
    typed = st.text_input(
        "Path, URL or Hugging Face name",
        key=key,
        help="A CSV, TSV, JSONL, Parquet or COCO file, shards, a folder of pictures with captions, or owner/name.",
        placeholder="/data/pairs.csv",
        persist_state="session",
    ).strip()
    try:
        if typed and typed not in offered:
            check_there(typed)
    except InputError:
        st.error("Nothing is there: check the path.", icon=":material/error:")
    draw_set(
        st.pills,
        "Or choose one",
        offered,
        key=f"{key}-offered",
        value=typed if typed in offered else None,
        take=lambda chosen: st.session_state.update({key: chosen or ""}),
        format_func=lambda source: source.removeprefix(f"{data_folder() / SETS}/"),
        help=f"{DRAWN} is the synthetic set. {meaning(DRAWN_SET)}",
    )
    return typed


def _draw_source() -> tuple[str, dict[str, Any]]:
    """Draw the choice of a data set, and return it with the option of its reader that it needs."""
    source = draw_path("new-path", built_in_sources())
    with st.container(horizontal=True):
        for name in PACKAGES:
            if not (data_folder() / SETS / name / CAPTIONS_FILE).is_file():
                with st.container(width="content", gap=None):
                    _draw_fetch(name)
    if not source or not lacks_captions(source):
        return source, {}
    st.caption("These are folders of pictures without captions.")
    if not st.toggle("Use folder names as captions", key="new-folder-names", persist_state="session"):
        return source, {}
    return source, {"caption_template": draw_field("caption_template", TEMPLATE, key="new-template")}


@st.fragment(run_every=2)
def _draw_fetch(name: str) -> None:
    """Draw the button that fetches a set, or what the job says that does it; the page again once it is there."""
    with explained_errors():
        job = fetch_task(name).find()
    if job is not None and job.running:
        st.caption(f"Fetching {name}")
        show_text(job.last_line, limit=60)
        return
    if (data_folder() / SETS / name / CAPTIONS_FILE).is_file():
        st.rerun()
    failed = job is not None and job.exit_code != 0
    if failed and job is not None:
        show_text(job.last_line, limit=200)
    label, source = f"Fetch {name}{' again' if failed else ''}", "A real data set, from Debian's archive."
    if st.button(label, key=f"fetch-{name}", icon=":material/download:", help=source):
        fetch_task(name).start()
        st.rerun(scope="fragment")


def _draw_main(usual: AuditConfig, *, drawn: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw the settings that matter most: those of the audit, and those of the drawn set.

    `repetitions` are the ensemble's repeats or the paper's seeds.
    """
    values: dict[str, Any] = {}
    with st.grid(4, min_column_width=150, vertical_alignment="bottom") as grid:
        with grid.container():
            values["repetitions"] = _draw_repetitions(usual.protocol)
        for name in MAIN:
            with grid.container():
                values[name] = _draw(name, usual)
        if not drawn:
            return values, {}
        with grid.container():
            return values, {"scenes_pairs": _draw("scenes_pairs", SourceOptions())}


def _draw_repetitions(protocol: str) -> int:
    label, usual, meaning = REPETITIONS[protocol]
    key = f"new-{label.lower()}"
    st.session_state.setdefault(key, usual)
    return int(st.number_input(label, step=1, key=key, help=meaning, persist_state="session") or 0)


def _draw_grid(names: list[str], usual: AuditConfig | SourceOptions) -> dict[str, Any]:
    values = {}
    with st.grid(4, min_column_width=150, vertical_alignment="bottom") as grid:
        for name in names:
            with grid.container():
                values[name] = _draw(name, usual)
    return values


def _draw(name: str, usual: AuditConfig | SourceOptions) -> Any:
    preset = usual.preset if isinstance(usual, AuditConfig) else "source"
    return draw_field(name, getattr(usual, name), key=f"new-{preset}-{name}")


def _members(protocol: str, repetitions: int, folds: int) -> dict[str, int]:
    """Return the fields that say how many members there are, as somebody would type them."""
    if protocol == "paper":
        return {"seeds": repetitions}
    return {"members": 0 if repetitions == USUAL_REPEATS else repetitions * folds}


def _draw_name(source: str, config: AuditConfig) -> str:
    proposed = free_name(audit_name(source, config), taken=is_taken)
    typed = st.text_input(
        "Name", key="new-name", placeholder=proposed, help="The audit's folder.", persist_state="session"
    )
    return typed.strip() or proposed


def free_name(name: str, *, taken: Callable[[str], bool]) -> str:
    """Return a name, with the first number behind it that makes it one that is not taken."""
    candidates = [name, *(f"{name}-{number}" for number in range(2, 1000))]
    return next((each for each in candidates if not taken(each)), name)


def is_taken(name: str) -> bool:
    if not is_name(name):
        return False
    with explained_errors():
        return (audits_folder() / name / CONFIG).is_file() or audit_task(name).find() is not None


def _fill_in() -> None:
    """Once, put the request that the address names into the widgets."""
    key = st.query_params.get(CHECK, "")
    if not key or st.session_state.get(LOADED) == key:
        return
    st.session_state[LOADED] = key
    with explained_errors():
        request = find_request(key)
    if request is not None:
        st.session_state.update(_widget_values(request))


def _widget_values(request: Request) -> dict[str, Any]:
    config, template = request.config, request.config.source.caption_template
    preset = config.preset if config.preset in PRESETS else DEFAULT_PRESET
    repeats = config.members // config.folds if config.members and config.folds else USUAL_REPEATS
    values: dict[str, Any] = {
        "new-path": request.source,
        "new-folder-names": bool(template),
        "new-template": template or TEMPLATE,
        "new-preset": preset,
        "new-protocol": config.protocol if config.protocol in PROTOCOLS else AuditConfig.protocol,
        "new-seeds": config.seeds,
        "new-repeats": repeats,
        "new-name": request.name,
    }
    drawn = [*_drawn_fields(), *(f"lock_{side}" for side in TOWERS), *(f"{side}_tower" for side in TOWERS)]
    values |= {f"new-{preset}-{name}": getattr(config, name) for name in drawn}
    return values | {f"new-source-{name}": getattr(config.source, name) for name in field_names(SourceOptions)}


def field_names(kind: type) -> list[str]:
    """Return the names of a config class's fields that a widget can set, in their order."""
    return [field.name for field in dataclasses.fields(kind) if isinstance(field.default, (bool, int, float, str))]


def draw_field(name: str, default: Any, *, key: str) -> Any:
    """Draw the widget of a field and return its value, of the field's type.

    What is typed stays while the page is left; a value that the session has under the key wins over the default.
    """
    own = FIELDS[name]
    shared: dict[str, Any] = {"key": key, "help": own.help or None, "persist_state": "session"}
    st.session_state.setdefault(key, default)
    if own.choices:
        return st.selectbox(own.label, own.choices, **shared)
    if isinstance(default, bool):
        return st.toggle(own.label, **shared)
    if isinstance(default, int):
        return int(st.number_input(own.label, step=1, **shared) or 0)
    if isinstance(default, float):
        return float(st.number_input(own.label, step=default / 10 or 0.1, format="%.6g", **shared) or 0.0)
    return st.text_input(own.label, **shared).strip()


def draw_check(request: Request, *, started: Callable[[str], None]) -> None:
    """Draw the button that checks a request, and what its check found."""
    checked = st.query_params.get(CHECK) == request.key
    if checked and _is_at_work(request):
        started(request.name)  # the browser's address may lag behind the button
    label = "Check again" if checked else "Check"
    if st.button(label, type="secondary" if checked else "primary", icon=":material/fact_check:") and _allowed(request):
        start_check(request)
        st.query_params[CHECK] = st.session_state[LOADED] = request.key
        st.rerun()
    if checked:
        _draw_result(request, started)
    elif CHECK in st.query_params:
        st.caption("The settings have changed since they were checked.")
    else:
        st.caption("Reads the data set and opens its pictures.")


def _is_at_work(request: Request) -> bool:
    """Tell whether the very audit that was checked waits or runs already."""
    job = audit_task(request.name).find() if is_name(request.name) else None
    return job is not None and job.running and job.arguments == ("audit", *request.arguments)


def _allowed(request: Request) -> bool:
    """Tell whether an audit may start as far as can be seen at once; draw why not."""
    try:
        refuse_at_once(request)
    except InputError as error:
        draw_fault("This audit cannot start.", error)
        return False
    return True


@st.fragment(run_every=1)
def _draw_result(request: Request, started: Callable[[str], None]) -> None:
    check = find_check(request.key)
    if check is None:
        return
    if check.error:
        draw_fault("This audit cannot start.", check.error)
        return
    if check.found is not None:
        _draw_found(check)
    with st.container(horizontal=True):
        begins = check.found is not None and st.button("Start", type="primary", icon=":material/play_arrow:")
        if check.job.running and st.button("Stop the check", icon=":material/stop_circle:"):
            cancel(check.job)
    if check.job.running:
        _draw_steps(check)
    if begins and _allowed(request):
        audit_task(request.name, request.arguments).start()
        started(request.name)


def _draw_steps(check: Check) -> None:
    """Draw what a check does now."""
    done, total = check.pictures
    if check.found is None:
        st.progress(0.0, text="Reading the data set")
    elif total:
        st.progress(done / total, text=f"Opening pictures: {done:,} of {total:,}. You can start meanwhile.")


def _draw_found(check: Check) -> None:
    found: dict[str, Any] = check.found or {}
    with st.grid(4, min_column_width=140) as grid:
        grid.metric("Pairs", f"{found['pairs']:,}", border=True)
        grid.metric("Captions", f"{found['captions']:,}", border=True)
        grid.metric("In quarantine", f"{found['quarantined']:,}", border=True, help="Rows that cannot be used.")
        grid.metric("Near-duplicates", f"{found['lookalikes']:,}" if check.exact else "…", border=True)
    st.caption("Groups: " + ", ".join(f"{count:,} {name}" for name, count in found["groups"].items()))
    if not check.exact and check.job.running:
        st.caption("Numbers may still change: not every picture has been opened yet.")
    if found["reasons"]:
        reasons = pd.DataFrame(found["reasons"], columns=["rows", "reason", "example"])
        st.dataframe(reasons, hide_index=True, alt="The commonest reasons why rows cannot be used, with an example")
