"""The form that starts a study of mitigations: its question, its data set, how often each arm is trained."""

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from clipmem_core.audits.settings import audit_name, check_config
from clipmem_core.config import PRESETS, AuditConfig, InputError, SourceOptions, as_dict, preset_config
from clipmem_core.dashboard.comparing import finished_audits
from clipmem_core.dashboard.mitigations.study_progress import PLANS
from clipmem_core.dashboard.plain import show_text
from clipmem_core.dashboard.starting import built_in_sources, draw_path, free_name
from clipmem_core.pairs.table import check_there
from clipmem_core.studies.plan import STUDIES, defaults_of, fault_where_locked, study_arguments, study_task
from clipmem_core.studies.store import study_folder

Source = tuple[str, SourceOptions]
ARMS_IN_WORDS = {
    "combined": "Some twenty settings, alone and together: rare words, noise, masking, crops, an early stop, and what "
    "acts only on pairs that run ahead. The one to begin with.",
    "text-noise": "Seven levels of noise on the text embedding.",
    "captions": "One caption a pair against two, three, up to all. The data set needs several captions a pair.",
    "forgetting": "Tokens of fewer than 2 and 3 trained pairs are left out of captions, or their rows are deleted, "
    "beside as many words left out at random. It needs a trained text encoder.",
    "removal": "Ever more pairs are taken out of training, by clipmem, by similarity and at random.",
}
PRESETS_TOLD = (
    "Studies begin with small, not with locked as audits do: the paper's claims are about encoders that are trained. "
    "With locked, heads alone are trained: far quicker, and settings that change what a tower reads are left out."
)
KEPT: dict[str, Any] = {"persist_state": "session"}


def draw_start(picked: str, *, started: Callable[[str], None]) -> None:
    """Draw the choices, what is wrong with them, the command they come to, and the button that starts it.

    Args:
        picked: the name of the audit whose data set is proposed first.
        started: called with the study's name once its job was started.
    """
    plan = _choose("Study", "plan", PLANS)
    st.caption(f"{STUDIES[plan].question} {ARMS_IN_WORDS[plan]}")
    source, options = _draw_source(picked)
    config = _draw_config(plan, options)
    proposed = free_name(f"{audit_name(source, AuditConfig())}-{plan}", taken=_taken)
    typed = st.text_input("Name", key="study-name", placeholder=proposed, help="The study's folder.", width=400, **KEPT)
    name = typed.strip() or proposed
    fault = fault_of(source, name, config) or fault_where_locked(plan, config)
    arguments = [] if fault else study_arguments(plan, source, name, as_dict(config))
    if fault:
        st.warning("This study cannot start yet.", icon=":material/error:")
        show_text(fault, limit=1000)
    if st.button("Start", type="primary", icon=":material/play_arrow:", key="study-start", disabled=bool(fault)):
        study_task(name, arguments).start()
        started(name)
    st.caption("It goes on when this page is closed.")
    if not fault:
        st.caption("From a terminal:")
        st.code(f"python -m clipmem_core study {shlex.join(arguments)}", language="bash", wrap_lines=True)


def fault_of(source: str, name: str, config: AuditConfig) -> str:
    """Return in one line why a study cannot start, as far as can be seen without reading the data set; empty if it
    can."""
    try:
        begun = study_folder(name).begun
        if not source:
            raise InputError("no data set is given: type its path, or choose one")
        check_there(source)
        check_config(config)
        job = study_task(name).find()
    except InputError as error:
        return " ".join(str(error).split())
    if begun or (job is not None and job.running):
        return f"there is a study {name!r} already: take another name"
    return ""


def _taken(name: str) -> bool:
    try:
        return study_folder(name).begun or study_task(name).find() is not None
    except InputError:
        return False


def sources(picked: str = "") -> dict[str, Source]:
    """Return the data sets that need no typing: those of finished audits, read as they were, then the built-in ones.

    Args:
        picked: the name of the audit whose data set comes first.
    """
    found: dict[str, Source] = {}
    for audit in sorted(finished_audits(), key=lambda audit: audit.name != picked):
        try:
            record = audit.record
        except InputError:  # it does not say what it was made of
            continue
        name, options = record.source, record.config.source
        if (name, options) not in found.values():
            found[name if name not in found else f"{name} (as in audit {audit.name})"] = name, options
    return found | {name: (name, SourceOptions()) for name in built_in_sources() if name not in found}


def _draw_source(picked: str) -> Source:
    known = sources(picked)
    typed = draw_path(_first("path", next(iter(known))), list(known))
    return known.get(typed, (typed, SourceOptions()))


def _draw_config(plan: str, options: SourceOptions) -> AuditConfig:
    """Draw the preset, seeds, epochs and whether look-alikes are dropped, at first as the plan has them."""
    first, second, third, fourth = st.columns([4, 2, 2, 3], vertical_alignment="bottom")
    with first:
        usual_preset, key = AuditConfig.preset, _first("preset", AuditConfig.preset)
        preset = st.segmented_control("Preset", list(PRESETS), key=key, required=True, **KEPT) or usual_preset
    usual = dataclasses.replace(preset_config(preset), **defaults_of(plan))
    with second:
        seeds = _draw_number(
            "Seeds",
            "seeds",
            usual.seeds,
            "Each draws a split of the pairs and trains two models an arm; 3 or more give intervals.",
        )
    with third:
        epochs = _draw_number("Epochs", f"{preset}-epochs", usual.epochs, "How often each model sees every pair.")
    with fourth:
        help_text = "Of pictures that look alike only the first takes part."
        lookalikes = st.toggle("Drop look-alikes", key=_first("lookalikes", False), help=help_text, **KEPT)
    st.caption(PRESETS_TOLD)
    values: dict[str, Any] = {"seeds": seeds, "epochs": epochs, "drop_lookalikes": lookalikes, "source": options}
    return dataclasses.replace(usual, **values)


def _choose(label: str, name: str, options: Sequence[str]) -> str:
    """Draw a list to choose from; at first, and where what it had is no option any more, with its first option."""
    key = _first(name, options[0])
    if st.session_state[key] not in options:
        st.session_state[key] = options[0]
    return st.selectbox(label, options, key=key, width=400, **KEPT)


def _draw_number(label: str, name: str, usual: int, help_text: str) -> int:
    return int(st.number_input(label, step=1, key=_first(name, usual), help=help_text, **KEPT) or 0)


def _first(name: str, value: object) -> str:
    """Give a widget its first value, and return its key."""
    key = f"study-{name}"
    st.session_state.setdefault(key, value)
    return key
