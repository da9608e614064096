"""Which studies of mitigations there are, how far each is, and the buttons that stop one and let it go on."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from clipmem_core.audits.jobs import OUTPUT, Job, Task
from clipmem_core.audits.store import is_name
from clipmem_core.config import InputError
from clipmem_core.dashboard.address import PAGE, choose_listed
from clipmem_core.dashboard.comparing import fingerprint, finished_audits
from clipmem_core.dashboard.errors import draw_fault
from clipmem_core.dashboard.mitigations.study_data import no_numbers
from clipmem_core.dashboard.plain import show_text
from clipmem_core.dashboard.running import draw_job
from clipmem_core.review.study_decisions import decided_for
from clipmem_core.studies.arguments import is_elsewhere, resume_study, study_task
from clipmem_core.studies.arm import NONE, Arm
from clipmem_core.studies.custom_arms import add_own, find_arm, read_own
from clipmem_core.studies.estimate import minutes_of
from clipmem_core.studies.plans import STUDIES
from clipmem_core.studies.store import (
    ARM,
    ARMS,
    CLIPMEM_CANDIDATE,
    MEMBERSHIP_AUROC,
    OWN,
    RETRIEVAL,
    SECONDS,
    SEED,
    STUDY,
    StudyFolder,
    list_studies,
    study_folder,
)

PARAMETER = "study"
PLANS = ("combined", "text-noise", "captions", "removal", "forgetting")
NUMBERS = (SEED, CLIPMEM_CANDIDATE, MEMBERSHIP_AUROC, RETRIEVAL, SECONDS)
ESTIMATE = re.compile(rb"[^\r\n]*about [\d,]+ min on this machine")
PLAY, MISSING = ":material/play_arrow:", ":material/science:"
NO_STUDY = ""  # chosen where there is none of the data set


@dataclass(frozen=True)
class Known:
    """A study of mitigations whose files can be read: what it was asked for, and the arms and seeds that are done."""

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
    def in_words(self) -> str:
        """How far it is."""
        total = len(self.arms) * self.seeds
        return f"{total - self.left} of {total} arms × seeds are done"

    def draw_bar(self) -> None:
        """Draw how far it is."""
        total = len(self.arms) * self.seeds
        st.progress((total - self.left) / total if total else 0.0, text=self.in_words)


def known_studies() -> tuple[list[Known], list[str]]:
    """Return the studies of mitigations, those with the most rows first, then the newest; and what is wrong of each
    that cannot be shown."""
    known, faults = [], []
    for study in list_studies():
        try:
            known.append(know(study))
        except InputError as error:
            faults.append(f"{study.name}: {error}")
    newest = {each: (-len(each.done), -(each.study.folder / STUDY).stat().st_mtime) for each in known if each}
    return sorted(newest, key=newest.__getitem__), faults


def know(study: StudyFolder) -> Known | None:
    """Read what a study is and how far; None where it is not one of mitigations beside `none`.

    Raises:
        InputError: one of its files is broken.
    """
    with _reading(study.folder / STUDY):
        asked = study.asked
        if STUDIES[asked["study"]] and asked["study"] not in PLANS:
            return None
        seeds, arms, texts = int(asked["config"]["seeds"]), list(asked["arms"]), asked.get("settings", {}).values()
        if asked["reference"] != NONE or not all(isinstance(text, str) for text in [*arms, *texts]):
            raise ValueError("no study beside none")
    with _reading(study.folder / OWN):
        arms += [own.name for own in read_own(study)]
    with _reading(study.folder / ARMS):
        rows = study.arms
        if len(rows) and (ARM not in rows or no_numbers(rows, NUMBERS) or rows[SEED].isna().any()):
            raise ValueError("no rows of arms and seeds")
        done = frozenset(study.done())
    own, machine = asked.get("machine"), []
    if isinstance(own, dict):
        machine = [str(own.get("processor") or ""), f"{own['cores']} cores" if own.get("cores") else ""]
    told = ", ".join(filter(None, machine))
    source, data_set = (str(asked.get(name, "")) for name in ("source", "dataset_fingerprint"))
    return Known(study, source, told, data_set, seeds, tuple(dict.fromkeys(arms)), done)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file into the way to get it back: what was trained lies elsewhere.

    Raises:
        InputError: the file is broken.
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(
            f"{path} cannot be read: delete it and repeat the study's command; models that are trained stay"
        ) from None


def beginning(known: Sequence[Known]) -> str:
    """Return the study of the address that has only a job so far; empty where it has none, or more than that."""
    name = st.query_params.get(PARAMETER, "")
    if any(each.study.name == name for each in known) or not is_name(name):
        return ""
    return name if study_task(name).find() is not None and not is_study(name) else ""


def is_study(name: str) -> bool:
    """Tell whether a study got as far as writing down what it is."""
    return (study_folder(name).folder / STUDY).is_file()


def choose_study(known: Sequence[Known], begins: str, picked: str) -> Known | None:
    """Draw the studies to choose one from, and return it; None for one that has only a job so far, or none chosen.

    Args:
        known: the studies that can be shown.
        begins: the name of one that has only a job, or empty.
        picked: the name of the audit whose data set comes first; nothing of another one opens unasked.
    """
    audits = {audit.name: audit for audit in finished_audits()}
    own = fingerprint(audits[picked]) if picked in audits else None
    named = {each.study.name: each for each in sorted(known, key=lambda each: each.data_set != own)}
    options = [begins, *named] if begins else list(named)
    missing = bool(own and named and not begins) and not any(each.data_set == own for each in known)
    name = st.query_params.get(PARAMETER, "")
    if name and name not in options:
        st.warning("There is no study of mitigations of the name asked for.", icon=":material/search_off:")
        show_text(f"asked for: {name}", limit=120)
    if not options:
        st.info("There is no study of mitigations yet: start one.", icon=":material/science:")
        return None
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
    """Draw how far a study is, every two seconds, and the whole page again when a row or a job has come or ended.

    Args:
        known: the study as the page was drawn with it.
        working: whether a process worked on it then.
    """
    with shown_errors():
        job = study_task(known.study.name).find()
        if working != is_working(known.study.name) or know(known.study) != known:
            st.rerun()
        state = "" if working else known.in_words if known.left else "all done"  # while it works its bar says so
        seeds = f"{len(known.arms)} arms × {known.seeds} seed{'s' if known.seeds > 1 else ''}"
        show_text(" · ".join(filter(None, [known.source, seeds, state, known.machine])), limit=300)
        if job is not None and job.running:
            _draw_work(job, known)
        elif working:
            known.draw_bar()
            st.caption("Another process works on it, perhaps in a terminal.")
        elif known.left:
            _draw_end(job)
            if st.button("Resume", key="mitigations-resume", icon=PLAY, help="What is done is not repeated."):
                resume_study(known.study)
                st.rerun()


@st.fragment(run_every=2)
def draw_beginning(name: str) -> None:
    """Draw what the job of a study says that has no folder yet, and the whole page again once it has one."""
    with shown_errors():
        job = study_task(name).find()
        if job is None or is_study(name):
            st.rerun()
        if job.running:
            _draw_work(job, None)
            return
        _draw_end(job)
        st.caption("It has no results. Start it with other settings, or as it was.")
        if st.button("Try again", key="mitigations-again", icon=PLAY):
            Task(job.folder, job.arguments).start()
            st.rerun()


def is_working(name: str) -> bool:
    """Tell whether a process works on a study."""
    job = study_task(name).find()
    return (job is not None and job.running) or is_elsewhere(name)


def _draw_work(job: Job, known: Known | None) -> None:
    """Draw how far a job is: of all arms and seeds, what it says, how long it takes, and how to stop it."""
    if known is not None and known.arms and known.seeds > 0:
        known.draw_bar()
    if estimate := _estimate(job):
        show_text(estimate, limit=400)
    draw_job(job, key="mitigations-cancel")


def _draw_end(job: Job | None) -> None:
    """Draw how a job ended that did not end well."""
    if job is not None and job.failed:
        draw_fault("It stopped before its end.", job.last_line)


def _estimate(job: Job) -> str:
    """Return the line in which a job says how long it takes, empty before it does."""
    try:
        said = (job.folder / OUTPUT).read_bytes()[:1_000_000]
    except FileNotFoundError:
        return ""
    found = ESTIMATE.findall(said)
    return found[-1].decode("utf-8", "replace").strip() if found else ""


def draw_waiting(known: Known, setting: Arm, arm: str | None, *, working: bool) -> None:
    """Draw what is missing of a setting, how long that takes, and its button: nothing where every seed is done.

    Args:
        known: the study.
        setting: what the controls say.
        arm: the study's arm that has it, or None.
        working: whether a process works on the study.
    """
    study, done = known.study, sum(name == arm for name, _ in known.done)
    # The person may have decided otherwise since the setting ran.
    ran = setting.decisions and find_arm(study, setting) is not None
    outdated = ran and find_arm(study, setting, decided=decided_for(study)) is None
    if arm is not None and done < known.seeds:
        missing = f"{done} of {known.seeds} seeds of this setting are done" if done else "Not run yet"
        turn = "Its turn comes: the study is at work." if working else "Resume the study to run the rest."
        st.info(f"{missing}. {turn}", icon=":material/hourglass:")
    elif arm is None or outdated:
        missing = "Run with other decisions than those of now. With these" if outdated else "Not run"
        with st.container(border=True, key="mitigation-waiting"):
            st.markdown(f"**{missing}{_how_long(study, setting)}**")
            if st.button("Run it", type="primary", icon=PLAY, key="mitigation-run"):
                _run(study, setting)


def _how_long(study: StudyFolder, setting: Arm) -> str:
    """Say how long all seeds of a setting take."""
    try:
        minutes = minutes_of(study, setting)
    except (InputError, KeyError, OSError, TypeError):  # a file of none is broken: the other parts say so
        minutes = None
    if minutes is None:
        return ". How long it takes is known when none has been trained"
    return f": about {max(1, math.ceil(minutes)):,} min"


def _run(study: StudyFolder, setting: Arm) -> None:
    """Add a setting to its study and let it go on; what forbids it is told, and nothing is lost."""
    try:
        add_own(study, setting, decided=decided_for(study) if setting.decisions else None)
        resume_study(study)
    except InputError as error:
        draw_fault("This setting cannot run.", error)
        return
    st.rerun()
