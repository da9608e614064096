"""Something of the encoders that is not measured yet → the command, the button that starts it, and how far it is."""

from collections.abc import Callable, Mapping

import streamlit as st

from clipmem_core.audits.jobs import Job, cancel, encoder_command, encoder_task
from clipmem_core.audits.store import Audit
from clipmem_core.dashboard.plain import show_text
from clipmem_core.dashboard.trouble import draw_fault, explained_errors


def at_work(audit: Audit, kind: str) -> bool:
    """Tell whether a process works on it."""
    job = encoder_task(audit, kind).find()
    return job is not None and job.running


@st.fragment(run_every=2)
def draw_waiting(
    audit: Audit, kind: str, *, buttons: Mapping[str, int], why: str, done: Callable[[Audit], bool]
) -> None:
    """Draw how to get it, or every two seconds how far it is; and the whole page again once it is there.

    Args:
        audit: a finished audit.
        kind: `units` or `paradigms`.
        buttons: label of each button → the sample it asks for.
        why: what is not there yet, in a sentence.
        done: tells whether it is there by now.
    """
    with explained_errors():
        job = encoder_task(audit, kind).find()
        if job is not None and job.running:
            _draw_progress(job)
            return
        if done(audit):
            st.rerun()
        _draw_reason(job, why)
        draw_buttons(audit, kind, buttons)


def draw_buttons(audit: Audit, kind: str, buttons: Mapping[str, int]) -> None:
    """Draw the buttons that start it, and what to type instead.

    Args:
        audit: a finished audit.
        kind: `units` or `paradigms`.
        buttons: label of each button → the sample it asks for.
    """
    with st.container(horizontal=True):
        for label, sample in buttons.items():
            if st.button(label, key=f"{kind}-{sample}", type="primary", icon=":material/play_arrow:"):
                encoder_task(audit, kind, sample=sample).start()
                st.rerun()
    st.caption("From a terminal:")
    st.code("\n".join(encoder_command(audit, kind, sample=sample) for sample in buttons.values()), language="bash")


def _draw_progress(job: Job) -> None:
    if job.place:
        st.info("Waiting for the audits that were started before it.", icon=":material/schedule:")
    else:
        st.caption("At work. You can close this page; it goes on.")
    show_text(job.last_line, limit=200)
    if st.button("Cancel", key=f"cancel-{job.name}", icon=":material/stop_circle:", help="What is done so far stays."):
        cancel(job)


def _draw_reason(job: Job | None, why: str) -> None:
    """Draw why it is not there."""
    if job is None or not job.failed:
        st.info(why, icon=":material/info:")
        return
    draw_fault(f"It stopped with exit code {job.exit_code}.", job.last_line)
