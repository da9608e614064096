"""Model names lead to config files; a file that is no model is refused in one line."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest

from clipmem_core.config import InputError
from clipmem_core.training.names import model_config, model_file, model_names
from tests.training.toys import MODEL, write_model


def test_models_of_open_clip_ours_and_json_files_are_known(tmp_path: Path) -> None:
    names = model_names()
    assert names[:3] == ["locked", "small", "tiny"]
    assert {"ViT-B-32", "RN50", "roberta-ViT-B-32"} <= set(names)
    assert all(model_file(name).stem == name for name in names)
    assert model_config("ViT-B-16-SigLIP") == open_clip.get_model_config("ViT-B-16-SigLIP")
    assert model_config("ViT-B/32") == open_clip.get_model_config("ViT-B-32")
    assert model_config(write_model(tmp_path)) == MODEL
    wrapped = tmp_path / "open_clip_config.json"
    wrapped.write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": {}}))
    assert model_config(str(wrapped), image_size=16)["vision_cfg"] == {**MODEL["vision_cfg"], "image_size": 16}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"embed_dim": 16, "text_cfg": {}}, "lacks vision_cfg: an open_clip model config has all three"),
        ({"model_cfg": {"vision_cfg": {}}}, "lacks embed_dim, text_cfg"),
        ({"model_cfg": None}, "lacks embed_dim, vision_cfg, text_cfg"),
        ([1, 2], "lacks embed_dim, vision_cfg, text_cfg"),
        (None, "is not valid JSON"),
    ],
)
def test_a_file_that_is_no_model_config_is_refused(tmp_path: Path, content: Any, reason: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text("{" if content is None else json.dumps(content))
    with pytest.raises(InputError, match=reason):
        model_config(str(path))
