"""Models load safely and encode as open_clip's own do; views of features; names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clipmem_core.mitigations import Batch, can_cut_text
from clipmem_core.training import model as under_test
from clipmem_core.training import model_config, model_names
from clipmem_core.training.augmentation import FeatureViews
from clipmem_core.training.model import (
    build_model,
    encode_image,
    encode_text,
    image_blocks,
    load_weights,
    short_attention,
    tokenize,
)
from clipmem_core.utils.io import InputError
from tests.training import toys
from tests.training.toys import draw_data, draw_tokens, view_maker


def test_short_attention_and_its_gradients_equal_torchs() -> None:
    torch.manual_seed(0)
    attn = nn.MultiheadAttention(24, 3, batch_first=True)
    nn.init.normal_(attn.in_proj_bias)
    x = torch.randn(4, 50, 24)
    weights = torch.randn(4, 50, 24) / 50
    mask = nn.Transformer.generate_square_subsequent_mask(50)
    inputs = [x.requires_grad_(), *attn.parameters()]
    ours = short_attention(attn, lambda *_, **__: pytest.fail("it is short"), x, attn_mask=mask)
    theirs = attn(x, x, x, attn_mask=mask, need_weights=False)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    gradients = (torch.autograd.grad((out * weights).sum(), inputs) for out in (ours, theirs))
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "cut"),
    [
        ({"pool_type": "argmax"}, True),
        ({"pool_type": "eos", "eos_id": toys.END}, True),
        ({"no_causal_mask": True}, False),
        ({"pool_type": "last"}, False),
    ],
)
def test_text_cut_to_the_longest_caption_equals_the_full_context(
    tmp_path: Path, change: dict[str, Any], cut: bool
) -> None:
    path = tmp_path / "toy.json"
    path.write_text(json.dumps({**toys.MODEL, "text_cfg": {**toys.MODEL["text_cfg"], **change}}))
    model = build_model(str(path), loss="clip", seed=0).eval()
    assert can_cut_text(model) is cut
    tokens = torch.from_numpy(draw_tokens(20).astype(np.int64))
    ends = (tokens == toys.END).int().argmax(dim=1)
    tokens[3, 1:3] = 0  # the token of "!", and of padding
    short = tokens[ends <= 4]
    with torch.no_grad():
        full = F.normalize(model.encode_text(short), dim=-1)
        torch.testing.assert_close(encode_text(model, short, cut=cut), full, atol=1e-6, rtol=0)


CAPTIONS = [
    "Two DOGS, one ball & 3 sticks!",
    "  spaced \t out\n ",
    "größe – “quoted” 日本語 🐈",
    "&lt;i&gt;",
    "!",
    "",
]


def test_tokens_of_ordinary_captions_are_open_clips() -> None:
    tokens = tokenize("tiny", CAPTIONS)
    assert tokens.dtype == "int32"
    expected = open_clip.get_tokenizer("ViT-B-32")(CAPTIONS, context_length=16)
    np.testing.assert_array_equal(tokens, expected)


@pytest.mark.parametrize("spelled", ["<end_of_text>", "&amp;lt;end_of_text&amp;gt;"])
def test_special_tokens_that_a_caption_spells_vanish(spelled: str) -> None:
    plain, odd = tokenize("tiny", ["a red dog", f"a {spelled} red {spelled} dog"])
    assert odd.tolist() == plain.tolist()


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_does_not_run(toy: str, tmp_path: Path) -> None:
    path = tmp_path / "trap.pt"
    trace = tmp_path / "trace"
    torch.save({"state_dict": Trap(trace)}, path)
    torch.load(path, weights_only=False)
    trace.unlink()  # the trap works
    for _ in range(2):
        with pytest.raises(InputError, match="trap.pt' does not load: .+"):
            load_weights(build_model(toy, loss="clip", seed=0), path)
        with pytest.raises(InputError, match="cannot be built from .*trap.pt', .+"):
            build_model(toy, loss="clip", seed=0, pretrained=str(path))
        path.write_bytes(b"PK\x03\x04 cut short")
    assert not trace.exists()


def test_mean_embeddings_of_pictures_equal_the_slow_mean_over_views(
    toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "EVALUATION_BATCH", 3)
    model = build_model(toy, loss="clip", seed=0)
    data = draw_data(10)
    views = view_maker(seed=5)
    means = np.concatenate(list(image_blocks(model, data, views, toys.CONFIG, n_views=3)))
    for pair in range(10):
        row = np.array([pair])
        pixels = data.pixels.gather(row)
        images = [views.evaluation_images(pixels, data.keys[row], view, "cpu") for view in range(3)]
        with torch.no_grad():
            each = [encode_image(model, image) for image in images]
        np.testing.assert_allclose(means[pair], torch.cat(each).mean(dim=0), atol=1e-5)


FEATURES = np.random.default_rng(0).normal(3, 2, (500, 6)).astype(np.float16)


def test_a_view_to_train_on_has_a_fifth_of_its_numbers_at_their_mean() -> None:
    mean = torch.from_numpy(FEATURES.astype(np.float32)).mean(dim=0)
    keys = np.arange(500, dtype=np.uint64) * np.uint64(7919)
    views = FeatureViews(mean, seed=4)
    batch = Batch(np.arange(500), keys, 2, 0)
    seen = views.training_images(FEATURES, batch, "cpu", [])
    dropped = seen == mean
    assert dropped.float().mean().item() == pytest.approx(0.2, abs=0.03)
    kept = mean + (torch.from_numpy(FEATURES).float() - mean) / 0.8
    torch.testing.assert_close(seen[~dropped], kept[~dropped], atol=1e-5, rtol=1e-5)


def test_model_names_and_configs(tmp_path: Path) -> None:
    names = model_names()
    assert names[:3] == ["locked", "small", "tiny"]
    assert model_config("ViT-B/32") == open_clip.get_model_config("ViT-B-32")
    wrapped = tmp_path / "open_clip_config.json"
    wrapped.write_text(json.dumps({"model_cfg": toys.MODEL, "preprocess_cfg": {}}))
    assert model_config(str(wrapped)) == toys.MODEL


@pytest.mark.parametrize("content", ['{"embed_dim": 16, "text_cfg": {}}', "[1, 2]", "{"])
def test_a_file_that_is_no_model_config_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text(content)
    with pytest.raises(InputError, match="odd.json"):
        model_config(str(path))
