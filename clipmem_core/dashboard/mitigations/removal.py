"""A setting → toggles for the pairs taken out before training: by a ranking, by their looks, by the person's word."""

import streamlit as st

from clipmem_core.config import InputError
from clipmem_core.dashboard.mitigations.address import flag, keep, remove, turn_removal
from clipmem_core.dashboard.mitigations.knobs import RANKED_BY
from clipmem_core.dashboard.mitigations.reference import Reference
from clipmem_core.dashboard.plain import show_text
from clipmem_core.review.study_decisions import decided_for
from clipmem_core.studies.setting import Setting
from clipmem_core.studies.store import StudyFolder

REMOVAL = "Pairs that both models of a seed would train on are left out of training, those that rank first."
LOOKALIKES = "Of pictures that look alike, all but the first are left out of training."
DECISIONS = "Pairs you decided to remove are left out of training, and those you recaptioned get your captions."


def draw_pairs(study: StudyFolder, setting: Setting, reference: Reference) -> None:
    """Draw which pairs are taken out before training."""
    _draw_removal(setting, reference)
    draw_flag("lookalikes", "Without look-alikes", LOOKALIKES, setting, reference)
    removed, recaptioned, fault = _decided(study)
    none = not (removed or recaptioned)
    said = "none yet" if none else f"{removed:,} removed, {recaptioned:,} recaptioned"
    off = none and not setting.decisions
    draw_flag("decisions", f"My decisions: {said}", DECISIONS, setting, reference, disabled=off)
    if fault:
        show_text(fault, limit=300)


def _draw_removal(setting: Setting, reference: Reference) -> None:
    key, removal = keep("on-removal", setting.removal is not None), setting.removal
    st.toggle("Take pairs out", key=key, help=REMOVAL, on_change=turn_removal, args=(reference,))
    if removal is None:
        return
    most = max(reference.shared, removal.n, 1)
    st.number_input(
        "How many",
        *(1, most),
        key=keep("removal-n", removal.n),
        step=10,
        on_change=remove,
        args=(reference,),
        help=f"Of the {reference.shared:,} pairs that both models of a seed train on." if reference.shared else None,
    )
    st.selectbox(
        "Which first",
        list(RANKED_BY),
        key=keep("removal-by", removal.by),
        format_func=lambda by: RANKED_BY.get(by, by),
        on_change=remove,
        args=(reference,),
    )


def _decided(study: StudyFolder) -> tuple[int, int, str]:
    """Return how many pairs the person removed and recaptioned, and what keeps us from knowing."""
    try:
        found = decided_for(study)
    except InputError as error:
        return 0, 0, " ".join(str(error).split())
    return len(found.removed), len(found.recaptioned), ""


def draw_flag(
    name: str, label: str, help_text: str, setting: Setting, reference: Reference, *, disabled: bool = False
) -> None:
    """Draw whether a setting does what is no field of the config.

    Args:
        name: a Boolean field of Setting.
        label: of our own words.
        help_text: what it does.
        setting: what the address asks for.
        reference: what it is a setting beside.
        disabled: whether it cannot be changed.
    """
    key = keep(f"on-{name}", getattr(setting, name))
    st.toggle(label, key=key, help=help_text, disabled=disabled, on_change=flag, args=(name, reference))
