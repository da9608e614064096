"""Checks the rows of a data set and merges them into pairs and a quarantine.

Several rows of one picture become several captions of one pair. Every input row ends in exactly one
of the two tables. Empty entries in a list of captions are left out.
"""

import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from clipmem_core.config import SourceOptions
from clipmem_core.dataset import containers
from clipmem_core.dataset.containers import COLUMN_NAMES, as_name, is_missing, printable, tidy
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError

_INJECTED = (c.MISCAPTION, c.VAGUE, c.DUPLICATE, c.ATYPICAL)
_SHOWN = 12  # columns that an error message lists
_KEYS = {  # the options that name columns
    "image": "csv_img_key",
    "caption": "csv_caption_key",
    "label": "csv_label_key",
    "pair_id": "csv_id_key",
    "group_key": "group_key",
}


class Row(NamedTuple):
    """One input row with raw values, which merging cleans; `reason` says why a row cannot be used,
    and `kind` what is wrong with it."""

    source: str  # file and line, such as `captions.csv:17`
    image: Any = None  # the reference, relative to the root
    captions: Any = None  # a text or a list of texts
    label: Any = None
    pair_id: Any = None
    injected: Any = None
    group_key: Any = None
    reason: str = ""
    kind: str = c.BAD_ROW


@dataclass(frozen=True)
class Rows:
    """The rows of one data set, to be iterated once. `files`: images are plain files, which merging
    looks up. `notes`: caption files that are not UTF-8, known after the rows."""

    root: Path
    format: str
    rows: Iterable[Row]
    files: bool = True
    notes: Sequence[str] = ()


def named_folder(flag: str, file: Path) -> Path:
    """Return the folder of --image-folder, relative to the working directory or to the file that
    lists the pictures."""
    for folder in (Path(os.path.expanduser(flag)), file.parent / flag):
        if folder.is_dir():
            return folder.absolute()
    raise InputError(
        f"--image-folder {flag} is not a folder: name the one with the pictures of {file.name}"
    )


def in_image_folder(rows: Rows, flag: str, file: Path) -> Rows:
    """Resolve picture paths in the folder of the flag; merging refuses absolute paths and links
    that leave it."""
    if not rows.files or not flag:
        return rows
    folder = named_folder(flag, file)
    root = folder.resolve()

    def relative(image: Any) -> Any:
        path = posixpath.normpath(str(image).strip())
        for parent in (os.path.normpath(folder), root):
            if Path(path).is_relative_to(parent):
                return os.path.relpath(path, parent)
        return image

    moved = (row._replace(image=relative(row.image)) for row in rows.rows)
    return replace(rows, root=root, rows=moved)


def merge_rows(rows: Rows) -> tuple[int, pd.DataFrame, pd.DataFrame, int]:
    """Return the number of rows, the pairs in order of first appearance, the quarantine in the
    order of rows, and the number of captions that repeat one of their pair."""
    total = 0
    pairs = dict[str, list[Any]]()
    refused = list[tuple[str, str | None, str, str]]()
    owners = dict[str, str]()
    for row in map(_clean, rows.rows):
        total += 1
        kind, reason = row.kind, row.reason
        if not reason and rows.files:
            kind, reason = c.BAD_PICTURE, containers.picture_fault(rows.root, row.image)
        if not reason:
            pair_id = row.pair_id or row.image.strip()
            owner = owners.setdefault(pair_id, row.image)
            if owner != row.image:
                kind, reason = c.BAD_ID, f"id {pair_id!r} already belongs to {owner!r}"
        if reason:
            image = row.image if isinstance(row.image, str) else None
            name = as_name(row.pair_id) or as_name(image)
            refused.append((printable(row.source), name, kind, printable(reason)))
            continue
        pair = pairs.setdefault(row.image, [pair_id, row.image, [], None, None, None])
        pair[2] += row.captions
        pair[3] = pair[3] or row.label
        pair[4] = pair[4] or (row.injected if row.injected in _INJECTED else None)
        pair[5] = pair[5] or row.group_key
    columns = [c.PAIR_ID, c.IMAGE, c.CAPTIONS, c.LABEL, c.INJECTED, c.GROUP_KEY]
    table = pd.DataFrame(list(pairs.values()), columns=columns, dtype=object)
    read = table[c.CAPTIONS]
    table[c.CAPTIONS] = read.map(lambda texts: list(dict.fromkeys(texts)))
    repeated = int((read.map(len) - table[c.CAPTIONS].map(len)).sum())
    quarantine = pd.DataFrame(refused, columns=c.QUARANTINE_COLUMNS, dtype=object)
    return total, table, quarantine, repeated


def _clean(row: Row) -> Row:
    """Return the row with clean values and captions as a list, or with a reason."""
    if row.reason:
        return row
    kind = c.BAD_PICTURE
    try:
        image = containers.normal_reference(_text(row.image, "image reference"))
        kind = c.BAD_CAPTION
        entries = row.captions if isinstance(row.captions, list) else [row.captions]
        texts = [tidy(_text(entry, "caption")) for entry in entries if not is_missing(entry)]
        captions = list(filter(None, texts))
        if not captions:
            raise InputError("caption is empty")
    except InputError as error:
        return row._replace(kind=kind, reason=str(error))
    label, pair_id, injected, group_key = map(as_name, row[3:7])
    return Row(row.source, image, captions, label, pair_id, injected, group_key)


def _text(value: Any, what: str) -> str:
    if is_missing(value):
        raise InputError(f"{what} is missing")
    if not isinstance(value, str):
        raise InputError(f"{what} is not text but {type(value).__name__}")
    return value


class FieldColumns(NamedTuple):
    """The column of each value of a row; an empty string if there is none."""

    image: str
    caption: str
    label: str
    pair_id: str
    injected: str
    group_key: str


def find_fields(
    columns: Sequence[str], options: SourceOptions, *, source: str, picture: str = ""
) -> FieldColumns:
    """Choose the columns of a table; `picture` is the column whose type is a picture."""
    listed = ", ".join(map(repr, columns[:_SHOWN]))
    names = {kind: getattr(options, key) for kind, key in _KEYS.items()}
    flags = {kind: f"--{key.replace('_', '-')}" for kind, key in _KEYS.items()}
    for kind, name in names.items():
        if name and name not in columns:
            raise InputError(
                f"{flags[kind]} names column {name!r}: {source} has none (it has {listed})"
            )
    used = {*names.values(), picture}
    usual = {
        re.sub(r"[\s-]+", "_", column.strip().lower()): column
        for column in reversed(columns)
        if column not in used
    }
    names["image"] = names["image"] or picture
    for kind in ("caption", "image", "label", "pair_id", "injected"):
        if not names.get(kind):
            likely = (usual.pop(name) for name in COLUMN_NAMES[kind] if name in usual)
            names[kind] = next(likely, "")
        if not names[kind] and kind in ("caption", "image"):
            raise InputError(
                f"found no {kind} column in {source} (it has {listed}): name it with {flags[kind]}"
            )
    return FieldColumns(**names)
