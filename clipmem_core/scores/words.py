"""Scores of the words of captions: how surprising a word is, for models that never saw its pair,
and its caption.

Words are numbered: 0 is no word, 1 a word that no model reads, and from 2 on the words of all
captions. Words below `Words.vocabulary_size` are predicted: the frequent ones, the most frequent
first, except words of English grammar, which say little about a picture.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from clipmem_core.columns import COLOUR_WORDS, NUMBER_WORDS

WORD = re.compile(r"\w+")
PREDICTED_FROM = 5  # captions that a predicted word occurs in
# distinct words
MOST_PREDICTED = 10_000
MOST_READ = 30_000
CONSISTENT = 0.1  # weight of the prediction without the other captions in the probability of a word
KINDS = ("colour", "number", "other word")  # of words that are compared with another of their kind
SIMILAR_RANKS = 25  # which differs in frequency by at most so many ranks


@dataclass(frozen=True, eq=False)
class Words:
    """The words of all captions of a data set, as numbers."""

    spelled: list[str]  # the word of number i + 2, in lower case
    vocabulary_size: int  # numbers from 2 and below this one are predicted
    ids: np.ndarray  # int32 [n_words]
    caption_start: np.ndarray  # the first word of each caption, int64 [n_captions + 1]
    pair_start: np.ndarray  # the first caption of each pair, int64 [n_pairs + 1]
    frequency: (
        np.ndarray
    )  # the share of each predicted word among all, [vocabulary_size]; 0 for the first two numbers


def split_words(captions: Iterable[Sequence[str]]) -> Words:
    """Return the words of each pair's captions; case and punctuation do not matter.

    Example:
        >>> split_words([["A dog.", "a DOG!"]]).ids.tolist()
        [2, 3, 2, 3]
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # slow to import

    numbers: dict[str, int] = {}
    ids = []
    lengths = []
    counts = []
    in_captions = Counter[int]()
    for pair in captions:
        counts.append(len(pair))
        for caption in pair:
            listed = [
                numbers.setdefault(word.lower(), len(numbers)) for word in WORD.findall(caption)
            ]
            in_captions.update(set(listed))
            ids.append(np.array(listed, np.int32))
            lengths.append(len(listed))
    words = list(numbers)
    by_count = [number for number, _ in in_captions.most_common(MOST_READ)]
    predicted = [
        number
        for number in by_count
        if in_captions[number] >= PREDICTED_FROM
        and (words[number] not in ENGLISH_STOP_WORDS or words[number] in NUMBER_WORDS)
    ][:MOST_PREDICTED]
    order = list(dict.fromkeys([*predicted, *by_count]))
    place = np.ones(len(numbers) + 1, np.int32)
    place[order] = np.arange(2, len(order) + 2)
    numbered = place[np.concatenate([np.empty(0, np.int32), *ids])]
    size = 2 + len(predicted)
    occurrences = np.bincount(numbered, minlength=size)[:size].astype(np.float64)
    occurrences[:2] = 0.0
    return Words(
        spelled=[words[number] for number in order],
        vocabulary_size=size,
        ids=numbered,
        caption_start=_starts(lengths),
        pair_start=_starts(counts),
        frequency=occurrences / max(occurrences.sum(), 1.0),
    )


def number_words(captions: Sequence[Sequence[str]], *, like: Words) -> Words:
    """Return the words of the captions of other pairs, with the numbers that they have in
    `like`."""
    numbers = {word: number for number, word in enumerate(like.spelled, start=2)}
    listed = [WORD.findall(caption) for pair in captions for caption in pair]
    return replace(
        like,
        ids=np.array(
            [numbers.get(word.lower(), 1) for caption in listed for word in caption], np.int32
        ),
        caption_start=_starts(list(map(len, listed))),
        pair_start=_starts(list(map(len, captions))),
    )


def _starts(counts: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def kind_of(word: str) -> int:
    """Return the kind of a word in lower case, a place in KINDS."""
    return 0 if word in COLOUR_WORDS else 1 if word in NUMBER_WORDS or word.isdecimal() else 2


def changed_words(words: Words, *, seed: int) -> np.ndarray:
    """Draw another word of the same kind for each word, int32 [n_words]; 0 for a word that is not
    predicted.

    Models compare each word with it: it is a wrong word that a caption could have, as the scores
    see it.
    """
    rng = np.random.default_rng([seed, 13])
    drawn = np.zeros(len(words.ids), np.int32)
    kinds = np.array([-1, -1, *map(kind_of, words.spelled[: words.vocabulary_size - 2])])
    ids = np.where(words.ids < words.vocabulary_size, words.ids, 0)
    for kind in range(len(KINDS)):
        listed = np.flatnonzero(kinds == kind)
        if len(listed) < 2:
            continue
        at = np.flatnonzero(kinds[ids] == kind)
        place = np.searchsorted(listed, ids[at])
        most = min(SIMILAR_RANKS, (len(listed) - 1) // 2) or 1
        step = rng.integers(1, most + 1, len(at)) * rng.choice([-1, 1], len(at))
        drawn[at] = listed[(place + step) % len(listed)]
    return drawn


def mean_ratio(values: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return log mean exp of the log-likelihood ratios of each caption's words, NaN for a caption
    without any.

    It is the log-likelihood ratio that one of the words is wrong, each with the same prior
    probability.

    Args: the log-likelihood ratios of all words [n_words]; the first word of each caption and at
    the end n, [n_captions + 1].

    Example:
        >>> mean_ratio(np.log([1.0, 3.0, 5.0]), np.array([0, 2, 2, 3])).tolist()  # log 2, none, log
        5 [0.6931471805599453, nan, 1.6094379124341003]
    """
    finite = np.isfinite(values)
    group = np.repeat(np.arange(len(start) - 1), np.diff(start))[finite]
    counts = np.bincount(group, minlength=len(start) - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(np.bincount(group, np.exp(values[finite]), len(start) - 1) / counts)
