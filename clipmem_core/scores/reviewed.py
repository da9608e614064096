"""How many captions are wrong, from what a person decided: pairs by suspicion, and a share of them drawn at random.

Two strata: the most suspicious pairs, of which every one was looked at, and all the rest, of which a simple random
sample was. The first is counted, the second estimated by the sample alone (Horvitz & Thompson, JASA 1952; Cochran,
Sampling Techniques, chapter 5), so the interval holds whatever the scores are worth.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from scipy.stats import betabinom

from clipmem_core.scores.prevalence import WrongCount

SHARE = 0.1  # of the pairs that a person is shown are drawn at random
FEWEST_CHECKED = 10  # random spot checks, below which there is no estimate
DESIGN = 0  # seed of the review: the design is frozen with the audit
ASSUMPTION = (
    "Holds whatever the scores are worth: the most suspicious pairs are counted, and the rest is estimated by the "
    "pairs that were drawn at random. It takes it that every decision is right and was made in the order of the review."
)
_LEVEL = 0.95
_CHUNK = 65_536  # pairs that are Python's numbers at a time
_SLOT, _DRAW = 11, 12  # random streams: which places of the order are random, and who is drawn


@dataclass(frozen=True, eq=False)
class Review:
    """In which order a person looks at pairs."""

    ranked: np.ndarray  # rows of the judged pairs, the most suspicious first
    drawn: np.ndarray  # the same rows in random order
    order: np.ndarray  # the same rows in the order of the review
    at_random: np.ndarray  # true where the place in the order is one of the random share


def plan_review(
    suspicion: np.ndarray, *, place: np.ndarray | None = None, share: float = SHARE, seed: int = DESIGN
) -> Review:
    """Order pairs for a person: the most suspicious first, and among them a share that is drawn at random.

    Args:
        suspicion: larger is more suspicious, [n_pairs]; NaN for pairs that are not judged.
        place: of each pair in the order where that is known, as `review_place` returns it, [n_pairs].
        share: of the places, in [0, 1], that the next of the random order gets instead of the most suspicious.
        seed: start of both draws.

    Example:
        >>> review = plan_review(np.arange(10.0), share=0.2)
        >>> review.ranked[:3].tolist(), sorted(review.order.tolist()) == list(range(10))
        ([9, 8, 7], True)
    """
    rows = np.flatnonzero(np.isfinite(suspicion))
    ranked = rows[np.argsort(-suspicion[rows], kind="stable")]
    drawn = np.random.default_rng([seed, _DRAW]).permutation(rows)
    at_random = np.random.default_rng([seed, _SLOT]).random(len(rows)) < share
    if place is not None:
        return Review(ranked, drawn, rows[np.argsort(place[rows], kind="stable")], at_random)
    order, taken = np.empty_like(rows), np.zeros(len(suspicion), dtype=bool)
    queues = {False: _numbers(ranked), True: _numbers(drawn)}
    for slot, random in enumerate(_numbers(at_random)):
        row = next(row for row in queues[random] if not taken[row])
        order[slot], taken[row] = row, True
    return Review(ranked, drawn, order, at_random)


def _numbers(values: np.ndarray) -> Iterator[Any]:
    """Yield values as Python's numbers; a list of millions takes more room than the array."""
    return chain.from_iterable(part.tolist() for part in np.array_split(values, len(values) // _CHUNK + 1))


def review_place(misfit: np.ndarray, csls_out: np.ndarray) -> np.ndarray:
    """Return each pair's place in the review, from 1; NaN for pairs that have no score to be ordered by."""
    suspicion = suspicion_of(misfit, csls_out)
    order = plan_review(suspicion).order
    place = np.full(len(suspicion), np.nan)
    place[order] = np.arange(1, len(order) + 1)
    return place


def suspicion_of(misfit: np.ndarray, csls_out: np.ndarray) -> np.ndarray:
    """Return the score that pairs are reviewed by, the highest first: misfit, or −csls_out where no pair has one."""
    return misfit if np.isfinite(misfit).any() else -csls_out


def count_reviewed(review: Review, wrong: np.ndarray, decided: np.ndarray, posterior: np.ndarray) -> WrongCount:
    """Count wrong captions by what was decided so far, with a 95 % interval that does not depend on the scores.

    Args:
        review: the order that the person was given.
        wrong: true where the caption was found wrong, [n_pairs].
        decided: true where somebody decided, [n_pairs].
        posterior: each pair's probability by the scores, [n_pairs]; kept for the pairs that nobody decided on.

    Returns:
        The count among all judged pairs, found ones included. While no pair of the rest was drawn, the interval has
        what was found at its lower end and all that is not known to be right at its upper one.

    Example:
        >>> suspicion = np.arange(1000.0)[::-1]
        >>> review = plan_review(suspicion)
        >>> wrong = np.arange(1000) < 30
        >>> decided = np.zeros(1000, dtype=bool)
        >>> decided[review.order[:300]] = True
        >>> found = count_reviewed(review, wrong & decided, decided, np.full(1000, 0.03))
        >>> found.low, found.estimate
        (30.0, 30.0)
    """
    seen = decided[review.ranked]
    top = len(seen) if seen.all() else int(seen.argmin())
    rest = np.zeros(len(decided), dtype=bool)
    rest[review.ranked[top:]] = True
    drawn = review.drawn[rest[review.drawn]]
    looked_at = decided[drawn]
    sample = drawn[: len(drawn) if looked_at.all() else int(looked_at.argmin())]
    counted = int(wrong[review.ranked[:top]].sum())
    known, right = int((wrong & decided & rest).sum()), int((~wrong & decided & rest).sum())
    found = int(wrong[sample].sum())
    low, high = count_of_sample(found, len(sample), len(drawn))
    enough = len(sample) >= min(FEWEST_CHECKED, len(drawn))
    estimate = counted + max(len(drawn) * found / max(len(sample), 1), known) if enough else None
    return WrongCount(
        estimate,
        float(counted + max(low, known)),
        float(counted + min(high, len(drawn) - right)),
        np.where(decided, wrong.astype(float), posterior),
        method="review",
        assumptions=ASSUMPTION,
        missing="" if enough else f"fewer than {FEWEST_CHECKED} pairs were checked at random",
    )


def count_of_sample(found: int, drawn: int, pairs: int) -> tuple[int, int]:
    """Return a 95 % interval for how many of some pairs are wrong, from a simple random sample of them.

    The middle 95 % of the posterior with Jeffreys' prior on the share: a beta-binomial number of wrong ones among the
    pairs that were not drawn; from 0 where none was found, and to all where none was right. It covers 95 % on average
    over shares (Brown, Cai & DasGupta, Statistical Science 2001), and more where hardly any are wrong.

    Args:
        found: wrong ones in the sample.
        drawn: pairs in the sample.
        pairs: all of them.

    Example:
        >>> count_of_sample(0, 0, 50), count_of_sample(5, 10, 10), count_of_sample(0, 30, 1000)
        ((0, 50), (5, 5), (0, 78))
    """
    if drawn == 0:
        return 0, pairs
    rest = pairs - drawn
    below = np.cumsum(betabinom.pmf(np.arange(rest + 1), rest, found + 0.5, drawn - found + 0.5))
    low, high = (min(int(np.searchsorted(below, q)), rest) for q in ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2))
    return found + (low if found else 0), found + (high if found < drawn else rest)
