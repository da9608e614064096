"""An arm's text and name, which arms are the same training, and the pairs that one changes."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.audits.prepare import draw_membership
from clipmem_core.audits.store import is_name
from clipmem_core.config import ARM_FIELDS, FIELDS, AuditConfig, InputError, as_dict, switched_on
from clipmem_core.studies.arm import (
    DIRECTIONS,
    RANKED_BY,
    Arm,
    Decided,
    Removal,
    Split,
    first_split,
    normal,
    parse_setting,
    reference_config,
    removed_by,
    text_of,
)
from clipmem_core.studies.plan import add_own
from clipmem_core.studies.store import StudyFolder
from tests.studies.made_context import SIZE, TWINS, make_study

WHOLE = [name for name in ARM_FIELDS if isinstance(FIELDS[name].default, int)]


def values_of(name: str) -> st.SearchStrategy[Any]:
    if FIELDS[name].choices:
        return st.sampled_from(FIELDS[name].choices)
    return st.integers() if name in WHOLE else st.floats(allow_nan=False, allow_infinity=False)


fields = st.fixed_dictionaries({}, optional={name: values_of(name) for name in ARM_FIELDS})
removals = st.builds(Removal, st.sampled_from(RANKED_BY), st.integers(0, 10**9 - 1))
pairs = st.fixed_dictionaries(
    {}, optional={"removal": removals, "lookalikes": st.just(True), "decisions": st.just(True)}
)
arms = st.builds(lambda own, more: Arm(overrides=own | more), fields, pairs)

# In range, few enough values that equal ones meet.
AS_A_PERSON_SETS: dict[str, list[Any]] = {
    "noise_place": ["before", "after"],
    "stop_epoch": [0, 10, 30],
    "min_logit_scale": [1.0, 20.0],
    "adaptive_every": [1, 2, 3],
    "max_logit_scale": [50.0, 100.0],
    "adaptive_quantile": [0.5, 0.9],
    "crop_scale": [0.2, 0.5],
    "weight_decay": [0.1, 0.2],
}
usual_fields = st.fixed_dictionaries(
    {},
    optional={
        name: st.sampled_from(AS_A_PERSON_SETS.get(name, [0, 1, 2] if name in WHOLE else [0.0, 0.1, 0.3]))
        for name in ARM_FIELDS
    },
)
configs = st.builds(lambda own: dataclasses.replace(AuditConfig(), **own), usual_fields)


@settings(max_examples=40)
@given(arms)
def test_an_arm_reads_back_from_its_text_in_any_order_and_can_name_a_folder(arm: Arm) -> None:
    text = arm.text
    assert parse_setting(text) == arm
    assert parse_setting("  ".join(reversed(text.split()))).text == text
    assert is_name(arm.folder_name)
    assert len(arm.folder_name) < 90  # two fingerprints may follow


def test_texts_and_names_are_short_and_their_order_is_fixed() -> None:
    said = {"decisions": True, "max_logit_scale": 20.0, "crop_scale": 0.2, "text_mask": 0.30, "train_captions": 0}
    arm = Arm(overrides=said | {"removal": Removal("clipmem_text", 100)})
    assert arm.text == (
        "train_captions=0 text_mask=0.3 crop_scale=0.2 max_logit_scale=20 removal=clipmem_text:100 decisions"
    )
    assert (Arm().text, Arm().folder_name) == ("", "none")
    longest = {name: 0.123456789 for name in ARM_FIELDS if name not in WHOLE and not FIELDS[name].choices}
    first, second = (Arm(overrides=longest | more).folder_name for more in ({}, {"lookalikes": True}))
    assert first != second  # both are cut short
    assert first[:60] == second[:60]


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


def test_what_cannot_be_understood_is_one_line() -> None:
    for text, message in WRONG:
        with pytest.raises(InputError) as error:
            parse_setting(text)
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_an_arm_must_not_touch_what_pairs_the_arms() -> None:
    with pytest.raises(ValueError, match="arm 'a' must not set cache_size, seed: differences would not be paired"):
        Arm("a", {"seed": 3, "cache_size": 32, "lr": 0.1})


def trained(config: AuditConfig, arm: Arm) -> dict[str, Any]:
    """What a member's bits depend on."""
    values = as_dict(dataclasses.replace(config, **arm.fields))
    idle = {name for name, own in FIELDS.items() if own.mitigates or own.modifies} - switched_on(values).keys()
    return {name: value for name, value in values.items() if name not in idle}


@settings(max_examples=50)
@given(configs, usual_fields, usual_fields)
def test_arms_have_the_same_normal_text_exactly_if_they_train_the_same(
    config: AuditConfig, one: dict[str, Any], other: dict[str, Any]
) -> None:
    first, second = Arm(overrides=one), Arm(overrides=other)
    texts = [normal(arm, config).text for arm in (first, second)]
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
        "lookalikes": "lookalikes",
    }
    assert {text: normal(parse_setting(text), config).text for text in said} == said


def test_an_arm_with_a_model_fewer_pairs_or_other_fields_has_no_text() -> None:
    silent = {"model": {"embed_dim": 4}}, {"overrides": {"pairs": 500}}, {"overrides": {"lr": 0.1}}
    assert [text_of(Arm("a", **own), AuditConfig()) for own in silent] == [None] * 3


SCORES = pd.DataFrame(
    {"pair_id": [f"pair-{number}" for number in range(200)]}
    | {name: np.random.default_rng(place).normal(size=200) for place, name in enumerate(DIRECTIONS)}
)
POOL = SCORES["pair_id"].to_numpy()


@pytest.mark.parametrize("by", list(DIRECTIONS))
def test_the_most_memorized_or_least_fitting_go_first(by: str) -> None:
    found = removed_by(Removal(by, 20), SCORES, POOL, seed=0)
    assert found == set(SCORES.sort_values(by, ascending=by.startswith("similarity"))["pair_id"][:20])
    assert found < removed_by(Removal(by, 60), SCORES, POOL, seed=0)


def test_only_pairs_of_the_pool_with_a_score_are_removed_by() -> None:
    scores = SCORES.assign(clipmem=SCORES["clipmem"].where(SCORES.index % 2 == 0))
    assert removed_by(Removal("clipmem", 25), scores, POOL[:100], seed=0) <= set(POOL[:100:2])
    assert removed_by(Removal("random", 50), scores, POOL[:100], seed=0) == set(POOL[:100:2])
    with pytest.raises(ValueError, match="60 pairs are to be removed by clipmem, and 50 have a score"):
        removed_by(Removal("clipmem", 60), scores, POOL[:100], seed=0)


def test_chance_follows_its_seed_and_no_score_or_order() -> None:
    first, other = (removed_by(Removal("random", 100), SCORES, POOL, seed=seed) for seed in (0, 1))
    assert removed_by(Removal("random", 10), SCORES, POOL, seed=0) < first != other
    shuffled = SCORES.sample(frac=1, random_state=1)
    assert removed_by(Removal("random", 100), shuffled.assign(clipmem=1.0), POOL, seed=0) == first
    kept = SCORES["pair_id"].isin(first)
    assert abs(SCORES["clipmem"][kept].mean() - SCORES["clipmem"][~kept].mean()) < 0.45
    tied = removed_by(Removal("clipmem", 100), SCORES.assign(clipmem=0.0), POOL, seed=0)
    assert 30 < len(tied & set(POOL[:100])) < 70


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    return make_study(tmp_path)


def test_an_arms_config_is_the_reference_arms_with_its_fields_and_its_own_model(study: StudyFolder) -> None:
    split, expected = first_split(study), dataclasses.replace(SIZE, train_captions=1)
    assert reference_config(study) == split.reference == expected
    arm = Arm("wide", {"lr": 0.5, "epochs": 7}, model={"embed_dim": 4})
    found = split.config_of(arm, study.models)
    assert found == dataclasses.replace(expected, lr=0.5, epochs=7, model=str(study.models / "wide.json"))


def test_what_a_person_added_is_no_part_of_the_plan(study: StudyFolder) -> None:
    name = add_own(study, parse_setting("text_mask=0.3"))
    study.write_asked(study.asked | {"arms": study.asked["arms"] | {name: {}}, "settings": study.settings})
    assert first_split(study).planned == {"none": "", "text-mask": "text_mask=0.15", "early-stop": "stop_epoch=40"}
    assert study.settings[name] == "text_mask=0.3"


def test_a_ranking_can_take_out_shared_pairs_that_its_audit_scores(study: StudyFolder) -> None:
    split = first_split(study)
    drawn = draw_membership(split.clusters, dataclasses.replace(SIZE, protocol="ensemble", seeds=1, members=4))
    assert split.ranked == {f"p{row}" for row in range(220) if drawn.group[row] == "scored"}
    assert 0 < len(split.ranked) < 220


def test_of_decisions_counts_what_changes_training(study: StudyFolder) -> None:
    decided = Decided(
        frozenset({"p0", "p230", "p350", "another"}),  # p350 is external
        {"p5": ("new",), "p6": ("one", "two"), "p351": ("new",), "other": ("new",)},
    )
    split = first_split(study)
    assert split.applicable(decided) == Decided(frozenset({"p0", "p230"}), {"p5": ("new",)})
    one = dataclasses.replace(split, config=dataclasses.replace(SIZE, captions=1))
    assert one.applicable(Decided(recaptioned={"p5": ("new", "newer")})).recaptioned == {"p5": ("new",)}
    assert not split.applicable(Decided(frozenset({"p350"}), {"p6": ("one", "two")}))


def changed_by(split: Split, text: str, decided: Decided, scores: pd.DataFrame | None = None) -> tuple[set, set]:
    split = dataclasses.replace(split, scores=scores)
    found = split.changes(dataclasses.replace(parse_setting(text), decided=decided))
    assert found.ids == found.removed | set(found.recaptioned)
    return set(found.removed), set(found.recaptioned)


def test_an_arm_changes_pairs_by_looks_decisions_and_a_ranking_of_the_others(study: StudyFolder) -> None:
    split = first_split(study)
    alike = {f"p{row}" for row in TWINS if row < 340}  # the first of each stays, and so do external ones
    decided = Decided(frozenset({"p9"}), {"p1": ("a",), "p7": ("b",)})
    scores = pd.DataFrame({"pair_id": split.pairs["pair_id"], "clipmem": -np.arange(400.0)})
    assert changed_by(split, "lookalikes", Decided()) == (alike, set())
    # A pair that is taken out gets no captions.
    assert changed_by(split, "lookalikes decisions removal=clipmem:3", decided) == ({*alike, "p9"}, {"p7"})
    ranked = changed_by(split, "lookalikes decisions removal=clipmem:3", decided, scores)
    assert ranked == ({*alike, "p9", "p0", "p2", "p5"}, {"p7"})


def test_a_study_whose_reference_arm_has_not_begun_says_so(study: StudyFolder) -> None:
    (study.audit("none").folder / "membership.parquet").unlink()
    with pytest.raises(InputError, match="arm none of study 'made' has not begun: wait until it trains, or run"):
        first_split(study)
