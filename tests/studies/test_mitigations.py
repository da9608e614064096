"""The arms of the studies of mitigations."""

from dataclasses import replace

import pandas as pd
import pytest

from clipmem_core.config import AuditConfig, InputError, as_dict, switched_on
from clipmem_core.studies.arms import Arm, recaptioned
from clipmem_core.studies.mitigations import captions_arms, combined_arms, removal_arms, text_noise_arms
from clipmem_core.studies.plans import STUDIES
from clipmem_core.studies.setting import setting_of

CONFIG = AuditConfig()


def pairs(captions: int, shared: int = 4000) -> pd.DataFrame:
    return pd.DataFrame({"captions": [["a"] * captions] * shared, "group": "shared"})


def test_captions_go_from_one_to_five_and_to_all_where_there_are_more() -> None:
    assert [arm.name for arm in captions_arms(CONFIG, pairs(3))] == ["none", "captions-2", "captions-3"]
    five, seven = (captions_arms(CONFIG, pairs(n)) for n in (5, 7))
    assert [arm.fields["train_captions"] for arm in five] == [1, 2, 3, 4, 5]
    assert [arm.name for arm in seven[4:]] == ["captions-5", "captions-all"]
    assert not seven[-1].fields
    assert [arm.settings["captions"] for arm in seven] == ["1", "2", "3", "4", "5", "all"]


def test_a_source_with_one_caption_a_pair_has_no_study_of_captions() -> None:
    with pytest.raises(InputError, match="this source has one: take one with several captions a pair") as error:
        captions_arms(CONFIG, pairs(1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("captions", [1, 5])
def test_the_reference_is_the_same_member_in_every_study(captions: int) -> None:
    found = [
        next(arm for arm in STUDIES[name].arms(CONFIG, pairs(captions)) if arm.name == "none").fields
        for name in ("text-noise", "removal", "combined")
    ]
    assert found == [{"train_captions": 1} if captions > 1 else {}] * 3
    judged = {tuple(STUDIES[name].defaults.items()) for name in ("captions", "text-noise", "removal", "combined")}
    assert judged == {(("eval_crop_scale", 1.0), ("eval_captions", 1), ("views", 2))}


def test_noise_has_the_papers_levels() -> None:
    arms = text_noise_arms(CONFIG, pairs(1))
    assert [arm.settings["text_noise"] for arm in arms] == [0, 0.01, 0.05, 0.10, 0.15, 0.20, 0.25, 0.30]
    published = [point.arm for point in STUDIES["text-noise"].published]
    assert published == [arm.name for arm in arms]


def test_removal_goes_as_far_as_half_of_the_shared_pairs() -> None:
    arms = removal_arms(CONFIG, pairs(1, shared=450))
    assert [arm.removal.n for arm in arms if arm.removal and arm.removal.by == "clipmem"] == [50, 100, 200]
    assert [arm.name for arm in arms[:4]] == ["none", "clipmem-50", "similarity_in-50", "random-50"]
    assert arms[2].settings == {"removed_by": "similarity_in", "removed": 50}
    with pytest.raises(InputError, match="takes 50 of at least 100 shared pairs, not of 99"):
        removal_arms(CONFIG, pairs(1, shared=99))


def test_every_published_point_of_removal_has_its_arm() -> None:
    ours = {arm.name for arm in removal_arms(CONFIG, pairs(1))}
    assert ours <= {point.arm for point in STUDIES["removal"].published}


@pytest.mark.parametrize("captions", [1, 5])
def test_each_arm_but_none_mitigates_and_no_two_do_the_same(captions: int) -> None:
    arms = combined_arms(CONFIG, pairs(captions))
    does = [str(sorted(arm.fields.items())) for arm in arms]
    assert len(set(does)) == len(arms)
    for arm in arms[1:]:
        config = replace(CONFIG, **arm.fields)
        stronger = config.crop_scale < CONFIG.crop_scale or config.weight_decay > CONFIG.weight_decay
        assert switched_on(as_dict(config)) or stronger or arm.name == "captions"
    assert ("captions" in {arm.name for arm in arms}) == (captions > 1)


def test_other_captions_go_to_the_pairs_named_and_never_to_external_ones() -> None:
    table = pd.DataFrame({"pair_id": ["a", "b", "c"], "captions": [["one"], ["two"], ["three"]]})
    group = pd.Series(["shared", "candidate", "external"]).to_numpy()
    changed = recaptioned(table, {"b": ("new", "newer"), "c": ("never",)}, group)
    assert changed["captions"].tolist() == [["one"], ["new", "newer"], ["three"]]
    assert table["captions"].tolist() == [["one"], ["two"], ["three"]]
    arm = Arm("decisions", removed=frozenset("a"), recaptioned={"b": ("new",)})
    assert arm.changed == {"a", "b"}
    assert arm.settings == {"removed": 1, "recaptioned": 1}


@pytest.mark.parametrize("captions", [1, 5])
def test_forgetting_has_an_arm_beside_it_that_forgets_only_what_no_pair_has(captions: int) -> None:
    arms = {arm.name: arm for arm in combined_arms(CONFIG, pairs(captions))}
    names, untrained = list(arms), arms["forget-untrained"]
    assert dict(untrained.fields) == dict(arms["none"].fields) | {"text_forget_df": 1}
    assert names.index("forget-untrained") < names.index("forget-rare-words")
    assert setting_of(untrained, arms["none"], CONFIG).text == "text_forget_df=1"
    assert STUDIES["combined"].reference == "none"
