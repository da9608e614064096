"""The setting of the address, and a control for each mitigation, which shows it and writes changes back.

?setting=text_mask=0.3 removal=clipmem:100   the text form of an arm; empty for the reference arm.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import streamlit as st

from clipmem_core import columns as c
from clipmem_core.audit.settings import check_config
from clipmem_core.audit.store import MEMBERSHIP, PAIRS, Audit
from clipmem_core.config import FIELDS, MODIFIERS, AuditConfig, InputError, Slider, ineffective_fields
from clipmem_core.dashboard.new_audit import draw_left_out
from clipmem_core.dashboard.page import PAGE, choose_listed, write
from clipmem_core.dashboard.plain import one_line, one_line_errors, show_text
from clipmem_core.mitigations import AHEAD_GROUP
from clipmem_core.review.decisions import decided_for
from clipmem_core.review.queries import cached
from clipmem_core.scores.registry import REMOVAL as RANKS_REMOVAL
from clipmem_core.scores.registry import scores_in
from clipmem_core.studies import arm
from clipmem_core.studies.arm import NONE, RANDOM, REMOVAL, Arm, Removal, normal, parse_setting, reference_config
from clipmem_core.studies.study_folder import StudyFolder

PARAMETER = "setting"
LARGEST = 1_000_000  # value of any field; no slider goes further
KEY = "mitigation-{}"  # of a control; `on-` precedes the name of a toggle
REMOVAL_BY, REMOVAL_COUNT = "removal-by", "removal-n"
REMOVED = 100  # the paper's best number
CAPTIONS, ALL_CAPTIONS = "train_captions", 0
RANKINGS = {name: score.removal for name, score in scores_in(RANKS_REMOVAL).items()} | {RANDOM: "at random"}
PLACE = "noise_place"
PLACE_HELP = (
    "After: noise on the unit vector, which is normalised again. Before: noise on the output, whatever its length."
)
# Each group's fields, with a label and a help for the toggle.
WORDS = {
    group: {
        name: (field.toggle, f"{field.help[:1].upper()}{field.help[1:]}.")
        for name, field in FIELDS.items()
        if field.group == group and field.toggle
    }
    for group in ("Captions", "Text", "Pictures", AHEAD_GROUP, "Training")
}
# Sliders without a toggle below those of the group AHEAD_GROUP; the share is of external pairs
AHEAD_SLIDERS = {
    "adaptive_quantile": "Above this share of external pairs",
    "adaptive_every": "Epochs between two checks",
}


@cached(32, PAIRS, MEMBERSHIP)
def _counts(audit: Audit) -> tuple[int, int]:
    """Return the most captions of a pair, and the number of shared pairs."""
    return int(audit.pairs[c.CAPTIONS].map(len).max()), int((audit.membership[c.GROUP] == c.SHARED).sum())


def draw_setting(study: StudyFolder) -> Arm:
    """Draw a control for each mitigation, and return the setting of the address."""
    reference, audit = reference_config(study), study.audit(NONE)
    try:
        setting = parse_setting(st.query_params.get(PARAMETER, ""))
        for name, value in setting.fields.items():
            if not isinstance(value, str) and abs(value) > LARGEST:
                raise InputError(f"{name} must be at most {LARGEST:,}")
        check_config(dataclasses.replace(reference, **setting.fields))
        setting = normal(setting, reference)  # without overrides that have no effect
        if st.query_params.get(PARAMETER, "") != setting.text:
            write(**{PARAMETER: setting.text or None})  # the list of settings has one text for each
    except InputError as error:
        st.warning("The setting of this address is not valid and is ignored.", icon=":material/link_off:")
        show_text(one_line(error), limit=300)
        setting = Arm()
    names = {setting.text: "new setting" if setting.text else NONE}
    names |= {text: name for name, text in study.settings.items()}
    choose_listed(
        "Settings of this study",
        list(names),
        parameter=PARAMETER,
        key="mitigations-listed",
        width=400,
        format_func=lambda text: names.get(text, text),
    )
    begun = all((audit.folder / name).is_file() for name in (PAIRS, MEMBERSHIP))
    controls = Controls(setting, reference, *(_counts(audit) if begun else (0, 0)))
    with st.container(key="mitigation-setting"):
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


@dataclasses.dataclass(frozen=True)
class Controls:
    """The controls of a setting, and the reference arm: its config and, once it trains, its pairs."""

    setting: Arm
    reference: AuditConfig
    captions: int = 0  # most captions of a pair
    shared: int = 0  # pairs that f and g share

    def draw_captions(self) -> None:
        """Draw how many captions of a pair are trained on."""
        choices = self._caption_choices()
        if not choices:
            text = "Every pair has one caption." if self.captions else "Available once the reference arm has started."
            st.caption(text)
            return
        self._draw_toggle(CAPTIONS, *WORDS["Captions"][CAPTIONS])
        if (value := self.setting.fields.get(CAPTIONS)) is not None:
            options = choices if value in choices else sorted({*choices, value}, key=lambda count: count or math.inf)
            shown: dict[str, Any] = {"options": options, "format_func": lambda count: str(count) if count else "all"}
            self._draw(st.select_slider, "Captions per pair", CAPTIONS, value, **shown)

    def _caption_choices(self) -> list[int]:
        """Return the counts of captions that differ from the reference arm; 0 stands for all."""
        counts = [*range(1, self.captions + 1), ALL_CAPTIONS] if self.captions > 1 else []
        return [count for count in counts if count != self.reference.train_captions]

    def draw_fields(self, group: str) -> None:
        """Draw a toggle for each field of a group, with a slider if it is on."""
        idle, fields = ineffective_fields(self.reference), self.setting.fields
        # Where noise is added appears once, below the first field that it has an effect on.
        noise = next((each for each in MODIFIERS[PLACE] if each in fields), "")
        for name, (label, text) in WORDS[group].items():
            if name in idle and name not in fields:
                continue
            self._draw_toggle(name, label, text)
            if name in fields:
                self._draw_slider(name, label)
                if name == noise:
                    shown = {"options": FIELDS[PLACE].choices, "format_func": str.capitalize, "required": True}
                    label = "Before or after normalising"
                    self._draw(st.segmented_control, label, PLACE, self._value(PLACE), help=PLACE_HELP, **shown)
        unavailable = {name: side for name, side in idle.items() if name in WORDS[group]}
        draw_left_out(unavailable, called=lambda name: WORDS[group][name][0])
        if group == AHEAD_GROUP and any(name in fields for name in WORDS[AHEAD_GROUP]):
            for name, label in AHEAD_SLIDERS.items():
                self._draw_slider(name, label, label_visibility="visible")

    def draw_pairs(self, study: StudyFolder) -> None:
        """Draw which pairs are removed before training: by a ranking, as near-duplicates, by decisions."""
        shared, removal = self.shared, self.setting.removal
        self._draw_toggle(REMOVAL, "Remove pairs", "Shared pairs that rank first are left out of training.")
        if removal is not None:
            help_text = f"Of the {shared:,} pairs that both models of a seed train on." if shared else None
            count: dict[str, Any] = {"min_value": 1, "max_value": max(shared, removal.n, 1), "step": 10}
            self._draw(st.number_input, "How many", REMOVAL_COUNT, removal.n, help=help_text, **count)
            by: dict[str, Any] = {"options": list(RANKINGS), "format_func": lambda name: RANKINGS.get(name, name)}
            self._draw(st.selectbox, "Which first", REMOVAL_BY, removal.by, **by)
        text = "Training keeps only the first of several near-duplicate pictures."
        self._draw_toggle(arm.NEAR_DUPLICATES, "Drop near-duplicates", text)
        removed = recaptioned = 0
        with one_line_errors("Decisions"):
            decided = decided_for(study)
            removed, recaptioned = len(decided.removed), len(decided.recaptioned)
        counts = f"{removed:,} removed, {recaptioned:,} with changed captions" if removed or recaptioned else "none yet"
        self._draw_toggle(
            arm.DECISIONS,
            f"My decisions: {counts}",
            "Pairs you decided to remove are left out of training, and changed captions replace the old ones.",
            disabled=not (removed or recaptioned or arm.DECISIONS in self.setting.overrides),
        )

    def _value(self, name: str) -> Any:
        return self.setting.fields.get(name, getattr(self.reference, name))

    def _slider(self, name: str) -> Slider:
        """Return the range of a field's slider and its first value, which differs from the reference arm's."""
        slider = FIELDS[name].slider
        if slider is None:  # an early stop: at two thirds of the study's epochs
            epochs = self.reference.epochs
            slider = Slider(1, max(2, epochs - 1), 1, max(1, round(epochs * 2 / 3)))
        if slider.usual == getattr(self.reference, name):
            slider = dataclasses.replace(slider, usual=min(slider.high, slider.usual + slider.step))
        return slider

    def _draw_slider(self, name: str, label: str, *, label_visibility: str = "collapsed") -> None:
        """Draw a field's value; a value beyond the usual range widens the slider."""
        slider, value = self._slider(name), self._value(name)
        kind = type(getattr(self.reference, name))
        ends = {"min_value": kind(min(slider.low, value)), "max_value": kind(max(slider.high, value))}
        shown = {"step": kind(slider.step), "label_visibility": label_visibility}
        self._draw(st.slider, label, name, kind(value), **ends, **shown)

    def _draw_toggle(self, name: str, label: str, text: str, *, disabled: bool = False) -> None:
        self._draw(st.toggle, label, f"on-{name}", name in self.setting.overrides, help=text, disabled=disabled)

    def _draw(self, widget: Callable[..., Any], label: str, control: str, value: Any, **options: Any) -> None:
        """Draw a widget that shows a value of the address, and writes its change into the address."""
        key = KEY.format(control)
        st.session_state[key] = value
        widget(label, key=key, on_change=self._change, args=(control,), **options)

    def _change(self, control: str) -> None:
        """Write the setting with the new value of a control into the address. A callback."""
        overrides = dict(self.setting.overrides)
        value, name = st.session_state[KEY.format(control)], control.removeprefix("on-")
        if name != control:  # a toggle
            overrides.pop(name, None)
            overrides |= self._first_values(name) if value else {}
        elif name in (REMOVAL_BY, REMOVAL_COUNT):
            by, count = (st.session_state[KEY.format(part)] for part in (REMOVAL_BY, REMOVAL_COUNT))
            overrides[REMOVAL] = Removal(by, int(count))
        else:
            overrides[name] = round(value, 6) if isinstance(value, float) else value
        setting = normal(Arm(overrides=overrides), self.reference)
        write(**{PARAMETER: setting.text or None, PAGE: None})

    def _first_values(self, name: str) -> dict[str, Any]:
        """Return the overrides of a toggle that is switched on."""
        if name in arm.SWITCHES:
            return {name: True}
        if name == REMOVAL:  # as many as in the paper, or half of the shared pairs
            return {REMOVAL: Removal(c.CLIPMEM, max(1, min(REMOVED, self.shared // 2 or REMOVED)))}
        if name == CAPTIONS:
            return {CAPTIONS: self._caption_choices()[-1]}
        slider = self._slider(name)
        return {name: slider.usual, **slider.brings}
