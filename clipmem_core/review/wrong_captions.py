"""How many pairs of an audit still have a wrong caption: the posterior of what remains, by scores
and decisions, and the bound that the random checks guarantee."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from clipmem_core.auditing.folder.store import (
    CAPTION_TABLE,
    MITIGATIONS,
    PAIRS,
    SCORES,
    Audit,
    write_json,
)
from clipmem_core.auditing.tables.verdict import summary_lines
from clipmem_core.errors.certificate import NEXT, Certificate, bound_wrong
from clipmem_core.errors.posterior import Posterior, ReviewOrder, plan_review
from clipmem_core.review.decisions import (
    CODES,
    KEEP,
    RECAPTION,
    REMOVE,
    UNDECIDED_CODE,
    decided,
    open_review,
)
from clipmem_core.review.queries import cached, fetch_numbered, fetch_pairs
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import read_json

EFFECT = "effect.json"  # of decisions on training, in the folder of mitigations


@dataclass(frozen=True)
class ReviewProgress:
    """The decisions so far, the pairs that still have a wrong caption, and the random checks."""

    decided: int
    wrong: int  # removed or recaptioned
    certificate: Certificate
    repaired: int = 0  # or removed, without a check of the pair: of incidents, near-duplicates
    # Pairs without a decision that have a wrong caption, with a 95 % interval; None if unknown
    remaining: float | None = None
    low: float | None = None
    high: float | None = None
    next_50: float | None = None  # of the next 50 pairs of the review
    # that each pair has a wrong caption, [n_pairs]
    probabilities: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def sentence(self) -> str:
        """What was found, what remains and what to expect; empty without decisions."""
        repaired = (
            f"{self.repaired:,} repaired or removed without a check." if self.repaired else ""
        )
        checked = f"{self.decided:,} checked, {self.wrong:,} wrong." if self.decided else ""
        found = " ".join(filter(None, [repaired, checked]))
        if not found or self.remaining is None:
            return found
        have = "pair still has" if round(self.remaining) == 1 else "pairs still have"
        return (
            f"{found} About {self.remaining:,.0f} {have} a wrong caption (95 % sure: "
            f"{self.low:,.0f} to {self.high:,.0f}); expect about {self.next_50:,.0f} in the next "
            f"{NEXT}."
        )

    @property
    def is_wide(self) -> bool:
        """Whether the ends of the interval differ by more than a factor of four."""
        return (self.high or 0) > 4 * max(self.low or 0, 1)


@cached(2, SCORES)
def review_order(audit: Audit) -> ReviewOrder:
    """Return the order of the review."""
    scores = audit.read_columns(SCORES, c.SUSPICION, c.REVIEW_PLACE)
    priority, place = scores.to_numpy(float).T
    return plan_review(priority, place=place)


@cached(2, SCORES)
def _posterior(audit: Audit) -> tuple[np.ndarray, Posterior]:
    """Return the rows with a probability of a wrong caption, and the prior of their number."""
    scores = audit.read_columns(SCORES, c.P_WRONG)[c.P_WRONG].to_numpy(float)
    rows = np.flatnonzero(np.isfinite(scores))
    return rows, Posterior.of(scores[rows])


@cached(2, SCORES)
def _wrong_left(audit: Audit, recaptioned: tuple[int, ...], entry: int) -> float:
    """Return the expected number of wrong pairs among those that lost only their faulty captions.
    `entry`, the last one of the log, is part of the cache's key.

    Of a wrong pair all captions are wrong; errors of single captions are independent. With p of the
    pair and p_i of each caption left, all are right with the probability
    (1 − p) Π (1 − p_i) / (1 − p).
    """
    pairs = dict(
        fetch_numbered(audit.folder / PAIRS, [c.PAIR_ID, c.CAPTIONS], recaptioned).values()
    )
    made = open_review(audit).decisions(pairs)
    columns = [c.CAPTION, c.P_PAIR, c.P_WRONG]
    scores = fetch_pairs(audit.folder / CAPTION_TABLE, columns, pairs).to_pandas()
    right = dict[str, float]()
    for pair_id, number, p_pair, p_wrong in scores.fillna(0.0).itertuples(index=False):
        texts = [text.strip() for text in pairs[pair_id]]  # as decisions store them
        left = set(made[pair_id].captions)
        if texts[number] in left and left < set(texts):  # otherwise the captions are new
            fits = 1 - min(p_pair, 0.999)
            right[pair_id] = right.get(pair_id, fits) * (1 - p_wrong) / fits
    return len(right) - sum(right.values())


def review_progress(audit: Audit) -> ReviewProgress:
    """Count the decisions, and estimate and bound the wrong captions that remain.

    A removed or recaptioned pair counts as wrong, a kept pair as right. Neutral decisions do not
    count, and a neutral recaption repairs a pair, except for the pair's own captions that stay.
    Without any decision the estimate is the verdict's.
    """
    review = review_order(audit)
    decisions = decided(audit)
    has_decision = decisions.codes != UNDECIDED_CODE
    counted = np.zeros(len(has_decision), bool)
    counted[review.order] = True
    done = counted & has_decision & ~decisions.neutral
    wrong = done & (decisions.codes != CODES[KEEP])
    drawn = review.drawn[~decisions.neutral[review.drawn]]
    removed = wrong & (decisions.codes == CODES[REMOVE])
    first = np.where(done, decisions.first, 0)
    certificate = bound_wrong(drawn, first, wrong, kept=len(drawn) - int(removed.sum()))
    repaired = decisions.neutral & (decisions.codes == CODES[RECAPTION])
    repaired |= ~done & (decisions.codes == CODES[REMOVE])
    progress = ReviewProgress(
        int(done.sum()), int(wrong.sum()), certificate, repaired=int(repaired.sum())
    )
    found = audit.verdict["wrong_captions"]
    if found["missing"]:
        return progress
    rows, posterior = _posterior(audit)
    # A person said of a text that is no caption, or of a placeholder, that it is no fault.
    has_fault = audit.read_columns(SCORES, c.P_CHECK)[c.P_CHECK].to_numpy(float) > 0
    no_fault = decisions.neutral & (decisions.codes == CODES[KEEP]) & has_fault
    left = ~(done | repaired | no_fault)
    recaptioned = np.flatnonzero(repaired & (decisions.codes == CODES[RECAPTION])).tolist()
    more = _wrong_left(audit, tuple(recaptioned), decisions.entry) if recaptioned else 0.0
    estimate = posterior.remaining((done & ~wrong)[rows], wrong[rows], left[rows])
    count = found["all"] if left.all() else estimate._asdict()
    probabilities = np.zeros(len(done))
    probabilities[rows] = estimate.probabilities
    upcoming = review.order[~has_decision[review.order]][:NEXT]
    return replace(
        progress,
        remaining=count["estimate"] + more,
        low=count["low"] + more,
        high=count["high"] + more,
        next_50=float(probabilities[upcoming].sum()),
        probabilities=probabilities,
    )


def write_effect(audit: Audit, decisions: str, effects: dict[str, Any]) -> None:
    """Write what decisions, by their fingerprint, change in training: statement and measures of
    each setting."""
    path = audit.folder / MITIGATIONS / EFFECT
    write_json(path, {"decisions": decisions, "effects": effects})


def read_effect(audit: Audit) -> dict[str, Any]:
    """Return what the current decisions change in training, as of `write_effect`; empty if that was
    not measured."""
    path = audit.folder / MITIGATIONS / EFFECT
    if not path.is_file():
        return {}
    stored = read_json(path, dict[str, Any], repair="delete it")
    is_current = stored["decisions"] == open_review(audit).changes().fingerprint
    return dict(stored["effects"]) if is_current else {}


def wrong_lines(audit: Audit) -> list[str]:
    """Return how many pairs have a wrong caption, or still have one, what random checks guarantee,
    and what the audit cannot see."""
    count, unseen = summary_lines(audit.verdict)
    progress = review_progress(audit)
    return list(filter(None, [progress.sentence or count, progress.certificate.sentence, unseen]))
