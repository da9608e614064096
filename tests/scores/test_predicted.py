import numpy as np
import pytest
from scipy.stats import spearmanr

from clipmem_core.scores.in_out import Sides
from clipmem_core.scores.membership import ensemble_membership
from clipmem_core.scores.predicted import calibrate, features


def members(*, told: float, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray], Sides, np.ndarray]:
    """Eight members; a feature of each tells how strongly a pair is memorized, but for noise, and two tell nothing."""
    rng = np.random.default_rng(seed)
    membership = ensemble_membership(np.arange(1_100), folds=8, repeats=1, seed=0, halves=True)
    memorized = rng.normal(1.0, 1.0, size=1_100)
    alignments = list(0.3 * rng.normal(size=(8, 1_100)) + memorized * membership.trained)
    own = [np.column_stack([told * memorized + rng.normal(size=1_100), *rng.normal(size=(2, 1_100))]) for _ in range(8)]
    return own, alignments, Sides(membership, "ensemble", 0), memorized


def test_a_feature_that_tells_is_found_by_members_and_pairs_left_out() -> None:
    own, alignments, sides, memorized = members(told=1.0)
    found = calibrate(own, alignments, sides)
    expected = spearmanr(own[0][:, 0], memorized).statistic  # the best that anybody can do with it
    assert found.seen == pytest.approx(expected, abs=0.05)
    assert found.unseen == pytest.approx(expected, abs=0.05)
    assert found.model.coef_[0] > 5 * np.abs(found.model.coef_[1:]).max()


def test_features_that_tell_nothing_are_told_to() -> None:
    found = calibrate(*members(told=0.0)[:3])
    assert max(abs(found.seen), abs(found.unseen), abs(found.excess)) < 0.1


def test_two_members_leave_nothing_to_judge_by() -> None:
    own, alignments, sides, _ = members(told=1.0)
    with pytest.raises(ValueError, match="at least 3 members, not 2"):
        calibrate(own[:2], alignments[:2], sides)


def test_features_do_not_depend_on_the_scale_of_a_model_and_leave_a_pair_out_of_its_neighbours() -> None:
    rng = np.random.default_rng(0)
    image, text = (rng.normal(size=(40, 8)).astype(np.float32) for _ in range(2))
    found = features(image, text, seed=0)
    np.testing.assert_allclose(features(3 * image, 3 * text, seed=0), found, atol=1e-4)
    cosines = (image @ text.T).astype(np.float64)
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.sort(cosines, axis=1)[:, -10:].mean(axis=1)
    np.testing.assert_allclose(found[:, -2], (nearest - nearest.mean()) / nearest.std(), atol=1e-4)


def test_what_differs_by_rounding_alone_is_the_same_for_all_pairs() -> None:
    rng = np.random.default_rng(0)
    unit = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in rng.normal(size=(2, 40, 8))]
    lengths = features(*(vectors.astype(np.float32) for vectors in unit), seed=0)[:, 4:6]
    assert (lengths == 0).all()
