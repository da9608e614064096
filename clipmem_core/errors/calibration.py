"""The probability that a caption is wrong, from four kinds of evidence; the last three are fitted
against captions that are wrong by construction.

`p_check`: the text is no caption of its picture, whatever the picture shows: a file name, a
refusal, a text that recurs and fits no picture, or the picture is a placeholder. No model is asked.

`p_pair`: all captions of the pair belong to other pairs. Evidence: `fit_out`, ordered by `misfit`.
Fitted against pictures with the caption of a held-out pair.

`p_caption`: this caption belongs to another pair. Evidence: its agreement with the pair's other
captions, and `margin_out`. Fitted against decoys, captions of other pairs that replace it.

Sentences of a long caption count like captions of the pair. Some say nothing of the picture ("It is
red."), so that their log-likelihood ratio depends on how specific they are (`specificity`).

`p_word`: one word of the caption is wrong. Evidence: the log-likelihood ratio of each word. Fitted
against another word of its kind in its place (`changed_words`).

These three are posteriors of `estimate_wrong`, whose prior is the share of wrong captions in the
mixture. The parts exclude each other: a caption of a wrong pair is not counted as a single wrong
caption, and a wrong caption has no wrong word.

    p_wrong = p_check + p_pair + p_caption + p_word
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy
from sklearn.linear_model import LogisticRegression

from clipmem_core.errors.counts import WrongCount, estimate_wrong, posterior_at
from clipmem_core.errors.evidence import specificity
from clipmem_core.errors.misfit import evenly_spaced
from clipmem_core.errors.words import COMPARED_KINDS, mean_ratio
from clipmem_core.utils import columns as c
from clipmem_core.utils import draws
from clipmem_core.utils.ragged import Ragged

HALF = 0.5  # a caption more likely wrong than right is not among those of the next kind
_SEEN_FROM = 0.7  # AUROC of wrong words, and of a kind of them, that an audit can see
_FEWEST_OF_KIND = 200  # words, below which a kind has no log-likelihood ratio of its own
_MOST_FITTED = 200_000  # examples of a class that a log-likelihood ratio is fitted on
# The log-likelihood ratio of too few words to fit one
_MEAN_RATIO = np.array([0.5, 0.5, 0.0, 0.0, 0.0])
_SHARES = (1e-3, 0.5)  # limits of a share that is a prior
_MOST_SURE = 0.98  # probability that it is wrong


def fit_ratio(right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Fit a log-likelihood ratio, linear in the evidence, by logistic regression with classes of
    equal weight.

    Args:
        right: evidence of captions or words, [n_right, n_features].
        wrong: the same of known positives, [n_wrong, n_features].

    Returns:
        Coefficients and constant, [n_features + 1], of log p(evidence | wrong) − log p(evidence |
        right).
    """
    parts = [evenly_spaced(part, _MOST_FITTED) for part in (right, wrong)]
    values = np.concatenate(parts)
    centre = values.mean(axis=0)
    spread = values.std(axis=0) + 1e-9
    labels = np.repeat([0, 1], [len(part) for part in parts])
    model = LogisticRegression(class_weight="balanced", max_iter=1_000).fit(
        (values - centre) / spread, labels
    )
    coefficients = model.coef_[0] / spread
    return np.append(coefficients, model.intercept_[0] - coefficients @ centre)


def by_specificity(evidence: np.ndarray, specific: np.ndarray) -> np.ndarray:
    """Return evidence whose log-likelihood ratio depends on how specific the texts are.

    Args: [n, n_features]; [n].
    Returns: [n, 2 n_features + 1].
    """
    return np.column_stack([evidence, specific, evidence * specific[:, None]])


def log_ratio(ratio: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Return the log-likelihood ratio of evidence.

    Args: the result of `fit_ratio`, [n_features + 1]; evidence, [..., n_features].
    Returns: [...].
    """
    return evidence @ ratio[:-1] + ratio[-1]


def fit_words(evidence: np.ndarray, kinds: np.ndarray) -> list[np.ndarray]:
    """Fit the log-likelihood ratio of a wrong word for each kind of `COMPARED_KINDS`; few words of
    a kind have that of all.

    Args:
        evidence: of each word and of the word it is compared with, [n_words, 2, 4]; NaN if not
            predicted.
        kinds: index of each word's kind in `COMPARED_KINDS`, [n_words].

    Returns:
        One result of `fit_ratio` a kind, [5] each.
    """
    predicted = np.isfinite(evidence).all(axis=(1, 2))
    if predicted.sum() < _FEWEST_OF_KIND:
        return [_MEAN_RATIO] * len(COMPARED_KINDS)
    ratios = []
    for kind in range(len(COMPARED_KINDS)):
        rows = predicted & (kinds == kind)
        examples = evidence[rows if rows.sum() >= _FEWEST_OF_KIND else predicted]
        ratios.append(fit_ratio(examples[:, 0], examples[:, 1]))
    return ratios


def word_log_ratio(
    ratios: Sequence[np.ndarray], evidence: np.ndarray, kinds: np.ndarray
) -> np.ndarray:
    """Return the log-likelihood ratio that words are wrong, in nats.

    Args:
        ratios: the result of `fit_words`.
        evidence: [n_words, ..., 4].
        kinds: index of each word's kind in `COMPARED_KINDS`, [n_words].

    Returns:
        [n_words, ...].
    """
    values = np.full(evidence.shape[:-1], np.nan)
    for kind, ratio in enumerate(ratios):
        values[kinds == kind] = log_ratio(ratio, evidence[kinds == kind])
    return values


@dataclass(frozen=True)
class CaptionEvidence:
    """The evidence on the captions of a data set."""

    of_pairs: Ragged  # the captions of each pair
    fit: np.ndarray  # fit_out of each pair
    swapped: np.ndarray  # the same of swapped captions, [n_swapped]
    misfit: np.ndarray  # of each pair
    captions: np.ndarray  # agreement and margin_out of each caption, [n_captions, 3]
    decoys: np.ndarray  # the same of decoys, [n_decoys, 3]
    similar: np.ndarray  # true: the decoy is a similar caption, false: it is random, [n_decoys]
    words: pd.DataFrame  # caption_row, surprise, changed and kind of each predicted word
    # False for captions that the text tower does not read, which have no probability, [n_captions]
    read: np.ndarray
    # True for texts that are no captions, which no other evidence is fitted on, [n_captions]
    not_captions: np.ndarray
    # Of sentences only: number of each that is the decoy, [n_decoys], and features, [n_captions,
    # width]
    texts: np.ndarray | None = None
    features: np.ndarray | None = None

    @property
    def pair_order(self) -> np.ndarray:
        """The score that pairs are ordered by, the highest first: misfit, or −fit_out where no
        pair has one, [n_pairs]."""
        return self.misfit if np.isfinite(self.misfit).any() else -self.fit


@dataclass(frozen=True)
class Probabilities:
    """The probability that each caption is wrong, and how many are."""

    captions: pd.DataFrame  # p_check, p_pair, p_caption, p_word and p_wrong of each caption
    # That a text is no caption, that all captions are another picture's, that one is, that one word
    # is wrong, [4, n_pairs]
    parts: np.ndarray
    word_share: np.ndarray  # of each predicted word in the p_word of its caption
    counts: dict[str, WrongCount]  # of pairs, captions and words
    kinds: list[dict[str, Any]]  # of words: how well wrong ones are seen
    # Of captions that are wrong in each kind, among those not wrong in a kind before it, [3]
    shares: list[float]
    ratio: list[float] | None  # of single captions, as of `fit_ratio`
    specific: list[float] | None  # how specific sentences are, as of `specificity`

    @property
    def pairs(self) -> np.ndarray:
        """The probability that at least one caption of the pair is wrong, [n_pairs]."""
        return self.parts.sum(axis=0)


def probabilities(evidence: CaptionEvidence) -> Probabilities:
    """Combine the evidence into the probability that each caption is wrong.

    Each part excludes those before it. A part without evidence is 0, and so is p_check until
    `with_faults`.

    Args:
        evidence: on all captions.

    Returns:
        Probabilities of captions, pairs and words, and how many are wrong.
    """
    of_pairs = evidence.of_pairs
    counts = {}
    counts["pairs"], by_pair = _wrong_pairs(evidence)
    fitting = ~(by_pair[of_pairs.owner] > HALF) & evidence.read & ~evidence.not_captions
    evidence, specific = _with_specificity(evidence)
    ratio, counts["captions"], p_caption = _wrong_captions(evidence, fitting)
    shares = [_share(by_pair), _share(p_caption[fitting])]
    fitting &= p_caption <= HALF
    counts["words"], p_word, by_word, kinds = _wrong_words(evidence.words, fitting)
    p_word[~evidence.read] = 0.0
    shares.append(_share(p_word[fitting]))
    captions, parts = combined(of_pairs, by_pair, p_caption, p_word)
    captions[~evidence.read] = np.nan
    return Probabilities(
        captions=captions,
        parts=parts,
        word_share=by_word,
        counts=counts,
        kinds=kinds,
        shares=shares,
        ratio=ratio,
        specific=specific,
    )


def _share(probabilities: np.ndarray) -> float:
    """Return the mean of probabilities, within limits of a prior."""
    known = probabilities[np.isfinite(probabilities)]
    return float(np.clip(known.mean() if len(known) else 0.0, *_SHARES))


def combined(
    of_pairs: Ragged, by_pair: np.ndarray, p_caption: np.ndarray, p_word: np.ndarray
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return p_pair, p_caption, p_word and p_wrong of each caption, and `Probabilities.parts`.

    Args: captions of each pair; the probability that all are wrong, [n_pairs]; the probability
    that each is wrong if the pair is not, and that one of its words is if it is not, [n_captions].
    """
    p_pair = by_pair[of_pairs.owner]
    # Of a wrong pair all captions are wrong; errors of single captions are independent.
    fits, right_words = (np.multiply.reduceat(1 - p, of_pairs.first) for p in (p_caption, p_word))
    parts = (by_pair, (1 - by_pair) * (1 - fits), (1 - by_pair) * fits * (1 - right_words))
    captions = pd.DataFrame({c.P_CHECK: 0.0, c.P_PAIR: p_pair})
    captions[c.P_CAPTION] = (1 - p_pair) * p_caption
    captions[c.P_WORD] = (1 - p_pair - captions[c.P_CAPTION]) * p_word
    captions[c.P_WRONG] = p_pair + captions[c.P_CAPTION] + captions[c.P_WORD]
    return captions, np.stack([np.zeros_like(by_pair), *parts])


def two_captions(of_pairs: Ragged) -> np.ndarray:
    """Return the numbers of the two captions of each pair that has two, [n, 2]: they disagree with
    each other equally if one is wrong."""
    return of_pairs.take(of_pairs.counts == 2)[0].reshape(-1, 2)


def exclude_each_other(p_caption: np.ndarray, of_two: np.ndarray) -> None:
    """Let the errors of the two captions of a pair exclude each other, in place; `of_two` as of
    `two_captions`."""
    odds = p_caption[of_two] / (1 - p_caption[of_two])
    p_caption[of_two] = odds / (1 + odds.sum(axis=1, keepdims=True))


def with_not_captions(captions: pd.DataFrame, not_captions: np.ndarray) -> pd.DataFrame:
    """Return the probabilities of captions where some texts are no captions, bool [n_captions]."""
    captions = captions.copy()
    captions[not_captions] = captions[not_captions].fillna(0.0) * (1 - _MOST_SURE)
    captions[c.P_CHECK] = np.where(not_captions, _MOST_SURE, 0.0)
    captions.loc[not_captions, c.P_WRONG] += _MOST_SURE
    return captions


def with_faults(
    wrong: Probabilities, of_pairs: Ragged, not_captions: np.ndarray, displaced: np.ndarray
) -> Probabilities:
    """Return the probabilities where some texts are no captions, and where all captions of some
    pairs belong to other pairs.

    Args: captions of each pair; true for texts that are no captions, [n_captions]; the probability
    that a run explains the pair, [n_pairs], as of `displaced_probability`.
    """
    captions = with_not_captions(wrong.captions, not_captions)
    none = np.multiply.reduceat(1 - captions[c.P_CHECK].to_numpy(), of_pairs.first)
    parts = np.where(none < 1, np.nan_to_num(wrong.parts), wrong.parts) * none
    parts[0] = 1 - none
    displaced = np.minimum(displaced, _MOST_SURE)
    of_caption = displaced[of_pairs.owner]
    captions[of_caption > 0] = 0.0
    captions[[c.P_PAIR, c.P_WRONG]] += of_caption[:, None]
    parts[:, displaced > 0] = 0.0
    parts[1] += displaced
    return replace(wrong, captions=captions, parts=parts)


def _wrong_pairs(evidence: CaptionEvidence) -> tuple[WrongCount, np.ndarray]:
    """Return the number of wrong pairs, and the probability of each.

    Probabilities are fitted on `fit_out`, since swapped captions have no `misfit`, then permuted
    so that they increase with `misfit`, which ranks better.
    """
    is_none = np.maximum.reduceat(evidence.not_captions, evidence.of_pairs.first)
    count = estimate_wrong(np.where(is_none, np.nan, evidence.fit), evidence.swapped)
    order = evidence.pair_order
    both = np.isfinite(evidence.fit) & np.isfinite(order)
    if count.missing:
        return count, np.full(len(order), np.nan)
    by_fit = posterior_at(count.curve, evidence.fit[both])
    return count, np.interp(order, np.sort(order[both]), np.sort(by_fit))


def _with_specificity(evidence: CaptionEvidence) -> tuple[CaptionEvidence, list[float] | None]:
    """Return the evidence on sentences with how specific they are, and the model of that; without
    sentences the evidence is unchanged.

    The decoys of sentences are those drawn at random: the sentences of one picture differ more
    than similar sentences of two.
    """
    if evidence.features is None or evidence.texts is None:
        return evidence, None
    captions = evidence.captions
    known = np.isfinite(evidence.decoys).all(axis=1) & ~evidence.similar
    usable = np.isfinite(captions).all(axis=1)
    if not (known.any() and usable.any()):
        return evidence, None
    decoys, texts = evidence.decoys[known], evidence.texts[known]
    ratio = fit_ratio(captions[usable], decoys)
    gaps = log_ratio(ratio, decoys) - log_ratio(ratio, captions[texts])
    compared = np.isfinite(gaps)
    owner = evidence.of_pairs.owner
    half = draws.rng(0, "specificity").integers(0, 2, owner.max() + 1)[owner]
    if len(np.unique(half[texts[compared]])) < 2:  # a half without a decoy fits no model
        return evidence, None
    specific, model = specificity(evidence.features, texts[compared], gaps[compared], half)
    changed = replace(
        evidence,
        captions=by_specificity(captions, specific),
        decoys=by_specificity(decoys, specific[texts]),
        similar=evidence.similar[known],
        texts=texts,
    )
    return changed, model.tolist()


def _wrong_captions(
    evidence: CaptionEvidence, fitting: np.ndarray
) -> tuple[list[float] | None, WrongCount, np.ndarray]:
    """Return the log-likelihood ratio, the number of captions of other pairs, and the probability
    of each caption.

    The two captions of a pair that has two are counted once, and their errors exclude each other.

    Args:
        evidence: on all captions.
        fitting: false for captions of pairs that are probably wrong, [n_captions].
    """
    usable = [part[np.isfinite(part).all(axis=1)] for part in (evidence.captions, evidence.decoys)]
    if not all(map(len, usable)):
        unknown = WrongCount(missing="no member saw neither the picture nor the caption")
        return None, unknown, np.zeros(len(fitting))
    ratio = fit_ratio(*usable)
    fit = -log_ratio(ratio, evidence.captions)
    of_decoys = -log_ratio(ratio, evidence.decoys)
    of_two = two_captions(evidence.of_pairs)
    counted = np.where(fitting, fit, np.nan)
    counted[of_two[np.arange(len(of_two)), fit[of_two].argmax(axis=1)]] = np.nan
    by_kind = [of_decoys[evidence.similar == similar] for similar in np.unique(evidence.similar)]
    count = estimate_wrong(counted, *by_kind)
    p_caption = np.nan_to_num(posterior_at(count.curve, fit))
    exclude_each_other(p_caption, of_two)
    return ratio.tolist(), count, p_caption


def _wrong_words(
    words: pd.DataFrame, fitting: np.ndarray
) -> tuple[WrongCount, np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """Return the number of captions with a wrong word, the probability of each caption, the share
    of each of its words, and how well wrong words of each kind are seen.

    One word of each caption, drawn at random, is compared with the same caption with another word
    in its place (`changed`): those captions are known to be wrong.

    Args:
        words: caption, surprise, changed and kind of each predicted word.
        fitting: false for captions that are probably wrong already, [n_captions].
    """
    columns = [c.CAPTION_ROW, c.SURPRISE, c.CHANGED, c.WORD_KIND]
    caption, observed, changed, kind = (words[name].to_numpy() for name in columns)
    in_captions = Ragged.of(np.bincount(caption, minlength=len(fitting)))
    of_caption = mean_ratio(observed, in_captions)
    rows = np.flatnonzero(np.isfinite(changed) & fitting[caption])
    rows = draws.rng(0, "changed word").permutation(rows)
    drawn = rows[np.unique(caption[rows], return_index=True)[1]]
    with_change = observed.copy()
    with_change[drawn] = changed[drawn]
    wrong = mean_ratio(with_change, in_captions)[caption[drawn]]
    right = of_caption[fitting & np.isfinite(of_caption)]
    count = WrongCount(missing="wrong words can hardly be told from right ones in these captions")
    is_seen = _auroc(wrong, right) >= _SEEN_FROM
    if is_seen:
        count = estimate_wrong(np.where(fitting, -of_caption, np.nan), -wrong)
    kinds = list[dict[str, Any]]()
    for number, name in enumerate(COMPARED_KINDS):
        of_kind = wrong[kind[drawn] == number]
        if len(of_kind) and len(right):
            auroc = _auroc(of_kind, right)
            kinds.append({"kind": name, "auroc": auroc, "seen": is_seen and auroc >= _SEEN_FROM})
    share = np.exp(observed - of_caption[caption]) / in_captions.counts[caption]
    return count, np.nan_to_num(posterior_at(count.curve, -of_caption)), share, kinds


def _auroc(wrong: np.ndarray, right: np.ndarray) -> float:
    """Return the probability that a wrong caption scores above a right one; one half of none."""
    if not (len(wrong) and len(right)):
        return 0.5
    above = scipy.stats.mannwhitneyu(wrong, right, method="asymptotic").statistic
    return float(above / len(wrong) / len(right))
