"""Facts about the fields of the config: their bounds, and which mitigations are on."""

import dataclasses

import pytest

from clipmem_core.audit.settings import check_fields
from clipmem_core.config import ARM_FIELDS, FIELDS, AuditConfig, InputError, as_dict, preset_config, switched_on

NUMBERS = [name for name, facts in FIELDS.items() if hasattr(AuditConfig, name) and type(facts.default) in (int, float)]
BEYOND = [
    *((name, FIELDS[name].ge - 1) for name in NUMBERS if FIELDS[name].ge is not None),
    *((name, FIELDS[name].gt) for name in NUMBERS if FIELDS[name].gt is not None),
    *((name, FIELDS[name].le + 0.5) for name in NUMBERS if FIELDS[name].le is not None),
    *((name, FIELDS[name].lt) for name in NUMBERS if FIELDS[name].lt is not None),
    *((name, float("nan")) for name in NUMBERS if type(FIELDS[name].default) is float),
    *((name, "within") for name, facts in FIELDS.items() if facts.choices),
]


def test_a_value_out_of_bounds_is_one_line_with_flag_and_value() -> None:
    check_fields(AuditConfig())
    for name, value in BEYOND:
        with pytest.raises(InputError, match=f"^{FIELDS[name].flag} must be .*, not {value!r}$"):
            check_fields(dataclasses.replace(AuditConfig(), **{name: value}))


def test_a_mitigation_can_be_an_arm() -> None:
    assert {name for name, facts in FIELDS.items() if facts.mitigates or facts.modifies} <= set(ARM_FIELDS)


def test_a_mitigation_is_on_unless_it_has_its_default_and_its_modifiers_only_with_it() -> None:
    for preset in ("tiny", "small", "base"):
        assert switched_on(as_dict(preset_config(preset))) == {}
    assert switched_on({"noise_place": "before", "adaptive_every": 5, "epochs": 9, "stop_epoch": 9}) == {}
    for on in ({"image_noise": 0.1, "noise_place": "before"}, {"adaptive_rest": 1.0, "adaptive_every": 5}):
        assert switched_on(on | {"text_mask": 0.0}) == on
