"""The Dublin Core metadata inside an SVG file, as plain words: title, description, keywords and the artists' names.

No file is trusted: nothing is fetched, no entity is expanded that could grow, and a broken file gives what it
said before it broke.
"""

import contextlib
from dataclasses import dataclass, field
from xml.parsers import expat

LONGEST_FIELD = 4000  # characters; a longer field is cut
LONGEST_ENTITY = 300  # characters; honest files only abbreviate namespace addresses


class UnsafeEntity(ValueError):
    """An entity that refers to another one or to another file, or that is very long."""


@dataclass
class DublinCore:
    """What the metadata says of a picture; empty where it says nothing.

    Attributes:
        title: the first title of the work.
        description: the first description of the work.
        keywords: the subject's list, in the file's order.
        artists: names of creators, publishers and right holders.
    """

    title: str = ""
    description: str = ""
    keywords: list[str] = field(default_factory=list)
    artists: list[str] = field(default_factory=list)


def read_dublin_core(svg: bytes) -> DublinCore:
    """Read the Dublin Core metadata of an SVG file.

    Args:
        svg: the file's bytes, in any encoding that its XML declaration names.

    Returns:
        The fields found; all empty for a file that is no XML.

    Example:
        >>> svg = b"<svg><Work><dc:title>Red  kite</dc:title><dc:subject><li>bird</li></dc:subject></Work></svg>"
        >>> read_dublin_core(svg)
        DublinCore(title='Red kite', description='', keywords=['bird'], artists=[])
    """
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.EntityDeclHandler = _check_entity
    parser.DefaultHandler = _ignore  # its presence keeps expat from expanding entities in text
    # Broken, unsafe or in an unknown encoding: the fields closed so far are whole.
    with contextlib.suppress(expat.ExpatError, ValueError, LookupError):
        parser.Parse(svg, True)
    return reader.found


class _Reader:
    """Follows the parser through the file and keeps the text of the fields we want."""

    def __init__(self) -> None:
        self.found = DublinCore()
        self.path: list[str] = []
        self.pieces: list[str] = []
        self.length = 0

    def start(self, name: str, _attributes: dict[str, str]) -> None:
        self.path.append(name.rpartition(":")[2])  # prefixes differ from file to file, and some are never declared
        self.pieces, self.length = [], 0

    def text(self, piece: str) -> None:
        if self.length < LONGEST_FIELD:
            self.pieces.append(piece)
            self.length += len(piece)

    def end(self, _name: str) -> None:
        text = " ".join("".join(self.pieces)[:LONGEST_FIELD].split())
        if text:
            self.keep(text)
        self.pieces, self.length = [], 0
        self.path.pop()

    def keep(self, text: str) -> None:
        parent, name = ["", *self.path][-2:]
        if (parent, name) == ("Work", "title"):
            self.found.title = self.found.title or text
        elif (parent, name) == ("Work", "description"):
            self.found.description = self.found.description or text
        elif (parent, name) == ("Agent", "title"):
            self.found.artists.append(text)
        elif name == "li" and "subject" in self.path:
            self.found.keywords.append(text)


def _check_entity(
    name: str,
    _parameter: bool,
    value: str | None,
    _base: str | None,
    _system: str | None,
    _public: str | None,
    _note: str | None,
) -> None:
    if value is None or len(value) > LONGEST_ENTITY or "&" in value or "%" in value:
        raise UnsafeEntity(f"entity {name} refers to something else or is long")


def _ignore(_data: str) -> None:
    return
