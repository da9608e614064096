"""The form that starts an audit: data set, settings and name, and the check of the request."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core import config as configs
from clipmem_core.audit.jobs import audit_task, cancel
from clipmem_core.audit.preflight import Request, check_request, find_check
from clipmem_core.audit.settings import audit_name
from clipmem_core.audit.store import CONFIG, audits_folder, is_name
from clipmem_core.config import FIELDS, PRESETS, AuditConfig, SourceOptions, data_folder
from clipmem_core.dashboard.page import draw_set
from clipmem_core.dashboard.plain import draw_fault, explained_errors
from clipmem_core.dataset.source import DRAWN, check_source, lacks_captions
from clipmem_core.export.cleaned import CLEANED
from clipmem_core.glossary import DRAWN as DRAWN_SET
from clipmem_core.glossary import PROTOCOL, meaning
from clipmem_core.io import InputError
from clipmem_core.scores.membership import MIN_PAIRS

MAIN = ("epochs", "batch_size", "captions", "inject_miscaptions", "drop_near_duplicates", "seed")
# Fields that have another widget above
DRAWN_ABOVE = ["preset", "protocol", "members", "seeds", "features"]
DRAWN_ABOVE += ["lock_image", "lock_text", "image_tower", "text_tower"]
DEFAULT_REPEATS = 2
REPETITIONS = {  # protocol → label, default, help
    "ensemble": (
        "Repeats",
        DEFAULT_REPEATS,
        "Random partitions into folds; each trains one member per fold.",
    ),
    "paper": ("Seeds", 1, "Pairs of models f and g; 3 give intervals."),
}
PRESET_HELP = {
    "locked": "Both towers are pretrained and locked, and members train heads on their features: "
    "minutes on a "
    "processor, and the best choice to find wrong captions. clipmem measures what the heads "
    "memorized.",
    "tiny": "The smallest encoders, trained from scratch: for a quick test.",
    "small": "Small encoders, trained from scratch, for thousands of pairs on two cores: what "
    "encoders memorize.",
    "base": "ViT-B/32 from scratch, as in the paper; it needs a GPU.",
}
TOWERS = {"image": "sees pictures unchanged", "text": "reads captions unchanged"}
PERSIST: dict[str, Any] = {"persist_state": "session"}
_GRID: dict[str, Any] = {"columns": 4, "min_column_width": 150, "vertical_alignment": "bottom"}


def draw_request() -> Request:
    """Draw the form and return its request."""
    st.caption(f"An audit needs at least {MIN_PAIRS} pictures with captions.")
    source = draw_path("new-path", built_in_sources())
    options: dict[str, Any] = {}
    if source and lacks_captions(source):
        st.caption("These are folders of pictures without captions.")
        if st.toggle("Use folder names as captions", key="new-folder-names", **PERSIST):
            options = {"caption_template": _draw_field("caption_template", "a photo of a {label}")}
    with st.container(horizontal=True, gap="large"):
        preset = _choose("Preset", list(PRESETS), configs.DEFAULT_PRESET)
        protocol = _choose(
            "Protocol", FIELDS["protocol"].choices, AuditConfig.protocol, help=meaning(PROTOCOL)
        )
    st.caption(PRESET_HELP[preset])
    defaults = dataclasses.replace(configs.preset_config(preset), protocol=protocol)
    defaults = dataclasses.replace(defaults, **_draw_towers(defaults))
    with st.grid(**_GRID) as grid:
        label, default, help_text = REPETITIONS[protocol]
        key = key_of(f"new-{label.lower()}", default)
        repetitions = int(grid.number_input(label, step=1, key=key, help=help_text, **PERSIST) or 0)
        values = _draw_fields(grid, MAIN, defaults)
        if source == DRAWN:
            options |= _draw_fields(grid, ["scenes_pairs"], SourceOptions())
    with st.expander("Further settings", icon=":material/tune:"):
        unavailable = configs.ineffective_fields(defaults)
        omitted = {
            *MAIN,
            *DRAWN_ABOVE,
            *unavailable,
            *(() if defaults.lock_image else ("tower_size",)),
        }
        names = [name for name in _field_names(AuditConfig) if name not in omitted]
        reader_names = [
            name for name in _field_names(SourceOptions) if name not in {*options, "scenes_pairs"}
        ]
        with st.grid(**_GRID) as grid:
            values |= _draw_fields(grid, names, defaults)
            options |= _draw_fields(grid, reader_names, SourceOptions())
        draw_left_out(unavailable)
    if protocol == "paper":
        values["seeds"] = repetitions
    else:
        values["members"] = 0 if repetitions == DEFAULT_REPEATS else repetitions * values["folds"]
    config = dataclasses.replace(defaults, **values, source=SourceOptions(**options))
    proposed = free_name(audit_name(source, config), taken=is_taken)
    typed = st.text_input(
        "Name", key="new-name", placeholder=proposed, help="The audit's folder.", **PERSIST
    )
    return Request(source, typed.strip() or proposed, config)


def draw_left_out(unavailable: Mapping[str, str]) -> None:
    """Name the fields that are not available because a tower is locked."""
    for side, effect in TOWERS.items():
        if labels := [FIELDS[name].label for name, tower in unavailable.items() if tower == side]:
            st.caption(
                f"Not available, as the {side} tower is locked and {effect}: {', '.join(labels)}."
            )


def draw_path(key: str, offered: Sequence[str]) -> str:
    """Draw the field for a data set and buttons for those that need no typing; return its path or
    name."""
    typed = st.text_input(
        "Path, shards or Hugging Face name",
        key=key,
        help="A CSV, TSV, JSONL, Parquet or COCO file, shards, a folder of pictures with "
        "captions, or owner/name.",
        placeholder="/data/pairs.csv",
        **PERSIST,
    ).strip()
    try:
        if typed and typed not in offered:
            check_source(typed)
    except InputError:
        st.error("Nothing is there: check the path.", icon=":material/error:")
    draw_set(
        st.pills,
        "Or choose one",
        offered,
        key=f"{key}-offered",
        value=typed if typed in offered else None,
        on_choose=lambda chosen: st.session_state.update({key: chosen or ""}),
        format_func=lambda source: source.removeprefix(f"{data_folder() / configs.SETS}/"),
        help=f"{DRAWN} is the synthetic set. {meaning(DRAWN_SET)}",
    )
    return typed


def built_in_sources() -> list[str]:
    """Return the sources that need no typing: the synthetic set, and the sets in the data
    folder."""
    drawn = re.compile(rf"{DRAWN}-\d+-\d+")
    sets = [
        path
        for path in sorted((data_folder() / configs.SETS).glob("[!.]*"))
        if not (path / CLEANED).is_file()
    ]
    return [DRAWN, *(str(path) for path in sets if not drawn.fullmatch(path.name))]


def free_name(name: str, *, taken: Callable[[str], bool]) -> str:
    """Return a name, with a number behind it if it is taken."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(free for free in itertools.chain([name], numbered) if not taken(free))


def is_taken(name: str) -> bool:
    """Tell whether an audit or a job has a name."""
    with explained_errors():
        return is_name(name) and (
            (audits_folder() / name / CONFIG).is_file() or audit_task(name).find() is not None
        )


def draw_check(request: Request, *, started: Callable[[str], None]) -> None:
    """Draw the button that checks a request, and the result of its check."""
    check = find_check(request)
    label = "Check again" if check else "Check"
    if st.button(
        label, type="secondary" if check else "primary", icon=":material/fact_check:"
    ) and _allowed(request):
        request.check.start()
        st.rerun()
    if check:
        _draw_check(request, started)
    else:
        st.caption("Reads the data set and opens its pictures.")


@st.fragment(run_every=1)
def _draw_check(request: Request, started: Callable[[str], None]) -> None:
    """Draw the progress and the result of a check, and the button that starts the audit."""
    check = find_check(request)
    if check is None:
        return
    if check.error:
        draw_fault("This audit cannot start.", check.error)
    if check.found is not None:
        _draw_counts(check.found)
    if check.error:
        return
    with st.container(horizontal=True):
        start = check.found is not None and st.button(
            "Start", type="primary", icon=":material/play_arrow:"
        )
        if check.job.running and st.button("Stop the check", icon=":material/stop_circle:"):
            cancel(check.job)
    if check.job.running:
        done, total = check.pictures
        if check.found is None:
            st.progress(0.0, text="Reading the data set")
        elif total:
            st.progress(
                done / total,
                text=f"Opening pictures: {done:,} of {total:,}. You can start meanwhile.",
            )
    if start and _allowed(request):
        audit_task(request.name, request.arguments).start()
        started(request.name)


def _draw_counts(counts: dict[str, Any]) -> None:
    with st.grid(4, min_column_width=140) as grid:
        grid.metric("Pairs", f"{counts['pairs']:,}", border=True)
        grid.metric("Captions", f"{counts['captions']:,}", border=True)
        grid.metric(
            "In quarantine",
            f"{counts['quarantined']:,}",
            border=True,
            help="Rows that cannot be used.",
        )
        grid.metric(
            "Near-duplicates",
            f"{counts['near_duplicates']:,}" if counts["exact"] else "…",
            border=True,
        )
    if counts["groups"]:
        st.caption(
            "Groups: " + ", ".join(f"{count:,} {name}" for name, count in counts["groups"].items())
        )
    if counts["reasons"]:
        reasons = pd.DataFrame(counts["reasons"], columns=["rows", "reason", "example"])
        st.dataframe(
            reasons, hide_index=True, alt="The most frequent reasons why rows cannot be used"
        )
        rows = pd.DataFrame(counts["rows_in_quarantine"], columns=["row", "reason"])
        with st.expander(
            f"The first {len(rows):,} rows that cannot be used", icon=":material/inventory_2:"
        ):
            st.dataframe(rows, hide_index=True, alt="Rows that cannot be used, and why")


def _allowed(request: Request) -> bool:
    """Tell whether an audit may start, without reading the data set; draw why not."""
    try:
        check_request(request)
    except InputError as error:
        draw_fault("This audit cannot start.", error)
        return False
    return True


def key_of(key: str, value: object) -> str:
    """Set a widget's first value, and return its key."""
    st.session_state.setdefault(key, value)
    return key


def _choose(label: str, options: Sequence[str], default: str, *, help: str | None = None) -> str:
    key = key_of(f"new-{label.lower()}", default)
    return (
        st.segmented_control(label, options, key=key, help=help, required=True, **PERSIST)
        or default
    )


def _draw_towers(defaults: AuditConfig) -> dict[str, Any]:
    """Draw which towers are locked and the name of each locked one; return these fields and the
    model."""
    values = dict[str, Any]()
    locked = PRESETS[configs.DEFAULT_PRESET]
    with st.grid(**_GRID) as grid:
        for side in TOWERS:
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


def _field_names(kind: type) -> list[str]:
    return [
        field.name
        for field in dataclasses.fields(kind)
        if isinstance(field.default, (bool, int, float, str))
    ]


def _draw_field(name: str, default: Any) -> Any:
    """Draw the widget of a field and return its value; the key holds the default, so presets have
    separate widgets."""
    field = FIELDS[name]
    options: dict[str, Any] = {
        "key": key_of(f"new-{name}-{default}", default),
        "help": field.help or None,
        **PERSIST,
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
