"""Reads pictures with texts of the same name: in folders, with a `.txt` or `.caption` of one
caption a line or a `.json` with a caption, and in WebDataset shards, tar files where `000.jpg`,
`000.txt` and `000.json` make a sample, as img2dataset writes."""

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from clipmem_core.config import SourceOptions
from clipmem_core.dataset import containers
from clipmem_core.dataset.containers import COLUMN_NAMES, TarContent, scan_tar
from clipmem_core.dataset.records import Row, Rows
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError

LABEL = "{label}"
_NO_CAPTION = (
    "no caption file: put a .txt, .caption or .json of the same name beside it, or let class "
    "folders name pictures with --caption-template 'a photo of a {label}'"
)
_SUFFIXES = (".txt", ".caption", ".json")  # of captions; the first one counts
_REPEATS = re.compile(r"\d+_.")  # folders of kohya: 10_sks dog is repeated 10 times, no class
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_LINE_END = re.compile(r"\r\n|\r|\n")
_TEXTS = ("json", "txt", "cls")  # of a sample in a shard


def holds_pictures(root: Path) -> bool:
    """Tell whether a folder has a picture somewhere below."""
    return any(map(containers.is_picture, visible_files(root)))


def holds_captions(root: Path) -> bool:
    """Tell whether a picture of a folder has a text of the same name."""
    files = visible_files(root)
    pictures = {os.path.splitext(name)[0] for name in filter(containers.is_picture, files)}
    return not pictures.isdisjoint(_text_files(files))


def read_folder(root: Path, options: SourceOptions) -> Rows:
    """Read a folder. A picture without a caption file gets the caption of the template, or is
    quarantined; so is a caption file without a picture. The top folders are the labels."""
    template = options.caption_template
    if template and LABEL not in template:
        raise InputError(
            f"--caption-template {template!r} must hold {LABEL}: 'a photo of a {LABEL}'"
        )
    notes = list[str]()

    def rows() -> Iterator[Row]:
        files = visible_files(root)
        texts = _text_files(files)
        used = set[str]()
        for name in filter(containers.is_picture, files):
            stem = os.path.splitext(name)[0]
            used.add(stem)
            yield from _picture_rows(root, name, texts.get(stem, []), options, notes)
        for stem in sorted(texts.keys() - used):
            for text in texts[stem]:
                yield Row(text, kind=c.BAD_PICTURE, reason="no picture of the same name")

    return Rows(root, "folder", rows(), notes=notes)


def _text_files(files: Sequence[str]) -> dict[str, list[str]]:
    """Return the caption files of each path without suffix, the one that counts first."""
    texts = dict[str, list[str]]()
    for suffix in _SUFFIXES:
        for name in files:
            if name.lower().endswith(suffix):
                texts.setdefault(name[: -len(suffix)], []).append(name)
    return texts


def visible_files(root: Path) -> list[str]:
    """List the files below a folder that are not hidden, relative to it, each folder before its
    subfolders; links to folders are not followed."""
    paths = [path.relative_to(root) for path in root.rglob("*") if not path.is_dir()]
    paths.sort(key=lambda path: (path.parent.parts, path.name))
    return [
        path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)
    ]


def _picture_rows(
    root: Path, image: str, texts: Sequence[str], options: SourceOptions, notes: list[str]
) -> Iterator[Row]:
    """Yield the row of a picture, and one for each further text that differs from its first."""
    folders = os.path.dirname(image).split("/")
    label = None if any(map(_REPEATS.match, folders)) else folders[0] or None
    template = options.caption_template
    if not texts and template and label:
        yield Row(image, image, template.replace(LABEL, label.replace("_", " ")), label)
    elif not texts:
        yield Row(image, image, kind=c.BAD_CAPTION, reason=_NO_CAPTION)
    captions = dict[str, list[Any]]()
    faults = dict[str, str]()
    for text in texts:
        try:
            captions[text] = _read_captions(root, text, options, notes)
        except (InputError, OSError) as error:
            faults[text] = containers.reading_fault(error, "caption file")
    used = next(filter(captions.get, captions), None)
    if used:
        yield Row(image, image, captions[used], label)
        for text in filter(captions.get, captions):
            if captions[text] != captions[used]:
                faults[text] = f"differs from {used}, which is used: delete one of the two"
    elif texts:
        reason = faults.pop(texts[0], "caption is empty")
        yield Row(image, image, kind=c.BAD_CAPTION, reason=reason)
    for text, reason in faults.items():
        yield Row(text, image, kind=c.BAD_CAPTION, reason=reason)


def _read_captions(root: Path, text: str, options: SourceOptions, notes: list[str]) -> list[Any]:
    """Return the captions of a file: its lines, or the first caption field of a JSON object. Add
    the file to `notes` if it is not UTF-8."""
    containers.check_inside(root, root / text, "caption file")
    data = containers.read_file(root / text)
    content = containers.decode_text(data)
    if not containers.is_utf8(data):
        if not containers.is_western(content):
            raise InputError(f"{text} is neither UTF-8 nor Windows-1252: save it as UTF-8")
        notes.append(text)
    if not text.lower().endswith(".json"):
        return list(filter(None, map(containers.tidy, _LINE_END.split(content))))
    values = containers.decode_json(content)
    if not isinstance(values, dict):
        raise InputError(f"{text} is not a JSON object")
    values = {name.strip().lower(): value for name, value in values.items()}
    key = options.csv_caption_key.lower()
    found = _first(values, *([key] if key else COLUMN_NAMES["caption"]))
    listed = found if isinstance(found, list) else [found] if found else []
    return [containers.tidy(text) if isinstance(text, str) else text for text in listed]


def _first(values: dict[str, Any], *names: str) -> Any:
    """Return the first value that is not empty."""
    found = map(values.get, names)
    return next((value for value in found if value not in (None, "", [])), None)


def shards_in(path: Path) -> list[Path]:
    """List the shards of a folder, or the shard itself."""
    if path.is_file():
        return [path.resolve()] if path.suffix.lower() == ".tar" else []
    return sorted(file for file in path.glob("[!.]*.tar") if not file.is_dir())


def expand_pattern(pattern: str) -> list[Path]:
    """Return the shards that a brace pattern such as set/{00..02}.tar or set-{a,b}.tar names."""
    found = _BRACES.search(pattern)
    if not found:
        if "{" in pattern:
            raise InputError(f"{pattern[:80]}: a brace is not closed: write name-{{000..041}}.tar")
        return [Path(pattern).expanduser()]
    choices = found[1].split(",")
    if ends := _RANGE.fullmatch(found[1]):
        numbers = range(int(ends[1]), int(ends[2]) + 1)
        choices = [f"{number:0{len(ends[1])}}" for number in numbers]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [path for choice in choices for path in expand_pattern(before + choice + after)]


def read_shards(shards: Sequence[Path], options: SourceOptions) -> Rows:
    """Read shards in order. From a shard that is cut off, read the samples before the cut. A fault
    becomes a row in quarantine."""
    root = Path(os.path.commonpath([path.absolute().parent for path in shards]))

    def rows() -> Iterator[Row]:
        for shard in shards:
            name = os.path.relpath(shard.absolute(), root)
            try:
                containers.check_inside(root, shard, "shard")
                yield from _shard_rows(shard, name, options)
            except (InputError, OSError) as error:
                yield Row(name, reason=containers.reading_fault(error, "shard"))

    return Rows(root, "webdataset", rows(), files=False)


def _shard_rows(shard: Path, name: str, options: SourceOptions) -> Iterator[Row]:
    content = scan_tar(shard)
    # name without suffix → suffix → member; "picture" → the picture's
    samples = dict[str, dict[str, str]]()
    for member in content.members:
        key, suffix = posixpath.splitext(member)
        kind = "picture" if containers.is_picture(member) else suffix[1:].lower()
        if kind in samples.get(key, {}):
            samples[member] = {kind: member}  # a second picture of the same name is another sample
        else:
            samples.setdefault(key, {})[kind] = member
    with shard.open("rb") as stream:
        for key, sample in samples.items():
            source = f"{name}/{sample.get('picture', key)}"
            try:
                values = _sample_values(sample, content, stream)
                yield _sample_row(source, values, options)
            except InputError as error:
                kind = c.BAD_CAPTION if "picture" in sample else c.BAD_PICTURE
                yield Row(source, source, kind=kind, reason=str(error))
    for member, reason in content.refused:
        yield Row(f"{name}/{member}", reason=reason)
    if not content.complete:
        yield Row(name, reason="tar is cut off or damaged: the samples before the damage were read")


def _sample_values(sample: dict[str, str], content: TarContent, stream: BinaryIO) -> dict[str, Any]:
    """Read the texts of a sample and check its picture's name: `..` could leave the tar."""
    if "picture" not in sample:
        raise InputError(f"sample has no picture, only {', '.join(sorted(sample.values()))}")
    if containers.normal_reference(sample["picture"]) != sample["picture"]:
        raise InputError("member's name cannot be written as a path")
    values = dict[str, Any]()
    for kind in [kind for kind in _TEXTS if kind in sample]:
        offset, size = content.members[sample[kind]]
        stream.seek(offset)
        text = containers.decode_text(stream.read(size))
        value = containers.decode_json(text) if kind == "json" else {kind: text}
        if not isinstance(value, dict):
            raise InputError(f"{sample[kind]} is not a JSON object")
        values |= value
    return values


def _sample_row(image: str, values: dict[str, Any], options: SourceOptions) -> Row:
    def first(flag: str, *names: str) -> Any:
        return _first(values, *([flag] if flag else names))

    captions = first(options.csv_caption_key, "caption", c.CAPTIONS) or values.get("txt")
    if captions is None:
        raise InputError("sample has no caption: no .txt, none in its .json")
    label = first(options.csv_label_key, *COLUMN_NAMES["label"])  # cls is one of the names
    pair_id = values.get(options.csv_id_key or c.PAIR_ID)
    group_key = values.get(options.group_key)
    return Row(image, image, captions, label, pair_id, values.get(c.INJECTED), group_key)
