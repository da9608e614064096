"""Which members count as `in` and which as `out` for each pair, and means over the two sides.

A replicate is what the protocol repeats: a repeat of the ensemble (`r0-f0`, `r0-f1`, …) or a seed of the paper
(`f-0`, `g-0`).
"""

import functools
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from clipmem_core.columns import EXTERNAL
from clipmem_core.config import InputError
from clipmem_core.scores.membership import Membership

_NAMES = {"ensemble": re.compile(r"r(\d+)-f\d+"), "paper": re.compile(r"[fg]-(\d+)")}
_EXPECTED = {"ensemble": "r<repeat>-f<fold>", "paper": "f-<seed> and g-<seed>"}
_LABEL_DRAW, _NULL_DRAW = 2, 3  # random streams of their own, apart from those of the membership
MAX_LABELLINGS = 256


def protocol_of(members: Sequence[str]) -> str:
    """Return the protocol that member names belong to: `ensemble` (r0-f0 …) or `paper` (f-0, g-0 …).

    Raises:
        InputError: the names belong to neither.

    Example:
        >>> protocol_of(["f-0", "g-0"])
        'paper'
    """
    for protocol, name in _NAMES.items():
        if members and all(name.fullmatch(member) for member in members):
            return protocol
    raise InputError(
        f"members must be named {_EXPECTED['ensemble']} (ensemble) or {_EXPECTED['paper']} (paper), "
        f"not {', '.join(members) or 'nothing at all'}: rename the columns of the membership file"
    )


def replicate_rows(members: Sequence[str], *, protocol: str) -> list[np.ndarray]:
    """Return, for each repeat or seed in order, the positions of its members.

    Raises:
        ValueError: the protocol is unknown.
        InputError: names of another protocol, or a seed without its f or g.

    Example:
        >>> [rows.tolist() for rows in replicate_rows(["r0-f0", "r0-f1", "r1-f0", "r1-f1"], protocol="ensemble")]
        [[0, 1], [2, 3]]
    """
    if protocol not in _NAMES:
        raise ValueError(f"protocol must be one of {', '.join(_NAMES)}, not {protocol!r}")
    found = [_NAMES[protocol].fullmatch(member) for member in members]
    numbers = [int(match.group(1)) for match in found if match]
    if len(numbers) < len(found) or not found:
        named = ", ".join(members) or "nothing at all"
        raise InputError(f"members of protocol {protocol} must be named {_EXPECTED[protocol]}, not {named}")
    rows = [np.flatnonzero(np.array(numbers) == number) for number in sorted(set(numbers))]
    if protocol == "paper" and any(sorted(members[row][0] for row in pair.tolist()) != ["f", "g"] for pair in rows):
        raise InputError(f"every seed needs one f and one g, found {', '.join(members)}")
    return rows


def in_side(membership: Membership, *, protocol: str, seed: int) -> np.ndarray:
    """Return which members count as `in` for each pair; all others count as `out`.

    Paper: f is in and g is out in every row. Ensemble: true membership for scored pairs; an external pair, which no
    member knows, gets one random labelling that puts one member of each repeat out, as a scored pair has.

    Args:
        membership: who trains on what.
        protocol: `ensemble` or `paper`.
        seed: start of the labelling of external pairs; more repeats do not change the labels of the first.

    Returns:
        True where the member is on the `in` side, [n_members, n_pairs].
    """
    replicates = replicate_rows(membership.members, protocol=protocol)
    if protocol == "paper":
        is_f = np.array([member.startswith("f") for member in membership.members])
        return np.broadcast_to(is_f[:, None], membership.trained.shape)
    inside = membership.trained.copy()
    external = np.flatnonzero(membership.group == EXTERNAL)
    inside[:, external] = True
    for repeat, rows in enumerate(replicates):
        rng = np.random.default_rng([seed, _LABEL_DRAW, repeat])
        for left_out in _draw_out(rows, leaving_out(membership, rows), inside.shape[1], rng):
            inside[left_out[external], external] = False
    return inside


def leaving_out(membership: Membership, rows: np.ndarray) -> int:
    """Return how many members of a repeat leave a pair out: what most scored pairs have, and at least one.

    Args:
        membership: who trains on what.
        rows: the positions of the repeat's members.
    """
    counts = (~membership.trained[np.ix_(rows, membership.group != EXTERNAL)]).sum(axis=0)
    return max(1, min(int(np.bincount(counts).argmax()) if len(counts) else 1, len(rows) - 1))


def _draw_out(rows: np.ndarray, count: int, n_pairs: int, rng: np.random.Generator) -> np.ndarray:
    """Draw which of some members leave each pair out, [count, n_pairs]."""
    if count == 1:
        return rows[rng.integers(len(rows), size=(1, n_pairs))]
    return rows[rng.random((len(rows), n_pairs)).argsort(axis=0)[:count]]


@dataclass(frozen=True, eq=False)
class Sides:
    """Who trains on what, and as what each member counts; both follow from the protocol and are worked out once.

    Attributes:
        membership: who trains on what.
        protocol: `ensemble` or `paper`.
        seed: start of every draw that scoring makes, the labelling of external pairs among them.
        apart: external pairs that utility alone is measured on, true in [n_pairs]; None where there are none.
    """

    membership: Membership
    protocol: str
    seed: int
    apart: np.ndarray | None = None

    @functools.cached_property
    def inside(self) -> np.ndarray:
        """True where the member is on the `in` side, [n_members, n_pairs]; see `in_side`."""
        return in_side(self.membership, protocol=self.protocol, seed=self.seed)

    @functools.cached_property
    def replicates(self) -> list[np.ndarray]:
        """The positions of the members of each repeat or seed."""
        return replicate_rows(self.membership.members, protocol=self.protocol)

    @functools.cached_property
    def external(self) -> np.ndarray:
        """True for external pairs that centre alignments and make up the null, [n_pairs]."""
        external = self.membership.group == EXTERNAL
        return external if self.apart is None else external & ~self.apart


def labellings(sides: Sides, n_pairs: int) -> Iterable[np.ndarray]:
    """Yield labellings of pairs that no member knows: the members that leave them out, [n_out, n_pairs].

    Of each repeat as many as leave a scored pair out. All there are, the same for every pair, while they are at most
    256; otherwise 256 drawn for each pair.

    Example:
        >>> trained = np.array([[True, False], [False, True], [True, False], [False, True]])
        >>> membership = Membership(np.array(["scored"] * 2), ("r0-f0", "r0-f1", "r1-f0", "r1-f1"), trained)
        >>> [label[:, 0].tolist() for label in labellings(Sides(membership, "ensemble", 0), 1)]
        [[0, 2], [0, 3], [1, 2], [1, 3]]
    """
    parts = [(rows, leaving_out(sides.membership, rows)) for rows in sides.replicates]
    if math.prod(math.comb(len(rows), count) for rows, count in parts) <= MAX_LABELLINGS:
        for chosen in itertools.product(*(itertools.combinations(rows.tolist(), count) for rows, count in parts)):
            yield np.repeat(np.array([row for own in chosen for row in own])[:, None], n_pairs, axis=1)
        return
    rng = np.random.default_rng([sides.seed, _NULL_DRAW])
    for _ in range(MAX_LABELLINGS):
        yield np.concatenate([_draw_out(rows, count, n_pairs, rng) for rows, count in parts])


def side_means(values: Sequence[np.ndarray], inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over the members that are in, and over those that are out, for each pair.

    Args:
        values: one array a member, [n_pairs] each.
        inside: true where the member is in, [n_members, n_pairs].

    Returns:
        In and out means, [n_pairs] each; NaN where no member is on that side.

    Raises:
        ValueError: as many arrays as members are wanted.

    Example:
        >>> side_means([np.array([1.0, 1.0]), np.array([3.0, 3.0])], np.array([[True, True], [True, False]]))
        (array([2., 1.]), array([nan,  3.]))
    """
    if len(values) != len(inside):
        raise ValueError(f"values must hold one array for each of {len(inside)} members, not {len(values)}")
    total_in, total_out = np.zeros(inside.shape[1]), np.zeros(inside.shape[1])
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
    """Return clipmem from each repeat or seed alone: mean alignment in minus out over its members.

    Args:
        alignments: one array a member, [n_pairs] each.
        replicates: the positions of each one's members.
        inside: true where the member is on the `in` side, [n_members, n_pairs].

    Returns:
        [n_replicates, n_pairs]; NaN where a replicate has no member on one side.
    """
    sides = (side_means([alignments[row] for row in rows.tolist()], inside[rows]) for rows in replicates)
    return np.stack([mean_in - mean_out for mean_in, mean_out in sides])
