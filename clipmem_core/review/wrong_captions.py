"""Estimates of the number of wrong captions of an audit, from its scores and the decisions."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from clipmem_core import columns as c
from clipmem_core.audit.store import SCORES, Audit, read_table
from clipmem_core.audit.verdict import COUNTED, summary_lines
from clipmem_core.review.decisions import CODES, KEEP, UNDECIDED_CODE, decided
from clipmem_core.review.queries import cached
from clipmem_core.scores import prevalence as p

Estimate: TypeAlias = tuple[float, float, float]  # with a 95 % interval
_NEXT = 50  # pairs of the review that a prediction is made for
# nobody is advised to stop with so many wrong ones among the last reviewed pairs
_LAST = 10
_HITS = 3


@dataclass(frozen=True, eq=False)
class ReviewProgress:
    """The decisions so far and the pairs with a wrong caption that remain."""

    decided: int
    wrong: int  # removed or recaptioned
    predicted: float = 0.0  # wrong ones among the decided pairs, by the scores
    remaining: Estimate | None = None  # undecided pairs with a wrong caption
    # `remaining` is from the random spot checks, which contradict the scores
    by_spot_checks: bool = False
    expected: float = 0.0  # wrong ones in the next `_NEXT` pairs
    until_stop: int = 0  # pairs to review until fewer than one in ten is expected to be wrong
    left: float = 0.0  # wrong ones that remain then

    @property
    def sentence(self) -> str:
        """What was found, what to expect, and what to do next; empty without decisions."""
        if not self.decided:
            return ""
        if not self.remaining:
            return f"You changed or removed {self.wrong:,} of {self.decided:,}."
        predicted = round(self.predicted)
        were = "was" if predicted == 1 else "were"
        found = f"You found {self.wrong:,} where {predicted:,} {were} expected"
        remain = "About {:,.0f} remain now ({:,.0f}–{:,.0f})".format(*self.remaining)
        if self.by_spot_checks:
            return f"{found}. Random spot checks find errors that the scores miss. {remain}."
        stop = "You can stop here"
        if self.until_stop:
            stop = f"Review {self.until_stop:,} more to leave about {self.left:,.0f}"
        return f"{found}: expect about {self.expected:,.0f} in the next {_NEXT}. {remain}. {stop}."


@cached(2, SCORES)
def wrong_estimate(audit: Audit) -> tuple[np.ndarray, p.ReviewOrder]:
    """Return the probability that each pair has a wrong caption, and the order of the review."""
    columns = [c.P_WRONG, c.SUSPICION, c.REVIEW_PLACE]
    scores = read_table(audit.folder / SCORES, columns=columns)
    probabilities, suspicion, place = scores[columns].to_numpy(float).T
    return probabilities, p.plan_review(suspicion, place=place)


def review_progress(audit: Audit) -> ReviewProgress:
    """Count the decisions and estimate the wrong captions that remain.

    A removed or recaptioned pair counts as wrong, a kept pair as right. Neutral decisions do not
    count.
    """
    probabilities, review = wrong_estimate(audit)
    decisions = decided(audit)
    codes = decisions.codes
    scored = np.isin(np.arange(len(codes)), review.order)
    done = scored & ~decisions.neutral & (codes != UNDECIDED_CODE)
    wrong = done & (codes != CODES[KEEP])
    n_done = int(done.sum())
    n_wrong = int(wrong.sum())
    counted = audit.verdict.get("wrong_captions", {})
    if not n_done or counted.get("missing", "") is not None:
        return ReviewProgress(n_done, n_wrong)
    upcoming = review.order[~done[review.order]]
    reviewed = review.order[done[review.order]]
    now = np.nan_to_num(p.adjusted(probabilities, done, wrong)[upcoming])
    until_stop = max(p.suggest_stop(now), p.CHECKED - n_done)
    if wrong[reviewed[-_LAST:]].sum() >= _HITS:
        until_stop = max(until_stop, _LAST)
    remaining = p.left_after(
        now, [p.WrongCount(**counted[name]) for name in COUNTED if name in counted]
    )
    checks = p.count_reviewed(review, wrong, done)
    by_spot_checks = False
    if checks.estimate is not None and checks.low is not None and checks.high is not None:
        checked = (checks.estimate - n_wrong, checks.low - n_wrong, checks.high - n_wrong)
        by_spot_checks = not checked[1] <= remaining[0] <= checked[2]
        remaining = checked if by_spot_checks else remaining
    return ReviewProgress(
        n_done,
        n_wrong,
        predicted=float(np.nansum(probabilities[done])),
        remaining=remaining,
        by_spot_checks=by_spot_checks,
        expected=float(now[:_NEXT].sum()),
        until_stop=min(until_stop, len(upcoming)),
        left=float(now[until_stop:].sum()),
    )


def wrong_lines(audit: Audit) -> list[str]:
    """Return in up to four lines how many captions are wrong, what the audit cannot see, and what
    to do next.

    Decisions replace the last line. The result of a random check is the first, since it does not
    depend on scores.
    """
    lines = summary_lines(audit.verdict)
    progress = review_progress(audit)
    check, finished = random_check(audit)
    if progress.sentence:
        lines[2:] = [progress.sentence]
    return list(filter(None, [check if finished else "", *lines]))


def random_check(audit: Audit) -> tuple[str, bool]:
    """Say what a random check of 50 pairs has shown so far, or can show, and whether it is
    finished.

    Empty for a smaller audit.
    """
    drawn = wrong_estimate(audit)[1].drawn
    decisions = decided(audit)
    pairs = len(drawn)
    sample = drawn[: p.CHECKED]
    if pairs <= p.CHECKED:
        return "", False
    done = sample[decisions.codes[sample] != UNDECIDED_CODE]
    checked = done[~decisions.neutral[done]]
    found = int((decisions.codes[checked] != CODES[KEEP]).sum())
    low, high = p.count_of_sample(found, len(checked), pairs)
    if len(done) == p.CHECKED:
        estimate = found * pairs / max(len(checked), 1)
        sentence = (
            f"About {estimate:,.0f} of all {pairs:,} pairs have a wrong caption ({low:,}–{high:,}),"
            f" decided or not. Your random check found {found} in {len(checked)}."
        )
        return sentence, True
    if len(done):
        return f"Random check: {len(done)} of {p.CHECKED} checked, {found} wrong so far.", False
    most = p.count_of_sample(0, p.CHECKED, pairs)[1]
    sentence = (
        f"A random check finds every kind of error, also a single wrong word. If all {p.CHECKED} "
        f"captions are right, at most {most:,} of the {pairs:,} are wrong ({most / pairs:.0%}; "
        "95 % interval)."
    )
    return sentence, False
