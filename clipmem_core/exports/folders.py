"""The cleaned data set as a folder of pictures, as trainers read one: a same-named `.txt` beside each picture, or the
`metadata.jsonl` of Hugging Face's imagefolder.
"""

import json
import os
import posixpath
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clipmem_core.atomic import replacing
from clipmem_core.columns import CAPTIONS, IMAGE, LABEL, PAIR_ID
from clipmem_core.config import InputError
from clipmem_core.exports.cleaned import (
    ROW,
    Cleaned,
    Progress,
    audit_command,
    check_root,
    counted,
    replacing_folder,
    suffix_of,
)
from clipmem_core.pairs.readers.containers import is_inside, is_picture
from clipmem_core.pairs.references import read_bytes, split_reference

METADATA = "metadata.jsonl"
_BREAK = re.compile(r"\s*[\r\n]+\s*")
MARK = ".clipmem-export"  # in a folder that an export may replace
Pair = dict[str, Any]
Written = tuple[tuple[str, ...], str]


def write_texts(cleaned: Cleaned, path: Path, *, progress: Progress | None = None) -> Written:
    """Write pictures and a same-named `.txt` beside each, a caption a line, into a folder."""

    def write(folder: Path, pairs: Iterator[tuple[str, Pair]]) -> None:
        for name, pair in pairs:
            lines = [_BREAK.sub(" ", caption) for caption in pair[CAPTIONS]]
            text = folder / f"{posixpath.splitext(name)[0]}.txt"
            text.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")

    names = _write(cleaned, path, write, progress)
    ids = cleaned.pairs[PAIR_ID].to_pylist()
    other = sum(name != pair_id for name, pair_id in zip(names, ids, strict=True))
    labels = zip(names, _labels(cleaned), strict=True)
    unsaid = sum(bool(label) and name.partition("/")[0] != label for name, label in labels)
    broken = sum(bool(_BREAK.search(text)) for captions in cleaned.pairs[CAPTIONS].to_pylist() for text in captions)
    lost = counted(
        (broken, f"{broken:,} captions have spaces in it for their line breaks"),
        (other, f"{other:,} pairs have their picture's path here for an id: --format imagefolder keeps ids"),
        (unsaid, f"{unsaid:,} labels are not in it, since they are not the folder a picture lies in: see imagefolder"),
    )
    return lost, audit_command(cleaned, path)


def write_imagefolder(cleaned: Cleaned, path: Path, *, progress: Progress | None = None) -> Written:
    """Write pictures and a `metadata.jsonl` into a folder: file_name, text, pair_id and, where pairs have one, label.

    `text` is a caption, or of all pairs a list where one of them has several.
    """
    several = any(len(captions) > 1 for captions in cleaned.pairs[CAPTIONS].to_pylist())
    labelled = any(_labels(cleaned))

    def write(folder: Path, pairs: Iterator[tuple[str, Pair]]) -> None:
        with replacing(folder / METADATA) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
            for name, pair in pairs:
                text = pair[CAPTIONS] if several else pair[CAPTIONS][0]
                row = {"file_name": name, "text": text, PAIR_ID: pair[PAIR_ID]}
                row |= {LABEL: pair[LABEL]} if labelled else {}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    _write(cleaned, path, write, progress)
    reads = f"datasets reads it with load_dataset('imagefolder', data_dir={str(path)!r})"
    return (reads,), audit_command(cleaned, path)


def _labels(cleaned: Cleaned) -> list[str | None]:
    return cleaned.pairs[LABEL].to_pylist()


def check_replaceable(path: Path) -> None:
    """Refuse a folder that no export has written.

    Raises:
        InputError: it holds something else.
    """
    if path.is_dir() and any(path.iterdir()) and not (path / MARK).is_file():
        raise InputError(f"{path} holds something else than an export: take another --out")


def _write(
    cleaned: Cleaned,
    path: Path,
    write: Callable[[Path, Iterator[tuple[str, Pair]]], None],
    progress: Progress | None,
) -> list[str]:
    """Put the pictures into a folder, and beside them what `write` makes of their names and pairs.

    Returns:
        The name of each pair's picture.
    """
    check_root(cleaned.root)
    check_replaceable(path)
    pairs = cleaned.pairs.select([ROW, PAIR_ID, IMAGE, CAPTIONS, LABEL]).to_pylist()
    names, taken = [], {posixpath.splitext(METADATA)[0]}
    with replacing_folder(path.resolve()) as folder:
        (folder / MARK).touch()
        for done, pair in enumerate(pairs):
            names.append(_put(cleaned.root, pair, folder, taken))
            if progress and done % 100 == 0:
                progress(done, len(pairs))
        write(folder, zip(names, pairs, strict=True))
    if progress:
        progress(len(pairs), len(pairs))
    return names


def _put(root: Path, pair: Pair, folder: Path, taken: set[str]) -> str:
    """Put a copy of a pair's picture into a folder and return its name: its stem is new there."""
    source, part = split_reference(root, pair[IMAGE])
    name, data = pair[IMAGE], None
    if part is not None or not is_picture(name) or any(part.startswith(".") for part in name.split("/")):
        data = _read(root, pair[IMAGE])
        name = f"{pair[ROW]:08d}{suffix_of(data)}"
    stem, ending = posixpath.splitext(name)
    if stem.casefold() in taken:
        stem = f"{stem}-{pair[ROW]}"
    taken.add(stem.casefold())
    target = folder / f"{stem}{ending}"
    target.parent.mkdir(parents=True, exist_ok=True)
    if data is None and is_inside(os.path.realpath(root), os.fspath(source)):
        try:
            shutil.copyfile(source, target)
        except FileNotFoundError:
            raise InputError(f"picture {source} is gone: bring it back to export it") from None
    else:
        target.write_bytes(_read(root, pair[IMAGE]) if data is None else data)
    return f"{stem}{ending}"


def _read(root: Path, image: str) -> bytes:
    try:
        return read_bytes(root, image)
    except FileNotFoundError as error:
        raise InputError(str(error)) from None
