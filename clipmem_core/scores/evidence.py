"""The probability that a caption is wrong, from three kinds of evidence, each against known
positives.

| part | what is wrong | evidence | known positives |
|---|---|---|---|
| `p_pair` | all captions of the pair belong to other pairs | `csls_out`, ordered by `misfit` |
pictures with the caption of a held-out pair (`swapped_csls`) |
| `p_caption` | this caption belongs to another pair | its agreement with the pair's other captions,
and `margin_out` | decoys: captions of other pairs in its place |
| `p_word` | one word of the caption | the log-likelihood ratio of each word | another word of its
kind in its place (`changed_words`) |

Each part is a posterior of `estimate_wrong`, whose prior is the share of wrong captions in the
mixture. The parts exclude each other: a caption of a wrong pair is not counted as a single wrong
caption, and a wrong caption has no wrong word.

Captions of all pairs are numbered; `start` has the number of each pair's first caption, and at the
end n, [n_pairs + 1]."""  # noqa: E501

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy

from clipmem_core import columns as c
from clipmem_core.embeddings import nearest_rows
from clipmem_core.scores.alignment import unit
from clipmem_core.scores.prevalence import WrongCount, estimate_wrong, posterior_at
from clipmem_core.scores.words import KINDS, mean_ratio

MOST_DECOYS = 20_000  # captions in whose place a decoy is put, evenly spaced
MOST_DONORS = 100_000  # captions that decoys are drawn from, evenly spaced
# a decoy is one of the ten nearest captions of other pictures, among the forty nearest
_NEAREST = 10
SEARCHED = 40
HALF = 0.5  # a caption more likely wrong than right is not among those of the next kind
SEEN_FROM = 0.7  # AUROC of a kind of wrong word that an audit can see
FEWEST_OF_KIND = 200  # words, below which a kind has no log-likelihood ratio of its own
_MOST_FITTED = 200_000  # examples of a class that a log-likelihood ratio is fitted on
MEAN_SURPRISE = np.array(
    [0.5, 0.5, 0.0, 0.0, 0.0]
)  # the log-likelihood ratio of too few words to fit one
_SAME = 0.999  # cosine from which two captions count as equal
_BLOCK = 8_192  # captions whose siblings are in memory at a time
_DECOY_DRAW = 21  # random stream


def draw_decoys(
    features: np.ndarray, start: np.ndarray, clusters: np.ndarray, *, seed: int
) -> np.ndarray:
    """Draw a caption of another picture for the place of each caption that has siblings, or of
    20,000 of them.

    Half of the decoys are drawn at random, half from the ten nearest captions by the features of a
    text tower.

    Args:
        features: of captions, [n_captions, width].
        clusters: each pair's cluster of near-duplicates, whose captions are no decoys for each
            other, [n_pairs].

    Returns:
        The number of a caption and of the caption in its place, and 1 for a similar one, int64 [n,
        3], ascending by the caption in its place.
    """
    counts = np.diff(start)
    cluster = np.repeat(clusters, counts)
    places = _evenly(np.flatnonzero(np.repeat(counts > 1, counts)), MOST_DECOYS)
    donors = _evenly(np.arange(len(cluster)), MOST_DONORS)
    if not len(places):
        return np.empty((0, 3), np.int64)
    rng = np.random.default_rng([seed, _DECOY_DRAW])
    at_random = rng.choice(donors, len(places))
    vectors = unit(np.asarray(features[donors], np.float32))
    queries = unit(np.asarray(features[places[1::2]], np.float32))
    cosines, near = nearest_rows(vectors, queries, min(SEARCHED, len(donors)))
    usable = (cluster[donors[near]] != cluster[places[1::2], None]) & (cosines < _SAME)
    usable &= np.cumsum(usable, axis=1) <= _NEAREST
    drawn = np.where(usable, rng.random(usable.shape), -1.0).argmax(axis=1)
    found = usable.any(axis=1)
    at_random[1::2][found] = donors[near[np.arange(len(near)), drawn]][found]
    decoys = np.column_stack([places, at_random, np.arange(len(places)) % 2])[
        cluster[places] != cluster[at_random]
    ]
    return decoys[np.argsort(decoys[:, 1], kind="stable")]


def _evenly(values: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many of the values, evenly spaced."""
    return values if len(values) <= most else values[np.arange(most) * len(values) // most]


def agreement(
    features: np.ndarray, start: np.ndarray, decoys: np.ndarray | None = None
) -> np.ndarray:
    """Measure how well each caption, or each decoy in its place, agrees with the other captions of
    the pair.

    Two cosines by the features of a text tower: the highest with a sibling, and the mean with all
    siblings less the mean of the siblings among themselves (0 with a single sibling).

    Returns:
        [n_captions, 2] or [n_decoys, 2]; NaN without siblings.

    Example:
        >>> features = np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
        >>> agreement(features, np.array([0, 3])).round(2).tolist()
        [[1.0, 0.2], [1.0, 0.2], [0.6, -0.4]]
    """
    counts = np.diff(start)
    place = np.arange(start[-1]) if decoys is None else decoys[:, 0]
    owner = np.repeat(np.arange(len(counts)), counts)[place]
    result = np.full((len(place), 2), np.nan)
    for count in np.unique(counts[counts > 1]):
        rows = np.flatnonzero(counts[owner] == count)
        step = max(1, _BLOCK // int(count))
        for part in (rows[at : at + step] for at in range(0, len(rows), step)):
            first, pair = np.unique(start[owner[part]], return_inverse=True)
            slot = place[part] - first[pair]
            each = np.arange(len(part))
            own = np.asarray(features[(first[:, None] + np.arange(count)).ravel()], np.float32)
            own = unit(own).reshape(len(first), count, -1)
            among = own @ own.swapaxes(1, 2)
            cosines = among[pair, slot]
            others = (among.sum(axis=(1, 2)) - count)[pair] - 2 * (
                cosines.sum(axis=1) - cosines[each, slot]
            )
            if decoys is not None:
                cosines = np.vecdot(
                    own[pair], unit(np.asarray(features[decoys[part, 1]], np.float32))[:, None]
                )
            cosines[each, slot] = 0.0
            mean = cosines.sum(axis=1) / (count - 1)
            cosines[each, slot] = -np.inf
            result[part, 0] = cosines.max(axis=1)
            result[part, 1] = mean - others / ((count - 1) * (count - 2)) if count > 2 else 0.0
    return result


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
    from sklearn.linear_model import LogisticRegression  # slow to import

    parts = [_evenly(part, _MOST_FITTED) for part in (right, wrong)]
    values = np.concatenate(parts)
    centre = values.mean(axis=0)
    spread = values.std(axis=0) + 1e-9
    labels = np.repeat([0, 1], [len(part) for part in parts])
    model = LogisticRegression(class_weight="balanced", max_iter=1_000).fit(
        (values - centre) / spread, labels
    )
    coefficients = model.coef_[0] / spread
    return np.append(coefficients, model.intercept_[0] - coefficients @ centre)


def log_ratio(ratio: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Return the log-likelihood ratio of evidence, [..., n_features], by the result of
    `fit_ratio`."""
    return evidence @ ratio[:-1] + ratio[-1]


def word_evidence(alone: np.ndarray, together: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    """Return how much less likely words are here than anywhere, in nats, and the parts of it above
    0.

    log p(word) − log p(word | picture, caption), log p(word) − log p(word | the pair's other
    captions too). An error of all captions of a pair goes unnoticed in the second.

    Args: log-probabilities given picture and caption (`alone`) and given the pair's other captions
    too (`together`), NaN for words that are not predicted; frequency among all words. Of one shape;
    returns float32 [..., 4].
    """
    with np.errstate(divide="ignore"):
        surprise = np.log(frequency)[..., None] - np.stack([alone, together], axis=-1)
    surprise = surprise.astype(np.float32)  # of ten million words in a large set
    return np.concatenate([surprise, np.maximum(surprise, 0.0)], axis=-1)


def fit_words(evidence: np.ndarray, kinds: np.ndarray) -> list[np.ndarray]:
    """Fit the log-likelihood ratio of a wrong word for each kind of `KINDS`; few words of a kind
    have that of all.

    Args: evidence of each word and of the word it is compared with, [n_words, 2, 4], NaN if not
    predicted; the kind of each word, [n_words].
    """
    known = np.isfinite(evidence).all(axis=(1, 2))
    if known.sum() < FEWEST_OF_KIND:
        return [MEAN_SURPRISE] * len(KINDS)
    chosen = [known & (kinds == kind) for kind in range(len(KINDS))]
    chosen = [rows if rows.sum() >= FEWEST_OF_KIND else known for rows in chosen]
    return [fit_ratio(*evidence[rows].swapaxes(0, 1)) for rows in chosen]


def surprise(ratios: Sequence[np.ndarray], evidence: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return the log-likelihood ratio that words are wrong, in nats, by the result of `fit_words`.

    Args: evidence, [n_words, ..., 4], and the kind of each word, [n_words].
    """
    values = np.full(evidence.shape[:-1], np.nan)
    for kind, ratio in enumerate(ratios):
        values[kinds == kind] = log_ratio(ratio, evidence[kinds == kind])
    return values


@dataclass(frozen=True, eq=False)
class CaptionEvidence:
    """The evidence on the captions of a data set. Without siblings or words a part is None."""

    counts: np.ndarray  # captions of each pair, [n_pairs]
    fit: np.ndarray  # csls_out of each pair
    swapped: np.ndarray  # csls_swapped of each pair
    misfit: np.ndarray  # of each pair
    captions: np.ndarray | None = None  # agreement and margin_out of each caption, [n_captions, 3]
    decoys: np.ndarray | None = None  # the same of decoys, [n_decoys, 3]
    similar: np.ndarray | None = (
        None  # 1 for a decoy that is a similar caption, 0 for one drawn at random, [n_decoys]
    )
    words: pd.DataFrame | None = None  # caption, surprise, changed and kind of each predicted word


@dataclass(frozen=True, eq=False)
class Probabilities:
    """The probability that each caption is wrong, and how many are."""

    captions: pd.DataFrame  # p_pair, p_caption, p_word and p_wrong of each caption
    pairs: np.ndarray  # that at least one caption of the pair is wrong, [n_pairs]
    worst: (
        np.ndarray
    )  # the highest p_wrong of the pair's captions, [n_pairs]; misfit if there is no p_wrong
    words: np.ndarray  # that each predicted word is wrong
    counts: dict[str, WrongCount]  # of pairs, captions and words
    kinds: list[dict[str, Any]]  # of words: how well wrong ones are seen
    ratio: np.ndarray | None  # of single captions, as of `fit_ratio`


def probabilities(evidence: CaptionEvidence) -> Probabilities:
    """Combine the three kinds of evidence. A part without evidence is 0."""
    n = int(evidence.counts.sum())
    owner = np.repeat(np.arange(len(evidence.counts)), evidence.counts)
    whole, by_pair = _wrong_pairs(evidence)
    parts = {c.P_PAIR: by_pair[owner]}
    counts = {"pairs": whole}
    kinds = list[dict[str, Any]]()
    ratio = None
    fitting = ~(parts[c.P_PAIR] > HALF)
    parts[c.P_CAPTION] = parts[c.P_WORD] = np.zeros(n)
    if (
        evidence.captions is not None
        and evidence.decoys is not None
        and evidence.similar is not None
    ):
        of_captions = evidence.captions, evidence.decoys, evidence.similar
        twins = np.flatnonzero(evidence.counts[owner] == 2).reshape(-1, 2)
        ratio, counts["captions"], parts[c.P_CAPTION] = _wrong_captions(
            *of_captions, fitting, twins
        )
    by_word = np.empty(0)
    if evidence.words is not None and len(evidence.words):
        fitting &= parts[c.P_CAPTION] <= HALF
        counts["words"], parts[c.P_WORD], by_word, kinds = _wrong_words(evidence.words, fitting)
    right = np.ones(n)
    for name, values in parts.items():
        parts[name] = right * values
        right = right * (1 - values)
    table = pd.DataFrame(parts | {c.P_WRONG: np.sum(list(parts.values()), axis=0)})
    if evidence.words is not None:
        by_word = by_word * table[c.P_WORD].to_numpy()[evidence.words[c.CAPTION_ROW]]
    first = np.cumsum(evidence.counts) - evidence.counts
    worst = np.maximum.reduceat(table[c.P_WRONG].to_numpy(), first)
    worst = worst if np.isfinite(worst).any() else suspicion_of(evidence)
    # Of a wrong pair all captions are wrong; errors of single captions are independent.
    others = np.multiply.reduceat(right / (1 - parts[c.P_PAIR]), first)
    return Probabilities(table, 1 - (1 - by_pair) * others, worst, by_word, counts, kinds, ratio)


def suspicion_of(evidence: CaptionEvidence) -> np.ndarray:
    """Return the score that pairs are ordered by, the highest first: misfit, or −csls_out where no
    pair has one."""
    return evidence.misfit if np.isfinite(evidence.misfit).any() else -evidence.fit


def _wrong_pairs(evidence: CaptionEvidence) -> tuple[WrongCount, np.ndarray]:
    """Return the number of wrong pairs, and the probability of each.

    `misfit` orders pairs better than `csls_out`, since it knows what was learned in training; but
    no known positive has it. So the probabilities by csls_out are assigned in the order of misfit.
    """
    count = estimate_wrong(evidence.fit, evidence.swapped)
    suspicion = suspicion_of(evidence)
    both = np.isfinite(count.posterior) & np.isfinite(suspicion)
    if not both.any():
        return count, np.full(len(suspicion), np.nan)
    return count, np.interp(suspicion, np.sort(suspicion[both]), np.sort(count.posterior[both]))


def _wrong_captions(
    own: np.ndarray, decoys: np.ndarray, similar: np.ndarray, fitting: np.ndarray, twins: np.ndarray
) -> tuple[np.ndarray | None, WrongCount, np.ndarray]:
    """Return the log-likelihood ratio, the number of captions of other pairs, and the probability
    of each caption.

    The two captions of a pair, whose numbers are in `twins`, [n, 2], disagree with each other
    equally if one is wrong: they are counted once, and the errors of both exclude each other.
    """
    usable = [part[np.isfinite(part).all(axis=1)] for part in (own, decoys)]
    if not all(map(len, usable)):
        missing = "no member saw neither the picture nor the caption"
        return None, WrongCount(None, None, None, missing=missing), np.zeros(len(own))
    ratio = fit_ratio(*usable)
    fit = -log_ratio(ratio, own)
    of_decoys = -log_ratio(ratio, decoys)
    counted = np.where(fitting, fit, np.nan)
    counted[twins[np.arange(len(twins)), fit[twins].argmax(axis=1)]] = np.nan
    count = estimate_wrong(counted, of_decoys[similar == 0], of_decoys[similar == 1])
    p_caption = np.nan_to_num(posterior_at(count.curve, fit))
    odds = p_caption[twins] / (1 - p_caption[twins])
    p_caption[twins] = odds / (1 + odds.sum(axis=1, keepdims=True))
    return ratio, count, p_caption


def _wrong_words(
    words: pd.DataFrame, fitting: np.ndarray
) -> tuple[WrongCount, np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """Return the number of captions with a wrong word, the probability of each caption, the share
    of each of its words, and how well wrong words of each kind are seen.

    One word of each caption, drawn at random, is compared with the same caption with another word
    in its place (`changed`): those captions are known to be wrong.
    """
    caption, own, changed = (
        words[name].to_numpy() for name in (c.CAPTION_ROW, c.SURPRISE, c.CHANGED)
    )
    start = np.searchsorted(caption, np.arange(len(fitting) + 1))
    of_caption = mean_ratio(own, start)
    places = np.random.default_rng(0).permutation(
        np.flatnonzero(np.isfinite(changed) & fitting[caption])
    )
    drawn = places[np.unique(caption[places], return_index=True)[1]]
    with_change = own.copy()
    with_change[drawn] = changed[drawn]
    wrong = mean_ratio(with_change, start)[caption[drawn]]
    count = estimate_wrong(np.where(fitting, -of_caption, np.nan), -wrong)
    kinds = list[dict[str, Any]]()
    right = of_caption[fitting & np.isfinite(of_caption)]
    kind = words[c.WORD_KIND]
    for number, name in enumerate(KINDS):
        if (known := wrong[kind.to_numpy()[drawn] == number]).size and right.size:
            ranks = scipy.stats.rankdata(np.concatenate([right, known]))[-len(known) :]
            auroc = float((ranks.mean() - (len(known) + 1) / 2) / len(right))
            kinds.append({"kind": name, "auroc": auroc, "seen": auroc >= SEEN_FROM})
    share = np.exp(own - of_caption[caption]) / np.diff(start)[caption]
    return count, np.nan_to_num(posterior_at(count.curve, -of_caption)), share, kinds
