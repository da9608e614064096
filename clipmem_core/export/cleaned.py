"""The cleaned data set: the pairs of an audit that are not removed, with new captions, and their
picture files."""

import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from clipmem_core.audit.store import PAIRS, Audit, reading
from clipmem_core.columns import CAPTIONS, HEIGHT, IMAGE, LABEL, PAIR_ID, WIDTH
from clipmem_core.dataset.readers.containers import read_bytes
from clipmem_core.dataset.readers.paths import picture_fault, tidy
from clipmem_core.io import InputError, replacing_folder
from clipmem_core.review.decisions import FOR_OTHER, REMOVE, open_review

_ROW = "row"  # the pair's row in the audit
RECAPTIONED = "recaptioned"
MARK = ".clipmem-export"  # file in a folder that an export may replace
IMAGES = "{stem}_images"  # folder of extracted pictures
CLEANED = "cleaned.json"  # in the folder of a data set that a second audit is of
BLOCK = 20_000  # pairs converted to Python objects at a time
Progress = Callable[[int, int], None]
Pictures = tuple[Path, pa.ChunkedArray, tuple[str, ...]]  # folder, names, notes
_IN_ARCHIVE = r"(?i)\.tar/|\.(parquet|arrow)#[0-9]+$"
_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2", "PPM": ".pnm"}
_CAPTION_LISTS = pa.large_list(
    pa.large_string()
)  # 64-bit offsets: a million pairs may have more than 2 GB of text


@dataclass(frozen=True)
class Cleaned:
    """A cleaned data set, in the order of the audit."""

    audit: Audit
    root: Path  # image references are relative to it
    pairs: pa.Table  # row, pair_id, image, captions, label, width, height, recaptioned (bool)
    removed_pairs: pa.Table  # the same without recaptioned
    notes: tuple[str, ...]  # shown with any format

    @property
    def kept(self) -> int:
        return self.pairs.num_rows

    @property
    def removed(self) -> int:
        return self.removed_pairs.num_rows

    @property
    def recaptioned(self) -> int:
        return pc.sum(self.pairs[RECAPTIONED]).as_py() or 0


def clean(audit: Audit) -> Cleaned:
    """Apply the decisions that apply to the captions of an audit."""
    if audit.record.config.inject_miscaptions:
        raise InputError(
            f"audit {audit.name!r} injected wrong captions: export an audit without "
            "--inject-miscaptions"
        )
    path = audit.folder / PAIRS
    strings = pa.large_string()
    with reading(path):
        table = pq.read_table(path, columns=[PAIR_ID, IMAGE, CAPTIONS, LABEL, WIDTH, HEIGHT])
    types = {PAIR_ID: strings, IMAGE: strings, LABEL: strings, CAPTIONS: _CAPTION_LISTS}
    table = table.cast(
        pa.schema([(field.name, types.get(field.name, field.type)) for field in table.schema])
    )
    table = table.add_column(0, _ROW, pa.array(np.arange(table.num_rows)))
    decisions = open_review(audit).table()
    remove = _is_in(table, decisions.loc[decisions["decision"] == REMOVE, PAIR_ID])
    other_captions = (
        pc.sum(_is_in(table, decisions.loc[decisions[FOR_OTHER].notna(), PAIR_ID])).as_py() or 0
    )
    chosen = decisions[decisions[CAPTIONS].map(len) > 0]
    # like a reader does with captions of a file
    tidied = (
        [text for text in dict.fromkeys(map(tidy, texts)) if text] for texts in chosen[CAPTIONS]
    )
    new = {pair_id: texts for pair_id, texts in zip(chosen[PAIR_ID], tidied, strict=True) if texts}
    pairs = _with_captions(table.filter(pc.invert(remove)), new)
    if pairs.num_rows == 0:
        raise InputError(
            f"every pair of audit {audit.name!r} is marked for removal: there is nothing to export"
        )
    quarantined = len(audit.quarantine)
    limit = audit.record.config.captions
    notes = counted(
        (quarantined, f"{quarantined:,} quarantined input rows are not included"),
        (
            other_captions,
            f"{other_captions:,} pairs have decisions on other captions, which do not count",
        ),
        (
            limit,
            f"only the first {limit} captions of a pair are included, as in the audit (--captions)",
        ),
    )
    return Cleaned(audit, audit.record.pictures, pairs, table.filter(remove), notes)


def counted(*notes: tuple[int, str]) -> tuple[str, ...]:
    """Return the notes whose count is not 0."""
    return tuple(note for count, note in notes if count)


def _with_captions(pairs: pa.Table, captions: dict[str, list[str]]) -> pa.Table:
    """Replace the captions of some pairs, and add the column `recaptioned`."""
    changed = _is_in(pairs, captions)
    rows = np.flatnonzero(changed.to_numpy())
    new = [captions[pair_id] for pair_id in pairs[PAIR_ID].take(rows).to_pylist()]
    index = np.arange(pairs.num_rows)
    index[rows] = pairs.num_rows + np.arange(len(new))
    pool = pa.chunked_array(
        [*pairs[CAPTIONS].chunks, pa.array(new, _CAPTION_LISTS)], _CAPTION_LISTS
    )
    replaced = pairs.set_column(pairs.schema.get_field_index(CAPTIONS), CAPTIONS, pool.take(index))
    return replaced.append_column(RECAPTIONED, changed)


def _is_in(pairs: pa.Table, pair_ids: Iterable[str]) -> pa.ChunkedArray:
    return pc.is_in(pairs[PAIR_ID], value_set=pa.array(list(pair_ids), pa.large_string()))


def check_root(root: Path) -> None:
    """Check that the folder of the data set exists."""
    if not root.is_dir():
        raise InputError(f"the data set's folder {root} is missing: put it back to export from it")


@contextmanager
def picture_files(cleaned: Cleaned, path: Path, progress: Progress | None) -> Iterator[Pictures]:
    """Yield an absolute folder, the names of the pictures in it, and notes.

    Pictures of archives or tables are extracted into a new `<stem>_images`, which is complete at
    the end or missing.
    """
    check_root(cleaned.root)
    images = cleaned.pairs[IMAGE]
    if not pc.any(pc.match_substring_regex(images, _IN_ARCHIVE)).as_py():
        root = os.path.realpath(cleaned.root)
        missing = [image for image in values_of(images) if picture_fault(root, image)]
        note = f"{len(missing):,} pictures are missing, first {missing[0]!r}" if missing else ""
        yield cleaned.root, images, counted((len(missing), note))
        return
    folder = beside(path, IMAGES).absolute()
    names = list[str]()
    with replacing_folder(folder, mark=MARK) as temporary:
        # named by row, as names in archives are not safe as file names
        for row, _, data in read_pictures(cleaned, progress):
            names.append(f"{row:08d}{suffix_of(data)}")
            (temporary / names[-1]).write_bytes(data)
        column = pa.chunked_array([pa.array(names, pa.large_string())])
        yield folder, column, (f"{len(names):,} pictures were extracted to {folder}",)


def values_of(column: pa.ChunkedArray) -> Iterator[Any]:
    """Yield a column's values, converted to Python objects in blocks."""
    for start in range(0, len(column), BLOCK):
        yield from column.slice(start, BLOCK).to_pylist()


def beside(path: Path, pattern: str) -> Path:
    """Return the second file or folder of an export, next to it; its name may use the export's name
    and stem."""
    return path.with_name(pattern.format(name=path.name, stem=path.stem))


def read_pictures(cleaned: Cleaned, progress: Progress | None) -> Iterator[tuple[int, str, bytes]]:
    """Yield row, reference and content of each picture; a missing one is an input error."""
    rows = zip(cleaned.pairs[_ROW].to_pylist(), values_of(cleaned.pairs[IMAGE]), strict=True)
    for done, (row, image) in enumerate(rows):
        if progress and done % 100 == 0:
            progress(done, cleaned.kept)
        try:
            yield row, image, read_bytes(cleaned.root, image)
        except FileNotFoundError as error:
            raise InputError(str(error)) from None
    if progress:
        progress(cleaned.kept, cleaned.kept)


def suffix_of(data: bytes) -> str:
    """Return the usual file suffix of a picture."""
    try:
        format = Image.open(io.BytesIO(data)).format or ""
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ".img"
    return _SUFFIXES.get(format, f".{format.lower()}")
