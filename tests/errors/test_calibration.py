"""The evidence that captions are wrong, against slow loops and planted errors."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from clipmem_core.errors import calibration, evidence
from clipmem_core.errors.calibration import CaptionEvidence, probabilities
from clipmem_core.errors.evidence import agreement, draw_decoys
from clipmem_core.errors.misfit import DECOY
from clipmem_core.utils.embeddings import unit
from clipmem_core.utils.ragged import Ragged


@pytest.mark.parametrize("with_decoys", [False, True])
def test_agreement_is_that_of_a_slow_loop(with_decoys: bool) -> None:
    features = np.random.default_rng(0).normal(size=(13, 5))
    cosine = unit(features) @ unit(features).T
    captions = Ragged.of([3, 1, 5, 2, 2])
    start = captions.start
    decoys = np.array([(0, 12, 0), (5, 1, 0), (10, 3, 0), (8, 8, 0)], DECOY)
    found = agreement(features, captions, decoys if with_decoys else None)
    places = decoys.tolist() if with_decoys else [(k, k, False) for k in range(13)]
    for row, (place, text, _) in enumerate(places):
        pair = np.searchsorted(start, place, side="right") - 1
        siblings = [k for k in range(start[pair], start[pair + 1]) if k != place]
        if not siblings:
            assert np.isnan(found[row]).all()
            continue
        observed = cosine[text, siblings]
        among = [cosine[a, b] for a, b in itertools.combinations(siblings, 2)]
        expected = observed.max(), observed.mean() - np.mean(among) if among else 0.0
        np.testing.assert_allclose(found[row], expected, atol=1e-6)


def test_half_of_the_decoys_are_similar_captions_of_other_pictures() -> None:
    rng = np.random.default_rng(0)
    # pictures come in pairs of near-duplicates
    captions = Ragged.of(np.full(300, 2))
    clusters = np.repeat(np.arange(150), 2)
    topic = rng.normal(size=(20, 8))
    features = topic[np.arange(600) % 20] + 0.1 * rng.normal(size=(600, 8))
    decoys = draw_decoys(features, captions, clusters, seed=3)
    place, text, similar = (decoys[name] for name in DECOY.names or ())
    assert len(decoys) > 590
    assert (np.diff(text) >= 0).all()
    assert (clusters[place // 2] != clusters[text // 2]).all()
    same_topic = place % 20 == text % 20
    assert same_topic[similar].mean() == 1
    assert same_topic[~similar].mean() < 0.2


def planted(seed: int) -> tuple[CaptionEvidence, np.ndarray]:
    """Return evidence on 600 pairs of three captions, and the kind of error of each caption: pair,
    caption, word."""
    rng = np.random.default_rng(seed)
    by_pair = np.full((600, 3), "", dtype=object)
    by_pair[:40] = "pair"
    by_pair[40:80, 0] = "caption"
    by_pair[80:120, 1] = "word"
    fit = rng.normal(5, 1, 600) - 5 * (by_pair[:, 0] == "pair")
    kind = by_pair.ravel()
    captions = rng.normal(0, 1, (1800, 3)) - 3 * (kind == "caption")[:, None]
    surprise = rng.normal(-3, 1, (1800, 4))
    surprise[kind == "word", 2] += 7
    surprise[(kind == "pair") | (kind == "caption")] += 5  # of a caption of another picture
    words = {
        "caption_row": np.repeat(np.arange(1800), 4),
        "surprise": surprise.ravel(),
        "changed": rng.normal(4, 1, 7200),
        "kind": 2,
    }
    given = CaptionEvidence(
        of_pairs=Ragged.of(np.full(600, 3)),
        fit=fit,
        swapped=rng.normal(0, 1, 600),
        misfit=rng.normal(0, 0.1, 600) - fit,
        captions=captions,
        decoys=rng.normal(-3, 1, (1000, 3)),
        similar=np.arange(1000) % 2 == 1,
        words=pd.DataFrame(words),
        read=np.ones(1800, bool),
        not_captions=np.zeros(1800, bool),
    )
    return given, kind


def test_each_kind_of_error_is_found_as_what_it_is_and_counted() -> None:
    given, kind = planted(0)
    found = probabilities(given)
    parts = found.captions[["p_pair", "p_caption", "p_word"]]
    np.testing.assert_allclose(parts.sum(axis=1), found.captions["p_wrong"], atol=1e-12)
    for name in ("pair", "caption", "word"):
        assert (parts[kind == name].idxmax(axis=1) == f"p_{name}").mean() > 0.9
        assert found.captions["p_wrong"][kind == name].mean() > 0.9
    assert found.captions["p_wrong"][kind == ""].mean() < 0.02
    for name in ("pairs", "captions", "words"):
        assert found.counts[name].estimate == pytest.approx(40, rel=0.2)
    by_pair = found.captions["p_wrong"].to_numpy().reshape(600, 3)
    assert (found.pairs >= by_pair.max(axis=1) - 1e-9).all()
    # Of four words, the third one is wrong.
    of_captions = found.captions["p_word"].to_numpy()[:, None]
    words = found.word_share.reshape(1800, 4) * of_captions
    assert words[kind == "word", 2].mean() > 0.9
    assert words[kind == "word"][:, [0, 1, 3]].mean() < 0.05
    assert found.kinds == [
        {"kind": "other word", "auroc": pytest.approx(1, abs=0.05), "seen": True}
    ]


def test_captions_that_are_not_read_have_no_probability_and_are_not_counted() -> None:
    given, kind = planted(0)
    read = (kind != "caption") & (np.arange(1800) >= 60)  # of the 40 wrong pairs 20 are read
    some = read.reshape(600, 3).any(axis=1)
    fit, misfit = (np.where(some, values, np.nan) for values in (given.fit, given.misfit))
    captions = np.where(read[:, None], given.captions, np.nan)
    known = {"fit": fit, "misfit": misfit, "captions": captions, "read": read}
    found = probabilities(dataclasses.replace(given, **known))
    assert (found.captions.notna().to_numpy() == read[:, None]).all()
    assert (np.isfinite(found.pairs) == some).all()
    assert found.counts["pairs"].estimate == pytest.approx(20, rel=0.2)
    assert found.counts["captions"].estimate < 5
    assert found.counts["words"].estimate == pytest.approx(40, rel=0.2)


def test_a_pair_is_wrong_if_all_of_it_or_one_of_its_captions_is() -> None:
    found = probabilities(planted(1)[0])
    columns = ["p_pair", "p_caption", "p_word"]
    p_pair, p_caption, p_word = (
        found.captions[columns].to_numpy().reshape(600, 3, 3).transpose(2, 0, 1)
    )
    right = (1 - (p_caption + p_word) / (1 - p_pair)).prod(axis=1)
    np.testing.assert_allclose(found.pairs, 1 - (1 - p_pair[:, 0]) * right, atol=1e-9)


def test_texts_that_are_no_captions_exclude_the_other_parts() -> None:
    given, kind = planted(1)
    is_none = np.zeros(1800, bool)
    is_none[[0, 1, 2, 1500]] = True  # all of a wrong pair, and one of a right one
    found = probabilities(dataclasses.replace(given, not_captions=is_none))
    checked = calibration.with_faults(found, given.of_pairs, is_none, np.zeros(600))
    parts = checked.captions[["p_check", "p_pair", "p_caption", "p_word"]]
    np.testing.assert_allclose(parts.sum(axis=1), checked.captions["p_wrong"], atol=1e-12)
    assert (checked.captions["p_wrong"][is_none] >= 0.98).all()
    np.testing.assert_allclose(checked.captions[~is_none], found.captions[~is_none])
    np.testing.assert_allclose(checked.parts.sum(axis=0), checked.pairs)
    assert checked.parts[0, [0, 500, 501]] == pytest.approx([1 - 0.02**3, 0.98, 0])


def test_a_text_that_recurs_and_fits_no_picture_is_found() -> None:
    """Six vague texts, six equal ones that fit, and wrong captions like right ones."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(600, 64))
    gaps = rng.normal(0.5, 0.1, 600)
    vague, fitting, wrong = np.arange(6), np.arange(10, 16), np.arange(20, 26)
    for rows in (vague, fitting, np.arange(20, 40)):
        features[rows] = features[rows[0]] + rng.normal(0, 0.1, (len(rows), 64))
    gaps[vague] = rng.normal(0, 0.1, 6)
    gaps[wrong] = rng.normal(0, 0.1, 6)
    pictures = np.arange(600)
    found = evidence.recurring_texts(features, gaps, pictures, pictures)
    assert np.flatnonzero(found).tolist() == vague.tolist()
    pictures[vague] = 0  # six copies of one picture
    assert not evidence.recurring_texts(features, gaps, np.arange(600), pictures).any()


def test_parts_without_evidence_are_0() -> None:
    given, _ = planted(2)
    without = dataclasses.replace(given, decoys=given.decoys[:0], words=given.words[:0])
    found = probabilities(without)
    assert (found.captions[["p_caption", "p_word"]] == 0).all(axis=None)
    np.testing.assert_allclose(found.captions["p_wrong"], np.repeat(found.pairs, 3), atol=1e-12)


def test_random_decoys_in_one_half_of_the_pairs_tell_nothing_of_specificity() -> None:
    given, _ = planted(3)
    one = {"similar": np.arange(1000) > 0, "texts": np.arange(1000), "features": given.captions}
    found = probabilities(dataclasses.replace(given, **one))
    assert found.specific is None
    assert found.captions.notna().all(axis=None)


def test_the_log_ratio_of_each_kind_of_word_has_its_own_ratio() -> None:
    """Different evidence separates each kind; the ratio is that of the densities."""
    rng = np.random.default_rng(0)
    kinds = np.arange(3000) % 3
    values = rng.normal(0, 1, (3000, 2, 4))
    values[np.arange(3000), 1, kinds] += 2  # only this one separates the kind
    found = calibration.word_log_ratio(calibration.fit_words(values, kinds), values, kinds)
    expected = 2 * values[np.arange(3000), :, kinds] - 2
    np.testing.assert_allclose(expit(found), expit(expected), atol=0.2)
