"""The setting of the address, and a control for each mitigation, which shows it and writes changes
back.

?setting=text_mask=0.3 removal=clipmem:5   the text form of a setting; empty for the baseline.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from clipmem_core.auditing.folder.settings import check_config
from clipmem_core.auditing.folder.store import MEMBERSHIP, PAIRS, Audit, read_captions
from clipmem_core.config import FIELDS, MODIFIERS, AuditConfig, Slider
from clipmem_core.dashboard.page import choose_listed, draw_set, write_address
from clipmem_core.dashboard.plain import explained_errors, in_one_line, show_text
from clipmem_core.lab.mitigated import obstacles
from clipmem_core.lab.setting import (
    DECISIONS,
    MOST_REMOVED,
    NEAR_DUPLICATES,
    RANKINGS,
    REMOVAL,
    Decided,
    Removal,
    Setting,
    parse_setting,
    without_idle,
)
from clipmem_core.mitigations import EARLY_GROUP
from clipmem_core.review.decisions import open_review
from clipmem_core.review.queries import cached
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError

_PAIRS = {  # label and help of the switches that change which pairs train
    DECISIONS: (
        "My decisions",
        "Training leaves out the pairs you decided to remove, and uses the captions you changed.",
    ),
    REMOVAL: ("Remove pairs", "Training leaves out the pairs that rank highest."),
    NEAR_DUPLICATES: (
        "Drop near-duplicates",
        "Training keeps only the first of several near-duplicate pictures.",
    ),
}
# Label and help of every switch, and the switches of each group
_SWITCHES = _PAIRS | {
    name: (field.toggle, f"{field.help[:1].upper()}{field.help[1:]}.")
    for name, field in FIELDS.items()
    if field.toggle
}
GROUPS = {"Pairs": list(_PAIRS)} | {
    group: [name for name, field in FIELDS.items() if field.group == group and field.toggle]
    for group in ("Text", "Pictures", "Captions", "Training", EARLY_GROUP)
}
# Labels of the fields without a switch: each appears once, below the first switch that it modifies
_MODIFIERS = {
    "noise_place": "Before or after normalising",
    "adaptive_quantile": "Above this share of held-out pairs",
    "adaptive_every": "Epochs between two checks",
}


@cached(32, PAIRS, MEMBERSHIP)
def _facts(audit: Audit) -> tuple[dict[str, str], int]:
    """Return why settings cannot act on an audit, and the most captions of a pair."""
    return obstacles(audit), int(read_captions(audit).counts.max())


def draw_setting(audit: Audit, finished: Mapping[str, str]) -> Setting:
    """Draw a control for each mitigation, and return the setting of the address.

    `finished` are the texts of settings that are trained, with their titles.
    """
    controls = Controls(_read_setting(audit.record.config), audit)
    setting = controls.setting
    names = {"": "none", setting.text: setting.title, **finished}
    if len(names) > 1:
        choose_listed("Settings", names, parameter="setting", clears=["page"], draw=st.radio)
    decided = Decided()
    with explained_errors("Decisions cannot be shown.", ends=False):
        decided = open_review(audit).changes()
    reasons = _facts(audit)[0]
    if not decided:
        reasons = reasons | {DECISIONS: "you have not removed or changed any pair yet"}
    off = [name for name in reasons if name in _SWITCHES and name not in setting.overrides]
    for group, switches in GROUPS.items():
        shown = [name for name in switches if name not in off]
        if not shown:
            continue
        with st.container(gap="xsmall"):
            st.markdown(f"**{group}**")
            for name in shown:
                label, about = _SWITCHES[name]
                if name == DECISIONS:
                    removed, changed = len(decided.removed), len(decided.recaptioned)
                    label += f": {removed:,} removed, {changed:,} with changed captions"
                controls.draw_toggle(name, label, about)
                controls.draw_values(name)
    with st.expander(f"Not available for this audit ({len(off)})"):
        for name in off:
            st.caption(f"{_SWITCHES[name][0]}: {reasons[name]}.")
    return replace(setting, decided=decided) if DECISIONS in setting.overrides else setting


def _read_setting(baseline: AuditConfig) -> Setting:
    """Return the setting of the address; without overrides if it is not valid, which is shown."""
    typed = st.query_params.get("setting", "")
    try:
        setting = parse_setting(typed)
        check_config(replace(baseline, **setting.fields))
        setting = without_idle(setting, baseline)
    except InputError as error:
        st.warning("The setting in this address is not valid and is ignored.")
        show_text(in_one_line(error), limit=300)
        return Setting()
    if setting.text != typed:  # the list of settings has one text for each
        write_address(setting=setting.text or None)
    return setting


@dataclass(frozen=True)
class Controls:
    """The controls of a setting, which write its changes into the address."""

    setting: Setting
    audit: Audit

    @property
    def baseline(self) -> AuditConfig:
        return self.audit.record.config

    def draw_toggle(self, name: str, label: str, about: str) -> None:
        """Draw the toggle of a switch."""

        def turn(on: bool) -> None:
            values: dict[str, Any] = {name: on or None}
            if on and name == REMOVAL:
                values = {name: Removal(c.CLIPMEM, 5.0)}
            elif on and name in FIELDS:
                slider = self._slider(name)
                values = {name: slider.usual, **slider.brings}
            self._write(**values)

        value = name in self.setting.overrides
        key = f"mitigation-on-{name}"
        draw_set(st.toggle, label, key=key, value=value, on_choose=turn, help=about)

    def draw_values(self, name: str) -> None:
        """Draw the values of a switch that is on, and the fields that modify it."""
        fields = self.setting.fields
        if name in fields:
            self.draw_field(name, FIELDS[name].toggle, label_visibility="collapsed")
        for modifier, label in _MODIFIERS.items():
            if name == next((each for each in MODIFIERS[modifier] if each in fields), None):
                self.draw_field(modifier, label, help=FIELDS[modifier].help)
        removal = self.setting.removal
        if name == REMOVAL and removal:
            draw_set(
                st.number_input,
                "Percent of the pairs",
                key="mitigation-removal-percent",
                value=removal.percent,
                on_choose=lambda value: self._write(removal=Removal(removal.by, value)),
                min_value=0.5,
                max_value=float(MOST_REMOVED),
                step=0.5,
                format="%g",
            )
            draw_set(
                st.selectbox,
                "Which first",
                list(RANKINGS),
                key="mitigation-removal-by",
                value=removal.by,
                on_choose=lambda by: self._write(removal=Removal(by, removal.percent)),
                format_func=RANKINGS.__getitem__,
            )

    def _slider(self, name: str) -> Slider:
        """Return the range of a field's slider and its first value, which differs from the
        baseline's."""
        slider = FIELDS[name].slider
        baseline = self.baseline
        if name == "train_captions":
            captions = _facts(self.audit)[1]
            slider = Slider(baseline.train_captions, max(2, captions), 1, captions)
        elif slider is None:  # an early stop: at two thirds of the epochs
            epochs = baseline.epochs
            slider = Slider(1, max(2, epochs - 1), 1, max(1, round(epochs * 2 / 3)))
        if slider.usual == getattr(baseline, name):
            slider = replace(slider, usual=min(slider.high, slider.usual + slider.step))
        return slider

    def draw_field(self, name: str, label: str, **style: Any) -> None:
        """Draw a field's value as a choice, or as a slider, which a value beyond its usual range
        widens."""
        field = FIELDS[name]
        draw: Any = st.segmented_control
        value = self.setting.fields.get(name, getattr(self.baseline, name))
        if field.choices:
            style |= {"options": field.choices, "required": True}
        else:
            draw = st.slider
            slider = self._slider(name)
            kind = type(field.default)
            value = kind(value)
            style["min_value"] = min(kind(slider.low), value)
            style["max_value"] = max(kind(slider.high), value)
            style["step"] = kind(slider.step)
        draw_set(
            draw,
            label,
            key=f"mitigation-{name}",
            value=value,
            on_choose=lambda new: self._write(**{name: new if field.choices else round(new, 6)}),
            **style,
        )

    def _write(self, **changed: Any) -> None:
        """Write the setting with some overrides changed, or removed by None, into the address."""
        overrides = {**self.setting.overrides, **changed}
        kept = {name: value for name, value in overrides.items() if value is not None}
        setting = without_idle(Setting(kept), self.baseline)
        write_address(setting=setting.text or None, page=None)
