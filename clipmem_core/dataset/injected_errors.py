"""Injected errors, the ground truth for scores: captions swapped, with a wrong word or vague;
duplicated pairs."""

import contextlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy

from clipmem_core import columns as c
from clipmem_core.io import InputError

SWAP_SHARES = (0.05, 0.2, 0.4)
# a pair gets one of the nearest usable captions among those considered
NEAREST = 10
CONSIDERED = 40
DRAWS = 200  # attempts to draw rows for a swap
_BLOCK = 512  # pairs in one search for nearest captions
_SIMILAR_RANKS = 25  # a noun's replacement differs by at most so many ranks in frequency
WORD_KINDS = ("colour", "number", "noun")
_WORD = re.compile(r"\w+")
_VAGUE_CAPTIONS = (
    *("a picture", "an image", "a photo of something", "some things", "something that can be seen"),
    *("what the camera saw", "a nice view", "various objects", "a scene", "an illustration"),
)


class Change(NamedTuple):
    """A caption that was changed, and the one word of it that was, if not all of it."""

    row: int
    caption: int  # its number in the pair
    position: int = -1  # the number of the word in the caption
    word_kind: str = ""  # of `WORD_KINDS`


Injected = tuple[pd.DataFrame, list[Change]]  # pairs, and their captions that were changed


@dataclass(frozen=True)
class ErrorKind:
    """A kind of injected error."""

    label: str
    inject: Callable[[pd.DataFrame, np.ndarray, int, int], Injected]  # pairs, rows, n and seed
    shares: tuple[float, ...]  # of the pairs, a benchmark's default


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
    """Swap the captions of n of the rows without an error among themselves, so that no pair gets a
    text that it had."""
    free = _not_injected(pairs, rows)
    if n < 0 or n == 1:
        raise InputError(
            f"inject_miscaptions must be 0, or 2 and more, got {n}: a swap needs two pairs"
        )
    if n > len(free):
        raise InputError(
            f"inject_miscaptions must be at most {len(free)}, the number of pairs without "
            f"errors, got {n}"
        )
    return _swap_random(pairs, free, n, seed)[0] if n else pairs.copy()


def picture_sources(pairs: pd.DataFrame, injected: pd.DataFrame) -> np.ndarray:
    """Return the row of the pair that each picture comes from, int64 [n_pairs]; it differs for
    injected duplicates."""
    first = {image: row for row, image in reversed(list(enumerate(pairs[c.IMAGE])))}
    unchanged = (pairs[c.IMAGE] == injected[c.IMAGE]).to_numpy()
    return np.where(unchanged, np.arange(len(pairs)), [first[image] for image in injected[c.IMAGE]])


def _not_injected(pairs: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
    free = np.unique(rows).astype(np.int64)
    return free[pairs[c.INJECTED].isna().to_numpy()[free]]


def _with_captions(
    pairs: pd.DataFrame,
    new: dict[int, list[str]],
    changes: list[Change] | None = None,
    *,
    kind: str = c.MISCAPTION,
) -> Injected:
    """Return the pairs with new captions; all captions of these pairs count as changed if no
    changes are passed."""
    captions = [new.get(row, old) for row, old in enumerate(pairs[c.CAPTIONS])]
    pairs = pairs.assign(**{c.CAPTIONS: pd.Series(captions, index=pairs.index, dtype=object)})
    every = [Change(row, number) for row, texts in new.items() for number in range(len(texts))]
    return _marked(pairs, list(new), kind), every if changes is None else changes


def _marked(pairs: pd.DataFrame, rows: list[int] | np.ndarray, kind: str) -> pd.DataFrame:
    injected = pairs[c.INJECTED].astype(object)
    injected.iloc[rows] = kind
    return pairs.assign(**{c.INJECTED: injected})


def _swap_random(
    pairs: pd.DataFrame, free: np.ndarray, n: int, seed: int, *, single: bool = False
) -> Injected:
    """Swap the captions of n pairs among themselves, or with `single` one caption of n pairs with
    several."""
    rng = np.random.default_rng(seed)
    captions = pairs[c.CAPTIONS].tolist()
    free = free[[len(captions[row]) > 1 for row in free]] if single else free
    if len(free) < n:
        raise InputError(f"only {len(free):,} pairs have several captions, {n:,} were requested")
    texts_of = [frozenset(captions[row]) for row in free]
    # with one text a pair the first draw decides; partly overlapping captions may need several
    for _ in range(DRAWS if any(len(texts) > 1 for texts in texts_of) else 1):
        # at most half of the rows may share a text, or no swap exists
        used = Counter[str]()
        drawn = list[int]()
        for i in rng.permutation(len(texts_of)):
            if len(drawn) < n and all(used[text] < n // 2 for text in texts_of[i]):
                used.update(texts_of[i])
                drawn.append(int(i))
        donors = _derange([texts_of[i] for i in drawn], rng) if len(drawn) == n else None
        if donors is not None:
            targets = free[drawn]
            swapped = list(zip(targets.tolist(), targets[donors].tolist(), strict=True))
            if not single:
                return _with_captions(pairs, {row: captions[donor] for row, donor in swapped})
            numbers = {row: int(rng.integers(len(captions[row]))) for row, _ in swapped}
            new = {row: list(captions[row]) for row, _ in swapped}
            for row, donor in swapped:
                new[row][numbers[row]] = captions[donor][numbers[donor]]
            return _with_captions(pairs, new, [Change(*change) for change in numbers.items()])
    raise InputError(
        f"{n} pairs cannot swap captions so that each gets another: too many share a text, "
        "inject fewer"
    )


def _derange(texts_of: list[frozenset[str]], rng: np.random.Generator) -> np.ndarray | None:
    """Return the pair that each pair gets its captions from, or None if there is no such order."""
    n = len(texts_of)
    donors = rng.permutation(n)
    for i in range(n):
        if texts_of[i].isdisjoint(texts_of[donors[i]]):
            continue
        for j in rng.permutation(n):
            # with one text a pair, at most n / 2 of them equal, such a j always exists; a swap
            # leaves valid pairs valid
            if texts_of[i].isdisjoint(texts_of[donors[j]]) and texts_of[j].isdisjoint(
                texts_of[donors[i]]
            ):
                donors[[i, j]] = donors[[j, i]]
                break
        else:  # partly overlapping captions need an exact matching of pairs and foreign captions
            order = rng.permutation(n)
            foreign = scipy.sparse.csr_array(
                [[texts.isdisjoint(texts_of[k]) for k in order] for texts in texts_of]
            )
            matched = scipy.sparse.csgraph.maximum_bipartite_matching(foreign, perm_type="column")
            return None if (matched < 0).any() else order[matched]
    return donors


def _swap_inside_label(pairs: pd.DataFrame, free: np.ndarray, n: int, seed: int) -> Injected:
    """Swap captions among pairs of one label, the same share of each label."""
    groups = pairs.iloc[free].groupby(c.LABEL).indices
    if not groups:
        raise InputError(
            "no pair has a label: swaps inside a label need some (`--csv-label-key`, or class "
            "folders)"
        )
    swapped = pairs
    changes = list[Change]()
    share = n / len(free)
    for members in groups.values():
        count = round(share * len(members))
        if count >= 2:
            with contextlib.suppress(InputError):  # the pairs of a label may share their captions
                swapped, more = _swap_random(swapped, free[members], count, seed)
                changes += more
    if not changes:
        raise InputError(
            f"no label has two pairs to swap at a share of {share:.0%}: inject a larger share"
        )
    return swapped, changes


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

    rng = np.random.default_rng(seed)
    captions = pairs[c.CAPTIONS].tolist()
    texts = [" ".join(captions[row]) for row in free]
    try:
        words = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True).fit_transform(
            texts
        )
    except ValueError:
        raise InputError("the captions have no words that could be compared") from None
    index = NearestNeighbors(
        n_neighbors=min(CONSIDERED, len(free)), metric="cosine", algorithm="brute"
    ).fit(words)
    new: dict[int, list[str]] = {}
    order = rng.permutation(len(free))
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        for i, neighbours in zip(
            block, index.kneighbors(words[block], return_distance=False), strict=True
        ):
            row = int(free[i])
            if row in new or len(new) >= n // 2 * 2:
                continue
            texts_of_row = set(captions[row])
            others = [
                int(k)
                for k in free[neighbours]
                if k not in new and texts_of_row.isdisjoint(captions[k])
            ]
            if others:
                other = int(rng.choice(others[:NEAREST]))
                new |= {row: list(captions[other]), other: list(captions[row])}
        if len(new) >= n // 2 * 2:
            if not single:
                return _with_captions(pairs, new)
            changes = [
                Change(row, int(rng.integers(min(len(captions[row]), len(own)))))
                for row, own in new.items()
            ]
            for row, number in [change[:2] for change in changes]:
                own = list(captions[row])
                own[number] = new[row][number]
                new[row] = own
            return _with_captions(pairs, new, changes)
    raise InputError(
        f"only {len(new):,} pairs have another pair with similar words, {n:,} were requested"
    )


def _replace_word(
    pairs: pd.DataFrame, free: np.ndarray, n: int, seed: int, *, every: bool
) -> Injected:
    """Change one word, a colour, a number or a noun, of `every` caption of n pairs or of one of
    them.

    A noun, without a tagger, is an English word in two or more captions that is no stop word, has
    no digit and does not end like adverbs and participles. It is replaced by one of similar
    frequency.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # slow to import

    rng = np.random.default_rng(seed)
    captions = pairs[c.CAPTIONS].tolist()
    words = (
        dict.fromkeys(word.lower() for word in _WORD.findall(text))
        for row in free
        for text in captions[row]
    )
    counts = Counter(word for words_of_caption in words for word in words_of_caption)
    ignored = {*ENGLISH_STOP_WORDS, *c.COLOUR_WORDS, *c.NUMBER_WORDS}
    nouns = [
        word
        for word, count in counts.most_common()
        if count > 1 and len(word) > 2 and word.isalpha() and not word.endswith(("ly", "ing", "ed"))
        if word not in ignored
    ]
    rank = {noun: place for place, noun in enumerate(nouns if len(nouns) > 1 else [])}

    def kind_of(word: str) -> str:
        if word in c.COLOUR_WORDS or word in rank:
            return "colour" if word in c.COLOUR_WORDS else "noun"
        return "number" if word in c.NUMBER_WORDS or (word.isdecimal() and word.isascii()) else ""

    def other_word(word: str) -> str:
        if word.isdecimal():
            return word[:-1] + str(
                rng.choice([digit for digit in "0123456789" if digit != word[-1]])
            )
        choices = c.COLOUR_WORDS if word in c.COLOUR_WORDS else c.NUMBER_WORDS
        if word in rank:
            choices = tuple(
                nouns[max(0, rank[word] - _SIMILAR_RANKS) : rank[word] + _SIMILAR_RANKS + 1]
            )
        return str(rng.choice([other for other in choices if other != word]))

    def change_one_word(text: str, replaced: dict[str, str]) -> tuple[str, int, str] | None:
        """Return the new caption, the position of the word and its kind."""
        matches = list(_WORD.finditer(text))
        lower = [match[0].lower() for match in matches]
        choices = [
            i for i, word in enumerate(lower) if word in replaced
        ]  # so that a pair's captions agree
        if not choices:
            by_kind = [
                [i for i, word in enumerate(lower) if kind_of(word) == kind] for kind in WORD_KINDS
            ]
            choices = next((by_kind[i] for i in rng.permutation(len(by_kind)) if by_kind[i]), [])
        if not choices:
            return None
        position = choices[rng.integers(len(choices))]
        match = matches[position]
        word = lower[position]
        other = replaced[word] = replaced.get(word) or other_word(word)
        other = other.capitalize() if match[0][0].isupper() else other
        return text[: match.start()] + other + text[match.end() :], position, kind_of(word)

    new = dict[int, list[str]]()
    changes = list[Change]()
    for row in rng.permutation(free).tolist():
        if len(new) == n:
            break
        replaced: dict[str, str] = {}
        texts = list(captions[row])
        numbers = range(len(texts)) if every else [int(rng.integers(len(texts)))]
        changed = [
            (number, change)
            for number in numbers
            if (change := change_one_word(texts[number], replaced))
        ]
        if len(changed) == len(numbers):
            for number, (text, position, kind) in changed:
                texts[number] = text
                changes.append(Change(row, number, position, kind))
            new[row] = texts
    if len(new) < n:
        raise InputError(
            f"only {len(new):,} pairs have a word in their captions to change, {n:,} were requested"
        )
    return _with_captions(pairs, new, changes)


def _mix(pairs: pd.DataFrame, free: np.ndarray, n: int, seed: int) -> Injected:
    """Inject four kinds of errors at once: of seven pairs one has the captions of another pair, one
    a single caption of a random pair, one a single caption of a pair with similar words, and four
    have one wrong word."""
    mixed = pairs
    changes = list[Change]()
    several = any(len(pairs[c.CAPTIONS].iloc[row]) > 1 for row in free)
    single = (partial(_swap_random, single=True), partial(_swap_nearest, single=True))
    kinds = [
        _swap_random,
        *(single if several else (_swap_nearest,)),
        *[partial(_replace_word, every=False)] * 4,
    ]
    for number, inject in enumerate(kinds):
        mixed, more = inject(
            mixed, _not_injected(mixed, free), max(2, round(n / len(kinds))), seed + number
        )
        changes += more
    return mixed, changes


def _make_vague(pairs: pd.DataFrame, free: np.ndarray, n: int, seed: int) -> Injected:
    """Replace the captions of pairs, at most ten, by captions that fit any picture."""
    rng = np.random.default_rng(seed)
    new = {}
    for row in rng.choice(free, n, replace=False):
        count = len(pairs[c.CAPTIONS].iloc[row])
        new[int(row)] = [_VAGUE_CAPTIONS[i] for i in rng.permutation(len(_VAGUE_CAPTIONS))[:count]]
    return _with_captions(pairs, new, kind=c.VAGUE)


def _duplicate(pairs: pd.DataFrame, free: np.ndarray, n: int, seed: int) -> Injected:
    """Make half of n drawn pairs, an even number, copies of the other half."""
    drawn = np.random.default_rng(seed).choice(free, n // 2 * 2, replace=False)
    copies = drawn[: n // 2]
    originals = drawn[n // 2 :]
    injected = pairs.copy()
    for column in (c.IMAGE, c.CAPTIONS, c.LABEL, c.WIDTH, c.HEIGHT, c.SHA256):
        values = injected[column].to_numpy(copy=True)
        values[copies] = values[originals]
        injected[column] = pd.Series(values, index=pairs.index, dtype=pairs[column].dtype)
    return _marked(injected, drawn, c.DUPLICATE), []


ERROR_KINDS = {
    "random": ErrorKind("captions swapped at random", _swap_random, SWAP_SHARES),
    "label": ErrorKind(
        "captions swapped among pairs of one label", _swap_inside_label, SWAP_SHARES
    ),
    "nearest": ErrorKind(
        "captions swapped with one of the ten nearest", _swap_nearest, SWAP_SHARES
    ),
    "one-caption": ErrorKind(
        "one of several captions swapped", partial(_swap_random, single=True), SWAP_SHARES
    ),
    # typical of captioning models: many captions, each with one wrong word
    "one-word": ErrorKind(
        "one word of one caption changed", partial(_replace_word, every=False), (0.2,)
    ),
    "one-word-all": ErrorKind(
        "one word of each caption changed", partial(_replace_word, every=True), (0.2,)
    ),
    # a small share, as in real data: a fifth of equal captions would change training
    "mixed": ErrorKind("four kinds of errors", _mix, (0.21,)),
    "vague": ErrorKind("captions that fit any picture", _make_vague, (0.05,)),
    "duplicates": ErrorKind("duplicated pairs", _duplicate, (0.05,)),
}
