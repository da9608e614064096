"""How many captions of an audit are wrong, from its scores and from the decisions so far."""

from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np

from clipmem_core import columns as c
from clipmem_core.audits.store import SCORES, VERDICT, Audit, read_table
from clipmem_core.audits.verdict import likely_wrong
from clipmem_core.io import mapping, numbers
from clipmem_core.review.decisions import CODES, KEEP, UNDECIDED_CODE, decided
from clipmem_core.review.tables import kept
from clipmem_core.scores import prevalence as p

Estimate: TypeAlias = tuple[float, float, float]  # and a 95 % interval
NEEDED = [c.MISFIT, c.CSLS_OUT, c.P_WRONG, c.REVIEW_PLACE]
NEXT = 50  # pairs of the review whose wrong captions are predicted
MEANINGS = (
    "The prediction for the next 50 and the number that remains come from the scores, with a 95 % interval. If the "
    "random spot checks contradict the scores, the number that remains comes from the spot checks alone. You can stop "
    "where fewer than one in ten of the next pairs is expected to be wrong."
)


@dataclass(frozen=True, eq=False)
class WrongEstimate:
    """The count of wrong captions by the scores of an audit, and the order of the review."""

    count: p.WrongCount
    review: p.Review


@dataclass(frozen=True, eq=False)
class ReviewProgress:
    """The decisions on the pairs of an audit, and how many wrong captions remain.

    `ahead` is how many of the next pairs are expected to be wrong, `more` after how many of them to stop. `left` is the
    number of undecided pairs with a wrong caption and its 95 % interval: by the scores, or by the random spot checks if
    these contradict the scores.
    """

    decided: int
    wrong: int  # removed, or given another caption
    left: Estimate | None = None
    by_spot_checks: bool = False
    ahead: float = 0.0
    more: int = 0

    @property
    def sentence(self) -> str:
        """The line above the review; empty without decisions."""
        if not self.decided:
            return ""
        sentence = f"You changed or removed {self.wrong:,} of {self.decided:,}"
        if not self.left:
            return f"{sentence}."
        left = "about {:,.0f} ({:,.0f}–{:,.0f})".format(*self.left)
        if self.by_spot_checks:
            return f"{sentence}. Spot checks find errors that the scores miss: {left} wrong captions remain."
        stop = f"Stop after {self.more:,} more" if self.more else "You can stop here"
        return f"{sentence}; expect about {self.ahead:,.0f} in the next {NEXT}. {stop}; {left} wrong captions remain."


@kept(2, SCORES, VERDICT)
def wrong_estimate(audit: Audit) -> WrongEstimate:
    """Return how many captions the scores of an audit count as wrong, and the order of the review."""
    misfit, fit, posterior, place = read_table(audit.folder / SCORES, columns=NEEDED)[NEEDED].to_numpy(dtype=float).T
    stored = mapping(mapping(audit.verdict).get("wrong_captions"))
    estimate, low, high = numbers([stored.get(name) for name in ("estimate", "low", "high")], 3) or (None, None, None)
    missing = str(stored.get("missing") or "the verdict has no count") if estimate is None else ""
    count = p.WrongCount(estimate, low, high, posterior, missing=missing)
    return WrongEstimate(count, p.plan_review(p.suspicion_of(misfit, fit), place=place))


def review_progress(audit: Audit) -> ReviewProgress:
    """Return the decisions on the pairs of an audit, and how many wrong captions probably remain.

    A removed or recaptioned pair counts as wrong, a kept one as right. Find and replace, and the choice among
    look-alikes, say neither and do not count.
    """
    known, decisions = wrong_estimate(audit), decided(audit)
    codes, scored, review, count = (
        decisions.codes,
        np.zeros(len(decisions.codes), dtype=bool),
        known.review,
        known.count,
    )
    scored[review.ranked] = True
    done = scored & ~decisions.apart & (codes != UNDECIDED_CODE)
    wrong = done & (codes != CODES[KEEP])
    n_done, n_wrong = int(done.sum()), int(wrong.sum())
    if not n_done:
        return ReviewProgress(0, 0)
    by_checks = p.count_reviewed(review, wrong, done, count.posterior)
    ends = (by_checks.estimate, by_checks.low, by_checks.high)
    checked = None if by_checks.missing else cast(Estimate, tuple(end - n_wrong for end in ends if end is not None))
    left = None if count.missing else p.left_after(count, done)
    if left is None or (checked and not checked[1] <= left[0] <= checked[2]):
        return ReviewProgress(n_done, n_wrong, checked, by_spot_checks=True)
    ahead = review.order[~done[review.order]]
    ranked = review.ranked[~done[review.ranked]]
    worth = ranked[: p.suggest_stop(count.posterior[ranked], -np.arange(len(ranked)))]
    stop = int(np.flatnonzero(np.isin(ahead, worth)).max(initial=-1)) + 1
    more = min(max(stop, p.CHECKED - n_done), len(ahead))
    return ReviewProgress(n_done, n_wrong, left, ahead=float(np.nansum(count.posterior[ahead[:NEXT]])), more=more)


def wrong_words(audit: Audit) -> tuple[str, str]:
    """Return in a line how many captions are wrong and what to review, and how that is estimated.

    Without decisions it comes from the scores alone. Without a count the line is empty and the other text says why.
    """
    progress, (likely, basis) = review_progress(audit), likely_wrong(audit.verdict)
    if not progress.sentence:
        return likely, basis
    return progress.sentence, " ".join(filter(None, [likely, basis, MEANINGS if progress.left else ""]))


def random_check(audit: Audit) -> str:
    """Say what a random check of 50 pairs shows; empty for an audit with no more pairs than that."""
    pairs = len(wrong_estimate(audit).review.drawn)
    if pairs <= p.CHECKED:
        return ""
    most = p.count_of_sample(0, p.CHECKED, pairs)[1]
    return (
        f"A random check finds every kind of error, also a single wrong word. If all {p.CHECKED} captions are right, "
        f"at most {most:,} of the {pairs:,} are wrong ({most / pairs:.0%}; 95 % interval)."
    )


def drawn_at_random(audit: Audit) -> frozenset[int]:
    """Return the rows that are random spot checks in the order of the review."""
    review = wrong_estimate(audit).review
    return frozenset(review.order[review.at_random].tolist())
