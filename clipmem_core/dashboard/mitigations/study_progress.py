"""Which studies of mitigations there are, how far each is, and the buttons that run, stop and resume one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import streamlit as st

from clipmem_core.audits.jobs import Job, Task
from clipmem_core.audits.status import LEFT
from clipmem_core.audits.store import is_name
from clipmem_core.config import InputError
from clipmem_core.dashboard.address import PAGE, choose_listed
from clipmem_core.dashboard.comparing import fingerprint, finished_audits
from clipmem_core.dashboard.errors import draw_fault
from clipmem_core.dashboard.plain import show_text
from clipmem_core.dashboard.running import draw_job
from clipmem_core.review.decisions import decided_for
from clipmem_core.studies.arm import DECISIONS, Arm
from clipmem_core.studies.plan import add_own, find_arm, is_elsewhere, read_own, resume_study, study_task
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
        return f"{total - self.left} of {total} arms × seeds are done"

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
    """Read what a study compares and how far it is; None if it is not one of mitigations.

    Raises:
        InputError: one of its files is broken.
    """
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
    """Draw the studies to choose one from, and return it; None for one that has only a job so far, or none chosen.

    Args:
        known: the studies that can be shown.
        begins: the name of one that has only a job, or empty.
        picked: the name of the audit whose data set comes first; a study of another one opens only if chosen.
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
        state = "" if working else known.progress if known.left else "all done"  # while it works its bar says so
        seeds = f"{len(known.arms)} arms × {known.seeds} seed{'s' if known.seeds > 1 else ''}"
        show_text(" · ".join(filter(None, [known.source, seeds, state, known.machine])), limit=300)
        if job is not None and job.running:
            known.draw_bar()
            show_text("".join([line for line in job.last_lines if LEFT in line][-1:]), limit=400)
            draw_job(job, key="mitigations-cancel")
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
    """Draw the job of a study that has no folder yet, and the whole page again once it has one."""
    with shown_errors():
        job = study_task(name).find()
        if job is None or study_folder(name).begun:
            st.rerun()
        if job.running:
            draw_job(job, key="mitigations-cancel")
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


def _draw_end(job: Job | None) -> None:
    """Draw how a job failed."""
    if job is not None and job.failed:
        draw_fault("It stopped before its end.", job.last_line)


def draw_waiting(known: Known, setting: Arm, arm: str | None, *, working: bool) -> None:
    """Draw what is missing of a setting and its button: nothing if every seed is done.

    Args:
        known: the study.
        setting: of the controls.
        arm: the study's arm that has it, or None.
        working: whether a process works on the study.
    """
    study, done = known.study, sum(name == arm for name, _ in known.done)
    # Decisions may have changed since the setting ran.
    ran = setting.overrides.get(DECISIONS) and find_arm(study, setting) is not None
    outdated = ran and find_arm(study, setting, decided=decided_for(study)) is None
    if arm is not None and done < known.seeds:
        missing = f"{done} of {known.seeds} seeds of this setting are done" if done else "Not run yet"
        turn = "Its turn comes: the study is at work." if working else "Resume the study to run the rest."
        st.info(f"{missing}. {turn}", icon=":material/hourglass:")
    elif arm is None or outdated:
        with st.container(border=True, key="mitigation-waiting"):
            st.markdown("**Run with other decisions than those of now**" if outdated else "**Not run**")
            if st.button("Run it", type="primary", icon=PLAY, key="mitigation-run"):
                try:
                    add_own(study, setting, decided=decided_for(study) if setting.overrides.get(DECISIONS) else None)
                    resume_study(study)
                except InputError as error:
                    draw_fault("This setting cannot run.", error)
                    return
                st.rerun()
