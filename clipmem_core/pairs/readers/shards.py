"""Reads WebDataset shards: tar files where `000.jpg`, `000.txt` and `000.json` make a sample, as img2dataset writes.

Nothing is unpacked. The index of an archive is cached under the file's size and time. No file stays open.
"""

import os
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from braceexpand import braceexpand

from clipmem_core import columns as c
from clipmem_core.config import InputError, SourceOptions
from clipmem_core.io import shortage
from clipmem_core.pairs.readers.files import (
    LINK_LEAVES,
    PICTURE,
    TEXT,
    Stamped,
    decode_text,
    is_inside,
    is_picture,
    normal_reference,
    parse,
    size_fault,
    stamped,
)
from clipmem_core.pairs.readers.rows import LABEL_NAMES, Row, Rows

_TEXTS = ("txt", "json", "cls")
_BLOCK = 512  # bytes of a tar header
_DAMAGE = (tarfile.TarError, ValueError, LookupError, ArithmeticError, RecursionError)  # what tarfile raises over it


class _TarContent(NamedTuple):
    members: dict[str, tuple[int, int]]  # name → offset and size in bytes
    refused: list[tuple[str, str]]  # name and reason
    complete: bool  # it ends with its closing block of zeros


def _scan_tar(path: Path) -> _TarContent:
    """List a tar's files from its headers, without unpacking; a member that is cut off is left out."""
    members, refused, size, at = dict[str, tuple[int, int]](), list[tuple[str, str]](), stamped(path).size, -1
    try:
        with tarfile.open(path, mode="r:") as tar:
            try:
                while (member := tar.next()) is not None and tar.offset > at:  # a negative size leads back
                    at = tar.offset
                    tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
                    name = posixpath.normpath(member.name).lstrip("/")
                    if member.isdir() or (member.isreg() and member.offset_data + member.size > size):
                        continue
                    if not member.isreg() or member.issparse() or member.size < 0:
                        refused.append((name, "member is a link, a device, sparse or damaged: plain files are read"))
                    elif name in members:
                        refused.append((name, "member comes twice in the tar: the first is used"))
                    else:
                        members[name] = (member.offset_data, member.size)
            except _DAMAGE:
                return _TarContent(members, refused, False)
            with path.open("rb") as stream:
                stream.seek(tar.offset)
                return _TarContent(members, refused, stream.read(_BLOCK) == bytes(_BLOCK))
    except _DAMAGE as error:
        raise InputError(f"{path.name} is not an uncompressed tar archive ({error})") from error


@lru_cache(maxsize=1024)
def _picture_index(file: Stamped) -> tuple[np.ndarray, np.ndarray]:
    """Return a tar's pictures sorted by name: names, and int64 [n, 2] offsets and sizes; some 30 bytes a picture."""
    members = _scan_tar(Path(file.path)).members
    pictures = sorted((os.fsencode(name), place) for name, place in members.items() if is_picture(name))
    places = np.array([place for _, place in pictures], np.int64).reshape(-1, 2)
    return np.array([name for name, _ in pictures], dtype=bytes), places


def tar_picture(path: Path, name: str) -> bytes:
    """Read one picture of a tar."""
    names, places = _picture_index(stamped(path))
    key = os.fsencode(name)
    at = int(np.searchsorted(names, key)) if len(names) else 0
    if at == len(names) or names[at] != key:
        raise LookupError(f"no such picture in {path.name}")
    offset, size = places[at].tolist()
    if fault := size_fault(size, PICTURE):
        raise InputError(f"it is {fault}")
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(size)


def odd_names(archive: Path) -> dict[str, str]:
    """Return the members that the archive spells otherwise than our references do, `./a.jpg` for `a.jpg`."""
    names: dict[str, str] = {}
    try:
        with tarfile.open(archive, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]
                plain = posixpath.normpath(member.name).lstrip("/")
                if plain != member.name:
                    names.setdefault(plain, member.name)
    except (tarfile.TarError, OSError):  # cut off or gone by now: what was read before counts
        pass
    return names


def shards_in(path: Path) -> list[Path]:
    """List the shards of a folder, or the shard itself."""
    if path.is_file():
        return [path.resolve()] if path.suffix.lower() == ".tar" else []
    return sorted(file for file in path.glob("*.tar") if not file.is_dir() and not file.name.startswith("."))


def expand_pattern(pattern: str) -> list[Path]:
    """Return the shards that a brace pattern such as set/{00..02}.tar names."""
    try:
        return [Path(path) for path in braceexpand(os.path.expanduser(pattern))]
    except (ValueError, RecursionError) as error:
        raise InputError(f"{pattern[:80]}: the braces cannot be expanded: write name-{{000..041}}.tar") from error


def read_shards(shards: Sequence[Path], options: SourceOptions) -> Rows:
    """Read shards in order. The caption is that of the JSON (`caption`, or what the flag names), else the whole `.txt`.

    A shard that is missing or cut off is a row in quarantine; the samples before the cut are read.
    """
    root = Path(os.path.commonpath([path.parent for path in map(Path.absolute, shards)]))

    def rows() -> Iterator[Row]:
        faults: list[str] = []
        for shard in shards:
            name = os.path.relpath(shard.absolute(), root)
            try:
                if not is_inside(os.path.realpath(root), os.fspath(shard)):
                    raise InputError(LINK_LEAVES)
                yield from _shard_rows(shard, name, options)
            except (InputError, OSError) as error:
                if shortage(error):
                    raise
                said = str(error) if isinstance(error, InputError) else f"shard cannot be read: {error.strerror}"
                faults.append(said)
                yield Row(name, reason=said)
        if len(faults) == len(shards):
            raise InputError(f"{shards[0]}: none of the {len(shards)} shards can be used: {faults[0]}")

    return Rows(root, "webdataset", rows(), files=False)


def _shard_rows(shard: Path, name: str, options: SourceOptions) -> Iterator[Row]:
    content = _scan_tar(shard)
    samples: dict[str, dict[str, str]] = {}  # name without suffix → suffix → member; "picture" → the picture's
    for member in content.members:
        key, suffix = posixpath.splitext(member)
        kind = "picture" if is_picture(member) else suffix[1:].lower()
        if kind in samples.get(key, {}):
            samples[member] = {kind: member}  # a second picture of the same name is a sample of its own
        else:
            samples.setdefault(key, {})[kind] = member
    with shard.open("rb") as stream:
        for key, sample in samples.items():
            yield from _sample_rows(f"{name}/{key}", name, sample, content, stream, options)
    for member, reason in content.refused:
        yield Row(f"{name}/{member}", reason=reason)
    if not content.complete:
        yield Row(name, reason="tar is cut off or damaged: samples up to that place were read")


def _sample_rows(
    source: str, shard: str, sample: dict[str, str], content: _TarContent, stream: BinaryIO, options: SourceOptions
) -> Iterator[Row]:
    """Yield the sample's row, and one more for each member that cannot be read."""
    texts, meta, members = dict[str, str](), dict[str, Any](), ", ".join(sorted(sample.values()))
    for kind in [kind for kind in _TEXTS if kind in sample]:
        offset, size = content.members[sample[kind]]
        fault = size_fault(size, TEXT)
        if not fault:
            stream.seek(offset)
            texts[kind] = decode_text(stream.read(size))
            if kind == "json":
                try:
                    meta = parse(texts[kind])
                    fault = "" if isinstance(meta, dict) else "not a JSON object"
                except ValueError as error:
                    fault = f"not JSON ({error})"
        if fault:
            yield Row(f"{shard}/{sample.pop(kind)}", reason=f"member is {fault}")
            meta = {}
    if not sample:
        return
    if "picture" not in sample:
        yield Row(source, reason=f"sample has no picture, only {members}")
        return

    def first(keys: Sequence[str]) -> Any:
        return next((meta[key] for key in keys if meta.get(key) not in (None, "", [])), None)

    captions = first([options.csv_caption_key] if options.csv_caption_key else ["caption", c.CAPTIONS])
    captions = texts.get("txt") if captions is None else captions
    label = first([options.csv_label_key] if options.csv_label_key else LABEL_NAMES)
    label = texts.get("cls") if label is None else label
    member, reason = sample["picture"], ""
    try:  # its name alone is checked, as `..` could climb out of the tar
        if normal_reference(member) != member:
            reason = "member's name cannot be written as a path"
    except InputError as error:
        reason = str(error)
    if captions is None:
        reason = reason or "sample has no caption: no .txt, and no caption in its .json"
    image = f"{shard}/{member}"
    yield Row(image, image, captions, label, meta.get(options.csv_id_key or c.PAIR_ID), meta.get(c.PLANTED), reason)
