"""The probability that captions of new pairs are wrong. The log-likelihood ratios were fitted on
the data set; the share of wrong captions is estimated from the new captions (the batch)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import scipy

from clipmem_core.errors.calibration import (
    Probabilities,
    by_specificity,
    combined,
    exclude_each_other,
    log_ratio,
    two_captions,
    with_not_captions,
)
from clipmem_core.errors.evidence import agreement
from clipmem_core.utils.embeddings import unit
from clipmem_core.utils.ragged import Ragged

FEWEST_IN_BATCH = 50  # captions, below which their share of wrong ones is not estimated
_STEPS = 1_000  # of expectation maximisation


@dataclass(frozen=True)
class Fitted:
    """The log-likelihood ratios that were fitted on a data set, to judge captions of other pairs.

    `curves` are log-likelihood ratios of pairs, captions and words as functions of their evidence;
    the other fields are as of `Probabilities`. All values fit into JSON.
    """

    missing: str = ""  # why the number of wrong pairs is unknown
    curves: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    shares: list[float] = field(default_factory=list)
    ratio: list[float] | None = None
    specific: list[float] | None = None
    fit: list[float] = field(default_factory=list)  # as of `OutFit.weights`

    @classmethod
    def of(cls, wrong: Probabilities, fit: np.ndarray) -> "Fitted":
        """Return what `probabilities` fitted, with the weights of fit_out."""
        curves = {
            name: tuple(np.array(count.ratio).tolist())
            for name, count in wrong.counts.items()
            if not count.missing
        }
        missing = wrong.counts["pairs"].missing
        return cls(missing, curves, wrong.shares, wrong.ratio, wrong.specific, fit.tolist())

    def ratio_at(self, kind: str, evidence: np.ndarray) -> np.ndarray:
        """Return the log-likelihood ratio that captions are wrong; NaN without a fitted curve or
        without evidence."""
        curve = self.curves.get(kind)
        return np.interp(evidence, *curve) if curve else np.full(len(evidence), np.nan)

    def agreement(self, features: np.ndarray, captions: Ragged, judged: np.ndarray) -> np.ndarray:
        """Return the `agreement` of captions, and how specific they are, [n, 3]; NaN if the data
        set fitted none.

        Args: features of captions, [n_captions, width]; captions of each unit; numbers of those to
        return, [n].
        """
        values = np.full((len(judged), 3), np.nan)
        if self.ratio is not None:
            values[:, :2] = agreement(features, captions)[judged]
        if self.specific is not None:
            vectors = unit(np.asarray(features[judged], np.float32))
            values[:, 2] = vectors @ np.array(self.specific[:-1]) + self.specific[-1]
        return values

    def judge(
        self,
        of_units: Ragged,
        beside: np.ndarray,
        towers: np.ndarray,
        agree: np.ndarray,
        words: np.ndarray,
        *,
        is_new: np.ndarray,
        not_captions: np.ndarray,
    ) -> pd.DataFrame:
        """Return p_check, p_pair, p_caption, p_word and p_wrong of captions.

        A new pair has evidence of all kinds. For a caption that replaces another one, the evidence
        on its pair counts only if the caption has no siblings.

        Args:
            of_units: the captions of each new pair, or of each candidate.
            beside: similarity, margin and csls, as of `fit_beside`, [n_captions, 3].
            towers: of `TowerModel.values`, [n_captions, n_similarities].
            agree: as of `agreement`, [n_captions, 3].
            words: mean log-likelihood ratio of the words, [n_captions].
            is_new: false for captions that replace others, [n_captions].
            not_captions: true for texts that are no captions, [n_captions].
        """
        evidence = np.column_stack([beside[:, 2], towers])
        by_pair = self.ratio_at("pairs", -log_ratio(np.array(self.fit), evidence))
        by_caption = np.full(len(beside), np.nan)
        if self.ratio is not None:
            evidence = np.column_stack([agree[:, :2], beside[:, 1]])
            if self.specific is not None:
                evidence = by_specificity(evidence, agree[:, 2])
            ratio = log_ratio(np.array(self.ratio), evidence)
            by_caption = self.ratio_at("captions", -ratio)
        by_pair[~is_new & np.isfinite(by_caption)] = np.nan
        ratios = np.stack([by_pair, by_caption, self.ratio_at("words", -words)])
        return with_not_captions(batch_probabilities(of_units, ratios, self.shares), not_captions)


def batch_probabilities(
    of_pairs: Ragged, ratios: np.ndarray, shares: Sequence[float]
) -> pd.DataFrame:
    """Return the probability that captions of a batch are wrong, from log-likelihood ratios that
    were fitted on other captions.

    The share of each kind is estimated from the batch (`batch_share`), among captions that are not
    wrong in a kind before it. Below 50 captions it is the share of the other captions.

    Args:
        of_pairs: the captions of each pair.
        ratios: that all captions of the pair are wrong, that each caption is, by its siblings, and
            that one of its words is; NaN where unknown, [3, n_captions].
        shares: of wrong captions of each kind among the other captions, [3].

    Returns:
        The captions of `combined`; NaN for captions without evidence of the first two kinds.
    """
    known = np.isfinite(ratios)
    ratios = np.where(known, ratios, 0.0)
    weights = known.astype(float)
    weights[0] /= of_pairs.counts[of_pairs.owner]
    of_two = two_captions(of_pairs)
    weights[1, of_two[np.arange(len(of_two)), ratios[1, of_two].argmin(axis=1)]] = 0.0
    parts = np.zeros_like(ratios)
    for kind, part in enumerate(parts):
        share = np.full(of_pairs.n_items, shares[kind])
        if len(share) >= FEWEST_IN_BATCH:
            share[:] = batch_share(ratios[kind], weights[kind])
        if kind == 1:  # one of both is wrong
            share[of_two] /= 2
        part[:] = known[kind] * scipy.special.expit(ratios[kind] + scipy.special.logit(share))
        if kind == 1:
            exclude_each_other(part, of_two)
        weights *= 1 - part
    parts[0, ~known[:2].any(axis=0)] = np.nan
    return combined(of_pairs, parts[0, of_pairs.first], parts[1], parts[2])[0]


def batch_share(log_ratio: np.ndarray, weight: np.ndarray) -> float:
    """Estimate the share of wrong captions in a batch, by expectation maximisation.

    share = Σ w p / Σ w with log-odds of p = log ratio + log-odds of share (Saerens, Latinne &
    Decaestecker, Neural Computation 14, 2002), with Jeffreys' prior on the share.

    Args:
        log_ratio: log-likelihood ratio that each caption is wrong, [n].
        weight: of each caption, in [0, 1], [n].

    Returns:
        In (0, 1); one half of an empty batch.

    Example:
        >>> round(batch_share(np.repeat([9.0, -9.0], [30, 70]), np.ones(100)), 3)
        0.302
    """
    share = 0.5
    for _ in range(_STEPS):
        wrong = weight @ scipy.special.expit(log_ratio + scipy.special.logit(share))
        share = (wrong + 0.5) / (weight.sum() + 1)
    return float(share)
