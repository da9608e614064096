"""The setting that the address asks for, and a control for everything that can be done against memorization.

?setting=text_mask=0.3 removal=clipmem:100   the text form of an arm; none where the address says nothing.
Controls are set from the address, and write what is changed back into it.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import streamlit as st

from clipmem_core import columns as c
from clipmem_core.audits.settings import check_config
from clipmem_core.config import FIELDS, MODIFIERS, AuditConfig, InputError, Slider, without_meaning
from clipmem_core.dashboard.address import PAGE, choose_listed, write
from clipmem_core.dashboard.mitigations.study_data import RANKED_BY, Reference, reference_of
from clipmem_core.dashboard.plain import show_text
from clipmem_core.dashboard.starting import draw_left_out
from clipmem_core.review.study_decisions import decided_for
from clipmem_core.studies.arguments import resume_study
from clipmem_core.studies.arm import NONE, Arm, Removal, normal, parse_setting
from clipmem_core.studies.store import StudyFolder
from clipmem_core.training.mitigations import AHEAD_GROUP

PARAMETER = "setting"
MOST = 1_000_000  # of any field: more is a slip, and no slider goes there
KEY = "mitigation-{}"  # of a control; that of a toggle has `on-` before the name
REMOVED = 100  # the paper's best number
CAPTIONS, STOP, ALL_CAPTIONS = "train_captions", "stop_epoch", 0
PLACES = {"before": "Before", "after": "After"}
PLACE_HELP = (
    "After: the embedding is a unit vector when noise is added, and is made one again. Before: noise is added to what "
    "comes out of the encoder, whatever its length."
)
FORGETTING = {"omitted": "Left out", "deleted": "Deleted", "random": "At random"}
FORGETTING_HELP = (
    "Left out of every caption that is read; or deleted: read as nothing, as after the command forget. At random: as "
    "many other words of the same caption are left out, to compare with."
)
# Each group's fields, with a label and a help for the toggle.
WORDS = {
    group: {name: own.control for name, own in FIELDS.items() if own.group == group and own.control[0]}
    for group in ("Captions", "Text", "Pictures", AHEAD_GROUP, "Training")
}
# Sliders that say which pairs run ahead, below the toggles of what is done to them; they have no toggle.
AHEAD_SLIDERS = {
    "adaptive_quantile": "Ahead of this share of external pairs",
    "adaptive_every": "Epochs between two looks",
}
FLAGS = {
    "lookalikes": ("Without look-alikes", "Of pictures that look alike, all but the first are left out of training."),
    "decisions": (
        "My decisions: {}",
        "Pairs you decided to remove are left out of training, and those you recaptioned get your captions.",
    ),
    "equal_time": (
        "Equal time",
        "Trains for as many epochs as take as long as none took, not for as many epochs as none.",
    ),
}


def draw_setting(study: StudyFolder) -> Arm:
    """Draw a control for everything that can be done against memorization, and return the setting they say.

    Args:
        study: one that can be shown.

    Raises:
        InputError: a file of the study is broken.
    """
    reference = reference_of(study)
    setting = _read_setting(reference)
    _draw_listed(study, setting)
    controls = Controls(setting, reference)
    with st.container(gap="small", key="mitigation-setting"):
        for title in (*WORDS, "Pairs", "Comparison"):
            with st.container(gap="xsmall", key=f"mitigation-group-{title.split()[0].lower()}"):
                st.markdown(f"**{title}**")
                if title == "Captions":
                    controls.draw_captions()
                elif title == "Pairs":
                    controls.draw_pairs(study)
                elif title == "Comparison":
                    controls.draw_flag("equal_time", disabled=not setting.text)
                else:
                    controls.draw_fields(title)
    return setting


def _read_setting(reference: Reference) -> Arm:
    """Return the setting of the address; one that cannot be understood, or is out of range, is told, and none taken."""
    try:
        setting = _understood(reference)
    except InputError as error:
        st.warning("The setting of this address cannot be used; this is none.", icon=":material/link_off:")
        show_text(" ".join(str(error).split()), limit=300)
        return Arm()
    if st.query_params.get(PARAMETER, "") != setting.text:
        write(**{PARAMETER: setting.text or None})  # a list of settings knows each by its one text
    return setting


def _understood(reference: Reference) -> Arm:
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


def _draw_listed(study: StudyFolder, setting: Arm) -> None:
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


def slider_of(name: str, config: AuditConfig) -> Slider:
    """Return the range of a field's slider and where it stands at first: usual, or one further where none is there."""
    own = FIELDS[name].slider
    if own is None:  # an early stop: at two thirds of the study's epochs
        own = Slider(1, max(2, config.epochs - 1), 1, max(1, round(config.epochs * 2 / 3)))
    further = own.usual == getattr(config, name)
    return dataclasses.replace(own, usual=min(own.high, own.usual + own.step)) if further else own


def caption_choices(reference: Reference) -> list[int]:
    """Return how many captions a pair may be trained on instead; 0 stands for all, and none where there is one."""
    counts = [*range(1, reference.captions + 1), ALL_CAPTIONS] if reference.captions > 1 else []
    return [count for count in counts if count != reference.config.train_captions]


def _change(name: str, reference: Reference) -> None:
    """Write the setting with what a control says into the address; its pairs begin at their first page. A callback."""
    try:
        setting = _understood(reference)
    except InputError:
        setting = Arm()
    setting = normal(_changed(setting, name, st.session_state[KEY.format(name)], reference), reference.config)
    write(**{PARAMETER: setting.text or None, PAGE: None})


def _changed(setting: Arm, control: str, said: Any, reference: Reference) -> Arm:
    """Return a setting with what a control says, by its name."""
    name = control.removeprefix("on-")
    if name in FLAGS:
        return dataclasses.replace(setting, **{name: said})
    if name == "removal":
        first = max(1, min(REMOVED, reference.shared // 2 or REMOVED))  # as in the paper, or half of them
        return dataclasses.replace(setting, removal=Removal(c.CLIPMEM, first) if said else None)
    if name.startswith("removal-"):
        by, count = (st.session_state[KEY.format(f"removal-{part}")] for part in ("by", "n"))
        return dataclasses.replace(setting, removal=Removal(by, int(count)))
    fields = {other: value for other, value in setting.fields.items() if other != name}
    if name == control:
        fields[name] = round(said, 6) if isinstance(said, float) else said
    elif said and name == CAPTIONS:
        fields[name] = caption_choices(reference)[-1]
    elif said:
        slider = slider_of(name, reference.config)
        fields |= {name: slider.usual, **slider.brings}
    return dataclasses.replace(setting, fields=fields)


@dataclasses.dataclass(frozen=True)
class Controls:
    """The controls of a setting, beside what it is a setting of."""

    setting: Arm
    reference: Reference

    def draw_captions(self) -> None:
        """Draw how many captions of a pair are trained on."""
        choices = caption_choices(self.reference)
        if not choices:
            st.caption("Every pair has one caption." if self.reference.captions else "Not known until none has begun.")
            return
        self._draw_toggle(CAPTIONS, *WORDS["Captions"][CAPTIONS])
        if (value := self.setting.fields.get(CAPTIONS)) is not None:
            options = choices if value in choices else sorted({*choices, value}, key=lambda count: count or math.inf)
            shown: dict[str, Any] = {"options": options, "format_func": lambda count: str(count) if count else "all"}
            self._draw(st.select_slider, "Captions per pair", CAPTIONS, value, **shown)

    def draw_fields(self, group: str) -> None:
        """Draw a toggle for each field of a group, and of those that are on a slider."""
        idle = without_meaning(self.reference.config)
        for name, (label, told) in WORDS[group].items():
            if name in idle and name not in self.setting.fields:
                continue
            self._draw_toggle(name, label, told.replace("{epochs}", str(self.reference.config.epochs)))
            if (value := self.setting.fields.get(name)) is not None:
                self._draw_slider(name, label, value)
                if name in MODIFIERS["noise_place"]:
                    self._draw_noise(name, value)
                elif name in MODIFIERS["text_forget_as"]:
                    self._draw_choice("text_forget_as", "How they are forgotten", FORGETTING, FORGETTING_HELP)
        here = {name: side for name, side in idle.items() if name in WORDS[group]}
        draw_left_out(here, called=lambda name: WORDS[group][name][0])
        if group == AHEAD_GROUP and any(name in self.setting.fields for name in WORDS[AHEAD_GROUP]):
            for name, label in AHEAD_SLIDERS.items():
                value = self.setting.fields.get(name, getattr(self.reference.config, name))
                self._draw_slider(name, label, value, label_visibility="visible")

    def draw_pairs(self, study: StudyFolder) -> None:
        """Draw which pairs are taken out before training: by a ranking, by their looks, by the person's word."""
        shared, removal = self.reference.shared, self.setting.removal
        told = "Pairs that both models of a seed would train on are left out of training, those that rank first."
        self._draw(st.toggle, "Take pairs out", "on-removal", removal is not None, help=told)
        if removal is not None:
            of = f"Of the {shared:,} pairs that both models of a seed train on." if shared else None
            count: dict[str, Any] = {"min_value": 1, "max_value": max(shared, removal.n, 1), "step": 10, "help": of}
            self._draw(st.number_input, "How many", "removal-n", removal.n, **count)
            by: dict[str, Any] = {"options": list(RANKED_BY), "format_func": lambda name: RANKED_BY.get(name, name)}
            self._draw(st.selectbox, "Which first", "removal-by", removal.by, **by)
        self.draw_flag("lookalikes")
        removed = recaptioned = 0
        fault = ""
        try:
            decided = decided_for(study)
            removed, recaptioned = len(decided.removed), len(decided.recaptioned)
        except InputError as error:
            fault = " ".join(str(error).split())
        none = not (removed or recaptioned)
        said = "none yet" if none else f"{removed:,} removed, {recaptioned:,} recaptioned"
        self.draw_flag("decisions", said, disabled=none and not self.setting.decisions)
        if fault:
            show_text(fault, limit=300)

    def draw_flag(self, name: str, said: str = "", *, disabled: bool = False) -> None:
        """Draw whether a setting does what is no field of the config, with what is said of it."""
        label, told = FLAGS[name]
        on = getattr(self.setting, name)
        self._draw(st.toggle, label.format(said), f"on-{name}", on, help=told, disabled=disabled)

    def _draw_toggle(self, name: str, label: str, told: str) -> None:
        self._draw(st.toggle, label, f"on-{name}", name in self.setting.fields, help=told)

    def _draw_slider(self, name: str, label: str, value: float, *, label_visibility: str = "collapsed") -> None:
        """Draw a field's value; one that the address has beyond the usual range widens it."""
        own, kind = slider_of(name, self.reference.config), type(getattr(self.reference.config, name))
        ends = {"min_value": kind(min(own.low, value)), "max_value": kind(max(own.high, value))}
        shown = {"step": kind(own.step), "label_visibility": label_visibility}
        self._draw(st.slider, label, name, kind(value), **ends, **shown)

    def _draw_noise(self, name: str, value: float) -> None:
        """Draw how long the noise is, and where it is added: below the first noise, the place of all of them."""
        if dim := self.reference.dim:
            length = f"σ·√dim = {value:g}·√{dim} = {value * math.sqrt(dim):.2f}"
            st.caption(f"{length}: how long the noise is, beside an embedding of length 1.")
        if name == next(other for other in MODIFIERS["noise_place"] if other in self.setting.fields):
            self._draw_choice("noise_place", "Before or after normalising", PLACES, PLACE_HELP)

    def _draw_choice(self, name: str, label: str, words: dict[str, str], told: str) -> None:
        """Draw which of its choices a field has, in words."""
        value = self.setting.fields.get(name, getattr(self.reference.config, name))
        shown: dict[str, Any] = {"options": list(words), "format_func": words.__getitem__, "help": told}
        self._draw(st.segmented_control, label, name, value, required=True, **shown)

    def _draw(self, widget: Callable[..., Any], label: str, name: str, value: Any, **options: Any) -> None:
        """Draw a widget that shows a value of the address, and writes what it is changed to."""
        key = KEY.format(name)
        st.session_state[key] = value
        widget(label, key=key, on_change=_change, args=(name, self.reference), **options)
