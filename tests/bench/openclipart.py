"""Fetches the clip art of data/results, a real and noisy set, from packages of Debian.

    python -m tests.bench.openclipart

It lies in data/sets/openclipart. The caption of a picture comes from its Dublin Core metadata and
its file name. Small text encoders read only 16 to 24 tokens, so distinctive words come first and no
word is repeated: the title, then new words of the file name, the keywords and the description. A
title shared by many pictures comes after the file name.
"""

import contextlib
import html
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from clipmem_core.config import SETS, data_folder
from clipmem_core.utils.io import InputError, read_json, replacing_folder

PACKAGES = ["openclipart-png", "openclipart-svg"]
_CAPTIONS_FILE = "captions.jsonl"
_LONGEST_FIELD = 4000  # characters of a metadata field
# pictures of so many different names with one title or description: it describes none of them
_SHARED_BY = 3
_DESCRIPTION_WORDS = 12  # of a description in a caption


def fetch_openclipart(data: Path, say: Callable[[str], None]) -> Path:
    """Fetch OpenClipart from Debian's archive if it is not in `sets/`, and return its folder with a
    captions.jsonl."""
    target = data / SETS / "openclipart"
    if (target / _CAPTIONS_FILE).is_file():
        return target
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise InputError("apt-get and dpkg-deb are needed, found on Debian and Ubuntu only")
    if target.exists():
        raise InputError(f"{target} exists without {_CAPTIONS_FILE}: move it away and fetch again")
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(target) as folder:
        work = folder / "packages"
        work.mkdir()
        for package in PACKAGES:
            say(f"downloading and unpacking {package}")
            # As root, apt would give the download to a user who may not write here, and warn.
            options = ["-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::http::Timeout=30"]
            _run("apt-get", *options, "download", package, folder=work)
            archive = next(work.glob(f"{package}_*.deb"))
            _run("dpkg-deb", "-x", archive.name, "unpacked", folder=work)
            archive.unlink()
        share = work.resolve() / "unpacked" / "usr" / "share" / "openclipart"
        root = share / "png"
        files = [
            file
            for file in sorted(root.rglob("*.png"), key=Path.as_posix)
            # without links that leave the folder
            if file.resolve().is_relative_to(root) and file.is_file()
        ]
        say(f"captions of {len(files):,} pictures")
        captions = write_captions([(file.stem, _metadata(file, share)) for file in files])
        lines = []
        for file, caption in zip(files, captions, strict=True):
            path = file.relative_to(root)
            copy = folder / "images" / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            label = path.parts[0] if len(path.parts) > 1 else None
            row = {"image": f"images/{path.as_posix()}", "captions": [caption], "label": label}
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        (folder / _CAPTIONS_FILE).write_text("".join(lines), encoding="utf-8")
        shutil.rmtree(work)
    return target


def _run(*command: str, folder: Path) -> None:
    process = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if process.returncode:
        reason = " ".join(process.stderr.split())[-300:] or "no reason given"
        raise InputError(
            f"{command[0]} failed on {command[-1]} ({reason}): check the network and try `sudo "
            "apt-get update`"
        )


def _metadata(png: Path, share: Path) -> "DublinCore":
    """Read the metadata of the drawing that a picture was made from."""
    svg = share / "svg" / png.relative_to(share / "png").with_suffix(".svg")
    return read_dublin_core(svg.read_bytes() if svg.is_file() else b"")


@dataclass
class DublinCore:
    """The metadata of a picture; `artists` are creators, publishers and right holders."""

    title: str = ""
    description: str = ""
    keywords: list[str] = field(default_factory=list)
    artists: list[str] = field(default_factory=list)


def read_dublin_core(svg: bytes) -> DublinCore:
    """Read the Dublin Core metadata of an SVG file, up to the first fault of a broken or unsafe
    file."""
    core = DublinCore()
    path = [""]
    pieces = list[str]()

    def start(name: str, _attributes: dict[str, str]) -> None:
        # prefixes differ from file to file, and some are never declared
        path.append(name.rpartition(":")[2])
        pieces.clear()

    def end(_name: str) -> None:
        text = " ".join("".join(pieces)[:_LONGEST_FIELD].split())
        parent, name = path[-2:]
        if text and parent == "Work" and name in ("title", "description"):
            setattr(core, name, getattr(core, name) or text)
        elif text and (parent, name) == ("Agent", "title"):
            core.artists.append(text)
        elif text and name == "li" and "subject" in path:
            core.keywords.append(text)
        pieces.clear()
        path.pop()

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = pieces.append
    # with a default handler expat expands no entities in text
    parser.DefaultHandler = lambda _data: None
    with contextlib.suppress(expat.ExpatError, ValueError, LookupError):
        parser.Parse(svg, True)
    return core


_ADDRESS = re.compile(r"\S+@\S+|https?://\S+|www\.\S+", re.I)
_CONTROLS = re.compile(r"(?!\s)[\x00-\x1f\x7f-\x9f]")
_DATED = re.compile(r"\([^()]*\b(?:19|20)\d\d\)|,? (?:19|20)\d\d\.?$")
_CLIPART_BY = re.compile(r"^clip ?art by .*? - ", re.I)
_NOISE = re.compile(
    r"\bpart of (?:the )?|\bopen ?clip ?art\b|\bclip ?arts?\b|\bcollection\b|\bvarious\b|\bsvg\b",
    re.I,
)
_VERSION = re.compile(r"(?<![a-z0-9])v?\d+\.\d+|\.svg\b", re.I)
_SEPARATORS = re.compile(r"[\s_\-.,;:()\[\]&]+|(?<=[a-z])(?=[A-Z][a-z])")
_COUNTER = re.compile(r"0\d+[a-z]?")
_NUMBERED = re.compile(r"\A([^\W\d_]{3,})\d+\Z")
_PERL_HASH = re.compile(r"(?:hash)?\(?0x[0-9a-f]+\)?|hash", re.I)
_ABOUT_THE_FILE = re.compile(
    r"@|://|www\.|hash\(|\b(?:made|created|traced|converted|released|inkscape|public domain|"
    r"clip ?art|contact|eps|enjoy|licen[sc]e|part of)\b",
    re.I,
)
# keywords without information, organisations that sign as artists, and words of little meaning
_WORDS: dict[str, list[str]] = read_json(Path(__file__).with_name("openclipart_words.json"))


def write_captions(pictures: Sequence[tuple[str, DublinCore]]) -> list[str]:
    """Write a caption for each picture of a collection from its name without suffix and its
    metadata."""
    names = defaultdict[tuple[str, str], set[tuple[str, ...]]](set)
    for name, core in pictures:
        for kind in ("title", "description"):
            names[kind, getattr(core, kind)].add(tuple(name_words(name.lower())))
    shared = {key for key, different in names.items() if len(different) >= _SHARED_BY}
    return [_caption(name, core, shared) for name, core in pictures]


def name_words(name: str) -> list[str]:
    """Return the words of a file name without suffix, versions and running numbers."""
    pieces = [piece for piece in _SEPARATORS.split(_VERSION.sub(" ", name)) if piece]
    words = [_NUMBERED.sub(r"\1", piece) for piece in pieces]
    words = [
        word
        for word in words
        if len(word) < 5 or not "openclipart".startswith(word.lower())
        if not _COUNTER.fullmatch(word)
    ]
    return list(dict.fromkeys(words)) or pieces or [name]


def _caption(name: str, core: DublinCore, shared: set[tuple[str, str]]) -> str:
    """Write the caption of one picture; `shared`: titles and descriptions of many pictures."""
    title_shared = ("title", core.title) in shared
    title = _clean_title(core.title, core.artists)
    if title_shared and _CLIPART_BY.match(core.title):
        title = ""
    words = _without_signature(name_words(name), core.artists, title)
    if title and not title_shared:
        caption = _Caption(title.split())
        caption.add([word for word in words if len(word) > 1], abbreviated=True)
    else:
        caption = _Caption(words)
        caption.add(title.split())
    ignored = {*_WORDS["empty_keywords"], *map(str.lower, core.artists)}
    for keyword in map(_printable, core.keywords):
        if keyword.lower() not in ignored and not _PERL_HASH.fullmatch(keyword):
            words = _ADDRESS.sub("", keyword).replace("_", " ").split()
            caption.add(word for word in words if len(word) > 1 and not word.isdigit())
    sentence = re.split(r"(?<=[.!?])\s", _printable(core.description), maxsplit=1)[0]
    if ("description", core.description) not in shared and not _ABOUT_THE_FILE.search(sentence):
        caption.add(sentence.split(), limit=_DESCRIPTION_WORDS)
    return " ".join(caption.words) or name


class _Caption:
    """Words in order, without repeats."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.used = {_key(part) for word in words for part in (word, *_SEPARATORS.split(word))}

    def add(self, words: Iterable[str], *, limit: int = 1000, abbreviated: bool = False) -> None:
        """Add up to `limit` new words; an abbreviated word is not new if a used word starts with or
        contains it."""
        run_together = "".join(map(_key, self.words))
        for word in words:
            bare = word.strip("\"'.,;:!?()[]")
            key = _key(word)
            if not key or key in self.used or bare.lower() in _WORDS["small_words"] or limit == 0:
                continue
            if abbreviated and len(key) >= 4:
                contained = len(key) > 4 and key in run_together
                if contained or any(used.startswith(key) for used in self.used):
                    continue
            self.words.append(bare)
            self.used.add(key)
            limit -= 1


def _clean_title(title: str, artists: list[str]) -> str:
    text = _CLIPART_BY.sub("", _printable(title))
    for artist in artists:
        text = re.sub(rf"\bby {re.escape(artist)}\b.*", "", text, flags=re.I)
    text = _DATED.sub("", _ADDRESS.sub("", text)).strip()
    if text and " " not in text:  # a file name
        text = " ".join(name_words(text))
    text = re.sub(r" 0\d+$", "", text.replace("_", " ").replace(" - ", " "))
    return " ".join(_NOISE.sub(" ", text).split()).strip(" -.,:;")


def _without_signature(words: list[str], artists: list[str], title: str) -> list[str]:
    """Drop the artist's name, often abbreviated, at the end of a file name."""
    names = {_key(word) for artist in artists for word in re.findall(r"[^\W_]+", artist)}
    names -= set(_WORDS["organisations"])
    titled = {_key(word) for word in title.split()}
    keys = [_key(word) for word in words]
    begins = [any(name.startswith(key) for name in names) for key in keys]
    for start in range(1, len(words)):
        first = keys[start]
        rest = range(start + 1, len(words))
        signed = first in names or (len(first) >= 3 and begins[start])
        if signed and first not in titled and all(len(keys[i]) == 1 or begins[i] for i in rest):
            return words[:start]
    return words


def _printable(text: str) -> str:
    """Return the text without entities of HTML, control characters and repeated spaces."""
    return " ".join(_CONTROLS.sub("", html.unescape(text)).split())


def _key(word: str) -> str:
    """Fold case, accents, punctuation and the plural's s, so that forms of a word compare equal."""
    folded = unicodedata.normalize("NFKD", word.casefold())
    key = "".join(c for c in folded if c.isalnum())
    return key[:-1] if len(key) > 3 and key.endswith("s") and not key.endswith("ss") else key


if __name__ == "__main__":
    try:
        print(fetch_openclipart(data_folder(), print))
    except InputError as error:
        sys.exit(str(error))
