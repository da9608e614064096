import numpy as np

from clipmem_core.scores.captions import gaps, learned_by_caption, margins, odd_captions, similarities


def test_the_margin_is_that_of_a_slow_loop_and_leaves_a_pairs_own_picture_out() -> None:
    rng = np.random.default_rng(0)
    image, owner, beside = rng.normal(size=(30, 5)), np.repeat(np.arange(30), 2), np.arange(15, 30)
    vectors = rng.normal(size=(60, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = similarities(vectors, image, owner)
    found = margins(vectors, similarity, owner, image, beside)
    for caption in range(60):
        cosines = {row: vectors[caption] @ image[row] / np.linalg.norm(image[row]) for row in range(30)}
        near = sorted((cosines[row] for row in beside if row != owner[caption]), reverse=True)[:10]
        assert np.isclose(similarity[caption], cosines[owner[caption]])
        assert np.isclose(found[caption], cosines[owner[caption]] - np.mean(near))


def test_without_other_external_pictures_there_is_no_margin() -> None:
    vectors = np.eye(3)
    assert np.isnan(margins(vectors, np.ones(3), np.arange(3), np.eye(3), np.array([2]))).all()


def test_captions_of_late_epochs_do_not_look_better_learned() -> None:
    """Every pair gains one with each epoch, and nothing depends on the caption: all captions come out at 0."""
    log_probability = np.arange(6.0)[:, None] + np.zeros((6, 4))
    log_probability[:, 3] = np.nan
    rng = np.random.default_rng(0)
    drawn = [np.array([0, 2, 4]) + rng.integers(2, size=3) for _ in range(6)]
    found = learned_by_caption(log_probability, np.arange(3), drawn, 8)
    assert np.nanmax(np.abs(found)) == 0
    assert np.isnan(found[6:]).all()


def test_one_wrong_caption_of_five_is_the_odd_one() -> None:
    rng = np.random.default_rng(0)
    margin, owner = rng.normal(0, 0.1, 500), np.repeat(np.arange(100), 5)
    margin += np.repeat(rng.normal(0, 1, 100), 5)  # pairs differ by far more
    wrong = np.arange(0, 500, 50) + np.arange(10) % 5
    margin[wrong] -= 1
    assert np.flatnonzero(odd_captions(gaps(margin, owner))).tolist() == wrong.tolist()
    assert not odd_captions(np.full(3, np.nan)).any()
