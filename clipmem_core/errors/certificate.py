"""The certificate of a review: an upper bound on the pairs with a wrong caption, from random checks
alone.

No score and no model enters the bound. It holds whenever a person stops, however often it was
looked at, and whatever was decided between the checks: a confidence sequence by betting, without
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
NEXT = 50  # further random checks, and pairs of a prediction
_FEWEST_CHECKED = 20  # random checks that a bound is stated from
_HARDLY = 0.95  # further checks lower the bound to this share of it, or less
_MANY = 0.05  # of the random checks


@dataclass(frozen=True)
class Certificate:
    """An upper bound on the kept pairs with a wrong caption, from random checks alone."""

    kept: int  # pairs that are not removed
    checks: list[int]  # rows of the pairs that were checked at random, in their order
    wrong: int  # of these
    most: int  # kept pairs with a wrong caption, at most
    most_if_right: int  # the same after `NEXT` further checks without an error

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

    @property
    def outlook(self) -> str:
        """What further random checks would show, and what to do where that is little."""
        share = 100 * self.most_if_right / max(self.kept, 1)
        many = self.wrong > _MANY * len(self.checks)
        if many and self.most_if_right > _HARDLY * self.most:
            return (
                "Many of the random checks were wrong. Review the ranked pairs first; then check "
                "again."
            )
        return (
            f"If the next {NEXT} random checks find no error, at most {share:.1f} % of the kept "
            "pairs have a wrong caption."
        )


def bound_wrong(
    drawn: np.ndarray, first: np.ndarray, wrong: np.ndarray, *, kept: int = 0
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
        >>> bound = bound_wrong(pairs, np.where(pairs < 250, pairs + 1, 0), pairs < 1)
        >>> bound.wrong, bound.most, bound.most_if_right
        (1, 23, 18)
    """
    place = np.full(len(first), -1)
    place[drawn] = np.arange(len(drawn))
    order = drawn[first[drawn] > 0]
    order = order[np.lexsort((place[order], first[order]))]
    decided_at = np.full(len(drawn), len(drawn))
    decided_at[place[order]] = np.arange(len(order))
    # The pairs before it in random order were all decided earlier.
    is_next = np.maximum.accumulate(decided_at)[place[order]] == np.arange(len(order))
    checks = np.flatnonzero(is_next)
    left = len(drawn) - len(order)
    found = np.concatenate([[0], np.cumsum(wrong[order])])
    # Of each check, also of the further ones: decisions and wrong captions found before it, outcome
    before = np.concatenate([checks, np.arange(len(order), len(order) + min(NEXT, left))])
    found_before = found[np.minimum(before, len(order))]
    outcome = np.zeros(len(before), bool)
    outcome[: len(checks)] = wrong[order[checks]]
    n = np.arange(len(before))
    predicted = (np.cumsum(outcome) - outcome + _PRIOR[0]) / (n + sum(_PRIOR))
    numbers = np.unique(np.linspace(0, left, _NUMBERS).round())
    share = (numbers + (found[-1] - found_before)[:, None]) / (len(drawn) - before)[:, None]
    share = np.minimum(share, 1.0)  # [n_checks, n_numbers]
    with np.errstate(divide="ignore"):  # all must be wrong, and this one is right
        log_ratio = np.where(
            outcome[:, None],
            np.log(predicted)[:, None] - np.log(share),
            np.log1p(-predicted)[:, None] - np.log1p(-share),
        )
    log_ratio = np.cumsum(log_ratio, axis=0)
    most, most_if_right = (_most(numbers, part) for part in (log_ratio[: len(checks)], log_ratio))
    return Certificate(kept, order[checks].tolist(), int(outcome.sum()), most, most_if_right)


def _most(numbers: np.ndarray, log_ratio: np.ndarray) -> int:
    """Return the largest of some ascending numbers that no check excludes, rounded up.

    Args: numbers, [n_numbers]; log-likelihood ratio after each check, [n_checks, n_numbers].
    """
    excluded = log_ratio.max(axis=0, initial=0.0) >= -np.log(1 - CONFIDENCE)
    possible = np.flatnonzero(~excluded)
    if not len(possible):
        return 0
    beyond = numbers[possible[-1] + 1 :]
    return int(beyond[0]) - 1 if len(beyond) else int(numbers[-1])
