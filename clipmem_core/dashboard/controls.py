"""The setting of the address, and a control for everything that can be done against memorization.

?setting=text_mask=0.3 removal=clipmem:100   the text form of an arm; empty for the reference arm.
Controls show the address, and write changes back into it.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import streamlit as st

from clipmem_core import columns as c
from clipmem_core.audits.settings import check_config
from clipmem_core.audits.store import MEMBERSHIP, PAIRS, Audit
from clipmem_core.config import FIELDS, MODIFIERS, AuditConfig, InputError, Slider, without_meaning
from clipmem_core.dashboard.new_audit import draw_left_out
from clipmem_core.dashboard.page import PAGE, choose_listed, write
from clipmem_core.dashboard.plain import show_text
from clipmem_core.mitigations import AHEAD_GROUP
from clipmem_core.review.decisions import decided_for
from clipmem_core.review.tables import Stamp, stamp
from clipmem_core.scores.registry import REMOVAL as RANKS_REMOVAL
from clipmem_core.scores.registry import scores_in
from clipmem_core.studies.arm import (
    DECISIONS,
    LOOKALIKES,
    NONE,
    RANDOM,
    REMOVAL,
    SWITCHES,
    Arm,
    Removal,
    normal,
    parse_setting,
    reference_config,
)
from clipmem_core.studies.store import StudyFolder
from clipmem_core.training.names import model_config

PARAMETER = "setting"
MOST = 1_000_000  # of any field: more is a slip, and no slider goes there
KEY = "mitigation-{}"  # of a control; that of a toggle has `on-` before the name
REMOVAL_BY, REMOVAL_COUNT = "removal-by", "removal-n"
REMOVED = 100  # the paper's best number
CAPTIONS, ALL_CAPTIONS = "train_captions", 0
RANKINGS = {name: score.removal for name, score in scores_in(RANKS_REMOVAL).items()} | {RANDOM: "at random"}
PLACES = {"before": "Before", "after": "After"}
PLACE_HELP = (
    "After: the embedding is a unit vector when noise is added, and is made one again. Before: noise is added to what "
    "comes out of the encoder, whatever its length."
)
FORGETTING = {"omitted": "Left out", "deleted": "Deleted", "random": "At random"}
FORGETTING_HELP = (
    "Left out of every caption that is read; or deleted: read as nothing. At random: as "
    "many other words of the same caption are left out, to compare with."
)
# Each group's fields, with a label and a help for the toggle.
WORDS = {
    group: {name: own.control for name, own in FIELDS.items() if own.group == group and own.control[0]}
    for group in ("Captions", "Text", "Pictures", AHEAD_GROUP, "Training")
}
# Sliders below the toggles of the group AHEAD_GROUP; they have no toggle.
AHEAD_SLIDERS = {
    "adaptive_quantile": "Better aligned than this share of external pairs",
    "adaptive_every": "Epochs between two checks",
}


@dataclasses.dataclass(frozen=True)
class Reference:
    """The reference arm: its config, the most captions of a pair, how many pairs f and g share; both 0 until it
    trains."""

    config: AuditConfig
    captions: int = 0
    shared: int = 0


def reference_of(study: StudyFolder) -> Reference:
    """Return the reference arm of a study of mitigations."""
    audit = study.audit(NONE)
    files = [audit.folder / name for name in (PAIRS, MEMBERSHIP)]
    counts = _counts(audit, tuple(map(stamp, files))) if all(path.is_file() for path in files) else (0, 0)
    return Reference(reference_config(study), *counts)


@functools.lru_cache(maxsize=32)
def _counts(audit: Audit, stamps: tuple[Stamp, ...]) -> tuple[int, int]:
    """Return the most captions of a pair, and the number of shared pairs."""
    pairs, membership = audit.pairs, audit.membership
    if c.CAPTIONS not in pairs or c.GROUP not in membership or pairs.empty:
        raise InputError(f"{audit.folder} lacks captions or groups: delete it and run the study again")
    return int(pairs[c.CAPTIONS].map(len).max()), int((membership[c.GROUP] == c.SHARED).sum())


def draw_setting(study: StudyFolder) -> Arm:
    """Draw a control for everything that can be done against memorization, and return the setting of the address."""
    reference = reference_of(study)
    try:
        setting = _read_address(reference)
        if st.query_params.get(PARAMETER, "") != setting.text:
            write(**{PARAMETER: setting.text or None})  # the list of settings has each with its one text
    except InputError as error:
        st.warning("The setting of this address cannot be used; this is none.", icon=":material/link_off:")
        show_text(" ".join(str(error).split()), limit=300)
        setting = Arm()
    named = {setting.text: "another one" if setting.text else NONE}
    named |= {text: arm for arm, text in study.settings.items()}
    label, key = "Settings of this study", "mitigations-listed"
    choose_listed(label, list(named), parameter=PARAMETER, key=key, width=400, named=lambda text: named.get(text, text))
    controls = Controls(setting, reference)
    with st.container(gap="small", key="mitigation-setting"):
        for title in (*WORDS, "Pairs"):
            with st.container(gap="xsmall", key=f"mitigation-group-{title.split()[0].lower()}"):
                st.markdown(f"**{title}**")
                if title == "Captions":
                    controls.draw_captions()
                elif title == "Pairs":
                    controls.draw_pairs(study)
                else:
                    controls.draw_fields(title)
    return setting


def _read_address(reference: Reference) -> Arm:
    """Return the setting of the address, without overrides that have no effect."""
    setting = parse_setting(st.query_params.get(PARAMETER, ""))
    beyond = [name for name, value in setting.fields.items() if not isinstance(value, str) and abs(value) > MOST]
    if beyond:
        raise InputError(f"{beyond[0]} must be at most {MOST:,}")
    check_config(dataclasses.replace(reference.config, **setting.fields))
    return normal(setting, reference.config)


def _change(control: str, reference: Reference) -> None:
    """Write the setting with the new value of a control into the address; its pairs begin at their first page. A
    callback."""
    try:
        overrides = dict(_read_address(reference).overrides)
    except InputError:
        overrides = {}
    value, name = st.session_state[KEY.format(control)], control.removeprefix("on-")
    if name != control:  # a toggle
        overrides.pop(name, None)
        overrides |= _first_values(name, reference) if value else {}
    elif name in (REMOVAL_BY, REMOVAL_COUNT):
        by, count = (st.session_state[KEY.format(part)] for part in (REMOVAL_BY, REMOVAL_COUNT))
        overrides[REMOVAL] = Removal(by, int(count))
    else:
        overrides[name] = round(value, 6) if isinstance(value, float) else value
    setting = normal(Arm(overrides=overrides), reference.config)
    write(**{PARAMETER: setting.text or None, PAGE: None})


def _first_values(name: str, reference: Reference) -> dict[str, Any]:
    """Return the overrides that a toggle begins with."""
    if name in SWITCHES:
        return {name: True}
    if name == REMOVAL:  # as many as in the paper, or half of the shared pairs
        return {REMOVAL: Removal(c.CLIPMEM, max(1, min(REMOVED, reference.shared // 2 or REMOVED)))}
    if name == CAPTIONS:
        return {CAPTIONS: caption_choices(reference)[-1]}
    slider = slider_of(name, reference.config)
    return {name: slider.usual, **slider.brings}


def slider_of(name: str, config: AuditConfig) -> Slider:
    """Return the range of a field's slider and its first value: the usual one, or one step further if the reference
    arm has that."""
    own = FIELDS[name].slider
    if own is None:  # an early stop: at two thirds of the study's epochs
        own = Slider(1, max(2, config.epochs - 1), 1, max(1, round(config.epochs * 2 / 3)))
    further = own.usual == getattr(config, name)
    return dataclasses.replace(own, usual=min(own.high, own.usual + own.step)) if further else own


def caption_choices(reference: Reference) -> list[int]:
    """Return how many captions a pair may be trained on instead; 0 stands for all, and none if there is one."""
    counts = [*range(1, reference.captions + 1), ALL_CAPTIONS] if reference.captions > 1 else []
    return [count for count in counts if count != reference.config.train_captions]


@dataclasses.dataclass(frozen=True)
class Controls:
    """The controls of a setting."""

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
        """Draw a toggle for each field of a group, with a slider if it is on."""
        idle, fields = without_meaning(self.reference.config), self.setting.fields
        for name, (label, told) in WORDS[group].items():
            if name in idle and name not in fields:
                continue
            self._draw_toggle(name, label, told.replace("{epochs}", str(self.reference.config.epochs)))
            if name in fields:
                self._draw_slider(name, label)
                if name in MODIFIERS["noise_place"]:
                    self._draw_noise(name)
                elif name in MODIFIERS["text_forget_as"]:
                    self._draw_choice("text_forget_as", "How they are forgotten", FORGETTING, FORGETTING_HELP)
        here = {name: side for name, side in idle.items() if name in WORDS[group]}
        draw_left_out(here, called=lambda name: WORDS[group][name][0])
        if group == AHEAD_GROUP and any(name in fields for name in WORDS[AHEAD_GROUP]):
            for name, label in AHEAD_SLIDERS.items():
                self._draw_slider(name, label, label_visibility="visible")

    def draw_pairs(self, study: StudyFolder) -> None:
        """Draw which pairs are removed before training: by a ranking, as near-duplicates, by decisions."""
        shared, removal = self.reference.shared, self.setting.removal
        self._draw_toggle(REMOVAL, "Remove pairs", "Shared pairs that rank first are left out of training.")
        if removal is not None:
            of = f"Of the {shared:,} pairs that both models of a seed train on." if shared else None
            count: dict[str, Any] = {"min_value": 1, "max_value": max(shared, removal.n, 1), "step": 10, "help": of}
            self._draw(st.number_input, "How many", REMOVAL_COUNT, removal.n, **count)
            by: dict[str, Any] = {"options": list(RANKINGS), "format_func": lambda name: RANKINGS.get(name, name)}
            self._draw(st.selectbox, "Which first", REMOVAL_BY, removal.by, **by)
        told = "Training keeps only the first of several near-duplicate pictures."
        self._draw_toggle(LOOKALIKES, "Without near-duplicates", told)
        removed = recaptioned = 0
        fault = ""
        try:
            decided = decided_for(study)
            removed, recaptioned = len(decided.removed), len(decided.recaptioned)
        except InputError as error:
            fault = " ".join(str(error).split())
        counts = f"{removed:,} removed, {recaptioned:,} with changed captions" if removed or recaptioned else "none yet"
        self._draw_toggle(
            DECISIONS,
            f"My decisions: {counts}",
            "Pairs you decided to remove are left out of training, and changed captions replace the old ones.",
            disabled=not (removed or recaptioned or DECISIONS in self.setting.overrides),
        )
        if fault:
            show_text(fault, limit=300)

    def _draw_toggle(self, name: str, label: str, told: str, *, disabled: bool = False) -> None:
        self._draw(st.toggle, label, f"on-{name}", name in self.setting.overrides, help=told, disabled=disabled)

    def _value(self, name: str) -> Any:
        return self.setting.fields.get(name, getattr(self.reference.config, name))

    def _draw_slider(self, name: str, label: str, *, label_visibility: str = "collapsed") -> None:
        """Draw a field's value; one that is beyond the usual range widens the slider."""
        own, value = slider_of(name, self.reference.config), self._value(name)
        kind = type(getattr(self.reference.config, name))
        ends = {"min_value": kind(min(own.low, value)), "max_value": kind(max(own.high, value))}
        shown = {"step": kind(own.step), "label_visibility": label_visibility}
        self._draw(st.slider, label, name, kind(value), **ends, **shown)

    def _draw_noise(self, name: str) -> None:
        """Draw how long the noise is and, below the first noise, where it is added."""
        value, dim = self._value(name), _embedding_size(self.reference.config)
        if dim:
            length = f"σ·√dim = {value:g}·√{dim} = {value * math.sqrt(dim):.2f}"
            st.caption(f"{length}: how long the noise is, beside an embedding of length 1.")
        if name == next(other for other in MODIFIERS["noise_place"] if other in self.setting.fields):
            self._draw_choice("noise_place", "Before or after normalising", PLACES, PLACE_HELP)

    def _draw_choice(self, name: str, label: str, words: dict[str, str], told: str) -> None:
        """Draw which of its choices a field has."""
        shown: dict[str, Any] = {"options": list(words), "format_func": words.__getitem__, "help": told}
        self._draw(st.segmented_control, label, name, self._value(name), required=True, **shown)

    def _draw(self, widget: Callable[..., Any], label: str, control: str, value: Any, **options: Any) -> None:
        """Draw a widget that shows a value of the address, and writes what it is changed to."""
        key = KEY.format(control)
        st.session_state[key] = value
        widget(label, key=key, on_change=_change, args=(control, self.reference), **options)


def _embedding_size(config: AuditConfig) -> int:
    """Return the numbers in an embedding; 0 if the model's config lacks it."""
    try:
        return int(model_config(config.model)["embed_dim"])
    except (InputError, KeyError, TypeError, ValueError):
        return 0
