"""The table of checks that need no model, made with the audit or at its first use."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clipmem_core import columns as c
from clipmem_core.audits import store
from clipmem_core.audits.prepare import pixels_folder
from clipmem_core.audits.settings import opened, towers_of
from clipmem_core.audits.store import Audit
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.io import read_through
from clipmem_core.pairs.checks import CHECKS, VERSION, Captions, Pictures, caption_frequencies, check_table, measure
from clipmem_core.pairs.pictures import PictureError, read_square
from clipmem_core.pairs.pixels import PIXELS_FILE, Pixels, open_pixels
from clipmem_core.training.names import model_config

LOOKALIKE_OF = "lookalike_of"
_VERSION_KEY = b"clipmem_checks"  # in the file's metadata


def ensure_checks(audit: Audit) -> Path:
    """Return the file of an audit's checks, made if it is missing, broken or of another version of the checks.

    Its columns: pair_id; a bool for each check, null if unknown; brightness, contrast and sharpness of the picture;
    lookalike_of, the id of the first of its near-duplicates, or null.
    """
    path = audit.folder / store.CHECK_TABLE
    try:
        return read_through(path, functools.partial(_write, audit), lambda _: stored_checks(audit))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def stored_checks(audit: Audit) -> Path | None:
    """Return the file of an audit's checks if it exists and is of this version of the checks."""
    path = audit.folder / store.CHECK_TABLE
    try:
        version = (pq.read_schema(path).metadata or {}).get(_VERSION_KEY)
    except (FileNotFoundError, ValueError, pa.ArrowException):
        return None
    return path if version == str(VERSION).encode() else None


def _write(audit: Audit, path: Path) -> None:
    record = audit.record
    pairs = store.read_table(audit.folder / store.PAIRS, columns=[c.PAIR_ID, c.IMAGE, c.WIDTH, c.HEIGHT])
    pictures = _pictures(audit, pairs)
    frequencies = caption_frequencies(captions for captions, _ in _captions(audit))
    names = [name for name, check in CHECKS.items() if check.of == "captions"]
    found = []
    for captions, count in _captions(audit):
        cut = _cut(record.config, list(captions.texts))
        block = dataclasses.replace(captions, cut=cut, frequencies=frequencies)
        found.append(check_table(block, Pictures(), pairs=count)[names])
    table = check_table(Captions.from_pairs([]), pictures, pairs=len(pairs))
    table = table.assign(**pd.concat(found, ignore_index=True))
    table.insert(0, c.PAIR_ID, pairs[c.PAIR_ID])
    first = np.full(len(pairs), None)
    if pictures.clusters is not None:
        alike = np.flatnonzero(table["lookalike"])
        first[alike] = pairs[c.PAIR_ID].iloc[pictures.clusters[alike]]
    table[LOOKALIKE_OF] = pd.Series(first, table.index, dtype=object)
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    metadata = (arrow.schema.metadata or {}) | {_VERSION_KEY: str(VERSION).encode()}
    pq.write_table(arrow.replace_schema_metadata(metadata), path, row_group_size=store.ROW_GROUP)


def _captions(audit: Audit) -> Iterator[tuple[Captions, int]]:
    for block in store.pair_blocks(audit, [c.CAPTIONS]):
        yield Captions.from_pairs(block[c.CAPTIONS].to_pylist()), len(block)


def _pictures(audit: Audit, pairs: pd.DataFrame) -> Pictures:
    """Return the measurements of the pictures; few of them if the pictures are gone."""
    shape, config = pairs[[c.WIDTH, c.HEIGHT]].to_numpy(), audit.record.config
    shorter = shape.min(axis=1) if shape.all() else None
    try:
        prepared = store.read_prepared(audit.folder)
    except InputError:  # it may be missing from a finished audit
        return Pictures(shorter)
    if config.features:
        return Pictures(shorter, prepared.clusters)
    folder, root, images = pixels_folder(audit), audit.record.pictures, pairs[c.IMAGE].tolist()
    try:
        if (folder / PIXELS_FILE).is_file():
            pixels = open_pixels(folder, rows=prepared.cache_rows, root=root, images=images)
        else:
            read = functools.partial(read_square, root, size=config.cache_size, resize_mode=config.resize_mode)
            pixels = Pixels(folder, prepared.cache_rows, config.cache_size, images, read)
        values = measure(pixels.gather, shape, padded=config.resize_mode == "longest")
    except (FileNotFoundError, InputError, PictureError):
        return Pictures(shorter, prepared.clusters)
    return Pictures(shorter, prepared.clusters, *values)


def _cut(config: AuditConfig, texts: list[str]) -> np.ndarray | None:
    """Tell which captions are longer than the text tower reads, bool [n_captions]; None if that is unknown."""
    if config.features:
        return None
    cut = np.zeros(len(texts), bool)
    try:
        context, count = _tokenizer(config)
        sizes = np.array([len(text.encode("utf-8", "surrogatepass")) for text in texts])
        long = np.flatnonzero(sizes > context - 2)  # a token is at least one byte
        if len(long):
            cut[long] = count([texts[place] for place in long]) > context
    except InputError:
        return None
    return cut


def _tokenizer(config: AuditConfig) -> tuple[int, Callable[[list[str]], np.ndarray]]:
    """Return how many tokens the text tower reads, and the function that counts those of captions."""
    if config.lock_text:
        from clipmem_core.features.embed import token_lengths  # torch, which the other checks do without

        tower = towers_of(config).text
        assert tower is not None
        return tower.context, lambda texts: token_lengths(opened(tower), texts)
    from clipmem_core.features.towers import open_clip_lengths
    from clipmem_core.training.model import open_tokenizer

    context = int(model_config(config.model)["text_cfg"].get("context_length", 77))
    return context, lambda texts: open_clip_lengths(open_tokenizer(config.model), texts)
