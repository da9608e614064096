"""The decisions on the pairs of a data set, their history with undo, checks, exports and
re-audits."""

from pathlib import Path

import streamlit as st

from clipmem_core.audit.jobs import Job, Task, export_task
from clipmem_core.audit.store import Audit
from clipmem_core.config import data_folder
from clipmem_core.dashboard.deciding import draw_notice, draw_wrong
from clipmem_core.dashboard.decisions import (
    count_decisions,
    draw_checks,
    draw_decisions,
    draw_history,
    draw_reaudits,
    draw_reviewed,
)
from clipmem_core.dashboard.page import choose_listed, choose_segment, open_page
from clipmem_core.dashboard.plain import draw_fault, explained_errors, show_command, show_text
from clipmem_core.dashboard.running import draw_job
from clipmem_core.export.formats import AUDIT_IT, FORMATS
from clipmem_core.review.decisions import count_changed
from clipmem_core.review.selection import UNDECIDED

# in the address
FORMAT = "format"
SUFFIX = "file"
DOWNLOAD_BYTES = 200_000_000  # a download is read into memory


def draw_exports(audit: Audit) -> None:
    """Draw the choice of a format, the contents of the export, its progress, and the finished
    export."""
    left, right = st.columns([2, 3], gap="large")
    with left:
        format = choose_listed(
            "Format",
            list(FORMATS),
            parameter=FORMAT,
            key="export-format",
            clears=[SUFFIX],
            draw=st.radio,
            format_func=lambda name: FORMATS[name].title,
            captions=[about.help for about in FORMATS.values()],
        )
    about = FORMATS[format]
    suffix = about.suffixes[0]
    with right:
        st.markdown(f"**{about.title}:** {_contents(audit, format)}")
        st.caption(about.limits)
        if len(about.suffixes) > 1:
            suffixes = {suffix: suffix for suffix in about.suffixes}
            suffix = choose_segment(
                "File", suffixes, parameter=SUFFIX, key="export-suffix", hidden=True
            )
        path = data_folder().absolute() / "exports" / audit.name / f"{audit.name}-{format}{suffix}"
        task = export_task(audit, format, path)
        job = task.find()
        if job is not None and job.running:
            _draw_running(task)
        else:
            if st.button("Export", type="primary", icon=":material/output:", key="make-export"):
                task.start()
                st.rerun()
            if job is not None:
                _draw_end(job, path)
        show_command(task.typed)


def _contents(audit: Audit, format: str) -> str:
    counts = count_decisions(audit)
    (removed, changed) = count_changed(audit)
    total = sum(counts.values())
    if format == "decisions":
        return f"{total - counts[UNDECIDED]:,} decisions on pairs of this audit, and every note."
    if format == "html":
        return f"The report of all {total:,} pairs, with the decisions."
    if audit.record.config.inject_miscaptions:
        return (
            f"{total:,} pairs with their original captions, minus injected errors and the "
            "pairs you removed."
        )
    exported = f"{total - removed:,} exported, {counts[UNDECIDED]:,} of them not reviewed"
    return f"{exported}; {removed:,} removed, {changed:,} with changed captions."


@st.fragment(run_every=1)
def _draw_running(task: Task) -> None:
    """Draw the progress of an export every second; rerun the page once it has ended."""
    job = task.find()
    if job is None or not job.running:
        st.rerun()
    draw_job(job, key="cancel-export")


def _draw_end(job: Job, path: Path) -> None:
    if job.cancelled:
        st.info("Cancelled: nothing was written.", icon=":material/pause_circle:")
    elif job.failed:
        draw_fault(
            "The export failed.", job.last_line or "It was killed, or the machine went down."
        )
    elif path.exists():
        with st.container(border=True):
            st.code(str(path), language=None, wrap_lines=True)
            for line in job.last_lines:
                if line.startswith(AUDIT_IT):
                    st.caption("Audit the result:")
                    st.code(line.removeprefix(AUDIT_IT), language="bash", wrap_lines=True)
                elif line.startswith((f"{path}: ", "note: ")):
                    show_text(line.removeprefix(f"{path}: "))
            if path.is_file() and path.stat().st_size <= DOWNLOAD_BYTES:
                st.download_button(
                    "Download",
                    data=path.read_bytes,
                    file_name=path.name,
                    mime="application/octet-stream",
                    key="download-export",
                    on_click="ignore",
                    icon=":material/download:",
                )


_VIEWS = {
    "decisions": (":material/checklist: Decisions", draw_decisions),
    "checks": (":material/rule: Checks", draw_checks),
    "history": (":material/history: History", draw_history),
    "export": (":material/output: Export", draw_exports),
    "again": (":material/autorenew: Re-audit", draw_reaudits),
}
_VIEW = "view"  # in the address

audit = open_page("Decisions and export")
with explained_errors():
    draw_reviewed(audit)
    draw_wrong(audit)
    names = {view: name for view, (name, _) in _VIEWS.items()}
    view = choose_segment("View", names, parameter=_VIEW, key="decisions-view", hidden=True)
    draw_notice(audit, key="decisions")
    _VIEWS[view][1](audit)
