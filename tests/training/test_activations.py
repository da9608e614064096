"""Activations of units, streamed through hooks, against one pair at a time with everything in
memory."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clipmem_core.lab.unitmem import count_units
from clipmem_core.training import model as models
from clipmem_core.training.augmentation import TrainingData
from clipmem_core.training.model import Model, build_model
from tests.training.toys import CONFIG, MODEL, draw_data, view_maker, write_model

VIEWS = view_maker(seed=3)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Return a toy with two layers in each encoder, far from where it started, so that its units
    differ."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODEL, "text_cfg", {**MODEL["text_cfg"], "layers": 2})
        model = build_model(write_model(tmp_path, layers=2), loss="clip", seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def block_activations(transformer: Any, x: torch.Tensor, mask: torch.Tensor | None) -> np.ndarray:
    """Run the blocks on one input by their formula: [layers × width], tokens averaged."""
    found = []
    for block in transformer.resblocks:
        normed = block.ln_1(x)
        x = x + block.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        active = F.gelu(block.mlp.c_fc(block.ln_2(x)))
        x = x + block.mlp.c_proj(active)
        found.append(active[0].relu().mean(dim=0))
    return torch.cat(found).numpy()


def image_activations(model: Model, data: TrainingData, row: int, view: int) -> np.ndarray:
    pixels = data.pixels.gather(np.array([row]))
    image = VIEWS.evaluation_images(pixels, data.keys[[row]], view, "cpu")
    return block_activations(model.visual.transformer, model.visual._embeds(image), None)


def text_activations(model: Model, tokens: np.ndarray) -> np.ndarray:
    alone = torch.from_numpy(tokens[: tokens.argmax() + 1].astype(np.int64))[
        None
    ]  # without padding
    length = alone.shape[1]
    x = model.token_embedding(alone) + model.positional_embedding[:length]
    return block_activations(model.transformer, x, model.attn_mask[:length, :length])


@pytest.mark.parametrize(("tower", "captions"), [("image", 0), ("text", 0), ("text", 2)])
def test_units_equal_those_of_one_input_at_a_time(
    model: Model, tower: str, captions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "EVALUATION_BATCH", 3)
    data = draw_data(12, captions=3)
    rows = np.array([0, 1, 2, 5, 7, 8, 11])
    config = replace(CONFIG, views=3, eval_captions=captions, device="cpu")
    run: Any = SimpleNamespace(data=data, config=config)
    found = count_units(run, model, VIEWS, tower, rows).scores()
    with torch.no_grad():
        if tower == "image":
            each = [
                [image_activations(model, data, row, view) for view in range(3)] for row in rows
            ]
        else:
            numbers = [range(*data.captions.start[[row, row + 1]]) for row in rows]
            each = [
                [text_activations(model, data.tokens[number]) for number in own[: captions or None]]
                for own in numbers
            ]
    table = np.stack([np.mean(one, axis=0) for one in each])
    assert table.shape == (7, 2 * 64)
    top = table.max(axis=0)
    rest = np.sort(table, axis=0)[:-1]
    mean = rest.mean(axis=0)
    np.testing.assert_allclose(found.unitmem_mean, (top - mean) / (top + mean), atol=1e-4)
    clear = top - rest[-1] > 1e-4
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found.row[clear], rows[table.argmax(axis=0)][clear])
