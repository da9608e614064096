"""An arm's text, the pairs that it changes, and arms that a person adds to a made-up study; none is trained."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audit.store import is_name
from clipmem_core.config import ARM_FIELDS, FIELDS, AuditConfig, InputError
from clipmem_core.studies.arm import (
    DIRECTIONS,
    Arm,
    Decided,
    Removal,
    Split,
    first_split,
    normal,
    parse_setting,
    removed_by,
)
from clipmem_core.studies.plan import add_arm, find_arm, read_added
from clipmem_core.studies.study_folder import StudyFolder
from tests.studies.made_context import SIZE, TWINS, ids_of, make_study


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    return make_study(tmp_path)


def test_an_arm_parses_back_from_its_text_in_any_order_and_can_name_a_folder() -> None:
    fields = {name: FIELDS[name].default for name in ARM_FIELDS} | {"text_mask": 0.3, "max_logit_scale": 20.0}
    arms = [Arm(), Arm(overrides=fields | {"removal": Removal("clipmem_text", 100), "decisions": True})]
    for arm in arms:
        assert parse_setting("  ".join(reversed(arm.text.split()))) == arm
        assert is_name(arm.folder_name)
        assert len(arm.folder_name) < 90  # two fingerprints may follow
    more = dataclasses.replace(arms[1], overrides=arms[1].overrides | {"near_duplicates": True})
    assert more.folder_name != arms[1].folder_name  # both are cut short


WRONG = [
    ("seed=1", "setting 'seed' is unknown"),
    ("text_mask", "text_mask must be a number, not ''"),
    ("stop_epoch=3.5", "stop_epoch must be a whole number, not '3.5'"),
    ("near_duplicates=yes", "near_duplicates"),
    ("removal=clipmem:-3", "removal must be a ranking and a number"),
    ("removal=size:3", "rankings are clipmem, clipmem_text, misfit, similarity_out, similarity_in, random"),
]


def test_a_wrong_setting_is_one_line() -> None:
    for text, message in WRONG:
        with pytest.raises(InputError) as error:
            parse_setting(text)
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_overrides_without_effect_are_left_out() -> None:
    config = dataclasses.replace(AuditConfig(), text_noise=0.1, adaptive_every=5)
    texts = {
        "text_noise=0.1": "",
        "text_noise=0 noise_place=before": "text_noise=0",
        "noise_place=before": "noise_place=before",
        "adaptive_every=2": "",
        "adaptive_mask=.5 adaptive_every=2": "adaptive_mask=0.5 adaptive_every=2",
        "near_duplicates": "near_duplicates",
    }
    assert {text: normal(parse_setting(text), config).text for text in texts} == texts


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


def test_a_random_removal_depends_on_its_seed_alone_and_ties_are_random() -> None:
    first, other = (removed_by(Removal("random", 100), SCORES, POOL, seed=seed) for seed in (0, 1))
    assert removed_by(Removal("random", 10), SCORES, POOL, seed=0) < first != other
    shuffled = SCORES.sample(frac=1, random_state=1)
    assert removed_by(Removal("random", 100), shuffled.assign(clipmem=1.0), POOL, seed=0) == first
    tied = removed_by(Removal("clipmem", 100), SCORES.assign(clipmem=0.0), POOL, seed=0)
    assert 30 < len(tied & set(POOL[:100])) < 70


def changed_by(split: Split, text: str, decided: Decided, scores: pd.DataFrame | None = None) -> tuple[set, set]:
    found = dataclasses.replace(split, scores=scores).changes(dataclasses.replace(parse_setting(text), decided=decided))
    return set(found.removed), set(found.recaptioned)


def test_an_arm_changes_pairs_by_near_duplicates_decisions_and_a_ranking_of_the_others(study: StudyFolder) -> None:
    split = first_split(study)
    alike = {f"p{row}" for row in TWINS if row < 340}  # the first of each stays, and so do external ones
    decided = Decided(frozenset({"p9", "p350"}), {"p1": ("a",), "p7": ("b",), "p351": ("c",)})
    scores = pd.DataFrame({"pair_id": split.pairs["pair_id"], "clipmem": -np.arange(400.0)})
    assert changed_by(split, "near_duplicates", Decided()) == (alike, set())
    # A pair that is removed gets no captions.
    assert changed_by(split, "near_duplicates decisions removal=clipmem:3", decided) == ({*alike, "p9"}, {"p7"})
    ranked = changed_by(split, "near_duplicates decisions removal=clipmem:3", decided, scores)
    assert ranked == ({*alike, "p9", "p0", "p2", "p5"}, {"p7"})


def test_decisions_count_if_they_change_a_pair_of_the_study(study: StudyFolder) -> None:
    decided = Decided(frozenset({"p0", "another"}), {"p5": ("new",), "p6": ("one", "two"), "other": ("new",)})
    split = first_split(study)
    assert split.applicable(decided) == Decided(frozenset({"p0"}), {"p5": ("new",)})
    one = dataclasses.replace(split, config=dataclasses.replace(SIZE, captions=1))
    assert one.applicable(Decided(recaptioned={"p5": ("new", "newer")})).recaptioned == {"p5": ("new",)}


def test_an_added_arm_is_stored_once_and_among_the_settings(study: StudyFolder) -> None:
    arm = Arm(overrides={"text_mask": 0.3, "noise_place": "before", "removal": Removal("clipmem", 50)})
    name = add_arm(study, arm)
    assert name == "text_mask-0.3_removal-clipmem-50"
    assert study.settings[name] == "text_mask=0.3 removal=clipmem:50"  # without what has no effect
    assert find_arm(study, arm) == name
    (found,) = read_added(study)
    assert found == Arm(name, {"text_mask": 0.3, "removal": Removal("clipmem", 50)})
    assert found.row(Decided()) == {"text_mask": 0.3, "removed_by": "clipmem"}
    assert add_arm(study, arm) == name
    assert len(read_added(study)) == 1
    assert find_arm(study, parse_setting("text_mask=0.4")) is None
    for text, planned in {"": "none", "text_noise=0": "none", "train_captions=1 text_mask=0.15": "text-mask"}.items():
        assert add_arm(study, parse_setting(text)) == find_arm(study, parse_setting(text)) == planned


def test_other_decisions_are_another_arm_and_the_decisions_are_frozen(study: StudyFolder) -> None:
    decided = Decided(frozenset({"p0", "p230"}), {"p5": ("new",)})
    setting = parse_setting("decisions text_mask=0.3")
    assert find_arm(study, setting) is find_arm(study, setting, decided=decided) is None
    first = add_arm(study, setting, decided=decided)
    assert add_arm(study, setting, decided=decided) == first
    more = Decided(decided.removed | {"p7"}, decided.recaptioned)
    second = add_arm(study, setting, decided=more)
    assert first != second
    assert is_name(second)
    assert [arm.decided for arm in read_added(study)] == [decided, more]
    assert find_arm(study, setting, decided=decided) == first
    assert find_arm(study, setting) == second  # the last
    arm = read_added(study)[0]
    changes = first_split(study).changes(arm)
    assert arm.row(changes) == {"text_mask": 0.3, "decisions": True, "removed": 2, "recaptioned": 1}


REFUSED = [
    ("text_mask=1.5", Decided(), "--text-mask must be less than 1, not 1.5"),
    ("removal=clipmem:111", Decided(), "removes 111 of 220 shared pairs"),
    ("removal=random:108 near_duplicates", Decided(), "removes 111 of 220 shared pairs: remove at most half"),
    ("decisions", Decided(), "decisions: no pair of this study is decided to be removed or recaptioned: decide first"),
    ("decisions", Decided(frozenset({"p399"})), "decisions: no pair of this study is decided"),
    ("decisions", Decided(ids_of(range(111))), "removes 111 of 220 shared pairs"),
    ("decisions", Decided(ids_of(range(220, 271))), "decisions: 9 candidate pairs would be unchanged in all arms"),
]


def test_an_arm_that_cannot_run_is_one_line_and_nothing_is_written(study: StudyFolder) -> None:
    for text, decided, message in REFUSED:
        with pytest.raises(InputError) as error:
            add_arm(study, parse_setting(text), decided=decided)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    assert not (study.folder / "own.json").exists()
