"""The evidence that captions are wrong, against slow loops and planted errors."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import norm

from clipmem_core.scores import evidence
from clipmem_core.scores.evidence import (
    CaptionEvidence,
    agreement,
    draw_decoys,
    fit_ratio,
    log_ratio,
    probabilities,
)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("with_decoys", [False, True])
def test_agreement_is_that_of_a_slow_loop(with_decoys: bool) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(13, 5))
    start = np.array([0, 3, 4, 9, 11, 13])
    decoys = np.array([(0, 12), (5, 1), (10, 3), (8, 8)])
    places = [
        (place, text) for place, text in (decoys if with_decoys else [(k, k) for k in range(13)])
    ]
    found = agreement(features, start, decoys if with_decoys else None)
    for row, (place, text) in enumerate(places):
        pair = np.searchsorted(start, place, side="right") - 1
        siblings = [k for k in range(start[pair], start[pair + 1]) if k != place]
        if not siblings:
            assert np.isnan(found[row]).all()
            continue
        own = [cosine(features[text], features[k]) for k in siblings]
        among = [cosine(features[a], features[b]) for a in siblings for b in siblings if a < b]
        expected = max(own), np.mean(own) - np.mean(among) if among else 0.0
        np.testing.assert_allclose(found[row], expected, atol=1e-6)


def test_decoys_are_captions_of_other_pictures_and_half_of_them_are_similar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    # pictures come in pairs of near-duplicates
    start = np.arange(0, 601, 2)
    clusters = np.repeat(np.arange(150), 2)
    topic = rng.normal(size=(20, 8))
    features = topic[np.arange(600) % 20] + 0.1 * rng.normal(size=(600, 8))
    decoys = draw_decoys(features, start, clusters, seed=3)
    place, text, similar = decoys.T
    assert len(decoys) > 590
    assert (np.diff(text) >= 0).all()
    assert (clusters[place // 2] != clusters[text // 2]).all()
    same_topic = place % 20 == text % 20
    assert same_topic[similar == 1].mean() == 1
    assert same_topic[similar == 0].mean() < 0.2
    assert (decoys == draw_decoys(features, start, clusters, seed=3)).all()
    assert not len(
        draw_decoys(features, np.arange(601), np.arange(600), seed=0)
    )  # no caption has a sibling
    monkeypatch.setattr(evidence, "MOST_DECOYS", 50)
    assert len(draw_decoys(features, start, clusters, seed=3)) == pytest.approx(50, abs=3)


def test_the_ratio_of_two_normal_classes_is_that_of_their_densities() -> None:
    rng = np.random.default_rng(0)
    right = rng.normal([0, 5], [1, 2], (4000, 2))
    wrong = rng.normal([1, 3], [1, 2], (1000, 2))
    points = rng.normal([0.5, 4], 1.5, (100, 2))
    expected = (norm.logpdf(points, [1, 3], [1, 2]) - norm.logpdf(points, [0, 5], [1, 2])).sum(
        axis=1
    )
    np.testing.assert_allclose(log_ratio(fit_ratio(right, wrong), points), expected, atol=0.4)


def planted(seed: int) -> tuple[CaptionEvidence, np.ndarray]:
    """Return evidence on 600 pairs of three captions, and the kind of error of each caption: pair,
    caption, word."""
    rng = np.random.default_rng(seed)
    kind = np.full((600, 3), "", dtype=object)
    kind[:40] = "pair"
    kind[40:80, 0] = "caption"
    kind[80:120, 1] = "word"
    fit = rng.normal(5, 1, 600) - 5 * (kind[:, 0] == "pair")
    flat = kind.ravel()
    captions = rng.normal(0, 1, (1800, 3))
    decoys = rng.normal(-3, 1, (1000, 3))
    captions[flat == "caption"] -= 3
    surprise = rng.normal(-3, 1, (1800, 4))
    changed = rng.normal(4, 1, (1800, 4))
    surprise[flat == "word", 2] += 7
    surprise[(flat == "pair") | (flat == "caption")] += (
        5  # the words of a caption of another picture surprise too
    )
    columns = {
        "caption_row": np.repeat(np.arange(1800), 4),
        "surprise": surprise.ravel(),
        "changed": changed.ravel(),
    }
    words = pd.DataFrame(columns | {"kind": 2})
    similar = np.arange(1000) % 2
    counts = np.full(600, 3)
    misfit = -fit + rng.normal(0, 0.1, 600)
    return CaptionEvidence(
        counts, fit, rng.normal(0, 1, 600), misfit, captions, decoys, similar, words
    ), flat


def test_each_kind_of_error_is_found_as_what_it_is_and_counted() -> None:
    given, kind = planted(0)
    found = probabilities(given)
    parts = found.captions[["p_pair", "p_caption", "p_word"]]
    np.testing.assert_allclose(parts.sum(axis=1), found.captions["p_wrong"], atol=1e-12)
    for name in ("pair", "caption", "word"):
        assert (parts[kind == name].idxmax(axis=1) == f"p_{name}").mean() > 0.9
        assert found.captions["p_wrong"][kind == name].mean() > 0.9
    assert found.captions["p_wrong"][kind == ""].mean() < 0.02
    for name, wrong in (("pairs", 40), ("captions", 40), ("words", 40)):
        count = found.counts[name]
        assert count.low is not None
        assert count.high is not None
        assert count.low <= wrong <= count.high
        assert count.estimate == pytest.approx(wrong, rel=0.2)
    by_pair = found.captions["p_wrong"].to_numpy().reshape(600, 3)
    np.testing.assert_allclose(found.worst, by_pair.max(axis=1))
    assert (found.pairs >= found.worst - 1e-9).all()
    # Of four words, the third one is wrong.
    words = found.words.reshape(1800, 4)
    assert words[kind == "word", 2].mean() > 0.9
    assert words[kind == "word"][:, [0, 1, 3]].mean() < 0.05
    assert found.kinds == [
        {"kind": "other word", "auroc": pytest.approx(1, abs=0.05), "seen": True}
    ]


def test_a_pair_is_wrong_if_all_of_it_or_one_of_its_captions_is() -> None:
    found = probabilities(planted(1)[0])
    parts = found.captions.to_numpy().reshape(600, 3, 4)
    whole = parts[:, 0, 0]
    others = 1 - (parts[:, :, 1] + parts[:, :, 2]) / (1 - parts[:, :, 0])
    np.testing.assert_allclose(found.pairs, 1 - (1 - whole) * others.prod(axis=1), atol=1e-9)


def test_parts_without_evidence_are_0_and_few_pairs_are_ordered_by_misfit() -> None:
    given, kind = planted(2)
    alone = probabilities(CaptionEvidence(given.counts, given.fit, given.swapped, given.misfit))
    assert (alone.captions[["p_caption", "p_word"]] == 0).all(axis=None)
    np.testing.assert_allclose(alone.captions["p_wrong"], np.repeat(alone.pairs, 3), atol=1e-12)
    assert (np.diff(alone.worst[np.argsort(-given.misfit)]) <= 0).all()
    unseen = probabilities(
        dataclasses.replace(given, decoys=given.decoys * np.nan)
    )  # every member saw a part
    assert (unseen.captions["p_caption"] == 0).all()
    assert unseen.counts["captions"].missing
    few = CaptionEvidence(given.counts[:50], given.fit[:50], given.swapped[:50], given.misfit[:50])
    assert np.isnan(probabilities(few).pairs).all()
    np.testing.assert_array_equal(probabilities(few).worst, few.misfit)


def test_the_surprise_of_each_kind_of_word_has_its_own_ratio() -> None:
    """Kinds are told apart by different evidence; the ratio is that of known densities."""
    rng = np.random.default_rng(0)
    kinds = np.arange(3000) % 3
    values = rng.normal(0, 1, (3000, 2, 4))
    values[np.arange(3000), 1, kinds] += 2  # only this one separates the kind
    found = evidence.surprise(evidence.fit_words(values, kinds), values, kinds)
    own = values[np.arange(3000), :, kinds]
    np.testing.assert_allclose(expit(found), expit(2 * own - 2), atol=0.2)
    values[:5] = np.nan
    assert np.isnan(evidence.surprise(evidence.fit_words(values, kinds), values, kinds)[:5]).all()
