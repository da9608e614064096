"""Reads WebDataset shards: tar files where `000.jpg`, `000.txt` and `000.json` make a sample, as img2dataset writes.

Nothing is unpacked. The index of an archive is made once per process and version of the file (its size and time are
part of the key); forked workers share those made before the fork. No file stays open.
"""

import os
import posixpath
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from braceexpand import braceexpand

from clipmem_core import columns as names
from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.readers.files import (
    LINK_LEAVES,
    PICTURE,
    TAR_HEADER,
    TEXT,
    Stamped,
    decode_text,
    is_inside,
    is_picture,
    normal_reference,
    parse,
    stamped,
)
from clipmem_core.pairs.readers.rows import LABEL_NAMES, Row, Rows
from clipmem_core.shortage import shortage

Sample = dict[str, str]  # suffix → member name; "picture" → the picture's
_TEXTS = ("txt", "json", "cls")
SHARD_LIMIT = 10_000  # ten million pairs at img2dataset's thousand a shard and more: beyond what one audit can train on
_RANGE = re.compile(r"\{(-?\d{1,18})\d*\.\.(-?\d{1,18})")
_BLOCK = 512  # bytes of a tar header
_ATTACHED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_DIGITS = re.compile(rb"\d{1000}")
_DAMAGE = (tarfile.TarError, ValueError, LookupError, ArithmeticError, RecursionError)  # what tarfile raises over it


@dataclass(frozen=True)
class TarContent:
    """Where a tar's members lie (name → offset and size in bytes), which are refused, and whether it ends properly."""

    members: dict[str, tuple[int, int]]
    refused: list[tuple[str, str]]  # name and reason
    complete: bool


class _Header(tarfile.TarInfo):
    """A header that is refused where reading it would take all memory or for ever, or lead back to where it stands."""

    def _proc_member(self, tar: Any) -> Any:
        attached = self.type in _ATTACHED
        if self.size < 0 or (attached and TAR_HEADER.fault(self.size)):
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        if attached:
            at = tar.fileobj.tell()
            if _DIGITS.search(tar.fileobj.read(self.size)):  # older tarfiles take the square of its length over these
                raise tarfile.ReadError("a header of digits")
            tar.fileobj.seek(at)
        return super()._proc_member(tar)  # type: ignore[misc]


def scan_tar(path: Path) -> TarContent:
    """List a tar's files from its headers, without unpacking; a member that is cut off is left out."""
    size = stamped(path).size
    content = TarContent({}, [], False)
    try:
        with tarfile.open(path, mode="r:", tarinfo=_Header) as tar:
            return replace(content, complete=_walk(tar, size, content))
    except _DAMAGE as error:
        raise InputError(f"{path.name} is not an uncompressed tar archive ({error})") from error


def _walk(tar: Any, size: int, content: TarContent) -> bool:
    """Fill in the content; return whether the archive has its closing block of zeros."""
    try:
        at = -1
        while (member := tar.next()) is not None and tar.offset > at:
            at = tar.offset
            tar.members = []  # tarfile would keep every header it has seen
            _note(member, size, content)
    except _DAMAGE:
        return False
    tar.fileobj.seek(tar.offset)
    return bool(tar.fileobj.read(_BLOCK) == bytes(_BLOCK))


def _note(member: tarfile.TarInfo, size: int, content: TarContent) -> None:
    name = posixpath.normpath(member.name).lstrip("/")
    if member.isdir():
        return
    if not member.isreg() or member.issparse():
        content.refused.append((name, "member is a link, a device or sparse: plain files are read"))
    elif member.size < 0:
        content.refused.append((name, "member's header is damaged: it has a negative size"))
    elif member.offset_data + member.size > size:
        return  # cut off: the archive is told to be
    elif name in content.members:
        content.refused.append((name, "member comes twice in the tar: the first is used"))
    else:
        content.members[name] = (member.offset_data, member.size)


class _PictureIndex(NamedTuple):
    """A tar's pictures as three arrays sorted by name, some 30 bytes a picture: hundreds of shards stay in memory."""

    names: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray


@lru_cache(maxsize=1024)
def _picture_index(file: Stamped) -> _PictureIndex:
    members = scan_tar(Path(file.path)).members
    found = sorted((os.fsencode(name), *place) for name, place in members.items() if is_picture(name))
    names = np.array([name for name, _, _ in found], dtype=bytes)
    places = np.array([place for _, *place in found], dtype=np.int64).reshape(-1, 2)
    return _PictureIndex(names, places[:, 0], places[:, 1])


def tar_picture(path: Path, name: str) -> bytes:
    """Read one picture of a tar."""
    index = _picture_index(stamped(path))
    key = os.fsencode(name)
    at = int(np.searchsorted(index.names, key)) if len(index.names) else 0
    if at == len(index.names) or index.names[at] != key:
        raise LookupError(f"no such picture in {path.name}")
    if fault := PICTURE.fault(int(index.sizes[at])):
        raise InputError(f"it is {fault}")
    with path.open("rb") as stream:
        stream.seek(int(index.offsets[at]))
        return stream.read(int(index.sizes[at]))


def odd_names(archive: Path) -> dict[str, str]:
    """Return the members that the archive spells otherwise than our references do, `./a.jpg` for `a.jpg`."""
    names: dict[str, str] = {}
    try:
        with tarfile.open(archive, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header it has seen
                plain = posixpath.normpath(member.name).lstrip("/")
                if plain != member.name:
                    names.setdefault(plain, member.name)
    except (tarfile.TarError, OSError):  # an archive that is cut off or gone by now: what was read before counts
        return names
    return names


def shards_in(path: Path) -> list[Path]:
    """List the shards of a folder, or the shard itself."""
    if path.is_file():
        return [path.resolve()] if path.suffix.lower() == ".tar" else []
    return sorted(file for file in path.glob("*.tar") if not file.is_dir() and not file.name.startswith("."))


def expand_pattern(pattern: str) -> list[Path]:
    """Return the shards that a brace pattern names.

    Example:
        >>> [path.name for path in expand_pattern("set/{00..02}.tar")]
        ['00.tar', '01.tar', '02.tar']
    """
    fault = f"{pattern[:80]}: the braces name more than {SHARD_LIMIT:,} shards: give fewer, or the folder they are in"
    if any(abs(int(last) - int(first)) >= SHARD_LIMIT for first, last in _RANGE.findall(pattern)):
        raise InputError(fault)  # braceexpand writes each range out in memory
    try:
        paths = [Path(path) for path in islice(braceexpand(os.path.expanduser(pattern)), SHARD_LIMIT + 1)]
    except (ValueError, RecursionError) as error:
        raise InputError(f"{pattern[:80]}: the braces cannot be expanded: write name-{{000..041}}.tar") from error
    if len(paths) > SHARD_LIMIT:
        raise InputError(fault)
    return paths


def read_shards(shards: Sequence[Path], options: SourceOptions) -> Rows:
    """Read shards in order. The caption is that of the JSON (`caption`, or what the flag names), else the whole `.txt`.

    A shard that is missing or cut off is a row in quarantine; the samples before the cut are read.
    """
    root = Path(os.path.commonpath([path.parent for path in map(Path.absolute, shards)]))
    return Rows(root, "webdataset", _all_rows(shards, root, options), files=False)


def _all_rows(shards: Sequence[Path], root: Path, options: SourceOptions) -> Iterator[Row]:
    faults: list[str] = []
    for shard in shards:
        try:
            yield from _shard_rows(shard, root, options)
        except (InputError, OSError) as error:
            if shortage(error):
                raise
            faults.append(str(error) if isinstance(error, InputError) else f"shard cannot be read: {error.strerror}")
            yield Row(os.path.relpath(shard.absolute(), root), reason=faults[-1])
    if len(faults) == len(shards):
        raise InputError(f"{shards[0]}: none of the {len(shards)} shards can be used: {faults[0]}")


def _shard_rows(shard: Path, root: Path, options: SourceOptions) -> Iterator[Row]:
    name = os.path.relpath(shard.absolute(), root)
    if not is_inside(os.path.realpath(root), os.fspath(shard)):
        raise InputError(LINK_LEAVES)
    content = scan_tar(shard)
    with shard.open("rb") as stream:
        for key, sample in _samples(content).items():
            for kind in [kind for kind in _TEXTS if kind in sample]:
                if fault := TEXT.fault(content.members[sample[kind]][1]):
                    yield Row(f"{name}/{sample.pop(kind)}", reason=f"member is {fault}")
            if not sample:
                continue
            yield from _sample_rows(f"{name}/{key}", name, sample, _texts(stream, content, sample), options)
    for member, reason in content.refused:
        yield Row(f"{name}/{member}", reason=reason)
    if not content.complete:
        yield Row(name, reason="tar is cut off or damaged: samples up to that place were read")


def _samples(content: TarContent) -> dict[str, Sample]:
    """Group members by their name without suffix; a second picture of the same name is a sample of its own."""
    samples: dict[str, Sample] = {}
    for member in content.members:
        key, suffix = posixpath.splitext(member)
        kind = "picture" if is_picture(member) else suffix[1:].lower()
        if kind in samples.get(key, {}):
            samples[member] = {kind: member}
        else:
            samples.setdefault(key, {})[kind] = member
    return samples


def _texts(stream: BinaryIO, content: TarContent, sample: Sample) -> dict[str, str]:
    texts = {}
    for kind in _TEXTS:
        if kind in sample:
            offset, size = content.members[sample[kind]]
            stream.seek(offset)
            texts[kind] = decode_text(stream.read(size))
    return texts


def _sample_rows(
    source: str, shard: str, sample: Sample, texts: dict[str, str], options: SourceOptions
) -> Iterator[Row]:
    """Yield the sample's row, and one more for a JSON member that cannot be read."""
    meta, fault = _meta(texts.get("json"))
    if fault:
        yield Row(f"{shard}/{sample['json']}", reason=fault)
    if "picture" not in sample:
        yield Row(source, reason=f"sample has no picture, only {', '.join(sorted(sample.values()))}")
        return
    captions = _captions(meta, texts, options)
    label = _first(meta, [options.csv_label_key] if options.csv_label_key else LABEL_NAMES)
    pair_id = meta.get(options.csv_id_key or names.PAIR_ID)
    reason = _name_fault(sample["picture"])
    if captions is None:
        reason = reason or "sample has no caption: no .txt, and no caption in its .json"
    image = f"{shard}/{sample['picture']}"
    yield Row(
        image, image, captions, texts.get("cls") if label is None else label, pair_id, meta.get(names.PLANTED), reason
    )


def _name_fault(member: str) -> str:
    """Return why a member cannot be referred to; its name alone is checked, as `..` could climb out of the tar."""
    try:
        return "" if normal_reference(member) == member else "member's name cannot be written as a path"
    except InputError as error:
        return str(error)


def _meta(text: str | None) -> tuple[dict[str, Any], str]:
    if text is None:
        return {}, ""
    try:
        value = parse(text)
    except ValueError as error:
        return {}, f"member is not JSON ({error})"
    return (value, "") if isinstance(value, dict) else ({}, "member is not a JSON object")


def _captions(meta: dict[str, Any], texts: dict[str, str], options: SourceOptions) -> Any:
    keys = [options.csv_caption_key] if options.csv_caption_key else ["caption", names.CAPTIONS]
    found = _first(meta, keys)
    return texts.get("txt") if found is None else found


def _first(meta: dict[str, Any], keys: Sequence[str]) -> Any:
    return next((meta[key] for key in keys if meta.get(key) not in (None, "", [])), None)
