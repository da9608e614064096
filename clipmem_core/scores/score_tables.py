"""The tables of scores of pairs and captions, computed from the outputs of members.

Members' outputs are arrays, one a member, and may be memory maps.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy

from clipmem_core.errors import misfit
from clipmem_core.errors.calibration import (
    CaptionEvidence,
    Probabilities,
    fit_ratio,
    log_ratio,
    probabilities,
    with_faults,
)
from clipmem_core.errors.counts import SECOND_ROUND_FROM, estimate_wrong
from clipmem_core.errors.evidence import agreement, recurring_texts
from clipmem_core.errors.posterior import Posterior
from clipmem_core.errors.runs import DisplacedRun, displaced_probability
from clipmem_core.errors.tower_fit import draw_swaps
from clipmem_core.scores import memorization
from clipmem_core.scores.encoders import contributions
from clipmem_core.scores.membership import InOut
from clipmem_core.scores.registry import BY_NAME, SCORE_COLUMNS
from clipmem_core.utils import columns as c
from clipmem_core.utils.ragged import Ragged


@dataclass(frozen=True)
class Evidence:
    """The outputs of all members, an array per member, and their training pairs. Embeddings are
    memory-mapped."""

    pairs: pd.DataFrame  # pair_id, injected
    in_out: InOut
    views: int
    components: list[dict[str, np.ndarray]]
    image: Sequence[np.ndarray]  # μ_I of each member, [n_pairs, dim]
    text: Sequence[np.ndarray]
    log_probability: list[np.ndarray]  # in training
    n_captions: np.ndarray  # behind each mean text embedding, [n_pairs]
    # By the locked towers alone, of each pair and with swapped captions; None without two towers
    towers: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def alignments(self) -> list[np.ndarray]:
        return [components[c.ALIGNMENT] for components in self.components]


@dataclass(frozen=True)
class OutFit:
    """How well captions fit, by members that never saw the pair and by the towers alone.

    `fit_out` is minus the log-likelihood ratio, linear in both, of captions swapped at random to
    the captions of the set.
    """

    weights: np.ndarray  # of csls_out, of the similarities by the towers, and 1
    towers: np.ndarray  # [n_pairs, n_similarities]
    swapped: np.ndarray  # fit_out of swapped captions, [n_swapped]

    @classmethod
    def of(
        cls, csls: np.ndarray, swapped: np.ndarray, towers: tuple[np.ndarray, np.ndarray] | None
    ) -> "OutFit":
        """Fit the weights.

        Args: csls_out of pairs, [n_pairs], and with swapped captions, [n_pairs, n_swaps]; as in
        `Evidence`.
        """
        of_pairs, of_swapped = towers or (np.empty((len(csls), 0)), np.empty((swapped.size, 0)))
        right = np.column_stack([csls, of_pairs])
        wrong = np.column_stack([swapped.ravel(), of_swapped])
        usable = [part[np.isfinite(part).all(axis=1)] for part in (right, wrong)]
        weights = -np.eye(right.shape[1] + 1)[0]
        if all(map(len, usable)):
            weights = fit_ratio(*usable)
        return cls(weights, of_pairs, -log_ratio(weights, usable[1]))

    def fit_out(self, csls: np.ndarray) -> np.ndarray:
        """Return fit_out of pairs by the csls_out of their members, [n_pairs]."""
        return -log_ratio(self.weights, np.column_stack([csls, self.towers]))


def score_table(evidence: Evidence) -> tuple[pd.DataFrame, float | None, OutFit]:
    """Return every score of every pair (`SCORE_COLUMNS`), the fit of the maps between members'
    embeddings, which split clipmem between the encoders, and how well captions fit."""
    in_out = evidence.in_out
    trained = in_out.membership.trained
    held_out = in_out.held_out
    image, text = evidence.image, evidence.text
    parts, split = contributions(image, text, in_out)
    sslmem = memorization.sslmem(
        evidence.components, in_out, n_views=evidence.views, n_captions=evidence.n_captions
    )
    swaps = draw_swaps(held_out, seed=in_out.seed)
    csls = misfit.csls_out(image, text, trained, held_out)
    swapped = misfit.swapped_csls(image, text, trained, held_out, swaps)
    fit = OutFit.of(csls, swapped, evidence.towers)
    fitted = {
        c.FIT_OUT: fit.fit_out(csls),
        c.LEARNED: misfit.nan_mean(evidence.log_probability),
    }
    table = memorization.memorization_table(evidence.components, in_out)
    ids = evidence.pairs[[c.PAIR_ID]].assign(**{c.GROUP: in_out.membership.group})
    scores = pd.concat([ids, table, parts, sslmem], axis=1).assign(**fitted)
    # Later steps fill the columns that are missing here
    return update_scores(scores.reindex(columns=SCORE_COLUMNS), **scores), split, fit


def second_round(
    scores: pd.DataFrame, swapped: np.ndarray, rounds: str, read: np.ndarray
) -> np.ndarray:
    """Return the pairs that a second round of training leaves out, bool [n_pairs]: those of highest
    misfit, as many as are probably wrong; none if they are too few for the setting `rounds`.

    Sample selection between rounds of training, as by trimmed loss (Shen & Sanghavi, ICML 2019),
    here by members that never saw the pair.

    Args: of `score_table`; of `OutFit`; "auto" or "2"; false for pairs whose captions are not read,
    [n_pairs].
    """
    scored = scores[c.GROUP].isin(c.SCORED_GROUPS).to_numpy() & read
    misfit, fit = (np.where(scored, scores[name], np.nan) for name in (c.MISFIT, c.FIT_OUT))
    count = round(estimate_wrong(fit, swapped).estimate or 0.0)
    left_out = np.zeros(len(fit), dtype=bool)
    if count >= SECOND_ROUND_FROM[rounds] * np.isfinite(fit).sum():
        left_out[np.argsort(-misfit, kind="stable")[:count]] = True
    return left_out


def update_scores(scores: pd.DataFrame, **values: np.ndarray) -> pd.DataFrame:
    """Return scores with new values of some columns, [n_pairs] each, and of the columns derived
    from them."""
    scores = scores.assign(**values)
    changed = set(values)
    for score in BY_NAME.values():
        if score.compute and changed & set(score.needs):
            scores[score.name] = score.compute(*(scores[name].to_numpy() for name in score.needs))
            changed.add(score.name)
    return scores


@dataclass(frozen=True)
class Texts:
    """The captions of a data set, or their sentences, and their properties that need no members."""

    of_pairs: Ragged  # the texts of each pair
    # False for texts that the text tower does not read, which have no probability, [n_texts]
    read: np.ndarray
    reasons: np.ndarray  # why each is no caption, empty for captions, object [n_texts]
    clusters: np.ndarray  # near-duplicate pictures share a number, [n_pairs]
    features: np.ndarray | None  # of a locked text tower, [n_texts, width]
    are_sentences: bool = False


@dataclass(frozen=True)
class Judged:
    """The scores of a data set, with the probabilities that its captions are wrong."""

    scores: pd.DataFrame  # `SCORE_COLUMNS`
    captions: pd.DataFrame  # a row a caption or sentence
    wrong: Probabilities


def with_recurring(texts: Texts, scores: pd.DataFrame, captions: pd.DataFrame) -> np.ndarray:
    """Return the reasons of texts with those that recur and fit no picture, object [n_texts].

    Args: captions of pairs; tables of pairs and of captions, as of `caption_evidence`.
    """
    reasons = texts.reasons.copy()
    if texts.features is not None and not texts.are_sentences:
        owner = texts.of_pairs.owner
        others = scores[f"{c.NEGATIVE_IMAGE}_out"].to_numpy()[owner]
        gaps = np.where(texts.read, captions[c.SIMILARITY_OUT] - others, np.nan)
        recurs = recurring_texts(texts.features, gaps, owner, texts.clusters)
        reasons[recurs & (reasons == "")] = c.RECURRING_TEXT
    return reasons


def judge_texts(
    scores: pd.DataFrame,
    captions: pd.DataFrame,
    evidence: CaptionEvidence,
    reasons: np.ndarray,
    faults: Iterable[np.ndarray],
    runs: Sequence[DisplacedRun],
) -> Judged:
    """Compute the probability that each caption, or sentence, is wrong.

    Args:
        scores: of `score_table`.
        captions, evidence: of `caption_evidence`.
        reasons: why each text is no caption, empty for captions, object [n_texts].
        faults: the pairs of each fault of the pipeline that texts show.
        runs: pairs whose captions belong to other pairs in order.
    """
    of_pairs = evidence.of_pairs
    is_none = reasons != ""
    displaced = displaced_probability(runs, len(scores))
    wrong = with_faults(probabilities(evidence), of_pairs, is_none, displaced)
    captions = pd.concat([captions, wrong.captions], axis=1).assign(**{c.CHECK: reasons})
    by_part = dict(zip(c.PARTS, wrong.parts, strict=True))
    # A pair's order in the review, the highest first: its highest p_wrong, or misfit if no pair has
    # one. What a fault explains comes last, since one repair undoes all of it.
    order = np.fmax.reduceat(wrong.captions[c.P_WRONG].to_numpy(), of_pairs.first)
    if wrong.counts["pairs"].missing:
        order = np.where(np.isnan(order), evidence.pair_order, order)
    explained = np.zeros(len(scores), bool)
    for rows in faults:
        explained[rows] = True
    explained &= np.maximum.reduceat(is_none, of_pairs.first)
    order[explained | (displaced > 0)] = -np.inf
    # The share of pairs that are reviewed after each
    later = scipy.stats.rankdata(order, "min", nan_policy="omit") - 1
    priority = later / max(np.count_nonzero(~np.isnan(order)), 1)
    by_part |= {c.P_WRONG: wrong.pairs, c.SUSPICION: priority}
    return Judged(update_scores(scores, **by_part), captions, wrong)


def caption_evidence(
    scores: pd.DataFrame,
    swapped: np.ndarray,
    texts: Texts,
    in_out: InOut,
    members: Iterable[np.ndarray],
    decoys: np.ndarray,
    words: pd.DataFrame,
) -> tuple[CaptionEvidence, pd.DataFrame]:
    """Return the evidence that texts are wrong, and their table without probabilities.

    similarity_out and margin_out are means over the members not trained on the pair, learned over
    those trained on it. Where no pair has several texts they are the pair's, fit_out for
    margin_out.

    Args:
        scores: of `score_table`.
        swapped: of `OutFit`.
        texts: all captions or sentences.
        in_out: who trains on what.
        members: `CAPTION_SCORES` [n_texts + n_decoys] of each; unused if no pair has two texts.
        decoys: `DECOY` [n_decoys].
        words: caption_row, surprise, changed and kind of the words that were predicted.
    """
    of_pairs = texts.of_pairs
    n = of_pairs.n_items
    owner = of_pairs.owner
    if of_pairs.counts.max(initial=0) > 1:
        means = _caption_means(members, in_out, owner, decoys)
    else:
        means = scores[[c.SIMILARITY_OUT, c.FIT_OUT, c.LEARNED]].to_numpy()[owner].T
    similarity, margin, learned = means
    agree = np.full((n, 2), np.nan)
    of_decoys = np.empty((0, 3))
    if len(decoys):
        assert texts.features is not None
        agree = agreement(texts.features, of_pairs)
        of_decoys = np.column_stack([agreement(texts.features, of_pairs, decoys), margin[n:]])
    some_read = np.logical_or.reduceat(texts.read, of_pairs.first)
    evidence = CaptionEvidence(
        of_pairs,
        fit=np.where(some_read, scores[c.FIT_OUT], np.nan),
        swapped=swapped,
        misfit=np.where(some_read, scores[c.MISFIT], np.nan),
        captions=np.where(texts.read, np.column_stack([agree, margin[:n]]).T, np.nan).T,
        decoys=of_decoys,
        similar=decoys["similar"],
        texts=decoys["caption"],
        features=texts.features if texts.are_sentences else None,
        words=words,
        read=texts.read,
        not_captions=texts.reasons != "",
    )
    table = {
        c.CAPTION_ROW: np.arange(n),
        c.PAIR_ID: scores[c.PAIR_ID].to_numpy()[owner],
        c.CAPTION: of_pairs.number.astype(np.int32),
        c.SIMILARITY_OUT: similarity[:n],
        c.MARGIN_OUT: margin[:n],
        c.LEARNED: learned[:n],
        c.AGREEMENT: agree[:, 0],
        c.READ: texts.read,
    }
    return evidence, pd.DataFrame(table)


def _caption_means(
    members: Iterable[np.ndarray], in_out: InOut, owner: np.ndarray, decoys: np.ndarray
) -> np.ndarray:
    """Return similarity, margin and learned of each text and of each decoy, [3, n_texts +
    n_decoys]: means over the members that trained on neither, or on both, of its pairs."""
    # A text has one pair, a decoy two: that of the picture, and that of the text.
    both = [np.append(owner, owner[decoys[name]]) for name in ("place", "caption")]

    def of_member(values: np.ndarray, trained: np.ndarray) -> np.ndarray:
        first, second = (trained[rows] for rows in both)
        masks = {name: ~(first | second) for name in ("similarity", "margin")}
        masks["learned"] = first & second
        return np.stack([np.where(mask, values[name], np.nan) for name, mask in masks.items()])

    return misfit.nan_mean(map(of_member, members, in_out.membership.trained))


def captions_of_sentences(sentences: pd.DataFrame) -> pd.DataFrame:
    """Return the table of captions: one is wrong if it has a wrong sentence, and errors of its
    sentences are independent. Other scores are those of the sentence most likely wrong."""
    table = sentences
    same_pair = 1 - table[c.P_CHECK] - table[c.P_PAIR]
    right = ((same_pair - table[c.P_CAPTION]) / same_pair).clip(0, 1)
    right_words = ((1 - table[c.P_WRONG]) / (same_pair - table[c.P_CAPTION])).clip(0, 1)
    rows = (table[c.SENTENCE] == 0).cumsum() - 1  # of each sentence's caption
    worst = table[c.P_WRONG].fillna(-1.0).groupby(rows).idxmax()
    right, right_words = (part.groupby(rows).prod() for part in (right, right_words))
    captions = table.loc[worst].reset_index(drop=True)
    whole = captions[c.P_CHECK] + captions[c.P_PAIR]
    captions[c.P_CAPTION] = (1 - whole) * (1 - right)
    captions[c.P_WORD] = (1 - whole) * right * (1 - right_words)
    captions[c.P_WRONG] = whole + captions[c.P_CAPTION] + captions[c.P_WORD]
    return captions.assign(**{c.CAPTION_ROW: captions.index})


def wrong_captions(
    injected: pd.Series, scores: pd.DataFrame, wrong: Probabilities
) -> dict[str, Any]:
    """Return how many pairs have a wrong caption, and the counts of each kind of evidence;
    `missing` says why not."""
    missing = wrong.counts["pairs"].missing
    found = {
        "missing": missing or None,
        "injected": int((injected == c.MISCAPTION).sum()),
        "injected_vague": int((injected == c.VAGUE).sum()),
    }
    if missing:
        return found
    parts = np.nansum(wrong.parts, axis=1)
    estimate = float(parts.sum())
    probabilities = wrong.pairs[np.isfinite(wrong.pairs)]
    _, low, high, _ = Posterior.of(probabilities).before_review()
    return found | {
        "all": {"estimate": estimate, "low": min(low, estimate), "high": max(high, estimate)},
        "of": len(probabilities),
        "parts": parts.tolist(),
        "counted": [name for name, count in wrong.counts.items() if not count.missing],
        "kinds": wrong.kinds,
        "several": len(wrong.captions) > len(wrong.pairs),  # captions of a pair
    }
