"""The view of exports: formats, the button that starts an export, how far it is, and the export itself.

A detached job writes it, as the command line would: it continues when the page is closed and when the server stops.
"""

from pathlib import Path

import streamlit as st

from clipmem_core.audits.jobs import Job, Task, export_task
from clipmem_core.audits.store import Audit
from clipmem_core.commands import AUDIT_IT
from clipmem_core.config import data_folder
from clipmem_core.dashboard.decisions import count_decisions
from clipmem_core.dashboard.page import draw_set, write
from clipmem_core.dashboard.plain import draw_fault, show_text
from clipmem_core.dashboard.running import draw_job
from clipmem_core.exports import FORMATS
from clipmem_core.exports.cleaned import is_planted
from clipmem_core.review.decisions import RECAPTION, REMOVE
from clipmem_core.review.selection import UNDECIDED

FORMAT = "format"  # in the address
CHOICES = {  # of the address → a format and the ending of its file
    name if suffix == about.suffixes[0] else f"{name}-{suffix[1:]}": (name, suffix)
    for name, about in FORMATS.items()
    for suffix in about.suffixes
}
DOWNLOAD_BYTES = 200_000_000  # a browser's download is read into memory whole


def draw_exports(audit: Audit) -> None:
    """Draw the choice of a format, what an export would hold, how far it is, and the one that is there."""
    format, suffix = CHOICES.get(st.query_params.get(FORMAT, ""), next(iter(CHOICES.values())))
    about = FORMATS[format]
    path = data_folder().absolute() / "exports" / audit.name / f"{audit.name}-{format}{suffix}"
    left, right = st.columns([2, 3], gap="large")
    with left:
        draw_set(
            st.radio,
            "Format",
            list(FORMATS),
            key="export-format",
            value=format,
            take=lambda name: _choose(name, FORMATS[name].suffixes[0]),
            format_func=lambda name: FORMATS[name].title,
            captions=[about.help for about in FORMATS.values()],
        )
    with right:
        _draw_contents(audit, format)
        if len(about.suffixes) > 1:
            draw_set(
                st.segmented_control,
                "File",
                about.suffixes,
                key="export-suffix",
                value=suffix,
                take=lambda chosen: _choose(format, chosen),
                required=True,
                label_visibility="collapsed",
            )
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
        st.caption("Command line:")
        st.code(task.typed, language="bash", wrap_lines=True)


def _choose(format: str, suffix: str) -> None:
    write(**{FORMAT: next(name for name, choice in CHOICES.items() if choice == (format, suffix))})


def _draw_contents(audit: Audit, format: str) -> None:
    """Draw what an export would hold as things stand."""
    counts = count_decisions(audit)
    total = sum(counts.values())
    removed, changed = counts[REMOVE], counts[RECAPTION]
    kept = f"{total - removed:,} pairs kept, {removed:,} removed, {changed:,} with changed captions."
    if is_planted(audit):
        kept = "not for an audit with injected errors: audit the data set without them."
    held = {
        "decisions": f"{total - counts[UNDECIDED]:,} decisions on pairs of this audit, and every note.",
        "html": f"The report of all {total:,} pairs, with the decisions.",
    }
    st.markdown(f"**{FORMATS[format].title}:** {held.get(format, kept)}")
    st.caption(FORMATS[format].limits)


@st.fragment(run_every=1)
def _draw_running(task: Task) -> None:
    """Draw how far an export is, every second, and the whole page again as soon as it has ended."""
    job = task.find()
    if job is None or not job.running:
        st.rerun()
    draw_job(job, key="cancel-export")


def _draw_end(job: Job, path: Path) -> None:
    """Draw how the last export ended: what was written and how to get it, or why it was not."""
    if job.cancelled:
        st.info("Cancelled: nothing was written.", icon=":material/pause_circle:")
    elif job.failed:
        draw_fault("The export failed.", job.last_line or "It was killed, or the machine went down.")
    elif path.exists():
        with st.container(border=True):
            st.code(str(path), language=None, wrap_lines=True)
            wanted = (f"{path}: ", "note: ")
            show_text("\n".join(line.removeprefix(wanted[0]) for line in job.last_lines if line.startswith(wanted)))
            for line in job.last_lines:
                if line.startswith(AUDIT_IT):
                    st.caption("Audit the result:")
                    st.code(line.removeprefix(AUDIT_IT), language="bash", wrap_lines=True)
            if path.is_file() and path.stat().st_size <= DOWNLOAD_BYTES:
                st.download_button(
                    "Download",
                    data=path.read_bytes(),
                    file_name=path.name,
                    mime="application/octet-stream",
                    key="download-export",
                    on_click="ignore",
                    icon=":material/download:",
                )
