"""Scripts and languages of captions, and which of them a text tower reads. Languages are ISO 639
codes."""

import functools
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipmem_core.config import ENGLISH_TOWER
from clipmem_core.utils import draws
from clipmem_core.utils.io import read_json

_FACTS = read_json(Path(__file__).with_name("languages.json"))
NAMES: dict[str, str] = _FACTS["names"]
TOWER_LANGUAGES: dict[str, list[str]] = _FACTS["towers"]  # that each built-in text tower reads
ENGLISH = TOWER_LANGUAGES[ENGLISH_TOWER]
_MOSTLY_ENGLISH = 0.9  # share of the captions
_SURE = 0.8  # probability; none of 12,000 English captions has another language above .71
_READ = 2_000  # characters of a caption
_SAMPLE = 5_000  # captions
_JOINED = 20  # short captions that are looked at as one text
_ONE_SCRIPT = dict.fromkeys(
    ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "BOPOMOFO", "IDEOGRAPHIC"), "CJK"
)


def main_script(text: str) -> str:
    """Return the Unicode name of the script of most letters; empty for a text without letters."""
    counts = Counter(_script(letter) for letter in text if letter.isalpha())
    return counts.most_common(1)[0][0] if counts else ""


@functools.lru_cache(maxsize=1 << 16)
def _script(letter: str) -> str:
    first = unicodedata.name(unicodedata.normalize("NFKC", letter)[0], "UNKNOWN").split()[0]
    return _ONE_SCRIPT.get(first, first)


@functools.cache
def _detector() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # reads 4 MB

    detector = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    detector.set_languages(NAMES)
    return detector


# Scores and checks both need the languages of all captions.
@functools.lru_cache(maxsize=1 << 17)
def language_of(text: str) -> str:
    """Return the language of a text; empty if that is uncertain, as of most texts of one word.

    Example:
        >>> language_of("Ein Hund läuft über die Wiese."), language_of("Paris")
        ('de', '')
    """
    language, probability = _detector().classify(text[:_READ])
    return language if probability >= _SURE else ""


def language_shares(texts: Sequence[str]) -> dict[str, float]:
    """Return the share of each language among captions, of a random sample of many, the largest
    first.

    Captions too short to be certain have the language of twenty of them together. Empty if no
    language is certain.
    """
    rows = draws.rng(0, "languages").permutation(len(texts))[:_SAMPLE]
    sample = [texts[row] for row in rows.tolist()]
    languages = list(map(language_of, sample))
    short = [text for text, language in zip(sample, languages, strict=True) if not language]
    for at in range(0, len(short), _JOINED):
        block = short[at : at + _JOINED]
        languages += [language_of(" ".join(block))] * len(block)
    counts = Counter(filter(None, languages))
    return {language: count / counts.total() for language, count in counts.most_common()}


def mostly_english(shares: Mapping[str, float]) -> bool:
    """Tell whether captions are English, or in no certain language."""
    return not shares or shares.get("en", 0.0) >= _MOSTLY_ENGLISH


def is_read(text: str, languages: Sequence[str]) -> bool:
    """Tell whether a tower of some languages (none: unknown) may read a text: false for one that is
    clearly in another."""
    if not languages:
        return True
    if language := language_of(text):
        return language in languages
    return languages != ENGLISH or main_script(text) in ("", "LATIN")


def spaces_words(shares: Mapping[str, float]) -> bool:
    """Tell whether most captions are in languages with spaces between words."""
    return sum(shares.get(language, 0.0) for language in _FACTS["without_spaces"]) < 0.5
