"""How many captions of an audit are wrong: what its scores say, and what people found so far."""

from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from clipmem_core import columns as c
from clipmem_core.audits.store import SCORES, VERDICT, Audit, read_table
from clipmem_core.audits.verdict import likely_wrong
from clipmem_core.files import DELETE, mapping, numbers, reading
from clipmem_core.review.decisions import CODES, KEEP, UNDECIDED_CODE, decided
from clipmem_core.review.tables import kept
from clipmem_core.scores.prevalence import WrongCount, left_after, suggest_stop
from clipmem_core.scores.reviewed import ASSUMPTION, Review, count_reviewed, plan_review, suspicion_of

NEEDED = [c.GROUP, c.MISFIT, c.CSLS_OUT, c.P_WRONG, c.REVIEW_PLACE]
NEXT = 50  # pairs of the review whose wrong captions are told ahead
MEANINGS = (
    "“In the next 50”: how many of the next pairs of the review are expected to be wrong, by the probabilities that "
    "the scores give. “Left”: how many of all that nobody looked at yet, with a 95 % interval; they fit no better than "
    "captions swapped at random. The stop is where fewer than one in ten of the next pairs is expected to be wrong."
)


@dataclass(frozen=True, eq=False)
class Known:
    """What the scores of an audit say before anybody looks: the count, and the order to look in."""

    count: WrongCount
    review: Review


@dataclass(frozen=True, eq=False)
class SoFar:
    """What people decided on the judged pairs of an audit, and what is left by that.

    By the scores: `ahead` is how many of the next pairs of the review are expected to be wrong, `more` after how many
    of them to stop, `left` the undecided pairs with a wrong caption and a 95 % interval. `at_random` is the interval of
    what is left by the random share alone; None while none of that was decided.
    """

    decided: int
    wrong: int  # removed, or given another caption
    left: tuple[float, float, float] | None = None
    ahead: float = 0.0
    more: int = 0
    at_random: tuple[float, float] | None = None

    @property
    def sentence(self) -> str:
        """What to say of it; empty while nothing is decided."""
        if not self.decided:
            return ""
        parts = [f"{self.wrong:,} of {self.decided:,} were wrong"]
        if self.left:
            parts.append(f"about {self.ahead:,.0f} in the next {NEXT}")
            parts.append("about {:,.0f} left ({:,.0f}–{:,.0f})".format(*self.left))
            parts.append(f"suggested stop: after {self.more:,} more" if self.more else "suggested stop: here")
        if self.at_random:
            parts.append("by the random share alone {:,.0f} to {:,.0f} left".format(*self.at_random))
        return f"{'; '.join(parts)}."


@kept(2, SCORES, VERDICT)
def known_count(audit: Audit) -> Known | None:
    """Return what an audit says of its wrong captions, None where it was scored before it told the review's order."""
    with reading(audit.folder / SCORES, mend=DELETE):
        if not set(NEEDED) <= set(pq.read_schema(audit.folder / SCORES).names):
            return None
    scores = read_table(audit.folder / SCORES, columns=NEEDED)
    misfit, fit, posterior, place = (scores[name].to_numpy(dtype=float) for name in NEEDED[1:])
    scored = scores[c.GROUP].isin(c.SCORED_GROUPS).to_numpy()
    told = mapping(mapping(audit.verdict).get("wrong_captions"))
    estimate, low, high = numbers([told.get(name) for name in ("estimate", "low", "high")], 3) or (None, None, None)
    missing = str(told.get("missing") or "the verdict has no count") if estimate is None else ""
    count = WrongCount(estimate, low, high, np.where(scored, posterior, np.nan), missing=missing)
    return Known(count, plan_review(suspicion_of(misfit, fit, scored), place=place))


def wrong_so_far(audit: Audit) -> SoFar | None:
    """Return what people found so far among the judged pairs of an audit, and what is probably left.

    A pair that was removed or given another caption counts as one whose caption is wrong; one that is kept as right.
    Find and replace, and the choice among look-alikes, say neither and do not count.

    Returns:
        None where the audit was scored before there were such counts.
    """
    known = known_count(audit)
    if known is None:
        return None
    told = decided(audit)
    codes, judged = told.codes, np.zeros(len(told.codes), dtype=bool)
    judged[known.review.ranked] = True
    said = judged & ~told.apart & (codes != UNDECIDED_CODE)
    wrong = said & (codes != CODES[KEEP])
    found, count = int(wrong.sum()), known.count
    if count.missing or not said.any():
        return SoFar(int(said.sum()), found)
    exact = count_reviewed(known.review, wrong, said, count.posterior)
    ends = None if exact.missing or exact.low is None or exact.high is None else (exact.low - found, exact.high - found)
    ahead = known.review.order[~said[known.review.order]]
    expected = float(np.nansum(count.posterior[ahead[:NEXT]]))
    return SoFar(int(said.sum()), found, left_after(count, said), expected, _stop(known, ahead), ends)


def _stop(known: Known, ahead: np.ndarray) -> int:
    """Return after how many of the pairs ahead, in the order of the review, to stop looking."""
    ranked = known.review.ranked[np.isin(known.review.ranked, ahead)]
    worth = ranked[: suggest_stop(known.count.posterior[ranked], -np.arange(len(ranked)))]
    return int(np.flatnonzero(np.isin(ahead, worth)).max(initial=-1)) + 1


def wrong_words(audit: Audit) -> tuple[str, str]:
    """Return in a line how many captions are wrong and what is left to look at, and what that rests on.

    By the scores alone while nobody has decided on anything; where it is not known, the line is empty and the other
    says why, or is empty too.
    """
    found, (likely, basis) = wrong_so_far(audit), likely_wrong(audit.verdict)
    if found is None or not found.sentence:
        return likely, basis
    shares = f"The random share: {ASSUMPTION[:1].lower()}{ASSUMPTION[1:]}" if found.at_random else ""
    return found.sentence, " ".join(filter(None, [likely, basis, MEANINGS if found.left else "", shares]))


def drawn_at_random(audit: Audit) -> frozenset[int]:
    """Return the rows that have their place in the order of the review by chance; none where there is no such order."""
    known = known_count(audit)
    return frozenset(known.review.order[known.review.at_random].tolist()) if known else frozenset()
