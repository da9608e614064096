"""The views Export and Re-audit of the page Decisions: jobs on the cleaned data set, and their
results."""

from pathlib import Path

import streamlit as st

from clipmem_core.audit.jobs import Job, export_task
from clipmem_core.audit.status import DONE, state_of
from clipmem_core.audit.store import Audit, audits_folder
from clipmem_core.config import data_folder
from clipmem_core.dashboard.audits import free_name, is_taken
from clipmem_core.dashboard.decisions import count_decisions
from clipmem_core.dashboard.page import choose_listed, choose_segment, write_address
from clipmem_core.dashboard.plain import (
    explained_errors,
    in_one_line,
    pairs_in_words,
    show_command,
    show_strong,
    show_text,
)
from clipmem_core.dashboard.running import draw_progress, draw_task
from clipmem_core.export import reaudit
from clipmem_core.export.formats import AUDIT_IT, FORMATS
from clipmem_core.io import InputError
from clipmem_core.review.decisions import REMOVE, count_changed
from clipmem_core.review.selection import UNDECIDED

# in the address
_FORMAT = "format"
_SUFFIX = "file"
_SECOND = "again"
_DOWNLOAD_BYTES = 200_000_000  # a download is read into memory
_REAUDIT = (
    "Writes the data set without the pairs you removed and with the captions you changed, audits "
    "it with the same settings, seeds and members, and compares both audits on the pairs they "
    "share, in about the time of the first."
)


def draw_exports(audit: Audit) -> None:
    """Draw the choice of a format, the contents of the export, its progress, and the finished
    export."""
    left, right = st.columns([2, 3], gap="large")
    with left:
        format = choose_listed(
            "Format",
            list(FORMATS),
            parameter=_FORMAT,
            key="export-format",
            clears=[_SUFFIX],
            draw=st.radio,
            format_func=lambda name: FORMATS[name].title,
            captions=[about.help for about in FORMATS.values()],
        )
    about = FORMATS[format]
    suffix = about.suffixes[0]
    with right:
        st.markdown(f"**{about.title}**")
        st.caption(about.limits)
        if len(about.suffixes) > 1:
            suffixes = {suffix: suffix for suffix in about.suffixes}
            suffix = choose_segment(
                "File", suffixes, parameter=_SUFFIX, key="export-suffix", hidden=True
            )
        path = data_folder().absolute() / "exports" / audit.name / f"{audit.name}-{format}{suffix}"
        task = export_task(audit, format, path)
        job = task.find()
        ran = job is not None and job.running
        # The page shows the result once the job that it saw has ended.
        contents = _contents(audit, format)
        draw_task(task, lambda: ran, key="make-export", reason=contents, label="Export")
        if job is not None and job.exit_code == 0 and path.exists():
            _draw_result(job, path)


def _contents(audit: Audit, format: str) -> str:
    counts = count_decisions(audit)
    total = sum(counts.values())
    undecided = counts[UNDECIDED]
    if format == "decisions":
        return f"{total - undecided:,} decisions on pairs of this audit, and every note."
    if format == "html":
        return f"The report of all {total:,} pairs, with the decisions."
    if audit.record.config.inject_miscaptions:
        return (
            f"{total:,} pairs with their original captions, minus injected errors and the pairs "
            "you removed."
        )
    removed, changed = count_changed(audit)
    exported = f"{total - removed:,} exported, {undecided:,} of them not reviewed"
    return f"{exported}; {removed:,} removed, {changed:,} with changed captions."


def _draw_result(job: Job, path: Path) -> None:
    with st.container(border=True):
        st.code(str(path), language=None, wrap_lines=True)
        for line in job.last_lines:
            if line.startswith(AUDIT_IT):
                st.caption("Audit the result:")
                st.code(line.removeprefix(AUDIT_IT), language="bash", wrap_lines=True)
            elif line.startswith((f"{path}: ", "note: ")):
                show_text(line.removeprefix(f"{path}: "))
        if path.is_file() and path.stat().st_size <= _DOWNLOAD_BYTES:
            st.download_button(
                "Download",
                data=path.read_bytes,
                file_name=path.name,
                mime="application/octet-stream",
                key="download-export",
                on_click="ignore",
                icon=":material/download:",
            )


def draw_reaudits(audit: Audit) -> None:
    """Draw the chosen re-audit, and the button that starts another."""
    names = reaudit.list_reaudits(audit)
    if not names:
        _draw_start(audit)
        return
    name = choose_listed("Re-audits", names, parameter=_SECOND, key="again-second", width=320)
    if reaudit.is_outdated(audit, name):
        st.caption(
            ":material/update: There are newer decisions than this audit: re-audit to include them."
        )
    _draw_second(audit, name)
    with st.expander("Re-audit with current decisions", icon=":material/autorenew:"):
        _draw_start(audit)


def _draw_start(audit: Audit) -> None:
    """Draw the button that starts a re-audit, or why none can start."""
    st.caption(_REAUDIT)
    changed = sum(count_changed(audit))
    name = free_name(
        f"{audit.name}-again",
        taken=lambda each: is_taken(each) or reaudit.cleaned_folder(each).exists(),
    )
    obstacle = _reaudit_obstacle(audit)
    if st.button(
        f"Re-audit: {pairs_in_words(changed)} removed or with changed captions",
        type="primary",
        icon=":material/autorenew:",
        key="start-again",
        disabled=bool(obstacle),
    ):
        reaudit.reaudit_task(audit, name).start()
        write_address(**{_SECOND: name})
        st.rerun()
    if obstacle:
        show_text(obstacle)
    else:
        show_command(f"python -m clipmem_core reaudit {audit.name} --name {name}")


def _reaudit_obstacle(audit: Audit) -> str:
    """Return why an audit cannot be repeated; empty if it can."""
    try:
        reaudit.check_repeatable(audit)
    except InputError as error:
        return in_one_line(error)
    counts = count_decisions(audit)
    if counts[REMOVE] == sum(counts.values()):
        return "Every pair is removed: nothing is left to audit."
    if not any(count_changed(audit)):
        return "No pair is removed and no caption changed yet, so nothing would change."
    return ""


@st.fragment(run_every=2)
def _draw_second(audit: Audit, name: str) -> None:
    """Draw the progress of a re-audit and of its comparison, or its result."""
    if state_of(name).word != DONE:
        draw_progress(name)
        return
    second = Audit(audits_folder() / name)
    with explained_errors():
        result, compared = reaudit.read_comparison(second)
    if not compared:
        draw_task(
            reaudit.reaudit_task(audit, name),
            lambda: reaudit.read_comparison(second)[1],
            key="compare-again",
            reason="The second audit is finished but not compared yet.",
            label="Compare",
        )
        return
    first, *others = reaudit.comparison_lines(result)
    show_strong(first)
    for sentence in others:
        show_text(sentence)
    with st.container(horizontal=True):
        st.page_link(
            "pages/overview.py",
            label="Open",
            icon=":material/open_in_new:",
            query_params={"audit": name},
        )
        st.page_link(
            "pages/compare.py",
            label="Compare pair by pair",
            icon=":material/compare_arrows:",
            query_params={"one": audit.name, "other": name},
        )
