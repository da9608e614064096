import numpy as np
import pytest

from clipmem_core.config import InputError
from clipmem_core.scores.in_out import (
    Sides,
    in_side,
    labellings,
    protocol_of,
    replicate_clipmem,
    replicate_rows,
    side_means,
)
from clipmem_core.scores.membership import ensemble_membership, paper_membership


def test_external_pairs_have_one_member_out_in_each_repeat_and_scored_pairs_keep_the_truth() -> None:
    drawn = ensemble_membership(np.arange(300), folds=3, repeats=2, seed=0)
    inside = in_side(drawn, protocol="ensemble", seed=1)
    scored = drawn.group == "scored"
    assert (inside[:, scored] == drawn.trained[:, scored]).all()
    assert ((~inside).reshape(2, 3, -1).sum(axis=1) == 1).all()
    assert len(np.unique(inside[:, ~scored], axis=1).T) > 5
    small, large = (ensemble_membership(np.arange(300), folds=2, repeats=repeats, seed=0) for repeats in (1, 2))
    few, many = (in_side(drawn, protocol="ensemble", seed=1) for drawn in (small, large))
    assert (few == many[:2]).all()
    drawn = paper_membership(np.arange(300), seeds=2, seed=0)
    inside = in_side(drawn, protocol="paper", seed=0)
    assert inside[:, 7].tolist() == [True, False, True, False]
    assert (inside == inside[:, :1]).all()


def test_side_means_agree_with_masked_arrays() -> None:
    rng = np.random.default_rng(0)
    values, inside = rng.normal(size=(5, 40)), rng.random((5, 40)) < 0.5
    inside[:, 0], inside[:, 1] = True, False
    mean_in, mean_out = side_means(list(values), inside)
    for mean, hidden in ((mean_in, ~inside), (mean_out, inside)):
        np.testing.assert_allclose(mean, np.ma.array(values, mask=hidden).mean(axis=0).filled(np.nan))
    assert np.isnan(mean_out[0])
    assert np.isnan(mean_in[1])
    drawn = ensemble_membership(np.arange(300), folds=3, repeats=4, seed=0)
    values = list(np.random.default_rng(0).normal(size=(12, 300)))
    sides = Sides(drawn, "ensemble", 0)
    mean_in, mean_out = side_means(values, sides.inside)
    np.testing.assert_allclose(
        replicate_clipmem(values, sides.replicates, sides.inside).mean(axis=0), mean_in - mean_out
    )


def test_many_labellings_are_sampled_with_one_member_of_every_repeat() -> None:
    drawn = ensemble_membership(np.arange(300), folds=3, repeats=6, seed=0)
    drawn = np.stack(list(labellings(Sides(drawn, "ensemble", 0), 5)))  # of 729 in all
    assert drawn.shape == (256, 6, 5)
    assert (drawn // 3 == np.arange(6)[None, :, None]).all()
    assert len(np.unique(drawn[:, :, 0], axis=0)) > 150
    one, two = (
        Sides(ensemble_membership(np.arange(300), folds=4, repeats=repeats, seed=0, halves=True), "ensemble", 0)
        for repeats in (1, 3)
    )
    assert [tuple(label[:, 0]) for label in labellings(one, 1)] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    drawn = np.stack(list(labellings(two, 2)))  # of 216: all
    assert drawn.shape == (216, 6, 2)
    assert (np.bincount(drawn[:, :, 0].ravel()) == 108).all()
    external = two.membership.group == "external"
    assert (two.inside[:, external].reshape(3, 4, -1).sum(axis=1) == 2).all()


def test_names_and_protocols_that_do_not_fit_are_named() -> None:
    assert protocol_of(("r0-f0", "r0-f1")) == "ensemble"
    with pytest.raises(InputError, match="not a, b: rename the columns"):
        protocol_of(("a", "b"))
    with pytest.raises(InputError, match="protocol paper must be named f-<seed> and g-<seed>, not r0-f0"):
        replicate_rows(("r0-f0",), protocol="paper")
    with pytest.raises(InputError, match="every seed needs one f and one g, found f-0, g-1"):
        replicate_rows(("f-0", "g-1"), protocol="paper")
    with pytest.raises(ValueError, match="protocol must be one of ensemble, paper, not 'both'"):
        replicate_rows(("f-0", "g-0"), protocol="both")
    with pytest.raises(ValueError, match="one array for each of 2 members, not 1"):
        side_means([np.zeros(3)], np.ones((2, 3), dtype=bool))
