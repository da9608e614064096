"""The cleaned data set: the pairs of an audit that were not removed, with their new captions, and their pictures as
files that any program can open."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipmem_core.audits.prepare import content_fingerprint
from clipmem_core.audits.store import PAIRS, Audit, read_table, reading
from clipmem_core.columns import CAPTIONS, HEIGHT, IMAGE, LABEL, MISCAPTION, PAIR_ID, PLANTED, WIDTH
from clipmem_core.config import InputError, data_folder
from clipmem_core.pairs.readers.files import picture_check, tidy
from clipmem_core.pairs.references import read_bytes
from clipmem_core.pairs.table import read_source
from clipmem_core.review.decisions import FOR_OTHER, RECAPTION, REMOVE, open_review

ROW = "row"  # the pair's row in the audit
RECAPTIONED = "recaptioned"
BLOCK = 20_000  # pairs that are Python objects at a time
Progress = Callable[[int, int], None]
_IN_ARCHIVE = r"(?i)\.tar/|\.(parquet|arrow)#[0-9]+$"
_SIGNATURES = (  # offset, first bytes and ending of the formats that are decoded
    *((0, b"\xff\xd8\xff", ".jpg"), (0, b"\x89PNG", ".png"), (0, b"GIF8", ".gif"), (8, b"WEBP", ".webp")),
    *((0, b"BM", ".bmp"), (0, b"II*\0", ".tif"), (0, b"MM\0*", ".tif"), (4, b"ftypavi", ".avif")),
    *((4, b"jP  ", ".jp2"), (0, b"\xff\x4f\xff\x51", ".j2k"), (0, b"P", ".pnm")),
)
_CAPTION_LISTS = pa.large_list(pa.large_string())  # 64-bit offsets: a million pairs may have more than 2 GB of text


@dataclass(frozen=True)
class Cleaned:
    """A cleaned data set.

    `pairs` has row, pair_id, image, captions, label, width, height and recaptioned (bool), `gone` the same of the pairs
    to be removed, both in the audit's order.
    """

    audit: Audit
    root: Path  # image references are relative to it
    pairs: pa.Table
    gone: pa.Table
    notes: tuple[str, ...]  # for a person, whatever the format

    @property
    def kept(self) -> int:
        return self.pairs.num_rows

    @property
    def removed(self) -> int:
        return self.gone.num_rows

    @property
    def recaptioned(self) -> int:
        return pc.sum(self.pairs[RECAPTIONED]).as_py() or 0


def clean(audit: Audit) -> Cleaned:
    """Apply the decisions that were made on the captions which are exported.

    Pairs with planted captions get the data set's own back: decisions on the planted ones do not count.
    """
    path, strings = audit.folder / PAIRS, pa.large_string()
    with reading(path):
        table = pq.read_table(path, columns=[PAIR_ID, IMAGE, CAPTIONS, LABEL, WIDTH, HEIGHT, PLANTED])
    types = {PAIR_ID: strings, IMAGE: strings, LABEL: strings, CAPTIONS: _CAPTION_LISTS}
    table = table.cast(pa.schema([(field.name, types.get(field.name, field.type)) for field in table.schema]))
    table = table.add_column(0, ROW, pa.array(np.arange(table.num_rows)))
    pairs = _with_captions(table, _original_captions(audit))
    restored = pc.sum(pairs[RECAPTIONED]).as_py() or 0
    decisions = replace(open_review(audit), pairs=pairs.select([PAIR_ID, CAPTIONS])).table()
    remove = _among(pairs, decisions.loc[decisions["decision"] == REMOVE, PAIR_ID])
    for_other = pc.sum(_among(pairs, decisions.loc[decisions[FOR_OTHER].notna(), PAIR_ID])).as_py() or 0
    chosen = decisions[decisions["decision"] == RECAPTION]
    # as a reader would take them from a file: tidy, none empty, none twice
    tidied = ([text for text in dict.fromkeys(map(tidy, texts)) if text] for texts in chosen[CAPTIONS])
    new = {pair_id: texts for pair_id, texts in zip(chosen[PAIR_ID], tidied, strict=True) if texts}
    kept = _with_captions(pairs.filter(pc.invert(remove)).drop_columns([PLANTED, RECAPTIONED]), new)
    if kept.num_rows == 0:
        raise InputError(f"every pair of audit {audit.name!r} is to be removed: nothing is left to export")
    quarantined, most, empty = len(audit.quarantine), audit.record.config.captions, len(chosen) - len(new)
    swapped = "have their own captions again, which the audit had swapped to plant mistakes"
    other = "were decided on with other captions, as where mistakes are planted: that does not count"
    notes = counted(
        (quarantined, f"{quarantined:,} quarantined input rows are not in it"),
        (restored, f"{restored:,} pairs {swapped}"),
        (for_other, f"{for_other:,} pairs {other}"),
        (most, f"only the first {most} captions of a pair are in it: the audit used no more (--captions)"),
        (empty, f"{empty:,} pairs to be recaptioned keep their captions: the new ones are empty"),
    )
    return Cleaned(audit, audit.record.pictures, kept, pairs.filter(remove), notes)


def counted(*notes: tuple[int, str]) -> tuple[str, ...]:
    """Return the notes whose count is not 0."""
    return tuple(note for count, note in notes if count)


def _with_captions(pairs: pa.Table, captions: dict[str, list[str]]) -> pa.Table:
    """Return the pairs with the captions that `captions` has for some, and the column that marks those."""
    changed = _among(pairs, captions)
    if not captions:
        return pairs.append_column(RECAPTIONED, changed)
    places = np.flatnonzero(changed.to_numpy())
    new = [captions[pair_id] for pair_id in pairs[PAIR_ID].take(places).to_pylist()]
    index = np.arange(pairs.num_rows)
    index[places] = pairs.num_rows + np.arange(len(new))
    pool = pa.chunked_array([*pairs[CAPTIONS].chunks, pa.array(new, _CAPTION_LISTS)], _CAPTION_LISTS)
    replaced = pairs.set_column(pairs.schema.get_field_index(CAPTIONS), CAPTIONS, pool.take(index))
    return replaced.append_column(RECAPTIONED, changed)


def _among(pairs: pa.Table, pair_ids: Iterable[str]) -> pa.ChunkedArray:
    return pc.is_in(pairs[PAIR_ID], value_set=pa.array(list(pair_ids), pa.large_string()))


def is_planted(audit: Audit) -> bool:
    """Tell whether the audit gave pairs another's captions."""
    return bool(audit.record.config.plant_miscaptions)


def _original_captions(audit: Audit) -> dict[str, list[str]]:
    """Return the data set's captions of the pairs that the audit gave another's; empty if it planted none.

    The audit stores the key of its data set's content from before captions were swapped: the source must give the same
    key with every id, picture and caption.
    """
    record = audit.record
    if not is_planted(audit):
        return {}
    pairs = read_table(audit.folder / PAIRS)
    config, reason = record.config, f"{record.source} is no longer what the audit read"
    try:
        source = read_source(record.source, config.source, data=data_folder()).pairs
        own = dict(zip(source[PAIR_ID], (texts[: config.captions or None] for texts in source[CAPTIONS]), strict=True))
        swapped = pairs.loc[pairs[PLANTED] == MISCAPTION, PAIR_ID]
        restored = {pair_id: own[pair_id] for pair_id in swapped if pair_id in own}
        texts = [restored.get(pair_id, there) for pair_id, there in zip(pairs[PAIR_ID], pairs[CAPTIONS], strict=True)]
        if content_fingerprint(pairs.assign(**{CAPTIONS: texts})) == record.dataset_fingerprint:
            return restored
    except InputError as error:
        reason = str(error)
    raise InputError(
        f"audit {audit.name!r} planted wrong captions, and the right ones cannot be restored ({reason}): "
        "audit the data set without --plant-miscaptions and export that"
    )


@dataclass(frozen=True)
class Pictures:
    """The picture files of a cleaned data set: `names` are relative to `folder`, which is absolute."""

    folder: Path
    names: pa.ChunkedArray
    notes: tuple[str, ...]


def check_root(root: Path) -> None:
    """Refuse a data set whose folder is gone."""
    if not root.is_dir():
        raise InputError(f"the data set's folder {root} is gone: bring it back to export from it")


@contextmanager
def picture_files(cleaned: Cleaned, path: Path, *, progress: Progress | None = None) -> Iterator[Pictures]:
    """Give the pictures as files; if some lie in archives or tables, all are written into `<stem>_images` by `path`.

    That folder is complete when the block has ended well, or not there at all; an older one is replaced.
    """
    check_root(cleaned.root)
    images = cleaned.pairs[IMAGE]
    if not pc.any(pc.match_substring_regex(images, _IN_ARCHIVE)).as_py():
        gone = list(filter(picture_check(cleaned.root), texts_of(images)))
        note = f"{len(gone):,} pictures are no longer there, first {gone[0]!r}" if gone else ""
        yield Pictures(cleaned.root, images, counted((len(gone), note)))
        return
    folder, names = images_folder(path).absolute(), list[str]()
    with replacing_folder(folder) as temporary:
        # named after their rows: the names in archives are not safe as file names
        for done, (row, image) in enumerate(zip(cleaned.pairs[ROW].to_pylist(), images.to_pylist(), strict=True)):
            data = read_picture(cleaned.root, image)
            names.append(f"{row:08d}{suffix_of(data)}")
            (temporary / names[-1]).write_bytes(data)
            if progress and done % 100 == 0:
                progress(done, cleaned.kept)
        if progress:
            progress(cleaned.kept, cleaned.kept)
        column = pa.chunked_array([pa.array(names, pa.large_string())])
        yield Pictures(folder, column, (f"{len(names):,} pictures were written to {folder}",))


def texts_of(column: pa.ChunkedArray) -> Iterator[str]:
    """Yield a column's texts; only a block of them at a time are Python objects."""
    for start in range(0, len(column), BLOCK):
        yield from column.slice(start, BLOCK).to_pylist()


def images_folder(path: Path) -> Path:
    """Return the folder beside an export for pictures that are not files yet."""
    return path.with_name(f"{path.stem}_images")


def read_picture(root: Path, image: str) -> bytes:
    """Read a picture; one that is gone is an input error."""
    try:
        return read_bytes(root, image)
    except FileNotFoundError as error:
        raise InputError(str(error)) from None


def suffix_of(data: bytes) -> str:
    """Return the usual file ending of a picture, by its first bytes.

    Example:
        >>> suffix_of(b"GIF89a")
        '.gif'
    """
    known = (suffix for start, mark, suffix in _SIGNATURES if data[start : start + len(mark)] == mark)
    return next(known, ".img")


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder that takes the place of `folder` when the block ends well and vanishes when it does not."""
    folder = folder.resolve()
    temporary, old = (folder.with_name(f".{folder.name}.{what}") for what in ("unfinished", "old"))
    for left in (temporary, old):  # by a killed export
        shutil.rmtree(left, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            folder.replace(old)
        temporary.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
