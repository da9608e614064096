"""The words of captions as numbers, and the log-likelihood ratio that a caption has a wrong word.

Words are numbered: 0 is no word, 1 a word that no model reads, and from 2 on the words of all
captions. Words below `Words.vocabulary_size` are predicted: the frequent ones, the most frequent
first, except words of English grammar, which say little about a picture.
"""

import functools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from clipmem_core.utils import draws
from clipmem_core.utils.ragged import Ragged

COLOUR_WORDS = (
    *("red", "orange", "yellow", "green", "blue", "purple", "violet", "pink", "brown"),
    *("black", "white", "grey", "gray", "gold", "golden", "silver", "beige"),
)
NUMBER_WORDS = (
    *("one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)
WORD_PATTERN = re.compile(r"\w+")
TAG_PATTERN = re.compile(r"[^\s,](?:[^,]*[^\s,])?")  # of lists: 1girl, red hair
_GRAMMAR_SHARE = 0.1  # of the captions
_PREDICTED_FROM = 5  # captions that a predicted word occurs in
# Distinct words
_MOST_PREDICTED = 10_000
_MOST_READ = 30_000
CONSISTENT = 0.1  # weight of the prediction without the other captions in the probability of a word
# Kinds of words; each is compared with another of its kind
COMPARED_KINDS = ("colour", "number", "other word")
_SIMILAR_RANKS = 25  # the two differ in frequency by at most so many ranks


@dataclass(frozen=True)
class Words:
    """The words of all captions of a data set, as numbers."""

    spelled: list[str]  # the word of number i + 2, in lower case
    vocabulary_size: int  # numbers from 2 and below this one are predicted
    ids: np.ndarray  # int32 [n_words]
    in_captions: Ragged  # the words of each caption
    captions: Ragged  # of each pair
    # The share of each predicted word among all, [vocabulary_size]; 0 for the first two numbers
    frequency: np.ndarray
    english: bool  # else all words are of one kind
    tags: bool = False  # captions are lists of tags, and each tag counts as a word

    @property
    def pattern(self) -> re.Pattern[str]:
        """The pattern of a word."""
        return TAG_PATTERN if self.tags else WORD_PATTERN

    @functools.cached_property
    def predicted(self) -> np.ndarray:
        """The number of each predicted word, and 0 in place of other words, [n_words]."""
        return np.where(self.ids < self.vocabulary_size, self.ids, 0)

    @functools.cached_property
    def kinds(self) -> np.ndarray:
        """The kind of each number below `vocabulary_size`, −1 for the first two."""
        spelled = self.spelled[: self.vocabulary_size - 2]
        return np.array([-1, -1, *(kind_of(word, english=self.english) for word in spelled)])


def split_words(
    captions: Iterable[Sequence[str]],
    *,
    english: bool,
    triggers: Collection[str] = (),
    tags: bool = False,
) -> Words:
    """Return the words of each pair's captions; case and punctuation do not matter.

    Args: the captions of each pair, in the order of pairs; whether they are in English. In other
    languages words of more than a tenth of the captions count as grammar. `triggers`: words that
    are not predicted. `tags`: captions are lists of tags.

    Example:
        >>> split_words([["A dog.", "a DOG!"]], english=True).ids.tolist()
        [2, 3, 2, 3]
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # slow to import

    pattern = TAG_PATTERN if tags else WORD_PATTERN
    numbers: dict[str, int] = {}
    ids = [np.empty(0, np.int32)]  # of each caption's words
    counts = []
    in_captions = Counter[int]()
    for pair in captions:
        counts.append(len(pair))
        for caption in pair:
            found = pattern.findall(caption)
            listed = [numbers.setdefault(word.lower(), len(numbers)) for word in found]
            in_captions.update(set(listed))
            ids.append(np.array(listed, np.int32))
    words = list(numbers)
    grammar: Collection[str] = ENGLISH_STOP_WORDS.difference(NUMBER_WORDS)
    if not english and not tags:
        most = _GRAMMAR_SHARE * sum(counts)
        grammar = {words[number] for number, count in in_captions.items() if count > most}
    grammar = {*grammar, *triggers}
    by_count = [number for number, _ in in_captions.most_common(_MOST_READ)]
    predicted = [
        number
        for number in by_count
        if in_captions[number] >= _PREDICTED_FROM and words[number] not in grammar
    ][:_MOST_PREDICTED]
    order = list(dict.fromkeys([*predicted, *by_count]))
    number_of = np.ones(len(numbers) + 1, np.int32)
    number_of[order] = np.arange(2, len(order) + 2)
    numbered = number_of[np.concatenate(ids)]
    size = 2 + len(predicted)
    occurrences = np.bincount(numbered, minlength=size)[:size].astype(np.float64)
    occurrences[:2] = 0.0
    return Words(
        spelled=[words[number] for number in order],
        vocabulary_size=size,
        ids=numbered,
        in_captions=Ragged.of_lists(ids[1:]),
        captions=Ragged.of(counts),
        frequency=occurrences / max(occurrences.sum(), 1.0),
        english=english,
        tags=tags,
    )


def number_words(captions: Sequence[Sequence[str]], *, like: Words) -> Words:
    """Return the words of the captions of other pairs, with the numbers that they have in `like`.

    Args: the captions of each pair; the words of the data set.
    """
    numbers = {word: number for number, word in enumerate(like.spelled, start=2)}
    listed = [like.pattern.findall(caption) for pair in captions for caption in pair]
    return replace(
        like,
        ids=np.array(
            [numbers.get(word.lower(), 1) for caption in listed for word in caption], np.int32
        ),
        in_captions=Ragged.of_lists(listed),
        captions=Ragged.of_lists(captions),
    )


def kind_of(word: str, *, english: bool) -> int:
    """Return the kind of a word in lower case, an index in COMPARED_KINDS; all words of another
    language are of one."""
    if not english:
        return 2
    return 0 if word in COLOUR_WORDS else 1 if word in NUMBER_WORDS or word.isdecimal() else 2


def changed_words(words: Words) -> np.ndarray:
    """Draw another word of the same kind for each word.

    Models compare each word with it: it is a wrong word that a caption could have, as the scores
    see it.

    Args: the words of a data set.

    Returns:
        Numbers of words, int32 [n_words]; 0 for a word that is not predicted.
    """
    rng = draws.rng(0, "changed words")
    drawn = np.zeros(len(words.ids), np.int32)
    for kind in range(len(COMPARED_KINDS)):
        listed = np.flatnonzero(words.kinds == kind)
        if len(listed) < 2:
            continue
        at = np.flatnonzero(words.kinds[words.predicted] == kind)
        position = np.searchsorted(listed, words.predicted[at])
        most = min(_SIMILAR_RANKS, (len(listed) - 1) // 2) or 1
        step = rng.integers(1, most + 1, len(at)) * rng.choice([-1, 1], len(at))
        drawn[at] = listed[(position + step) % len(listed)]
    return drawn


def mean_ratio(values: np.ndarray, words: Ragged) -> np.ndarray:
    """Return log mean exp of the log-likelihood ratios of each caption's words.

    It is the log-likelihood ratio that one of the words is wrong, each with the same prior
    probability.

    Args:
        values: log-likelihood ratios of all words, [n_words]; NaN is skipped.
        words: of each caption.

    Returns:
        float64 [n_captions]; NaN for a caption without any.

    Example:
        >>> mean_ratio(np.log([1.0, 3.0, 5.0]), Ragged.of([2, 0, 1])).round(2).tolist()
        [0.69, nan, 1.61]
    """
    finite = np.isfinite(values)
    caption = words.owner[finite]
    counts = np.bincount(caption, minlength=len(words))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(np.bincount(caption, np.exp(values[finite]), len(words)) / counts)
