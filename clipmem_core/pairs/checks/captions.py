"""What can be wrong with a caption for anybody to see, without a model: one function a check.

Each takes the captions of a data set and tells of each whether it is so, bool [n_captions].
"""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

SHORT_WORDS, SHORT_LETTERS = 2, 6  # fewer than either: one word cannot tell two pictures of a kind apart
REPEATED = 5  # pictures of one caption: nothing ranks its own picture first more often than one time in five
RARE_SCRIPT = 0.05  # of the captions: a script of more of them is one of the data set's own
ODD_SHARE = 0.5  # of a caption's letters and digits, in words that no language has
PICTURES = r"(?:jpe?g|png|gif|webp|bmp|tiff?|svg|heic|avif)"

_MARKUP = re.compile(
    r"</?[a-z][a-z0-9]*(?:\s[^<>]*|/)?>|<!--|&(?:#\d+|#x[0-9a-f]+|[a-z][a-z0-9]+);|https?://|\bwww\.|\[\[|\]\(", re.I
)
_FILE_NAME = re.compile(
    rf"""\S.*\.{PICTURES}  # anything that ends as a picture's file does
    | (?:img|dsc[nf]?|pict?|mvi|gopr|dji|pxl|wp|scan|screenshot|image|photo|picture|untitled|unnamed|download)
      [\s_-]*[(]?[\d_-]*[)]?  # what cameras and browsers call pictures
    | p\d{{6,}}
    | [^\W_]+(?:_[^\W_]+)+  # one word, tied together with underscores""",
    re.I | re.X,
)
_WORD = re.compile(r"[^\W_]+")
_SAME = re.compile(r"(\D)\1{3}")  # one letter or sign four times
_CONSONANTS = re.compile(r"[^aeiouy]{7}")  # `Knightsbridge` has six
_SWITCHES = re.compile(r"(?<=\d)(?=[a-z])|(?<=[a-z])(?=\d)")
_TWICE_ENCODED = re.compile("[\u00c2-\u00f4][\u0080-\u00bf\u0152-\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]{1,3}")
_CONTROLS = re.compile("[\ufffd\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")
_WITHOUT_SPACES = ("CJK", "THAI", "LAO", "KHMER", "MYANMAR")
_ONE_SCRIPT = dict.fromkeys(("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "BOPOMOFO", "IDEOGRAPHIC"), "CJK")


@dataclass(frozen=True, eq=False)
class Common:
    """What is known of a data set's captions all together: scripts that few are in, and the keys of repeated ones."""

    rare: frozenset[str]
    repeated: np.ndarray  # int64 [n_repeated]


@dataclass(frozen=True)
class Captions:
    """The captions of a data set, or of a block of its pairs, pair by pair.

    `owner` is the pair of each, int64 [n_captions]; `cut` tells which are longer than the text tower reads, bool
    [n_captions], None where no tower is known; `common` is known of all of them, None where these are all.
    """

    texts: Sequence[str]
    owner: np.ndarray
    cut: np.ndarray | None = None
    common: Common | None = None


def of_pairs(captions: Sequence[Sequence[str]]) -> Captions:
    """Return the captions of pairs as the checks take them."""
    owner = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
    return Captions([text for own in captions for text in own], owner)


def in_common(blocks: Iterable[Captions]) -> Common:
    """Look at all captions, a block of pairs at a time."""
    scripts, keys = Counter[str](), [np.empty(0, np.int64)]
    for block in blocks:
        scripts.update(filter(None, map(main_script, block.texts)))
        keys.append(np.unique(np.stack([block.owner, _keys(block)]), axis=1)[1])  # each once a pair
    known, counts = np.unique(np.concatenate(keys), return_counts=True)
    rare = frozenset(script for script, count in scripts.items() if count < RARE_SCRIPT * scripts.total())
    return Common(rare, known[counts >= REPEATED])


def _keys(captions: Captions) -> np.ndarray:
    """Return a hash of each caption, whatever its case and spaces, int64 [n_captions]; that of one process."""
    return np.array([hash(" ".join(text.casefold().split())) for text in captions.texts], np.int64)


def empty(captions: Captions) -> np.ndarray:
    """Tell which captions have no letter in them: signs or numbers only."""
    return _each(captions, lambda text: not any(letter.isalpha() for letter in text))


def short(captions: Captions) -> np.ndarray:
    """Tell which captions are one word, or fewer than `SHORT_LETTERS` characters.

    DataComp's basic filter (Gadre et al. 2023) is stricter: more than two words and more than five characters. Where
    words are not set apart by spaces, as in Chinese, two letters count as one.
    """
    return _each(captions, _is_short) & ~empty(captions)


def _is_short(text: str) -> bool:
    words = len(_WORD.findall(text))
    if main_script(text) in _WITHOUT_SPACES:
        return sum(letter.isalpha() for letter in text) < 2 * SHORT_WORDS
    return words < SHORT_WORDS or len(text.strip()) < SHORT_LETTERS


def long(captions: Captions) -> np.ndarray:
    """Tell which captions are longer than the text tower reads: the rest of them is cut off."""
    return np.zeros(len(captions.texts), bool) if captions.cut is None else captions.cut


def markup(captions: Captions) -> np.ndarray:
    """Tell which captions hold tags, entities or links of HTML, of a wiki or of Markdown, or web addresses."""
    return _each(captions, lambda text: bool(_MARKUP.search(text)))


def gibberish(captions: Captions) -> np.ndarray:
    """Tell which captions are noise: letters decoded wrongly, or mostly words that no language has.

    Such a word has the same letter four times in a row; or five Latin letters or more and no vowel, unless it is all
    capitals; or seven consonants in a row; or switches between letters and digits three times.
    """
    return _each(captions, _is_gibberish)


def _is_gibberish(text: str) -> bool:
    if _CONTROLS.search(text) or any(map(_decodes, _TWICE_ENCODED.findall(text))):
        return True
    words = _WORD.findall(text)
    odd = sum(len(word) for word in words if _is_odd(word))
    return odd > 0 and odd >= ODD_SHARE * sum(map(len, words))


def _decodes(part: str) -> bool:
    """Tell whether letters are the bytes of UTF-8, read as those of Windows' alphabet."""
    try:
        return bool(part.encode("cp1252").decode("utf-8"))
    except UnicodeError:
        return False


def _is_odd(word: str) -> bool:
    plain = unicodedata.normalize("NFD", word.casefold())
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    if _SAME.search(plain) or len(_SWITCHES.findall(plain)) >= 3:
        return True
    if not (plain.isascii() and plain.isalpha()) or word.isupper():
        return False
    return bool(_CONSONANTS.search(plain)) or (len(plain) >= 5 and not set(plain) & set("aeiouy"))


def other_script(captions: Captions) -> np.ndarray:
    """Tell which captions are mostly in a script that fewer than `RARE_SCRIPT` of all captions are in."""
    rare = (captions.common or in_common([captions])).rare
    return _each(captions, lambda text: main_script(text) in rare)


def main_script(text: str) -> str:
    """Return the script of most letters of a text as Unicode calls it; empty where it has none.

    Example:
        >>> main_script("the angle θ"), main_script("Это лягушка"), main_script("12")
        ('LATIN', 'CYRILLIC', '')
    """
    if text.isascii():
        return "LATIN" if any(letter.isalpha() for letter in text) else ""
    counts = Counter(_script(letter) for letter in text if letter.isalpha())
    return counts.most_common(1)[0][0] if counts else ""


@functools.lru_cache(maxsize=1 << 16)
def _script(letter: str) -> str:
    first = unicodedata.name(unicodedata.normalize("NFKC", letter)[0], "UNKNOWN").split()[0]
    return _ONE_SCRIPT.get(first, first)


def file_name(captions: Captions) -> np.ndarray:
    """Tell which captions are a file's name, or end in a picture's."""
    return _each(captions, lambda text: bool(_FILE_NAME.fullmatch(text.strip())))


def repeated(captions: Captions) -> np.ndarray:
    """Tell which captions are those of `REPEATED` pairs or more, whatever the case and spaces."""
    return np.isin(_keys(captions), (captions.common or in_common([captions])).repeated)


def _each(captions: Captions, holds: Callable[[str], bool]) -> np.ndarray:
    return np.array([holds(text) for text in captions.texts], bool)
