"""The setting that the address asks for → a toggle for everything that can be done, and a slider for how much of it."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import streamlit as st

from clipmem_core.config import MODIFIERS
from clipmem_core.dashboard.choices import choose_listed
from clipmem_core.dashboard.mitigations.address import (
    PARAMETER,
    keep,
    read_setting,
    slide,
    turn,
)
from clipmem_core.dashboard.mitigations.knobs import (
    ADAPTIVE,
    AHEAD,
    COLOUR,
    CROPS,
    DECAY,
    FORGET_DF,
    FURTHER,
    IMAGE_NOISE,
    LOGIT_FLOOR,
    LOGIT_SCALE,
    MASK,
    MIN_DF,
    PLACE_HELP,
    PLACES,
    TEXT_NOISE,
    Knob,
    caption_choices,
    early_stop,
)
from clipmem_core.dashboard.mitigations.reference import Reference, reference_of
from clipmem_core.dashboard.mitigations.removal import draw_flag, draw_pairs
from clipmem_core.studies.jobs import resume_study
from clipmem_core.studies.mitigations import NONE
from clipmem_core.studies.own import find_arm
from clipmem_core.studies.setting import Setting
from clipmem_core.studies.store import StudyFolder

CAPTIONS = "How many captions of a pair training draws from; each epoch takes one of them at random."
EQUAL_TIME = "Trains for as many epochs as take as long as none took, not for as many epochs as none."


def draw_setting(study: StudyFolder) -> Setting:
    """Draw a toggle for everything that can be done against memorization, and return the setting they say.

    Args:
        study: one that can be shown.

    Raises:
        InputError: a file of the study is broken.
    """
    reference = reference_of(study)
    setting = read_setting(reference)
    _draw_listed(study, setting)
    with st.container(gap="small", key="mitigation-setting"):
        _draw_groups(study, setting, reference)
    return setting


def arm_of(study: StudyFolder, setting: Setting) -> str | None:
    """Return the arm of a study that has a setting, run or not, or None; of several with decisions the newest."""
    return find_arm(study, setting) if setting.text else NONE


def _draw_listed(study: StudyFolder, setting: Setting) -> None:
    """Draw the settings that the study has, to jump to one."""
    arms = {text: arm for arm, text in study.settings.items()}
    if NONE not in arms.values():
        _draw_unnamed(study)
        return
    named = {setting.text: "another one" if setting.text else NONE} | arms
    choose_listed(
        "Settings of this study",
        list(named),
        parameter=PARAMETER,
        key="mitigations-listed",
        width=400,
        named=lambda text: named.get(text, text),
    )


def _draw_unnamed(study: StudyFolder) -> None:
    """Draw how a study gets to say its settings that was written before they were kept."""
    st.caption("This study does not say the settings of its arms yet. Nothing that is done runs again for that.")
    if st.button("Read its settings", key="mitigation-named", icon=":material/refresh:"):
        resume_study(study)
        st.rerun()


def _draw_groups(study: StudyFolder, setting: Setting, reference: Reference) -> None:
    """Draw every toggle under its heading."""
    groups: dict[str, Callable[[], None]] = {
        "Captions": lambda: _draw_captions(setting, reference),
        "Text": lambda: _draw_knobs((FORGET_DF, MIN_DF, MASK, TEXT_NOISE), setting, reference),
        "Pictures": lambda: _draw_knobs((CROPS, COLOUR, IMAGE_NOISE), setting, reference),
        "Only for pairs that run ahead": lambda: _draw_adaptive(setting, reference),
        "Training": lambda: _draw_knobs(
            (early_stop(reference), DECAY, LOGIT_FLOOR, LOGIT_SCALE, *FURTHER), setting, reference
        ),
        "Pairs": lambda: draw_pairs(study, setting, reference),
        "Comparison": lambda: draw_flag(
            "equal_time", "Equal time", EQUAL_TIME, setting, reference, disabled=not setting.text
        ),
    }
    for title, draw in groups.items():
        with st.container(gap="xsmall", key=f"mitigation-group-{title.split()[0].lower()}"):
            st.markdown(f"**{title}**")
            draw()


def _draw_captions(setting: Setting, reference: Reference) -> None:
    """Draw how many captions of a pair are trained on."""
    choices = caption_choices(reference)
    value = setting.fields.get("train_captions")
    if not choices:
        st.caption("Every pair has one caption." if reference.captions else "Not known until none has begun.")
        return
    _draw_toggle("train_captions", "More captions per pair", CAPTIONS, value is not None, choices[-1], reference)
    if value is None:
        return
    options = choices if value in choices else sorted({*choices, value}, key=lambda count: count or math.inf)
    key = keep("train_captions", value)
    st.select_slider(
        "Captions per pair",
        options,
        key=key,
        format_func=lambda count: str(count) if count else "all",
        on_change=slide,
        args=("train_captions", reference),
    )


def _draw_knobs(knobs: Iterable[Knob], setting: Setting, reference: Reference) -> None:
    for knob in knobs:
        value, usual = setting.fields.get(knob.name), knob.at_first(reference.config)
        _draw_toggle(knob.name, knob.label, knob.help, value is not None, usual, reference)
        if value is not None:
            _draw_slider(knob, value, reference)
            if knob.name in MODIFIERS["noise_place"]:
                _draw_noise(knob.name, value, setting, reference)


def _draw_adaptive(setting: Setting, reference: Reference) -> None:
    """Draw what is done to pairs that run ahead, and who is said to."""
    _draw_knobs(ADAPTIVE, setting, reference)
    if any(knob.name in setting.fields for knob in ADAPTIVE):
        for knob in AHEAD:
            _draw_slider(knob, setting.fields.get(knob.name, getattr(reference.config, knob.name)), reference)


def _draw_toggle(name: str, label: str, help_text: str, on: bool, usual: Any, reference: Reference) -> None:
    """Draw whether something is done."""
    key = keep(f"on-{name}", on)
    brings = next((knob.brings for knob in ADAPTIVE if knob.name == name), {})
    st.toggle(label, key=key, help=help_text, on_change=turn, args=(name, {name: usual, **brings}, reference))


def _draw_slider(knob: Knob, value: float, reference: Reference) -> None:
    """Draw a field's value; one that the address has beyond the usual range widens it."""
    kind = type(getattr(reference.config, knob.name))
    key = keep(knob.name, kind(value))
    low, high = (kind(end) for end in (min(knob.low, value), max(knob.high, value)))
    st.slider(
        knob.label,
        *(low, high),
        step=kind(knob.step),
        key=key,
        on_change=slide,
        args=(knob.name, reference),
        label_visibility="visible" if knob in AHEAD else "collapsed",
    )


def _draw_noise(name: str, value: float, setting: Setting, reference: Reference) -> None:
    """Draw how long the noise is, and where it is added."""
    if reference.dim:
        st.caption(f"σ·√dim = {value:g}·√{reference.dim} = {value * math.sqrt(reference.dim):.2f}")
    first = next(other for other in MODIFIERS["noise_place"] if other in setting.fields)
    if name != first:
        return  # the place is the same for all of them
    key = keep("noise_place", setting.fields.get("noise_place", reference.config.noise_place))
    st.segmented_control(
        "Before or after normalising",
        list(PLACES),
        key=key,
        format_func=PLACES.__getitem__,
        help=PLACE_HELP,
        required=True,
        on_change=slide,
        args=("noise_place", reference),
    )
