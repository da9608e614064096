"""The view that closes the loop: audits the cleaned set with the same members, follows it, and says what came out."""

import streamlit as st

from clipmem_core.audits.jobs import Job, audit_task
from clipmem_core.audits.status import DONE, state_of
from clipmem_core.audits.store import Audit, audits_folder
from clipmem_core.config import InputError
from clipmem_core.dashboard.address import choose_listed, write
from clipmem_core.dashboard.decisions import count_decisions
from clipmem_core.dashboard.errors import LIMIT, draw_fault, one_line
from clipmem_core.dashboard.numbers import pairs_in_words
from clipmem_core.dashboard.plain import show_strong, show_text
from clipmem_core.dashboard.running import draw_progress
from clipmem_core.dashboard.starting import free_name, is_taken
from clipmem_core.exports.reaudit import (
    check_repeatable,
    cleaned_folder,
    comparison_lines,
    default_name,
    is_outdated,
    list_reaudits,
    read_comparison,
    reaudit_task,
)
from clipmem_core.review.decisions import KEEP, REMOVE
from clipmem_core.review.selection import UNDECIDED

SECOND = "again"  # in the address
WHAT = (
    "Writes the data set without the pairs you removed and with the captions you changed, audits it with the same "
    "settings, seeds and members, each on the same pairs less those that are gone, and compares both audits on the "
    "pairs they share. It takes about as long as the first audit did."
)


def draw_again(audit: Audit) -> None:
    """Draw the audits of what an audit cleaned, the one the address asks for, and the button that starts another."""
    names = list_reaudits(audit)
    if not names:
        _draw_start(audit)
        return
    name = choose_listed("Audited again", names, parameter=SECOND, key="again-second", width=320)
    if is_outdated(audit, name):
        st.caption(":material/update: Something was decided since this one began: re-audit to include it.")
    _draw_second(audit, name)
    with st.expander("Re-audit with current decisions", icon=":material/autorenew:", expanded=False):
        _draw_start(audit)


def _draw_start(audit: Audit) -> None:
    """Draw the button that audits the cleaned data set; beside it, when it is disabled, the reason."""
    counts, fault = count_decisions(audit), ""
    changed = sum(count for choice, count in counts.items() if choice not in (KEEP, UNDECIDED))
    try:
        check_repeatable(audit)
    except InputError as error:
        fault = one_line(error)
    if not fault and not changed:
        fault = "No pair is removed or recaptioned yet, so nothing would change."
    if not fault and counts[REMOVE] == sum(counts.values()):
        fault = "Every pair is removed: nothing is left to audit."
    st.caption(WHAT)
    name = free_name(default_name(audit), taken=lambda each: is_taken(each) or cleaned_folder(each).exists())
    label = f"Audit again, {pairs_in_words(changed)} removed or recaptioned" if changed else "Audit again"
    if st.button(label, type="primary", icon=":material/autorenew:", key="start-again", disabled=bool(fault)):
        _start(audit, name)
    if fault:
        show_text(fault, limit=LIMIT)
        return
    st.caption("Command line:")
    st.code(f"python -m clipmem_core again {audit.name} --name {name}", language="bash", wrap_lines=True)


def _start(audit: Audit, name: str) -> None:
    try:
        reaudit_task(audit, name).start()
    except InputError as error:
        draw_fault("It could not be started.", error)
        return
    write(**{SECOND: name})
    st.rerun()


def _draw_second(audit: Audit, name: str) -> None:
    """Draw how far a second audit is, or what came out."""
    second = Audit(audits_folder() / name)
    if state_of(name).word != DONE:
        draw_progress(name)
        return
    found, compared = read_comparison(second)
    if not compared:
        _draw_comparing(audit, name)
        return
    first, *rest = comparison_lines(found)
    show_strong(first)
    for sentence in rest:
        show_text(sentence)
    with st.container(horizontal=True):
        st.page_link("pages/overview.py", label="Open it", icon=":material/open_in_new:", query_params={"audit": name})
        both = {"one": audit.name, "other": name}
        st.page_link(
            "pages/compare.py", label="Compare pair by pair", icon=":material/compare_arrows:", query_params=both
        )


@st.fragment(run_every=1)
def _draw_comparing(audit: Audit, name: str) -> None:
    """Draw that both are being compared, and the whole page again once they are; a button where nobody does it."""
    job = audit_task(name).find()
    if read_comparison(Audit(audits_folder() / name))[1]:
        st.rerun()
    if job is not None and job.running:
        st.caption("The second audit is done; comparing it with the first.")
        show_text(job.last_line, limit=200)
        return
    _draw_end(job)
    if st.button("Compare", type="primary", icon=":material/compare_arrows:", key="compare-again"):
        reaudit_task(audit, name).start()
        st.rerun()


def _draw_end(job: Job | None) -> None:
    if job is not None and job.failed:
        draw_fault("The comparison failed.", job.last_line)
    else:
        st.caption("The second audit is done, and was not compared with the first yet.")
