"""Evidence that a caption is wrong that needs the features of a text tower alone: decoys for single
captions, their agreement with siblings, how specific a sentence is, recurring texts, and the
evidence of words."""

import numpy as np
import pandas as pd
import scipy
from sklearn.linear_model import RidgeCV

from clipmem_core.errors.misfit import DECOY, evenly_spaced
from clipmem_core.utils import draws
from clipmem_core.utils.embeddings import close_pairs, nearest_rows, unit
from clipmem_core.utils.ragged import Ragged

_MOST_DECOYS = 20_000  # captions that get a decoy, evenly spaced
_MOST_SOURCES = 100_000  # captions that decoys are drawn from, evenly spaced
# A decoy is one of the ten nearest captions of other pictures, among the forty nearest
_NEAREST = 10
_SEARCHED = 40
_SAME = 0.999  # cosine from which two captions count as equal
_BLOCK = 8_192  # siblings in memory at a time
_RIDGES = np.logspace(-1, 3, 9)  # penalties that are tried
_SIMILAR_FROM = 0.85  # cosine of texts that differ by small changes
_FEWEST_PICTURES = 5  # pictures of a recurring text
_BY_CHANCE = 0.1  # share of captions that are wrong for another reason
_NATS = 7.0  # log-likelihood ratio of a recurring text: 1,000
_MOST_COMPARED = 20_000  # captions that fit badly and are compared with each other


def draw_decoys(
    features: np.ndarray, captions: Ragged, clusters: np.ndarray, *, seed: int
) -> np.ndarray:
    """Draw a decoy, a caption of another picture, for each caption that has siblings, or for 20,000
    of them.

    Half of the decoys are drawn at random, half from the ten nearest captions by the features of a
    text tower.

    Args:
        features: of captions, [n_captions, width].
        captions: of each pair.
        clusters: each pair's cluster of near-duplicates, whose captions are no decoys for each
            other, [n_pairs].
        seed: of the draw.

    Returns:
        `DECOY` [n], ascending by caption.
    """
    counts = captions.counts
    cluster = np.repeat(clusters, counts)
    positions = evenly_spaced(np.flatnonzero(np.repeat(counts > 1, counts)), _MOST_DECOYS)
    sources = evenly_spaced(np.arange(len(cluster)), _MOST_SOURCES)
    rng = draws.rng(seed, "decoys")
    texts = rng.choice(sources, len(positions))
    similar_to = positions[1::2]
    vectors = unit(np.asarray(features[sources], np.float32))
    queries = unit(np.asarray(features[similar_to], np.float32))
    cosines, near = nearest_rows(vectors, queries, min(_SEARCHED, len(sources)))
    near = sources[near]
    usable = (cluster[near] != cluster[similar_to, None]) & (cosines < _SAME)
    usable &= np.cumsum(usable, axis=1) <= _NEAREST
    drawn = np.where(usable, rng.random(usable.shape), -1.0).argmax(axis=1)
    found = usable.any(axis=1)
    texts[1::2][found] = near[found, drawn[found]]
    decoys = np.zeros(len(positions), DECOY)
    decoys["place"] = positions
    decoys["caption"] = texts
    decoys["similar"][1::2] = True
    decoys = decoys[cluster[positions] != cluster[texts]]
    return decoys[np.argsort(decoys["caption"], kind="stable")]


def agreement(
    features: np.ndarray, captions: Ragged, decoys: np.ndarray | None = None
) -> np.ndarray:
    """Measure how well each caption, or each decoy instead of it, agrees with the other captions of
    the pair.

    Two cosines by the features of a text tower: the highest with a sibling, and the mean with all
    siblings less the mean of the siblings among themselves (0 with a single sibling).

    Args:
        features: of captions, [n_captions, width].
        captions: of each pair.
        decoys: `DECOY` [n_decoys]; None: the captions themselves.

    Returns:
        [n_captions, 2] or [n_decoys, 2]; NaN without siblings.

    Example:
        >>> features = np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
        >>> agreement(features, Ragged.of([3])).round(2).tolist()
        [[1.0, 0.2], [1.0, 0.2], [0.6, -0.4]]
    """
    place = text = np.arange(captions.n_items)
    if decoys is not None:
        place, text = decoys["place"], decoys["caption"]
    pair = captions.owner[place]
    n_siblings = captions.counts[pair] - 1
    number = captions.number[place]
    result = np.full((len(place), 2), np.nan)
    with_siblings = np.flatnonzero(n_siblings)
    size = max(1, _BLOCK // captions.counts.max())
    for block in np.split(with_siblings, range(size, len(with_siblings), size)):
        n = n_siblings[block]
        siblings = Ragged.of(n)
        row = block[siblings.owner]
        others = captions.first[pair[row]]
        others += (number[row] + 1 + siblings.number) % (n_siblings[row] + 1)
        vectors, compared = (
            unit(np.asarray(features[texts], np.float32)) for texts in (others, text[row])
        )
        cosines = np.vecdot(vectors, compared)
        total = np.add.reduceat(vectors, siblings.first)
        among_siblings = (np.vecdot(total, total) - n) / np.maximum(n * (n - 1), 1)
        mean = np.add.reduceat(cosines, siblings.first) / n
        result[block, 0] = np.maximum.reduceat(cosines, siblings.first)
        result[block, 1] = np.where(n > 1, mean - among_siblings, 0.0)
    return result


def specificity(
    features: np.ndarray, texts: np.ndarray, gaps: np.ndarray, half: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Predict how much better each text fits its own picture than another, from its features.

    Ridge regression on one half of the pairs predicts the other half. The result is standardised.

    Args:
        features: of all texts, [n_texts, width].
        texts: number of each text that is a decoy, [n].
        gaps: its log-likelihood ratio as a decoy, less that as a caption of its own picture, [n].
        half: 0 or 1, the half that the pair of each text is in, [n_texts]; both have decoys.

    Returns:
        [n_texts], and the mean of both models, for other texts: coefficients and constant, [width +
        1].
    """
    vectors = unit(np.asarray(features, np.float32))
    predicted = np.empty(len(vectors))
    models = []
    for predicts in (0, 1):
        fitted = half[texts] != predicts
        model = RidgeCV(_RIDGES).fit(vectors[texts[fitted]], gaps[fitted])
        models.append(np.append(model.coef_, model.intercept_))
        predicted[half == predicts] = model.predict(vectors[half == predicts])
    model = np.mean(models, axis=0)
    model[-1] -= predicted.mean()
    return (predicted - predicted.mean()) / predicted.std(), model / predicted.std()


def word_evidence(
    without_siblings: np.ndarray, with_siblings: np.ndarray, frequency: np.ndarray
) -> np.ndarray:
    """Return how much less likely words are here than anywhere, in nats, and the parts of it above
    0.

    log p(word) − log p(word | picture, caption), log p(word) − log p(word | the pair's other
    captions too). An error of all captions of a pair goes unnoticed in the second.

    Args:
        without_siblings: log-probabilities of words given picture and caption, [...]; NaN for words
            that are not predicted.
        with_siblings: given the pair's other captions too, [...].
        frequency: among all words, [...].

    Returns:
        float32 [..., 4].
    """
    given = np.stack([without_siblings, with_siblings], axis=-1)
    with np.errstate(divide="ignore"):
        unlikely = np.log(frequency)[..., None] - given
    unlikely = unlikely.astype(np.float32)  # of ten million words in a large set
    return np.concatenate([unlikely, np.maximum(unlikely, 0.0)], axis=-1)


def recurring_texts(
    features: np.ndarray, gaps: np.ndarray, owner: np.ndarray, clusters: np.ndarray
) -> np.ndarray:
    """Find texts that recur with small changes and fit no picture better than chance.

    Captions that hardly fit are grouped by their features (single linkage). A group of 5 pictures
    or more counts if the gaps of all captions similar to it, those that fit included, are 1,000
    times likelier if the text fits no picture than if a tenth of the captions are wrong by chance.

    Args:
        features: of captions, [n_captions, width].
        gaps: cosine of each caption with its picture less the mean cosine with others, by members
            that never saw the pair, [n_captions]; NaN if unknown.
        owner: the pair of each caption, [n_captions].
        clusters: near-duplicate pictures share a number, [n_pairs].

    Returns:
        True for such texts, [n_captions].
    """
    found = np.zeros(len(gaps), bool)
    usual, high = np.nanpercentile(gaps, (50, 84))
    spread = high - usual  # of right captions: wrong ones are below them
    if not usual > spread:  # members hardly tell a caption from others
        return found
    bad = evenly_spaced(np.flatnonzero(gaps < usual / 2), _MOST_COMPARED)
    if not len(bad):
        return found
    vectors = unit(np.asarray(features[bad], np.float32))
    linked = np.concatenate(
        [np.empty((0, 2), int), *(a for a, _ in close_pairs(vectors, _SIMILAR_FROM))]
    )
    graph = scipy.sparse.coo_array((np.ones(len(linked)), linked.T), (len(bad), len(bad)))
    groups = pd.Series(scipy.sparse.csgraph.connected_components(graph, directed=False)[1])
    pictures = pd.Series(clusters[owner[bad]]).groupby(groups).nunique()
    often = pictures.index[pictures >= _FEWEST_PICTURES]
    centres = [vectors[(groups == group).to_numpy()].mean(axis=0) for group in often]
    similar = np.zeros((len(often), len(gaps)), bool)
    for at in range(0, len(gaps) if len(often) else 0, _BLOCK):
        block = unit(np.asarray(features[at : at + _BLOCK], np.float32))
        similar[:, at : at + _BLOCK] = unit(np.array(centres)) @ block.T >= _SIMILAR_FROM
    for number, group in enumerate(often):
        similar[number, bad[(groups == group).to_numpy()]] = True
        rows = np.flatnonzero(similar[number] & np.isfinite(gaps))
        gap = pd.Series(gaps[rows]).groupby(clusters[owner[rows]]).mean().to_numpy()
        fits = usual * (2 * gap - usual) / (2 * spread**2)  # log ratio of two normal distributions
        evidence = -np.log(_BY_CHANCE + (1 - _BY_CHANCE) * np.exp(np.minimum(fits, 50.0)))
        if evidence.sum() >= _NATS:
            found |= similar[number]
    return found
