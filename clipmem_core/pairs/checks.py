"""Checks of captions and pictures that need no model: how each is found, what it means and what to do about it.

Pictures are measured on the small squares that an audit stores, a fraction of a millisecond each. A picture that is
slightly blurred at full size is therefore sharp: it is at the size that models see.
"""

import contextlib
import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

VERSION = 1  # of the checks and their thresholds; a new number makes every table of them anew
VALUES = ("brightness", "contrast", "sharpness")  # of pictures, beside the checks in the table

SHORT_WORDS, SHORT_LETTERS = 2, 6  # fewer than either: one word cannot tell two pictures of a kind apart
REPEATED = 5  # pictures of one caption: nothing ranks its own picture first more often than one time in five
RARE_SCRIPT = 0.05  # of the captions: a script of more of them belongs to the data set
ODD_SHARE = 0.5  # of a caption's letters and digits, in words that no language has
DARK = 0.32  # of full brightness: 99 of 100 pixels are darker (the threshold of cleanvision)
BLURRED = 0.2  # see `measure`: no edge is narrower than about a sixtieth of the picture's side
UNIFORM = 2.0  # grey levels: a blank page with the noise of JPEG has about 1, thin lines on white 2.5 and more
TINY = 64  # pixels: towers look at 192 and more, where each of its pixels becomes nine or more

_BLOCK = 256  # squares measured at a time
_BRIGHTNESS = np.array([0.241, 0.691, 0.068], np.float32)  # of squares; perceived, after Finley's HSP
_MARKUP = re.compile(
    r"</?[a-z][a-z0-9]*(?:\s[^<>]*|/)?>|<!--|&(?:#\d+|#x[0-9a-f]+|[a-z][a-z0-9]+);|https?://|\bwww\.|\[\[|\]\(", re.I
)
_FILE_NAME = re.compile(
    r"""\S.*\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|heic|avif)
    | (?:img|dsc[nf]?|pict?|mvi|gopr|dji|pxl|wp|scan|screenshot|image|photo|picture|untitled|unnamed|download)
      [\s_-]*[(]?[\d_-]*[)]?  # names that cameras and browsers give
    | p\d{6,}
    | [^\W_]+(?:_[^\W_]+)+  # words joined by underscores""",
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
class Frequencies:
    """Rare scripts and repeated captions of a whole data set."""

    rare_scripts: frozenset[str]
    repeated: np.ndarray  # int64 [n_repeated], hashes


@dataclass(frozen=True)
class Captions:
    """The captions of a data set, or of a block of its pairs, pair by pair."""

    texts: Sequence[str]
    owner: np.ndarray  # int64 [n_captions], the pair of each
    cut: np.ndarray | None = None  # bool [n_captions], longer than the text tower reads; None for an unknown tower
    frequencies: Frequencies | None = None  # of the whole data set; None where these are all its captions

    @functools.cached_property
    def counted(self) -> Frequencies:
        """Return the frequencies of the whole data set."""
        return self.frequencies or caption_frequencies([self])

    @classmethod
    def from_pairs(cls, captions: Sequence[Sequence[str]]) -> "Captions":
        """Flatten the lists of captions of pairs."""
        owner = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
        return cls([text for own in captions for text in own], owner)


def caption_frequencies(blocks: Iterable[Captions]) -> Frequencies:
    """Count scripts and equal captions over all captions, a block of pairs at a time."""
    scripts, hashes = Counter[str](), [np.empty(0, np.int64)]
    for block in blocks:
        scripts.update(filter(None, map(main_script, block.texts)))
        hashes.append(np.unique(np.stack([block.owner, _hashes(block)]), axis=1)[1])  # each once a pair
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    rare = frozenset(script for script, count in scripts.items() if count < RARE_SCRIPT * scripts.total())
    return Frequencies(rare, values[counts >= REPEATED])


def _hashes(captions: Captions) -> np.ndarray:
    """Return a hash of each caption, whatever its case and spaces, int64 [n_captions]; valid in this process."""
    return np.array([hash(" ".join(text.casefold().split())) for text in captions.texts], np.int64)


def main_script(text: str) -> str:
    """Return the script of most letters of a text by its Unicode name; empty for a text without letters."""
    if text.isascii():
        return "LATIN" if any(letter.isalpha() for letter in text) else ""
    counts = Counter(_script(letter) for letter in text if letter.isalpha())
    return counts.most_common(1)[0][0] if counts else ""


@functools.lru_cache(maxsize=1 << 16)
def _script(letter: str) -> str:
    first = unicodedata.name(unicodedata.normalize("NFKC", letter)[0], "UNKNOWN").split()[0]
    return _ONE_SCRIPT.get(first, first)


def _is_empty(text: str) -> bool:
    return not any(letter.isalpha() for letter in text)


def _is_short(text: str) -> bool:
    """Without spaces between words, as in Chinese, two letters count as a word."""
    if _is_empty(text):
        return False
    if main_script(text) in _WITHOUT_SPACES:
        return sum(letter.isalpha() for letter in text) < 2 * SHORT_WORDS
    return len(_WORD.findall(text)) < SHORT_WORDS or len(text.strip()) < SHORT_LETTERS


def _is_gibberish(text: str) -> bool:
    if _CONTROLS.search(text):
        return True
    for part in _TWICE_ENCODED.findall(text):
        with contextlib.suppress(UnicodeError):
            return bool(part.encode("cp1252").decode("utf-8"))
    words = _WORD.findall(text)
    odd = sum(len(word) for word in words if _is_odd(word))
    return odd > 0 and odd >= ODD_SHARE * sum(map(len, words))


def _is_odd(word: str) -> bool:
    """Check for one letter four times, three switches between letters and digits, seven consonants or no vowel."""
    plain = unicodedata.normalize("NFD", word.casefold())
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    if _SAME.search(plain) or len(_SWITCHES.findall(plain)) >= 3:
        return True
    if not (plain.isascii() and plain.isalpha()) or word.isupper():
        return False
    return bool(_CONSONANTS.search(plain)) or (len(plain) >= 5 and not set(plain) & set("aeiouy"))


@dataclass(frozen=True)
class Pictures:
    """Measurements of the pictures of pairs, an array [n_pairs] each; None where they are unknown."""

    shorter: np.ndarray | None = None  # pixels of the shorter side
    clusters: np.ndarray | None = None  # the first row of a picture's near-duplicates, else its own
    brightness: np.ndarray | None = None  # from 0 to 1: 99 of 100 pixels are at most so bright
    contrast: np.ndarray | None = None  # grey levels: standard deviation of the channel that varies most
    sharpness: np.ndarray | None = None  # of the strongest edges, see `measure`; lower is blurred


def measure(
    gather: Callable[[np.ndarray], np.ndarray], shape: np.ndarray, *, padded: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measure small squares: brightness, contrast and sharpness of each, as `Pictures` has them.

    Sharpness is the 99th percentile of the absolute Laplacian of the grey picture over the range from its 1st to its
    99th percentile. A step blurred by a Gaussian of s pixels has 0.24 / s² there, so 0.2 is one of 1.1 pixels. It is
    infinite for a nearly uniform picture, which has no edge to speak of.

    Args:
        gather: gives the squares of some rows, uint8 [n, size, size, 3].
        shape: width and height of each original, int [n_pairs, 2].
        padded: a square holds the whole picture with white beside it, which is not measured.

    Returns:
        float32 [n_pairs] each.
    """
    values = np.empty((3, len(shape)), np.float32)
    for start in range(0, len(shape), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(shape)))
        squares = gather(rows)
        if not padded:
            values[:, rows] = _measure_block(squares)
            continue
        for row, square in zip(rows.tolist(), squares, strict=True):
            size, sides = len(square), shape[row]
            wide, high = (max(1, round(side * size / max(*sides, 1))) for side in sides)
            top, left = (size - high) // 2, (size - wide) // 2
            inner = square[top : top + high, left : left + wide]
            thick = np.pad(inner, ((0, max(0, 3 - high)), (0, max(0, 3 - wide)), (0, 0)), mode="edge")
            values[:, row] = _measure_block(thick[None])[:, 0]
    return values[0], values[1], values[2]


def _measure_block(squares: np.ndarray) -> np.ndarray:
    """Measure pictures of one size, uint8 [n, height, width, 3]: float32 [3, n]."""

    def percentile(values: np.ndarray, share: int) -> np.ndarray:  # the nearest: numpy's own takes three times as long
        flat = values.reshape(len(values), -1)
        place = round((flat.shape[1] - 1) * share / 100)
        return np.partition(flat, place, axis=1)[:, place]

    values = squares.astype(np.float32)
    grey = values.mean(axis=3)
    laplacian = np.abs(
        4 * grey[:, 1:-1, 1:-1] - grey[:, :-2, 1:-1] - grey[:, 2:, 1:-1] - grey[:, 1:-1, :-2] - grey[:, 1:-1, 2:]
    )
    brightness = np.sqrt(percentile(np.square(values) @ _BRIGHTNESS, 99)) / 255
    contrast = values.reshape(len(values), -1, 3).std(axis=1).max(axis=1)
    low, high = percentile(grey, 1), percentile(grey, 99)
    sharpness = np.where(contrast < UNIFORM, np.inf, percentile(laplacian, 99) / np.maximum(high - low, 1))
    return np.stack([brightness, contrast, sharpness])


@dataclass(frozen=True)
class Check:
    """One check. A pair has it if its picture has, or one of its captions."""

    name: str
    label: str
    find: Callable[[Any], np.ndarray]  # of Captions, bool [n_captions]; of what it needs of Pictures, bool [n_pairs]
    help: str  # what is found, and why it matters
    advice: str  # what a person should do
    needs: str = ""  # the field of Captions or Pictures without which the result is unknown

    @property
    def of(self) -> str:
        """Return what it checks, captions or pictures."""
        return "pictures" if self.needs in Pictures.__dataclass_fields__ else "captions"


def _each(holds: Callable[[str], object]) -> Callable[[Captions], np.ndarray]:
    return lambda captions: np.array([bool(holds(text)) for text in captions.texts], bool)


_CHECKS = (
    Check(
        "empty_caption",
        "Caption without a word",
        _each(_is_empty),
        "No letter in it: signs or numbers only.",
        "Write a caption, or remove it.",
    ),
    Check(
        "short_caption",
        "Very short caption",
        _each(_is_short),
        "One word, or fewer than 6 characters: it cannot tell two pictures of a kind apart. (DataComp's basic filter "
        "asks for more than two words.)",
        "Say more, or keep it where one word is all there is to say.",
    ),
    Check(
        "long_caption",
        "Caption cut off",
        lambda captions: captions.cut,
        "Longer than the text encoder of this audit reads: what comes after is never seen.",
        "Put what the picture shows first, or shorten it.",
        "cut",
    ),
    Check(
        "markup",
        "Markup or web address",
        _each(_MARKUP.search),
        "Tags or entities of HTML, links of a wiki or of Markdown, web addresses: a text encoder reads them as words.",
        "Take them out with find and replace.",
    ),
    Check(
        "gibberish",
        "Gibberish",
        _each(_is_gibberish),
        "Letters decoded wrongly (Ã© for é), or mostly words that no language has: no vowels, one letter four times, "
        "letters and digits mixed.",
        "Write it anew, or remove the pair.",
    ),
    Check(
        "other_script",
        "Another script",
        lambda captions: np.array(
            [main_script(text) in captions.counted.rare_scripts for text in captions.texts], bool
        ),
        "Mostly in a script that fewer than 5 % of the captions are in: encoders learn little of it.",
        "Translate it, or remove it.",
    ),
    Check(
        "file_name",
        "File name",
        _each(lambda text: _FILE_NAME.fullmatch(text.strip())),
        "A name as files have (IMG_0042, red_car_3), or one that ends in .jpg and the like.",
        "Write a caption, or remove it.",
    ),
    Check(
        "repeated_caption",
        "Same caption on many pictures",
        lambda captions: np.isin(_hashes(captions), captions.counted.repeated),
        "The caption of 5 pictures or more: nothing can tell which of them it belongs to, and it is a wrong negative "
        "for all the others.",
        "Say what sets each apart, or keep one of them.",
    ),
    Check(
        "dark",
        "Dark picture",
        lambda brightness: brightness < DARK,
        "99 of 100 pixels are below 32 % of full brightness.",
        "Brighten it, or remove the pair where nothing can be made out.",
        "brightness",
    ),
    Check(
        "blurred",
        "Blurred picture",
        lambda sharpness: sharpness < BLURRED,
        "No edge is narrower than about a sixtieth of the picture's side: blurred even at the size that encoders see.",
        "Remove the pair where nothing can be made out.",
        "sharpness",
    ),
    Check(
        "uniform",
        "Nearly uniform picture",
        lambda contrast: contrast < UNIFORM,
        "Every colour varies by less than 2 of 255 levels: as good as blank.",
        "Remove the pair.",
        "contrast",
    ),
    Check(
        "tiny",
        "Tiny picture",
        lambda shorter: shorter < TINY,
        "Shorter side below 64 pixels: encoders look at 192 and more.",
        "Find a larger copy, or remove the pair.",
        "shorter",
    ),
    Check(
        "lookalike",
        "Look-alikes",
        lambda clusters: np.bincount(clusters, minlength=len(clusters))[clusters] > 1,
        "The same picture again, rescaled or compressed anew: a twin in training hides memorization, and counts twice.",
        "Judge each group side by side: keep one, or keep all.",
        "clusters",
    ),
)
CHECKS = {check.name: check for check in _CHECKS}


def check_captions(captions: Captions) -> dict[str, np.ndarray]:
    """Return what each check of captions finds, bool [n_captions], by its name; none for what is unknown."""
    checks = [check for check in _CHECKS if check.of == "captions"]
    return {check.name: check.find(captions) for check in checks if check.needs != "cut" or captions.cut is not None}


def check_table(captions: Captions, pictures: Pictures, *, pairs: int) -> pd.DataFrame:
    """Return one row a pair: true or false for each check, null where it is unknown, and the measured values."""
    flags, columns = check_captions(captions), dict[str, Any]()
    for check in _CHECKS:
        values = flags.get(check.name) if check.of == "captions" else getattr(pictures, check.needs)
        if values is None:
            columns[check.name] = None
        elif check.of == "captions":
            columns[check.name] = np.bincount(captions.owner, weights=values, minlength=pairs) > 0
        else:
            columns[check.name] = check.find(values)
    table = pd.DataFrame(columns | {name: getattr(pictures, name) for name in VALUES}, index=range(pairs))
    return table.astype(dict.fromkeys(CHECKS, "boolean") | dict.fromkeys(VALUES, "float32"))
