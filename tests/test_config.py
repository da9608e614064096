"""What a field of the config says about itself: its bounds, what depends on it, and which mitigations are on."""

import dataclasses

import pytest

from clipmem_core.audits.settings import check_fields
from clipmem_core.config import (
    ARM_FIELDS,
    FIELDS,
    AuditConfig,
    InputError,
    as_dict,
    preset_config,
    switched_on,
)

NAN, INFINITE = float("nan"), float("inf")
NUMBERS = [name for name, own in FIELDS.items() if hasattr(AuditConfig, name) and type(own.default) in (int, float)]
BEYOND = [
    *((name, FIELDS[name].ge - 1) for name in NUMBERS if FIELDS[name].ge is not None),
    *((name, FIELDS[name].gt) for name in NUMBERS if FIELDS[name].gt is not None),
    *((name, FIELDS[name].le + 0.5) for name in NUMBERS if FIELDS[name].le is not None),
    *((name, FIELDS[name].lt) for name in NUMBERS if FIELDS[name].lt is not None),
    *((name, value) for name in NUMBERS if type(FIELDS[name].default) is float for value in (NAN, INFINITE)),
    *((name, "within") for name, own in FIELDS.items() if own.choices),
]


@pytest.mark.parametrize(("name", "value"), BEYOND, ids=[f"{name} {value}" for name, value in BEYOND])
def test_a_value_out_of_bounds_is_one_line_with_flag_wanted_and_given(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"^{FIELDS[name].flag} must be .*, not {value!r}$") as error:
        check_fields(dataclasses.replace(AuditConfig(), **{name: value}))
    assert "\n" not in str(error.value)
    assert FIELDS[name].wanted in str(error.value)


def test_every_number_has_a_least_value_and_every_default_is_in_its_bounds() -> None:
    assert all(FIELDS[name].ge is not None or FIELDS[name].gt is not None for name in NUMBERS)
    check_fields(AuditConfig())


def test_a_mitigation_can_be_an_arm_and_what_is_in_a_table_has_its_own_place() -> None:
    assert {name for name, own in FIELDS.items() if own.mitigates or own.modifies} <= set(ARM_FIELDS)
    for places in ([own.embeds for own in FIELDS.values()], [own.main for own in FIELDS.values()]):
        taken = sorted(place for place in places if place)
        assert taken == list(range(1, len(taken) + 1))


@pytest.mark.parametrize("preset", ["tiny", "small", "base"])
def test_no_preset_has_a_mitigation_on(preset: str) -> None:
    assert switched_on(as_dict(preset_config(preset))) == {}


def test_what_gives_another_field_a_meaning_is_on_only_with_it() -> None:
    assert switched_on({"noise_place": "before", "adaptive_every": 5}) == {}
    assert switched_on({"image_noise": 0.1, "noise_place": "before"}) == {"image_noise": 0.1, "noise_place": "before"}
    assert switched_on({"adaptive_rest": 1.0, "adaptive_every": 5}) == {"adaptive_rest": 1.0, "adaptive_every": 5}
