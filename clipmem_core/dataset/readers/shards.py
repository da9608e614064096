"""Reads WebDataset shards: tar files where `000.jpg`, `000.txt` and `000.json` make a sample, as
img2dataset writes."""

import os
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from braceexpand import braceexpand

from clipmem_core import columns as c
from clipmem_core.config import SourceOptions
from clipmem_core.dataset.readers import paths
from clipmem_core.dataset.readers.containers import COLUMN_NAMES, TarContent, scan_tar
from clipmem_core.dataset.readers.records import Row, Rows
from clipmem_core.io import InputError

_TEXTS = ("json", "txt", "cls")


def shards_in(path: Path) -> list[Path]:
    """List the shards of a folder, or the shard itself."""
    if path.is_file():
        return [path.resolve()] if path.suffix.lower() == ".tar" else []
    return sorted(
        file for file in path.glob("*.tar") if not file.is_dir() and not file.name.startswith(".")
    )


def expand_pattern(pattern: str) -> list[Path]:
    """Return the shards that a brace pattern such as set/{00..02}.tar names."""
    try:
        return [Path(path) for path in braceexpand(os.path.expanduser(pattern))]
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{pattern[:80]}: the braces cannot be expanded: write name-{{000..041}}.tar"
        ) from error


def read_shards(shards: Sequence[Path], options: SourceOptions) -> Rows:
    """Read shards in order; of one that is cut off the samples before the cut. A fault is a row in
    quarantine."""
    root = Path(os.path.commonpath([path.parent for path in map(Path.absolute, shards)]))

    def rows() -> Iterator[Row]:
        faults: list[str] = []
        for shard in shards:
            name = os.path.relpath(shard.absolute(), root)
            try:
                if not paths.is_inside(os.path.realpath(root), os.fspath(shard)):
                    raise InputError(paths.LINK_LEAVES)
                yield from _shard_rows(shard, name, options)
            except (InputError, OSError) as error:
                faults.append(paths.reading_fault(error, "shard"))
                yield Row(name, reason=faults[-1])
        if len(faults) == len(shards):
            raise InputError(
                f"{shards[0]}: none of the {len(shards)} shards can be used: {faults[0]}"
            )

    return Rows(root, "webdataset", rows(), files=False)


def _shard_rows(shard: Path, name: str, options: SourceOptions) -> Iterator[Row]:
    content = scan_tar(shard)
    # name without suffix → suffix → member; "picture" → the picture's
    samples = dict[str, dict[str, str]]()
    for member in content.members:
        key, suffix = posixpath.splitext(member)
        kind = "picture" if paths.is_picture(member) else suffix[1:].lower()
        if kind in samples.get(key, {}):
            samples[member] = {kind: member}  # a second picture of the same name is another sample
        else:
            samples.setdefault(key, {})[kind] = member
    with shard.open("rb") as stream:
        for key, sample in samples.items():
            yield from _sample_rows(f"{name}/{key}", name, sample, content, stream, options)
    for member, reason in content.refused:
        yield Row(f"{name}/{member}", reason=reason)
    if not content.complete:
        yield Row(name, reason="tar is cut off or damaged: the samples before the damage were read")


def _sample_rows(
    source: str,
    shard: str,
    sample: dict[str, str],
    content: TarContent,
    stream: BinaryIO,
    options: SourceOptions,
) -> Iterator[Row]:
    """Yield the sample's row, and a row for each member that cannot be read."""
    values = dict[str, Any]()
    members = ", ".join(sorted(sample.values()))
    for kind in [kind for kind in _TEXTS if kind in sample]:
        offset, size = content.members[sample[kind]]
        fault = paths.size_fault(size, paths.TEXT)
        if not fault:
            stream.seek(offset)
            text = paths.decode_text(stream.read(size))
            try:
                values |= paths.decode_json(text) if kind == "json" else {kind: text}
            except (ValueError, TypeError) as error:
                fault = f"not a JSON object ({error})"
        if fault:
            yield Row(f"{shard}/{sample.pop(kind)}", reason=f"member is {fault}")
    if not sample:
        return
    if "picture" not in sample:
        yield Row(source, kind=c.BAD_PICTURE, reason=f"sample has no picture, only {members}")
        return

    def first(flag: str, *names: str) -> Any:
        keys = [key for key in ([flag] if flag else names) if values.get(key) not in (None, "", [])]
        return values[keys[0]] if keys else None

    captions = first(options.csv_caption_key, "caption", c.CAPTIONS)
    captions = values.get("txt") if captions is None else captions
    label = first(options.csv_label_key, *COLUMN_NAMES["label"])  # cls is one of the names
    member = sample["picture"]
    kind = c.BAD_CAPTION
    reason = "" if captions is not None else "sample has no caption: no .txt, none in its .json"
    try:  # only the name is checked: `..` could leave the tar
        if paths.normal_reference(member) != member:
            kind, reason = c.BAD_PICTURE, "member's name cannot be written as a path"
    except InputError as error:
        kind, reason = c.BAD_PICTURE, str(error)
    image = f"{shard}/{member}"
    pair_id = values.get(options.csv_id_key or c.PAIR_ID)
    group_key = values.get(options.group_key)
    injected = values.get(c.INJECTED)
    yield Row(image, image, captions, label, pair_id, injected, group_key, reason, kind)
