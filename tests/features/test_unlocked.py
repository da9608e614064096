"""Towers cut in two: both parts together are the tower, whatever its library."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from clipmem_core.features.towers import Tower
from clipmem_core.features.unlocked import TOKENS, unlock
from clipmem_core.training.locked_towers import image_tower, open_clip_towers, text_tower
from clipmem_core.training.model import build_model
from clipmem_core.utils.io import InputError

TEXTS = ["a red parrot eats a nut", "the tall blue house on top of a hill"]


def towers(folder: Path) -> list[Tower]:
    """A tower of each library, with random weights where the package has none."""
    torch.manual_seed(0)
    checkpoint = folder / "tiny.pt"
    torch.save(build_model("tiny", loss="clip", seed=0).state_dict(), checkpoint)
    vit = folder / "vit.pt"
    torch.save(timm.create_model("vit_tiny_patch16_224", pretrained=False).state_dict(), vit)
    return [
        image_tower("efficientnet-lite0", size=64),
        image_tower("vit_tiny_patch16_224", pretrained=str(vit)),
        *open_clip_towers("tiny", pretrained=str(checkpoint)),
        text_tower("auto"),
    ]


def test_both_parts_together_are_the_tower(tmp_path: Path) -> None:
    for tower in towers(tmp_path):
        cut = unlock(tower, 1)
        batches = [[text] for text in TEXTS]  # those of a batch have one length
        if tower.kind == "image":
            shape = (2, tower.size, tower.size, 3)
            batches = [np.random.default_rng(0).integers(0, 255, shape, np.uint8)]
        activations = np.concatenate([cut.opened.embed(batch) for batch in batches])
        assert activations.shape == (2, cut.dim)
        with torch.no_grad():
            both = cut.upper(torch.from_numpy(activations))
        features = np.concatenate([tower.opened.embed(batch) for batch in batches])
        np.testing.assert_allclose(both, features, rtol=2e-3, atol=2e-3 * np.abs(features).max())
        assert cut.key != tower.key


def test_a_long_caption_ends_at_the_last_cached_token() -> None:
    cut = unlock(text_tower("auto"), 1)
    assert cut.context == TOKENS
    activations = cut.opened.embed(["word " * 200])
    assert np.isfinite(activations).all()
    assert activations.shape == (1, TOKENS * 384)


def test_a_tower_that_cannot_be_cut_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="--unlock 99: the image tower efficientnet-lite0 cannot"):
        unlock(image_tower("efficientnet-lite0", size=64), 99)
    with pytest.raises(InputError, match="the text tower universal-sentence-encoder"):
        unlock(text_tower("universal-sentence-encoder-multilingual-3"), 1)
