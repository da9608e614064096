"""A setting that a study has no results of → how long it takes, the button that queues it, and how far it is."""

import math

import streamlit as st

from clipmem_core.config import InputError
from clipmem_core.dashboard.mitigations.study import Known
from clipmem_core.dashboard.trouble import draw_fault
from clipmem_core.review.study_decisions import decided_for
from clipmem_core.studies.estimate import minutes_of
from clipmem_core.studies.jobs import resume_study
from clipmem_core.studies.own import add_own, find_arm
from clipmem_core.studies.setting import Setting
from clipmem_core.studies.store import StudyFolder


def draw_waiting(known: Known, setting: Setting, arm: str | None, *, working: bool) -> None:
    """Draw what is missing of a setting: nothing where every seed is done.

    Args:
        known: the study.
        setting: what the toggles say.
        arm: the study's arm that has it, or None.
        working: whether a process works on the study.
    """
    done, outdated = sum(name == arm for name, _ in known.done), _is_outdated(known.study, setting)
    if arm is not None and done < known.seeds:
        _draw_left(known, done, working=working)
    elif arm is None or outdated:
        missing = "Run with other decisions than those of now. With these" if outdated else "Not run"
        with st.container(border=True, key="mitigation-waiting"):
            st.markdown(f"**{missing}{_how_long(known.study, setting)}**")
            if st.button("Run it", type="primary", icon=":material/play_arrow:", key="mitigation-run"):
                _run(known.study, setting)


def _draw_left(known: Known, done: int, *, working: bool) -> None:
    """Draw that an arm of the study is not through, and when it will be."""
    missing = f"{done} of {known.seeds} seeds of this setting are done" if done else "Not run yet"
    turn = "Its turn comes: the study is at work." if working else "Resume the study to run the rest."
    st.info(f"{missing}. {turn}", icon=":material/hourglass:")


def _is_outdated(study: StudyFolder, setting: Setting) -> bool:
    """Tell whether the person has decided otherwise since the setting ran."""
    if not setting.decisions or find_arm(study, setting) is None:
        return False
    return find_arm(study, setting, decided=decided_for(study)) is None


def _how_long(study: StudyFolder, setting: Setting) -> str:
    """Say how long all seeds of a setting take."""
    try:
        minutes = minutes_of(study, setting)
    except (InputError, KeyError, OSError, TypeError):  # a file of none is broken: the other parts say so
        minutes = None
    if minutes is None:
        return ". How long it takes is known when none has been trained"
    return f": about {max(1, math.ceil(minutes)):,} min"


def _run(study: StudyFolder, setting: Setting) -> None:
    """Add a setting to its study and let it go on; what forbids it is told, and nothing is lost."""
    try:
        add_own(study, setting, decided=decided_for(study) if setting.decisions else None)
        resume_study(study)
    except (InputError, RuntimeError) as error:
        draw_fault("This setting cannot run.", error)
        return
    st.rerun()
