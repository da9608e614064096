import dataclasses

import pandas as pd
import pytest

from clipmem_core.config import AuditConfig, InputError, preset_config
from clipmem_core.studies.arms import Arm, arm_config, check_arms
from clipmem_core.studies.plans import STUDIES, defaults_of, find_study
from clipmem_core.studies.sizes import sized
from clipmem_core.studies.store import studies_folder
from clipmem_core.training.model import build_model
from tests.studies.conftest import config_of

ONE = pd.DataFrame({"captions": [["a"], ["b"]] * 100, "group": "shared"})
MORE = pd.DataFrame({"captions": [["a"], ["b", "c"]] * 100, "group": "shared"})


@pytest.mark.parametrize("name", list(STUDIES))
@pytest.mark.parametrize("pairs", [ONE, MORE])
def test_every_study_has_its_reference_and_arms_that_can_run(name: str, pairs: pd.DataFrame) -> None:
    config = dataclasses.replace(preset_config("small"), **defaults_of(name))
    if name == "captions" and pairs is ONE:
        with pytest.raises(InputError, match="study captions compares one caption a pair with more, and this source"):
            find_study(name).arms(config, pairs)
        return
    arms = find_study(name).arms(config, pairs)
    assert [arm.name for arm in arms].count(find_study(name).reference) == 1
    assert len({arm.name for arm in arms}) == len(arms)
    check_arms(arms, config)


def test_size_has_each_width_of_each_encoder() -> None:
    arms = STUDIES["size"].arms(preset_config("small"), ONE)
    assert len({(arm.settings["image_encoder"], arm.settings["text_encoder"]) for arm in arms}) == 9
    by_name = {arm.name: arm for arm in arms}
    assert not by_name["image-one-text-one"].model  # the config's own, so that other studies share its members
    wide = by_name["image-double-text-half"].model
    assert (wide["vision_cfg"]["width"], wide["text_cfg"]["width"]) == (256, 64)


def test_views_has_six_arms_where_there_are_captions_to_choose_from_and_three_elsewhere() -> None:
    config = config_of("views")
    assert (len(STUDIES["views"].arms(config, MORE)), len(STUDIES["views"].arms(config, ONE))) == (6, 3)
    # All are judged on what every arm trains on: the whole picture and the first caption.
    assert (config.eval_crop_scale, config.eval_captions) == (1.0, 1)
    assert {arm.fields.get("crop_scale", 0.5) for arm in STUDIES["views"].arms(config, MORE)} == {1.0, 0.5, 0.2}


def test_what_is_typed_wins_over_what_a_study_sets() -> None:
    assert config_of("views", "--eval-crop-scale", "0.5").eval_crop_scale == 0.5
    assert config_of("size").protocol == "paper"


def test_snapshots_end_with_the_last_epoch() -> None:
    assert STUDIES["time"].epochs_kept(7) == [1, 2, 3, 4, 5, 6, 7]
    assert STUDIES["time"].epochs_kept(9) == [1, 2, 3, 4, 5, 6, 8, 9]
    assert STUDIES["size"].epochs_kept(7) == []


def test_an_arm_must_not_touch_what_pairs_the_arms() -> None:
    with pytest.raises(ValueError, match="arm 'a' must not set cache_size, seed: differences would not be paired"):
        Arm("a", {"seed": 3, "cache_size": 32, "lr": 0.1})


def test_an_arms_config_is_the_studys_with_its_fields_and_its_own_model() -> None:
    config = AuditConfig(epochs=7)
    arm = Arm("wide", {"lr": 0.5}, model={"embed_dim": 4})
    found = arm_config(arm, config, studies_folder() / "a" / "models")
    assert found == dataclasses.replace(config, lr=0.5, model=str(studies_folder() / "a" / "models" / "wide.json"))


def test_a_scaled_model_has_as_many_weights_as_its_widths_say(tmp_path) -> None:  # noqa: ANN001
    from clipmem_core.audits.store import write_json
    from clipmem_core.training.names import model_config

    small = model_config("small")
    write_json(tmp_path / "wide.json", sized(small, image=2, text=0.5))
    wide = build_model(str(tmp_path / "wide.json"), loss="clip", seed=0)
    usual = build_model("small", loss="clip", seed=0)
    assert wide.visual.conv1.weight.shape[0] == 2 * usual.visual.conv1.weight.shape[0]
    assert wide.token_embedding.weight.shape[1] * 2 == usual.token_embedding.weight.shape[1]
    assert wide.visual.transformer.resblocks[0].attn.num_heads == 4
    assert wide.transformer.resblocks[0].attn.num_heads == 1
    assert len(wide.visual.transformer.resblocks) == len(usual.visual.transformer.resblocks)


def test_models_that_cannot_be_scaled_are_refused() -> None:
    odd = {"vision_cfg": {"width": 64, "head_width": 64}, "text_cfg": {"width": 64, "heads": 2}}
    with pytest.raises(InputError, match="the image encoder would be left with 0.5: take a model with an even number"):
        sized(odd, image=0.5, text=1)
    for foreign in (
        {"vision_cfg": {"timm_model_name": "x"}, "text_cfg": {}},
        {"vision_cfg": {"layers": [1]}, "text_cfg": {}},
    ):
        with pytest.raises(InputError, match="scales the width of open_clip's own transformers"):
            sized(foreign, image=2, text=1)
    with pytest.raises(InputError, match="take away --pretrained"):
        STUDIES["size"].arms(AuditConfig(pretrained="openai"), ONE)
