"""Checks of captions and pictures (small squares of them) that need no model, each with its help
and advice."""

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

VALUES = ("brightness", "contrast", "sharpness")  # measurements of pictures in the table

# a caption with fewer of either is short
SHORT_WORDS = 2
SHORT_LETTERS = 6
REPEATED = 5  # pictures of one caption, from which it counts as repeated
RARE_SCRIPT = 0.05  # a script is rare below this share of the captions
ODD_SHARE = 0.5  # of a caption's letters and digits, in words of no language
_DARK = 0.32  # of full brightness, below which 99 of 100 pixels are (the threshold of cleanvision)
BLURRED = 0.2  # see `measure`: no edge is narrower than about a sixtieth of the picture's side
# grey levels: a blank page with the noise of JPEG has about 1, thin lines on white 2.5 and more
UNIFORM = 2.0
TINY = (
    64  # pixels: towers read 192 and more, where each pixel of a tiny picture becomes nine or more
)

_BLOCK = 256  # squares in memory
_BRIGHTNESS = np.array(
    [0.241, 0.691, 0.068], np.float32
)  # weights of squared RGB in perceived brightness (HSP)
_MARKUP = re.compile(
    r"</?[a-z][a-z0-9]*(?:\s[^<>]*|/)?>|<!--|&(?:#\d+|#x[0-9a-f]+|[a-z][a-z0-9]+);"
    r"|https?://|\bwww\.|\[\[|\]\(",
    re.I,
)
_FILE_NAME = re.compile(
    r"""\S.*\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|heic|avif)
    | (?:img|dsc[nf]?|pict?|mvi|gopr|dji|pxl|wp|scan|screenshot|image|photo|picture|untitled
      |unnamed|download)
      [\s_-]*[(]?[\d_-]*[)]?  # names that cameras and browsers give
    | p\d{6,}
    | [^\W_]+(?:_[^\W_]+)+  # words joined by underscores""",
    re.I | re.X,
)
_WORD = re.compile(r"[^\W_]+")
_SAME = re.compile(r"(\D)\1{3}")  # a letter or sign four times
_CONSONANTS = re.compile(r"[^aeiouy]{7}")  # `Knightsbridge` has six
_SWITCHES = re.compile(r"(?<=\d)(?=[a-z])|(?<=[a-z])(?=\d)")
_TWICE_ENCODED = re.compile(
    "[\u00c2-\u00f4][\u0080-\u00bf\u0152-\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]{1,3}"
)
_CONTROLS = re.compile("[\ufffd\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")
_WITHOUT_SPACES = ("CJK", "THAI", "LAO", "KHMER", "MYANMAR")
_ONE_SCRIPT = dict.fromkeys(
    ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "BOPOMOFO", "IDEOGRAPHIC"), "CJK"
)


@dataclass(frozen=True, eq=False)
class Frequencies:
    """Rare scripts and repeated captions of a data set."""

    rare_scripts: frozenset[str]
    repeated: np.ndarray  # int64 [n_repeated], hashes


@dataclass(frozen=True)
class Captions:
    """The captions of a data set or of a block of its pairs."""

    texts: Sequence[str]
    owner: np.ndarray  # int64 [n_captions], the pair of each
    cut: np.ndarray | None = (
        None  # bool [n_captions], longer than the text tower reads; None for an unknown tower
    )
    frequencies: Frequencies | None = (
        None  # of the data set; None computes them from these captions
    )

    @functools.cached_property
    def data_set(self) -> Frequencies:
        """Return the frequencies of the data set."""
        return self.frequencies or caption_frequencies([self])

    @classmethod
    def from_pairs(cls, captions: Sequence[Sequence[str]]) -> "Captions":
        """Flatten the lists of captions of pairs."""
        owner = np.repeat(np.arange(len(captions)), [len(texts) for texts in captions])
        return cls([text for texts in captions for text in texts], owner)


def caption_frequencies(blocks: Iterable[Captions]) -> Frequencies:
    """Count scripts and equal captions over all captions, a block of pairs at a time."""
    scripts = Counter[str]()
    hashes = [np.empty(0, np.int64)]
    for block in blocks:
        scripts.update(filter(None, map(main_script, block.texts)))
        hashes.append(
            np.unique(np.stack([block.owner, _hashes(block)]), axis=1)[1]
        )  # once for each pair
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    rare = frozenset(
        script for script, count in scripts.items() if count < RARE_SCRIPT * scripts.total()
    )
    return Frequencies(rare, values[counts >= REPEATED])


def _hashes(captions: Captions) -> np.ndarray:
    """Return the hash of each caption without case and spaces, int64 [n_captions]; valid in this
    process."""
    return np.array([hash(" ".join(text.casefold().split())) for text in captions.texts], np.int64)


def main_script(text: str) -> str:
    """Return the Unicode name of the script of most letters; empty for a text without letters."""
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
    """Count words and letters; in scripts without spaces, such as Chinese, two letters count as a
    word."""
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
    odd = sum(len(word) for word in words if _is_odd_word(word))
    return odd > 0 and odd >= ODD_SHARE * sum(map(len, words))


@functools.lru_cache(maxsize=1 << 16)
def _is_odd_word(word: str) -> bool:
    """Check for one letter four times, three switches between letters and digits, seven consonants
    or no vowel."""
    plain = unicodedata.normalize("NFD", word.casefold())
    plain = (
        plain
        if plain.isascii()
        else "".join(letter for letter in plain if not unicodedata.combining(letter))
    )
    if _SAME.search(plain) or len(_SWITCHES.findall(plain)) >= 3:
        return True
    if not (plain.isascii() and plain.isalpha()) or word.isupper():
        return False
    return bool(_CONSONANTS.search(plain)) or (len(plain) >= 5 and not set(plain) & set("aeiouy"))


@dataclass(frozen=True)
class Pictures:
    """Measurements of the pictures of pairs, arrays [n_pairs]; None if unknown."""

    shorter: np.ndarray | None = None  # pixels of the shorter side
    clusters: np.ndarray | None = None  # the first row of each cluster of near-duplicates
    brightness: np.ndarray | None = None  # from 0 to 1: the 99th percentile of the pixels
    contrast: np.ndarray | None = (
        None  # grey levels: standard deviation of the channel that varies most
    )
    sharpness: np.ndarray | None = (
        None  # of the strongest edges, see `measure`; lower is more blurred
    )


def measure(
    gather: Callable[[np.ndarray], np.ndarray], shape: np.ndarray, *, padded: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measure brightness, contrast and sharpness of small squares, see `Pictures`, float32
    [n_pairs] each.

    Sharpness is the 99th percentile of the absolute Laplacian of the grey picture over the range
    from its 1st to its 99th percentile. For a step blurred by a Gaussian of s pixels it is 0.24 /
    s², so 0.2 means 1.1 pixels. It is infinite for a nearly uniform picture, which has no edges.

    Args:
        gather: returns the squares of rows, uint8 [n, size, size, 3].
        shape: width and height of each original, int [n_pairs, 2].
        padded: squares have white margins, which are not measured.
    """
    values = np.empty((3, len(shape)), np.float32)
    for start in range(0, len(shape), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(shape)))
        squares = gather(rows)
        if not padded:
            values[:, rows] = _measure_block(squares)
            continue
        for row, square in zip(rows.tolist(), squares, strict=True):
            size = len(square)
            sides = shape[row]
            wide, high = (max(1, round(side * size / max(*sides, 1))) for side in sides)
            top = (size - high) // 2
            left = (size - wide) // 2
            inner = square[top : top + high, left : left + wide]
            thick = np.pad(
                inner, ((0, max(0, 3 - high)), (0, max(0, 3 - wide)), (0, 0)), mode="edge"
            )
            values[:, row] = _measure_block(thick[None])[:, 0]
    return values[0], values[1], values[2]


def _measure_block(squares: np.ndarray) -> np.ndarray:
    """Measure pictures of one size, uint8 [n, height, width, 3]: float32 [3, n]."""

    def percentile(
        values: np.ndarray, share: int
    ) -> np.ndarray:  # three times as fast as np.percentile
        flat = values.reshape(len(values), -1)
        rank = round((flat.shape[1] - 1) * share / 100)
        return np.partition(flat, rank, axis=1)[:, rank]

    planes = np.ascontiguousarray(
        squares.transpose(3, 0, 1, 2), np.float32
    )  # numpy is slow along a short last axis
    grey = planes.mean(axis=0)
    laplacian = np.abs(
        4 * grey[:, 1:-1, 1:-1]
        - grey[:, :-2, 1:-1]
        - grey[:, 2:, 1:-1]
        - grey[:, 1:-1, :-2]
        - grey[:, 1:-1, 2:]
    )
    brightness = np.sqrt(percentile(np.tensordot(_BRIGHTNESS, np.square(planes), 1), 99)) / 255
    contrast = planes.reshape(*planes.shape[:2], -1).std(axis=2).max(axis=0)
    low = percentile(grey, 1)
    high = percentile(grey, 99)
    sharpness = np.where(
        contrast < UNIFORM, np.inf, percentile(laplacian, 99) / np.maximum(high - low, 1)
    )
    return np.stack([brightness, contrast, sharpness])


@dataclass(frozen=True)
class Check:
    """One check of pictures or captions; a pair has it if its picture or one of its captions
    has."""

    name: str
    label: str
    find: Callable[
        [Any], np.ndarray
    ]  # Captions → bool [n_captions], or a field of Pictures → bool [n_pairs]
    help: str
    advice: str
    needs: str = ""  # the field of Captions or Pictures that the check needs

    @property
    def of(self) -> str:
        """Return captions or pictures."""
        return "pictures" if self.needs in Pictures.__dataclass_fields__ else "captions"


def _each(matches: Callable[[str], object]) -> Callable[[Captions], np.ndarray]:
    return lambda captions: np.array([bool(matches(text)) for text in captions.texts], bool)


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
        "One word, or fewer than 6 characters: it fits many pictures. (DataComp's basic filter "
        "requires more than two "
        "words.)",
        "Write a longer caption, unless one word is enough.",
    ),
    Check(
        "long_caption",
        "Caption cut off",
        lambda captions: captions.cut,
        "Longer than the limit of this audit's text encoder, which ignores the rest.",
        "Begin with the content of the picture, or shorten the caption.",
        "cut",
    ),
    Check(
        "markup",
        "Markup or web address",
        _each(_MARKUP.search),
        "Tags or entities of HTML, links of a wiki or of Markdown, web addresses: a text encoder "
        "reads them as words.",
        "Remove them with find and replace.",
    ),
    Check(
        "gibberish",
        "Gibberish",
        _each(_is_gibberish),
        "Letters decoded wrongly (Ã© for é), or mostly words of no language: without vowels, "
        "with one letter four "
        "times, or with letters and digits mixed.",
        "Write a new caption, or remove the pair.",
    ),
    Check(
        "other_script",
        "Another script",
        lambda captions: np.array(
            [main_script(text) in captions.data_set.rare_scripts for text in captions.texts], bool
        ),
        "Mostly in a script of fewer than 5 % of the captions: encoders learn little of it.",
        "Translate it, or remove it.",
    ),
    Check(
        "file_name",
        "File name",
        _each(lambda text: _FILE_NAME.fullmatch(text.strip())),
        "A typical file name (IMG_0042, red_car_3), or a text that ends in .jpg or similar.",
        "Write a caption, or remove it.",
    ),
    Check(
        "repeated_caption",
        "Same caption on many pictures",
        lambda captions: np.isin(_hashes(captions), captions.data_set.repeated),
        "The caption of 5 pictures or more: it describes none of them in particular, and is a "
        "false negative for the "
        "others.",
        "Describe the differences, or keep one pair.",
    ),
    Check(
        "dark",
        "Dark picture",
        lambda brightness: brightness < _DARK,
        "99 of 100 pixels are below 32 % of full brightness.",
        "Brighten it, or remove the pair if nothing is recognizable.",
        "brightness",
    ),
    Check(
        "blurred",
        "Blurred picture",
        lambda sharpness: sharpness < BLURRED,
        "No edge is narrower than about a sixtieth of the picture's side: blurred even at the "
        "size that encoders read.",
        "Remove the pair if nothing is recognizable.",
        "sharpness",
    ),
    Check(
        "uniform",
        "Nearly uniform picture",
        lambda contrast: contrast < UNIFORM,
        "Every colour varies by less than 2 of 255 levels: practically blank.",
        "Remove the pair.",
        "contrast",
    ),
    Check(
        "tiny",
        "Tiny picture",
        lambda shorter: shorter < TINY,
        "Shorter side below 64 pixels: encoders read 192 and more.",
        "Find a larger copy, or remove the pair.",
        "shorter",
    ),
    Check(
        "near_duplicate",
        "Near-duplicates",
        lambda clusters: np.bincount(clusters, minlength=len(clusters))[clusters] > 1,
        "A rescaled or recompressed copy of another picture: copies in training hide "
        "memorization, and count twice.",
        "Compare each group: keep one, or keep all.",
        "clusters",
    ),
)
CHECKS = {check.name: check for check in _CHECKS}


def check_captions(captions: Captions) -> dict[str, np.ndarray]:
    """Return the flags of each check of captions, bool [n_captions], by name, without checks that
    cannot be done."""
    checks = [check for check in CHECKS.values() if check.of == "captions"]
    return {
        check.name: check.find(captions)
        for check in checks
        if check.needs != "cut" or captions.cut is not None
    }


def check_table(captions: Captions, pictures: Pictures, *, pairs: int) -> pd.DataFrame:
    """Return one row a pair: true or false for each check, null if unknown, and the measured
    values."""
    columns = dict[str, Any].fromkeys(CHECKS)
    for name, flags in check_captions(captions).items():
        columns[name] = np.bincount(captions.owner, weights=flags, minlength=pairs) > 0
    for check in CHECKS.values():
        if check.of == "pictures" and (values := getattr(pictures, check.needs)) is not None:
            columns[check.name] = check.find(values)
    table = pd.DataFrame(
        columns | {name: getattr(pictures, name) for name in VALUES}, index=range(pairs)
    )
    return table.astype(dict.fromkeys(CHECKS, "boolean") | dict.fromkeys(VALUES, "float32"))
