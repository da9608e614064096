"""Facts about the fields of the config: which mitigations are on."""

from clipmem_core.config import ARM_FIELDS, FIELDS, as_dict, preset_config, switched_on


def test_a_mitigation_can_be_an_arm() -> None:
    assert {name for name, facts in FIELDS.items() if facts.mitigates or facts.modifies} <= set(
        ARM_FIELDS
    )


def test_mitigations_and_their_modifiers_are_on_or_off() -> None:
    for preset in ("tiny", "small", "base"):
        assert switched_on(as_dict(preset_config(preset))) == {}
    assert (
        switched_on({"noise_place": "before", "adaptive_every": 5, "epochs": 9, "stop_epoch": 9})
        == {}
    )
    for on in (
        {"image_noise": 0.1, "noise_place": "before"},
        {"adaptive_rest": 1.0, "adaptive_every": 5},
    ):
        assert switched_on(on | {"text_mask": 0.0}) == on
