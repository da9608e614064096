"""How many captions of an audit are wrong: what its scores say, and what people found so far."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from clipmem_core import columns as c
from clipmem_core.audits.store import SCORES, Audit, read_table
from clipmem_core.audits.verdict import doubt
from clipmem_core.review.decisions import CODES, KEEP, UNDECIDED_CODE, decided
from clipmem_core.review.overview import is_number, mapping
from clipmem_core.review.tables import kept
from clipmem_core.scores.prevalence import WrongCount, estimate_wrong, left_after
from clipmem_core.scores.reviewed import Review, count_reviewed, plan_review, suspicion_of

NEEDED = [c.GROUP, c.MISFIT, c.CSLS_OUT, c.CSLS_SWAPPED]


@dataclass(frozen=True, eq=False)
class Known:
    """What the scores of an audit say before anybody looks: the count, and the order to look in."""

    count: WrongCount
    review: Review


@dataclass(frozen=True, eq=False)
class SoFar:
    """What people decided on the judged pairs of an audit, and what is left by that."""

    decided: int
    wrong: int  # removed, or given another caption
    left: tuple[float, float, float] | None  # by the scores: undecided pairs with a wrong caption, 95 % interval
    at_random: tuple[float, float] | None  # the interval by the random share alone; None while none of it was decided

    @property
    def sentence(self) -> str:
        """What to say of it; empty while nothing is decided or known."""
        if not self.decided:
            return ""
        found = f"{self.wrong:,} of {self.decided:,} looked at were wrong"
        if self.left:
            found += "; about {:,.0f} left ({:,.0f}–{:,.0f}) that fit no better than swapped ones".format(*self.left)
        if self.at_random:
            ends = "{:,.0f} to {:,.0f}".format(*self.at_random)
            found += f"; by the pairs drawn at random alone, whatever the scores are worth, {ends} left"
        return f"{found}."


@kept(2, SCORES)
def known_count(audit: Audit) -> Known | None:
    """Return what the scores of an audit say, None where it was scored before there were such counts."""
    scores = read_table(audit.folder / SCORES)
    if not set(NEEDED) <= set(scores):
        return None
    misfit, fit, swapped = (scores[name].to_numpy(dtype=float) for name in NEEDED[1:])
    scored = scores[c.GROUP].isin(c.SCORED_GROUPS).to_numpy()
    count = estimate_wrong(np.where(scored, fit, np.nan), swapped)
    return Known(count, plan_review(suspicion_of(misfit, fit, scored)))


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
    count = known.count
    left = None if count.missing else left_after(count, said)
    exact = count_reviewed(known.review, wrong, said, count.posterior)
    found = int(wrong.sum())
    ends = (exact.low, exact.high)
    at_random = None if exact.missing or ends[0] is None or ends[1] is None else (ends[0] - found, ends[1] - found)
    return SoFar(int(said.sum()), found, left, at_random)


def drawn_at_random(audit: Audit) -> frozenset[int]:
    """Return the rows that have their place in the order of the review by chance; none where there is no such order."""
    known = known_count(audit)
    return frozenset(known.review.order[known.review.at_random].tolist()) if known else frozenset()


def likely_wrong(verdict: object) -> tuple[str, str]:
    """Return what an audit's verdict says of the number of wrong captions, and what that rests on; empty without."""
    told = mapping(mapping(verdict).get("wrong_captions"))
    ends = _numbers([told.get(name) for name in ("estimate", "low", "high")])
    if not ends:
        return "", str(told.get("missing") or "")
    sentence = "Likely about {:,.0f} wrong captions (95 % {:,.0f}–{:,.0f})".format(*ends)
    planted, stop = _numbers([told.get("planted")], 1), _numbers([told.get("stop"), *_listed(told.get("left"))], 4)
    if planted and planted[0]:
        sentence += f"; {planted[0]:,.0f} were planted"
    if stop:
        sentence += ". Look at the first {:,.0f}; about {:,.0f} ({:,.0f}–{:,.0f}) are left then".format(*stop)
    basis, near = [str(told.get("assumptions") or "")], _numbers(_listed(told.get("near")))
    if near:
        told_near = "{:,.0f} ({:,.0f}–{:,.0f})".format(*near)
        basis.append(f"If wrong captions fitted as well as the most alike of another pair, they would be {told_near}.")
    return f"{sentence}.", " ".join(filter(None, [*basis, doubt(verdict)]))


def _listed(values: Any) -> list[Any]:
    return values if isinstance(values, list) else []


def _numbers(values: list[Any], count: int = 3) -> list[float]:
    """Return values if they are so many numbers, else none."""
    return [float(value) for value in values] if len(values) == count and all(map(is_number, values)) else []
