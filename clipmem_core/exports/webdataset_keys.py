"""A cleaned data set → the `__key__` of each sample to keep, one a line: what a WebDataset is filtered by."""

import json
import posixpath
import re
import tarfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipmem_core.atomic import replacing
from clipmem_core.columns import CAPTIONS, IMAGE
from clipmem_core.exports.cleaned import RECAPTIONED, Cleaned
from clipmem_core.exports.pictures import Progress
from clipmem_core.pairs.references import split_reference

_LINE_BREAK = re.compile(r"[\r\n]")


def write_keys(cleaned: Cleaned, path: Path, *, progress: Progress | None = None) -> tuple[tuple[str, ...], str]:
    """Write the keys in the order of the shards; new captions, which a key cannot carry, go into a file beside it.

    Returns:
        What a list of keys cannot carry, and an empty string: there is no command that audits it.
    """
    keys = _keys(cleaned.root, cleaned.pairs[IMAGE])
    kept = set(keys)
    shared = sum(key in kept for key in _keys(cleaned.root, cleaned.gone[IMAGE]))
    lines = [key for key in dict.fromkeys(keys) if not _LINE_BREAK.search(key)]
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{key}\n" for key in lines), encoding="utf-8", newline="\n")
    beside = captions_file(path)
    beside.unlink(missing_ok=True)  # of the export that this one replaces
    if cleaned.recaptioned:
        _write_captions(cleaned, keys, beside)
    found = [
        (cleaned.recaptioned, f"{cleaned.recaptioned:,} new captions cannot be in a list of keys: see {beside.name}"),
        (shared, f"{shared:,} removed samples have the key of a kept one and stay: export csv to be rid of them"),
        (len(kept) - len(lines), f"{len(kept) - len(lines):,} keys with a line break in them are left out"),
    ]
    return tuple(note for count, note in found if count), ""


def captions_file(path: Path) -> Path:
    """Return the file beside a list of keys that new captions go into: `key` and `captions`, a JSON object a line."""
    return path.with_name(f"{path.name}.captions.jsonl")


def webdataset_key(member: str) -> str:
    """Return what webdataset calls the key of a tar's member: its path up to the first dot of its name.

    Example:
        >>> webdataset_key("./train/0001.left.jpg")
        './train/0001'
    """
    folder, slash, name = member.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _keys(root: Path, images: pa.ChunkedArray) -> list[str]:
    keys = []
    for image in images.to_pylist():
        path, part = split_reference(root, image)
        if part is None:
            keys.append(posixpath.splitext(image)[0])
        elif isinstance(part, int):
            keys.append(image)
        else:
            keys.append(webdataset_key(_odd_names(path).get(part, part)))
    return keys


@lru_cache(maxsize=4)
def _odd_names(archive: Path) -> dict[str, str]:
    """Return the members that the archive spells otherwise than our references do, `./a.jpg` for `a.jpg`."""
    names: dict[str, str] = {}
    try:
        with tarfile.open(archive, mode="r:") as tar:
            for member in _members(tar):
                plain = posixpath.normpath(member.name).lstrip("/")
                if plain != member.name:
                    names.setdefault(plain, member.name)
    except (tarfile.TarError, OSError):  # an archive that is cut off or gone by now: what was read before counts
        return names
    return names


def _members(tar: Any) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members = []  # tarfile would keep every header it has seen
        yield member


def _write_captions(cleaned: Cleaned, keys: Sequence[str], path: Path) -> None:
    changed = cleaned.pairs[RECAPTIONED].to_numpy().nonzero()[0]
    captions = cleaned.pairs[CAPTIONS].take(changed).to_pylist()
    rows = [{"key": keys[place], "captions": texts} for place, texts in zip(changed, captions, strict=True)]
    with replacing(path) as temporary:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        temporary.write_text("".join(lines), encoding="utf-8", newline="\n")
