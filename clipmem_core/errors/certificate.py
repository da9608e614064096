"""The certificate of a review: an upper bound on the pairs with a wrong caption, from random checks
alone.

No score and no model enters the bound. It holds whenever a person stops, no matter how often it
was read and what was decided between the checks: a confidence sequence by betting, without
replacement (Waudby-Smith & Ramdas, NeurIPS 2020).

Before each check, R of the U pairs without a decision have a wrong caption, and the next pair in
random order is one of them with the probability R / U. For each number W of wrong captions in the
set, R is W less the number found so far. The likelihood of the checks under predictions made before
each of them, over their likelihood under W, is a martingale if W is true: with a probability of at
most 5 % it ever exceeds 20 (Ville's inequality). Each W for which it does is excluded.
"""

from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
# A check is predicted by the posterior mean of a beta distribution, which expects few errors.
_PRIOR = (0.5, 30.0)  # wrong, right
_NUMBERS = 2_000  # numbers of wrong captions that are tested, evenly spaced
NEXT = 50  # pairs of a prediction
_FEWEST_CHECKED = 20  # random checks that a bound is stated from


@dataclass(frozen=True)
class Certificate:
    """An upper bound on the kept pairs with a wrong caption, from random checks alone."""

    kept: int  # pairs that are not removed
    checks: list[int]  # rows of the pairs that were checked at random, in their order
    wrong: int  # of these
    most: int  # kept pairs with a wrong caption, at most

    @property
    def share(self) -> float:
        """The share of the kept pairs that have a wrong caption, at most; 1 without checks."""
        return self.most / max(self.kept, 1)

    @property
    def sentence(self) -> str:
        """The bound; until there is one, the number of checks, if any."""
        checked = len(self.checks)
        if checked >= min(_FEWEST_CHECKED, self.kept):
            return (
                f"At most {100 * self.share:.1f} % of the {self.kept:,} kept pairs have a wrong "
                f"caption ({100 * CONFIDENCE:.0f} % sure): {self.wrong:,} of {checked:,} random "
                "checks were wrong."
            )
        return f"Random checks: {checked:,}, of them wrong: {self.wrong:,}." if checked else ""


def bound_wrong(
    drawn: np.ndarray, first: np.ndarray, wrong: np.ndarray, *, kept: int
) -> Certificate:
    """Bound the number of pairs without a decision that have a wrong caption, with 95 % confidence.

    A decision is a random check if its pair was the next one in random order at that time.

    Args:
        drawn: all pairs in random order, [n].
        first: time of each pair's first decision, 0 for a pair without a decision, [n_pairs].
        wrong: true for pairs that were found wrong, [n_pairs].
        kept: pairs that are not removed.

    Example:
        >>> pairs = np.arange(1000)
        >>> bound = bound_wrong(pairs, np.where(pairs < 250, pairs + 1, 0), pairs < 1, kept=1000)
        >>> bound.wrong, bound.most
        (1, 23)
    """
    time = first[drawn]
    # Positions in `drawn` of the pairs with a decision, by its time
    decided = np.argsort(time, kind="stable")[np.count_nonzero(time == 0) :]
    left = len(drawn) - len(decided)
    rank = np.full(len(drawn), len(drawn))
    rank[decided] = np.arange(len(decided))
    # The pairs before it in random order were all decided earlier.
    is_next = np.maximum.accumulate(rank)[decided] == np.arange(len(decided))
    before = np.flatnonzero(is_next)  # decisions before each check
    found = wrong[drawn[decided]]
    outcome = found[before]
    n = np.arange(len(before))
    predicted = (np.cumsum(outcome) - outcome + _PRIOR[0]) / (n + sum(_PRIOR))
    # Numbers of wrong captions left now, and the share of them before each check
    numbers = np.unique(np.linspace(0, left, _NUMBERS).round())
    found_since = found.sum() - np.cumsum(found)[before] + outcome
    share = (numbers + found_since[:, None]) / (len(drawn) - before)[:, None]
    share = np.minimum(share, 1.0)  # [n_checks, n_numbers]
    with np.errstate(divide="ignore"):  # all must be wrong, and this one is right
        log_ratio = np.where(
            outcome[:, None],
            np.log(predicted)[:, None] - np.log(share),
            np.log1p(-predicted)[:, None] - np.log1p(-share),
        )
    excluded = np.cumsum(log_ratio, axis=0).max(axis=0, initial=0.0) >= -np.log(1 - CONFIDENCE)
    # The largest number that no check excludes: one below the next number that is tested
    beyond = numbers[np.flatnonzero(~excluded).max(initial=-1) + 1 :]
    most = int(beyond[0]) - 1 if len(beyond) else left
    checks = drawn[decided[before]].tolist()
    return Certificate(kept, checks, int(outcome.sum()), max(most, 0))
