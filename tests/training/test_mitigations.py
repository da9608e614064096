"""Mitigations: off they change nothing, on they draw by pair and epoch alone; removal of rare
tokens."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.feature_extraction.text import CountVectorizer
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import functional as tv

from clipmem_core.draws import MASK, TEXT_NOISE, draw_keys, uniforms
from clipmem_core.io import InputError
from clipmem_core.mitigations import (
    Batch,
    EmbeddingNoise,
    TextMask,
    Vocabulary,
    drop_words,
    jitter,
    pairs_with,
)
from clipmem_core.training.model import build_model, tokenize
from clipmem_core.training.trainer import HeldOutLevel, Trainer, epoch_batches, train
from tests.training.toys import END, START, draw_tokens, held_out_data, trainer


def run(member: Trainer, folder: Path) -> Path:
    folder.mkdir()
    train(member, folder)
    return folder


def seen(member: Trainer, epoch: int) -> dict[int, np.ndarray]:
    """What each trained pair meets in an epoch, by its row: view, tokens, noise on image and on
    text, in one vector."""
    found = {}
    for rows in epoch_batches(member.data, seed=member.seed, epoch=epoch, batch_size=7):
        batch = member.batch(rows, epoch)
        images, tokens = member.inputs(batch, member.data.pixels.gather(rows))
        unit = F.normalize(torch.ones(len(rows), 16), dim=1)
        image, text = changed_embeddings(member, unit, batch)
        for place, row in enumerate(rows.tolist()):
            parts = (images[place], tokens[place], text[place], image[place])
            found[row] = np.concatenate([part.numpy().ravel() for part in parts])
    return found


def changed_embeddings(member: Trainer, unit: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    image = unit
    text = unit
    for each in member.mitigations:
        image, text = each.embeddings(image, text, batch)
    return image, text


DRAWN = {"text_noise": 0.2, "image_noise": 0.1, "text_mask": 0.4, "colour": 0.5}


def test_candidate_and_independent_share_every_draw(toy: str) -> None:
    whole = held_out_data()
    keys = whole.keys.copy()
    tokens = whole.tokens.copy()
    pixels = whole.pixels.gather(np.arange(30)).copy()
    # each of three captions
    candidate = 2
    independent = 5
    keys[independent] = keys[candidate]
    pixels[independent] = pixels[candidate]
    start = whole.caption_start
    tokens[start[independent] : start[independent + 1]] = tokens[
        start[candidate] : start[candidate + 1]
    ]
    alike = replace(whole, keys=keys, tokens=tokens, pixels=type(whole.pixels)(pixels))
    f, g = (
        trainer(toy, replace(alike, rows=np.sort(np.append(np.arange(8, 24), row))), **DRAWN)
        for row in (candidate, independent)
    )
    for epoch in range(3):
        mine = seen(f, epoch)
        other = seen(g, epoch)
        other[candidate] = other.pop(independent)
        assert mine.keys() == other.keys()
        for row, drawn in mine.items():
            np.testing.assert_allclose(drawn, other[row], atol=1e-5)


def test_training_that_stops_early_is_the_beginning_of_a_whole_training(
    toy: str, tmp_path: Path
) -> None:
    whole, short = (
        run(trainer(toy, held_out_data(), epochs=5, stop_epoch=stop), tmp_path / str(stop))
        for stop in (0, 2)
    )
    one, other = (np.load(folder / "trajectory.npy") for folder in (whole, short))
    np.testing.assert_allclose(one[:2], other[:2], atol=5e-3)
    assert np.isfinite(other[:2, :24]).all()
    assert np.isnan(other[2:]).all()


@pytest.mark.parametrize(("name", "end"), [("max_logit_scale", 5.0), ("min_logit_scale", 40.0)])
def test_the_logit_scale_stays_within_its_ends(toy: str, name: str, end: float) -> None:
    member = trainer(toy, held_out_data(), **{name: end})
    member.step(member.data.rows, member.data.pixels.gather(member.data.rows))
    assert float(member.model.logit_scale.detach()) == pytest.approx(math.log(end))


def test_only_pairs_that_are_ahead_get_noise_a_mask_and_rest(toy: str) -> None:
    member = trainer(
        toy, held_out_data(), adaptive_noise=0.3, adaptive_mask=0.6, adaptive_rest=0.75
    )
    assert member.held_out is not None
    rows = np.arange(12, 24)
    ahead = rows % 2 == 0
    member.held_out.ahead[rows] = ahead
    batch = member.batch(rows, 0)
    unit = F.normalize(torch.ones(12, 16), dim=1)
    image, text = changed_embeddings(member, unit, batch)
    assert ((text - unit).abs().sum(dim=1) > 1e-3).tolist() == ahead.tolist()
    assert torch.equal(image, unit)
    weights = [weight for each in member.mitigations if (weight := each.weight(batch)) is not None]
    assert [weight.tolist() for weight in weights] == [[0.25 if one else 1.0 for one in ahead]]
    changed = (
        member.inputs(batch, member.data.pixels.gather(rows))[1].numpy()
        != member.data.tokens[batch.captions]
    )
    assert not changed.any(axis=1)[~ahead].any()
    assert changed.any()


KEYS = draw_keys([f"pair-{number}" for number in range(2000)])


@pytest.mark.parametrize("sigma", [0.01, 0.15, 0.3])
def test_noise_has_the_variance_asked_for(sigma: float) -> None:
    mitigation = EmbeddingNoise(noise_place="before")
    batch = Batch(KEYS, 3, 0)
    noise = mitigation.noisy(
        torch.zeros(2000, 128), np.full(2000, sigma), batch, TEXT_NOISE
    ).numpy()
    assert noise.mean() == pytest.approx(0, abs=4 * sigma / np.sqrt(noise.size))
    assert noise.var() == pytest.approx(sigma**2, rel=4 * np.sqrt(2 / noise.size))
    assert stats.kstest(noise[:, 0] / sigma, "norm").pvalue > 1e-3


PICTURES = torch.from_numpy(
    np.random.default_rng(0).integers(0, 256, (6, 3, 9, 9)).astype(np.float32)
)


def test_it_is_torchvisions_brightness_contrast_and_saturation() -> None:
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
    draws = uniforms(TOKEN_KEYS, CONTEXT, 0, MASK, epoch)
    return drop_words(TOKENS, ENDS, np.full(len(TOKENS), share), draws)


def words_in(tokens: np.ndarray) -> list[list[int]]:
    return [row[1 : row.index(END)] for row in tokens.tolist()]


@settings(max_examples=50)
@given(st.floats(0, 0.99), st.integers(0, 50))
def test_start_and_end_stay_and_what_is_left_keeps_its_order(share: float, epoch: int) -> None:
    left = masked(share, epoch=epoch)
    assert (left[:, 0] == START).all()
    assert ((left == END).sum(axis=1) == 1).all()
    for before, after, row in zip(words_in(TOKENS), words_in(left), left.tolist(), strict=True):
        words = iter(before)
        assert all(word in words for word in after)  # a subsequence
        assert len(after) >= 1
        assert not any(row[len(after) + 2 :])


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_the_share_asked_for_is_left_out_on_average_at_every_length(share: float) -> None:
    counts = ENDS - 1
    gone = np.mean(
        [
            counts - [len(words) for words in words_in(masked(share, epoch=epoch))]
            for epoch in range(20)
        ],
        0,
    )
    for length in range(2, CONTEXT - 1):
        of_this = gone[counts == length]
        assert of_this.mean() == pytest.approx(
            share * length, abs=4 * 0.5 / np.sqrt(20 * len(of_this))
        )
    assert not gone[counts == 1].any()  # a caption's only word stays


def test_the_end_token_is_found_in_real_captions(toy: str) -> None:
    tokens = tokenize("tiny", ["a cat", "!!! wow", "a very long caption " * 20])
    mask = TextMask(text_mask=0.5)
    mask.start(build_model("tiny", loss="clip", seed=0), tokens)
    assert (tokens[np.arange(3), mask.ends] == 49407).all()
    model = build_model(toy, loss="clip", seed=0)
    model.text_pool_type = "last"
    with pytest.raises(InputError, match="--text-mask and --adaptive-mask"):
        mask.start(model, TOKENS)
    model.text_pool_type = "eos"
    model.text_eos_id = END
    mask.start(model, TOKENS)
    assert (mask.ends == ENDS).all()


def units(n: int, seed: int) -> torch.Tensor:
    return F.normalize(
        torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)), dim=1
    )


def test_the_level_is_a_quantile_of_alignments_over_all_other_external_pairs() -> None:
    image = units(20, 0)
    text = units(20, 1)
    held_out = HeldOutLevel(50, 0.75, 2)
    held_out.measure(image, text)
    alignments = []
    for i in range(20):
        others = [j for j in range(20) if j != i]
        own = float(image[i] @ text[i])
        negative_text = np.mean([float(image[i] @ text[j]) for j in others])
        negative_image = np.mean([float(image[j] @ text[i]) for j in others])
        alignments.append(own - negative_text - negative_image)
    assert held_out.level == pytest.approx(np.quantile(alignments, 0.75), abs=1e-5)


TINY: dict[str, Any] = {"text_cfg": {"vocab_size": 12, "context_length": 7}}
FIRST = 10
LAST = 11
captions = st.lists(st.integers(1, 9), max_size=5)
pair_lists = st.lists(st.lists(captions, min_size=1, max_size=3), min_size=1, max_size=12)


def tokens_of(captions: list[list[int]]) -> np.ndarray:
    tokens = np.zeros((len(captions), 7), dtype=np.int32)
    for row, words in enumerate(captions):
        tokens[row, : len(words) + 2] = [FIRST, *words, LAST]
    return tokens


def read_words(row: np.ndarray) -> list[int]:
    return [int(token) for token in row if 0 < token < FIRST]


@given(pair_lists, st.integers(1, 4), st.integers(0, 2), st.data())
def test_the_tokens_that_are_read_are_scikit_learns(
    pairs: list[list[list[int]]], min_df: int, first: int, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.integers(0, len(pairs) - 1), unique=True, min_size=1))
    documents = [
        " ".join(str(word) for caption in pairs[row][: first or None] for word in caption)
        for row in rows
    ]
    words = CountVectorizer(
        token_pattern=r"\d+", vocabulary=[str(number) for number in range(12)], binary=True
    )
    frequency = np.asarray(words.fit_transform(documents).sum(axis=0)).ravel()
    start = np.concatenate([[0], np.cumsum([len(own) for own in pairs])])
    tokens = tokens_of([caption for own in pairs for caption in own])
    counts = pairs_with(TINY, tokens, start, np.array(rows), first=first)
    assert counts.tolist() == frequency.tolist()
    for before, after in zip(tokens, Vocabulary(TINY, counts, min_df).read(tokens), strict=True):
        left = [word for word in read_words(before) if frequency[word] >= min_df]
        if read_words(before) and not left:  # the most common one stays, the first of several
            left = [max(read_words(before), key=lambda word: frequency[word])]
        assert after.tolist() == tokens_of([left])[0].tolist()
