"""The table of checks that need no model: made with the audit, or when it is first asked for."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clipmem_core import columns as c
from clipmem_core.atomic import read_through
from clipmem_core.audits.prepare import pixels_folder
from clipmem_core.audits.settings import opened, towers_of
from clipmem_core.audits.store import (
    CHECK_TABLE,
    PAIRS,
    ROW_GROUP,
    Audit,
    Record,
    pair_blocks,
    read_prepared,
    read_table,
    whole_table,
)
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.pairs.checks import CHECKS, VERSION, Captions, Pictures, caption_frequencies, check_table, measure
from clipmem_core.pairs.pictures import PictureError, read_square
from clipmem_core.pairs.pixels import PIXELS_FILE, Pixels, open_pixels
from clipmem_core.training.names import model_config

LOOKALIKE_OF = "lookalike_of"
_VERSION_KEY = b"clipmem_checks"  # in the file's own metadata


def ensure_checks(audit: Audit) -> Path:
    """Return the file of an audit's checks, which is made unless it is there, whole and of today's checks.

    Its columns: pair_id; a bool for each check, null where it is not known; brightness, contrast and sharpness of the
    picture; lookalike_of, the id of the first pair of its group of look-alikes, null where it looks like no other.
    """
    path = audit.folder / CHECK_TABLE
    try:
        return read_through(path, functools.partial(_write, audit), _whole)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def kept_checks(audit: Audit) -> Path | None:
    """Return the file of an audit's checks where it is there, whole and of today's checks."""
    return _whole(audit.folder / CHECK_TABLE)


def _whole(path: Path) -> Path | None:
    if not path.is_file():
        return None
    status = path.stat()
    return path if _is_todays(path, status.st_ino, status.st_mtime_ns) else None


@functools.lru_cache(maxsize=64)
def _is_todays(path: Path, inode: int, time: int) -> bool:
    """Tell whether a file, which its inode and time tell from another, is whole and of today's checks."""
    return whole_table(path) and (pq.read_schema(path).metadata or {}).get(_VERSION_KEY) == str(VERSION).encode()


def _write(audit: Audit, path: Path) -> None:
    table = pa.Table.from_pandas(make_checks(audit), preserve_index=False)
    metadata = (table.schema.metadata or {}) | {_VERSION_KEY: str(VERSION).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=ROW_GROUP, write_page_checksum=True)


def make_checks(audit: Audit) -> pd.DataFrame:
    """Look at the captions and the small pictures of an audit and return the columns of `ensure_checks`."""
    record = audit.record
    pairs = read_table(audit.folder / PAIRS, columns=[c.PAIR_ID, c.IMAGE, c.WIDTH, c.HEIGHT])
    pictures = _pictures(audit, record, pairs)
    frequencies, found = caption_frequencies(own for own, _ in _captions(audit)), list[pd.DataFrame]()
    of_captions = [name for name, check in CHECKS.items() if check.of == "captions"]
    for own, count in _captions(audit):
        block = dataclasses.replace(own, cut=_cut(record.config, list(own.texts)), frequencies=frequencies)
        found.append(check_table(block, Pictures(), pairs=count)[of_captions])
    table = check_table(Captions.from_pairs([]), pictures, pairs=len(pairs))
    table = table.assign(**pd.concat(found, ignore_index=True))
    table.insert(0, c.PAIR_ID, pairs[c.PAIR_ID])
    first = np.full(len(pairs), None)
    if pictures.clusters is not None:
        alike = np.flatnonzero(table["lookalike"])
        first[alike] = pairs[c.PAIR_ID].iloc[pictures.clusters[alike]]
    table[LOOKALIKE_OF] = pd.Series(first, table.index, dtype=object)
    return table


def _captions(audit: Audit) -> Iterator[tuple[Captions, int]]:
    """Yield the captions of some pairs at a time, and how many pairs these are."""
    for block in pair_blocks(audit, [c.CAPTIONS]):
        yield Captions.from_pairs(block[c.CAPTIONS].to_pylist()), len(block)


def _pictures(audit: Audit, record: Record, pairs: pd.DataFrame) -> Pictures:
    """Return what is known of the pictures; where they are gone, or there are none, that is little."""
    shape = pairs[[c.WIDTH, c.HEIGHT]].to_numpy()
    shorter = shape.min(axis=1) if shape.all() else None
    try:
        prepared = read_prepared(audit.folder)
    except InputError:  # it may be missing from a finished audit
        return Pictures(shorter)
    if record.config.features:
        return Pictures(shorter, prepared.clusters)
    try:
        pixels = _small(audit, record, pairs, prepared.cache_rows)
        values = measure(pixels.gather, shape, padded=record.config.resize_mode == "longest")
    except (FileNotFoundError, InputError, PictureError):
        return Pictures(shorter, prepared.clusters)
    return Pictures(shorter, prepared.clusters, *values)


def _small(audit: Audit, record: Record, pairs: pd.DataFrame, rows: np.ndarray) -> Pixels:
    """Return the small pictures as they are stored, or decoded from the data set's files where they are not."""
    folder, root, images = pixels_folder(audit), record.pictures, pairs[c.IMAGE].tolist()
    if (folder / PIXELS_FILE).is_file():
        return open_pixels(folder, rows=rows, root=root, images=images)
    size = record.config.cache_size
    read = functools.partial(read_square, root, size=size, resize_mode=record.config.resize_mode)
    return Pixels(folder, rows, size, images, read)


def _cut(config: AuditConfig, texts: list[str]) -> np.ndarray | None:
    """Tell which captions are longer than an audit's text tower reads, bool [n_captions]; None where that is not known.

    The tower is asked only for those that may be: a token is at least one byte.
    """
    if config.features:
        return None
    try:
        context, count = _reader(config)
        sizes = np.array([len(text.encode("utf-8", "surrogatepass")) for text in texts])
        asked = np.flatnonzero(sizes > context - 2)
        cut = np.zeros(len(texts), bool)
        if len(asked):
            cut[asked] = count([texts[place] for place in asked]) > context
    except InputError:
        return None
    return cut


def _reader(config: AuditConfig) -> tuple[int, Callable[[list[str]], np.ndarray]]:
    """Return how many tokens the text tower of a config reads, and what counts those of captions."""
    if config.lock_text:
        from clipmem_core.features.embed import token_lengths  # torch, which the other checks do without

        tower = towers_of(config).text
        assert tower is not None
        return tower.context, lambda texts: token_lengths(opened(tower), texts)
    from clipmem_core.features.towers import open_clip_lengths
    from clipmem_core.training.model import open_tokenizer

    context = int(model_config(config.model)["text_cfg"].get("context_length", 77))
    return context, lambda texts: open_clip_lengths(open_tokenizer(config.model), texts)
