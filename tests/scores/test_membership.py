import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.config import InputError
from clipmem_core.scores.membership import ensemble_membership, group_size, paper_membership, set_apart


@st.composite
def clusters(draw: st.DrawFn) -> np.ndarray:
    n = draw(st.integers(200, 700))
    n_clusters = draw(st.integers(int(0.6 * n), 2 * n))
    return np.random.default_rng(draw(st.integers(0, 1_000))).integers(n_clusters, size=n)


def _is_constant_within(values: np.ndarray, ids: np.ndarray) -> bool:
    return all(len(np.unique(values[..., ids == one], axis=-1).T) == 1 for one in np.unique(ids))


@settings(max_examples=20)
@given(clusters(), st.integers(2, 4), st.integers(1, 3), st.integers(0, 99))
def test_ensemble_leaves_every_scored_pair_out_once_a_repeat_and_keeps_look_alikes_together(
    ids: np.ndarray, folds: int, repeats: int, seed: int
) -> None:
    drawn = ensemble_membership(ids, folds=folds, repeats=repeats, seed=seed)
    scored = drawn.group == "scored"
    assert drawn.trained.shape == (folds * repeats, len(ids))
    assert ((drawn.group == "external") == ~scored).all()
    assert (~scored).sum() == group_size(len(ids))
    assert not drawn.trained[:, ~scored].any()
    left_out = ~drawn.trained.reshape(repeats, folds, -1)[:, :, scored]
    assert (left_out.sum(axis=1) == 1).all()
    parts = left_out.sum(axis=2)
    assert np.ptp(parts, axis=1).max() <= np.unique(ids[scored], return_counts=True)[1].max()
    assert _is_constant_within(drawn.group, ids)
    assert _is_constant_within(drawn.trained, ids)


@settings(max_examples=10)
@given(clusters(), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_halves_leave_every_scored_pair_out_of_half_of_a_repeat(
    ids: np.ndarray, half: int, repeats: int, seed: int
) -> None:
    drawn = ensemble_membership(ids, folds=2 * half, repeats=repeats, seed=seed, halves=True)
    scored = drawn.group == "scored"
    assert not drawn.trained[:, ~scored].any()
    assert (drawn.trained.reshape(repeats, 2 * half, -1)[:, :, scored].sum(axis=1) == half).all()
    assert _is_constant_within(drawn.trained, ids)


def test_members_of_halves_are_all_but_unrelated_and_more_repeats_leave_the_first_as_they_are() -> None:
    small, large = (
        ensemble_membership(np.arange(4_400), folds=16, repeats=repeats, seed=3, halves=True) for repeats in (1, 2)
    )
    assert (small.trained == large.trained[:16]).all()
    trained = large.trained[:, large.group == "scored"]
    between = np.corrcoef(trained)[~np.eye(32, dtype=bool)]
    # A half of 16 drawn without putting back: -1/15 within a repeat, 0 between two; 4,000 pairs have an error of .016.
    assert abs(between.mean() - (15 * -1 / 15 + 16 * 0) / 31) < 0.005
    assert np.abs(between).max() < 0.15


@settings(max_examples=20)
@given(clusters(), st.integers(1, 3), st.integers(0, 99))
def test_paper_groups_have_their_sizes_and_trained_members(ids: np.ndarray, seeds: int, seed: int) -> None:
    drawn = paper_membership(ids, seeds=seeds, seed=seed)
    size = group_size(len(ids))
    in_f, in_g = drawn.trained[0::2], drawn.trained[1::2]
    for name, f, g in (("candidate", True, False), ("independent", False, True), ("external", False, False)):
        rows = drawn.group == name
        assert rows.sum() == size
        assert (in_f[:, rows] == f).all()
        assert (in_g[:, rows] == g).all()
    shared = drawn.group == "shared"
    assert shared.sum() == len(ids) - 3 * size
    assert drawn.trained[:, shared].all()
    assert _is_constant_within(drawn.group, ids)


def test_more_repeats_or_seeds_only_add_members_folds_are_even_and_another_seed_draws_others() -> None:
    ids = np.random.default_rng(0).integers(300, size=400)
    small, large = (ensemble_membership(ids, folds=3, repeats=repeats, seed=5) for repeats in (1, 3))
    assert (small.group == large.group).all()
    assert (small.trained == large.trained[:3]).all()
    assert small.members == large.members[:3]
    one, three = (paper_membership(ids, seeds=seeds, seed=5) for seeds in (1, 3))
    assert (one.group == three.group).all()
    assert three.members == ("f-0", "g-0", "f-1", "g-1", "f-2", "g-2")
    drawn = ensemble_membership(np.arange(301), folds=4, repeats=2, seed=0)
    sizes = (~drawn.trained[:, drawn.group == "scored"]).sum(axis=1)
    assert sorted(sizes[:4]) == [62, 63, 63, 63]
    one, other = (ensemble_membership(np.arange(300), folds=2, repeats=1, seed=seed) for seed in (0, 1))
    assert (one.group != other.group).any()
    assert (one.trained != other.trained).any()


def test_groups_of_twins_are_filled_exactly_when_single_pairs_are_few() -> None:
    ids = np.concatenate([np.arange(280) // 2, [900, 901, 902, 903, 904]])  # 285 pairs, groups of 50
    drawn = paper_membership(ids, seeds=1, seed=0)
    assert {name: int((drawn.group == name).sum()) for name in ("candidate", "independent", "external")} == {
        "candidate": 50,
        "independent": 50,
        "external": 50,
    }


@pytest.mark.parametrize(("n", "size"), [(200, 50), (549, 50), (572, 52), (55_000, 5_000), (10**6, 5_000)])
def test_a_group_is_one_part_in_eleven_between_fifty_and_five_thousand(n: int, size: int) -> None:
    assert group_size(n) == size


def test_wrong_wishes_are_named_in_one_line() -> None:
    singles = np.arange(300)
    with pytest.raises(InputError, match="needs at least 200 usable pairs, found 199"):
        group_size(199)
    with pytest.raises(InputError, match="folds must be at least 2, not 1"):
        ensemble_membership(singles, folds=1, repeats=2, seed=0)
    with pytest.raises(InputError, match="repeats must be at least 1, not 0"):
        ensemble_membership(singles, folds=2, repeats=0, seed=0)
    with pytest.raises(InputError, match="folds must be at most 250"):
        ensemble_membership(singles, folds=251, repeats=1, seed=0)
    with pytest.raises(InputError, match="folds must be even .* not 3"):
        ensemble_membership(singles, folds=3, repeats=1, seed=0, halves=True)
    with pytest.raises(InputError, match="seeds must be at least 1, not 0"):
        paper_membership(singles, seeds=0, seed=0)
    with pytest.raises(InputError, match="no way to fill the group external with 50 pairs"):
        ensemble_membership(singles // 60, folds=2, repeats=1, seed=0)
    with pytest.raises(InputError, match="look-alike pictures leave no way .* --drop-lookalikes"):
        paper_membership(singles // 3, seeds=1, seed=0)


def test_half_of_the_external_pairs_is_set_apart_and_look_alikes_stay_together() -> None:
    clusters = np.arange(600)
    clusters[1::5] = clusters[::5]  # a fifth of the pairs has a twin
    drawn = paper_membership(clusters, seeds=1, seed=3)
    apart = set_apart(drawn.group, clusters, seed=3)
    external = drawn.group == "external"
    assert (apart.sum(), external.sum()) == (27, 54)
    assert not (apart & ~external).any()
    assert not set(clusters[apart]) & set(clusters[external & ~apart])
    assert (apart != set_apart(drawn.group, clusters, seed=4)).any()
