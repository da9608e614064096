from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.io import InputError
from clipmem_core.scores import membership
from clipmem_core.scores.membership import Sides, ensemble_membership, paper_membership


@st.composite
def clusters(draw: st.DrawFn) -> np.ndarray:
    n = draw(st.integers(200, 700))
    n_clusters = draw(st.integers(int(0.6 * n), 2 * n))
    return np.random.default_rng(draw(st.integers(0, 1_000))).integers(n_clusters, size=n)


def _is_constant_within(values: np.ndarray, ids: np.ndarray) -> bool:
    return all(len(np.unique(values[..., ids == one], axis=-1).T) == 1 for one in np.unique(ids))


@settings(max_examples=30)
@given(
    clusters(), st.sampled_from([2, 3, 4, 6]), st.integers(1, 3), st.integers(0, 99), st.booleans()
)
def test_an_ensemble_leaves_each_scored_pair_out_and_keeps_near_duplicates_together(
    ids: np.ndarray, folds: int, repeats: int, seed: int, halves: bool
) -> None:
    halves = halves and folds % 2 == 0
    drawn = ensemble_membership(ids, folds=folds, repeats=repeats, seed=seed, halves=halves)
    scored = drawn.group == "scored"
    assert (drawn.group == "external").sum() == (~scored).sum() == membership.group_size(len(ids))
    assert not drawn.trained[:, ~scored].any()
    left_out = ~drawn.trained.reshape(repeats, folds, -1)[:, :, scored]
    assert (left_out.sum(axis=1) == (folds // 2 if halves else 1)).all()
    largest = np.unique(ids[scored], return_counts=True)[1].max()
    assert halves or np.ptp(left_out.sum(axis=2), axis=1).max() <= largest
    assert _is_constant_within(drawn.group, ids)
    assert _is_constant_within(drawn.trained, ids)


@settings(max_examples=20)
@given(clusters(), st.integers(1, 3), st.integers(0, 99))
def test_paper_groups_have_their_sizes_and_trained_members(
    ids: np.ndarray, seeds: int, seed: int
) -> None:
    drawn = paper_membership(ids, seeds=seeds, seed=seed)
    size = membership.group_size(len(ids))
    in_f = drawn.trained[0::2]
    in_g = drawn.trained[1::2]
    for name, f, g in (
        ("candidate", True, False),
        ("independent", False, True),
        ("external", False, False),
    ):
        rows = drawn.group == name
        assert rows.sum() == size
        assert (in_f[:, rows] == f).all()
        assert (in_g[:, rows] == g).all()
    shared = drawn.group == "shared"
    assert shared.sum() == len(ids) - 3 * size
    assert drawn.trained[:, shared].all()
    assert _is_constant_within(drawn.group, ids)


def test_more_repeats_or_seeds_only_add_members_folds_are_even_and_another_seed_draws_others() -> (
    None
):
    ids = np.random.default_rng(0).integers(300, size=400)
    one, three = (ensemble_membership(ids, folds=3, repeats=repeats, seed=5) for repeats in (1, 3))
    assert (one.group == three.group).all()
    assert (one.trained == three.trained[:3]).all()
    assert one.members == three.members[:3]
    one, three = (paper_membership(ids, seeds=seeds, seed=5) for seeds in (1, 3))
    assert (one.group == three.group).all()
    assert three.members == ("f-0", "g-0", "f-1", "g-1", "f-2", "g-2")
    drawn = ensemble_membership(np.arange(301), folds=4, repeats=2, seed=0)
    sizes = (~drawn.trained[:, drawn.group == "scored"]).sum(axis=1)
    assert sorted(sizes[:4]) == [62, 63, 63, 63]
    one, other = (
        ensemble_membership(np.arange(300), folds=2, repeats=1, seed=seed) for seed in (0, 1)
    )
    assert (one.group != other.group).any()
    assert (one.trained != other.trained).any()


@pytest.mark.parametrize(
    ("message", "divisor", "how"),
    [
        ("folds must be at most 250", 1, {"folds": 251, "repeats": 1}),
        ("no way to fill the group external with 50 pairs", 60, {"folds": 2, "repeats": 1}),
        ("near-duplicate pictures leave no way .* --drop-near-duplicates", 3, {"seeds": 1}),
    ],
)
def test_what_cannot_be_drawn_is_named_in_one_line(
    message: str, divisor: int, how: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=message):
        (paper_membership if "seeds" in how else ensemble_membership)(
            np.arange(300) // divisor, seed=0, **how
        )


def test_half_of_the_external_pairs_is_set_apart_and_near_duplicates_stay_together() -> None:
    clusters = np.arange(600)
    clusters[1::5] = clusters[::5]  # a fifth of the pairs has a twin
    drawn = paper_membership(clusters, seeds=1, seed=3)
    utility_only = membership.draw_utility_pairs(drawn.group, clusters, seed=3)
    external = drawn.group == "external"
    assert (utility_only.sum(), external.sum()) == (27, 54)
    assert not (utility_only & ~external).any()
    assert not set(clusters[utility_only]) & set(clusters[external & ~utility_only])
    assert (utility_only != membership.draw_utility_pairs(drawn.group, clusters, seed=4)).any()


def test_external_pairs_have_one_member_out_in_each_repeat_and_scored_pairs_keep_the_truth() -> (
    None
):
    drawn = ensemble_membership(np.arange(300), folds=3, repeats=2, seed=0)
    inside = Sides(drawn, "ensemble", 1).inside
    scored = drawn.group == "scored"
    assert (inside[:, scored] == drawn.trained[:, scored]).all()
    assert ((~inside).reshape(2, 3, -1).sum(axis=1) == 1).all()
    assert len(np.unique(inside[:, ~scored], axis=1).T) > 5
    small, large = (
        ensemble_membership(np.arange(300), folds=2, repeats=repeats, seed=0) for repeats in (1, 2)
    )
    few, many = (Sides(drawn, "ensemble", 1).inside for drawn in (small, large))
    assert (few == many[:2]).all()
    drawn = paper_membership(np.arange(300), seeds=2, seed=0)
    inside = Sides(drawn, "paper", 0).inside
    assert inside[:, 7].tolist() == [True, False, True, False]
    assert (inside == inside[:, :1]).all()


def test_side_means_agree_with_masked_arrays() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 40))
    inside = rng.random((5, 40)) < 0.5
    inside[:, 0] = True
    inside[:, 1] = False
    for mean, hidden in zip(
        membership.side_means(list(values), inside), (~inside, inside), strict=True
    ):
        np.testing.assert_allclose(
            mean, np.ma.array(values, mask=hidden).mean(axis=0).filled(np.nan)
        )
    sides = Sides(ensemble_membership(np.arange(300), folds=3, repeats=4, seed=0), "ensemble", 0)
    values = rng.normal(size=(12, 300))
    found = membership.replicate_clipmem(list(values), sides.replicates, sides.inside).mean(axis=0)
    np.testing.assert_allclose(
        found, np.subtract(*membership.side_means(list(values), sides.inside))
    )


def test_many_labellings_are_sampled_with_one_member_of_every_repeat() -> None:
    drawn = ensemble_membership(np.arange(300), folds=3, repeats=6, seed=0)
    drawn = np.stack(list(membership.labellings(Sides(drawn, "ensemble", 0), 5)))  # of 729 in all
    assert drawn.shape == (256, 6, 5)
    assert (drawn // 3 == np.arange(6)[None, :, None]).all()
    assert len(np.unique(drawn[:, :, 0], axis=0)) > 150
    halves = ensemble_membership(np.arange(300), folds=4, repeats=3, seed=0, halves=True)
    sides = Sides(halves, "ensemble", 0)
    drawn = np.stack(list(membership.labellings(sides, 2)))  # of 216: all
    assert drawn.shape == (216, 6, 2)
    assert drawn[:6, -2:, 0].tolist() == [[8, 9], [8, 10], [8, 11], [9, 10], [9, 11], [10, 11]]
    assert (np.bincount(drawn[:, :, 0].ravel()) == 108).all()
    external = halves.group == "external"
    assert (sides.inside[:, external].reshape(3, 4, -1).sum(axis=1) == 2).all()


def test_names_that_do_not_fit_are_named() -> None:
    assert membership.protocol_of(("r0-f0", "r0-f1")) == "ensemble"
    with pytest.raises(InputError, match="not a, b"):
        membership.protocol_of(("a", "b"))
    with pytest.raises(InputError, match="found f-0, g-1"):
        membership.replicate_rows(("f-0", "g-1"))
