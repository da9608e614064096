"""Model names lead to config files; what is no model is refused in one line."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest

from clipmem_core.config import InputError
from clipmem_core.training.names import known_models, model_config, model_file
from tests.training.toys import MODEL, write_model


def test_every_model_of_open_clip_and_both_of_ours_are_known() -> None:
    names = known_models()
    assert names[:2] == ["small", "tiny"]
    assert {"ViT-B-32", "RN50", "roberta-ViT-B-32"} <= set(names)
    assert all(model_file(name).stem == name for name in names)


def test_configs_of_open_clip_are_read_as_open_clip_reads_them() -> None:
    assert model_config("ViT-B-16-SigLIP") == open_clip.get_model_config("ViT-B-16-SigLIP")
    assert model_config("ViT-B/32") == open_clip.get_model_config("ViT-B-32")


def test_a_json_config_is_taken_plain_or_inside_model_cfg(tmp_path: Path) -> None:
    assert model_config(write_model(tmp_path)) == MODEL
    wrapped = tmp_path / "open_clip_config.json"
    wrapped.write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": {}}))
    assert model_config(str(wrapped)) == MODEL


def test_an_unknown_name_lists_those_that_begin_alike() -> None:
    with pytest.raises(InputError, match=r"model 'vit-b-33' is unknown: try ViT-B-16.* or give a JSON model config"):
        model_file("vit-b-33")
    with pytest.raises(InputError, match="model 'nothing' is unknown: try small, tiny"):
        model_file("nothing")


def test_a_config_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="'gone.json' is not a file: give the path"):
        model_file("gone.json")


@pytest.mark.parametrize(
    ("content", "lacking"),
    [
        ({"embed_dim": 16, "text_cfg": {}}, "vision_cfg"),
        ({"model_cfg": {"vision_cfg": {}}}, "embed_dim, text_cfg"),
        ({**MODEL, "text_cfg": 3}, "text_cfg"),
        ({"model_cfg": None}, "embed_dim, vision_cfg, text_cfg"),
        ([1, 2], "embed_dim, vision_cfg, text_cfg"),
    ],
)
def test_a_config_without_its_parts_names_them(tmp_path: Path, content: Any, lacking: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"lacks {lacking}: an open_clip model config has all three"):
        model_config(str(path))


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00"])
def test_a_config_that_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not valid JSON"):
        model_file(str(path))
