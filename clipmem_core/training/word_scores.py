"""What word models say of captions, and their files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clipmem_core.errors.calibration import fit_words, surprise
from clipmem_core.errors.evidence import word_evidence
from clipmem_core.errors.words import Words, changed_words, mean_ratio, number_words
from clipmem_core.training.trainer import save_atomically
from clipmem_core.training.word_model import Predictions, WordModel, fit, predict
from clipmem_core.utils.ragged import Ragged

_MOST_FITTED = 1_000_000  # words that log-likelihood ratios are fitted on, evenly spaced


def predicts(number: int, half: np.ndarray) -> np.ndarray:
    """Tell which pairs a model predicts: those that it did not train on; of held-out pairs (−1) the
    first model is asked, of new ones (2) both.

    Args: number of the model; half of each pair, [n]. Returns: bool [n].
    """
    return (half == 1 - number) | (half == 2) | ((half == -1) & (number == 0))


def train_words(
    words: Words,
    pictures: np.ndarray,
    half: np.ndarray,
    number: int,
    into: Predictions,
    *,
    vectors: Tensor | None,
    seed: int,
    precision: str,
    state: Path | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> WordModel | None:
    """Train one of both word models, and write what it predicts into `into`. A killed training
    resumes from the file `state`.

    Args:
        words: of all captions.
        pictures: features, [n_pairs, width].
        half: of each pair, as of `draw_word_halves`, [n_pairs].
        number: of the model, which is trained on this half.
        into: predictions of all words.
        vectors: `word_vectors`, if any.
        seed: of weights and draws.
        precision: "fp32" or "amp_bf16".
        state: the file of the last saved state.
        progress: called with the share of the work that is done.

    Returns:
        The model; None for hardly any word, or without pairs to train on.
    """
    trained = np.flatnonzero(half == number)
    if words.vocabulary_size < 4 or not len(trained):
        return None
    model = fit(
        words,
        pictures,
        trained,
        vectors,
        seed=seed + number,
        precision=precision,
        state=state,
        progress=lambda share: progress(0.8 * share),
    )
    rows = np.flatnonzero(predicts(number, half))
    changed = changed_words(words)
    predict(model, words, pictures, rows, changed, into, lambda share: progress(0.8 + 0.2 * share))
    return model


def merge_predictions(first: Predictions, second: Predictions) -> Predictions:
    """Return the predictions of both models, written into the first's arrays."""
    is_second = np.isfinite(second.alone[:, 0])
    for values, added in zip(first, second, strict=True):
        values[is_second] = added[is_second]
    return first


def predicted_evidence(
    words: Words, predicted: Predictions, changed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the `word_evidence` of each word and of the word it is compared with, [n_words, 2, 4],
    and its kind."""
    frequency = words.frequency[np.column_stack([words.predicted, changed])]
    frequency = np.where(frequency > 0, frequency, np.nan)
    evidence = word_evidence(predicted.alone, predicted.together, frequency)
    return evidence, words.kinds[words.predicted]


def surprises(words: Words, predicted: Predictions) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return how surprising each word is, and the word it is compared with, [n_words, 2]:
    log-likelihood ratios that it is wrong, NaN if not predicted; and the result of `fit_words`."""
    evidence, kinds = predicted_evidence(words, predicted, changed_words(words))
    # A word that a caption repeats a thousand times counts once.
    caption = words.in_captions.owner
    keys = caption * words.vocabulary_size + np.minimum(words.ids, words.vocabulary_size)
    different = np.unique(keys, return_index=True)[1]
    different = different[:: 1 + len(different) // _MOST_FITTED]
    ratios = fit_words(evidence[different], kinds[different])
    return surprise(ratios, evidence, kinds), ratios


class CaptionWords(NamedTuple):
    """A word model, for captions of pairs that it was not trained on."""

    model: WordModel
    vocabulary: Words  # of the captions that it was trained on
    ratios: Sequence[np.ndarray]  # of `fit_words`

    def mean_ratios(
        self, texts: Sequence[list[str]], siblings: Sequence[list[str]], pictures: np.ndarray
    ) -> np.ndarray:
        """Return the mean log-likelihood ratio that a word is wrong, of each caption, [n_captions];
        NaN without a word that the model predicts.

        Args: captions of each pair; other captions of each pair, which are read; features of
        pictures, [n_pairs, width].
        """
        captions = [[*own, *others] for own, others in zip(texts, siblings, strict=True)]
        counts = np.array([len(own) for own in texts])
        words = number_words(captions, like=self.vocabulary)
        is_judged = words.captions.number < counts[words.captions.owner]
        compared = np.where(is_judged[words.in_captions.owner], 0, -1)
        predicted = Predictions.empty(len(words.ids))
        predict(self.model, words, pictures, np.arange(len(texts)), compared, predicted)
        evidence, kinds = predicted_evidence(words, predicted, np.zeros_like(compared))
        surprises = surprise(self.ratios, evidence[:, 0], kinds)
        return mean_ratio(surprises, words.in_captions)[is_judged]


def save_model(model: WordModel, words: Words, path: Path) -> None:
    """Write a word model with what it needs to predict the words of other captions."""
    vectors = model.embedding.vectors
    stored = {
        "state": model.state_dict(),
        "spelled": words.spelled,
        "vocabulary_size": words.vocabulary_size,
        "frequency": torch.from_numpy(words.frequency),
        "english": words.english,
        "precision": model.precision,
        "vectors": None if vectors is None else vectors.half(),
    }
    save_atomically(stored, path)


def load_model(path: Path) -> tuple[WordModel, Words]:
    """Read a word model, and the words that it was trained on, without captions."""
    stored = torch.load(path, weights_only=True)
    state = stored["state"]
    vectors = stored["vectors"]
    size = stored["vocabulary_size"]
    vectors = None if vectors is None else vectors.float()
    model = WordModel(
        size, np.zeros((1, len(state["encoder.centre"]))), vectors, stored["precision"]
    )
    model.load_state_dict(state)
    nothing = Ragged.of([])
    words = Words(
        spelled=stored["spelled"],
        vocabulary_size=size,
        ids=np.empty(0, np.int64),
        in_captions=nothing,
        captions=nothing,
        frequency=stored["frequency"].numpy(),
        english=stored["english"],
    )
    return model.eval(), words
