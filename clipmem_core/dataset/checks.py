"""Checks of captions and pictures (small squares of them) that need no model, each with its help
and advice in checks.json: a pattern there is a check of captions."""

import contextlib
import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy

from clipmem_core.dataset.languages import language_of, main_script
from clipmem_core.utils.io import read_json
from clipmem_core.utils.ragged import Ragged

VALUES = ("brightness", "contrast", "sharpness")  # measurements of pictures in the table

# a caption with fewer of either is short
SHORT_WORDS = 2
SHORT_LETTERS = 6
REPEATED = 5  # pictures of one caption, from which it counts as repeated
RARE_SCRIPT = 0.05  # a script is rare below this share of the captions
OTHER_LANGUAGE = 0.25  # a language other than the most common is another below this share
ODD_SHARE = 0.5  # of a caption's letters and digits, in words of no language
_DARK = 0.32  # of full brightness, below which 99 of 100 pixels are (the threshold of cleanvision)
# see `measure_pictures`: no edge is narrower than about a sixtieth of the picture's side
BLURRED = 0.2
# grey levels: a blank page with the noise of JPEG has about 1, thin lines on white 2.5 and more
UNIFORM = 2.0
# pixels: towers read 192 and more, where each pixel of a tiny picture becomes nine or more
TINY = 64

_BLOCK = 256  # squares in memory
# weights of squared RGB in perceived brightness (HSP)
_BRIGHTNESS = np.array([0.241, 0.691, 0.068], np.float32)
_FILE_NAME = re.compile(
    r"""\S.*\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|heic|avif)
    | (?:img|dsc[nf]?|pict?|mvi|gopr|dji|pxl|wp|scan|screenshot|image|photo|picture|untitled
      |unnamed|download)
      [\s_-]*[(]?[\d_-]*[)]?  # names that cameras and browsers give
    | p\d{6,}
    | [^\W_]+(?:_[^\W_]+)+  # words joined by underscores""",
    re.I | re.X,
)
_TAGS = re.compile(r"</?[a-z][a-z0-9]*(?:\s[^<>]*|/)?>|<!--|<!doctype|\[\[|\]\(", re.I)
# Texts of captioning services, patterns by form in service_texts.json. ACT and THING stand for:
_ACT = (
    "(?:see|view|open|load|read|identify|recogni[sz]e|describe|provide|generate|create|"
    "assist|help|access|process|fulfil+|analy[sz]e|interpret|comply|caption|comment|answer|fetch|"
    "download|decode|find|parse|display)"
)
_THING = (
    "(?:image|picture|photo|photograph|caption|description|content|text|message|response|url|file)"
)
_SERVICE_TEXTS = read_json(Path(__file__).with_name("service_texts.json"), dict[str, list[str]])
_MODEL_OUTPUT = re.compile(
    "|".join(chain(*_SERVICE_TEXTS.values())).replace("ACT", _ACT).replace("THING", _THING), re.I
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


@dataclass(frozen=True)
class Captions:
    """The captions of a data set."""

    texts: Sequence[str]
    owner: np.ndarray  # int64 [n_captions], the pair of each
    # bool [n_captions], longer than the text tower reads; None for an unknown tower
    cut: np.ndarray | None = None

    @classmethod
    def from_pairs(cls, captions: Sequence[Sequence[str]]) -> "Captions":
        """Flatten the lists of captions of pairs."""
        return cls([text for texts in captions for text in texts], Ragged.of_lists(captions).owner)

    @functools.cached_property
    def other_languages(self) -> np.ndarray:
        """Return the language of each caption that differs from that of its pair or data set, empty
        for the others, str [n_captions]."""
        languages = pd.Series(map(language_of, self.texts), dtype=object).replace("", None)
        share = languages.map(languages.value_counts(normalize=True))
        is_rare = (share < OTHER_LANGUAGE) & (share < share.max())
        in_pair = languages.groupby(self.owner).transform("count")
        same = languages.groupby([self.owner, languages]).transform("size")
        return np.where((2 * same < in_pair) | is_rare, languages.fillna(""), "")


def _has_rare_script(captions: Captions) -> np.ndarray:
    scripts = pd.Series(map(main_script, captions.texts), dtype=object).replace("", None)
    return (scripts.map(scripts.value_counts(normalize=True)) < RARE_SCRIPT).to_numpy()


def _is_repeated(captions: Captions) -> np.ndarray:
    hashes = pd.Series(caption_hashes(captions))
    pairs = pd.Series(captions.owner)
    return (pairs.groupby(hashes).transform("nunique") >= REPEATED).to_numpy()


def caption_hashes(captions: Captions) -> np.ndarray:
    """Return the hash of each caption without case and spaces, int64 [n_captions]; valid in this
    process."""
    return np.array([hash(" ".join(text.casefold().split())) for text in captions.texts], np.int64)


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
    letters = unicodedata.normalize("NFD", word.casefold())
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    if _SAME.search(plain) or len(_SWITCHES.findall(plain)) >= 3:
        return True
    if not (plain.isascii() and plain.isalpha()) or word.isupper():
        return False
    return bool(_CONSONANTS.search(plain)) or (len(plain) >= 5 and not set(plain) & set("aeiouy"))


@dataclass(frozen=True)
class PictureMeasures:
    """Measurements of the pictures of pairs, arrays [n_pairs]; None if unknown."""

    shorter: np.ndarray | None = None  # pixels of the shorter side
    clusters: np.ndarray | None = None  # the first row of each cluster of near-duplicates
    brightness: np.ndarray | None = None  # from 0 to 1: the 99th percentile of the pixels
    # grey levels: standard deviation of the channel that varies most
    contrast: np.ndarray | None = None
    # of the strongest edges, see `measure_pictures`; lower is more blurred
    sharpness: np.ndarray | None = None


def measure_pictures(
    gather: Callable[[np.ndarray], np.ndarray], shape: np.ndarray, *, padded: bool
) -> np.ndarray:
    """Return brightness, contrast and sharpness of small squares, see `PictureMeasures`, float32
    [3, n_pairs].

    Sharpness is the 99th percentile of the absolute Laplacian of the grey picture over the range
    from its 1st to its 99th percentile. For a step blurred by a Gaussian of s pixels it is 0.24 /
    s², so 0.2 means 1.1 pixels. It is infinite for a nearly uniform picture, which has no edges.

    Args:
        gather: returns the squares of rows, uint8 [n, size, size, 3].
        shape: width and height of each original, int [n_pairs, 2].
        padded: squares have white margins, which are not measured.
    """
    values = list[tuple[float, float, float]]()
    for rows in np.split(np.arange(len(shape)), range(_BLOCK, len(shape), _BLOCK)):
        for square, original in zip(gather(rows), shape[rows], strict=True):
            size = len(square)
            inner = original * size / max(original) if padded else [size, size]
            width, height = np.maximum(3, np.round(inner).astype(int))
            top = (size - height) // 2
            left = (size - width) // 2
            values.append(_measure(square[top : top + height, left : left + width]))
    return np.array(values, np.float32).reshape(-1, 3).T


def _measure(picture: np.ndarray) -> tuple[float, float, float]:
    """Return brightness, contrast and sharpness of a picture, uint8 [height, width, 3]."""
    pixels = picture.astype(np.float64)
    grey = pixels.mean(axis=2)
    bends = np.abs(scipy.ndimage.laplace(grey)[1:-1, 1:-1])
    perceived, bend = (
        np.percentile(values, 99, method="nearest")
        for values in (np.square(pixels) @ _BRIGHTNESS, bends)
    )
    low, high = np.percentile(grey, [1, 99], method="nearest")
    contrast = pixels.std(axis=(0, 1)).max()
    sharpness = np.inf if contrast < UNIFORM else bend / max(high - low, 1)
    return np.sqrt(perceived) / 255, contrast, sharpness


@dataclass(frozen=True)
class DataCheck:
    """One check of pictures or captions; a pair has it if its picture or one of its captions
    has."""

    name: str
    # Captions → bool [n_captions], or a field of PictureMeasures → bool [n_pairs]
    find: Callable[[Any], np.ndarray]
    label: str
    help: str
    advice: str
    of: str = "captions"  # or pictures
    needs: str = ""  # the field of Captions or PictureMeasures that the check needs


def _matches(find: Callable[[str], object], captions: Captions) -> np.ndarray:
    return np.array([bool(find(text)) for text in captions.texts], bool)


# The first that a text fails is why it is no caption, see `not_captions`
_NOT_CAPTIONS: dict[str, Callable[[str], object]] = {
    "model_output": _MODEL_OUTPUT.search,
    "file_name": lambda text: _FILE_NAME.fullmatch(text.strip()),
    "markup": _TAGS.search,
    "gibberish": _is_gibberish,
    "empty_caption": _is_empty,
}
_TEXT_CHECKS = _NOT_CAPTIONS | {"short_caption": _is_short}
_FINDERS: dict[str, Callable[[Any], Any]] = {
    **{name: functools.partial(_matches, find) for name, find in _TEXT_CHECKS.items()},
    "long_caption": lambda captions: captions.cut,
    "other_script": _has_rare_script,
    "other_language": lambda captions: captions.other_languages != "",
    "repeated_caption": _is_repeated,
    "dark": lambda brightness: brightness < _DARK,
    "blurred": lambda sharpness: sharpness < BLURRED,
    "uniform": lambda contrast: contrast < UNIFORM,
    "tiny": lambda shorter: shorter < TINY,
    "near_duplicate": lambda clusters: np.bincount(clusters)[clusters] > 1,
}
CHECKS = dict[str, DataCheck]()
for name, facts in read_json(Path(__file__).with_name("checks.json")).items():
    if pattern := facts.pop("pattern", ""):  # a caption has the check if the pattern occurs in it
        _FINDERS[name] = functools.partial(_matches, re.compile(pattern, re.I).search)
    CHECKS[name] = DataCheck(name, _FINDERS[name], **facts)


def caption_flags(captions: Captions) -> dict[str, np.ndarray]:
    """Return the flags of each check of captions, bool [n_captions], by name, without checks that
    cannot be done."""
    return {
        name: check.find(captions)
        for name, check in CHECKS.items()
        if check.of == "captions" and (check.needs != "cut" or captions.cut is not None)
    }


def not_captions(texts: Sequence[str]) -> np.ndarray:
    """Return the name of the check that each text fails, empty for a text that may be a caption,
    object [n_texts].

    Of markup only tags count. A check other than `model_output` that more than half of the texts
    fail does not count: it describes the style of the data set.
    """
    captions = Captions.from_pairs([texts])
    names = np.full(len(texts), "", object)
    for name, find in _NOT_CAPTIONS.items():
        found = _matches(find, captions) & (names == "")
        if name == "model_output" or 2 * found.sum() <= len(texts):
            names[found] = name
    return names


def check_table(captions: Captions, pictures: PictureMeasures, *, pairs: int) -> pd.DataFrame:
    """Return one row a pair: true or false for each check, null if unknown, and the measured
    values."""
    columns = dict[str, Any].fromkeys(CHECKS)
    for name, flags in caption_flags(captions).items():
        columns[name] = np.bincount(captions.owner, weights=flags, minlength=pairs) > 0
    for name, check in CHECKS.items():
        values = getattr(pictures, check.needs) if check.of == "pictures" else None
        if values is not None:
            columns[name] = check.find(values)
    table = pd.DataFrame(
        columns | {name: getattr(pictures, name) for name in VALUES}, index=range(pairs)
    )
    return table.astype(dict.fromkeys(CHECKS, "boolean") | dict.fromkeys(VALUES, "float32"))
