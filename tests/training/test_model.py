"""Models start from their seed alone and encode as open_clip's own do."""

import functools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor, nn

from clipmem_core.config import InputError
from clipmem_core.training import model as under_test
from clipmem_core.training.model import build_model, encode_image, encode_text, short_attention, tokenize
from clipmem_core.training.vocabulary import can_cut_text
from tests.training import toys


def refused(*_: Any, **__: Any) -> Tensor:
    raise AssertionError("the fallback is for what the short form cannot do")


def both_ways(length: int, mask: Tensor | None) -> list[list[Tensor]]:
    """Attend by the short form and by torch: output, then gradients of input and weights, of each."""
    torch.manual_seed(0)
    attn = nn.MultiheadAttention(24, 3, batch_first=True)
    nn.init.normal_(attn.in_proj_bias)
    x, weights = torch.randn(4, length, 24), torch.randn(4, length, 24) / length
    results = []
    for attend in (
        functools.partial(short_attention, attn, refused),
        lambda x, attn_mask: attn(x, x, x, attn_mask=attn_mask, need_weights=False)[0],
    ):
        own = x.clone().requires_grad_()
        out = attend(own, attn_mask=mask)
        results.append([out, *torch.autograd.grad((out * weights).sum(), [own, *attn.parameters()])])
    return results


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 7, 128])
def test_short_attention_and_its_gradients_equal_torchs(length: int, causal: bool) -> None:
    mask = torch.full((length, length), -math.inf).triu(1) if causal else None
    ours, theirs = both_ways(length, mask)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_long_sequences_and_separate_projections_go_to_the_fallback() -> None:
    seen = []

    def fallback(x: Tensor, **_: Any) -> Tensor:
        seen.append(tuple(x.shape))
        return x

    short_attention(nn.MultiheadAttention(8, 2, batch_first=True), fallback, torch.zeros(1, 129, 8))
    short_attention(nn.MultiheadAttention(8, 2, kdim=4, batch_first=True), fallback, torch.zeros(1, 5, 8))
    assert seen == [(1, 129, 8), (1, 5, 8)]


def test_a_built_model_computes_what_open_clips_own_computes() -> None:
    ours = build_model("tiny", loss="clip", seed=0).eval()
    theirs = open_clip.create_model("tiny").eval()
    theirs.load_state_dict(ours.state_dict())
    images, tokens = torch.randn(3, 3, 32, 32), torch.from_numpy(tokenize("tiny", ["a", "a red dog", "!"])).long()
    with torch.no_grad():
        torch.testing.assert_close(
            encode_image(ours, images), theirs.encode_image(images, normalize=True), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            encode_text(ours, tokens, cut=True), theirs.encode_text(tokens, normalize=True), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("pool", ["argmax", "eos"])
@pytest.mark.parametrize("longest", [1, 3, 6])
def test_text_cut_to_the_longest_caption_equals_the_full_context(tmp_path: Path, longest: int, pool: str) -> None:
    text = {**toys.MODEL["text_cfg"], "pool_type": pool, "eos_id": toys.END}
    path = tmp_path / "toy.json"
    path.write_text(json.dumps({**toys.MODEL, "text_cfg": text}))
    model = build_model(str(path), loss="clip", seed=0).eval()
    assert can_cut_text(model)
    tokens = torch.from_numpy(toys.draw_tokens(20).astype(np.int64))
    tokens = tokens[(tokens == toys.END).int().argmax(dim=1) <= longest + 1]
    with torch.no_grad():
        full = nn.functional.normalize(model.encode_text(tokens), dim=-1)
        torch.testing.assert_close(encode_text(model, tokens, cut=True), full, atol=1e-6, rtol=0)
        torch.testing.assert_close(encode_text(model, tokens, cut=False), full, atol=1e-6, rtol=0)


@pytest.mark.parametrize("captions", [["!"], ["!!!", "a dog!", "wow ! ! !"], ["! a", "!"]])
def test_captions_of_exclamation_marks_are_not_cut_short(captions: list[str]) -> None:
    # The token of "!" is 0, and so is padding.
    model = build_model("tiny", loss="clip", seed=0).eval()
    tokens = torch.from_numpy(tokenize("tiny", captions)).long()
    assert (tokens[:, 1:-1] == 0).any()
    with torch.no_grad():
        full = nn.functional.normalize(model.encode_text(tokens), dim=-1)
        torch.testing.assert_close(encode_text(model, tokens, cut=True), full, atol=1e-6, rtol=0)


@pytest.mark.parametrize("change", [{"no_causal_mask": True}, {"pool_type": "last"}, {"pool_type": "first"}])
def test_text_is_not_cut_where_that_would_change_it(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "toy.json"
    path.write_text(json.dumps({**toys.MODEL, "text_cfg": {**toys.MODEL["text_cfg"], **change}}))
    assert not can_cut_text(build_model(str(path), loss="clip", seed=0))


def test_a_text_tower_of_its_own_keeps_the_full_context(tmp_path: Path) -> None:
    path = tmp_path / "toy.json"
    path.write_text(json.dumps({**toys.MODEL, "custom_text": True}))
    model = build_model(str(path), loss="clip", seed=0).eval()
    assert not can_cut_text(model)
    tokens = torch.from_numpy(toys.draw_tokens(3).astype(np.int64))
    assert encode_text(model, tokens, cut=False).detach().norm(dim=1).tolist() == pytest.approx([1, 1, 1])


def test_initial_weights_are_a_function_of_the_seed(toy: str) -> None:
    first, again, other = (build_model(toy, loss="clip", seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name in ("visual.conv1.weight", "token_embedding.weight", "text_projection"):
        assert not torch.equal(first[name], other[name])
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    build_model(toy, loss="clip", seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()


def test_siglip_starts_at_scale_10_and_bias_minus_10_and_clip_without_a_bias(toy: str) -> None:
    siglip, clip = (build_model(toy, loss=loss, seed=0) for loss in ("siglip", "clip"))
    assert float(siglip.logit_scale.detach().exp()) == pytest.approx(10)
    assert float(siglip.logit_bias.detach()) == -10
    assert float(clip.logit_scale.detach().exp()) == pytest.approx(1 / 0.07)
    assert clip.logit_bias is None
    assert torch.equal(siglip.visual.conv1.weight, clip.visual.conv1.weight)


def test_the_image_size_is_the_models_own_or_the_one_asked_for(toy: str) -> None:
    assert build_model(toy, loss="clip", seed=0).visual.image_size == (8, 8)
    model = build_model(toy, loss="clip", seed=0, image_size=16)
    assert encode_image(model, torch.zeros(2, 3, 16, 16)).shape == (2, 16)


def test_a_config_inside_model_cfg_is_built_with_its_own_tokens(tmp_path: Path) -> None:
    path = tmp_path / "open_clip_config.json"
    path.write_text(json.dumps({"model_cfg": toys.MODEL}))
    assert build_model(str(path), loss="clip", seed=0).visual.image_size == (8, 8)
    assert tokenize(str(path), ["a"]).shape == (1, 8)
    impostor = Path(toys.write_model(tmp_path)).rename(tmp_path / "tiny.json")
    assert build_model(str(impostor), loss="clip", seed=0).visual.image_size == (8, 8)
    assert build_model("tiny", loss="clip", seed=0).visual.image_size == (32, 32)


@pytest.mark.parametrize(
    ("vision", "reason"),
    [({"colour": 1}, "unexpected keyword argument 'colour'"), ({"width": 28}, "must be divisible by num_heads")],
)
def test_a_config_that_open_clip_cannot_build_is_refused(tmp_path: Path, vision: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=f"toy.json' cannot be built: .*{reason}"):
        build_model(toys.write_model(tmp_path, **vision), loss="clip", seed=0)


def test_a_hub_that_cannot_be_reached_gives_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("We couldn't connect to 'https://hub.example'\nto load this file.\n" + "Check again. " * 100)

    monkeypatch.setattr(under_test, "hub_answers", lambda: False)
    monkeypatch.setattr(under_test.open_clip, "create_model", offline)
    monkeypatch.setattr(under_test.open_clip, "get_tokenizer", offline)
    with pytest.raises(InputError, match="model 'roberta-ViT-B-32' cannot be built: We couldn't connect") as built:
        build_model("roberta-ViT-B-32", loss="clip", seed=0)
    with pytest.raises(InputError, match="the tokenizer of model 'roberta-ViT-B-32' cannot be had: We") as tokens:
        tokenize("roberta-ViT-B-32", ["a dog"])
    for error in (built, tokens):
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 400
