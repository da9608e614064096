"""Tokens of a batch of captions and a share → captions with that share of their words left out.

Masking of text lowers memorization most in Déjà Vu Memorization in Vision-Language Models (Jayaraman et al., 2024).
A token that is left out is gone, not replaced: what follows moves up, so that it is as if a shorter caption had been
written, and the model meets no token that it never meets again.
"""

import numpy as np

from clipmem_core.draws import MASK, uniforms
from clipmem_core.training.mitigation.words import find_ends, leave_out, words_of
from clipmem_core.training.model import Model, can_cut_text


def end_places(model: Model, tokens: np.ndarray) -> np.ndarray:
    """Return the place of each caption's end token, the one that the text encoder pools at, int64 [n_captions].

    Args:
        model: whose text encoder reads them.
        tokens: int32 [n_captions, context_length].

    Raises:
        InputError: the text encoder pools elsewhere, so that it is not known what is a word.
    """
    known = can_cut_text(model)
    end = model.text_eos_id if known and model.text_pool_type == "eos" else None
    return find_ends(tokens, known=known, end=end, flags="--text-mask and --adaptive-mask")


def drop_words(tokens: np.ndarray, ends: np.ndarray, share: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Leave a share of each caption's words out; start and end token and at least one word stay.

    Of n words share · n are left out, rounded up or down at random, so that the share holds on average even in short
    captions. Which ones is random too.

    Args:
        tokens: start token, words, end token, then zeros, [n, context_length].
        ends: place of the end token, [n].
        share: of each caption's words that are left out, in [0, 1), [n].
        draws: uniform in [0, 1), [n, context_length]; the first decides how many.

    Returns:
        Tokens of the same shape; what is left has moved up.

    Example:
        >>> tokens = np.array([[7, 1, 2, 3, 4, 9, 0]])
        >>> draws = np.array([[0.0, 0.8, 0.1, 0.5, 0.2, 0.0, 0.0]])
        >>> drop_words(tokens, np.array([5]), np.array([0.5]), draws).tolist()
        [[7, 1, 3, 9, 0, 0, 0]]
    """
    words = words_of(tokens, ends)
    counts = ends - 1
    left_out = np.minimum(np.floor(share * counts + draws[:, 0]).astype(np.int64), np.maximum(counts - 1, 0))
    rank = np.where(words, draws, 2.0).argsort(axis=1, kind="stable").argsort(axis=1)
    return leave_out(tokens, words & (rank < left_out[:, None]))


class Masking:
    """Leaves words out of the captions of one member, drawn anew each epoch."""

    def __init__(self, model: Model, tokens: np.ndarray, *, seed: int) -> None:
        self.ends, self.seed = end_places(model, tokens), seed

    def masked(
        self, tokens: np.ndarray, captions: np.ndarray, keys: np.ndarray, share: np.ndarray, epoch: int
    ) -> np.ndarray:
        """Leave words out of a batch.

        Args:
            tokens: of the captions, [n, context_length].
            captions: their numbers, [n].
            keys: what draws depend on, uint64 [n].
            share: of the words that are left out, [n].
            epoch: from 0.
        """
        draws = uniforms(keys, tokens.shape[1], self.seed, MASK, epoch)
        return drop_words(tokens, self.ends[captions], share, draws)
