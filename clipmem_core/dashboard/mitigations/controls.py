"""The setting that the address asks for, and a control for everything that can be done against memorization.

?setting=text_mask=0.3 removal=clipmem:100   the text form of a Setting; none where the address says nothing.
Controls are set from the address, and write what is changed back into it.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import streamlit as st

from clipmem_core import columns as c
from clipmem_core.audits.settings import check_config
from clipmem_core.config import MODIFIERS, InputError
from clipmem_core.dashboard.address import PAGE, choose_listed, write
from clipmem_core.dashboard.mitigations import knobs
from clipmem_core.dashboard.mitigations.knobs import PLACE_HELP, PLACES, RANKED_BY, REMOVED, Knob
from clipmem_core.dashboard.mitigations.study_data import Reference, reference_of
from clipmem_core.dashboard.plain import show_text
from clipmem_core.review.study_decisions import decided_for
from clipmem_core.studies.arm import NONE, Removal, normal, parse_setting
from clipmem_core.studies.arm import Arm as Setting
from clipmem_core.studies.custom_arms import find_arm
from clipmem_core.studies.jobs import resume_study
from clipmem_core.studies.store import StudyFolder

PARAMETER = "setting"
MOST = 1_000_000  # of any field: more is a slip, and no slider goes there
KEY = "mitigation-{}"  # of a control; that of a toggle has `on-` before the name
CAPTIONS = "How many captions of a pair training draws from; each epoch takes one of them at random."
EQUAL_TIME = "Trains for as many epochs as take as long as none took, not for as many epochs as none."
REMOVAL = "Pairs that both models of a seed would train on are left out of training, those that rank first."
LOOKALIKES = "Of pictures that look alike, all but the first are left out of training."
DECISIONS = "Pairs you decided to remove are left out of training, and those you recaptioned get your captions."


def draw_setting(study: StudyFolder) -> Setting:
    """Draw a control for everything that can be done against memorization, and return the setting they say.

    Args:
        study: one that can be shown.

    Raises:
        InputError: a file of the study is broken.
    """
    reference = reference_of(study)
    setting = _read_setting(reference)
    _draw_listed(study, setting)
    controls, stop = Controls(setting, reference), knobs.early_stop(reference)
    groups: dict[str, Callable[[], None]] = {
        "Captions": controls.draw_captions,
        "Text": lambda: controls.draw_fields((knobs.FORGET_DF, knobs.MIN_DF, knobs.MASK, knobs.TEXT_NOISE)),
        "Pictures": lambda: controls.draw_fields((knobs.CROPS, knobs.COLOUR, knobs.IMAGE_NOISE)),
        "Only for pairs that run ahead": controls.draw_adaptive,
        "Training": lambda: controls.draw_fields(
            (stop, knobs.DECAY, knobs.LOGIT_FLOOR, knobs.LOGIT_SCALE, *knobs.FURTHER)
        ),
        "Pairs": lambda: controls.draw_pairs(study),
        "Comparison": lambda: controls.draw_switch("equal_time", "Equal time", EQUAL_TIME, disabled=not setting.text),
    }
    with st.container(gap="small", key="mitigation-setting"):
        for title, draw in groups.items():
            with st.container(gap="xsmall", key=f"mitigation-group-{title.split()[0].lower()}"):
                st.markdown(f"**{title}**")
                draw()
    return setting


def arm_of(study: StudyFolder, setting: Setting) -> str | None:
    """Return the arm of a study that has a setting, run or not, or None; of several with decisions the newest."""
    return find_arm(study, setting) if setting.text else NONE


def _read_setting(reference: Reference) -> Setting:
    """Return the setting of the address; one that cannot be understood, or is out of range, is told, and none taken."""
    try:
        setting = _understood(reference)
    except InputError as error:
        st.warning("The setting of this address cannot be used; this is none.", icon=":material/link_off:")
        show_text(" ".join(str(error).split()), limit=300)
        return Setting()
    if st.query_params.get(PARAMETER, "") != setting.text:
        write(**{PARAMETER: setting.text or None})  # a list of settings knows each by its one text
    return setting


def _understood(reference: Reference) -> Setting:
    """Return what the address says, without what does nothing.

    Raises:
        InputError: it cannot be understood, or is out of range.
    """
    setting = parse_setting(st.query_params.get(PARAMETER, ""))
    beyond = [name for name, value in setting.fields.items() if not isinstance(value, str) and abs(value) > MOST]
    if beyond:
        raise InputError(f"{beyond[0]} must be at most {MOST:,}")
    check_config(dataclasses.replace(reference.config, **setting.fields))
    return normal(setting, reference.config)


def _draw_listed(study: StudyFolder, setting: Setting) -> None:
    """Draw the settings that the study has, to jump to one."""
    arms = {text: arm for arm, text in study.settings.items()}
    if NONE not in arms.values():  # written before settings were kept
        st.caption("This study does not say the settings of its arms yet. Nothing that is done runs again for that.")
        if st.button("Read its settings", key="mitigation-named", icon=":material/refresh:"):
            resume_study(study)
            st.rerun()
        return
    named = {setting.text: "another one" if setting.text else NONE} | arms
    label, key = "Settings of this study", "mitigations-listed"
    choose_listed(label, list(named), parameter=PARAMETER, key=key, width=400, named=lambda text: named.get(text, text))


def _change(key: str, changed: Callable[[Setting, Any], Setting], reference: Reference) -> None:
    """Write the setting with what a control says into the address; its pairs begin at their first page. A callback."""
    try:
        setting = _understood(reference)
    except InputError:
        setting = Setting()
    setting = normal(changed(setting, st.session_state[key]), reference.config)
    write(**{PARAMETER: setting.text or None, PAGE: None})


def _chosen_removal(setting: Setting, said: object) -> Setting:
    by, count = (st.session_state[KEY.format(f"removal-{part}")] for part in ("by", "n"))
    return dataclasses.replace(setting, removal=Removal(by, int(count)))


@dataclasses.dataclass(frozen=True)
class Controls:
    """The controls of a setting, beside what it is a setting of."""

    setting: Setting
    reference: Reference

    def draw_captions(self) -> None:
        """Draw how many captions of a pair are trained on."""
        name, choices = "train_captions", knobs.caption_choices(self.reference)
        if not choices:
            st.caption("Every pair has one caption." if self.reference.captions else "Not known until none has begun.")
            return
        self._draw_toggle(name, "More captions per pair", CAPTIONS, {name: choices[-1]})
        if (value := self.setting.fields.get(name)) is not None:
            options = choices if value in choices else sorted({*choices, value}, key=lambda count: count or math.inf)
            shown: dict[str, Any] = {"options": options, "format_func": lambda count: str(count) if count else "all"}
            self._draw_field(st.select_slider, "Captions per pair", name, value, **shown)

    def draw_fields(self, drawn: Iterable[Knob]) -> None:
        """Draw a toggle for each of these fields, and of those that are on a slider."""
        for knob in drawn:
            value = self.setting.fields.get(knob.name)
            usual = {knob.name: knob.at_first(self.reference.config), **knob.brings}
            self._draw_toggle(knob.name, knob.label, knob.help, usual)
            if value is not None:
                self._draw_slider(knob, value)
                if knob.name in MODIFIERS["noise_place"]:
                    self._draw_noise(knob.name, value)

    def draw_adaptive(self) -> None:
        """Draw what is done to pairs that run ahead, and who is said to."""
        self.draw_fields(knobs.ADAPTIVE)
        if any(knob.name in self.setting.fields for knob in knobs.ADAPTIVE):
            for knob in knobs.AHEAD:
                value = self.setting.fields.get(knob.name, getattr(self.reference.config, knob.name))
                self._draw_slider(knob, value, label_visibility="visible")

    def draw_pairs(self, study: StudyFolder) -> None:
        """Draw which pairs are taken out before training: by a ranking, by their looks, by the person's word."""
        shared, removal = self.reference.shared, self.setting.removal
        first = Removal(c.CLIPMEM, max(1, min(REMOVED, shared // 2 or REMOVED)))  # as in the paper, or half of them
        self._draw(
            st.toggle,
            "Take pairs out",
            "on-removal",
            removal is not None,
            lambda setting, on: dataclasses.replace(setting, removal=first if on else None),
            help=REMOVAL,
        )
        if removal is not None:
            told = f"Of the {shared:,} pairs that both models of a seed train on." if shared else None
            count: dict[str, Any] = {"min_value": 1, "max_value": max(shared, removal.n, 1), "step": 10, "help": told}
            self._draw(st.number_input, "How many", "removal-n", removal.n, _chosen_removal, **count)
            by: dict[str, Any] = {"options": list(RANKED_BY), "format_func": lambda name: RANKED_BY.get(name, name)}
            self._draw(st.selectbox, "Which first", "removal-by", removal.by, _chosen_removal, **by)
        self.draw_switch("lookalikes", "Without look-alikes", LOOKALIKES)
        self._draw_decisions(study)

    def draw_switch(self, name: str, label: str, help_text: str, *, disabled: bool = False) -> None:
        """Draw whether a setting does what is no field of the config."""
        on = getattr(self.setting, name)
        changes: dict[str, Any] = {"help": help_text, "disabled": disabled}
        self._draw(
            st.toggle, label, f"on-{name}", on, lambda old, on: dataclasses.replace(old, **{name: on}), **changes
        )

    def _draw_decisions(self, study: StudyFolder) -> None:
        """Draw whether the person's decisions are followed, how many there are, or what keeps us from knowing."""
        removed = recaptioned = 0
        fault = ""
        try:
            decided = decided_for(study)
            removed, recaptioned = len(decided.removed), len(decided.recaptioned)
        except InputError as error:
            fault = " ".join(str(error).split())
        none = not (removed or recaptioned)
        said = "none yet" if none else f"{removed:,} removed, {recaptioned:,} recaptioned"
        off = none and not self.setting.decisions
        self.draw_switch("decisions", f"My decisions: {said}", DECISIONS, disabled=off)
        if fault:
            show_text(fault, limit=300)

    def _draw_toggle(self, name: str, label: str, help_text: str, first: Mapping[str, Any]) -> None:
        """Draw whether a field is set: as it is at first, with what that brings."""

        def changed(setting: Setting, on: bool) -> Setting:
            others = {other: value for other, value in setting.fields.items() if other != name}
            return dataclasses.replace(setting, fields=others | (dict(first) if on else {}))

        self._draw(st.toggle, label, f"on-{name}", name in self.setting.fields, changed, help=help_text)

    def _draw_slider(self, knob: Knob, value: float, *, label_visibility: str = "collapsed") -> None:
        """Draw a field's value; one that the address has beyond the usual range widens it."""
        kind = type(getattr(self.reference.config, knob.name))
        low, high = kind(min(knob.low, value)), kind(max(knob.high, value))
        shown = {"min_value": low, "max_value": high, "step": kind(knob.step), "label_visibility": label_visibility}
        self._draw_field(st.slider, knob.label, knob.name, kind(value), **shown)

    def _draw_noise(self, name: str, value: float) -> None:
        """Draw how long the noise is, and where it is added: below the first noise, the place of all of them."""
        if dim := self.reference.dim:
            st.caption(f"σ·√dim = {value:g}·√{dim} = {value * math.sqrt(dim):.2f}")
        if name == next(other for other in MODIFIERS["noise_place"] if other in self.setting.fields):
            place = self.setting.fields.get("noise_place", self.reference.config.noise_place)
            shown: dict[str, Any] = {"options": list(PLACES), "format_func": PLACES.__getitem__, "help": PLACE_HELP}
            label = "Before or after normalising"
            self._draw_field(st.segmented_control, label, "noise_place", place, required=True, **shown)

    def _draw_field(self, widget: Callable[..., Any], label: str, name: str, value: Any, **options: Any) -> None:
        """Draw what a field of the config is set to."""

        def changed(setting: Setting, said: Any) -> Setting:
            given = round(said, 6) if isinstance(said, float) else said
            return dataclasses.replace(setting, fields={**setting.fields, name: given})

        self._draw(widget, label, name, value, changed, **options)

    def _draw(
        self,
        widget: Callable[..., Any],
        label: str,
        name: str,
        value: Any,
        changed: Callable[[Setting, Any], Setting],
        **options: Any,
    ) -> None:
        """Draw a widget that shows a value of the address, and writes what it is changed to."""
        key = KEY.format(name)
        st.session_state[key] = value
        widget(label, key=key, on_change=_change, args=(key, changed, self.reference), **options)
