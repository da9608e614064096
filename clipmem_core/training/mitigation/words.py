"""Tokens of captions → which of them are words, and captions without some of these."""

import numpy as np

from clipmem_core.config import InputError


def find_ends(tokens: np.ndarray, *, known: bool, end: int | None, flags: str) -> np.ndarray:
    """Return the place of each caption's end token, the one that the text encoder pools at, int64 [n_captions].

    Args:
        tokens: [n_captions, context_length].
        known: whether the text encoder is one that reads up to an end token.
        end: that token; None where it is the one with the highest number.
        flags: the settings that need to know what is a word.

    Raises:
        InputError: it is not.
    """
    if not known:
        raise InputError(
            f"{flags} need a text encoder that reads up to an end token: "
            "take one of open_clip's own, such as --model small, or leave them at 0"
        )
    return tokens.argmax(axis=1) if end is None else (tokens == end).argmax(axis=1)


def words_of(tokens: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return which tokens lie between start and end token, bool [n, context_length]; `ends` as of `find_ends`."""
    place = np.arange(tokens.shape[1])
    return (place > 0) & (place < ends[:, None])


def leave_out(tokens: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """Leave tokens out, [n, context_length]: what follows moves up, and zeros come after."""
    order = gone.argsort(axis=1, kind="stable")
    kept = np.arange(tokens.shape[1]) < tokens.shape[1] - gone.sum(axis=1)[:, None]
    return np.where(kept, np.take_along_axis(tokens, order, axis=1), 0).astype(tokens.dtype)
