"""How far an audit is that is not finished, and the button that starts it, cancels it or makes it go on."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from clipmem_core.audits.jobs import Job, Task, audit_task, cancel, resume_arguments
from clipmem_core.audits.status import (
    BROKEN,
    CANCELLED,
    DONE,
    ELSEWHERE,
    FEATURES,
    PREPARING,
    SCORING,
    STOPPED,
    TRAINING,
    MemberProgress,
    State,
    all_progress,
    loss_curves,
    state_of,
    training_seconds_left,
)
from clipmem_core.config import InputError
from clipmem_core.dashboard.plain import draw_fault, duration, explained_errors, show_text
from clipmem_core.figures.audit_scores import loss_figure
from clipmem_core.glossary import DRAWN, meaning

FIRST = "scenes"
FIRST_ARGUMENTS = ["scenes", "--name", FIRST]
STAGES = {  # a running audit's
    PREPARING: "Preparing.",
    FEATURES: "Computing features with the locked towers.",
    TRAINING: "Training members.",
    SCORING: "Scoring pairs.",
}


def draw_empty() -> None:
    """Draw the page of somebody who has no audit yet."""
    st.title("CLIPMem", anchor=False)
    st.markdown(
        "CLIPMem trains small CLIP models, on locked towers or from scratch, with and without parts of an "
        "image–caption data set, and measures how strongly each pair is memorized. Memorized pairs and "
        "captions that do not fit rank first."
    )
    told = meaning(DRAWN)
    if st.button("Audit the synthetic set (about a minute)", type="primary", icon=":material/play_arrow:", help=told):
        audit_task(FIRST, FIRST_ARGUMENTS).start()
        st.rerun()
    st.page_link("pages/audits.py", label="Or audit your own pairs", icon=":material/science:")
    st.caption("Command line:")
    st.code("python -m clipmem_core audit SOURCE --name NAME", language="bash")


@st.fragment(run_every=2)
def draw_progress(name: str) -> None:
    """Draw how far an audit is, every two seconds, and the whole page again as soon as it is finished or gone."""
    state = state_of(name)
    if state.word == DONE or not (state.audit.begun or state.job):
        st.rerun()
    with explained_errors():
        if state.word == BROKEN:
            raise InputError(state.fault)
        if state.audit.begun:
            _draw_members(state)
        _draw_state(state)


def _draw_state(state: State) -> None:
    """Draw who works on it and what was said last; where nobody does, the button."""
    if state.at_work and state.job is not None:
        draw_job(state.job, key="cancel-audit", stage=STAGES.get(state.word, ""))
        return
    if state.word == ELSEWHERE:
        st.caption("Another process is running it, perhaps in a terminal.")
        return
    _draw_end(state)
    if st.button("Resume" if state.audit.begun else "Try again", type="primary", icon=":material/play_arrow:"):
        _resume(state)
        st.rerun()


def draw_job(job: Job, *, key: str, stage: str = "") -> None:
    """Draw what a running job says and the button that cancels it; once pressed, only that it is being ended."""
    if job.cancelling:
        st.info("Cancelling…", icon=":material/stop_circle:")
        return
    if job.waiting:
        st.info("Queued: one training job runs at a time.", icon=":material/schedule:")
    else:
        st.caption(f"{stage} You can close this page; it continues.".strip())
        if job.count:
            done, total, what = job.count
            st.progress(share_counted(job), text=f"{done:,} of {total:,} {what}")
        else:
            show_text(job.last_line or "Starting…", limit=300)
    told = "Finished work is kept; you can resume."
    st.button("Cancel", icon=":material/stop_circle:", key=key, help=told, on_click=cancel, args=(job,))


def share_counted(job: Job) -> float:
    """Return how many of the pictures or captions a job has finished, from 0 to 1; 0 where it counts none now."""
    return min(1.0, job.count[0] / max(1, job.count[1])) if job.count else 0.0


def _draw_end(state: State) -> None:
    """Draw why nobody works on it."""
    if state.word == CANCELLED:
        st.info("Cancelled. Resume continues where it stopped.", icon=":material/pause_circle:")
    elif state.word == STOPPED and state.job is not None:
        code = state.job.exit_code
        how = f"with exit code {code}" if code is not None else "without an exit code: it was killed"
        draw_fault(f"The audit stopped {how}.", state.job.last_line)
    else:
        st.info("This audit is not finished and not running.", icon=":material/pause_circle:")


def _resume(state: State) -> None:
    """Repeat the audit's own settings; where it did not get as far as writing them, its command."""
    name = state.audit.name
    if state.audit.begun:
        record = state.audit.record
        audit_task(name, resume_arguments(name, record.source, record.config)).start()
    elif state.job is not None:
        Task(state.job.folder, state.job.arguments).start()


def _draw_members(state: State) -> None:
    audit, record = state.audit, state.audit.record
    members = all_progress(audit.folder, record.members)
    if all(member.stage == "waiting" for member in members):
        return
    st.progress(share_done(members), text=summary(members, at_work=state.at_work))
    table, curves = st.columns([3, 2], gap="medium")
    columns = {
        "stage": st.column_config.TextColumn(width=90),
        "progress": st.column_config.ProgressColumn("progress", format="percent", min_value=0, max_value=1),
        "loss": st.column_config.NumberColumn(format="%.2f", width=60),
        "pairs/s": st.column_config.NumberColumn(format="%.0f", width=70),
        "left": st.column_config.TextColumn(width=105),
    }
    table.dataframe(
        _member_table(members), hide_index=True, column_config=columns, placeholder="", alt="Progress of each member"
    )
    first, second = members[: len(record.members)], members[len(record.members) :]
    drawn = second if any(member.step for member in second) else first
    told = ", ".join(f"{member.name} {member.loss:.2f}" for member in drawn if member.steps)
    losses = loss_curves(audit.folder, [member.name for member in drawn])
    if len(losses):
        curves.plotly_chart(
            loss_figure(losses),
            key=f"losses-{audit.name}",
            config={"displayModeBar": False},
            alt=f"Loss of each member over its epochs: {told}",
        )
    _warn_at_chance(members, record.config.batch_size)


def _warn_at_chance(members: Sequence[MemberProgress], batch_size: int) -> None:
    if batch_size > 1 and any(member.at_chance(batch_size) for member in members):
        st.warning(
            "The loss of a model is still at chance: check that captions fit their pictures, or lower lr.",
            icon=":material/warning:",
        )


def share_done(members: Sequence[MemberProgress]) -> float:
    """Return how much of the training of all members is done, from 0 to 1."""
    return sum(member.share for member in members) / len(members) if members else 0.0


def summary(members: Sequence[MemberProgress], *, at_work: bool) -> str:
    """Return in a line how far the members are and, of those at work, how fast and for how long they still train."""
    done = sum(member.stage == "finished" for member in members)
    if done == len(members):
        return "All members finished"
    parts = [f"{done} of {len(members)} members finished"]
    training = [member for member in members if member.stage == "training" and member.step]
    if not at_work:
        return parts[0]
    if training:
        parts.append(f"{sum(member.samples_per_second for member in training):,.0f} samples/s")
    if left := duration(training_seconds_left(members)):
        parts.append(f"{left} of training left")
    return " · ".join(parts)


def _member_table(members: Sequence[MemberProgress]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "member": [member.name for member in members],
            "stage": [member.stage for member in members],
            "progress": [member.share for member in members],
            "loss": [member.loss for member in members],
            "pairs/s": [member.samples_per_second for member in members],
            "left": [duration(member.seconds_left) if member.stage == "training" else "" for member in members],
        }
    )
