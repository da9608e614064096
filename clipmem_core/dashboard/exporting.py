"""The view of exports: formats, the buttons that make, download and delete an export, and its commands.

Short ones are made while the page waits, long ones by a process that goes on without it.
"""

import shlex
import time
from datetime import UTC, datetime

import streamlit as st

from clipmem_core.audits.jobs import Job, cancel
from clipmem_core.audits.preflight import Request
from clipmem_core.audits.store import Audit
from clipmem_core.commands import parse
from clipmem_core.config import InputError
from clipmem_core.dashboard.address import draw_set, write
from clipmem_core.dashboard.deciding import Notice, review_session
from clipmem_core.dashboard.decisions import count_decisions
from clipmem_core.dashboard.errors import draw_fault
from clipmem_core.dashboard.numbers import bytes_in_words
from clipmem_core.dashboard.plain import show_strong, show_text
from clipmem_core.dashboard.starting import free_name, is_taken, prefill
from clipmem_core.exports import FORMATS
from clipmem_core.exports.cleaned import is_planted
from clipmem_core.exports.kept import (
    KINDS,
    Kept,
    Kind,
    delete,
    export_task,
    kept_exports,
    make,
    reading_code,
    share_done,
    takes_time,
    typed_command,
)
from clipmem_core.review.decisions import RECAPTION, REMOVE, open_review
from clipmem_core.review.selection import UNDECIDED

FORMAT = "format"  # in the address
DOWNLOAD_BYTES = 200_000_000  # a browser's download is read into memory whole
COMMAND_WORDS = 3  # `python -m clipmem_core`, before what is parsed
BREATH = 0.2  # seconds until the exit code of a process that has just ended is written down
LIMITS = {
    "csv": "Pictures that lie in archives or tables are written out beside it.",
    "coco": "Pictures that lie in archives or tables are written out beside it.",
    "folder": "Pictures are hard links to your files where both lie on one disk, and copies elsewhere.",
    "imagefolder": "Pictures are hard links to your files where both lie on one disk, and copies elsewhere.",
    "wds": "Keys carry no captions: new ones go into a file beside it.",
    "datacomp": "Uids carry no captions: new ones are left out.",
    "html": "It is there to be read, not to train from.",
    "decisions": "Decisions on pairs that only another audit of the data set has are in it too.",
}


def draw_exports(audit: Audit) -> None:
    """Draw the choice of a format, what an export would hold, and those that were made."""
    chosen = KINDS.get(st.query_params.get(FORMAT, ""), next(iter(KINDS.values())))
    left, right = st.columns([2, 3], gap="large")
    with left:
        draw_set(
            st.radio,
            "Format",
            list(FORMATS),
            key="export-format",
            value=chosen.format,
            take=lambda name: write(**{FORMAT: Kind(name, FORMATS[name].suffix).name}),
            format_func=lambda name: FORMATS[name].title,
            captions=[about.sentence for about in FORMATS.values()],
        )
    with right:
        _draw_contents(audit, chosen)
        if len(chosen.about.suffixes) > 1:
            draw_set(
                st.segmented_control,
                "File",
                chosen.about.suffixes,
                key="export-suffix",
                value=chosen.suffix,
                take=lambda suffix: write(**{FORMAT: Kind(chosen.format, suffix).name}),
                required=True,
                label_visibility="collapsed",
            )
        _draw_making(audit, chosen)
    kept = kept_exports(audit)
    if not kept:
        st.caption("No export of this audit has been made yet.")
        return
    st.subheader("Exports made", anchor=False)
    position = open_review(audit).position()
    for each in kept:
        with st.container(border=True, key=f"export-{each.kind.name}"):
            _draw_kept(audit, each, position)


def _draw_contents(audit: Audit, kind: Kind) -> None:
    """Draw what an export would hold as things stand."""
    counts = count_decisions(audit)
    total = sum(counts.values())
    kept = f"{total - counts[REMOVE]:,} pairs kept, {counts[REMOVE]:,} removed, {counts[RECAPTION]:,} recaptioned."
    if is_planted(audit):
        kept = f"{total:,} pairs with their own captions, not the planted ones, less those that were removed for these."
    held = {
        "decisions": f"{total - counts[UNDECIDED]:,} decisions on pairs of this audit, and every note.",
        "html": f"The report of all {total:,} pairs, with the decisions.",
    }
    st.markdown(f"**{kind.about.title}:** {held.get(kind.format, kept)}")
    st.caption(LIMITS.get(kind.format, ""))


def _draw_making(audit: Audit, kind: Kind) -> None:
    """Draw the button that makes an export, or how far the process that makes it is."""
    job = export_task(audit, kind).find()
    if job is not None and job.running:
        _draw_running(audit, kind)
    else:
        if job is not None:
            _draw_end(job)
        if st.button("Make", type="primary", icon=":material/output:", key="make-export"):
            _make(audit, kind)
    st.caption("The same from a terminal:")
    st.code(typed_command(audit, kind), language="bash", wrap_lines=True)


@st.fragment(run_every=1)
def _draw_running(audit: Audit, kind: Kind) -> None:
    """Draw how far an export is, every second, and the whole page again as soon as it is there."""
    job = export_task(audit, kind).find()
    if job is None or not job.running:
        if job is not None and job.exit_code is None:
            time.sleep(BREATH)
        st.rerun()
    share = share_done(job.last_line)
    st.progress(share or 0.0, text="Starting" if share is None else "Pictures")
    st.caption("You can close this page; it goes on.")
    st.button("Cancel", icon=":material/stop_circle:", key="cancel-export", on_click=cancel, args=(job,))


def _draw_end(job: Job) -> None:
    """Draw how the process ended, unless all went well."""
    if job.cancelled:
        st.caption("The last attempt was cancelled.")
    elif job.exit_code != 0:
        draw_fault("The last attempt failed.", job.last_line or "It was killed, or the machine went down.")


def _make(audit: Audit, kind: Kind) -> None:
    """Make an export now, or start the process that does."""
    try:
        if takes_time(audit, kind):
            export_task(audit, kind).start()
            st.rerun()
        bar = st.progress(0.0, text="Writing")

        def show(done: int, total: int) -> None:
            bar.progress(done / max(total, 1), text="Writing pictures")

        make(audit, kind, progress=show)
        bar.empty()
    except (InputError, RuntimeError) as error:
        draw_fault("This export cannot be made.", error)
        return
    st.toast("The export is made.", icon=":material/check:")


def _draw_kept(audit: Audit, kept: Kept, position: int) -> None:
    """Draw an export: what it holds, how to get it, how to read it back."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        with st.container(gap=None, width="stretch"):
            show_strong(kept.path.name)
            made = datetime.fromtimestamp(kept.time, UTC).strftime("%Y-%m-%d %H:%M UTC")
            beside = f", and {bytes_in_words(kept.beside_bytes)} beside it" if kept.beside_bytes else ""
            st.caption(f"{kept.kind.about.title} · {bytes_in_words(kept.file_bytes)}{beside} · {made}")
        _draw_download(kept)
        if kept.summary is not None and kept.summary.command:
            _draw_audit_this(kept)
        st.button(
            "Delete", icon=":material/delete:", key=f"delete-{kept.kind.name}", on_click=_delete, args=(audit, kept)
        )
    if kept.kind.about.is_folder:
        st.caption("The folder:")
        st.code(str(kept.path.absolute()), language=None, wrap_lines=True)
    if kept.summary is not None:
        st.markdown(f"{kept.summary.line}.")
        if kept.summary.notes:
            show_text("\n".join(f"– {' '.join(note.split())}" for note in kept.summary.notes))
        if kept.position != position:
            st.caption(":material/update: Something was decided since it was made: make it again to have it in.")
    code, language = reading_code(kept)
    if code:
        st.caption("To audit it:" if language == "bash" else "To read it back:")
        st.code(code, language=language, wrap_lines=True)


def _draw_audit_this(kept: Kept) -> None:
    """Draw the button that leads to the start of an audit of an export, with its path, name and settings filled in."""
    assert kept.summary is not None
    if st.button("Audit this", icon=":material/science:", key=f"audit-{kept.kind.name}"):
        asked = parse(shlex.split(kept.summary.command)[COMMAND_WORDS:])
        prefill(Request(asked.source, free_name(asked.name, taken=is_taken), asked.config))
        st.switch_page("pages/audits.py", query_params={"view": "start"})


def _draw_download(kept: Kept) -> None:
    if kept.kind.about.is_folder:
        return
    if kept.file_bytes > DOWNLOAD_BYTES:
        st.caption("Too large to download here; it lies at:")
        st.code(str(kept.path.absolute()), language=None, wrap_lines=True)
        return
    st.download_button(
        "Download",
        data=kept.path.read_bytes,
        file_name=kept.path.name,
        mime="application/octet-stream",
        key=f"download-{kept.kind.name}",
        on_click="ignore",
        icon=":material/download:",
    )


def _delete(audit: Audit, kept: Kept) -> None:
    """Delete an export. A callback."""
    try:
        delete(audit, kept.kind)
        review_session().notice = Notice("Export deleted.", kept.path.name)
    except InputError as error:
        review_session().notice = Notice("The export was not deleted.", str(error), good=False)
