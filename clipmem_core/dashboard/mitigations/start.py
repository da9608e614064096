"""What a person chooses → a new study of mitigations: its question, its data set, how often each arm is trained."""

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from clipmem_core.audits.settings import audit_name, check_config
from clipmem_core.audits.store import Audit
from clipmem_core.config import PRESETS, AuditConfig, InputError, SourceOptions, as_dict, preset_config
from clipmem_core.dashboard.comparable import finished_audits
from clipmem_core.dashboard.mitigations.study import PLANS
from clipmem_core.dashboard.plain import show_text
from clipmem_core.dashboard.starting import OTHER_SOURCE, built_in_sources, free_name
from clipmem_core.studies.jobs import study_task
from clipmem_core.studies.plans import STUDIES, defaults_of
from clipmem_core.studies.store import STUDY, study_folder
from clipmem_core.studies.typed import study_arguments

Source = tuple[str, SourceOptions]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A study that somebody wants."""

    plan: str
    source: str
    name: str
    config: AuditConfig

    @property
    def arguments(self) -> list[str]:
        """What follows `study` on the command line: its seeds, and what the study and its preset set otherwise."""
        return study_arguments(self.plan, self.source, self.name, as_dict(self.config))


def _usual(plan: str, preset: str) -> AuditConfig:
    return dataclasses.replace(preset_config(preset), **defaults_of(plan))


def draw_start(*, started: Callable[[str], None]) -> None:
    """Draw the choices, what is wrong with them, the command they come to, and the button that starts it.

    Args:
        started: called with the study's name once its job was started.
    """
    wanted = _draw_wanted()
    fault = fault_of(wanted)
    if fault:
        st.warning("This study cannot start yet.", icon=":material/error:")
        show_text(fault, limit=1000)
    if st.button("Start", type="primary", icon=":material/play_arrow:", key="study-start", disabled=bool(fault)):
        study_task(wanted.name, wanted.arguments).start()
        started(wanted.name)
    st.caption("A few real steps tell first how long it takes. It goes on when this page is closed.")
    if not fault:
        st.caption("From a terminal:")
        command = f"python -m clipmem_core study {shlex.join(wanted.arguments)}"
        st.code(command, language="bash", wrap_lines=True)


def fault_of(wanted: Wanted) -> str:
    """Return in one line why a study cannot start, as far as can be seen without reading the data set; empty if it
    can."""
    try:
        folder = study_folder(wanted.name).folder
        if not wanted.source:
            raise InputError("no data set is given: choose one, or type its path")
        check_config(wanted.config)
        job = study_task(wanted.name).find()
    except InputError as error:
        return " ".join(str(error).split())
    if (folder / STUDY).is_file() or (job is not None and job.running):
        return f"there is a study {wanted.name!r} already: take another name"
    return ""


def _draw_wanted() -> Wanted:
    plan = _draw_plan()
    source, options = _draw_source()
    preset_column, *columns = st.columns([3, 2, 2, 3], vertical_alignment="bottom")
    with preset_column:
        names, usual_preset = list(PRESETS), AuditConfig.preset
        key = _first("preset", usual_preset)
        preset = st.segmented_control("Preset", names, key=key, required=True, persist_state="session") or usual_preset
    usual = _usual(plan, preset)
    with columns[0]:
        seeds = _draw_number("Seeds", "seeds", usual.seeds, "Each trains two models an arm; 3 give intervals.")
    with columns[1]:
        epochs = _draw_number("Epochs", f"{preset}-epochs", usual.epochs, "How often each model sees every pair.")
    with columns[2]:
        lookalikes = st.toggle(
            "Drop look-alikes",
            key=_first("lookalikes", False),
            help="Of pictures that look alike only the first takes part.",
            persist_state="session",
        )
    values: dict[str, Any] = {"seeds": seeds, "epochs": epochs, "drop_lookalikes": lookalikes, "source": options}
    config = dataclasses.replace(usual, **values)
    return Wanted(plan, source, _draw_name(plan, source), config)


def _draw_plan() -> str:
    """Draw the studies to choose one from, with the question that the chosen one answers."""
    key = _first("plan", PLANS[0], among=PLANS)
    plan = st.selectbox("Study", PLANS, key=key, persist_state="session", width=400)
    st.caption(f"{STUDIES[plan].question} {ARMS_IN_WORDS[plan]}")
    return plan


ARMS_IN_WORDS = {
    "combined": "Some twenty settings, alone and together: rare words, noise, masking, crops, an early stop, and what "
    "acts only on pairs that run ahead. The one to begin with.",
    "text-noise": "Seven levels of noise on the text embedding.",
    "captions": "One caption a pair against two, three, up to all. The data set needs several captions a pair.",
    "removal": "Ever more pairs are taken out of training, by clipmem, by similarity and at random.",
}


def sources() -> dict[str, Source]:
    """Return the data sets that need no typing: those of finished audits, read as they were, then the built-in ones."""
    found: dict[str, Source] = {}
    for audit in finished_audits():
        source = _source_of(audit)
        if source is not None and source not in found.values():
            name = source[0] if source[0] not in found else f"{source[0]} (as in audit {audit.name})"
            found[name] = source
    return found | {name: (name, SourceOptions()) for name in built_in_sources() if name not in found}


def _source_of(audit: Audit) -> Source | None:
    """Return what an audit was made of; None where it does not say."""
    try:
        config = audit.config
        return str(config["source"]), SourceOptions(**config["config"]["source"])
    except (InputError, KeyError, TypeError):
        return None


def _draw_source() -> Source:
    known = sources()
    options = [*known, OTHER_SOURCE]
    key = _first("source", options[0], among=options)
    chosen = st.selectbox("Data set", options, key=key, persist_state="session", width=400)
    if chosen in known:
        return known[chosen]
    help_text = "A CSV, TSV, JSONL, Parquet or COCO file, shards, a folder of pictures with captions, or owner/name."
    typed = st.text_input(
        "Path or name", key="study-path", help=help_text, placeholder="/data/pairs.csv", persist_state="session"
    )
    return typed.strip(), SourceOptions()


def _draw_number(label: str, name: str, usual: int, help_text: str) -> int:
    key = _first(name, usual)
    return int(st.number_input(label, step=1, key=key, help=help_text, persist_state="session") or 0)


def _draw_name(plan: str, source: str) -> str:
    proposed = free_name(f"{audit_name(source, AuditConfig())}-{plan}", taken=_taken)
    typed = st.text_input(
        "Name", key="study-name", placeholder=proposed, help="The study's folder.", persist_state="session", width=400
    )
    return typed.strip() or proposed


def _taken(name: str) -> bool:
    try:
        return (study_folder(name).folder / STUDY).is_file() or study_task(name).find() is not None
    except InputError:
        return False


def _first(name: str, value: Any, *, among: Sequence[str] = ()) -> str:
    """Give a widget its first value, also where what it had is no option any more, and return its key."""
    key = f"study-{name}"
    if among and st.session_state.get(key) not in among:
        st.session_state[key] = value
    st.session_state.setdefault(key, value)
    return key
