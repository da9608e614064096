"""The cleaned data set as a folder of pictures, as trainers read one: a same-named `.txt` beside each picture, or the
`metadata.jsonl` of Hugging Face's imagefolder.

Pictures are copies, which take no space where the disk can share blocks between files. They are gathered in a hidden
folder inside the export; a stopped export resumes there.
"""

import fcntl
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
from clipmem_core.config import InputError, fingerprint_rows
from clipmem_core.exports.cleaned import ROW, Cleaned, Progress, audit_command, check_root, counted, suffix_of
from clipmem_core.pairs.readers.containers import is_inside, is_picture
from clipmem_core.pairs.references import read_bytes, split_reference

METADATA = "metadata.jsonl"
_BREAK = re.compile(r"\s*[\r\n]+\s*")
MARK = ".clipmem-export"  # in a folder that an export may replace
UNFINISHED = ".unfinished"  # begins the name of the folder inside it that a stopped export resumes in
FICLONE = 0x40049409  # Linux: let a file share the blocks of another, until one of them is changed
Pair = dict[str, Any]
Written = tuple[tuple[str, ...], str]


def write_texts(cleaned: Cleaned, path: Path, *, progress: Progress | None = None) -> Written:
    """Write pictures and a same-named `.txt` beside each, a caption a line, into a folder."""

    def write(folder: Path, pairs: Iterator[tuple[str, Pair]]) -> None:
        for name, pair in pairs:
            lines = [_BREAK.sub(" ", caption) for caption in pair[CAPTIONS]]
            text = folder / f"{posixpath.splitext(name)[0]}.txt"
            text.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")

    names = _write(cleaned, path, "texts", write, progress)
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

    _write(cleaned, path, METADATA, write, progress)
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


def is_unfinished(path: Path) -> bool:
    """Tell whether a folder holds nothing but an export that was stopped."""
    return path.is_dir() and all(each.name == MARK or each.name.startswith(UNFINISHED) for each in path.iterdir())


def _write(
    cleaned: Cleaned,
    path: Path,
    kind: str,
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
    rows = ((pair[ROW], pair[IMAGE]) for pair in pairs)
    folder = path / f"{UNFINISHED}-{fingerprint_rows(rows, beside=[kind, str(cleaned.root)])}"
    folder.mkdir(parents=True, exist_ok=True)
    (path / MARK).touch()
    names, taken = [], {posixpath.splitext(METADATA)[0]}
    for done, pair in enumerate(pairs):
        names.append(_put(cleaned.root, pair, folder, taken))
        if progress and done % 100 == 0:
            progress(done, len(pairs))
    write(folder, zip(names, pairs, strict=True))
    for old in path.iterdir():
        if old.is_dir() and old != folder:
            shutil.rmtree(old)
        elif old.name not in (MARK, folder.name):
            old.unlink()
    for new in folder.iterdir():
        new.rename(path / new.name)
    folder.rmdir()
    if progress:
        progress(len(pairs), len(pairs))
    return names


def _put(root: Path, pair: Pair, folder: Path, taken: set[str]) -> str:
    """Put a copy of a pair's picture into a folder, unless it is there, and return its name: its stem is new there."""
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
        _copy(source, target)
    else:
        target.write_bytes(_read(root, pair[IMAGE]) if data is None else data)
    return f"{stem}{ending}"


def _copy(source: Path, target: Path) -> None:
    """Copy a file, unless a copy of its size is there; where the disk can, both share their blocks.

    Raises:
        InputError: the file is gone.
    """
    try:
        if target.is_file() and target.stat().st_size == source.stat().st_size:
            return
        with source.open("rb") as original, target.open("wb") as copy:
            try:
                fcntl.ioctl(copy, FICLONE, original.fileno())
            except OSError:  # another disk, or one that cannot
                shutil.copyfileobj(original, copy)
    except FileNotFoundError:
        raise InputError(f"picture {source} is gone: bring it back to export it") from None


def _read(root: Path, image: str) -> bytes:
    try:
        return read_bytes(root, image)
    except FileNotFoundError as error:
        raise InputError(str(error)) from None
