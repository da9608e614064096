"""Reads pictures with texts of the same name: in folders, with a `.txt` or `.caption` of one
caption a line, and in WebDataset shards, tar files where `000.jpg`, `000.txt` and `000.json` make a
sample, as img2dataset writes."""

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
    "no caption file: put a .txt or .caption of the same name beside it, or let class folders name "
    "pictures with --caption-template 'a photo of a {label}'"
)
_SUFFIXES = (".caption", ".txt")  # of captions; the last one counts where a picture has both
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_LINE_END = re.compile(r"\r\n|\r|\n")
_TEXTS = ("json", "txt", "cls")  # of a sample in a shard


def holds_pictures(root: Path) -> bool:
    """Tell whether a folder has a picture somewhere below."""
    return any(map(containers.is_picture, _visible_files(root)))


def read_folder(root: Path, options: SourceOptions) -> Rows:
    """Read a folder. A picture without a caption file gets the caption of the template, or is
    quarantined; so is a caption file without a picture. The top folders are the labels."""
    template = options.caption_template
    if template and LABEL not in template:
        raise InputError(
            f"--caption-template {template!r} must hold {LABEL}: 'a photo of a {LABEL}'"
        )

    def rows() -> Iterator[Row]:
        files = _visible_files(root)
        stems = {name: os.path.splitext(name)[0] for name in files}
        texts = {stems[name]: name for name in files if name.lower().endswith(_SUFFIXES)}
        pictures = list(filter(containers.is_picture, files))
        for name in pictures:
            yield _picture_row(root, name, texts.get(stems[name]), template)
        for stem in sorted(texts.keys() - {stems[name] for name in pictures}):
            yield Row(texts[stem], kind=c.BAD_PICTURE, reason="no picture of the same name")

    return Rows(root, "folder", rows())


def _visible_files(root: Path) -> list[str]:
    """List the files below a folder that are not hidden, relative to it, each folder before its
    subfolders; links to folders are not followed."""
    paths = [path.relative_to(root) for path in root.rglob("*") if not path.is_dir()]
    paths.sort(key=lambda path: (path.parent.parts, path.name))
    return [
        path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)
    ]


def _picture_row(root: Path, image: str, text: str | None, template: str) -> Row:
    label = os.path.dirname(image).partition("/")[0] or None
    if text is None and template and label:
        return Row(image, image, template.replace(LABEL, label.replace("_", " ")), label)
    if text is None:
        return Row(image, image, kind=c.BAD_CAPTION, reason=_NO_CAPTION)
    path = root / text
    try:
        containers.check_inside(root, path, "caption file")
        captions = _LINE_END.split(containers.decode_text(containers.read_file(path)))
    except (InputError, OSError) as error:
        reason = containers.reading_fault(error, "caption file")
        return Row(image, image, kind=c.BAD_CAPTION, reason=reason)
    return Row(image, image, captions, label)


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
        found = (values.get(name) for name in ([flag] if flag else names))
        return next((value for value in found if value not in (None, "", [])), None)

    captions = first(options.csv_caption_key, "caption", c.CAPTIONS) or values.get("txt")
    if captions is None:
        raise InputError("sample has no caption: no .txt, none in its .json")
    label = first(options.csv_label_key, *COLUMN_NAMES["label"])  # cls is one of the names
    pair_id = values.get(options.csv_id_key or c.PAIR_ID)
    group_key = values.get(options.group_key)
    return Row(image, image, captions, label, pair_id, values.get(c.INJECTED), group_key)
