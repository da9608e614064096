"""Studies of mitigations: the form that starts one, the choice of one, and its progress."""

import dataclasses
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from clipmem_core.dashboard.plain import draw_fault, show_text
from clipmem_core.dashboard.running import draw_job
from clipmem_core.pairs.table import check_there
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

PARAMETER = "study"
PLANS = ("combined", "text-noise", "captions", "removal", "forgetting")
PLAY, MISSING = ":material/play_arrow:", ":material/science:"
NO_STUDY = ""  # chosen if there is none of the data set


@dataclass(frozen=True)
class Known:
    """A study of mitigations whose files can be read, and the arms and seeds that are done."""

    study: StudyFolder
    source: str
    machine: str
    data_set: str  # its fingerprint, as audits of it have it
    seeds: int
    arms: tuple[str, ...]
    done: frozenset[tuple[str, int]]

    @property
    def left(self) -> int:
        """How many arms and seeds have no row yet."""
        return sum((arm, seed) not in self.done for arm in self.arms for seed in range(self.seeds))

    @property
    def progress(self) -> str:
        total = len(self.arms) * self.seeds
        return f"{total - self.left} of {total} arms × seeds finished"

    def draw_bar(self) -> None:
        """Draw its progress."""
        total = len(self.arms) * self.seeds
        st.progress((total - self.left) / total if total else 0.0, text=self.progress)


def known_studies() -> tuple[list[Known], list[str]]:
    """Return the studies of mitigations, those with the most rows first, then the newest; and the fault of each that
    cannot be shown."""
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
    return Known(
        study, asked["source"], machine, asked["dataset_fingerprint"], asked["config"]["seeds"], tuple(arms), done
    )


def beginning(known: Sequence[Known]) -> str:
    """Return the study of the address if it has only a job so far; empty otherwise."""
    name = st.query_params.get(PARAMETER, "")
    if any(each.study.name == name for each in known) or not is_name(name):
        return ""
    return name if study_task(name).find() is not None and not study_folder(name).begun else ""


def choose_study(known: Sequence[Known], begins: str, picked: str) -> Known | None:
    """Draw the studies to choose one from, and return it; None for one that has only a job so far, or none chosen."""
    audits = {audit.name: audit for audit in finished_audits()}
    own = fingerprint(audits[picked]) if picked in audits else None
    named = {each.study.name: each for each in sorted(known, key=lambda each: each.data_set != own)}
    options = [begins, *named] if begins else list(named)
    missing = bool(own and named and not begins) and not any(each.data_set == own for each in known)
    name = st.query_params.get(PARAMETER, "")
    if name and name not in options:
        st.warning("There is no study of mitigations of this name.", icon=":material/search_off:")
        show_text(f"requested: {name}", limit=120)
    if missing:
        options = [NO_STUDY, *options]
        if name not in named:
            st.info("No study of this data set yet. Start one, or choose a study of another data set.", icon=MISSING)
    look: dict[str, Any] = {"parameter": PARAMETER, "width": 400, "clears": [PAGE]}
    look["named"] = lambda option: option or "None chosen"
    return named.get(choose_listed("Study", options, key="mitigations-study", **look))


@contextmanager
def shown_errors() -> Iterator[None]:
    """Show an `InputError` of a part of the page in its place; the other parts are drawn."""
    try:
        yield
    except InputError as error:
        draw_fault("This part of the study cannot be shown.", error)


@st.fragment(run_every=2)
def draw_state(known: Known, *, working: bool) -> None:
    """Draw how far a study is, every two seconds, and the whole page again when a row or a job has come or ended."""
    with shown_errors():
        job = study_task(known.study.name).find()
        if working != is_working(known.study.name) or know(known.study) != known:
            st.rerun()
        state = "" if working else known.progress if known.left else "all finished"  # while it works its bar says so
        seeds = f"{len(known.arms)} arms × {known.seeds} seed{'s' if known.seeds > 1 else ''}"
        show_text(" · ".join(filter(None, [known.source, seeds, state, known.machine])), limit=300)
        if job is not None and job.running:
            known.draw_bar()
            show_text("".join([line for line in job.last_lines if LEFT in line][-1:]), limit=400)
            draw_job(job, key="mitigations-cancel")
        elif working:
            known.draw_bar()
            st.caption("Another process is running it, perhaps in a terminal.")
        elif known.left:
            _draw_end(job)
            if st.button("Resume", key="mitigations-resume", icon=PLAY, help="What is done is not repeated."):
                resume_study(known.study)
                st.rerun()


@st.fragment(run_every=2)
def draw_beginning(name: str) -> None:
    """Draw the job of a study that has no folder yet, and the whole page again once it has one."""
    with shown_errors():
        job = study_task(name).find()
        if job is None or study_folder(name).begun:
            st.rerun()
        if job.running:
            draw_job(job, key="mitigations-cancel")
            return
        _draw_end(job)
        st.caption("It has no results. Try again, or start it with other settings.")
        if st.button("Try again", key="mitigations-again", icon=PLAY):
            Task(job.folder, job.arguments).start()
            st.rerun()


def is_working(name: str) -> bool:
    """Tell whether a process works on a study."""
    job = study_task(name).find()
    return (job is not None and job.running) or is_elsewhere(name)


def _draw_end(job: Job | None) -> None:
    """Draw how a job failed."""
    if job is not None and job.failed:
        draw_fault("It stopped early.", job.last_line)


def draw_waiting(known: Known, setting: Arm, arm: str | None, *, working: bool) -> None:
    """Draw what is missing of a setting and its button: nothing if every seed is done."""
    study, done = known.study, sum(name == arm for name, _ in known.done)
    # Decisions may have changed since the setting ran.
    ran = setting.overrides.get(DECISIONS) and find_arm(study, setting) is not None
    outdated = ran and find_arm(study, setting, decided=decided_for(study)) is None
    if arm is not None and done < known.seeds:
        missing = f"{done} of {known.seeds} seeds of this setting finished" if done else "Not run yet"
        turn = "It runs when its turn comes." if working else "Resume the study to run the rest."
        st.info(f"{missing}. {turn}", icon=":material/hourglass:")
    elif arm is None or outdated:
        with st.container(border=True, key="mitigation-waiting"):
            st.markdown("**Ran with older decisions**" if outdated else "**Not run**")
            if st.button("Run it", type="primary", icon=PLAY, key="mitigation-run"):
                try:
                    add_own(study, setting, decided=decided_for(study) if setting.overrides.get(DECISIONS) else None)
                    resume_study(study)
                except InputError as error:
                    draw_fault("This setting cannot run.", error)
                    return
                st.rerun()


Source = tuple[str, SourceOptions]
ARMS_IN_WORDS = {
    "combined": "Some twenty settings, alone and together: rare words, noise, masking, crops, an early stop, and what "
    "acts only on pairs memorized early. The one to begin with.",
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
    """Draw the choices, what is wrong with them, the command they come to, and the button that starts it."""
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
    st.caption("You can close this page; it continues.")
    if not fault:
        st.caption("Command line:")
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
    """Return the data sets that need no typing: those of finished audits, read as they were, then the built-in ones."""
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
        help_text = "Keeps only the first of several near-duplicate pictures."
        lookalikes = st.toggle("Drop near-duplicates", key=_first("lookalikes", False), help=help_text, **KEPT)
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
