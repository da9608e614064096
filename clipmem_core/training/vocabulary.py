"""Removal of rare tokens from captions, in training and evaluation (`text_min_df`) or after training
(`text_forget_df`).

A token of a single caption identifies that pair, so learning it is memorization. `min_df` is scikit-learn's: the number
of documents, here training pairs, that must contain a token.
"""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clipmem_core.draws import PLACEBO, draw_keys, uniforms
from clipmem_core.facts import InputError
from clipmem_core.mitigations import drop_tokens, find_ends, words_of

if TYPE_CHECKING:
    from torch import Tensor

OMITTED, DELETED, RANDOM = "omitted", "deleted", "random"  # values of text_forget_as


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens that a member reads."""

    model: Mapping[str, Any]  # its open_clip configuration
    pairs: np.ndarray  # number of training pairs of each token, int64 [vocab_size]
    min_df: int
    # The config's `text_forget_as`: rare tokens are omitted from captions, or their rows of the token embedding deleted
    # (set to 0); "random", a placebo, removes as many words of the caption at random
    how: str = OMITTED

    def read(self, tokens: np.ndarray) -> np.ndarray:
        """Remove rare tokens, [n, context_length]: later ones move up, and a caption keeps its most common one."""
        if self.how == DELETED:
            return tokens
        words = words_of(tokens, caption_ends(self.model, tokens))
        counts = np.where(words, self.pairs[tokens], -1)
        removed = words & (counts < self.min_df)
        if self.how == RANDOM:  # remove untrained words and as many random trained ones, alike for equal captions
            trained = words & (counts > 0)
            keys = draw_keys([row.tobytes().hex() for row in tokens.astype(np.int32)])
            draws = np.where(trained, uniforms(keys, tokens.shape[1], PLACEBO), 2.0)
            rank = draws.argsort(axis=1, kind="stable").argsort(axis=1)
            removed = (removed & ~trained) | (trained & (rank < (removed & trained).sum(axis=1)[:, None]))
        emptied = np.flatnonzero(words.any(axis=1) & (removed == words).all(axis=1))
        removed[emptied, counts[emptied].argmax(axis=1)] = False
        return drop_tokens(tokens, removed)

    def rare_rows(self, tokens: np.ndarray) -> np.ndarray:
        """Return the rare tokens, int64, except start and end tokens of `tokens` [n, context_length]."""
        rare = self.pairs < self.min_df
        rare[tokens[:, 0]] = False
        rare[tokens[np.arange(len(tokens)), caption_ends(self.model, tokens)]] = False
        return np.flatnonzero(rare)


def delete_rows(weights: MutableMapping[str, "Tensor"], rows: np.ndarray) -> None:
    """Set the rows of some tokens to 0 in the token embedding of an open_clip state dict, in place."""
    names = [name for name in weights if name.endswith("token_embedding.weight")]
    if len(names) != 1:
        raise InputError("these weights have no token embedding: rows of tokens can be deleted if the text is trained")
    weights[names[0]][rows] = 0


def pairs_with(
    model: Mapping[str, Any], tokens: np.ndarray, caption_start: np.ndarray, rows: np.ndarray, *, first: int = 0
) -> np.ndarray:
    """Count the training pairs `rows` of each token, int64 [vocab_size], in their `first` captions (0: in all).

    Args: an open_clip configuration; tokens and caption_start as in `TrainingData`.
    """
    counts = np.diff(caption_start)
    pair = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(tokens)) - caption_start[pair]
    trained = np.isin(pair, rows) & ((place < first) if first else True)
    caption, position = np.nonzero(words_of(tokens, caption_ends(model, tokens)) & trained[:, None])
    size = model["text_cfg"]["vocab_size"]
    distinct = np.unique(pair[caption] * size + tokens[caption, position])  # each pair and token once
    return np.bincount(distinct % size, minlength=size)


def caption_ends(model: Mapping[str, Any], tokens: np.ndarray) -> np.ndarray:
    """Return the position of the end token of each row of `tokens` [n_captions, context_length], int64."""
    text = model["text_cfg"]
    pool = text.get("pool_type", "argmax")
    other = model.get("custom_text") or any(text.get(name) for name in ("hf_model_name", "no_causal_mask", "embed_cls"))
    reads_to_end, end = not other and pool in ("argmax", "eos"), text.get("eos_id", 2) if pool == "eos" else None
    return find_ends(tokens, reads_to_end=reads_to_end, end=end, flags="--text-min-df and --text-forget-df")
