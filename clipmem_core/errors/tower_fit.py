"""How well captions fit by the locked towers' features alone, without the members.

Three similarities of any picture with any caption:

- forward: ridge regression from picture features to text features, cosine of the prediction with
  the caption;
- backward: ridge regression from text features to picture features, cosine of the prediction with
  the picture;
- bridge: cosine in a space that both towers share without training, such as the classes of the
  image tower's classifier (`features/bridge.py`).

Regressions are fitted out of fold: a prediction comes from pairs of the other folds. A pair's value
is z over the other captions + z over the other pictures: (similarity − mean) / standard deviation.
"""

from dataclasses import dataclass

import numpy as np
import scipy

from clipmem_core.errors.misfit import evenly_spaced
from clipmem_core.utils import draws
from clipmem_core.utils.embeddings import unit

FOLDS = 8
_PENALTY = 3.0  # of the regressions, whose inputs have squared norm 1 on average
_MOST_BESIDE = 1_000  # pairs that a pair is compared with
_MOST_SWAPPED = 20_000  # pairs whose caption is swapped
_CHUNK = 4_096
_TINY = 1e-6

Bridge = tuple[np.ndarray, np.ndarray]  # of pictures and of captions, [n, width] each


def draw_swaps(held_out: np.ndarray, *, seed: int) -> np.ndarray:
    """Draw the held-out pairs whose captions are swapped into each pair: one, or several in a small
    set, so that 1,000 swapped captions describe wrong ones.

    Args: true for held-out pairs, [n_pairs].
    Returns: rows of pairs, [n_pairs, n_swaps]; −1 for pairs not among 20,000 evenly spaced.
    """
    partners = np.flatnonzero(held_out)
    count = int(np.clip(_MOST_BESIDE // len(held_out), 1, len(partners)))
    rng = draws.rng(seed, "swapped rows")
    swaps = np.full((len(held_out), count), -1)
    for row in evenly_spaced(np.arange(len(held_out)), _MOST_SWAPPED):
        swaps[row] = partners[rng.choice(len(partners), count, replace=False)]
    return swaps


@dataclass(frozen=True)
class Scaled:
    """Features less their mean, over their root mean squared norm."""

    mean: np.ndarray  # [width]
    scale: float

    @classmethod
    def of(cls, features: np.ndarray) -> "Scaled":
        mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
        total = sum(
            float(np.square(features[at : at + _CHUNK] - mean, dtype=np.float32).sum())
            for at in range(0, len(features), _CHUNK)
        )
        return cls(mean, (total / len(features)) ** 0.5 + _TINY)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return (np.asarray(features, np.float32) - self.mean) / self.scale


@dataclass(frozen=True)
class TowerModel:
    """Similarities of pictures and captions, fitted on the pairs of a set."""

    scaled: tuple[Scaled, Scaled]  # of picture and of text features
    weights: tuple[np.ndarray, np.ndarray]  # forward and backward, a matrix a fold
    centres: Bridge | None  # means of the bridge's vectors
    fold: np.ndarray  # of each pair, [n_pairs]
    beside: np.ndarray  # the pairs that others are compared with, [n_beside]
    # Of these pairs, a picture's and a caption's vector of each similarity, [n_beside, width]
    vectors: list[tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of(
        cls,
        image: np.ndarray,
        text: np.ndarray,
        bridge: Bridge | None,
        clusters: np.ndarray,
        *,
        seed: int,
    ) -> "TowerModel":
        """Fit the regressions.

        Args:
            image: picture features, [n_pairs, width].
            text: mean text features of each pair, [n_pairs, width].
            bridge: vectors of pictures and captions, if the towers have a bridge.
            clusters: of near-duplicates, which share a fold, [n_pairs].
            seed: of the folds.
        """
        rng = draws.rng(seed, "folds of the towers")
        names, cluster = np.unique(clusters, return_inverse=True)
        fold = (rng.permutation(len(names)) % FOLDS)[cluster]
        scaled = Scaled.of(image), Scaled.of(text)
        pictures, captions = scaled[0](image), scaled[1](text)
        weights = _ridge(pictures, captions, fold), _ridge(captions, pictures, fold)
        centres = None
        if bridge is not None:
            centres = bridge[0].mean(axis=0), bridge[1].mean(axis=0)
        beside = evenly_spaced(np.arange(len(fold)), _MOST_BESIDE)
        model = cls(scaled, weights, centres, fold, beside, [])
        some = bridge and (bridge[0][beside], bridge[1][beside])
        own = fold[beside]
        return cls(
            scaled,
            weights,
            centres,
            fold,
            beside,
            model.both_vectors(image[beside], text[beside], some, own, own),
        )

    def both_vectors(
        self,
        image: np.ndarray,
        text: np.ndarray,
        bridge: Bridge | None,
        image_fold: np.ndarray,
        text_fold: np.ndarray,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the vectors of pictures and of captions for each similarity, [n, width] each.

        Args: features and bridge, [n, width]; the fold that predictions leave out, −1 for a new
        pair, which has the mean over all folds, [n].
        """
        pictures, captions = self.scaled[0](image), self.scaled[1](text)
        forward = _predicted(pictures, self.weights[0], image_fold)
        backward = _predicted(captions, self.weights[1], text_fold)
        vectors = [(unit(forward), unit(captions)), (unit(pictures), unit(backward))]
        if self.centres is not None and bridge is not None:
            first, second = self.centres
            vectors.append((unit(bridge[0] - first), unit(bridge[1] - second)))
        return vectors

    def values(
        self,
        image: np.ndarray,
        text: np.ndarray,
        bridge: Bridge | None,
        rows: tuple[np.ndarray, np.ndarray],
    ) -> np.ndarray:
        """Return how well captions fit pictures by each similarity, [n, n_similarities].

        Args:
            image, text, bridge: features of each picture and of its caption, [n, width].
            rows: the pair of the set that each picture, and each caption, belongs to; −1: none, [n]
                each.
        """
        blocks = [np.empty((0, len(self.vectors)))]
        for start in range(0, len(image), _CHUNK):
            part = slice(start, start + _CHUNK)
            some = bridge and (bridge[0][part], bridge[1][part])
            of_picture, of_caption = rows[0][part], rows[1][part]
            folds = [np.where(each < 0, -1, self.fold[each]) for each in (of_picture, of_caption)]
            vectors = self.both_vectors(image[part], text[part], some, *folds)
            # A pair is not compared with itself, nor with the pair that a caption comes from.
            other = (self.beside != of_picture[:, None]) & (self.beside != of_caption[:, None])
            columns = []
            for (a, b), (beside_a, beside_b) in zip(vectors, self.vectors, strict=True):
                similarity = np.vecdot(a, b)
                by_image = _standardized(similarity, a @ beside_b.T, other)
                by_text = _standardized(similarity, b @ beside_a.T, other)
                columns.append(by_image + by_text)
            blocks.append(np.column_stack(columns))
        return np.concatenate(blocks)


def tower_values(
    model: TowerModel,
    image: np.ndarray,
    text: np.ndarray,
    bridge: Bridge | None,
    swaps: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return how well the captions of a set fit, [n_pairs, n_similarities], and swapped captions,
    [n_pairs × n_swaps, n_similarities]; NaN for pairs without swaps, and a pair with itself.

    Args: the model of the set; its features and bridge; of `draw_swaps`.
    """
    rows = np.arange(len(image))
    own = model.values(image, text, bridge, (rows, rows))
    swapped = np.full((swaps.size, own.shape[1]), np.nan)
    sources = swaps.ravel()
    pictures = np.repeat(rows, swaps.shape[1])
    usable = np.flatnonzero((sources >= 0) & (sources != pictures))
    pictures, sources = pictures[usable], sources[usable]
    both = bridge and (bridge[0][pictures], bridge[1][sources])
    swapped[usable] = model.values(image[pictures], text[sources], both, (pictures, sources))
    return own, swapped


def _ridge(inputs: np.ndarray, targets: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return the weights of ridge regression without each fold, [n_folds, n_inputs, n_targets]."""
    parts = [fold == number for number in range(FOLDS)]
    squares = np.stack([inputs[rows].T @ inputs[rows] for rows in parts])
    products = np.stack([inputs[rows].T @ targets[rows] for rows in parts])
    penalty = _PENALTY * np.eye(inputs.shape[1], dtype=np.float32)
    return np.stack(
        [
            scipy.linalg.solve(squares.sum(axis=0) - own + penalty, right, assume_a="pos")
            for own, right in zip(squares, products.sum(axis=0) - products, strict=True)
        ]
    )


def _predicted(inputs: np.ndarray, weights: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return the predictions of inputs by the weights without their fold; −1: by the mean of
    all."""
    predicted = np.empty((len(inputs), weights.shape[2]), np.float32)
    for number in np.unique(fold):
        rows = fold == number
        predicted[rows] = inputs[rows] @ (weights.mean(axis=0) if number < 0 else weights[number])
    return predicted


def _standardized(values: np.ndarray, others: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return values less the mean of the others where the mask is true, over their standard
    deviation, [n]."""
    mean = others.mean(axis=1, where=mask)
    deviation = others.std(axis=1, where=mask)
    return (values - mean) / (deviation + _TINY)
