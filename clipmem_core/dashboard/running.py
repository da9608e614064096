"""An audit that is not finished → its progress, or the button that starts it or makes it go on."""

import math
import time
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from clipmem_core.audits.jobs import Job, find_job, resume_arguments, start_audit, start_job
from clipmem_core.audits.progress import MemberProgress, member_progress
from clipmem_core.audits.store import CONFIG, MEMBERS, Audit, audits_folder
from clipmem_core.dashboard.plain import show_text
from clipmem_core.dashboard.trouble import explained_errors

FIRST = "scenes"
FIRST_ARGUMENTS = ["scenes", "--name", FIRST, "--preset", "tiny"]
FRESH_SECONDS = 30  # an audit written to within this time belongs to someone


def draw_empty() -> None:
    """Draw the page of somebody who has no audit yet."""
    st.title("CLIPMem", anchor=False)
    st.markdown(
        "CLIPMem trains small CLIP models with and without parts of an image–caption data set, and measures how "
        "strongly each pair is memorized. Pairs learned by heart, and captions that do not fit, come out on top."
    )
    if st.button("Audit the drawn set (about a minute)", type="primary", icon=":material/play_arrow:"):
        start_audit(FIRST_ARGUMENTS, name=FIRST)
        st.rerun()
    st.caption("Or audit your own pairs from a terminal:")
    st.code("python -m clipmem_core audit SOURCE --name NAME", language="bash")


@st.fragment(run_every=1)
def draw_progress(name: str) -> None:
    """Draw how far an audit is, every second, and open it as soon as it is finished."""
    audit = Audit(audits_folder() / name)
    if audit.finished:
        st.rerun()
    with explained_errors():
        job = find_job(name)
        started = (audit.folder / CONFIG).is_file()
        if started:
            _draw_members(audit)
        _draw_state(audit, job, started=started)


def _draw_state(audit: Audit, job: Job | None, *, started: bool) -> None:
    """Draw who works on it and what was said last; where nobody does, the button."""
    if job is not None and job.running:
        st.caption("Running. You can close this page; it goes on.")
        show_text(job.last_line, limit=300)
        return
    quiet = time.time() - _last_sign(audit, after=job.ended if job else None)
    if quiet < FRESH_SECONDS:
        st.caption(f"Another process works on it, perhaps in a terminal: its last sign of life is {quiet:.0f} s old.")
        return
    if job is not None and job.exit_code:
        st.error(f"The audit stopped with exit code {job.exit_code}.", icon=":material/error:")
        show_text(job.last_line, limit=1000)
    else:
        st.info("This audit is not finished, and nothing works on it now.", icon=":material/pause_circle:")
    if st.button("Resume" if started else "Try again", type="primary", icon=":material/play_arrow:"):
        _resume(audit, job, started=started)
        st.rerun()


def _resume(audit: Audit, job: Job | None, *, started: bool) -> None:
    """Repeat the audit's own settings; where it did not get as far as writing them, its command."""
    if started:
        start_audit(resume_arguments(audit.name, audit.config), name=audit.name)
    elif job is not None:
        start_job(job.command, name=job.name)


def _last_sign(audit: Audit, *, after: float | None) -> float:
    """Return when a file of the audit was last written, after a moment; minus infinity where none was."""
    paths = [*audit.folder.glob("*.*"), *audit.folder.glob(f"{MEMBERS}/*/log.jsonl")]
    times = [path.stat().st_mtime for path in paths]
    return max((moment for moment in times if after is None or moment > after), default=-math.inf)


def _draw_members(audit: Audit) -> None:
    config = audit.config
    names = config.get("members") or []
    members = [member_progress(audit.folder, str(name)) for name in names]
    if not members:
        return
    st.progress(sum(map(_share, members)) / len(members), text=_summary(members))
    columns = {
        "progress": st.column_config.ProgressColumn("progress", format="percent", min_value=0, max_value=1),
        "loss": st.column_config.NumberColumn(format="%.2f"),
        "pairs/s": st.column_config.NumberColumn(format="%.0f"),
    }
    st.dataframe(
        _member_table(members), hide_index=True, column_config=columns, placeholder="", alt="Progress of each member"
    )
    batch_size = config.get("config", {}).get("batch_size", 0)
    if batch_size > 1 and any(member.at_chance(batch_size) for member in members):
        st.warning(
            "A member's loss is still that of guessing: check that captions fit their pictures, or lower lr.",
            icon=":material/warning:",
        )


def _share(member: MemberProgress) -> float:
    """Return how much of a member is done, from 0 to 1."""
    if member.stage in ("embedding", "done"):
        return 1.0
    return min(1.0, member.step / member.steps) if member.steps else 0.0


def _summary(members: Sequence[MemberProgress]) -> str:
    done = sum(member.stage == "done" for member in members)
    if done == len(members):
        return "All members are trained; scoring the pairs"
    return f"{done} of {len(members)} members are done"


def _member_table(members: Sequence[MemberProgress]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "member": [member.name for member in members],
            "stage": [member.stage for member in members],
            "progress": [_share(member) for member in members],
            "loss": [member.loss for member in members],
            "pairs/s": [member.samples_per_second for member in members],
            "left": [_duration(member.seconds_left) if member.stage == "training" else "" for member in members],
        }
    )


def _duration(seconds: float) -> str:
    """Return a time in words.

    Example:
        >>> _duration(125), _duration(math.nan)
        ('2 min 5 s', '')
    """
    if not math.isfinite(seconds):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
