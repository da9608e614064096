"""What the check of a request for an audit found, and the button that starts the audit."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core.audits.jobs import audit_task, cancel
from clipmem_core.audits.preflight import Check, Request, find_check, refuse_at_once, start_check
from clipmem_core.audits.store import is_name
from clipmem_core.config import InputError
from clipmem_core.dashboard.errors import draw_fault
from clipmem_core.dashboard.starting import CHECK, LOADED


def draw_check(request: Request, *, started: Callable[[str], None]) -> None:
    """Draw the button that checks a request, and what its check found.

    Args:
        request: what the page's widgets ask for now.
        started: called with the audit's name once it was started.
    """
    checked = st.query_params.get(CHECK) == request.key
    if checked and _is_at_work(request):
        started(request.name)  # the browser's address may lag behind the button
    label = "Check again" if checked else "Check"
    if st.button(label, type="secondary" if checked else "primary", icon=":material/fact_check:") and _allowed(request):
        start_check(request)
        st.query_params[CHECK] = st.session_state[LOADED] = request.key
        st.rerun()
    if checked:
        _draw_result(request, started)
    elif CHECK in st.query_params:
        st.caption("The settings have changed since they were checked.")
    else:
        st.caption("Reads the data set and opens its pictures.")


def _is_at_work(request: Request) -> bool:
    """Tell whether the very audit that was checked waits or runs already."""
    job = audit_task(request.name).find() if is_name(request.name) else None
    return job is not None and job.running and job.arguments == ("audit", *request.arguments)


def _allowed(request: Request) -> bool:
    """Tell whether an audit may start as far as can be seen at once; draw why not."""
    try:
        refuse_at_once(request)
    except InputError as error:
        draw_fault("This audit cannot start.", error)
        return False
    return True


@st.fragment(run_every=1)
def _draw_result(request: Request, started: Callable[[str], None]) -> None:
    check = find_check(request.key)
    if check is None:
        return
    if check.error:
        draw_fault("This audit cannot start.", check.error)
        return
    if check.found is not None:
        _draw_found(check)
    with st.container(horizontal=True):
        begins = check.found is not None and st.button("Start", type="primary", icon=":material/play_arrow:")
        if check.job.running and st.button("Stop the check", icon=":material/stop_circle:"):
            cancel(check.job)
    if check.job.running:
        _draw_steps(check)
    if begins and _allowed(request):
        audit_task(request.name, request.arguments).start()
        started(request.name)


def _draw_steps(check: Check) -> None:
    """Draw what a check does now."""
    done, total = check.pictures
    if check.found is None:
        st.progress(0.0, text="Reading the data set")
    elif total:
        st.progress(done / total, text=f"Opening pictures: {done:,} of {total:,}. You can start meanwhile.")


def _draw_found(check: Check) -> None:
    found: dict[str, Any] = check.found or {}
    with st.grid(4, min_column_width=140) as grid:
        grid.metric("Pairs", f"{found['pairs']:,}", border=True)
        grid.metric("Captions", f"{found['captions']:,}", border=True)
        grid.metric("In quarantine", f"{found['quarantined']:,}", border=True, help="Rows that cannot be used.")
        grid.metric("Look-alikes", f"{found['lookalikes']:,}" if check.exact else "…", border=True)
    st.caption("Groups: " + ", ".join(f"{count:,} {name}" for name, count in found["groups"].items()))
    if not check.exact and check.job.running:
        st.caption("Numbers may still change: not every picture has been opened yet.")
    if found["reasons"]:
        reasons = pd.DataFrame(found["reasons"], columns=["rows", "reason", "example"])
        st.dataframe(reasons, hide_index=True, alt="The commonest reasons why rows cannot be used, with an example")
