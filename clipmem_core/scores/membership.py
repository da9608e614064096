"""Who trains on what: groups, folds and members of both protocols, and which members count as in
and out of a pair.

Pairs of one cluster of near-duplicates always share group and fold, since a twin in training hides
memorization; `clusters` numbers the cluster of each pair, [n_pairs]. A replicate is a repeat of the
ensemble (`r0-f0`, `r0-f1`, …) or a seed of the paper (`f-0`, `g-0`).
"""

import functools
import heapq
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from clipmem_core.columns import CANDIDATE, EXTERNAL, INDEPENDENT, SCORED, SHARED
from clipmem_core.io import InputError

MIN_PAIRS = 200
MIN_GROUP = 50
MAX_GROUP = 5_000
MAX_LABELLINGS = 256
_ATTEMPTS = 16  # random orders tried for groups of an exact size
# Random streams
_GROUP_DRAW, _FOLD_DRAW, _LABEL_DRAW, _NULL_DRAW, _HALF_DRAW, _APART_DRAW, _WORD_DRAW = range(7)
_NAMES = {"ensemble": re.compile(r"r(\d+)-f\d+"), "paper": re.compile(r"[fg]-(\d+)")}


@dataclass(frozen=True, eq=False)
class Membership:
    """Who trains on what."""

    group: np.ndarray  # name of each pair's group, [n_pairs]
    members: tuple[str, ...]  # names, in column order
    trained: np.ndarray  # true where the member trains on the pair, [n_members, n_pairs]


def group_size(n_pairs: int) -> int:
    """Return how many pairs external, candidate and independent have: the paper's part in 11, from
    50 to 5,000.

    Example:
        >>> group_size(5_500), group_size(300), group_size(1_000_000)
        (500, 50, 5000)
    """
    if n_pairs < MIN_PAIRS:
        advice = "add pairs, or repair the rows that `inspect` lists"
        raise InputError(
            f"an audit needs at least {MIN_PAIRS} usable pairs, found {n_pairs}: {advice}"
        )
    return min(MAX_GROUP, max(MIN_GROUP, n_pairs // 11))


def ensemble_membership(
    clusters: np.ndarray, *, folds: int, repeats: int, seed: int, halves: bool = False
) -> Membership:
    """Draw repeated cross-validation: in each repeat every scored pair is left out by one member,
    or by half of them.

    Each repeat and the external group have a random stream of their own: a larger `repeats` only
    adds members. Folds differ by at most one cluster.

    Args:
        clusters: of near-duplicates.
        folds: members of a repeat, at least 2; member `r<repeat>-f<fold>` leaves that fold out.
        repeats: how often the scored pairs are split, at least 1.
        halves: each pair is left out by a random half of the members of a repeat (`folds` is even),
            so that the training sets of two members are nearly unrelated.
    """
    size = group_size(len(clusters))
    cluster, sizes = _sized(clusters)
    (external,) = _draw_groups(sizes, size, 1, np.random.default_rng([seed, _GROUP_DRAW]))
    if sizes[external].sum() < MIN_GROUP:
        raise InputError(_too_many_near_duplicates("external", size))
    scored = np.setdiff1d(np.arange(len(sizes)), external)
    if len(scored) < folds:
        raise InputError(
            f"folds must be at most {len(scored)}, the clusters of near-duplicates to score, not "
            f"{folds}"
        )

    group = np.where(np.isin(cluster, external), EXTERNAL, SCORED)
    trained = np.zeros((repeats * folds, len(cluster)), dtype=bool)
    for repeat in range(repeats):
        if halves:
            numbers = np.random.default_rng([seed, _HALF_DRAW, repeat]).random((folds, len(sizes)))
            out = numbers.argsort(axis=0).argsort(axis=0) < folds // 2
            trained[repeat * folds : (repeat + 1) * folds] = (group == SCORED) & ~out[:, cluster]
            continue
        fold = np.full(len(sizes), -1)
        fold[scored] = _draw_folds(
            sizes[scored], folds, np.random.default_rng([seed, _FOLD_DRAW, repeat])
        )
        for left_out in range(folds):
            trained[repeat * folds + left_out] = (group == SCORED) & (fold[cluster] != left_out)
    members = tuple(f"r{repeat}-f{fold}" for repeat in range(repeats) for fold in range(folds))
    return Membership(group, members, trained)


def paper_membership(clusters: np.ndarray, *, seeds: int, seed: int) -> Membership:
    """Draw the paper's four groups: f trains on shared and candidate, g on shared and independent,
    neither on external.

    Candidate, independent and external have exactly `group_size` pairs each, the rest is shared.
    Groups do not depend on `seeds`, the number of f and g (members f-0, g-0, f-1, g-1, …).
    """
    size = group_size(len(clusters))
    cluster, sizes = _sized(clusters)
    names = (CANDIDATE, INDEPENDENT, EXTERNAL)
    chosen = _draw_groups(sizes, size, len(names), np.random.default_rng([seed, _GROUP_DRAW]))
    group = np.full(len(cluster), SHARED, dtype=f"<U{len(INDEPENDENT)}")
    for name, ids in zip(names, chosen, strict=True):
        if sizes[ids].sum() != size:
            raise InputError(_too_many_near_duplicates("candidate, independent and external", size))
        group[np.isin(cluster, ids)] = name

    shared = group == SHARED
    trained = np.stack([shared | (group == CANDIDATE), shared | (group == INDEPENDENT)] * seeds)
    members = tuple(f"{side}-{number}" for number in range(seeds) for side in "fg")
    return Membership(group, members, trained)


def draw_utility_pairs(group: np.ndarray, clusters: np.ndarray, *, seed: int) -> np.ndarray:
    """Draw the half of the external pairs that only utility is measured on, whole clusters, true in
    [n_pairs].

    The other half centres alignments and steers adaptive mitigations, so no arm is evaluated on
    pairs that steered it.
    """
    rows = np.flatnonzero(group == EXTERNAL)
    cluster, sizes = _sized(clusters[rows])
    (chosen,) = _draw_groups(sizes, len(rows) // 2, 1, np.random.default_rng([seed, _APART_DRAW]))
    utility_only = np.zeros(len(group), dtype=bool)
    utility_only[rows[np.isin(cluster, chosen)]] = True
    return utility_only


def draw_word_halves(group: np.ndarray, clusters: np.ndarray, *, seed: int) -> np.ndarray:
    """Draw which word model trains on each pair, 0 or 1, and -1 for external pairs, [n_pairs].

    The halves are equal in size, consist of whole clusters, and do not depend on members or
    protocol.
    """
    rows = np.flatnonzero(group != EXTERNAL)
    cluster, sizes = _sized(clusters[rows])
    half = np.full(len(group), -1)
    half[rows] = _draw_folds(sizes, 2, np.random.default_rng([seed, _WORD_DRAW]))[cluster]
    return half


def _sized(clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each pair's cluster numbered from 0, [n_pairs], and the size of each cluster."""
    _, cluster, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    return cluster, sizes


def _draw_groups(
    sizes: np.ndarray, target: int, count: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Draw `count` disjoint sets of clusters of `target` pairs each, or the largest possible below
    it."""
    for _ in range(_ATTEMPTS):
        order = rng.permutation(len(sizes))
        chosen = list[np.ndarray]()
        for _ in range(count):
            positions = _adding_up(sizes[order], target)
            chosen.append(order[positions])
            order = np.delete(order, positions)
        if all(sizes[ids].sum() == target for ids in chosen):
            break
    return chosen


def _adding_up(sizes: np.ndarray, target: int) -> list[int]:
    """Return positions of sizes that add up to `target`, or to the largest sum below it, from the
    shortest prefix.

    Subset sums by dynamic programming: bit s of a number says that a sum of s can be reached.
    """
    within = (1 << (target + 1)) - 1
    reached = [1]
    grew = []
    for position in map(int, np.flatnonzero(sizes <= target)):
        grown = (reached[-1] | reached[-1] << int(sizes[position])) & within
        if grown != reached[-1]:
            reached.append(grown)
            grew.append(position)
        if grown >> target:
            break
    left = reached[-1].bit_length() - 1
    chosen = []
    for position, before in zip(reversed(grew), reversed(reached[:-1]), strict=True):
        size = int(sizes[position])
        if size <= left and before >> (left - size) & 1:
            chosen.append(position)
            left -= size
    return chosen


def _draw_folds(sizes: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random fold for each cluster: large clusters first, each into the smallest fold,
    then single pairs."""
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
    # Single pairs fill the folds to equal sizes: the lowest levels are taken in order.
    filled_to = np.array([filled for filled, _ in sorted(load, key=lambda entry: entry[1])])
    levels = np.arange(len(single))[:, None] + filled_to
    fold[single] = np.argsort(levels.ravel(), kind="stable")[: len(single)] % folds
    return names[fold]


def _too_many_near_duplicates(groups: str, size: int) -> str:
    return (
        f"near-duplicate pictures leave no way to fill the group {groups} with {size} pairs each: "
        "use --drop-near-duplicates, or add other pairs"
    )


def protocol_of(members: Sequence[str]) -> str:
    """Return the protocol that member names belong to: `ensemble` (r0-f0 …) or `paper` (f-0, g-0
    …).

    Example:
        >>> protocol_of(["f-0", "g-0"])
        'paper'
    """
    for protocol, name in _NAMES.items():
        if members and all(name.fullmatch(member) for member in members):
            return protocol
    raise InputError(
        "members must be named r<repeat>-f<fold>, or f-<seed> and g-<seed>, not "
        f"{', '.join(members)}"
    )


def replicate_rows(members: Sequence[str]) -> list[np.ndarray]:
    """Return, for each repeat or seed in order, the positions of its members."""
    protocol = protocol_of(members)
    numbers = [int(match.group(1)) for match in map(_NAMES[protocol].fullmatch, members) if match]
    rows = [np.flatnonzero(np.array(numbers) == number) for number in sorted(set(numbers))]
    if protocol == "paper" and any(
        sorted(members[row][0] for row in pair.tolist()) != ["f", "g"] for pair in rows
    ):
        raise InputError(f"every seed needs one f and one g, found {', '.join(members)}")
    return rows


@dataclass(frozen=True, eq=False)
class Sides:
    """Who trains on what, and which members count as in and out of each pair."""

    membership: Membership
    protocol: str  # `ensemble` or `paper`
    seed: int  # start of every draw that scoring makes
    utility_only: np.ndarray | None = (
        None  # true for external pairs that only utility is measured on, [n_pairs]
    )

    @functools.cached_property
    def inside(self) -> np.ndarray:
        """True where the member counts as `in`, [n_members, n_pairs]; all others count as `out`.

        Paper: f is in and g is out in every row. Ensemble: true membership for scored pairs; an
            external pair gets one
        random labelling that puts as many members of each repeat out as a scored pair has.
        """
        membership = self.membership
        if self.protocol == "paper":
            is_f = np.array([member.startswith("f") for member in membership.members])
            return np.broadcast_to(is_f[:, None], membership.trained.shape)
        inside = membership.trained.copy()
        external = np.flatnonzero(membership.group == EXTERNAL)
        inside[:, external] = True
        for repeat, rows in enumerate(self.replicates):
            rng = np.random.default_rng([self.seed, _LABEL_DRAW, repeat])
            for left_out in _draw_out(rows, self.leaving_out(rows), inside.shape[1], rng):
                inside[left_out[external], external] = False
        return inside

    @functools.cached_property
    def replicates(self) -> list[np.ndarray]:
        """The positions of the members of each repeat or seed."""
        return replicate_rows(self.membership.members)

    @functools.cached_property
    def external(self) -> np.ndarray:
        """True for external pairs that centre alignments and make up the null, [n_pairs]."""
        external = self.membership.group == EXTERNAL
        return external if self.utility_only is None else external & ~self.utility_only

    def leaving_out(self, rows: np.ndarray) -> int:
        """Return how many members of a repeat leave a pair out: the most common number, and at
        least one."""
        counts = (~self.membership.trained[np.ix_(rows, self.membership.group != EXTERNAL)]).sum(
            axis=0
        )
        return max(1, min(int(np.bincount(counts).argmax()) if len(counts) else 1, len(rows) - 1))


def _draw_out(rows: np.ndarray, count: int, n_pairs: int, rng: np.random.Generator) -> np.ndarray:
    """Draw which members leave each pair out, [count, n_pairs]."""
    if count == 1:
        return rows[rng.integers(len(rows), size=(1, n_pairs))]
    return rows[rng.random((len(rows), n_pairs)).argsort(axis=0)[:count]]


def labellings(sides: Sides, n_pairs: int) -> Iterable[np.ndarray]:
    """Yield labellings of external pairs: the members that leave them out, [n_out, n_pairs].

    As many of each repeat as leave a scored pair out. All labellings up to 256, else 256 drawn for
    each pair.
    """
    parts = [(rows, sides.leaving_out(rows)) for rows in sides.replicates]
    if math.prod(math.comb(len(rows), count) for rows, count in parts) <= MAX_LABELLINGS:
        for chosen in itertools.product(
            *(itertools.combinations(rows.tolist(), count) for rows, count in parts)
        ):
            yield np.repeat(
                np.array([row for own in chosen for row in own])[:, None], n_pairs, axis=1
            )
        return
    rng = np.random.default_rng([sides.seed, _NULL_DRAW])
    for _ in range(MAX_LABELLINGS):
        yield np.concatenate([_draw_out(rows, count, n_pairs, rng) for rows, count in parts])


def side_means(values: Sequence[np.ndarray], inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over the members that are in, and over those that are out, for each pair; NaN
    without a member.

    Args:
        values: one array a member, [n_pairs] each.
        inside: true where the member is in, [n_members, n_pairs].
    """
    total_in = np.zeros(inside.shape[1])
    total_out = np.zeros(inside.shape[1])
    for value, is_in in zip(values, inside, strict=True):
        np.add(total_in, value, out=total_in, where=is_in)
        np.add(total_out, value, out=total_out, where=~is_in)
    n_in = inside.sum(axis=0)
    with np.errstate(invalid="ignore"):
        total_in /= n_in
        total_out /= len(inside) - n_in
    return total_in, total_out


def replicate_clipmem(
    alignments: Sequence[np.ndarray], replicates: Sequence[np.ndarray], inside: np.ndarray
) -> np.ndarray:
    """Return clipmem from each repeat or seed alone, [n_replicates, n_pairs]; NaN without a member
    on a side.

    Args: as for `side_means`; `replicates` are the positions of each one's members.
    """
    sides = (
        side_means([alignments[row] for row in rows.tolist()], inside[rows]) for rows in replicates
    )
    return np.stack([mean_in - mean_out for mean_in, mean_out in sides])
