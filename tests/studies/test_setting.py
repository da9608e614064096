"""A setting's text and name, and which settings are the same training."""

import dataclasses
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmem_core.audits.store import is_name
from clipmem_core.config import ARM_FIELDS, AuditConfig, InputError, as_dict, preset_config, without_idle
from clipmem_core.studies.arms import Arm
from clipmem_core.studies.mitigations import captions_arms, combined_arms, removal_arms, text_noise_arms
from clipmem_core.studies.rankings import DIRECTIONS, RANDOM, Removal
from clipmem_core.studies.setting import Setting, normal, parse_setting, setting_of

WHOLE = ("train_captions", "text_min_df", "text_forget_df", "stop_epoch", "adaptive_every")
MORE = pd.DataFrame({"captions": [["a", "b", "c"]] * 2000, "group": "shared"})
ONE = pd.DataFrame({"captions": [["a"]] * 2000, "group": "shared"})


def values_of(name: str) -> st.SearchStrategy[Any]:
    if name == "noise_place":
        return st.sampled_from(["before", "after"])
    return st.integers() if name in WHOLE else st.floats(allow_nan=False, allow_infinity=False)


fields = st.fixed_dictionaries({}, optional={name: values_of(name) for name in ARM_FIELDS})
removals = st.builds(Removal, st.sampled_from([*DIRECTIONS, RANDOM]), st.integers(0, 10**9 - 1))
settings = st.builds(Setting, fields, st.none() | removals, st.booleans(), st.booleans(), st.booleans())

# In range, few enough values that equal ones meet.
AS_A_PERSON_SETS = {
    "train_captions": st.integers(0, 2),
    "noise_place": st.sampled_from(["before", "after"]),
    "text_min_df": st.integers(0, 2),
    "text_forget_df": st.integers(0, 2),
    "stop_epoch": st.sampled_from([0, 10, 30]),
    "min_logit_scale": st.sampled_from([1.0, 20.0]),
    "adaptive_every": st.integers(1, 3),
    "max_logit_scale": st.sampled_from([50.0, 100.0]),
    "adaptive_quantile": st.sampled_from([0.5, 0.9]),
    "crop_scale": st.sampled_from([0.2, 0.5]),
    "weight_decay": st.sampled_from([0.1, 0.2]),
}
usual_fields = st.fixed_dictionaries(
    {}, optional={name: AS_A_PERSON_SETS.get(name, st.sampled_from([0.0, 0.1, 0.3])) for name in ARM_FIELDS}
)
configs = st.builds(lambda own: dataclasses.replace(AuditConfig(), **own), usual_fields)


@given(settings)
def test_a_setting_reads_back_from_its_text_in_any_order(setting: Setting) -> None:
    text = setting.text
    assert parse_setting(text) == setting
    assert parse_setting("  ".join(reversed(text.split()))).text == text


@given(settings)
def test_every_setting_can_name_a_folder(setting: Setting) -> None:
    assert is_name(setting.name)
    assert len(setting.name) < 90  # two fingerprints may follow


def test_texts_and_names_are_short_and_their_order_is_fixed() -> None:
    setting = Setting(
        {"max_logit_scale": 20.0, "crop_scale": 0.2, "text_mask": 0.30, "train_captions": 0},
        Removal("clipmem_text", 100),
        decisions=True,
        equal_time=True,
    )
    assert setting.text == (
        "train_captions=0 text_mask=0.3 crop_scale=0.2 max_logit_scale=20 removal=clipmem_text:100 decisions equal_time"
    )
    assert Setting({"text_mask": 0.3}, Removal("clipmem", 100)).name == "text_mask-0.3_removal-clipmem-100"
    assert (Setting().text, Setting().name) == ("", "none")


def test_names_that_are_cut_short_are_told_apart() -> None:
    longest = {name: 0.123456789 for name in ARM_FIELDS if name not in (*WHOLE, "noise_place")}
    first, second = Setting(longest), Setting(longest, lookalikes=True)
    assert first.name != second.name
    assert first.name[:60] == second.name[:60]


WRONG = [
    ("nosuch=1", "a setting does not know 'nosuch': say one of train_captions, text_noise,"),
    ("seed=1", "a setting does not know 'seed'"),
    ("text_mask", "a setting gives text_mask a value, as in text_mask=…"),
    ("text_mask=", "text_mask must be a number, not ''"),
    ("text_mask=much", "text_mask must be a number, not 'much'"),
    ("text_mask=nan", "text_mask must be a number, not 'nan'"),
    ("text_mask=inf", "text_mask must be a number, not 'inf'"),
    ("stop_epoch=1.5", "stop_epoch must be a whole number, not '1.5'"),
    (f"stop_epoch={'9' * 400}", "stop_epoch must be a whole number, not '999"),
    ("noise_place=inside", "noise_place must be one of before, after, not 'inside'"),
    ("lookalikes=yes", "in a setting lookalikes stands alone, without a value"),
    ("removal", "removal must name a ranking and a number of pairs, as in removal=clipmem:100, not ''"),
    ("removal=clipmem", "removal must name a ranking and a number of pairs"),
    ("removal=clipmem:-3", "removal must name a ranking and a number of pairs"),
    ("removal=size:3", "rankings are clipmem, clipmem_text, misfit, similarity_out, similarity_in, random"),
    ("decisions decisions", "a setting says decisions twice: once is enough"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[text[:30] for text, _ in WRONG])
def test_what_cannot_be_understood_is_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_setting(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_setting_has_no_other_fields() -> None:
    with pytest.raises(ValueError, match="fields must be of train_captions, .*, not epochs, seed"):
        Setting({"seed": 1, "epochs": 3})


def trained(config: AuditConfig, setting: Setting) -> dict[str, Any]:
    """What a member's bits depend on."""
    values = without_idle(as_dict(dataclasses.replace(config, **setting.fields)))
    return values if values.get("stop_epoch", 0) else {**values, "stop_epoch": 0}


@given(configs, usual_fields, usual_fields)
def test_settings_have_the_same_normal_text_exactly_if_they_train_the_same(
    config: AuditConfig, one: dict[str, Any], other: dict[str, Any]
) -> None:
    first, second = Setting(one), Setting(other)
    texts = [normal(setting, config).text for setting in (first, second)]
    assert (texts[0] == texts[1]) == (trained(config, first) == trained(config, second))
    assert normal(normal(first, config), config) == normal(first, config)
    assert trained(config, normal(first, config)) == trained(config, first)


def test_what_does_nothing_is_left_out_and_what_turns_off_is_kept() -> None:
    config = dataclasses.replace(AuditConfig(), text_noise=0.1, adaptive_every=5)
    said = {
        "text_noise=0.1": "",
        "text_noise=0": "text_noise=0",
        "text_noise=0 noise_place=before": "text_noise=0",
        "noise_place=before": "noise_place=before",
        "adaptive_every=2": "",
        "adaptive_mask=.5 adaptive_every=2": "adaptive_mask=0.5 adaptive_every=2",
        "stop_epoch=30": "",
        "removal=random:0": "",
        "equal_time": "",
        "lookalikes equal_time": "lookalikes equal_time",
    }
    assert {text: normal(parse_setting(text), config).text for text in said} == said


def texts(arms: list[Arm], config: AuditConfig) -> dict[str, str]:
    found = {arm.name: setting_of(arm, arms[0], config) for arm in arms}
    return {name: setting.text for name, setting in found.items() if setting is not None}


def test_the_arms_of_a_plan_are_told_beside_none() -> None:
    config = preset_config("small")
    assert texts(captions_arms(config, MORE), config) == {
        "none": "",
        "captions-2": "train_captions=2",
        "captions-3": "train_captions=3",
    }
    seven = pd.DataFrame({"captions": [["a"] * 7], "group": "shared"})
    assert texts(captions_arms(config, seven), config)["captions-all"] == "train_captions=0"
    assert texts(text_noise_arms(config, ONE), config)["text-noise-0.15"] == "text_noise=0.15"
    assert texts(removal_arms(config, MORE), config)["similarity_in-50"] == "removal=similarity_in:50"
    combined = texts(combined_arms(config, MORE), config)
    assert combined["early-stop"] == "stop_epoch=20"
    assert combined["adaptive-rest"] == "adaptive_rest=1 adaptive_quantile=0.95"
    assert combined["captions-and-mask"] == "train_captions=0 text_mask=0.15"
    assert len(set(combined.values())) == len(combined_arms(config, MORE))


def test_what_an_arm_does_not_say_is_what_the_studys_config_says() -> None:
    none, all_of_them = Arm("none", {"train_captions": 1}), Arm("all")
    found = setting_of(all_of_them, none, dataclasses.replace(AuditConfig(), train_captions=4))
    assert found == Setting({"train_captions": 4})
    assert setting_of(all_of_them, none) == Setting({"train_captions": 0})


@pytest.mark.parametrize(
    "arm",
    [
        Arm("wide", model={"embed_dim": 4}),
        Arm("fewer", removed=frozenset("a")),
        Arm("others", recaptioned={"a": ("b",)}),
        Arm("slow", {"lr": 0.1}),
    ],
)
def test_an_arm_that_no_setting_can_say_has_none(arm: Arm) -> None:
    assert setting_of(arm, Arm("none")) is None
