"""The rows of a data set: their columns, their check batch by batch, their merge into pairs and a quarantine.

Several rows of one picture become several captions of one pair. Every input row ends in exactly one of the two tables,
so that rows = rows that made pairs + quarantined rows. An empty entry in a list of captions counts as a row of its own.
"""

import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipmem_core import columns as c
from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.readers.files import (
    PATH_MAX,
    as_name,
    file_faults,
    is_missing,
    is_picture,
    normal_reference,
    printable,
    tidy,
)

BATCH = 8192  # rows that are Python objects at a time

_TEXTS = (c.SOURCE, c.IMAGE, c.PAIR_ID, c.LABEL, c.PLANTED, c.REASON, "named")  # named: the id in quarantine
_CHECKED = pa.schema(
    [("n", pa.int64()), (c.CAPTIONS, pa.large_list(pa.large_string())), *((name, pa.large_string()) for name in _TEXTS)]
)
_PLANTED = {c.MISCAPTION, c.VAGUE, c.DUPLICATE, c.ATYPICAL}
_EMPTY = "caption is empty"


class Row(NamedTuple):
    """One input row. Values are raw: checking cleans them. A row with a `reason` could not be used and says why."""

    source: str  # where it stands, such as `captions.csv:17`
    image: Any = None  # the reference, relative to the root
    captions: Any = None  # a text or a list of texts
    label: Any = None
    pair_id: Any = None
    planted: Any = None
    reason: str = ""


@dataclass(frozen=True)
class Rows:
    """The rows of one data set, read as they are asked for, once.

    `files` says that images are plain files, which still have to be looked for.
    """

    root: Path
    format: str
    rows: Iterable[Row]
    files: bool = True


def named_folder(flag: str, file: Path) -> Path:
    """Return the folder that --image-folder names, from here or else from beside the file that lists the pictures.

    Raises:
        InputError: neither is a folder.
    """
    folders = [folder for folder in (Path(os.path.expanduser(flag)), file.parent / flag) if folder.is_dir()]
    if not folders:
        raise InputError(f"--image-folder {flag} is not a folder: name the one with the pictures of {file.name}")
    return folders[0].absolute()


def placed(rows: Rows, flag: str, file: Path) -> Rows:
    """Let picture paths start in the folder that the flag names; absolute ones that lie in it become relative to it.
    Outer spaces are removed unless a file's name has them.

    What is inside is told by the path alone: merging refuses the links that lead out, and every other absolute path.

    Args:
        rows: of a table. Where its pictures are inside it, they stay as they are.
        flag: the folder; empty leaves the rows as they are.
        file: the table.

    Raises:
        InputError: the flag names no folder.
    """
    if not rows.files:
        return rows
    folder = named_folder(flag, file) if flag else rows.root
    root = folder.resolve() if flag else folder
    prefixes = [f"{os.path.normpath(path).rstrip('/')}/" for path in dict.fromkeys((folder, root)) if flag]
    named = (row._replace(image=_relative(spelled(row.image, root), prefixes)) for row in rows.rows)
    return replace(rows, root=root, rows=named)


def spelled(image: Any, folder: Path) -> Any:
    """Return a picture's path without outer spaces, unless it is one of a file; anything else as it is."""
    if not isinstance(image, str) or image == (bare := image.strip()):
        return image
    return image if os.path.lexists(os.path.join(folder, image)) else bare


def _relative(image: Any, prefixes: list[str]) -> Any:
    """Return an absolute path below one of the folders without that folder, and anything else as it is."""
    if not isinstance(image, str) or not image.startswith("/"):
        return image
    path = posixpath.normpath(image)
    inside = (path.removeprefix(prefix) for prefix in prefixes if path.startswith(prefix))
    return next(inside, image)


def check_rows(rows: Iterable[Row]) -> pa.Table:
    """Read and check rows, a batch at a time: each has its clean values and its number `n`, or a reason."""
    clean = (checked for row in rows for checked in _clean(row))
    batches, n = [], 0
    while part := list(islice(clean, BATCH)):
        entries = [_entry(row, n + i) for i, row in enumerate(part)]
        batches.append(pa.RecordBatch.from_pylist(entries, _CHECKED))
        n += len(part)
    return pa.Table.from_batches(batches, _CHECKED)


def _entry(row: Row, n: int) -> dict[str, Any]:
    entry = {"n": n, c.SOURCE: printable(row.source), "named": _named(row)}
    if row.reason:
        return entry | {c.REASON: printable(row.reason)}
    planted = row.planted if row.planted in _PLANTED else None
    values = {c.IMAGE: row.image, c.CAPTIONS: row.captions, c.LABEL: row.label, c.PLANTED: planted}
    return entry | values | {c.PAIR_ID: row.pair_id or row.image.strip()}


def _named(row: Row) -> str | None:
    """Return the id a refused row would have had: the given one, else its picture's path."""
    image = tidy(row.image[:PATH_MAX]) if isinstance(row.image, str) and not is_missing(row.image) else None
    return as_name(row.pair_id) or image or None


def _clean(row: Row) -> Iterator[Row]:
    """Yield the row with clean values, captions as a list; where it holds empty captions beside others, these apart."""
    if row.reason:
        yield row
        return
    try:
        image = normal_reference(_reference(row.image))
        captions = _captions(row.captions)
    except InputError as error:
        yield row._replace(reason=str(error))
        return
    kept = [caption for caption in captions if caption]
    pair_id = as_name(row.pair_id)
    if kept:
        yield Row(row.source, image, kept, as_name(row.label), pair_id, as_name(row.planted))
    for _ in range(len(captions) - len(kept) if kept else 1):
        yield Row(row.source, image, pair_id=pair_id, reason=_EMPTY)


def _reference(image: Any) -> str:
    if is_missing(image):
        raise InputError("image reference is missing")
    if not isinstance(image, str):
        raise InputError(f"image reference is not text but {type(image).__name__}")
    if not (image := image.replace("\0", "")).strip():
        raise InputError("image reference is empty")
    return image


def _captions(value: Any) -> list[str]:
    """Return the tidied captions, empty ones included."""
    if is_missing(value):
        raise InputError("caption is missing")
    return [_caption(entry) for entry in (value if isinstance(value, list) else [value])]


def _caption(entry: Any) -> str:
    if is_missing(entry):
        return ""
    if not isinstance(entry, str):
        raise InputError(f"caption is not text but {type(entry).__name__}")
    return tidy(entry)


def merge_rows(checked: pa.Table, root: Path, *, files: bool) -> tuple[pa.Table, pa.Table]:
    """Merge checked rows.

    Args:
        checked: what `check_rows` returned.
        root: the data set's folder.
        files: images are plain files, which are looked for there.

    Returns:
        The pairs in order of first appearance, and the quarantine in the order of the rows.
    """
    if files:
        checked = _look_for_files(checked, root)
    checked = _settle_ids(checked)
    used = pc.is_null(checked[c.REASON])
    refused = checked.filter(pc.invert(used)).select([c.SOURCE, "named", c.REASON])
    return _pairs(checked.filter(used)), refused.rename_columns([c.SOURCE, c.PAIR_ID, c.REASON])


def _look_for_files(checked: pa.Table, root: Path) -> pa.Table:
    """Refuse the rows whose picture file is not there; folder by folder, so that each is listed once."""
    images = pc.drop_null(pc.unique(checked[c.IMAGE]))
    in_folders = images.take(pc.sort_indices(pc.replace_substring_regex(images, "[^/]*$", "")))
    faults = list(file_faults(root, (image.as_py() for image in in_folders)))
    wrong = pa.array([image for image, _ in faults], pa.large_string())
    reasons = pa.array([reason for _, reason in faults], pa.large_string())
    return _refuse(checked, reasons.take(pc.index_in(checked[c.IMAGE], wrong, skip_nulls=True)))


def _settle_ids(checked: pa.Table) -> pa.Table:
    """Refuse the rows whose id belongs to another picture: the first that bears it."""
    used = checked.select(["n", c.PAIR_ID, c.IMAGE]).filter(pc.is_null(checked[c.REASON]))
    owners = used.group_by(c.PAIR_ID, use_threads=False).aggregate([(c.IMAGE, "first")])
    owner = owners[f"{c.IMAGE}_first"].take(pc.index_in(used[c.PAIR_ID], owners[c.PAIR_ID]))
    robbed = used.append_column("owner", owner).filter(pc.not_equal(owner, used[c.IMAGE]))
    said = [
        printable(f"id {row[c.PAIR_ID]!r} already belongs to {row['owner']!r}")
        for batch in robbed.select([c.PAIR_ID, "owner"]).to_batches(BATCH)
        for row in batch.to_pylist()
    ]
    return _refuse(checked, pa.array(said, pa.large_string()).take(pc.index_in(checked["n"], robbed["n"])))


def _refuse(checked: pa.Table, reasons: pa.ChunkedArray) -> pa.Table:
    """Give the rows that had no reason those there are."""
    place = checked.column_names.index(c.REASON)
    return checked.set_column(place, c.REASON, pc.coalesce(checked[c.REASON], reasons))


def _pairs(used: pa.Table) -> pa.Table:
    """Gather the rows of each picture: its first id, label and planting, and its captions, each once.

    Groups come in order of first appearance as long as one thread makes them.
    """
    firsts = [(column, "first") for column in (c.PAIR_ID, c.LABEL, c.PLANTED)]  # of those that are not null
    pairs = used.group_by(c.IMAGE, use_threads=False).aggregate(firsts)
    captions = used[c.CAPTIONS].combine_chunks()
    images = used[c.IMAGE].take(pc.list_parent_indices(captions))
    spoken = pa.table({c.IMAGE: images, c.CAPTIONS: pc.list_flatten(captions)})
    spoken = spoken.group_by([c.IMAGE, c.CAPTIONS], use_threads=False).aggregate([])  # in order of first appearance
    pair = pc.index_in(spoken[c.IMAGE], pairs[c.IMAGE]).to_numpy()
    texts = spoken[c.CAPTIONS].combine_chunks().take(pa.array(np.argsort(pair, kind="stable")))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(pair, minlength=len(pairs)))])
    merged = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), texts)
    columns = [pairs[f"{c.PAIR_ID}_first"], pairs[c.IMAGE], merged, pairs[f"{c.LABEL}_first"]]
    return pa.table([*columns, pairs[f"{c.PLANTED}_first"]], names=[c.PAIR_ID, c.IMAGE, c.CAPTIONS, c.LABEL, c.PLANTED])


_IMAGE = (
    "filepath file_path image_path img_path image_file image_filename file_name filename image_name image img images "
    "picture photo path file local_path image_url url key"
)
_CAPTION = "caption captions title text txt description alt_text alttext alt comment sentence sentences raw prompt"
IMAGE_NAMES, CAPTION_NAMES = _IMAGE.split(), _CAPTION.split()  # the first that a table has is taken
LABEL_NAMES = ["label", "labels", "class", "class_name", "category", "cls"]
ID_NAMES = ["pair_id", "image_id", "id", "uid"]
_SHOWN = 12  # columns an error message lists


@dataclass(frozen=True)
class Fields:
    """The names of the columns that matter; an empty string where there is none."""

    image: str
    caption: str
    label: str = ""
    pair_id: str = ""
    planted: str = ""

    def in_order(self) -> tuple[str, ...]:
        """Return the column of each value of a row, after its source."""
        return self.image, self.caption, self.label, self.pair_id, self.planted

    def chosen(self) -> list[str]:
        """Return the columns to read, each once."""
        return [name for name in dict.fromkeys(self.in_order()) if name]


def find_fields(
    columns: Sequence[str],
    options: SourceOptions,
    *,
    source: str,
    first: Mapping[str, Any] | None = None,
    picture: str = "",
) -> Fields:
    """Choose the columns of a table.

    Args:
        columns: all column names.
        options: its `csv_*_key` fields override the guess.
        source: the file's name, for the message.
        first: the first row; an image column of no usual name is recognised by its file name.
        picture: the column known to hold pictures, from its type.

    Raises:
        InputError: a flag names an absent column, there is no column for pictures or captions, or one comes twice.

    Example:
        >>> find_fields(["id", "filepath", "title"], SourceOptions(), source="a.csv")
        Fields(image='filepath', caption='title', label='', pair_id='id', planted='')
    """
    shown = f"{source} has {_listed(columns)}"
    caption = _flagged(columns, options.csv_caption_key, "--csv-caption-key", shown)
    image = _flagged(columns, options.csv_img_key, "--csv-img-key", shown)
    label = _flagged(columns, options.csv_label_key, "--csv-label-key", shown)
    pair_id = _flagged(columns, options.csv_id_key, "--csv-id-key", shown)
    free = [column for column in columns if column not in (caption, image, label, pair_id, picture)]
    caption = caption or _guess(free, CAPTION_NAMES)
    image = image or picture or _guess(free, IMAGE_NAMES) or _by_value(free, first or {})
    for found, what, flag in ((caption, "captions", "--csv-caption-key"), (image, "pictures", "--csv-img-key")):
        if not found:
            raise InputError(f"{shown}, and none is known to hold {what}: name it with {flag}")
    free = [column for column in free if column not in (caption, image)]
    fields = Fields(
        image,
        caption,
        label or _guess(free, LABEL_NAMES),
        pair_id or _guess(free, ID_NAMES),
        _guess(free, [c.PLANTED]),
    )
    twice = [name for name in fields.chosen() if list(columns).count(name) > 1]
    if picture in fields.in_order()[1:] and picture:
        raise InputError(f"{source}: column {picture!r} holds pictures: name another for captions, labels and ids")
    if twice:
        raise InputError(f"{source} has the column {twice[0]!r} more than once: rename all but the one to read")
    return fields


def _flagged(columns: Sequence[str], wanted: str, flag: str, shown: str) -> str:
    if not wanted or wanted in columns:
        return wanted
    for column in columns:
        if column.strip() == wanted.strip():
            return column
    raise InputError(f"{flag} names column {wanted!r}, but {shown}")


def _guess(columns: Sequence[str], known: Sequence[str]) -> str:
    """Return the column whose name comes first among the known ones, whatever its case and outer spaces."""
    plain = {column.strip().lower(): column for column in reversed(columns)}
    return next((plain[name] for name in known if name in plain), "")


def _by_value(columns: Sequence[str], first: Mapping[str, Any]) -> str:
    texts = ((column, first.get(column)) for column in columns)
    return next((column for column, value in texts if isinstance(value, str) and is_picture(value.strip())), "")


def _listed(columns: Sequence[str]) -> str:
    """Return the column names on one line, shortened where a file that is no table has absurd ones."""
    listed = ", ".join(repr(column[:40]) for column in columns[:_SHOWN])
    more = f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else ""
    return f"the columns {listed}{more}"
