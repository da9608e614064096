"""Audits whose truth is known: members with effects of their own, pairs of unlike noise, some of
them memorized."""

from dataclasses import dataclass

import numpy as np

from clipmem_core.scores.membership import (
    InOut,
    ensemble_membership,
    in_minus_out,
    paper_membership,
)
from clipmem_core.scores.uncertainty import (
    Errors,
    in_errors,
    null_scores,
    p_values,
    standard_errors,
)

NOISE = 0.1  # of a member's alignment of a typical pair


Drawn = tuple[InOut, list[np.ndarray]]


@dataclass(frozen=True, eq=False)
class Simulated:
    """Alignments of members, and what is true of each pair."""

    in_out: InOut
    alignments: list[np.ndarray]
    true: np.ndarray  # clipmem without noise, [n_pairs]

    @property
    def scored(self) -> np.ndarray:
        return ~self.in_out.held_out

    @property
    def clipmem(self) -> np.ndarray:
        return in_minus_out(self.alignments, self.in_out.inside)

    @property
    def errors(self) -> Errors:
        return standard_errors(self.alignments, self.in_out)


def p_of(alignments: list[np.ndarray], in_out: InOut) -> np.ndarray:
    """Return the p values of all pairs."""
    errors = standard_errors(alignments, in_out)
    clipmem = in_minus_out(alignments, in_out.inside)
    score = in_errors(clipmem, errors.variance, errors.degrees)
    return p_values(score, null_scores(alignments, in_out, errors), in_out.membership.group)


def simulate(
    seed: int,
    *,
    members: int = 16,
    folds: int = 8,
    halves: bool = True,
    memorized: float = 0.5,
    held_out_noise: float = 1.0,
) -> Simulated:
    """Draw an audit of an ensemble.

    Args:
        seed: of every draw.
        members: in all, a multiple of `folds`.
        folds: members of a replicate.
        halves: whether a pair is left out by half of a replicate's members, or by one.
        memorized: share of the pairs that are; their clipmem is exponential, 0.15 in the mean.
        held_out_noise: of held-out pairs, in that of others.
    """
    rng = np.random.default_rng([seed, 7])
    pairs = 2_200
    drawn = ensemble_membership(
        np.arange(pairs), folds=folds, replicates=members // folds, seed=seed, halves=halves
    )
    logs = rng.normal(size=pairs)
    noise = NOISE * np.exp(0.5 * logs) * np.where(drawn.group == "held-out", held_out_noise, 1.0)
    # Noise and level correlate by −0.5
    level = 0.5 - 0.1 * (0.5 * logs + np.sqrt(0.75) * rng.normal(size=pairs))
    true = np.where(rng.random(pairs) < memorized, rng.exponential(0.15, pairs), 0.0)
    deviations = rng.normal(size=(members // folds, folds, pairs))
    # Members of a replicate differ more than others
    deviations -= 0.2 * deviations.mean(axis=1, keepdims=True)
    offsets = 0.02 * rng.normal(size=(members, 1))
    values = level + offsets + true * drawn.trained + noise * deviations.reshape(members, pairs)
    true = np.where(drawn.group == "scored", true, 0.0)
    return Simulated(InOut(drawn, seed), list(values), true)


def ensemble_in_out(
    n_pairs: int, *, folds: int = 2, replicates: int = 2, halves: bool = False
) -> InOut:
    ids = np.arange(n_pairs)
    drawn = ensemble_membership(ids, folds=folds, replicates=replicates, seed=0, halves=halves)
    return InOut(drawn, 0)


def paper_in_out(n_pairs: int, *, seeds: int = 1) -> InOut:
    return InOut(paper_membership(np.arange(n_pairs), seeds=seeds, seed=0), 0)


def noisy(in_out: InOut, *, memorized: float = 0.0) -> Drawn:
    """Add members whose alignments are noise, a little higher from member to member."""
    trained = in_out.membership.trained
    noise = np.random.default_rng(0).normal(size=trained.shape)
    offsets = np.arange(len(trained))[:, None] / 10
    return in_out, list(noise + offsets + memorized * trained)
