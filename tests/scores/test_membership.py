import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.scores import membership
from clipmem_core.scores.membership import ensemble_membership, paper_membership
from clipmem_core.utils.io import InputError
from tests.scores.simulated import ensemble_in_out, paper_in_out


@st.composite
def clusters(draw: st.DrawFn) -> np.ndarray:
    n = draw(st.integers(200, 700))
    n_clusters = draw(st.integers(int(0.6 * n), 2 * n))
    return np.random.default_rng(draw(st.integers(0, 1_000))).integers(n_clusters, size=n)


def _is_constant_within(values: np.ndarray, ids: np.ndarray) -> bool:
    _, first, cluster = np.unique(ids, return_index=True, return_inverse=True)
    return bool((values == values[..., first[cluster]]).all())


@settings(max_examples=30)
@given(
    clusters(), st.sampled_from([2, 3, 4, 6]), st.integers(1, 3), st.integers(0, 99), st.booleans()
)
def test_an_ensemble_leaves_each_scored_pair_out(
    ids: np.ndarray, folds: int, replicates: int, seed: int, halves: bool
) -> None:
    halves = halves and folds % 2 == 0
    drawn = ensemble_membership(ids, folds=folds, replicates=replicates, seed=seed, halves=halves)
    scored = drawn.group == "scored"
    assert (drawn.group == "held-out").sum() == (~scored).sum() == membership.group_size(len(ids))
    assert not drawn.trained[:, ~scored].any()
    left_out = ~drawn.trained.reshape(replicates, folds, -1)[:, :, scored]
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
    assert (in_f == np.isin(drawn.group, ["shared", "candidate"])).all()
    assert (in_g == np.isin(drawn.group, ["shared", "independent"])).all()
    names, counts = np.unique(drawn.group, return_counts=True)
    assert names.tolist() == ["candidate", "held-out", "independent", "shared"]
    assert counts[:3].tolist() == [size] * 3
    assert _is_constant_within(drawn.group, ids)


def test_what_cannot_be_drawn_is_an_input_error() -> None:
    ids = np.arange(300)
    for clusters, folds in ((ids, 251), (ids // 60, 2)):
        with pytest.raises(InputError, match="folds|held-out"):
            ensemble_membership(clusters, folds=folds, replicates=1, seed=0, halves=False)
    with pytest.raises(InputError, match="--drop-near-duplicates"):
        paper_membership(ids // 3, seeds=1, seed=0)


def test_half_of_the_held_out_pairs_is_for_utility_only() -> None:
    clusters = np.arange(600)
    clusters[1::5] = clusters[::5]  # a fifth of the pairs has a near-duplicate
    drawn = paper_membership(clusters, seeds=1, seed=3)
    utility_only = membership.draw_utility_pairs(drawn.group, clusters, seed=3)
    held_out = drawn.group == "held-out"
    assert (utility_only.sum(), held_out.sum()) == (27, 54)
    assert not (utility_only & ~held_out).any()
    assert not set(clusters[utility_only]) & set(clusters[held_out & ~utility_only])
    assert (utility_only != membership.draw_utility_pairs(drawn.group, clusters, seed=4)).any()


def test_held_out_pairs_have_random_sides_in_an_ensemble_and_f_in_the_paper() -> None:
    in_out = ensemble_in_out(300, folds=3)
    held_out = in_out.held_out
    assert (in_out.inside == in_out.membership.trained)[:, ~held_out].all()
    assert ((~in_out.inside).reshape(2, 3, -1).sum(axis=1) == 1).all()
    assert len(np.unique(in_out.inside[:, held_out], axis=1).T) > 5
    assert (
        ensemble_in_out(300, folds=3, replicates=1).inside == in_out.inside[:3]
    ).all()  # it grows
    inside = paper_in_out(300, seeds=2).inside
    assert (inside == np.array([True, False, True, False])[:, None]).all()


def test_many_labellings_are_sampled_and_few_are_all() -> None:
    in_out = ensemble_in_out(300, folds=3, replicates=6)
    inside = np.stack(list(membership.labellings(in_out, np.arange(5))))  # of 729 in all
    assert inside.shape == (256, 18, 5)
    assert ((~inside).reshape(256, 6, 3, 5).sum(axis=2) == 1).all()
    assert len(np.unique(inside[:, :, 0], axis=0)) > 150
    in_out = ensemble_in_out(300, folds=4, replicates=3, halves=True)
    inside = np.stack(list(membership.labellings(in_out, np.arange(2))))  # of 216: all
    assert len(np.unique(inside[:, :, 0], axis=0)) == len(inside) == 216
    assert (inside.reshape(216, 3, 4, 2).sum(axis=2) == 2).all()
