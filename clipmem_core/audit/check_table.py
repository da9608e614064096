"""The table of checks that need no model."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audit import store
from clipmem_core.audit.prepare import audit_pixels
from clipmem_core.audit.settings import towers_of
from clipmem_core.audit.store import Audit
from clipmem_core.config import AuditConfig
from clipmem_core.dataset.checks import (
    CHECKS,
    Captions,
    PictureMeasures,
    caption_frequencies,
    check_table,
    measure_pictures,
)
from clipmem_core.dataset.pictures import PictureError
from clipmem_core.io import InputError, write_once
from clipmem_core.training.names import model_config

NEAR_DUPLICATE_OF = "near_duplicate_of"


def ensure_checks(audit: Audit) -> Path:
    """Return the file of an audit's checks; compute it if it is missing."""
    path = audit.folder / store.CHECK_TABLE
    try:
        write_once(path, functools.partial(_write, audit))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def stored_checks(audit: Audit) -> Path | None:
    """Return the file of an audit's checks if it exists."""
    path = audit.folder / store.CHECK_TABLE
    return path if path.is_file() else None


def _write(audit: Audit, path: Path) -> None:
    pairs = audit.read_columns(store.PAIRS, c.PAIR_ID, c.IMAGE, c.WIDTH, c.HEIGHT)
    config = audit.record.config
    pictures = _pictures(audit, pairs)
    frequencies = caption_frequencies(captions for captions, _ in _captions(audit))
    names = [name for name, check in CHECKS.items() if check.of == "captions"]
    blocks = []
    for captions, count in _captions(audit):
        cut = _cut(config, list(captions.texts))
        captions = dataclasses.replace(captions, cut=cut, frequencies=frequencies)
        blocks.append(check_table(captions, PictureMeasures(), pairs=count)[names])
    table = check_table(Captions.from_pairs([]), pictures, pairs=len(pairs))
    table = table.assign(**pd.concat(blocks, ignore_index=True))
    table.insert(0, c.PAIR_ID, pairs[c.PAIR_ID])
    table[NEAR_DUPLICATE_OF] = pd.Series(None, table.index, dtype=object)
    if pictures.clusters is not None:
        rows = np.flatnonzero(table["near_duplicate"])
        first = pairs[c.PAIR_ID].to_numpy()[pictures.clusters[rows]]
        table.loc[rows, NEAR_DUPLICATE_OF] = first
    table.to_parquet(path, index=False, row_group_size=store.ROW_GROUP)


def _captions(audit: Audit) -> Iterator[tuple[Captions, int]]:
    for block in store.pair_blocks(audit, [c.CAPTIONS]):
        yield Captions.from_pairs(block[c.CAPTIONS].to_pylist()), len(block)


def _pictures(audit: Audit, pairs: pd.DataFrame) -> PictureMeasures:
    """Return the measurements of the pictures, without those that need missing files."""
    shape = pairs[[c.WIDTH, c.HEIGHT]].to_numpy()
    config = audit.record.config
    shorter = shape.min(axis=1) if shape.all() else None
    try:
        clusters = store.read_prepared(audit.folder).clusters
    except InputError:  # it may be missing from a finished audit
        return PictureMeasures(shorter)
    if config.features:
        return PictureMeasures(shorter, clusters)
    try:
        pixels = audit_pixels(audit, pairs[c.IMAGE])
        values = measure_pictures(pixels.gather, shape, padded=config.resize_mode == "longest")
    except (FileNotFoundError, InputError, PictureError):
        return PictureMeasures(shorter, clusters)
    return PictureMeasures(shorter, clusters, *values)


def _cut(config: AuditConfig, texts: list[str]) -> np.ndarray | None:
    """Tell which captions are longer than the text encoder reads, bool [n_captions]; None if that
    is unknown."""
    if config.features:
        return None
    sizes = np.array([len(text.encode("utf-8", "surrogatepass")) for text in texts])
    try:
        tower = towers_of(config).text if config.lock_text else None
        if tower:
            context = tower.context
        else:
            context = int(model_config(config.model)["text_cfg"].get("context_length", 77))
        cut = sizes > context - 2  # a token is at least one byte
        if cut.any():
            # torch, which the other checks do without
            from clipmem_core.audit.locked_towers import open_clip_lengths
            from clipmem_core.training.model import open_tokenizer

            long = [texts[row] for row in np.flatnonzero(cut)]
            if tower:
                lengths = tower.opened.lengths(long)
            else:
                lengths = open_clip_lengths(open_tokenizer(config.model), long)
            cut[cut] = lengths > context
    except InputError:
        return None
    return cut
