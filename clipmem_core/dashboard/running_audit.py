"""The progress of an unfinished audit or a job, with buttons to start, cancel and resume it."""

import itertools
import re
import time
from collections.abc import Collection

import streamlit as st

from clipmem_core.auditing.folder.jobs import (
    BROKEN,
    DONE,
    OUTSIDE,
    STEPS,
    STOPPED,
    Job,
    JobRequest,
    audit_request,
    cancel,
    list_job_names,
    state_of,
)
from clipmem_core.auditing.folder.settings import resume_arguments
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.config import FIELDS
from clipmem_core.dashboard.plain import (
    draw_fault,
    duration,
    explained_errors,
    show_command,
    show_strong,
    show_text,
    show_title,
)
from clipmem_core.utils.columns import DRAWN, meaning

FIRST = "scenes"
_LABELS = {field.flag: field.label for field in FIELDS.values()} | {"--name": "Name"}


def on_page(message: object) -> str:
    """Return a message with the fields of the form in place of flags."""
    return re.sub(
        "(with )?(--[a-z0-9-]+)",
        lambda found: f"{'under ' * bool(found[1])}Settings → {_LABELS.get(found[2], found[2])}",
        str(message),
    )


def free_name(name: str, sets: Collection[str] = ()) -> str:
    """Return a name for an audit, with a number behind it if an audit, a job or one of `sets` has
    it."""
    taken = {*sets, *list_job_names(), *(audit.name for audit in Audit.every())}
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(each for each in itertools.chain([name], numbered) if each not in taken)


def draw_empty() -> None:
    """Draw the page without any audit: the ways to start one."""
    show_title("CLIPMem")
    show_text("Find captions that are probably wrong, and pairs that CLIP models memorize.")
    demo, own = st.columns(2, border=True)
    with demo:
        show_strong("Demo")
        st.markdown("1,100 drawn scenes; 44 have the captions of another one.")
        if st.button(
            "Run the demo (about a minute)",
            type="primary",
            help=meaning(DRAWN),
        ):
            audit_request(FIRST, [FIRST, "--name", FIRST]).start()
            st.rerun()
    with own:
        show_strong("Your own file or folder")
        st.markdown(
            "A CSV, TSV, JSONL, Parquet or COCO file with the paths of the pictures, pictures with "
            "a .txt file each, folders named by class, or WebDataset shards."
        )
        if st.button("Choose a file or folder"):
            st.switch_page("pages/audits.py", query_params={"view": "start"})
    st.caption(
        "On two cores, 8,000 pictures with five short captions each take about three minutes. You "
        "can close the page meanwhile."
    )


@st.fragment(run_every=2)
def draw_progress(name: str) -> None:
    """Draw the progress of an audit every two seconds; rerun the page once it is finished or
    gone."""
    state = state_of(name)
    audit = state.audit
    job = state.job
    record = state.record
    if state.word == DONE or not (audit.begun or job):
        st.rerun()
    if state.word == BROKEN:
        draw_fault("This audit is broken.", state.fault)
        return
    if state.at_work and job is not None:
        draw_job(job)
    elif state.word == OUTSIDE:
        st.caption("Another process is running it, perhaps in a terminal.")
    else:
        if state.word == STOPPED and job is not None:
            reason = "it was killed" if job.exit_code is None else f"exit code {job.exit_code}"
            draw_fault(f"The audit stopped: {reason}.", on_page(job.last_line))
        else:
            st.info("This audit is not finished and not running.")
        label = "Resume" if audit.begun else "Try again"
        if st.button(label, type="primary"):
            if record:
                audit_request(name, resume_arguments(name, record.source, record.config)).start()
            elif job is not None:
                JobRequest(job.folder, job.arguments).start()
            st.rerun()


def draw_job_request(request: JobRequest, *, reason: str, label: str) -> None:
    """Draw the button that starts a job, or every two seconds its progress; rerun the page once it
    has ended."""
    with explained_errors():
        job = request.find()
        was_running = job is not None and job.running
        st.fragment(_draw_job_request, run_every=2)(request, was_running, reason, label)


def _draw_job_request(request: JobRequest, was_running: bool, reason: str, label: str) -> None:
    job = request.find()
    if job is not None and job.running:
        draw_job(job)
        return
    if was_running:
        st.rerun()
    if job is not None and job.failed:
        draw_fault("The job failed.", job.last_line)
    else:
        st.info(reason)
    if st.button(label, type="primary"):
        request.start()
        st.rerun()
    show_command(request.command)


def draw_job(job: Job) -> None:
    """Draw the progress of a running job with the time left, of an audit over all its steps, and a
    button that cancels it."""
    if job.cancelling:
        st.info("Cancelling…")
        return
    record = job.record
    if record.waits:
        st.info("Queued: one training job runs at a time.")
    share = min(1.0, record.done / max(1, record.total))
    parts = [f"{record.done:,} of {record.total:,} {record.noun}"] if record.total else []
    # The pace since this page first drew this count
    key = f"pace-{job.pid}-{record.stage}-{record.noun}"
    began, first = st.session_state.setdefault(key, (time.monotonic(), share))
    if share > first:
        left = (time.monotonic() - began) / (share - first) * (1 - share)
        parts.append(f"{duration(left)} left{' in this step' * bool(record.step)}")
    if record.step in STEPS:
        number = STEPS.index(record.step)
        parts.insert(0, f"Step {number + 1} of {len(STEPS)}: {record.step}")
        share = (number + share) / len(STEPS)
    else:
        show_text(record.stage or job.last_line or "Starting…", limit=300)
    if parts:
        st.progress(share, text=" · ".join(parts))
    st.caption("You can close this page; it continues.")
    key = f"cancel-{job.folder.name}"
    st.button("Cancel", key=key, on_click=cancel, args=(job,))
