"""Injected errors, the ground truth for scores: captions swapped, with a wrong word or vague;
duplicated pairs."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import NamedTuple

import numpy as np
import pandas as pd

from clipmem_core.dataset.sentences import sentence_spans, sentences_of
from clipmem_core.errors.words import COLOUR_WORDS, NUMBER_WORDS
from clipmem_core.utils import columns as c
from clipmem_core.utils import draws
from clipmem_core.utils.io import InputError

# a pair gets one of the nearest usable captions among those considered
_NEAREST = 10
_CONSIDERED = 40
_DRAWS = 200  # attempts to draw rows for a swap
_SIMILAR_RANKS = 25  # a noun's replacement differs by at most so many ranks in frequency
WORD_KINDS = ("colour", "number", "noun")
DISPLACED_KINDS = ("shift", "exchange", "reversal")
_SHORTEST, _LONGEST = 20, 400  # pairs of a displaced run
_APART = 10  # pairs between two of them
_WORD = re.compile(r"\w+")
_VAGUE_CAPTIONS = (
    *("a picture", "an image", "a photo of something", "some things", "something that can be seen"),
    *("what the camera saw", "a nice view", "various objects", "a scene", "an illustration"),
)


class ChangedCaption(NamedTuple):
    """A caption that was changed."""

    row: int
    caption: int  # its number in the pair
    word_kind: str = ""  # of `WORD_KINDS`, if only one word was changed


Injected = tuple[pd.DataFrame, list[ChangedCaption]]  # pairs, and their captions that were changed


@dataclass(frozen=True)
class ErrorKind:
    """A kind of injected error."""

    label: str
    inject: Callable[[pd.DataFrame, np.ndarray, int, int], Injected]  # pairs, rows, n and seed
    shares: tuple[float, ...] = (0.05, 0.2, 0.4)  # of the pairs, a benchmark's default


def inject_errors(
    kind: str, pairs: pd.DataFrame, rows: np.ndarray, *, share: float, seed: int
) -> Injected:
    """Return the pairs with errors of one of `ERROR_KINDS` in a share of some rows, and the changed
    captions.

    The column injected marks the pairs. Rows with an error already are skipped. A duplicate copies
    everything but the id, and both pairs are marked; no caption counts as changed.
    """
    free = _not_injected(pairs, rows)
    n = round(share * len(free))
    if n < 2:
        raise InputError(
            f"{share:.0%} of {len(free):,} pairs are fewer than 2: inject a larger share, or "
            "add pairs"
        )
    return ERROR_KINDS[kind].inject(pairs, free, n, seed)


def inject_miscaptions(pairs: pd.DataFrame, rows: np.ndarray, *, n: int, seed: int) -> pd.DataFrame:
    """Swap captions among n of the rows without an error. No pair gets a caption that it had."""
    return _swap_random(pairs, _not_injected(pairs, rows), n, seed)[0] if n else pairs


def picture_sources(pairs: pd.DataFrame, injected: pd.DataFrame) -> np.ndarray:
    """Return the row of the pair that each picture comes from, int64 [n_pairs]; it differs for
    injected duplicates."""
    rows = np.arange(len(pairs))
    first = pd.Series(rows, pairs[c.IMAGE]).groupby(level=0).min()
    unchanged = pairs[c.IMAGE] == injected[c.IMAGE]
    return np.where(unchanged, rows, injected[c.IMAGE].map(first))


def _not_injected(pairs: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
    free = np.unique(rows).astype(np.int64)
    return free[pairs[c.INJECTED].isna().to_numpy()[free]]


def _with_captions(
    pairs: pd.DataFrame, new: dict[int, list[str]], *, kind: str = c.MISCAPTION
) -> Injected:
    """Return the pairs with new captions by row, and the captions that a pair did not have."""
    old = pairs[c.CAPTIONS].tolist()
    captions = [new.get(row, texts) for row, texts in enumerate(old)]
    pairs = pairs.assign(**{c.CAPTIONS: captions})
    changes = [
        ChangedCaption(row, number)
        for row, texts in new.items()
        for number, text in enumerate(texts)
        if text not in old[row]
    ]
    return _marked(pairs, list(new), kind), changes


def _marked(pairs: pd.DataFrame, rows: list[int] | np.ndarray, kind: str) -> pd.DataFrame:
    injected = pairs[c.INJECTED].astype(object)
    injected.iloc[rows] = kind
    return pairs.assign(**{c.INJECTED: injected})


def _replaced(texts: list[str], number: int, text: str) -> list[str]:
    """Return the captions of a pair with another one at a number."""
    return [*texts[:number], text, *texts[number + 1 :]]


def _check_count(count: int, n: int, what: str) -> None:
    if count < n:
        raise InputError(f"only {count:,} pairs {what}, {n:,} were requested")


def _swap_random(
    pairs: pd.DataFrame, free: np.ndarray, n: int, seed: int, *, single: bool = False
) -> Injected:
    """Swap the captions of n pairs among themselves, or with `single` one caption of n pairs with
    several."""
    rng = draws.rng(seed, "swapped captions")
    captions = pairs[c.CAPTIONS].tolist()
    free = free[[len(captions[row]) > single for row in free]]
    _check_count(len(free), n, f"with {1 + single} captions or more can be changed")
    texts_of = [frozenset(captions[row]) for row in free]
    for _ in range(_DRAWS):
        # at most half of the rows may share a text, or no swap exists
        used = Counter[str]()
        drawn = list[int]()
        for i in rng.permutation(len(texts_of)):
            if len(drawn) < n and all(used[text] < n // 2 for text in texts_of[i]):
                used.update(texts_of[i])
                drawn.append(int(i))
        if len(drawn) < n or (order := _derange([texts_of[i] for i in drawn], rng)) is None:
            continue
        targets = free[drawn]
        sources = dict(zip(targets.tolist(), targets[order].tolist(), strict=True))
        if not single:
            return _with_captions(pairs, {row: captions[sources[row]] for row in sources})
        numbers = {row: int(rng.integers(len(captions[row]))) for row in sources}
        texts = {row: captions[row][number] for row, number in numbers.items()}
        return _with_captions(
            pairs,
            {row: _replaced(captions[row], numbers[row], texts[sources[row]]) for row in sources},
        )
    raise InputError(
        f"{n} pairs cannot swap captions so that each gets another: too many share a text, "
        "inject fewer"
    )


def _derange(texts_of: list[frozenset[str]], rng: np.random.Generator) -> np.ndarray | None:
    """Return the pair that each pair gets its captions from, or None if none was found."""
    n = len(texts_of)
    sources = rng.permutation(n)
    for i in range(n):
        if texts_of[i].isdisjoint(texts_of[sources[i]]):
            continue
        for j in rng.permutation(n):
            # with one text a pair, at most n / 2 of them equal, such a j always exists; a swap
            # leaves valid pairs valid
            if texts_of[i].isdisjoint(texts_of[sources[j]]) and texts_of[j].isdisjoint(
                texts_of[sources[i]]
            ):
                sources[[i, j]] = sources[[j, i]]
                break
        else:  # captions overlap in part
            return None
    return sources


def _swap_nearest(
    pairs: pd.DataFrame, free: np.ndarray, n: int, seed: int, *, single: bool = False
) -> Injected:
    """Swap the captions of n pairs, an even number, with a pair of similar words (cosine of
    tf-idf), or with `single` one caption each.

    The partner is one of the ten nearest, among the forty nearest, that share no caption and are
    not swapped yet. Captions are swapped, not copied: repeated captions would be easy to detect.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # slow to import
    from sklearn.neighbors import NearestNeighbors

    rng = draws.rng(seed, "similar captions")
    n = n // 2 * 2
    captions = pairs[c.CAPTIONS].tolist()
    texts = [" ".join(captions[row]) for row in free]
    tfidf = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True)
    try:
        words = tfidf.fit_transform(texts)
    except ValueError:
        raise InputError("the captions have no words that could be compared") from None
    index = NearestNeighbors(
        n_neighbors=min(_CONSIDERED, len(free)), metric="cosine", algorithm="brute"
    ).fit(words)
    sources = dict[int, int]()
    order = rng.permutation(len(free))
    nearest = free[index.kneighbors(words[order], return_distance=False)]
    for row, neighbours in zip(free[order].tolist(), nearest.tolist(), strict=True):
        texts_of_row = set(captions[row])
        others = [
            other
            for other in neighbours
            if other not in sources and texts_of_row.isdisjoint(captions[other])
        ]
        if others and row not in sources and len(sources) < n:
            other = int(rng.choice(others[:_NEAREST]))
            sources |= {row: other, other: row}
    _check_count(len(sources), n, "have another pair with similar words")
    new = {row: captions[source] for row, source in sources.items()}
    if single:
        for row, source in sources.items():
            number = int(rng.integers(min(len(captions[row]), len(captions[source]))))
            new[row] = _replaced(captions[row], number, captions[source][number])
    return _with_captions(pairs, new)


def _replace_word(
    pairs: pd.DataFrame, free: np.ndarray, n: int, seed: int, *, every: bool
) -> Injected:
    """Change one word, a colour, a number or a noun, of `every` caption of n pairs or of one of
    them.

    A noun, without a tagger, is an English word in two or more captions that is no stop word, has
    no digit and does not end like adverbs and participles. It is replaced by one of similar
    frequency.
    """
    rng = draws.rng(seed, "changed words")
    captions = pairs[c.CAPTIONS].tolist()
    nouns = _nouns(text for row in free for text in captions[row])
    rank = {noun: i for i, noun in enumerate(nouns)}

    def alternatives(word: str) -> tuple[str, Sequence[str]]:
        """Return the kind of a word, empty if it is not replaced, and the words of its kind."""
        if word in COLOUR_WORDS:
            return "colour", COLOUR_WORDS
        if word in NUMBER_WORDS:
            return "number", NUMBER_WORDS
        if word.isdecimal() and word.isascii():
            return "number", [word[:-1] + digit for digit in "0123456789"]
        if word in rank:
            first = max(0, rank[word] - _SIMILAR_RANKS)
            return "noun", nouns[first : rank[word] + _SIMILAR_RANKS + 1]
        return "", ()

    def change_one_word(text: str, replaced: dict[str, str]) -> tuple[str, str]:
        """Return a text with another word, and the word's kind; both empty if none can change."""
        matches = list(_WORD.finditer(text))
        words = [match[0].lower() for match in matches]
        # the same word again, so that a pair's captions agree
        choices = [i for i, word in enumerate(words) if word in replaced]
        kinds = [alternatives(word)[0] for word in words]
        for kind in () if choices else rng.permutation(WORD_KINDS):
            choices = choices or [i for i, of in enumerate(kinds) if of == kind]
        if not choices:
            return "", ""
        position = choices[rng.integers(len(choices))]
        match = matches[position]
        word = words[position]
        word_kind, others = alternatives(word)
        if word not in replaced:
            replaced[word] = str(rng.choice([other for other in others if other != word]))
        new = replaced[word].capitalize() if match[0][0].isupper() else replaced[word]
        return text[: match.start()] + new + text[match.end() :], word_kind

    new = dict[int, list[str]]()
    changes = list[ChangedCaption]()
    for row in rng.permutation(free).tolist():
        if len(new) == n:
            break
        replaced = dict[str, str]()
        texts = list(captions[row])
        numbers = range(len(texts)) if every else [int(rng.integers(len(texts)))]
        word_kinds = []
        for number in numbers:
            texts[number], word_kind = change_one_word(texts[number], replaced)
            word_kinds.append(word_kind)
        if all(word_kinds):
            changes += map(ChangedCaption, repeat(row), numbers, word_kinds)
            new[row] = texts
    _check_count(len(new), n, "have a word in their captions to change")
    return _with_captions(pairs, new)[0], changes


def _nouns(captions: Iterable[str]) -> list[str]:
    """Return words that are probably nouns, the most frequent first; none if there is only one."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # slow to import

    counts = Counter[str]()
    for text in captions:
        counts.update(list(dict.fromkeys(_WORD.findall(text.lower()))))
    ignored = {*ENGLISH_STOP_WORDS, *COLOUR_WORDS, *NUMBER_WORDS}
    nouns = [
        word
        for word, count in counts.most_common()
        if count > 1 and len(word) > 2 and word.isalpha() and word not in ignored
        if not word.endswith(("ly", "ing", "ed"))
    ]
    return nouns if len(nouns) > 1 else []


def _replace_sentence(pairs: pd.DataFrame, free: np.ndarray, n: int, seed: int) -> Injected:
    """Replace one sentence of the longest caption of n pairs by one of another of these pairs."""
    rng = draws.rng(seed, "replaced sentences")
    captions = pairs[c.CAPTIONS].tolist()
    long = [row for row in rng.permutation(free).tolist() if len(sentences_of(captions[row])) > 1]
    new = dict[int, list[str]]()
    for row, source in zip(long, np.roll(long, 1).tolist(), strict=True):
        if len(new) == n:
            break
        before, other = (max(captions[each], key=len) for each in (row, source))
        spans = sentence_spans(before)
        position = int(rng.integers(len(spans)))
        start, end = spans[position]
        text = str(rng.choice(sentences_of([other])))
        after = before[:start] + text + before[end:]
        sentences = sentences_of([after])
        # The sentences of a caption must stay the same ones.
        if len(spans) == len(sentences) > 1 and sentences[position] == text not in before:
            new[row] = _replaced(captions[row], captions[row].index(before), after)
    _check_count(len(new), n, "have a caption of several sentences")
    return _with_captions(pairs, new)


def _mix(pairs: pd.DataFrame, free: np.ndarray, n: int, seed: int) -> Injected:
    """Inject four kinds of errors at once: of seven pairs one has the captions of another pair, one
    a single caption of a random pair, one a single caption of a pair with similar words, and four
    have one wrong word."""
    several = any(len(pairs[c.CAPTIONS].iloc[row]) > 1 for row in free)
    kinds = [_swap_random, *(_SINGLE_SWAPS if several else (_swap_nearest,)), *[_ONE_WORD] * 4]
    share = max(2, round(n / len(kinds)))
    changes = list[ChangedCaption]()
    for number, inject in enumerate(kinds):
        pairs, more = inject(pairs, _not_injected(pairs, free), share, seed + number)
        changes += more
    return pairs, changes


class Displaced(NamedTuple):
    """A run of pairs that get the captions of other pairs, as by a fault of a pipeline."""

    kind: str  # shift, exchange or reversal
    rows: np.ndarray  # [n]
    sources: np.ndarray  # the pair whose captions each row gets, [n]


def draw_displaced(n_pairs: int, n: int, seed: int) -> list[Displaced]:
    """Draw runs of 20 to 400 pairs in the order of the source, n pairs in all: captions one row
    late, blocks exchanged, and runs in reverse order in turn."""
    rng = draws.rng(seed, "displaced captions")
    free = np.ones(n_pairs, bool)
    runs = list[Displaced]()
    for _ in range(_DRAWS - 1):
        if n < _SHORTEST:
            break
        kind = DISPLACED_KINDS[len(runs) % len(DISPLACED_KINDS)]
        blocks = 2 if kind == "exchange" else 1
        length = int(rng.integers(_SHORTEST, _LONGEST + 1))
        length = max(min(length, n // blocks, n_pairs // 8), _SHORTEST)
        starts = rng.integers(_APART, n_pairs - length - _APART, blocks)
        spans = [slice(start - _APART, start + length + _APART) for start in starts]
        if not all(free[span].all() for span in spans) or np.ptp(starts) < length > blocks > 1:
            continue
        for span in spans:
            free[span] = False
        rows = np.concatenate([np.arange(start, start + length) for start in starts])
        sources = {"shift": rows - 1, "exchange": np.roll(rows, length), "reversal": rows[::-1]}[
            kind
        ]
        runs.append(Displaced(kind, rows, sources))
        n -= len(rows)
    return runs


def _displace(pairs: pd.DataFrame, free: np.ndarray, n: int, seed: int) -> Injected:
    """Give runs of pairs the captions of others, as `draw_displaced` draws them."""
    captions = pairs[c.CAPTIONS].tolist()
    runs = draw_displaced(len(pairs), n, seed)
    if not runs:
        raise InputError(f"{n:,} pairs are too few for a run of {_SHORTEST}: use a larger share")
    rows = np.concatenate([run.rows for run in runs]).tolist()
    sources = np.concatenate([run.sources for run in runs])
    new = {row: captions[source] for row, source in zip(rows, sources, strict=True)}
    return _with_captions(pairs, new)


def _make_vague(pairs: pd.DataFrame, free: np.ndarray, n: int, seed: int) -> Injected:
    """Replace the captions of pairs, at most ten, by captions that fit any picture."""
    rng = draws.rng(seed, "vague captions")
    captions = pairs[c.CAPTIONS].tolist()
    new = {
        row: rng.permutation(_VAGUE_CAPTIONS)[: len(captions[row])].tolist()
        for row in rng.choice(free, n, replace=False).tolist()
    }
    return _with_captions(pairs, new, kind=c.VAGUE)


def _duplicate(pairs: pd.DataFrame, free: np.ndarray, n: int, seed: int) -> Injected:
    """Make half of n drawn pairs, an even number, copies of the other half."""
    drawn = draws.rng(seed, "duplicates").choice(free, n // 2 * 2, replace=False)
    copies, originals = np.split(drawn, 2)
    injected = pairs.copy()
    copied = [c.IMAGE, c.CAPTIONS, c.LABEL, c.WIDTH, c.HEIGHT, c.SHA256]
    injected.loc[pairs.index[copies], copied] = pairs.iloc[originals][copied].to_numpy()
    return _marked(injected.astype(pairs.dtypes), drawn, c.DUPLICATE), []


_SINGLE_SWAPS = (partial(_swap_random, single=True), partial(_swap_nearest, single=True))
_ONE_WORD = partial(_replace_word, every=False)
ERROR_KINDS = {
    "random": ErrorKind("captions swapped at random", _swap_random),
    "nearest": ErrorKind("captions swapped with one of the ten nearest", _swap_nearest),
    "one-caption": ErrorKind("one of several captions swapped", _SINGLE_SWAPS[0]),
    # typical of captioning models: many captions, each with one wrong word
    "one-word": ErrorKind("one word of one caption changed", _ONE_WORD, (0.2,)),
    "one-word-all": ErrorKind(
        "one word of each caption changed", partial(_replace_word, every=True), (0.2,)
    ),
    "sentence": ErrorKind("one sentence of a long caption replaced", _replace_sentence, (0.2,)),
    # a small share, as in real data: a fifth of equal captions would change training
    "mixed": ErrorKind("four kinds of errors", _mix, (0.21,)),
    "pipeline": ErrorKind("runs of captions displaced by a pipeline", _displace, (0.05, 0.2)),
    "vague": ErrorKind("captions that fit any picture", _make_vague, (0.05,)),
    "duplicates": ErrorKind("duplicated pairs", _duplicate, (0.05,)),
}
