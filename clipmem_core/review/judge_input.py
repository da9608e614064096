"""Reads captions to judge: for which pair of an audit each is, for a new pair, or why it cannot be
used."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from clipmem_core.auditing.folder.prepare import DataSet, load_pictures
from clipmem_core.auditing.folder.status import Screen
from clipmem_core.auditing.folder.store import PAIRS, Audit
from clipmem_core.config import SourceOptions, data_folder
from clipmem_core.dataset.readers.containers import as_name, is_missing, normal_reference, tidy
from clipmem_core.dataset.readers.records import Row, Rows, in_image_folder, merge_rows
from clipmem_core.dataset.source import RawPairs, read_source
from clipmem_core.features.cache import ReportCount
from clipmem_core.review.queries import ROW, fetch
from clipmem_core.utils.columns import (
    CAPTION,
    CAPTIONS,
    IMAGE,
    LABEL,
    PAIR_ID,
    REASON,
    SHA256,
    SOURCE,
)
from clipmem_core.utils.io import InputError
from clipmem_core.utils.tables import SUFFIXES, read_frame

# The pair of the audit for each candidate: by pair_id or image, unless the picture at hand is
# another one, else by the bytes of the picture. `same`: so many pairs have this key.
_FIND_PAIRS = f"""
    SELECT number, {ROW} AS place, count(*) OVER (PARTITION BY number, key) AS same FROM (
        SELECT number, at_hand, sha256, {ROW}, 1 AS key
        FROM requested JOIN parquet ON requested.pair_id = parquet.pair_id
        UNION ALL
        SELECT number, at_hand, sha256, {ROW}, 2 AS key
        FROM requested JOIN parquet ON requested.image = parquet.image
        UNION ALL
        SELECT number, at_hand, sha256, {ROW}, 3 AS key
        FROM requested JOIN parquet ON requested.at_hand = parquet.sha256
    )
    WHERE at_hand IS NULL OR at_hand = sha256
    QUALIFY row_number() OVER (PARTITION BY number ORDER BY key, {ROW}) = 1
"""
REPLACES = "replaces"  # optional column: the caption of the pair in whose place this one is put
PICTURE = "_picture"  # column: the picture in `Candidates.data_set`; None if it is not at hand


@dataclass(frozen=True, eq=False)
class Candidates:
    """Captions to judge.

    `table` has caption, pair_id or image, `PICTURE`, the row of the audit's pair (−1: a new pair),
    and the reason why a caption cannot be judged. `data_set` has the pictures at hand, if any.
    """

    table: pd.DataFrame
    data_set: DataSet | None


def read_candidates(
    audit: Audit,
    source: str,
    options: SourceOptions,
    screen: Screen,
) -> Candidates:
    """Read any source that an audit reads, or a table of captions for pairs of the audit."""
    path = Path(source).expanduser()
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        table = read_frame(path)
        if CAPTION in table and (PAIR_ID in table or IMAGE in table):
            return table_candidates(audit, table, options.image_folder, path, screen.pictures)
    raw = read_source(source, options, data=data_folder(), say=screen.say)
    table = (
        raw.pairs.explode(CAPTIONS).rename(columns={CAPTIONS: CAPTION}).dropna(axis=1, how="all")
    )
    table = table.assign(**{PICTURE: table[IMAGE], REASON: None})
    refused = raw.quarantine[[SOURCE, PAIR_ID, REASON]].rename(columns={SOURCE: IMAGE})
    return _matched(audit, pd.concat([table, refused], ignore_index=True), raw, screen.pictures)


def table_candidates(
    audit: Audit,
    table: pd.DataFrame,
    folder: str = "",
    file: Path = Path("candidates"),
    progress: ReportCount = lambda done, total: None,
) -> Candidates:
    """Return the captions of a table; pictures are looked for in a folder, or beside the file."""
    if CAPTION not in table or not (PAIR_ID in table or IMAGE in table):
        raise InputError(
            f"the candidates have the columns {', '.join(map(str, table))}: name one caption, "
            "and one pair_id or image"
        )
    table = table.explode(CAPTION, ignore_index=True)
    listed = table.reindex(columns=[IMAGE, CAPTION, LABEL, PAIR_ID])
    rows = [Row(str(at), *cells) for at, *cells in listed.itertuples()]
    found = in_image_folder(Rows(file.parent, "table", rows), folder, file)
    rows = list(found.rows)
    raw = RawPairs(found.root.absolute(), "table", *merge_rows(replace(found, rows=rows)))
    reasons = dict(zip(raw.quarantine[SOURCE], raw.quarantine[REASON], strict=True))
    table[REASON] = [reasons.get(row.source) for row in rows]
    table[PICTURE] = [
        None if row.source in reasons else normal_reference(row.image) for row in rows
    ]
    return _matched(audit, table, raw, progress)


def _matched(audit: Audit, table: pd.DataFrame, raw: RawPairs, progress: ReportCount) -> Candidates:
    """Open the pictures, and find the pairs of the audit."""
    data_set = None
    hashes = dict[str, str]()
    reasons = dict(enumerate(table[REASON].tolist()))
    pictures = table[PICTURE].tolist()
    if len(raw.pairs):
        config = replace(audit.record.config, captions=0, drop_near_duplicates=False)
        data_set = load_pictures(raw, config, progress=progress)
        hashes = dict(zip(data_set.pairs[IMAGE], data_set.pairs[SHA256], strict=True))
        broken = data_set.quarantine[len(raw.quarantine) :].set_index(SOURCE)[REASON].to_dict()
        reasons = {at: broken.get(pictures[at], reason) for at, reason in reasons.items()}
    at_hand = [hashes.get(picture) for picture in pictures]
    keys: dict[str, Any] = {name: table.get(name, [None] * len(table)) for name in (PAIR_ID, IMAGE)}
    keys["at_hand"] = at_hand
    texts = {name: pa.array(map(as_name, values), pa.string()) for name, values in keys.items()}
    requested = pa.table({"number": range(len(table))} | texts)
    rows = np.full(len(table), -1)
    for pair in fetch(audit.folder / PAIRS, _FIND_PAIRS, requested=requested).to_pylist():
        if pair["same"] == 1 or at_hand[pair["number"]]:
            rows[pair["number"]] = pair["place"]
        else:
            reasons[pair["number"]] = f"{pair['same']} pairs of the audit have its image"
    table[CAPTION] = ["" if is_missing(text) else tidy(str(text)) for text in table[CAPTION]]
    for at, text in enumerate(table[CAPTION]):
        if rows[at] >= 0 or at_hand[at]:
            reasons[at] = None
        elif IMAGE not in table or not reasons[at]:
            reasons[at] = "no pair of the audit has its pair_id or image"
        if not text:
            reasons[at] = "caption is empty"
    table[REASON] = pd.Series(reasons, dtype=object)
    return Candidates(table.assign(**{ROW: rows}), data_set)
