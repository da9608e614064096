"""Estimates of the number of wrong captions of an audit, from its scores and the decisions."""

from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np

from clipmem_core import columns as c
from clipmem_core.audit.store import SCORES, VERDICT, Audit, read_table
from clipmem_core.audit.verdict import likely_wrong, single_captions
from clipmem_core.review.decisions import CODES, KEEP, UNDECIDED_CODE, decided
from clipmem_core.review.queries import cached
from clipmem_core.scores import prevalence as p

Estimate: TypeAlias = tuple[float, float, float]  # with a 95 % interval
NEEDED = [c.MISFIT, c.CSLS_OUT, c.P_WRONG, c.REVIEW_PLACE]
NEXT = 50  # pairs of the review that a prediction is made for
MEANINGS = (
    "The prediction for the next 50 and the number that remains come from the scores, with a 95 % interval. If the "
    "random spot checks contradict the scores, the number that remains comes from the spot checks alone. You can stop "
    "where fewer than one in ten of the next pairs is expected to be wrong."
)


@dataclass(frozen=True, eq=False)
class ReviewProgress:
    """The decisions so far and the wrong captions that remain."""

    decided: int
    wrong: int  # removed or recaptioned
    remaining: Estimate | None = None  # undecided pairs with a wrong caption
    by_spot_checks: bool = False  # `remaining` is from the random spot checks, which contradict the scores
    expected: float = 0.0  # wrong captions in the next `NEXT` pairs
    until_stop: int = 0  # pairs to review until fewer than one in ten is expected to be wrong

    @property
    def sentence(self) -> str:
        """The line above the review; empty without decisions."""
        if not self.decided:
            return ""
        sentence = f"You changed or removed {self.wrong:,} of {self.decided:,}"
        if not self.remaining:
            return f"{sentence}."
        remaining = "about {:,.0f} ({:,.0f}–{:,.0f})".format(*self.remaining)
        if self.by_spot_checks:
            return f"{sentence}. Spot checks find errors that the scores miss: {remaining} wrong captions remain."
        stop = f"Stop after {self.until_stop:,} more" if self.until_stop else "You can stop here"
        expected = f"expect about {self.expected:,.0f} in the next {NEXT}"
        return f"{sentence}; {expected}. {stop}; {remaining} wrong captions remain."


@cached(2, SCORES, VERDICT)
def wrong_estimate(audit: Audit) -> tuple[p.WrongCount, p.Review]:
    """Return the number of wrong captions according to the scores, and the order of the review."""
    misfit, fit, posterior, place = read_table(audit.folder / SCORES, columns=NEEDED)[NEEDED].to_numpy(dtype=float).T
    stored = audit.verdict.get("wrong_captions", {})
    estimate, low, high = (stored.get(name) for name in ("estimate", "low", "high"))
    missing = "" if estimate is not None else stored.get("missing") or "the verdict has no count"
    count = p.WrongCount(estimate, low, high, posterior, missing=missing)
    return count, p.plan_review(p.suspicion_of(misfit, fit), place=place)


def review_progress(audit: Audit) -> ReviewProgress:
    """Count the decisions and estimate the wrong captions that remain.

    A removed or recaptioned pair counts as wrong, a kept pair as right. Neutral decisions do not count.
    """
    (count, review), decisions = wrong_estimate(audit), decided(audit)
    codes = decisions.codes
    scored = np.isin(np.arange(len(codes)), review.ranked)
    done = scored & ~decisions.neutral & (codes != UNDECIDED_CODE)
    wrong = done & (codes != CODES[KEEP])
    n_done, n_wrong = int(done.sum()), int(wrong.sum())
    if not n_done:
        return ReviewProgress(0, 0)
    by_checks = p.count_reviewed(review, wrong, done, count.posterior)
    ends = (by_checks.estimate, by_checks.low, by_checks.high)
    checked = None if by_checks.missing else cast(Estimate, tuple(end - n_wrong for end in ends if end is not None))
    remaining = None if count.missing else p.left_after(count, done)
    if remaining is None or (checked and not checked[1] <= remaining[0] <= checked[2]):
        return ReviewProgress(n_done, n_wrong, checked, by_spot_checks=True)
    upcoming = review.order[~done[review.order]]
    ranked = review.ranked[~done[review.ranked]]
    worth = ranked[: p.suggest_stop(count.posterior[ranked], -np.arange(len(ranked)))]
    stop = int(np.flatnonzero(np.isin(upcoming, worth)).max(initial=-1)) + 1
    until_stop = min(max(stop, p.CHECKED - n_done), len(upcoming))
    expected = float(np.nansum(count.posterior[upcoming[:NEXT]]))
    return ReviewProgress(n_done, n_wrong, remaining, expected=expected, until_stop=until_stop)


def wrong_words(audit: Audit) -> tuple[str, str]:
    """Return sentences on the wrong captions and the progress of the review, and how they are estimated.

    A second line is on single captions. Without an estimate there is no line and the other text gives the reason.
    """
    progress, (likely, basis) = review_progress(audit), likely_wrong(audit.verdict)
    if progress.sentence:
        basis = " ".join(filter(None, [likely, basis, MEANINGS if progress.remaining else ""]))
    return f"{progress.sentence or likely}\n{single_captions(audit.verdict)}".strip(), basis


def random_check(audit: Audit) -> str:
    """Say what a random check of 50 pairs has shown so far, or can show; empty for a smaller audit."""
    drawn, decisions = wrong_estimate(audit)[1].drawn, decided(audit)
    pairs, sample = len(drawn), drawn[: p.CHECKED]
    if pairs <= p.CHECKED:
        return ""
    done = sample[decisions.codes[sample] != UNDECIDED_CODE]
    checked = done[~decisions.neutral[done]]
    found = int((decisions.codes[checked] != CODES[KEEP]).sum())
    low, high = p.count_of_sample(found, len(checked), pairs)
    if len(done) == p.CHECKED:
        estimate = found * pairs / max(len(checked), 1)
        return (
            f"Random check: {found} of {len(checked)} pairs had a wrong caption. That makes about {estimate:,.0f} "
            f"({low:,}–{high:,}) of all {pairs:,}, decided or not (95 % interval)."
        )
    if len(done):
        return f"Random check: {len(done)} of {p.CHECKED} checked, {found} wrong so far."
    most = p.count_of_sample(0, p.CHECKED, pairs)[1]
    return (
        f"A random check finds every kind of error, also a single wrong word. If all {p.CHECKED} captions are right, "
        f"at most {most:,} of the {pairs:,} are wrong ({most / pairs:.0%}; 95 % interval)."
    )
