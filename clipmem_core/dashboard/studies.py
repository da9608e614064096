"""Studies of mitigations: the form that starts one, the choice of one, and its progress."""

import dataclasses
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import streamlit as st

from clipmem_core.audits.jobs import Job, Task
from clipmem_core.audits.settings import audit_name, check_config
from clipmem_core.audits.status import LEFT
from clipmem_core.audits.store import is_name
from clipmem_core.config import PRESETS, AuditConfig, InputError, SourceOptions, as_dict, preset_config
from clipmem_core.dashboard.compare import fingerprint, finished_audits
from clipmem_core.dashboard.new_audit import built_in_sources, draw_path, free_name
from clipmem_core.dashboard.page import PAGE, choose_listed
from clipmem_core.dashboard.plain import draw_fault, one_line, show_text
from clipmem_core.dashboard.running import draw_job
from clipmem_core.pairs.table import check_source
from clipmem_core.review.decisions import decided_for
from clipmem_core.studies.arm import DECISIONS, Arm
from clipmem_core.studies.plan import (
    STUDIES,
    add_own,
    defaults_of,
    fault_where_locked,
    find_arm,
    is_elsewhere,
    read_own,
    resume_study,
    study_arguments,
    study_task,
)
from clipmem_core.studies.results import rows_of
from clipmem_core.studies.store import STUDY, StudyFolder, list_studies, study_folder

PARAMETER = "study"  # in the address
PLANS = {  # plan → what its arms are
    "combined": "Some twenty settings, alone and together: rare words, noise, masking, crops, an early stop, and what "
    "acts only on pairs memorized early. Start with this one.",
    "text-noise": "Seven levels of noise on the text embedding.",
    "captions": "One caption a pair against two, three, up to all. The data set needs several captions a pair.",
    "removal": "More and more pairs are removed from training, by clipmem, by similarity and at random.",
    "forgetting": "Tokens of fewer than 2 and 3 trained pairs are left out of captions, or their rows are deleted, "
    "beside as many words left out at random. It needs a trained text encoder.",
}
PRESET_HELP = (
    "Studies start with small, not with locked as audits do: the paper's claims are about encoders that are trained. "
    "With locked, only heads are trained: far quicker, without the settings that change what a tower reads."
)
PLAY = ":material/play_arrow:"
KEPT: dict[str, Any] = {"persist_state": "session"}


@dataclasses.dataclass(frozen=True)
class Known:
    """A readable study of mitigations, and its finished arms × seeds."""

    study: StudyFolder
    source: str
    machine: str
    data_set: str  # its fingerprint
    seeds: int
    arms: tuple[str, ...]
    done: frozenset[tuple[str, int]]

    @property
    def total(self) -> int:
        return len(self.arms) * self.seeds

    @property
    def finished(self) -> int:
        return sum((arm, seed) in self.done for arm in self.arms for seed in range(self.seeds))

    @property
    def progress(self) -> str:
        return f"{self.finished} of {self.total} arms × seeds finished"


def known_studies() -> tuple[list[Known], list[str]]:
    """Return the studies of mitigations, those with the most rows first, then the newest; and the fault of each broken
    one."""
    known, faults = [], []
    for study in list_studies():
        try:
            known.append(know(study))
        except InputError as error:
            faults.append(f"{study.name}: {error}")
    newest = {each: (-len(each.done), -(each.study.folder / STUDY).stat().st_mtime) for each in known if each}
    return sorted(newest, key=newest.__getitem__), faults


def know(study: StudyFolder) -> Known | None:
    """Read what a study compares and how far it is; None if it is not one of mitigations."""
    asked = study.asked
    if asked["study"] not in PLANS:
        return None
    arms = dict.fromkeys([*asked["arms"], *(arm.name for arm in read_own(study))])
    done = frozenset(study.done()) if len(rows_of(study)) else frozenset()
    machine = f"{asked['machine'].get('processor', '')}, {asked['machine'].get('cores', 1)} cores".lstrip(", ")
    seeds = asked["config"]["seeds"]
    return Known(study, asked["source"], machine, asked["dataset_fingerprint"], seeds, tuple(arms), done)


def beginning(known: list[Known]) -> str:
    """Return the study of the address if it has only a job so far; empty otherwise."""
    name = st.query_params.get(PARAMETER, "")
    if any(each.study.name == name for each in known) or not is_name(name):
        return ""
    return name if study_task(name).find() is not None and not study_folder(name).begun else ""


def choose_study(known: list[Known], begins: str, picked: str) -> Known | None:
    """Draw the choice of a study, those of the picked audit's data set first; None for one with only a job so far."""
    audits = {audit.name: audit for audit in finished_audits()}
    data_set = fingerprint(audits[picked]) if picked in audits else None
    named = {each.study.name: each for each in sorted(known, key=lambda each: each.data_set != data_set)}
    options = [begins, *named] if begins else list(named)
    name = st.query_params.get(PARAMETER, "")
    if name and name not in options:
        st.warning("There is no study of mitigations of this name.", icon=":material/search_off:")
        show_text(f"requested: {name}", limit=120)
    key = "mitigations-study"
    chosen = named.get(choose_listed("Study", options, parameter=PARAMETER, key=key, width=400, clears=[PAGE]))
    if chosen and data_set and chosen.data_set != data_set:
        st.info("This study is of another data set than the chosen audit.", icon=":material/science:")
    return chosen


@contextmanager
def shown_errors() -> Iterator[None]:
    """Show an `InputError` of a part of the page in its place; the other parts are drawn."""
    try:
        yield
    except InputError as error:
        draw_fault("This part of the study cannot be shown.", error)


def is_working(name: str) -> bool:
    """Tell whether a process works on a study."""
    job = study_task(name).find()
    return (job is not None and job.running) or is_elsewhere(name)


@st.fragment(run_every=2)
def draw_state(known: Known, *, working: bool) -> None:
    """Draw the progress of a study every two seconds; rerun the page when an arm, or its job, is finished."""
    with shown_errors():
        name = known.study.name
        job = study_task(name).find()
        if working != is_working(name) or know(known.study) != known:
            st.rerun()
        parts = [known.source, f"{len(known.arms)} arms × {known.seeds} seeds", known.progress, known.machine]
        show_text(" · ".join(filter(None, parts)), limit=300)
        if working:
            st.progress(known.finished / max(1, known.total), text=known.progress)
        if job is not None and job.running:
            show_text("".join([line for line in job.last_lines if LEFT in line][-1:]), limit=400)
            draw_job(job, key="mitigations-cancel")
        elif working:
            st.caption("Another process is running it, perhaps in a terminal.")
        elif known.finished < known.total:
            _draw_failure(job)
            if st.button("Resume", key="mitigations-resume", icon=PLAY, help="Finished work is not repeated."):
                resume_study(known.study)
                st.rerun()


@st.fragment(run_every=2)
def draw_beginning(name: str) -> None:
    """Draw the job of a study that has no folder yet; rerun the page once it has one."""
    with shown_errors():
        job = study_task(name).find()
        if job is None or study_folder(name).begun:
            st.rerun()
        if job.running:
            draw_job(job, key="mitigations-cancel")
            return
        _draw_failure(job)
        if st.button("Try again", key="mitigations-again", icon=PLAY):
            Task(job.folder, job.arguments).start()
            st.rerun()


def _draw_failure(job: Job | None) -> None:
    if job is not None and job.failed:
        draw_fault("It stopped early.", job.last_line)


def draw_waiting(known: Known, setting: Arm, arm: str | None, *, working: bool) -> None:
    """Draw what is missing of a setting and the button that runs it; nothing if every seed is finished."""
    study, done = known.study, sum(name == arm for name, _ in known.done)
    decided = decided_for(study) if setting.overrides.get(DECISIONS) else None
    outdated = arm is not None and decided is not None and find_arm(study, setting, decided=decided) is None
    if arm is not None and done < known.seeds:
        missing = f"{done} of {known.seeds} seeds of this setting finished" if done else "Not run yet"
        turn = "It runs when its turn comes." if working else "Resume the study to run the rest."
        st.info(f"{missing}. {turn}", icon=":material/hourglass:")
    elif arm is None or outdated:
        with st.container(border=True, key="mitigation-waiting"):
            st.markdown("**Ran with older decisions**" if outdated else "**Not run**")
            if st.button("Run it", type="primary", icon=PLAY, key="mitigation-run"):
                try:
                    add_own(study, setting, decided=decided)
                    resume_study(study)
                except InputError as error:
                    draw_fault("This setting cannot run.", error)
                    return
                st.rerun()


def draw_start(picked: str, *, started: Callable[[str], None]) -> None:
    """Draw the form that starts a study, what is wrong with it, and its command."""
    plan = st.selectbox("Study", list(PLANS), key=_keep("plan", next(iter(PLANS))), width=400, **KEPT)
    st.caption(f"{STUDIES[plan].question} {PLANS[plan]}")
    known = _sources(picked)
    source = draw_path(_keep("path", next(iter(known))), list(known))
    source, options = known.get(source, (source, SourceOptions()))
    config = _draw_config(plan, options)
    proposed = free_name(f"{audit_name(source, AuditConfig())}-{plan}", taken=_is_taken)
    typed = st.text_input("Name", key="study-name", placeholder=proposed, help="The study's folder.", width=400, **KEPT)
    name = typed.strip() or proposed
    fault = _fault_of(source, name, config) or fault_where_locked(plan, config)
    if fault:
        st.warning("This study cannot start yet.", icon=":material/error:")
        show_text(fault, limit=1000)
    arguments = [] if fault else study_arguments(plan, source, name, as_dict(config))
    if st.button("Start", type="primary", icon=PLAY, key="study-start", disabled=bool(fault)):
        study_task(name, arguments).start()
        started(name)
    if arguments:
        st.caption("You can close this page; it continues. Command line:")
        st.code(f"python -m clipmem_core study {shlex.join(arguments)}", language="bash", wrap_lines=True)


def _draw_config(plan: str, options: SourceOptions) -> AuditConfig:
    """Draw the preset, seeds, epochs and whether near-duplicates are dropped, with the plan's defaults."""
    first, second, third, fourth = st.columns([4, 2, 2, 3], vertical_alignment="bottom")
    default = AuditConfig.preset
    key = _keep("preset", default)
    preset = first.segmented_control("Preset", list(PRESETS), key=key, required=True, **KEPT) or default
    usual = dataclasses.replace(preset_config(preset), **defaults_of(plan))
    numbers: dict[str, Any] = {
        name: int(column.number_input(label, step=1, key=_keep(key, value), help=told, **KEPT) or 0)
        for name, column, label, key, value, told in (
            ("seeds", second, "Seeds", "seeds", usual.seeds, "Each draws a split and trains two models an arm."),
            ("epochs", third, "Epochs", f"{preset}-epochs", usual.epochs, "How often each model sees every pair."),
        )
    }
    told = "Keeps only the first of several near-duplicate pictures."
    drop = fourth.toggle("Drop near-duplicates", key=_keep("lookalikes", False), help=told, **KEPT)
    st.caption(PRESET_HELP)
    return dataclasses.replace(usual, **numbers, drop_lookalikes=drop, source=options)


def _keep(name: str, value: object) -> str:
    """Give a widget its first value, and return its key."""
    key = f"study-{name}"
    st.session_state.setdefault(key, value)
    return key


def _fault_of(source: str, name: str, config: AuditConfig) -> str:
    """Return why a study cannot start, without reading the data set; empty if it can."""
    try:
        if not source:
            raise InputError("no data set is given: type its path, or choose one")
        check_source(source)
        check_config(config)
        begun, job = study_folder(name).begun, study_task(name).find()
        if begun or (job is not None and job.running):
            raise InputError(f"there is a study {name!r} already: take another name")
    except InputError as error:
        return one_line(error)
    return ""


def _is_taken(name: str) -> bool:
    try:
        return study_folder(name).begun or study_task(name).find() is not None
    except InputError:
        return False


def _sources(picked: str) -> dict[str, tuple[str, SourceOptions]]:
    """Return the data sets of finished audits, the picked one first, with their reading options; then the built-in."""
    found: dict[str, tuple[str, SourceOptions]] = {}
    for audit in sorted(finished_audits(), key=lambda audit: audit.name != picked):
        if fingerprint(audit) is not None:
            record = audit.record
            found.setdefault(record.source, (record.source, record.config.source))
    return found | {name: (name, SourceOptions()) for name in built_in_sources() if name not in found}
