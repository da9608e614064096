"""One short caption for each clip-art picture, from its Dublin Core metadata and its file name.

A text encoder of a small model reads the first 16 to 24 tokens, so what tells pictures apart comes first and no word is
said twice: the title, then what the file name, the keywords and the description add. A title that many pictures share
(the name of a collection, a leftover of copying) steps back behind the file name.
"""

import html
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from clipmem_core.pairs.debian.dublin_core import DublinCore

SHARED_BY = 3  # a title or description on pictures with this many different names says nothing of any one of them
DESCRIPTION_WORDS = 12  # at most so many words of a description are added

_ADDRESS = re.compile(r"\S+@\S+|https?://\S+|www\.\S+", re.I)
_DATED = re.compile(r"\([^()]*\b(?:19|20)\d\d\)|,? (?:19|20)\d\d\.?$")
_CLIPART_BY = re.compile(r"^clip ?art by .*? - ", re.I)
_NOISE = re.compile(r"\bpart of (?:the )?|\bopen ?clip ?art\b|\bclip ?arts?\b|\bcollection\b|\bvarious\b|\bsvg\b", re.I)
_NAMELESS = re.compile(r"(?:untitled|unnamed|no ?name|title|new document|drawing|image)[\s\d]*", re.I)
_VERSION = re.compile(r"(?<![a-z0-9])v?\d+\.\d+|\.svg\b", re.I)
_SEPARATORS = re.compile(r"[\s_\-.,;:()\[\]&]+|(?<=[a-z])(?=[A-Z][a-z])")
_COUNTER = re.compile(r"0\d+[a-z]?")
_NUMBERED = re.compile(r"([^\W\d_]{3,})\d+")
_PERL_HASH = re.compile(r"(?:hash)?\(?0x[0-9a-f]+\)?|hash", re.I)
_ABOUT_THE_FILE = re.compile(
    r"@|://|www\.|hash\(|\b(?:made|created|traced|converted|released|inkscape|public domain|clip ?art|contact|eps|"
    r"enjoy|licen[sc]e|part of)\b",
    re.I,
)
_EMPTY_KEYWORDS = frozenset(["unsorted", "clipart", "clip", "clip art", "openclipart", "svg", "inkscape", "vector"])
_ORGANISATIONS = "open clip art clipart library project public domain army navy royal international code of signals the"
_NOT_A_NAME = frozenset(_ORGANISATIONS.split())  # organisations that sign as artists
_GRAMMAR = (
    "a also an and are as at be been by for from has have in is it its may of on or that the there this to was were "
    "with your"
)
_SMALL_WORDS = frozenset(_GRAMMAR.split()) | {"svg"}  # worth no token of their own behind the title


def write_captions(pictures: Iterable[tuple[str, DublinCore]]) -> list[str]:
    """Write the caption of each picture of a collection.

    Args:
        pictures: file name without its suffix, and metadata; all at once, since only the whole shows what is shared.

    Returns:
        One non-empty caption a picture, in order.

    Example:
        >>> write_captions([("grey_cat_ann_lee_01", DublinCore("Cat", "", ["animals", "cat"], ["Ann Lee"]))])
        ['Cat grey animals']
    """
    pictures = list(pictures)
    titles = _shared((core.title, name) for name, core in pictures)
    descriptions = _shared((core.description, name) for name, core in pictures)
    return [
        _caption(name, core, title_shared=core.title in titles, description_shared=core.description in descriptions)
        for name, core in pictures
    ]


def name_words(name: str) -> list[str]:
    """Return the words of a file name (without its suffix), leaving out versions and running numbers.

    Example:
        >>> name_words("bearBrown2_v0.1-small_03")
        ['bear', 'Brown', 'small']
        >>> name_words("007")
        ['007']
    """
    pieces = [piece for piece in _SEPARATORS.split(_VERSION.sub(" ", name)) if piece]
    words = [_NUMBERED.sub(r"\1", piece) if _NUMBERED.fullmatch(piece) else piece for piece in pieces]
    words = [word for word in words if not _COUNTER.fullmatch(word) and not _is_openclipart(word)]
    return list(dict.fromkeys(words)) or pieces or [name]


def _caption(name: str, core: DublinCore, *, title_shared: bool, description_shared: bool) -> str:
    title = "" if title_shared and _CLIPART_BY.match(core.title) else _clean_title(core.title, core.artists)
    words = _unsigned(name_words(name), core.artists, title)
    caption = _Caption()
    if title and not title_shared:
        caption.begin(title)
        caption.add([word for word in words if len(word) > 1], abbreviated=True)
    else:
        caption.begin(" ".join(words))
        caption.add(title.split())
    caption.add(_keyword_words(core))
    if not description_shared:
        caption.add(_description_words(core.description), limit=DESCRIPTION_WORDS)
    return " ".join(caption.words) or name


class _Caption:
    """Words in order, none said twice."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.said: set[str] = set()

    def begin(self, text: str) -> None:
        """Take a text as it is."""
        self.words = text.split()
        self.said = {key for word in self.words for key in (_key(word), *map(_key, _SEPARATORS.split(word)))}

    def add(self, words: Iterable[str], *, limit: int = 1000, abbreviated: bool = False) -> None:
        """Add up to `limit` words that are new; abbreviated ones are also known by their beginning or run together."""
        run_together = "".join(map(_key, self.words))
        for word in words:
            bare, key = word.strip("\"'.,;:!?()[]"), _key(word)
            known = not key or key in self.said or bare.lower() in _SMALL_WORDS
            if abbreviated:
                known = known or (len(key) >= 5 and key in run_together) or (len(key) >= 4 and self._begins(key))
            if not known and limit > 0:
                self.words.append(bare)
                self.said.add(key)
                limit -= 1

    def _begins(self, key: str) -> bool:
        return any(said.startswith(key) for said in self.said)


def _shared(texts: Iterable[tuple[str, str]]) -> set[str]:
    names: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for text, name in texts:
        names[text].add(tuple(name_words(name.lower())))
    return {text for text, different in names.items() if len(different) >= SHARED_BY}


def _clean_title(title: str, artists: list[str]) -> str:
    text = _CLIPART_BY.sub("", _printable(title))
    for artist in artists:
        text = re.sub(rf"\bby {re.escape(artist)}\b.*", "", text, flags=re.I)
    text = _DATED.sub("", _ADDRESS.sub("", text)).strip()
    if " " not in text:  # somebody's file name
        text = " ".join(name_words(text)) if text else ""
    text = re.sub(r" 0\d+$", "", text.replace("_", " ").replace(" - ", " "))
    text = " ".join(_NOISE.sub(" ", text).split()).strip(" -.,:;")
    return "" if _NAMELESS.fullmatch(text) or not any(map(str.isalnum, text)) else text


def _unsigned(words: list[str], artists: list[str], title: str) -> list[str]:
    """Leave out the artist's name, often cut short, at the end of a file name."""
    names = {_key(word) for artist in artists for word in re.split(r"[\W_]+", artist)} - _NOT_A_NAME - {""}
    titled = {_key(word) for word in title.split()}
    keys = [_key(word) for word in words]
    for start in range(1, len(words)):
        first, rest = keys[start], keys[start + 1 :]
        signed = first in names or (len(first) >= 3 and any(name.startswith(first) for name in names))
        if signed and first not in titled and all(len(key) == 1 or _prefixes(key, names) for key in rest):
            return words[:start]
    return words


def _prefixes(key: str, names: Iterable[str]) -> bool:
    return any(name.startswith(key) for name in names)


def _keyword_words(core: DublinCore) -> list[str]:
    artists = {artist.lower() for artist in core.artists}
    kept = [
        keyword
        for keyword in map(_printable, core.keywords)
        if keyword.lower() not in _EMPTY_KEYWORDS | artists and not _PERL_HASH.fullmatch(keyword)
    ]
    words = [word for keyword in kept for word in _ADDRESS.sub("", keyword).replace("_", " ").split()]
    return [word for word in words if len(word) > 1 and not word.isdigit()]


def _description_words(description: str) -> list[str]:
    sentence = re.split(r"(?<=[.!?])\s", _printable(description), maxsplit=1)[0]
    return [] if _ABOUT_THE_FILE.search(sentence) else sentence.split()


def _printable(text: str) -> str:
    text = html.unescape(text)
    return " ".join("".join(c if c.isspace() or unicodedata.category(c) != "Cc" else "" for c in text).split())


def _is_openclipart(word: str) -> bool:
    return len(word) >= 5 and "openclipart".startswith(word.lower())  # file names are cut short


def _key(word: str) -> str:
    """Fold case, accents, punctuation and the plural's s, so that a word is known again."""
    folded = unicodedata.normalize("NFKD", word.casefold())
    key = "".join(c for c in folded if c.isalnum() or c == "+")
    return key[:-1] if len(key) > 3 and key.endswith("s") and not key.endswith("ss") else key
