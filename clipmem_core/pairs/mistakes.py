"""The kinds of mistakes that are planted in a data set to try scores on: swaps near and far, captions that are partly
wrong or say nothing, and pairs that are there twice."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from sklearn.neighbors import NearestNeighbors

from clipmem_core.columns import CAPTIONS, DUPLICATE, HEIGHT, IMAGE, LABEL, MISCAPTION, PLANTED, SHA256, VAGUE, WIDTH
from clipmem_core.config import InputError
from clipmem_core.pairs.planting import plant_miscaptions

NEAREST, LOOKED_AT = 10, 40  # captions nearest to a pair's own, of which it gets one, and those looked at for them
_AT_ONCE = 512  # pairs whose nearest captions are looked for together
_ALIKE = 25  # words about as frequent as a noun, on either side of it, that may take its place
_WORD = re.compile(r"\w+")
_COLOURS = (
    *("red", "orange", "yellow", "green", "blue", "purple", "violet", "pink", "brown"),
    *("black", "white", "grey", "gray", "gold", "golden", "silver", "beige"),
)
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_SAYS_NOTHING = (
    *("a picture", "an image", "a photo of something", "some things", "something that can be seen"),
    *("what the camera saw", "a nice view", "various objects", "a scene", "an illustration"),
)


@dataclass(frozen=True)
class Kind:
    """A kind of mistake: what a pair looks like that has it, and how much of it is planted where nobody says."""

    says: str
    plant: Callable[[pd.DataFrame, np.ndarray, int, int], pd.DataFrame]  # pairs, rows, n and seed → pairs
    shares: tuple[float, ...]


def plant(kind: str, pairs: pd.DataFrame, rows: np.ndarray, *, share: float, seed: int) -> pd.DataFrame:
    """Plant mistakes of one kind in a share of some pairs.

    Args:
        kind: one of `KINDS`.
        pairs: table with the columns of an audit's pairs; it is left as it is.
        rows: int array [n_rows], the row numbers to draw from; rows that are planted already are passed over.
        share: of the rows that are drawn from, in (0, 1).
        seed: the draw is a function of it.

    Returns:
        A new table; what is new in it has its kind in the column planted (`duplicate`: both of two pairs that are the
        same; a copy has all that the other has but its id).

    Raises:
        InputError: the kind is unknown, or the data set has no room for it; one line says why.
    """
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} of mistake is unknown: choose of {', '.join(KINDS)}")
    free = rows[pairs[PLANTED].isna().to_numpy()[rows]]
    n = round(share * len(free))
    if n < 2:
        raise InputError(f"{share:.0%} of {len(free):,} pairs are fewer than 2: plant a larger share, or add pairs")
    return KINDS[kind].plant(pairs, free, n, seed)


def picture_sources(pairs: pd.DataFrame, planted: pd.DataFrame) -> np.ndarray:
    """Return the row that each pair's picture is from, int64 [n_pairs]: its own, unless it is a planted copy."""
    first = {image: row for row, image in reversed(list(enumerate(pairs[IMAGE])))}
    own = (pairs[IMAGE] == planted[IMAGE]).to_numpy()
    return np.where(own, np.arange(len(pairs)), [first[image] for image in planted[IMAGE]])


def _random(pairs: pd.DataFrame, free: np.ndarray, n: int, seed: int) -> pd.DataFrame:
    return plant_miscaptions(pairs, free, n=n, seed=seed)


def _inside_label(pairs: pd.DataFrame, free: np.ndarray, n: int, seed: int) -> pd.DataFrame:
    """Swap captions among pairs of one label, a like share in each label that has two or more to swap."""
    groups = pairs.iloc[free].groupby(LABEL).indices
    if not groups:
        raise InputError("no pair has a label: swaps inside a label need some (`--csv-label-key`, or class folders)")
    swapped, share = pairs, n / len(free)
    for own in groups.values():
        count = round(share * len(own))
        if count >= 2:
            try:
                swapped = plant_miscaptions(swapped, free[own], n=count, seed=seed)
            except InputError:
                continue  # a label whose pairs share their captions has none to swap
    if swapped is pairs:
        raise InputError(f"no label has two pairs to swap at a share of {share:.0%}: plant a larger share")
    return swapped


def _nearest(pairs: pd.DataFrame, free: np.ndarray, n: int, seed: int) -> pd.DataFrame:
    """Swap the captions of two pairs that are near by their words (cosine of tf-idf), of n pairs, an even number.

    A pair is swapped with one of the ten nearest, of the forty nearest, that have no caption of its own and are not
    swapped yet. Swapped and not copied: a caption that is there twice would give itself away by that.
    """
    rng, captions = np.random.default_rng(seed), pairs[CAPTIONS].tolist()
    texts = [" ".join(captions[row]) for row in free]
    try:
        words = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True).fit_transform(texts)
    except ValueError:
        raise InputError("the captions have no words that could be compared") from None
    index = NearestNeighbors(n_neighbors=min(LOOKED_AT, len(free)), metric="cosine", algorithm="brute").fit(words)
    given: dict[int, list[str]] = {}
    for block in _blocks(rng.permutation(len(free))):
        for place, near in zip(block, index.kneighbors(words[block], return_distance=False), strict=True):
            row = int(free[place])
            if row in given or len(given) >= n // 2 * 2:
                continue
            own = set(captions[row])
            others = [int(one) for one in free[near] if one not in given and own.isdisjoint(captions[one])][:NEAREST]
            if others:
                other = int(rng.choice(others))
                given |= {row: list(captions[other]), other: list(captions[row])}
        if len(given) >= n // 2 * 2:
            return _with_captions(pairs, given, MISCAPTION)
    raise InputError(f"only {len(given):,} pairs have another caption near their own, {n:,} were to be planted")


def _partly_wrong(pairs: pd.DataFrame, free: np.ndarray, n: int, seed: int) -> pd.DataFrame:
    """Change one word of each caption: a colour, a number or a noun.

    A noun is, without a tagger, a word that is no English stop word, has no digit, does not end as adverbs and
    participles do, and is in two captions or more; it makes room for one about as frequent.
    """
    rng, captions = np.random.default_rng(seed), pairs[CAPTIONS].tolist()
    counts = Counter(
        word for row in free for text in captions[row] for word in {w.lower() for w in _WORD.findall(text)}
    )
    nouns = [word for word, count in counts.most_common() if count > 1 and _may_be_noun(word)]
    place = {word: rank for rank, word in enumerate(nouns)}
    given: dict[int, list[str]] = {}
    for row in rng.permutation(free):
        if len(given) == n:
            break
        changed: dict[str, str] = {}  # so that the captions of a pair tell the same
        told = [_with_one_changed(text, changed, nouns, place, rng) for text in captions[row]]
        if all(text is not None for text in told):
            given[int(row)] = [str(text) for text in told]
    if len(given) < n:
        raise InputError(f"only {len(given):,} pairs have a word in each caption to change, {n:,} were to be planted")
    return _with_captions(pairs, given, MISCAPTION)


def _may_be_noun(word: str) -> bool:
    plain = len(word) > 2 and word.isalpha() and not word.endswith(("ly", "ing", "ed"))
    return plain and word not in ENGLISH_STOP_WORDS and word not in _COLOURS and word not in _NUMBERS


def _with_one_changed(
    text: str, changed: dict[str, str], nouns: list[str], place: dict[str, int], rng: np.random.Generator
) -> str | None:
    """Return a caption with one word changed, one that was changed before if there is one; None where none can be."""
    found = list(_WORD.finditer(text))
    known = [match for match in found if match[0].lower() in changed]
    kinds = [
        [match for match in found if match[0].lower() in _COLOURS],
        [match for match in found if match[0].lower() in _NUMBERS or (match[0].isdecimal() and match[0].isascii())],
        [match for match in found if match[0].lower() in place] if len(nouns) > 1 else [],
    ]
    choices = known or next((kinds[i] for i in rng.permutation(len(kinds)) if kinds[i]), [])
    if not choices:
        return None
    match = choices[rng.integers(len(choices))]
    word = match[0].lower()
    if word not in changed:
        changed[word] = _other_word(word, nouns, place, rng)
    new = changed[word]
    return text[: match.start()] + (new.capitalize() if match[0][0].isupper() else new) + text[match.end() :]


def _other_word(word: str, nouns: list[str], place: dict[str, int], rng: np.random.Generator) -> str:
    """Return another word of the same kind."""
    if word.isdecimal():
        return word[:-1] + str(rng.choice([digit for digit in "0123456789" if digit != word[-1]]))
    among: tuple[str, ...] = _COLOURS if word in _COLOURS else _NUMBERS
    if word in place:
        rank = place[word]
        among = tuple(nouns[max(0, rank - _ALIKE) : rank + _ALIKE + 1])
    return str(rng.choice([other for other in among if other != word]))


def _vague(pairs: pd.DataFrame, free: np.ndarray, n: int, seed: int) -> pd.DataFrame:
    """Give pairs captions that fit any picture, as many as they have, at most ten."""
    rng = np.random.default_rng(seed)
    given = {}
    for row in rng.choice(free, n, replace=False):
        count = min(len(pairs[CAPTIONS].iloc[row]), len(_SAYS_NOTHING))
        given[int(row)] = [_SAYS_NOTHING[i] for i in rng.permutation(len(_SAYS_NOTHING))[:count]]
    return _with_captions(pairs, given, VAGUE)


def _duplicates(pairs: pd.DataFrame, free: np.ndarray, n: int, seed: int) -> pd.DataFrame:
    """Make half of the drawn pairs copies of the other half: of n pairs, an even number, each is there twice."""
    drawn = np.random.default_rng(seed).choice(free, n // 2 * 2, replace=False)
    copies, originals = drawn[: n // 2], drawn[n // 2 :]
    planted = pairs.copy()
    for column in (IMAGE, CAPTIONS, LABEL, WIDTH, HEIGHT, SHA256):
        values = planted[column].to_numpy(copy=True)
        values[copies] = values[originals]
        planted[column] = pd.Series(values, index=pairs.index, dtype=pairs[column].dtype)
    planted[PLANTED] = _marked(pairs, drawn, DUPLICATE)
    return planted


def _with_captions(pairs: pd.DataFrame, given: dict[int, list[str]], kind: str) -> pd.DataFrame:
    """Return pairs of which some rows have other captions."""
    captions = [given.get(row, own) for row, own in enumerate(pairs[CAPTIONS])]
    marked = _marked(pairs, np.array(list(given)), kind)
    return pairs.assign(**{CAPTIONS: pd.Series(captions, index=pairs.index, dtype=object), PLANTED: marked})


def _marked(pairs: pd.DataFrame, rows: np.ndarray, kind: str) -> pd.Series:
    planted = pairs[PLANTED].astype(object)
    planted.iloc[rows] = kind
    return planted


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), _AT_ONCE):
        yield rows[start : start + _AT_ONCE]


SWAPPED = (0.05, 0.2, 0.4)
KINDS = {
    "random": Kind("captions swapped at random", _random, SWAPPED),
    "label": Kind("captions swapped among pairs of one label", _inside_label, SWAPPED),
    "nearest": Kind("captions swapped with one of the ten nearest", _nearest, SWAPPED),
    # What a careless writer or a captioning model leaves: many captions, each wrong in a word.
    "partly": Kind("one colour, number or noun of each caption changed", _partly_wrong, (0.2,)),
    # Few, as in data that people collect: a fifth of one and the same sentence would change what is learned.
    "vague": Kind("captions that fit any picture", _vague, (0.05,)),
    "duplicates": Kind("pairs that are there twice", _duplicates, (0.05,)),
}
