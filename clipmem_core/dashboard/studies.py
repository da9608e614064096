"""Studies of mitigations: the form that starts one, the choice of one, and its progress."""

import dataclasses
import functools
import shlex
from collections.abc import Callable

import streamlit as st

from clipmem_core.audit.jobs import Job, Task
from clipmem_core.audit.settings import audit_name, check_config
from clipmem_core.audit.status import TIME_LEFT
from clipmem_core.audit.store import is_name
from clipmem_core.config import PRESETS, AuditConfig, InputError, SourceOptions, as_dict, preset_config
from clipmem_core.dashboard.compare import fingerprint, finished_audits
from clipmem_core.dashboard.new_audit import PERSIST, built_in_sources, draw_path, free_name, key_of
from clipmem_core.dashboard.page import PAGE, choose_listed
from clipmem_core.dashboard.plain import draw_fault, explained_errors, one_line, show_text
from clipmem_core.dashboard.running import draw_job
from clipmem_core.dataset.source import check_source
from clipmem_core.review.decisions import decided_for
from clipmem_core.studies import plan as p
from clipmem_core.studies.arm import DECISIONS, Arm
from clipmem_core.studies.results import rows_of
from clipmem_core.studies.study_folder import STUDY, StudyFolder, list_studies, study_folder

PARAMETER = "study"  # in the address
PLANS = {  # plan → its arms
    "combined": "Some twenty settings, alone and together: rare words, noise, masking, crops, an early stop, and "
    "settings that act only on pairs memorized early. Start with this one.",
    "text-noise": "Seven levels of noise on the text embedding.",
    "captions": "One caption per pair against two, three, up to all. The data set needs several captions per pair.",
    "removal": "More and more pairs are removed from training, by clipmem, by similarity and at random.",
}
PRESET_HELP = (
    "Studies start with small, not with locked as audits do: the paper's claims are about encoders that are trained. "
    "With locked, only heads are trained: far quicker, without the settings that change the input of a locked tower."
)
PLAY = ":material/play_arrow:"
# Shows an error of a part of the page in its place; the other parts are drawn
shown_errors = functools.partial(explained_errors, "This part of the study cannot be shown.", ends=False)


@dataclasses.dataclass(frozen=True)
class StudyState:
    """A readable study of mitigations, and its finished arms × seeds."""

    study: StudyFolder
    source: str
    machine: str
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


def list_states() -> tuple[list[StudyState], list[str]]:
    """Return the studies of mitigations, first those with the most rows, and a message for each broken study."""
    states, faults = [], []
    for study in list_studies():
        try:
            if state := state_of(study):
                states.append(state)
        except InputError as error:
            faults.append(f"{study.name}: {error}")
    times = {state: (state.study.folder / STUDY).stat().st_mtime for state in states}
    return sorted(states, key=lambda state: (len(state.done), times[state]), reverse=True), faults


def state_of(study: StudyFolder) -> StudyState | None:
    """Read the arms and the progress of a study; None if it is not one of mitigations."""
    settings = study.request
    if settings["study"] not in PLANS:
        return None
    arms = dict.fromkeys([*settings["arms"], *(arm.name for arm in p.read_added(study))])
    done = frozenset(study.done()) if len(rows_of(study)) else frozenset()
    machine = f"{settings['machine'].get('processor', '')}, {settings['machine'].get('cores', 1)} cores".lstrip(", ")
    return StudyState(study, settings["source"], machine, settings["config"]["seeds"], tuple(arms), done)


def starting_study(states: list[StudyState]) -> str:
    """Return the study of the address if it has a job but no folder yet; empty otherwise."""
    name = st.query_params.get(PARAMETER, "")
    if any(state.study.name == name for state in states) or not is_name(name):
        return ""
    return name if study_job(name) is not None and not study_folder(name).begun else ""


def study_job(name: str) -> Job | None:
    """Return the job of a study, if one was started."""
    return p.study_task(name).find()


def choose_study(states: list[StudyState], starting: str) -> StudyState | None:
    """Draw the choice of a study and return it; None for the one that is starting."""
    by_name = {state.study.name: state for state in states}
    options = [starting, *by_name] if starting else list(by_name)
    name = st.query_params.get(PARAMETER, "")
    if name and name not in options:
        st.warning("There is no study of mitigations of this name.", icon=":material/search_off:")
        show_text(f"requested: {name}", limit=120)
    key = "mitigations-study"
    return by_name.get(choose_listed("Study", options, parameter=PARAMETER, key=key, width=400, clears=[PAGE]))


def is_running(name: str) -> bool:
    """Tell whether a process works on a study."""
    job = study_job(name)
    return (job is not None and job.running) or p.runs_outside_job(name)


@st.fragment(run_every=2)
def draw_state(state: StudyState, *, running: bool) -> None:
    """Draw the progress of a study every two seconds; rerun the page when an arm, or its job, is finished."""
    with shown_errors():
        name = state.study.name
        job = study_job(name)
        if running != is_running(name) or state_of(state.study) != state:
            st.rerun()
        parts = [state.source, f"{len(state.arms)} arms × {state.seeds} seeds", state.progress, state.machine]
        show_text(" · ".join(filter(None, parts)), limit=300)
        if running:
            st.progress(state.finished / max(1, state.total), text=state.progress)
        if job is not None and job.running:
            show_text("".join([line for line in job.last_lines if TIME_LEFT in line][-1:]), limit=400)
            draw_job(job, key="mitigations-cancel")
        elif running:
            st.caption("Another process is running it, perhaps in a terminal.")
        elif state.finished < state.total:
            if job is not None and job.failed:
                draw_fault("The study stopped.", job.last_line)
            if st.button("Resume", key="mitigations-resume", icon=PLAY, help="Finished work is not repeated."):
                p.resume_study(state.study)
                st.rerun()


@st.fragment(run_every=2)
def draw_starting(name: str) -> None:
    """Draw the job of a study that has no folder yet; rerun the page once it has one."""
    with shown_errors():
        job = study_job(name)
        if job is None or study_folder(name).begun:
            st.rerun()
        if job.running:
            draw_job(job, key="mitigations-cancel")
            return
        if job.failed:
            draw_fault("The study stopped.", job.last_line)
        if st.button("Try again", key="mitigations-again", icon=PLAY):
            Task(job.folder, job.arguments).start()
            st.rerun()


def draw_missing(state: StudyState, setting: Arm, arm: str | None, *, running: bool) -> None:
    """Draw what is missing of a setting and the button that runs it; nothing if every seed is finished."""
    study, done = state.study, sum(name == arm for name, _ in state.done)
    decided = decided_for(study) if setting.overrides.get(DECISIONS) else None
    outdated = arm is not None and decided is not None and p.find_arm(study, setting, decided=decided) is None
    if arm is not None and done < state.seeds:
        missing = f"{done} of {state.seeds} seeds of this setting finished" if done else "Not run yet"
        advice = "It is queued." if running else "Resume the study to run the rest."
        st.info(f"{missing}. {advice}", icon=":material/hourglass:")
    elif arm is None or outdated:
        with st.container(border=True, key="mitigation-waiting"):
            st.markdown("**Ran with older decisions**" if outdated else "**Not run**")
            if st.button("Run it", type="primary", icon=PLAY, key="mitigation-run"):
                try:
                    p.add_arm(study, setting, decided=decided)
                    p.resume_study(study)
                except InputError as error:
                    draw_fault("This setting cannot run.", error)
                    return
                st.rerun()


def draw_start(audit: str, *, started: Callable[[str], None]) -> None:
    """Draw the form that starts a study, what is wrong with it, and its command."""
    plan = st.selectbox("Study", list(PLANS), key=key_of("study-plan", next(iter(PLANS))), width=400, **PERSIST)
    st.caption(f"{p.STUDIES[plan].question} {PLANS[plan]}")
    sources = _sources(audit)
    source = draw_path(key_of("study-path", next(iter(sources))), list(sources))
    config = _draw_config(sources.get(source, SourceOptions()))
    proposed = free_name(f"{audit_name(source, AuditConfig())}-{plan}", taken=_is_taken)
    typed = st.text_input("Name", key="study-name", placeholder=proposed, help="Its folder.", width=400, **PERSIST)
    name = typed.strip() or proposed
    fault = _fault_of(source, name, config)
    if fault:
        st.warning("This study cannot start yet.", icon=":material/error:")
        show_text(fault, limit=1000)
    arguments = [] if fault else p.study_arguments(plan, source, name, as_dict(config))
    if st.button("Start", type="primary", icon=PLAY, key="study-start", disabled=bool(fault)):
        p.study_task(name, arguments).start()
        started(name)
    if arguments:
        st.caption("You can close this page; it continues. Command line:")
        st.code(f"python -m clipmem_core study {shlex.join(arguments)}", language="bash", wrap_lines=True)


def _draw_config(options: SourceOptions) -> AuditConfig:
    """Draw the preset, seeds, epochs and whether near-duplicates are dropped, with the defaults of studies."""
    first, second, third, fourth = st.columns([4, 2, 2, 3], vertical_alignment="bottom")
    default = AuditConfig.preset
    key = key_of("study-preset", default)
    preset = first.segmented_control("Preset", list(PRESETS), key=key, required=True, **PERSIST) or default
    defaults = dataclasses.replace(preset_config(preset), **p.DEFAULTS)
    help_text = "Each draws a split and trains two models per arm."
    key = key_of("study-seeds", defaults.seeds)
    seeds = second.number_input("Seeds", step=1, key=key, help=help_text, **PERSIST)
    key = key_of(f"study-{preset}-epochs", defaults.epochs)
    epochs = third.number_input("Epochs", step=1, key=key, help="How often each model sees every pair.", **PERSIST)
    help_text = "Keeps only the first of several near-duplicate pictures."
    drop = fourth.toggle("Drop near-duplicates", key=key_of("study-near_duplicates", False), help=help_text, **PERSIST)
    st.caption(PRESET_HELP)
    return dataclasses.replace(
        defaults, seeds=int(seeds or 0), epochs=int(epochs or 0), drop_near_duplicates=drop, source=options
    )


def _fault_of(source: str, name: str, config: AuditConfig) -> str:
    """Return why a study cannot start, without reading the data set; empty if it can."""
    try:
        if not source:
            raise InputError("no data set: type its path, or choose one")
        check_source(source)
        check_config(config)
        begun, job = study_folder(name).begun, study_job(name)
        if begun or (job is not None and job.running):
            raise InputError(f"there is a study {name!r} already: choose another name")
    except InputError as error:
        return one_line(error)
    return ""


def _is_taken(name: str) -> bool:
    try:
        return study_folder(name).begun or study_job(name) is not None
    except InputError:
        return False


def _sources(first: str) -> dict[str, SourceOptions]:
    """Return the data sets of finished audits with their reading options, those of one audit first; then built-in."""
    sources: dict[str, SourceOptions] = {}
    for audit in sorted(finished_audits(), key=lambda audit: audit.name != first):
        if fingerprint(audit) is not None:
            sources.setdefault(audit.record.source, audit.record.config.source)
    return sources | {name: SourceOptions() for name in built_in_sources() if name not in sources}
