"""The setting of the address, and a control for each mitigation, which shows it and writes changes
back.

?setting=text_mask=0.3 removal=clipmem:5   the text form of an arm; empty for the baseline.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from clipmem_core import columns as c
from clipmem_core.audit.settings import check_config
from clipmem_core.audit.store import MEMBERSHIP, PAIRS, Audit, caption_counts
from clipmem_core.config import FIELDS, MODIFIERS, AuditConfig, Slider
from clipmem_core.dashboard.page import PAGE, choose_listed, write
from clipmem_core.dashboard.plain import one_line, one_line_errors, show_text
from clipmem_core.io import InputError
from clipmem_core.mitigations import AHEAD_GROUP
from clipmem_core.review.decisions import decided_for
from clipmem_core.review.queries import cached
from clipmem_core.studies import arm as arms
from clipmem_core.studies.arm import (
    RANKINGS,
    REMOVAL,
    Arm,
    Decided,
    Removal,
    parse_arm,
    without_idle,
)
from clipmem_core.studies.lab import obstacles

PARAMETER = "setting"
_LARGEST = 1_000_000  # value of any field; no slider goes further
_KEY = "mitigation-{}"  # of a control; `on-` precedes the name of a toggle
REMOVAL_BY = "removal-by"
REMOVAL_PERCENT = "removal-percent"
_REMOVED = 5.0  # percent
_CAPTIONS = "train_captions"
_ALL_CAPTIONS = 0
_PLACE = "noise_place"
PLACE_HELP = (
    "After: noise on the unit vector, which is normalised again. Before: noise on the "
    "output, whatever its length."
)
# Each group's fields, with a label and a help for the toggle.
WORDS = {
    group: {
        name: (field.toggle, f"{field.help[:1].upper()}{field.help[1:]}.")
        for name, field in FIELDS.items()
        if field.group == group and field.toggle
    }
    for group in ("Text", "Pictures", "Captions", "Training", AHEAD_GROUP)
}
# Sliders without a toggle below those of the group AHEAD_GROUP; the share is of held-out pairs
AHEAD_SLIDERS = {
    "adaptive_quantile": "Above this share of held-out pairs",
    "adaptive_every": "Epochs between two checks",
}


@cached(32, PAIRS, MEMBERSHIP)
def _facts(audit: Audit) -> tuple[dict[str, str], int]:
    """Return why settings cannot act on an audit, and the most captions of a pair."""
    return obstacles(audit), int(caption_counts(audit).max())


def draw_setting(audit: Audit, finished: Mapping[str, str]) -> Arm:
    """Draw a control for each mitigation, and return the setting of the address.

    `finished` are the texts of arms that are trained, with their titles.
    """
    config = audit.record.config
    try:
        setting = parse_arm(st.query_params.get(PARAMETER, ""))
        for name, value in setting.fields.items():
            if not isinstance(value, str) and abs(value) > _LARGEST:
                raise InputError(f"{name} must be at most {_LARGEST:,}")
        check_config(dataclasses.replace(config, **setting.fields))
        setting = without_idle(setting, config)
        if st.query_params.get(PARAMETER, "") != setting.text:
            write(**{PARAMETER: setting.text or None})  # the list of settings has one text for each
    except InputError as error:
        st.warning(
            "The setting of this address is not valid and is ignored.", icon=":material/link_off:"
        )
        show_text(one_line(error), limit=300)
        setting = Arm()
    names = {"": "none", setting.text: setting.title, **finished}
    if len(names) > 1:
        key = "mitigations-listed"
        choose_listed(
            "Settings",
            list(names),
            parameter=PARAMETER,
            key=key,
            clears=[PAGE],
            format_func=lambda text: names.get(text, text),
        )
    decided = Decided()
    with one_line_errors("Decisions"):
        decided = decided_for(audit)
    controls = Controls(setting, config, decided, *_facts(audit))
    with st.container(key="mitigation-setting"):
        for title in (*WORDS, "Pairs"):
            with st.container(gap="xsmall", key=f"mitigation-group-{title.split()[0].lower()}"):
                st.markdown(f"**{title}**")
                controls.draw_group(title)
    return (
        dataclasses.replace(setting, decided=decided)
        if setting.overrides.get(arms.DECISIONS)
        else setting
    )


@dataclasses.dataclass(frozen=True)
class Controls:
    """The controls of a setting."""

    setting: Arm
    baseline: AuditConfig
    decided: Decided
    blocked: Mapping[str, str]  # why settings cannot act
    captions: int  # most captions of a pair

    def draw_group(self, group: str) -> None:
        """Draw the toggles of a group, with a slider for each that is on; name those that cannot
        act."""
        if group == "Pairs":
            names = self._draw_pairs()
        else:
            self._draw_fields(group)
            names = {name: label for name, (label, _) in WORDS[group].items()}
        reasons: dict[str, list[str]] = {}
        for name in names.keys() & self.blocked.keys():
            reasons.setdefault(self.blocked[name], []).append(names[name])
        for reason, labels in reasons.items():
            st.caption(f"{', '.join(sorted(labels))}: {reason}.")

    def _draw_fields(self, group: str) -> None:
        fields = self.setting.fields
        # Where noise is added appears once, below the first field that it has an effect on.
        noise = next((each for each in MODIFIERS[_PLACE] if each in fields), "")
        for name, (label, text) in WORDS[group].items():
            self._draw_toggle(name, label, text)
            if name in fields:
                if name == _CAPTIONS:
                    self._draw_captions()
                else:
                    self._draw_slider(name, label)
                if name == noise:
                    shown = {
                        "options": FIELDS[_PLACE].choices,
                        "format_func": str.capitalize,
                        "required": True,
                    }
                    label = "Before or after normalising"
                    self._draw(
                        st.segmented_control,
                        label,
                        _PLACE,
                        self._value(_PLACE),
                        help=PLACE_HELP,
                        **shown,
                    )
        if group == AHEAD_GROUP and any(name in fields for name in WORDS[AHEAD_GROUP]):
            for name, label in AHEAD_SLIDERS.items():
                self._draw_slider(name, label, label_visibility="visible")

    def _draw_captions(self) -> None:
        value = self.setting.fields[_CAPTIONS]
        choices = self._caption_choices()
        options = (
            choices
            if value in choices
            else sorted({*choices, value}, key=lambda count: count or math.inf)
        )
        shown: dict[str, Any] = {
            "options": options,
            "format_func": lambda count: str(count) if count else "all",
        }
        self._draw(st.select_slider, "Captions per pair", _CAPTIONS, value, **shown)

    def _caption_choices(self) -> list[int]:
        """Return the counts of captions that differ from the baseline; 0 stands for all."""
        usual = self.baseline.train_captions
        alike = {
            usual,
            *((_ALL_CAPTIONS, self.captions) if usual in (_ALL_CAPTIONS, self.captions) else ()),
        }
        return [
            count for count in (*range(1, self.captions + 1), _ALL_CAPTIONS) if count not in alike
        ]

    def _draw_pairs(self) -> dict[str, str]:
        """Draw which pairs are removed before training: by a ranking, as near-duplicates, by
        decisions."""
        removal = self.setting.removal
        labels = {REMOVAL: "Remove pairs", arms.NEAR_DUPLICATES: "Drop near-duplicates"}
        self._draw_toggle(
            REMOVAL, labels[REMOVAL], "Training leaves out the pairs that rank highest."
        )
        if removal is not None:
            ends: dict[str, Any] = {
                "min_value": 0.5,
                "max_value": float(arms.MOST_REMOVED),
                "step": 0.5,
            }
            self._draw(
                st.number_input,
                "Percent of the pairs",
                REMOVAL_PERCENT,
                removal.percent,
                format="%g",
                **ends,
            )
            by: dict[str, Any] = {
                "options": list(RANKINGS),
                "format_func": lambda name: RANKINGS.get(name, name),
            }
            self._draw(st.selectbox, "Which first", REMOVAL_BY, removal.by, **by)
        text = "Training keeps only the first of several near-duplicate pictures."
        self._draw_toggle(arms.NEAR_DUPLICATES, labels[arms.NEAR_DUPLICATES], text)
        removed = len(self.decided.removed)
        recaptioned = len(self.decided.recaptioned)
        counts = (
            f"{removed:,} removed, {recaptioned:,} with changed captions"
            if self.decided
            else "none yet"
        )
        self._draw_toggle(
            arms.DECISIONS,
            f"My decisions: {counts}",
            "Training leaves out the pairs you decided to remove, and uses the captions you "
            "changed.",
            blocked=not (self.decided or arms.DECISIONS in self.setting.overrides),
        )
        return labels

    def _value(self, name: str) -> Any:
        return self.setting.fields.get(name, getattr(self.baseline, name))

    def _slider(self, name: str) -> Slider:
        """Return the range of a field's slider and its first value, which differs from the
        baseline's."""
        slider = FIELDS[name].slider
        if slider is None:  # an early stop: at two thirds of the epochs
            epochs = self.baseline.epochs
            slider = Slider(1, max(2, epochs - 1), 1, max(1, round(epochs * 2 / 3)))
        if slider.usual == getattr(self.baseline, name):
            slider = dataclasses.replace(slider, usual=min(slider.high, slider.usual + slider.step))
        return slider

    def _draw_slider(self, name: str, label: str, *, label_visibility: str = "collapsed") -> None:
        """Draw a field's value; a value beyond the usual range widens the slider."""
        slider = self._slider(name)
        value = self._value(name)
        kind = type(getattr(self.baseline, name))
        ends = {
            "min_value": kind(min(slider.low, value)),
            "max_value": kind(max(slider.high, value)),
        }
        shown = {"step": kind(slider.step), "label_visibility": label_visibility}
        self._draw(st.slider, label, name, kind(value), **ends, **shown)

    def _draw_toggle(self, name: str, label: str, text: str, *, blocked: bool = False) -> None:
        on = name in self.setting.overrides
        disabled = blocked or (name in self.blocked and not on)
        self._draw(st.toggle, label, f"on-{name}", on, help=text, disabled=disabled)

    def _draw(
        self, widget: Callable[..., Any], label: str, control: str, value: Any, **options: Any
    ) -> None:
        """Draw a widget that shows a value of the address, and writes its change into the
        address."""
        key = _KEY.format(control)
        st.session_state[key] = value
        widget(label, key=key, on_change=self._change, args=(control,), **options)

    def _change(self, control: str) -> None:
        """Write the setting with the new value of a control into the address. A callback."""
        overrides = dict(self.setting.overrides)
        value = st.session_state[_KEY.format(control)]
        name = control.removeprefix("on-")
        if name != control:  # a toggle
            overrides.pop(name, None)
            overrides |= self._first_values(name) if value else {}
        elif name in (REMOVAL_BY, REMOVAL_PERCENT):
            by, percent = (
                st.session_state[_KEY.format(part)] for part in (REMOVAL_BY, REMOVAL_PERCENT)
            )
            overrides[REMOVAL] = Removal(by, round(float(percent), 3))
        else:
            overrides[name] = round(value, 6) if isinstance(value, float) else value
        write(**{PARAMETER: without_idle(Arm(overrides), self.baseline).text or None, PAGE: None})

    def _first_values(self, name: str) -> dict[str, Any]:
        """Return the overrides of a toggle that is switched on."""
        if name in arms.SWITCHES:
            return {name: True}
        if name == REMOVAL:
            return {REMOVAL: Removal(c.CLIPMEM, _REMOVED)}
        if name == _CAPTIONS:
            return {_CAPTIONS: self._caption_choices()[-1 if self.baseline.train_captions else 0]}
        slider = self._slider(name)
        return {name: slider.usual, **slider.brings}
