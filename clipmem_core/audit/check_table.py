"""The table of checks that need no model."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clipmem_core import columns as c
from clipmem_core.audit import store
from clipmem_core.audit.prepare import pixels_folder
from clipmem_core.audit.settings import towers_of
from clipmem_core.audit.store import Audit
from clipmem_core.config import AuditConfig
from clipmem_core.dataset.checks import (
    CHECKS,
    VERSION,
    Captions,
    Pictures,
    caption_frequencies,
    check_table,
    measure,
)
from clipmem_core.dataset.pictures import PictureError
from clipmem_core.dataset.pixels import open_pixels
from clipmem_core.io import InputError, write_once
from clipmem_core.training.names import model_config

NEAR_DUPLICATE_OF = "near_duplicate_of"
_VERSION_KEY = b"clipmem_checks"  # in the file's metadata


def ensure_checks(audit: Audit) -> Path:
    """Return the file of an audit's checks; compute it if it is missing or of another version of
    the checks."""
    path = audit.folder / store.CHECK_TABLE
    try:
        if stored_checks(audit) is None:
            path.unlink(missing_ok=True)
            write_once(path, functools.partial(_write, audit))
        return path
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def stored_checks(audit: Audit) -> Path | None:
    """Return the file of an audit's checks if it exists in this version."""
    path = audit.folder / store.CHECK_TABLE
    try:
        version = (pq.read_schema(path).metadata or {}).get(_VERSION_KEY)
    except (FileNotFoundError, ValueError, pa.ArrowException):
        return None
    return path if version == str(VERSION).encode() else None


def _write(audit: Audit, path: Path) -> None:
    record = audit.record
    pairs = store.read_table(
        audit.folder / store.PAIRS, columns=[c.PAIR_ID, c.IMAGE, c.WIDTH, c.HEIGHT]
    )
    pictures = _pictures(audit, pairs)
    frequencies = caption_frequencies(captions for captions, _ in _captions(audit))
    names = [name for name, check in CHECKS.items() if check.of == "captions"]
    blocks = []
    for captions, count in _captions(audit):
        cut = _cut(record.config, list(captions.texts))
        captions = dataclasses.replace(captions, cut=cut, frequencies=frequencies)
        blocks.append(check_table(captions, Pictures(), pairs=count)[names])
    table = check_table(Captions.from_pairs([]), pictures, pairs=len(pairs))
    table = table.assign(**pd.concat(blocks, ignore_index=True))
    table.insert(0, c.PAIR_ID, pairs[c.PAIR_ID])
    first = np.full(len(pairs), None)
    if pictures.clusters is not None:
        rows = np.flatnonzero(table["near_duplicate"])
        first[rows] = pairs[c.PAIR_ID].iloc[pictures.clusters[rows]]
    table[NEAR_DUPLICATE_OF] = pd.Series(first, table.index, dtype=object)
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    metadata = (arrow.schema.metadata or {}) | {_VERSION_KEY: str(VERSION).encode()}
    pq.write_table(arrow.replace_schema_metadata(metadata), path, row_group_size=store.ROW_GROUP)


def _captions(audit: Audit) -> Iterator[tuple[Captions, int]]:
    for block in store.pair_blocks(audit, [c.CAPTIONS]):
        yield Captions.from_pairs(block[c.CAPTIONS].to_pylist()), len(block)


def _pictures(audit: Audit, pairs: pd.DataFrame) -> Pictures:
    """Return the measurements of the pictures, without those that need missing files."""
    shape = pairs[[c.WIDTH, c.HEIGHT]].to_numpy()
    config = audit.record.config
    shorter = shape.min(axis=1) if shape.all() else None
    try:
        prepared = store.read_prepared(audit.folder)
    except InputError:  # it may be missing from a finished audit
        return Pictures(shorter)
    if config.features:
        return Pictures(shorter, prepared.clusters)
    folder = pixels_folder(audit)
    root = audit.record.pictures
    images = pairs[c.IMAGE].tolist()
    square: dict[str, Any] = {"size": config.cache_size, "resize_mode": config.resize_mode}
    try:
        pixels = open_pixels(folder, rows=prepared.cache_rows, root=root, images=images, **square)
        values = measure(pixels.gather, shape, padded=config.resize_mode == "longest")
    except (FileNotFoundError, InputError, PictureError):
        return Pictures(shorter, prepared.clusters)
    return Pictures(shorter, prepared.clusters, *values)


def _cut(config: AuditConfig, texts: list[str]) -> np.ndarray | None:
    """Tell which captions are longer than the text encoder reads, bool [n_captions]; None if that
    is unknown."""
    if config.features:
        return None
    try:
        tower = towers_of(config).text if config.lock_text else None
        context = (
            tower.context
            if tower
            else int(model_config(config.model)["text_cfg"].get("context_length", 77))
        )
        sizes = np.array([len(text.encode("utf-8", "surrogatepass")) for text in texts])
        cut = sizes > context - 2  # a token is at least one byte
        if cut.any():
            from clipmem_core.features import towers  # torch, which the other checks do without
            from clipmem_core.training.model import open_tokenizer

            long = [texts[row] for row in np.flatnonzero(cut)]
            if tower:
                lengths = tower.open().lengths(long)
            else:
                lengths = towers.open_clip_lengths(open_tokenizer(config.model), long)
            cut[cut] = lengths > context
    except InputError:
        return None
    return cut
