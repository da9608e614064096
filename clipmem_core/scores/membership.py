"""Who trains on what: groups, folds and members of both protocols, and which members count as in
and out of a pair.

Pairs of one cluster of near-duplicates always share group and fold, since a near-duplicate in
training hides memorization; `clusters` numbers the cluster of each pair, [n_pairs]. A replicate of
the ensemble has members `r0-f0`, `r0-f1`, …, and a seed of the paper, also called a replicate, has
`f-0` and `g-0`.
"""

import functools
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from clipmem_core.utils import draws
from clipmem_core.utils.columns import CANDIDATE, HELD_OUT, INDEPENDENT, SCORED, SHARED
from clipmem_core.utils.io import InputError

MIN_PAIRS = 10
FULL_GROUP = 50  # held-out pairs: p values of the paper's protocol reach 1 / 51, below 5 %
_MIN_GROUP = 3  # held-out pairs: utility has one, alignments are centred on two
_MAX_GROUP = 5_000  # of the paper
_MAX_LABELLINGS = 256  # with 50 held-out pairs p values reach 1 / 12,801
_ATTEMPTS = 16  # random orders tried for groups of an exact size


@dataclass(frozen=True)
class Membership:
    """Who trains on what."""

    group: np.ndarray  # name of each pair's group, [n_pairs]
    members: tuple[str, ...]  # names, in column order
    trained: np.ndarray  # true where the member trains on the pair, [n_members, n_pairs]


def group_size(n_pairs: int) -> int:
    """Return how many pairs held-out, candidate and independent have: the paper's part in 11, from
    50 to 5,000, or a quarter of fewer than 200 pairs.

    Args: the number of pairs, at least 10.

    Example:
        >>> group_size(5_500), group_size(300), group_size(30), group_size(1_000_000)
        (500, 50, 7, 5000)
    """
    if n_pairs < MIN_PAIRS:
        raise InputError(
            f"an audit needs at least {MIN_PAIRS} usable pairs, found {n_pairs}: add pairs, or "
            "repair the rows that `inspect` lists"
        )
    return min(_MAX_GROUP, max(n_pairs // 11, min(FULL_GROUP, n_pairs // 4), _MIN_GROUP))


def ensemble_membership(
    clusters: np.ndarray,
    *,
    folds: int,
    replicates: int,
    seed: int,
    halves: bool,
    held_out: np.ndarray | None = None,
) -> Membership:
    """Draw repeated cross-validation: in each replicate every scored pair is left out by one
    member, or by half of them.

    Each replicate and the held-out group have a random stream of their own: a larger `replicates`
    only adds members. Folds differ by at most one cluster.

    Args:
        clusters: of near-duplicates, [n_pairs].
        folds: members of a replicate, at least 2; member `r<replicate>-f<fold>` leaves that fold
            out.
        replicates: how often the scored pairs are split, at least 1.
        halves: each pair is left out by a random half of the members of a replicate (`folds` is
            even), so that the training sets of two members are nearly unrelated.
        seed: start of all draws.
        held_out: true for the held-out pairs; None: they are drawn, [n_pairs].

    Returns:
        Groups scored and held-out; members r0-f0, r0-f1, …
    """
    size = group_size(len(clusters))
    if held_out is None:
        held_out = _draw_groups(clusters, size, 1, draws.rng(seed, "groups")) == 0
    if held_out.sum() < min(size, FULL_GROUP):
        raise InputError(_too_many_near_duplicates("held-out", size))
    scored = np.flatnonzero(~held_out)
    n_clusters = len(np.unique(clusters[scored]))
    if n_clusters < (2 if halves else folds):
        raise InputError(
            f"folds must be at most {n_clusters}, the clusters of near-duplicates to score, not "
            f"{folds}"
        )
    cluster = np.unique(clusters, return_inverse=True)[1]
    trained = np.zeros((replicates * folds, len(clusters)), dtype=bool)
    for replicate, in_training in enumerate(trained.reshape(replicates, folds, -1)):
        if halves:
            ranks = (
                draws.rng(seed, "halves", replicate)
                .random((folds, cluster.max() + 1))
                .argsort(axis=0)
                .argsort(axis=0)
            )
            in_training[:, scored] = ranks[:, cluster[scored]] >= folds // 2
        else:
            fold = _draw_folds(clusters[scored], folds, draws.rng(seed, "folds", replicate))
            in_training[:, scored] = fold != np.arange(folds)[:, None]
    members = tuple(
        f"r{replicate}-f{fold}" for replicate in range(replicates) for fold in range(folds)
    )
    return Membership(np.where(held_out, HELD_OUT, SCORED), members, trained)


def paper_membership(clusters: np.ndarray, *, seeds: int, seed: int) -> Membership:
    """Draw the paper's four groups: f trains on shared and candidate, g on shared and independent,
    neither on held-out.

    Candidate, independent and held-out have exactly `group_size` pairs each, the rest is shared.
    Groups do not depend on `seeds`.

    Args:
        clusters: of near-duplicates, [n_pairs].
        seeds: number of f and g: members f-0, g-0, f-1, g-1, …
        seed: start of the draw.

    Returns:
        Groups candidate, independent, held-out and shared; members f-0, g-0, …
    """
    size = group_size(len(clusters))
    drawn = _draw_groups(clusters, size, 3, draws.rng(seed, "groups"))
    if (np.bincount(drawn + 1, minlength=4)[1:] != size).any():
        raise InputError(_too_many_near_duplicates("candidate, independent and held-out", size))
    group = np.array([CANDIDATE, INDEPENDENT, HELD_OUT, SHARED])[drawn]
    shared = group == SHARED
    trained = np.stack([shared | (group == CANDIDATE), shared | (group == INDEPENDENT)] * seeds)
    members = tuple(f"{model}-{number}" for number in range(seeds) for model in "fg")
    return Membership(group, members, trained)


def draw_utility_pairs(group: np.ndarray, clusters: np.ndarray, *, seed: int) -> np.ndarray:
    """Draw the half of the held-out pairs that only utility is measured on, in complete clusters.

    The other half centres alignments and steers adaptive mitigations, so no setting is evaluated on
    pairs that steered it.

    Args:
        group: names of groups, [n_pairs].
        clusters: of near-duplicates, [n_pairs].
        seed: start of the draw.

    Returns:
        bool [n_pairs].
    """
    held_out = group == HELD_OUT
    rng = draws.rng(seed, "utility")
    utility_only = np.zeros(len(group), dtype=bool)
    utility_only[held_out] = _draw_groups(clusters[held_out], held_out.sum() // 2, 1, rng) == 0
    return utility_only


def draw_word_halves(group: np.ndarray, clusters: np.ndarray, *, seed: int) -> np.ndarray:
    """Draw which word model trains on each pair.

    The halves are equal in size, consist of complete clusters, and do not depend on members or
    protocol.

    Args: as for `draw_utility_pairs`.
    Returns: 0 or 1, and −1 for held-out pairs, int64 [n_pairs].
    """
    trained = group != HELD_OUT
    half = np.full(len(group), -1)
    half[trained] = _draw_folds(clusters[trained], 2, draws.rng(seed, "word models"))
    return half


def _draw_groups(
    clusters: np.ndarray, target: int, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw `count` groups of complete clusters with `target` pairs each, or with the largest
    possible number below it; return the group of each pair, −1 for none."""
    _, cluster, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    for _ in range(_ATTEMPTS):
        order = rng.permutation(len(sizes))
        group = np.full(len(sizes), -1)
        for number in range(count):
            positions = _adding_up(sizes[order], int(target))
            group[order[positions]] = number
            order = np.delete(order, positions)
        if (np.bincount(group[cluster] + 1, minlength=count + 1)[1:] == target).all():
            break
    return group[cluster]


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


def _draw_folds(clusters: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random fold for each pair, the same within a cluster: large clusters first, each
    into the smallest fold, then single pairs."""
    _, cluster, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    order = rng.permutation(len(sizes))
    names = rng.permutation(folds)
    several = order[sizes[order] > 1]
    single = order[sizes[order] == 1]
    fold = np.empty(len(sizes), dtype=np.int64)
    load = np.zeros(folds, dtype=np.int64)
    for number in several[np.argsort(-sizes[several], kind="stable")]:
        fold[number] = load.argmin()
        load[fold[number]] += sizes[number]
    # Single pairs fill the folds to equal sizes: the lowest levels are taken in order.
    levels = np.arange(len(single))[:, None] + load
    fold[single] = np.argsort(levels.ravel(), kind="stable")[: len(single)] % folds
    return names[fold[cluster]]


def _too_many_near_duplicates(groups: str, size: int) -> str:
    """Return why groups cannot be filled."""
    return (
        f"near-duplicate pictures leave no way to fill the group {groups} with {size} pairs each: "
        "use --drop-near-duplicates, or add other pairs"
    )


@dataclass(frozen=True)
class InOut:
    """Who trains on what, and which members count as in and out of each pair."""

    membership: Membership
    seed: int  # start of every draw that scoring makes
    # True for held-out pairs that only utility is measured on, [n_pairs]
    utility_only: np.ndarray | None = None

    @functools.cached_property
    def protocol(self) -> str:
        """`ensemble` or `paper`, by the names of members."""
        return "ensemble" if self.membership.members[0].startswith("r") else "paper"

    @functools.cached_property
    def inside(self) -> np.ndarray:
        """True where the member counts as `in`, [n_members, n_pairs]; all others count as `out`.

        Paper: f is in and g is out in every row. Ensemble: true membership for scored pairs; a
        held-out pair gets one random labelling that puts as many members of each replicate out as a
        scored pair has.
        """
        membership = self.membership
        if self.protocol == "paper":
            is_f = np.array([member.startswith("f") for member in membership.members])
            return np.broadcast_to(is_f[:, None], membership.trained.shape)
        inside = membership.trained.copy()
        held_out = np.flatnonzero(membership.group == HELD_OUT)
        inside[:, held_out] = True
        for replicate, rows in enumerate(self.replicates):
            rng = draws.rng(self.seed, "held-out", replicate)
            out = _draw_out(rows, self.leaving_out(rows), inside.shape[1], rng)
            inside[out[:, held_out], held_out] = False
        return inside

    @functools.cached_property
    def replicates(self) -> list[np.ndarray]:
        """The positions of the members of each replicate or seed, in the order of its number."""
        numbers = [int(re.findall(r"\d+", member)[0]) for member in self.membership.members]
        return [np.flatnonzero(numbers == number) for number in np.unique(numbers)]

    @functools.cached_property
    def held_out(self) -> np.ndarray:
        """True for held-out pairs that centre alignments and make up the null, [n_pairs]."""
        held_out = self.membership.group == HELD_OUT
        return held_out if self.utility_only is None else held_out & ~self.utility_only

    def leaving_out(self, rows: np.ndarray) -> int:
        """Return how many members of a replicate leave a pair out: the most common number, and at
        least one.

        Args: positions of the members of the replicate.
        """
        trained = self.membership.trained[rows][:, self.membership.group != HELD_OUT]
        most_common = int(np.bincount((~trained).sum(axis=0)).argmax())
        return max(1, min(most_common, len(rows) - 1))


def _draw_out(rows: np.ndarray, count: int, n_pairs: int, rng: np.random.Generator) -> np.ndarray:
    """Draw which members leave each pair out, [count, n_pairs]."""
    if count == 1:
        return rows[rng.integers(len(rows), size=(1, n_pairs))]
    return rows[rng.random((len(rows), n_pairs)).argsort(axis=0)[:count]]


def labellings(in_out: InOut, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield labellings of held-out pairs: which members count as in for them.

    Paper: f is in. Ensemble: as many members of each replicate are out as leave a scored pair out;
    all such labellings up to 256, else 256 drawn for each pair.

    Args:
        in_out: who trains on what.
        rows: the held-out pairs, [n].

    Returns:
        bool [n_members, n] each.
    """
    if in_out.protocol == "paper":
        yield in_out.inside[:, rows]
        return
    parts = [(members, in_out.leaving_out(members)) for members in in_out.replicates]
    labels: Iterable[np.ndarray]
    if math.prod(math.comb(len(members), count) for members, count in parts) <= _MAX_LABELLINGS:
        chosen = [itertools.combinations(members, count) for members, count in parts]
        labels = (np.concatenate(label)[:, None] for label in itertools.product(*chosen))
    else:
        rng = draws.rng(in_out.seed, "permutations")
        labels = (
            np.concatenate([_draw_out(*part, len(rows), rng) for part in parts])
            for _ in range(_MAX_LABELLINGS)
        )
    for out in labels:
        inside = np.ones((len(in_out.inside), len(rows)), dtype=bool)
        np.put_along_axis(inside, out, False, axis=0)
        yield inside


def in_out_means(values: Sequence[np.ndarray], inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over the members that are in, and over those that are out, for each pair.

    Args:
        values: one array a member, [n_pairs] each.
        inside: true where the member is in, [n_members, n_pairs].

    Returns:
        float64 [n_pairs] each; NaN without such a member.
    """
    total_in, total_out = np.zeros((2, inside.shape[1]))
    for value, is_in in zip(values, inside, strict=True):
        np.add(total_in, value, out=total_in, where=is_in)
        np.add(total_out, value, out=total_out, where=~is_in)
    n_in = inside.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return total_in / n_in, total_out / (len(inside) - n_in)


def in_minus_out(values: Sequence[np.ndarray], inside: np.ndarray) -> np.ndarray:
    """Return the difference of the means of `in_out_means`, [n_pairs]: clipmem, if the values are
    alignments."""
    mean_in, mean_out = in_out_means(values, inside)
    return mean_in - mean_out


def replicate_clipmem(
    alignments: Sequence[np.ndarray], replicates: Sequence[np.ndarray], inside: np.ndarray
) -> np.ndarray:
    """Return clipmem from each replicate or seed alone.

    Args:
        alignments: one array a member, [n_pairs] each.
        replicates: positions of the members of each replicate or seed.
        inside: true where the member is in, [n_members, n_pairs].

    Returns:
        float64 [n_replicates, n_pairs]; NaN where all or no members are in.
    """
    return np.stack(
        [in_minus_out([alignments[row] for row in rows], inside[rows]) for rows in replicates]
    )
