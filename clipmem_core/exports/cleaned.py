"""The cleaned data set: the pairs of an audit that stay by what was decided, with the captions they are to have, and
their pictures as files that any program can open."""

import os
import posixpath
import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipmem_core.audits.prepare import content_fingerprint
from clipmem_core.audits.store import PAIRS, Audit, read_table, reading
from clipmem_core.columns import CAPTIONS, HEIGHT, IMAGE, LABEL, MISCAPTION, PAIR_ID, PLANTED, WIDTH
from clipmem_core.config import DEFAULT_PRESET, InputError, data_folder
from clipmem_core.pairs.readers.containers import file_faults
from clipmem_core.pairs.readers.shards import odd_names
from clipmem_core.pairs.readers.text import tidy
from clipmem_core.pairs.references import read_bytes, split_reference
from clipmem_core.pairs.table import read_source
from clipmem_core.review.decisions import FOR_OTHER, RECAPTION, REMOVE, open_review

ROW = "row"  # the pair's row in the audit
RECAPTIONED = "recaptioned"
AT_ONCE = 20_000  # pairs that are Python's objects
Progress = Callable[[int, int], None]
_INSIDE = r"(?i)\.tar/|\.(parquet|arrow)#[0-9]+$"
_SIGNATURES = (  # of the formats that pictures are decoded from
    (0, b"\xff\xd8\xff", ".jpg"),
    (0, b"\x89PNG", ".png"),
    (0, b"GIF8", ".gif"),
    (8, b"WEBP", ".webp"),
    (0, b"BM", ".bmp"),
    (0, b"II*\0", ".tif"),
    (0, b"MM\0*", ".tif"),
    (4, b"ftypavi", ".avif"),
    (4, b"jP  ", ".jp2"),
    (0, b"\xff\x4f\xff\x51", ".j2k"),
    (0, b"P", ".pnm"),
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
    notes: tuple[str, ...]  # what a person should know of it, whatever the format

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
    """Apply the decisions on an audit's pairs that were made on the captions which are written.

    Those of pairs with planted captions are the data set's own: what was decided on the planted ones does not count.

    Raises:
        InputError: no pair would stay, a file of the audit is missing or broken, or it planted wrong captions and the
            right ones cannot be had back.
    """
    pairs = _with_captions(_read_pairs(audit), planted_captions(audit))
    decisions = replace(open_review(audit), pairs=pairs.select([PAIR_ID, CAPTIONS])).table()
    remove = _among(pairs, decisions.loc[decisions["decision"] == REMOVE, PAIR_ID])
    gone = pairs.filter(remove)
    new, empty = _new_captions(decisions)
    notes = _notes(audit, pairs, decisions, empty)
    kept = _with_captions(pairs.filter(pc.invert(remove)).drop_columns([PLANTED, RECAPTIONED]), new)
    if kept.num_rows == 0:
        raise InputError(f"every pair of audit {audit.name!r} is to be removed: nothing is left to export")
    return Cleaned(audit, audit.record.pictures, kept, gone, notes)


def _read_pairs(audit: Audit) -> pa.Table:
    path = audit.folder / PAIRS
    columns = [PAIR_ID, IMAGE, CAPTIONS, LABEL, WIDTH, HEIGHT, PLANTED]
    with reading(path):
        table = pq.read_table(path, columns=columns)
    types = {PAIR_ID: pa.large_string(), IMAGE: pa.large_string(), LABEL: pa.large_string(), CAPTIONS: _CAPTION_LISTS}
    table = table.cast(pa.schema([(field.name, types.get(field.name, field.type)) for field in table.schema]))
    return table.add_column(0, ROW, pa.array(np.arange(table.num_rows)))


def _with_captions(pairs: pa.Table, captions: dict[str, list[str]]) -> pa.Table:
    """Return the pairs with other captions where `captions` names some, and the column that says where."""
    changed = _among(pairs, captions)
    if not captions:
        return pairs.append_column(RECAPTIONED, changed)
    places = np.flatnonzero(changed.to_numpy())
    new = [captions[pair_id] for pair_id in pairs[PAIR_ID].take(places).to_pylist()]
    index = np.arange(pairs.num_rows)
    index[places] = pairs.num_rows + np.arange(len(new))
    pool = pa.chunked_array([*pairs[CAPTIONS].chunks, pa.array(new, _CAPTION_LISTS)], _CAPTION_LISTS)
    swapped = pairs.set_column(pairs.schema.get_field_index(CAPTIONS), CAPTIONS, pool.take(index))
    return swapped.append_column(RECAPTIONED, changed)


def _new_captions(decisions: pd.DataFrame) -> tuple[dict[str, list[str]], int]:
    """Return pair_id → its new captions, and how many pairs were to get captions that say nothing."""
    chosen = decisions[decisions["decision"] == RECAPTION]
    # as a reader would take them from a file: tidy, none empty, none twice
    tidied = (filter(None, dict.fromkeys(map(tidy, texts))) for texts in chosen[CAPTIONS])
    new = {pair_id: texts for pair_id, texts in zip(chosen[PAIR_ID], map(list, tidied), strict=True) if texts}
    return new, len(chosen) - len(new)


def _notes(audit: Audit, pairs: pa.Table, decisions: pd.DataFrame, empty: int) -> tuple[str, ...]:
    quarantined = len(audit.quarantine)
    most = audit.record.config.captions
    restored = pairs.filter(pairs[RECAPTIONED])
    away = _count(pairs, decisions.loc[decisions[FOR_OTHER].notna(), PAIR_ID])
    misled = _count(restored, _decided(decisions) & _decided(open_review(audit).table())) if len(restored) else 0
    own = "have their own captions again, which the audit had swapped to plant mistakes"
    other = "were decided on with other captions, as where mistakes are planted: that does not count"
    return counted(
        (quarantined, f"{quarantined:,} quarantined input rows are not in it"),
        (len(restored), f"{len(restored):,} pairs {own}"),
        (misled, f"{misled:,} of these were decided on, perhaps for the planted caption's sake: look at them again"),
        (away, f"{away:,} pairs {other}"),
        (most, f"only the first {most} captions of a pair are in it: the audit used no more (--captions)"),
        (empty, f"{empty:,} pairs to be recaptioned keep their captions: the new ones are empty"),
    )


def counted(*notes: tuple[int, str]) -> tuple[str, ...]:
    """Return the notes whose count is not 0."""
    return tuple(note for count, note in notes if count)


def _decided(decisions: pd.DataFrame) -> set[str]:
    return set(decisions.loc[decisions["decision"].notna(), PAIR_ID])


def _among(pairs: pa.Table, pair_ids: Iterable[str]) -> pa.ChunkedArray:
    """Tell of each pair whether its id is one of some."""
    return pc.is_in(pairs[PAIR_ID], value_set=pa.array(list(pair_ids), pa.large_string()))


def _count(pairs: pa.Table, pair_ids: Iterable[str]) -> int:
    return pc.sum(_among(pairs, pair_ids)).as_py() or 0


def planted_captions(audit: Audit) -> dict[str, list[str]]:
    """Return the own captions of the pairs that the audit gave another's; empty where it planted none.

    The audit keeps the key of its data set's content as it was before captions were swapped: what is read again must
    give the same key with every id, picture and caption.

    Raises:
        InputError: the source cannot be read, or is no longer what the audit read.
    """
    record = audit.record
    if not is_planted(audit):
        return {}
    pairs = read_table(audit.folder / PAIRS)
    config = record.config
    try:
        source = read_source(record.source, config.source, data=data_folder()).pairs
    except InputError as error:
        raise _refusal(audit, str(error)) from None
    own = {key: texts[: config.captions or None] for key, texts in zip(source[PAIR_ID], source[CAPTIONS], strict=True)}
    swapped = pairs.loc[pairs[PLANTED] == MISCAPTION, PAIR_ID]
    restored = {pair_id: own[pair_id] for pair_id in swapped if pair_id in own}
    texts = [restored.get(pair_id, there) for pair_id, there in zip(pairs[PAIR_ID], pairs[CAPTIONS], strict=True)]
    if content_fingerprint(pairs.assign(**{CAPTIONS: texts})) != record.dataset_fingerprint:
        raise _refusal(audit, f"{record.source} is no longer what the audit read")
    return restored


def is_planted(audit: Audit) -> bool:
    """Tell whether the audit gave pairs another's captions."""
    return bool(audit.record.config.plant_miscaptions)


def _refusal(audit: Audit, reason: str) -> InputError:
    return InputError(
        f"audit {audit.name!r} planted wrong captions, and the right ones cannot be had back ({reason}): "
        "audit the data set without --plant-miscaptions and export that"
    )


@dataclass(frozen=True)
class Pictures:
    """Where the pictures of a cleaned data set are: `names` are relative to `folder`, which is absolute."""

    folder: Path
    names: pa.ChunkedArray
    notes: tuple[str, ...]


def check_root(root: Path) -> None:
    """Refuse a data set whose pictures are not here.

    Raises:
        InputError: its folder is gone.
    """
    if not root.is_dir():
        raise InputError(f"the data set's folder {root} is gone: bring it back to export from it")


@contextmanager
def openable(cleaned: Cleaned, path: Path, *, progress: Progress | None = None) -> Iterator[Pictures]:
    """Give the pictures as files. Where some lie in archives or tables, all are written into `<stem>_images`.

    That folder, beside `path`, is there whole when the block has ended well, or not at all; an older one is replaced.

    Raises:
        InputError: the data set's folder is gone, or a picture in an archive cannot be read.
    """
    check_root(cleaned.root)
    images = cleaned.pairs[IMAGE]
    if not pc.any(pc.match_substring_regex(images, _INSIDE)).as_py():
        folders, _ = pd.factorize(pc.replace_substring_regex(images, r"/?[^/]*$", "").to_pandas())
        by_folder = texts_of(images.take(np.argsort(folders, kind="stable")))
        first, gone = "", 0
        for image, _ in file_faults(cleaned.root, by_folder):
            first, gone = first or image, gone + 1
        yield Pictures(cleaned.root, images, counted((gone, f"{gone:,} pictures are no longer there, first {first!r}")))
        return
    folder = images_folder(path).absolute()
    with replacing_folder(folder) as temporary:
        names = _write_out(cleaned, temporary, progress)
        yield Pictures(folder, names, (f"{len(names):,} pictures were written to {folder}",))


def texts_of(column: pa.ChunkedArray) -> Iterator[str]:
    """Yield a column's texts, of which few are Python's at a time."""
    for start in range(0, len(column), AT_ONCE):
        yield from column.slice(start, AT_ONCE).to_pylist()


def audit_command(cleaned: Cleaned, path: Path, images: Path | None = None) -> str:
    """Return what to type to audit an export: under a new name, with the audit's preset and protocol.

    Args:
        cleaned: what was exported.
        path: where to.
        images: the folder of its pictures, where they do not lie beside it.
    """
    config = cleaned.audit.record.config
    words = ["audit", str(path), "--name", f"{cleaned.audit.name}-clean"]
    words += ["--image-folder", str(images)] if images else []
    for field, usual in (("preset", DEFAULT_PRESET), ("protocol", "ensemble")):
        words += [f"--{field}", getattr(config, field)] if getattr(config, field) != usual else []
    return f"python -m clipmem_core {shlex.join(words)}"


def images_folder(path: Path) -> Path:
    """Return the folder beside an export that its pictures are written to, where they are no files yet."""
    return path.with_name(f"{path.stem}_images")


def suffix_of(data: bytes) -> str:
    """Return the usual file ending of a picture, by its first bytes.

    Example:
        >>> suffix_of(b"GIF89a")
        '.gif'
    """
    known = (suffix for start, mark, suffix in _SIGNATURES if data[start : start + len(mark)] == mark)
    return next(known, ".img")


def _write_out(cleaned: Cleaned, folder: Path, progress: Progress | None) -> pa.ChunkedArray:
    """Write each picture as it is, named after its pair's row: the names in archives are not safe as files'."""
    names = []
    rows = cleaned.pairs[ROW].to_pylist()
    for done, (row, image) in enumerate(zip(rows, cleaned.pairs[IMAGE].to_pylist(), strict=True)):
        try:
            data = read_bytes(cleaned.root, image)
        except FileNotFoundError as error:
            raise InputError(str(error)) from None
        names.append(f"{row:08d}{suffix_of(data)}")
        (folder / names[-1]).write_bytes(data)
        if progress and done % 100 == 0:
            progress(done, len(rows))
    if progress:
        progress(len(rows), len(rows))
    return pa.chunked_array([pa.array(names, pa.large_string())])


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder that takes the place of `folder` when the block ends well and vanishes when it does not."""
    _clear(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            folder.replace(old)
        temporary.replace(folder)
    finally:
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)


def _clear(folder: Path) -> None:
    """Remove what exports to a folder have left beside it that were killed; those that run keep theirs."""
    own = re.compile(rf"\.{re.escape(folder.name)}\.(\d+)(\.old)?")
    for path in folder.parent.iterdir() if folder.parent.is_dir() else ():
        left = own.fullmatch(path.name)
        if left and (int(left[1]) == os.getpid() or not psutil.pid_exists(int(left[1]))):
            shutil.rmtree(path, ignore_errors=True)


def sample_keys(root: Path, images: pa.ChunkedArray) -> list[str]:
    """Return the WebDataset key of each picture's sample; of a picture in no tar, its reference without its ending."""
    keys, odd = [], lru_cache(maxsize=4)(odd_names)
    for image in images.to_pylist():
        path, part = split_reference(root, image)
        if part is None:
            keys.append(posixpath.splitext(image)[0])
        elif isinstance(part, int):
            keys.append(image)
        else:
            keys.append(webdataset_key(odd(path).get(part, part)))
    return keys


def webdataset_key(member: str) -> str:
    """Return what webdataset calls the key of a tar's member: its path up to the first dot of its name.

    Example:
        >>> webdataset_key("./train/0001.left.jpg")
        './train/0001'
    """
    folder, slash, name = member.rpartition("/")
    return folder + slash + name.partition(".")[0]
