"""Draws who trains on what from look-alike clusters of pairs: groups, folds and members of both protocols.

Pairs of one cluster always share group and fold, since a twin in training hides memorization.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipmem_core.columns import CANDIDATE, EXTERNAL, INDEPENDENT, SCORED, SHARED
from clipmem_core.config import InputError

MIN_PAIRS = 200
MIN_GROUP = 50
MAX_GROUP = 5_000
_ATTEMPTS = 16  # random orders tried before groups of an exact size are given up
# Separate random streams; 2 and 3 are those of in_out.
_GROUP_DRAW, _FOLD_DRAW, _HALF_DRAW, _APART_DRAW = 0, 1, 4, 5


@dataclass(frozen=True, eq=False)
class Membership:
    """Who trains on what.

    Attributes:
        group: name of each pair's group, [n_pairs].
        members: names of the members, in column order.
        trained: true where the member trains on the pair, [n_members, n_pairs].
    """

    group: np.ndarray
    members: tuple[str, ...]
    trained: np.ndarray


def group_size(n_pairs: int) -> int:
    """Return how many pairs the external group has (and candidate and independent): a part in 11, from 50 to 5,000.

    The paper's proportions: 65,000 shared pairs beside groups of 5,000.

    Args:
        n_pairs: usable pairs in all.

    Raises:
        InputError: fewer than 200 usable pairs.

    Example:
        >>> group_size(5_500), group_size(300), group_size(1_000_000)
        (500, 50, 5000)
    """
    if n_pairs < MIN_PAIRS:
        raise InputError(
            f"an audit needs at least {MIN_PAIRS} usable pairs, found {n_pairs}: "
            "add pairs, or repair those in quarantine (`inspect` lists them)"
        )
    return min(MAX_GROUP, max(MIN_GROUP, n_pairs // 11))


def ensemble_membership(
    clusters: np.ndarray, *, folds: int, repeats: int, seed: int, halves: bool = False
) -> Membership:
    """Draw repeated cross-validation: in each repeat every scored pair is left out by one member, or by half of them.

    Each repeat and the external group have a random stream of their own: a larger `repeats` only adds members.

    Args:
        clusters: look-alike cluster of each pair, [n_pairs]; equal numbers are look-alikes.
        folds: parts a repeat is cut into, at least 2; member `r<repeat>-f<fold>` leaves that part out. With `halves`
            the members of a repeat, an even number.
        repeats: how often the scored pairs are cut anew, at least 1.
        seed: start of every draw.
        halves: each pair is left out by half of the members of a repeat, which half drawn for it alone, so that what
            two members train on is as good as unrelated; complementary folds are as unlike as can be.

    Returns:
        Groups `scored` and `external`; folds × repeats members. Folds differ by at most one look-alike cluster.

    Raises:
        InputError: too few pairs, folds or repeats, or look-alike clusters too large for an external group.

    Example:
        >>> drawn = ensemble_membership(np.arange(300), folds=2, repeats=2, seed=0)
        >>> drawn.members, int((drawn.group == "external").sum()), drawn.trained.sum(axis=1).tolist()
        (('r0-f0', 'r0-f1', 'r1-f0', 'r1-f1'), 50, [125, 125, 125, 125])
    """
    size = group_size(len(clusters))
    cluster, sizes = _sized(clusters)
    _check_at_least("folds", folds, 2)
    _check_at_least("repeats", repeats, 1)
    if halves and folds % 2:
        raise InputError(f"folds must be even where each pair is left out by half of a repeat's members, not {folds}")
    (external,) = _draw_groups(sizes, size, 1, np.random.default_rng([seed, _GROUP_DRAW]))
    if sizes[external].sum() < MIN_GROUP:
        raise InputError(_too_many_lookalikes("external", size))
    scored = np.setdiff1d(np.arange(len(sizes)), external)
    if len(scored) < folds:
        raise InputError(f"folds must be at most {len(scored)}, the clusters of look-alikes to score, not {folds}")

    group = np.where(np.isin(cluster, external), EXTERNAL, SCORED)
    trained = np.zeros((repeats * folds, len(cluster)), dtype=bool)
    for repeat in range(repeats):
        if halves:
            out = _half(np.random.default_rng([seed, _HALF_DRAW, repeat]).random((folds, len(sizes))))
            trained[repeat * folds : (repeat + 1) * folds] = (group == SCORED) & ~out[:, cluster]
            continue
        fold = np.full(len(sizes), -1)
        fold[scored] = _cut(sizes[scored], folds, np.random.default_rng([seed, _FOLD_DRAW, repeat]))
        for left_out in range(folds):
            trained[repeat * folds + left_out] = (group == SCORED) & (fold[cluster] != left_out)
    members = tuple(f"r{repeat}-f{fold}" for repeat in range(repeats) for fold in range(folds))
    return Membership(group, members, trained)


def paper_membership(clusters: np.ndarray, *, seeds: int, seed: int) -> Membership:
    """Draw the paper's four groups: f trains on shared and candidate, g on shared and independent, neither on external.

    Groups do not depend on `seeds`: every seed trains its f and g on the same groups.

    Args:
        clusters: look-alike cluster of each pair, [n_pairs]; equal numbers are look-alikes.
        seeds: how many f and g there are, at least 1: members f-0, g-0, f-1, g-1, …
        seed: start of every draw.

    Returns:
        Candidate, independent and external of exactly `group_size` pairs each, the rest shared.

    Raises:
        InputError: too few pairs or seeds, or look-alike clusters too large for groups of that size.

    Example:
        >>> drawn = paper_membership(np.arange(550), seeds=1, seed=0)
        >>> drawn.members, drawn.trained.sum(axis=1).tolist(), int((drawn.group == "shared").sum())
        (('f-0', 'g-0'), [450, 450], 400)
    """
    size = group_size(len(clusters))
    cluster, sizes = _sized(clusters)
    _check_at_least("seeds", seeds, 1)
    names = (CANDIDATE, INDEPENDENT, EXTERNAL)
    chosen = _draw_groups(sizes, size, len(names), np.random.default_rng([seed, _GROUP_DRAW]))
    group = np.full(len(cluster), SHARED, dtype=f"<U{len(INDEPENDENT)}")
    for name, ids in zip(names, chosen, strict=True):
        if sizes[ids].sum() != size:
            raise InputError(_too_many_lookalikes("candidate, independent and external", size))
        group[np.isin(cluster, ids)] = name

    shared = group == SHARED
    trained = np.stack([shared | (group == CANDIDATE), shared | (group == INDEPENDENT)] * seeds)
    members = tuple(f"{side}-{number}" for number in range(seeds) for side in "fg")
    return Membership(group, members, trained)


def set_apart(group: np.ndarray, clusters: np.ndarray, *, seed: int) -> np.ndarray:
    """Draw the half of the external pairs that utility alone is measured on, true for them, [n_pairs].

    What it leaves centres alignments and steers adaptive mitigations, so that no arm is judged on pairs that it was
    steered by. Look-alikes stay together.

    Args:
        group: name of each pair's group, [n_pairs].
        clusters: look-alike cluster of each pair, [n_pairs].
        seed: start of every draw.

    Example:
        >>> group = np.array(["external"] * 6 + ["shared"] * 2)
        >>> apart = set_apart(group, np.array([0, 0, 2, 3, 4, 5, 6, 7]), seed=0)
        >>> int(apart.sum()), bool(apart[0] == apart[1]), apart[6:].tolist()
        (3, True, [False, False])
    """
    rows = np.flatnonzero(group == EXTERNAL)
    cluster, sizes = _sized(clusters[rows])
    (chosen,) = _draw_groups(sizes, len(rows) // 2, 1, np.random.default_rng([seed, _APART_DRAW]))
    apart = np.zeros(len(group), dtype=bool)
    apart[rows[np.isin(cluster, chosen)]] = True
    return apart


def _sized(clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each pair's cluster numbered from 0, [n_pairs], and the size of each cluster."""
    _, cluster, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    return cluster, sizes


def _draw_groups(sizes: np.ndarray, target: int, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Draw `count` disjoint sets of clusters of `target` pairs each, or as near below as the last order allows."""
    chosen: list[np.ndarray] = []
    for _ in range(_ATTEMPTS):
        order, chosen = rng.permutation(len(sizes)), []
        for _ in range(count):
            positions = _adding_up(sizes[order], target)
            chosen.append(order[positions])
            order = np.delete(order, positions)
        if all(sizes[ids].sum() == target for ids in chosen):
            break
    return chosen


def _adding_up(sizes: np.ndarray, target: int) -> list[int]:
    """Return positions of sizes that add up to `target`, or to the largest sum below it, from the shortest prefix.

    Subset sums by dynamic programming: bit s of a number says that a sum of s can be reached. The prefix of a random
    order ends as soon as the target is reached, so clusters are taken about as often as they occur.
    """
    within = (1 << (target + 1)) - 1
    reached, grew = [1], []
    for position in map(int, np.flatnonzero(sizes <= target)):  # few are looked at, and there may be millions
        grown = (reached[-1] | reached[-1] << int(sizes[position])) & within
        if grown != reached[-1]:
            reached.append(grown)
            grew.append(position)
        if grown >> target:
            break
    left, chosen = reached[-1].bit_length() - 1, []
    for position, before in zip(reversed(grew), reversed(reached[:-1]), strict=True):
        size = int(sizes[position])
        if size <= left and before >> (left - size) & 1:
            chosen.append(position)
            left -= size
    return chosen


def _cut(sizes: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random fold for each cluster: large clusters first, each into the smallest fold, then single pairs."""
    order = rng.permutation(len(sizes))
    names = rng.permutation(folds)
    several = order[sizes[order] > 1]
    single = order[sizes[order] == 1]
    fold = np.empty(len(sizes), dtype=np.int64)
    load = [(0, position) for position in range(folds)]
    for cluster in several[np.argsort(-sizes[several], kind="stable")].tolist():
        filled, position = heapq.heappop(load)
        fold[cluster] = position
        heapq.heappush(load, (filled + int(sizes[cluster]), position))
    fold[single] = _level(sorted(load, key=lambda entry: entry[1]), len(single))
    return names[fold]


def _half(numbers: np.ndarray) -> np.ndarray:
    """Let the members with the lower numbers leave a cluster out, true for that half, [members, n_clusters]."""
    return numbers.argsort(axis=0).argsort(axis=0) < len(numbers) // 2


def _level(load: Sequence[tuple[int, int]], count: int) -> np.ndarray:
    """Return the fold of each of `count` single pairs so that the loads end as level as they can, [count]."""
    levels = np.arange(count)[:, None] + np.array([filled for filled, _ in load])
    return np.argsort(levels.ravel(), kind="stable")[:count] % len(load)


def _check_at_least(name: str, given: int, least: int) -> None:
    if given < least:
        raise InputError(f"{name} must be at least {least}, not {given}")


def _too_many_lookalikes(groups: str, size: int) -> str:
    return (
        f"look-alike pictures leave no way to fill the group {groups} with {size} pairs each: "
        "use --drop-lookalikes, or add other pairs"
    )
