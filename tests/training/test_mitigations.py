"""Mitigations: off they change nothing, on they draw by pair and epoch alone; removal of rare
tokens."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F
from torchvision.transforms import functional as tv

from clipmem_core.mitigations import (
    Batch,
    EmbeddingNoise,
    Vocabulary,
    caption_ends,
    drop_words,
    jitter,
    pairs_with,
)
from clipmem_core.training import model_config
from clipmem_core.training.model import tokenize
from clipmem_core.training.trainer import Trainer, train
from clipmem_core.utils.draws import draw_keys, uniforms
from clipmem_core.utils.io import InputError
from clipmem_core.utils.ragged import Ragged
from tests.training.toys import END, START, draw_tokens, held_out_data, trainer


def inputs_of(member: Trainer, rows: np.ndarray) -> list[np.ndarray]:
    """Return views, tokens and noisy embeddings of pairs, by pair."""
    batch = member.batch(rows, 1)
    images = member.images(batch)
    tokens = member.tokens(batch)
    image = text = F.normalize(torch.ones(len(rows), 16), dim=1)
    for each in member.mitigations:
        image, text = each.embeddings(image, text, batch)
    return [part.numpy() for part in (images, tokens, image, text)]


def test_candidate_and_independent_share_every_draw(toy: str) -> None:
    data = held_out_data()
    # Each has three captions.
    candidate = 2
    independent = 5
    data.keys[independent] = data.keys[candidate]
    data.pixels.values[independent] = data.pixels.values[candidate]
    start = data.captions.start
    data.tokens[start[independent] :][:3] = data.tokens[start[candidate] :][:3]
    drawn = {"text_noise": 0.2, "image_noise": 0.1, "text_mask": 0.4, "colour": 0.5}
    member = trainer(toy, data, **drawn)
    one = inputs_of(member, np.array([9, candidate, 12]))
    other = inputs_of(member, np.array([independent, 3, 4, 9]))
    for mine, others in zip(one, other, strict=True):
        np.testing.assert_allclose(mine[[1, 0]], others[[0, 3]], atol=1e-5)


def test_an_early_stop_is_the_beginning_of_the_training(toy: str, tmp_path: Path) -> None:
    trajectories = []
    for stop in (0, 2):
        train(trainer(toy, held_out_data(), epochs=5, stop_epoch=stop), tmp_path)
        trajectories.append(np.load(tmp_path / "trajectory.npy"))
    one, other = trajectories
    np.testing.assert_allclose(one[:2], other[:2], atol=5e-3)
    assert np.isfinite(other[:2, :24]).all()
    assert np.isnan(other[2:]).all()
    assert np.isnan(one[:, 24:]).all()  # held-out pairs


@pytest.mark.parametrize(("name", "end"), [("max_logit_scale", 5.0), ("min_logit_scale", 40.0)])
def test_the_logit_scale_stays_within_its_bounds(toy: str, name: str, end: float) -> None:
    member = trainer(toy, held_out_data(), **{name: end})
    member.step(member.data.rows)
    assert float(member.model.logit_scale.detach()) == pytest.approx(math.log(end))


def test_only_pairs_that_are_ahead_get_noise_a_mask_and_rest(toy: str) -> None:
    data = held_out_data()
    member = trainer(toy, data, adaptive_noise=0.3, adaptive_mask=0.6, adaptive_rest=0.75)
    rows = np.arange(12, 24)
    ahead = rows % 2 == 0
    member.mitigations[0].state["early"][rows] = torch.from_numpy(ahead)
    images, tokens, image, text = (
        (changed != plain).reshape(12, -1).any(axis=1)
        for changed, plain in zip(
            inputs_of(member, rows), inputs_of(trainer(toy, data), rows), strict=True
        )
    )
    assert not images.any()
    assert not image.any()
    assert text.tolist() == ahead.tolist()
    assert tokens.any()
    assert not tokens[~ahead].any()
    weights = member.mitigations[0].weight(member.batch(rows, 0))
    assert weights.tolist() == np.where(ahead, 0.25, 1.0).tolist()


KEYS = draw_keys([f"pair-{number}" for number in range(2000)])


def test_noise_is_normal_with_its_standard_deviation() -> None:
    sigma = 0.15
    mitigation = EmbeddingNoise(text_noise=sigma, noise_place="before")
    zeros = torch.zeros(2000, 128)
    noise = mitigation.embeddings(zeros, zeros, Batch(np.arange(2000), KEYS, 3, 0))[1].numpy()
    assert noise.std() == pytest.approx(sigma, rel=0.01)
    assert stats.kstest(noise[:, 0] / sigma, "norm").pvalue > 1e-3


PICTURES = torch.from_numpy(
    np.random.default_rng(0).integers(0, 256, (6, 3, 9, 9)).astype(np.float32)
)


def test_colours_change_by_torchvisions_formulas() -> None:
    factors = np.random.default_rng(1).uniform(0.2, 1.8, (6, 3))
    changed = jitter(PICTURES, factors)
    for picture, own, (brightness, contrast, saturation) in zip(
        PICTURES, changed, factors, strict=True
    ):
        bright = tv.adjust_brightness(picture / 255, brightness)
        theirs = tv.adjust_saturation(tv.adjust_contrast(bright, contrast), saturation)
        torch.testing.assert_close(own / 255, theirs, atol=1e-5, rtol=0)


CONTEXT = 16
TOKENS = draw_tokens(4000, context=CONTEXT)
ENDS = (TOKENS == END).argmax(axis=1)
TOKEN_KEYS = draw_keys([f"pair-{number}" for number in range(len(TOKENS))])


def masked(share: float, *, epoch: int = 0) -> np.ndarray:
    draws = uniforms(TOKEN_KEYS, CONTEXT, 0, "mask", epoch)
    return drop_words(TOKENS, ENDS, np.full(len(TOKENS), share), draws)


def words_in(tokens: np.ndarray) -> list[list[int]]:
    return [row[1 : row.index(END)] for row in tokens.tolist()]


def test_masking_keeps_start_end_order_and_the_share_of_words_on_average() -> None:
    counts = ENDS - 1
    lengths = []
    for epoch in range(20):
        left = masked(0.3, epoch=epoch)
        assert (left[:, 0] == START).all()
        assert ((left == END).sum(axis=1) == 1).all()
        lengths.append([len(words) for words in words_in(left)])
    for before, after in zip(words_in(TOKENS), words_in(left), strict=True):
        words = iter(before)
        assert all(word in words for word in after)  # a subsequence
    dropped = counts - np.mean(lengths, axis=0)
    for length in range(2, CONTEXT - 1):
        assert dropped[counts == length].mean() == pytest.approx(0.3 * length, abs=0.05)
    assert not dropped[counts == 1].any()  # a caption's only word stays


def test_the_end_token_is_found_or_refused() -> None:
    tokens = tokenize("tiny", ["a cat", "!!! wow", "a very long caption " * 20])
    ends = caption_ends(model_config("tiny"), tokens)
    assert (tokens[np.arange(3), ends] == 49407).all()
    eos = {"text_cfg": {"pool_type": "eos", "eos_id": END}}
    assert (caption_ends(eos, TOKENS) == ENDS).all()
    with pytest.raises(InputError, match="--text-mask"):
        caption_ends({"text_cfg": {"pool_type": "last"}}, TOKENS)


def test_a_pair_is_early_if_its_alignment_is_above_a_quantile_of_the_held_out_ones(
    toy: str,
) -> None:
    config = {"adaptive_rest": 1.0, "adaptive_quantile": 0.5, "adaptive_every": 1}
    member = trainer(toy, held_out_data(40), crop_scale=1.0, **config)
    adaptive = member.mitigations[0]
    data = member.data
    for _ in range(3):
        member.step(data.rows)
    adaptive.before_epoch(member, 1)
    with torch.no_grad():
        batch = member.batch(np.arange(40), 1)
        image = member.model.encode_image(member.images(batch), normalize=True)
        text = member.model.encode_text(member.tokens(batch), normalize=True)
    cosines = (image @ text.T).numpy()
    held_out = cosines[np.ix_(data.held_out, data.held_out)]
    others = held_out - np.diag(np.diag(held_out))
    alignments = np.diag(held_out) - (others.sum(axis=0) + others.sum(axis=1)) / 5
    level = np.quantile(alignments, 0.5)
    assert adaptive.state["level"] == pytest.approx(level, abs=1e-5)
    member.forward_loss(data.rows, 1)
    mean = cosines[:, data.held_out].mean(axis=1) + cosines[data.held_out].mean(axis=0)
    early = (np.diag(cosines) - mean > level)[data.rows]
    assert 0 < early.sum() < len(early)
    assert adaptive.state["early"][data.rows].tolist() == early.tolist()


def test_rare_tokens_are_dropped_but_for_the_most_common_of_a_caption() -> None:
    config = {"text_cfg": {"vocab_size": 12, "context_length": 6}}
    # Start 10, end 11; the first pair has two captions.
    tokens = np.array(
        [[10, 1, 2, 2, 11, 0], [10, 3, 11, 0, 0, 0], [10, 1, 3, 11, 0, 0], [10, 4, 5, 11, 0, 0]]
    )
    captions = Ragged.of([2, 1, 1])
    counts = pairs_with(config, tokens, captions, np.arange(3), first=0)
    assert counts.tolist() == [0, 2, 1, 2, 1, 1, 0, 0, 0, 0, 0, 0]
    first = pairs_with(config, tokens, captions, np.arange(2), first=1)
    assert first.tolist() == [0, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert Vocabulary(config, counts, 2).read(tokens).tolist() == [
        [10, 1, 11, 0, 0, 0],
        [10, 3, 11, 0, 0, 0],
        [10, 1, 3, 11, 0, 0],
        [10, 4, 11, 0, 0, 0],
    ]
