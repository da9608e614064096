"""Model names lead to config files; what is no model is refused in one line."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest

from clipmem_core.config import InputError
from clipmem_core.training.names import check_model_fields, known_models, model_config, model_file, parameters
from tests.training.toys import MODEL, write_model


def test_every_model_of_open_clip_and_all_of_ours_are_known() -> None:
    names = known_models()
    assert names[:3] == ["locked", "small", "tiny"]
    assert {"ViT-B-32", "RN50", "roberta-ViT-B-32"} <= set(names)
    assert all(model_file(name).stem == name for name in names)
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
    with pytest.raises(InputError, match="model 'nothing' is unknown: try locked, small, tiny"):
        model_file("nothing")
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


def changed(folder: Path, field: str, value: Any) -> str:
    """Write the toy model's config with one field changed, and return its path."""
    tower, _, name = field.rpartition(".")
    config = {**MODEL, tower: {**MODEL[tower], name: value}} if tower else {**MODEL, name: value}
    path = folder / "odd.json"
    path.write_text(json.dumps(config))
    return str(path)


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("text_cfg.context_length", 0, "a whole number from 3 to"),
        ("text_cfg.context_length", 2, "a whole number from 3 to"),
        ("text_cfg.layers", 1000, "a whole number from 1 to 512, not 1000"),
        ("vision_cfg.layers", [1, 1, 1, 1000], "a whole number from 1 to 512"),
        ("vision_cfg.layers", [1], "a whole number from 1 to 512"),
        ("vision_cfg.width", 10**18, "a whole number from 1 to"),
        ("vision_cfg.width", "16", "a whole number from 1 to"),
        ("vision_cfg.width", None, "a whole number from 1 to"),
        ("vision_cfg.image_size", 10**6, "a whole number from 1 to"),
        ("vision_cfg.mlp_ratio", 1e300, "a number from 0.01 to"),
        ("embed_dim", True, "a whole number from 1 to"),
        ("embed_dim", -16, "a whole number from 1 to"),
    ],
)
def test_a_field_that_no_model_has_is_named(tmp_path: Path, field: str, value: Any, wanted: str) -> None:
    with pytest.raises(InputError, match=rf"odd.json': {field} must be {wanted}"):
        check_model_fields(changed(tmp_path, field, value))


@pytest.mark.parametrize("name", ["ViT-L-14-336", "RN50x16", "coca_ViT-B-32", "toy"])
def test_weights_are_counted_as_open_clip_builds_them(tmp_path: Path, name: str) -> None:
    if name == "toy":
        name = write_model(tmp_path)
        open_clip.add_model_config(name)
    built = open_clip.create_model(Path(name).stem, device="meta", pretrained_text=False)
    assert parameters(name) == pytest.approx(sum(weight.numel() for weight in built.parameters()), rel=0.1)
