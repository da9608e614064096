"""Activations of units, streamed through hooks, against one pair at a time with everything in memory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from clipmem_core.scores.encoders import UnitTally
from clipmem_core.training import activations
from clipmem_core.training.activations import count_units
from clipmem_core.training.model import Model, build_model
from clipmem_core.training.views import TrainingData
from tests.training.toys import CONFIG, MODEL, Pictures, draw_data, view_maker, write_model

VIEWS = view_maker(seed=3)


def count(model: Model, data: TrainingData, tower: str, rows: np.ndarray | None = None, **how: Any) -> UnitTally:
    """Count the units of an encoder on rows, all if none are given; `views` and `eval_captions` go into the config."""
    config = replace(CONFIG, **{name: how.pop(name) for name in ("views", "eval_captions") if name in how})
    rows = data.rows if rows is None else rows
    return count_units(model, data, VIEWS, tower, rows=rows, config=config, device="cpu", **how)


@pytest.fixture(params=[3, 256], ids=["three a batch", "one batch"])
def _batch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "BATCH", request.param)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """A toy with two layers in each encoder, far from where it started, so that its units differ."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODEL, "text_cfg", {**MODEL["text_cfg"], "layers": 2})
        model = build_model(write_model(tmp_path, layers=2), loss="clip", seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def hidden(block: Any, x: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a block by its formula: its units' activations, and what it passes on."""
    normed = block.ln_1(x)
    x = x + block.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
    active = F.gelu(block.mlp.c_fc(block.ln_2(x)))
    return active, x + block.mlp.c_proj(active)


def image_activations(model: Model, data: TrainingData, row: int, view: int) -> np.ndarray:
    """One view of one picture: [layers × width], tokens averaged."""
    place = np.array([row])
    image = VIEWS.images(data.pixels.gather(place), VIEWS.boxes(data.keys[place], view))
    x, found = model.visual._embeds(image), []
    for block in model.visual.transformer.resblocks:
        active, x = hidden(block, x, None)
        found.append(active[0].relu().mean(dim=0))
    return torch.cat(found).numpy()


def text_activations(model: Model, tokens: np.ndarray) -> np.ndarray:
    """One caption without its padding: [layers × width], tokens averaged."""
    alone = torch.from_numpy(tokens[: tokens.argmax() + 1].astype(np.int64))[None]
    length = alone.shape[1]
    x, found = model.token_embedding(alone) + model.positional_embedding[:length], []
    for block in model.transformer.resblocks:
        active, x = hidden(block, x, model.attn_mask[:length, :length])
        found.append(active[0].relu().mean(dim=0))
    return torch.cat(found).numpy()


def check(scores: pd.DataFrame, table: np.ndarray, rows: np.ndarray) -> None:
    """Compare with UnitMem of the whole table of activations [n, n_units]."""
    row = table.argmax(axis=0)
    top = table.max(axis=0)
    mean = (table.sum(axis=0) - top) / (len(table) - 1)
    median = np.median(np.sort(table, axis=0)[:-1], axis=0)
    np.testing.assert_allclose(scores.unitmem_mean, (top - mean) / (top + mean), atol=1e-4)
    assert (np.abs(scores.unitmem_median - (top - median) / (top + median)) <= scores.median_error + 1e-4).all()
    margin = np.sort(table, axis=0)[-1] - np.sort(table, axis=0)[-2] > 1e-4
    assert margin.mean() > 0.9
    np.testing.assert_array_equal(scores.row[margin], rows[row][margin])


@pytest.mark.usefixtures("_batch")
def test_image_units_are_those_of_one_picture_at_a_time(model: Model) -> None:
    data, rows = draw_data(12), np.array([1, 2, 5, 7, 8, 9, 11])
    tally = count(model, data, "image", rows, views=3)
    with torch.no_grad():
        table = np.stack(
            [np.mean([image_activations(model, data, row, view) for view in range(3)], axis=0) for row in rows]
        )
    assert table.shape == (7, 2 * 64)
    check(tally.scores(), table, rows)


@pytest.mark.usefixtures("_batch")
@pytest.mark.parametrize("first", [0, 2])
def test_text_units_are_those_of_one_caption_at_a_time_without_padding(model: Model, first: int) -> None:
    data, rows = draw_data(12, captions=3), np.array([0, 1, 2, 5, 7, 8, 11])
    tally = count(model, data, "text", rows, eval_captions=first)
    own = [range(data.caption_start[row], data.caption_start[row + 1])[: first or None] for row in rows]
    with torch.no_grad():
        each = [[text_activations(model, data.tokens[number]) for number in numbers] for numbers in own]
    check(tally.scores(), np.stack([np.mean(captions, axis=0) for captions in each]), rows)


def test_longer_captions_beside_it_change_nothing_for_a_short_one(model: Model) -> None:
    data = draw_data(20)
    # Without cutting, every caption runs at full length and only the mask keeps padding out.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activations, "can_cut_text", lambda _model: False)
        whole = count(model, data, "text").scores()
    cut = count(model, data, "text").scores()
    np.testing.assert_allclose(cut.unitmem_mean, whole.unitmem_mean, atol=1e-5)
    np.testing.assert_allclose(cut.rest_mean, whole.rest_mean, atol=1e-5)


def test_what_lies_below_zero_is_counted_as_zero_and_said(model: Model) -> None:
    data = draw_data(6)
    with torch.no_grad():
        for block in model.visual.transformer.resblocks:
            block.mlp.c_fc.weight.zero_()
            block.mlp.c_fc.bias.fill_(-1)
    scores = count(model, data, "image", views=2).scores()
    np.testing.assert_array_equal(scores["max"], 0)
    np.testing.assert_allclose(scores.clipped, 1)


def test_a_unit_that_fires_for_one_picture_alone_has_unitmem_1(model: Model) -> None:
    pixels = np.zeros((9, 10, 10, 3), np.uint8)
    pixels[4] = 255
    data = replace(draw_data(9), pixels=Pictures(pixels))
    block = model.visual.transformer.resblocks[0]
    with torch.no_grad():
        # The first unit hears one direction alone: where the white picture differs from the black ones.
        heard: list[torch.Tensor] = []
        handle = block.ln_2.register_forward_hook(lambda _m, _i, out: heard.append(out.mean(dim=(0, 1))))
        for row in (4, 0):
            model.visual(VIEWS.images(pixels[[row]], VIEWS.boxes(data.keys[[row]], 0)))
        handle.remove()
        direction = heard[0] - heard[1]
        block.mlp.c_fc.weight[0] = 1000 * direction
        block.mlp.c_fc.bias[0] = -500 * (direction @ (heard[0] + heard[1]))
    scores = count(model, data, "image", views=2).scores()
    assert scores.row[0] == 4
    assert scores["max"][0] > 1
    np.testing.assert_allclose(scores.unitmem_mean[0], 1, atol=1e-6)


def test_hooks_are_gone_afterwards_even_after_an_error_and_progress_ends_at_the_number_of_pairs(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = draw_data(4)
    count(model, data, "image", views=1)
    count(model, data, "text")
    with pytest.raises(IndexError):
        count(model, data, "image", np.array([99]), views=1)
    assert not any(module._forward_hooks for module in model.modules())
    monkeypatch.setattr(activations, "BATCH", 4)
    data = draw_data(10, captions=3)
    for tower in ("image", "text"):
        told: list[int] = []
        count(model, data, tower, report=told.append)
        assert told == sorted(set(told))
        assert told[-1] == 10


def custom_text_model() -> Model:
    """The toy with its text tower as a module of its own, as SigLIP and CoCa have it."""
    return open_clip.CustomTextCLIP(
        embed_dim=16,
        vision_cfg=MODEL["vision_cfg"],
        text_cfg={**MODEL["text_cfg"], "pool_type": "last", "no_causal_mask": True},
        output_dict=True,
    )
