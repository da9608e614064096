"""A study → how far it is, what its job says, and the buttons that stop it and let it go on; drawn anew as it grows."""

import re

import streamlit as st

from clipmem_core.audits import detached
from clipmem_core.audits.jobs import Job, Task, cancel
from clipmem_core.dashboard.mitigations.study import Known, is_study, know, told
from clipmem_core.dashboard.plain import show_text
from clipmem_core.dashboard.trouble import draw_fault
from clipmem_core.studies.jobs import is_elsewhere, resume_study, study_task

ESTIMATE = re.compile(rb"[^\r\n]*about [\d,]+ min on this machine")


@st.fragment(run_every=2)
def draw_state(known: Known, *, working: bool) -> None:
    """Draw how far a study is, every two seconds, and the whole page again when a row or a job has come or ended.

    Args:
        known: the study as the page was drawn with it.
        working: whether a process worked on it then.
    """
    with told():
        job = study_task(known.study.name).find()
        if working != is_working(known.study.name) or know(known.study) != known:
            st.rerun()
        _draw_what(known, working=working)
        if job is not None and job.running:
            _draw_work(job, known.total - known.left, known.total)
        elif working:
            _draw_elsewhere(known)
        elif known.left:
            _draw_rest(known, job)


def is_working(name: str) -> bool:
    """Tell whether a process works on a study."""
    job = study_task(name).find()
    return (job is not None and job.running) or is_elsewhere(name)


def _draw_what(known: Known, *, working: bool) -> None:
    """Draw what a study is: its data, how much of it is done, and where it ran."""
    done = known.total - known.left
    state = f"{done} of {known.total} arms × seeds are done" if known.left else "all done"
    state = "" if working else state  # its bar says so
    seeds = f"{len(known.arms)} arms × {known.seeds} seed{'s' if known.seeds > 1 else ''}"
    show_text(" · ".join(filter(None, [known.source, seeds, state, known.machine])), limit=300)


def _draw_work(job: Job, done: int, total: int) -> None:
    """Draw how far a job is: of all arms and seeds, what it says, how long it takes, and how to stop it."""
    turn = f"Waiting: {job.place} before it" if job.place else "Reading the data set and measuring a few steps"
    st.progress(done / total if total else 0.0, text=f"{done} of {total} arms × seeds are done" if total else turn)
    said = [f"Waiting: {job.place} before it." if job.place and total else "", estimate(job), job.last_line]
    show_text("\n".join(dict.fromkeys(filter(None, said))), limit=400)
    if st.button("Cancel", key="mitigations-cancel", icon=":material/stop_circle:", help="What is done so far stays."):
        cancel(job)


def _draw_elsewhere(known: Known) -> None:
    """Draw how far a study is that a process works on which nobody started from here."""
    done = known.total - known.left
    st.progress(done / known.total, text=f"{done} of {known.total} arms × seeds are done")
    st.caption("Another process works on it, perhaps in a terminal.")


def _draw_rest(known: Known, job: Job | None) -> None:
    """Draw why nothing works on a study that is not finished, and the button that makes it go on."""
    _draw_end(job)
    if st.button(
        "Resume", key="mitigations-resume", icon=":material/play_arrow:", help="What is done is not repeated."
    ):
        resume_study(known.study)
        st.rerun()


def _draw_end(job: Job | None) -> None:
    """Draw how a job ended that did not end well."""
    if job is not None and job.failed:
        draw_fault(f"It stopped with exit code {job.exit_code}.", job.last_line)


def estimate(job: Job) -> str:
    """Return the line in which a job says how long it takes, empty before it does."""
    try:
        said = (job.folder / detached.OUTPUT).read_bytes()[:1_000_000]
    except FileNotFoundError:
        return ""
    found = ESTIMATE.findall(said)
    return found[-1].decode("utf-8", "replace").strip() if found else ""


@st.fragment(run_every=2)
def draw_beginning(name: str) -> None:
    """Draw what the job of a study says that has no folder yet, and the whole page again once it has one."""
    with told():
        job = study_task(name).find()
        if job is None or is_study(name):
            st.rerun()
        if job.running:
            _draw_work(job, 0, 0)
            return
        _draw_end(job)
        st.caption("It has no results. Start it with other settings, or as it was.")
        if st.button("Try again", key="mitigations-again", icon=":material/play_arrow:"):
            Task(job.folder, job.command).start()
            st.rerun()
