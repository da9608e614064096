"""A cleaned data set → COCO captions: a JSON file of images and annotations."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipmem_core.atomic import replacing
from clipmem_core.columns import CAPTIONS, HEIGHT, LABEL, PAIR_ID, WIDTH
from clipmem_core.exports.cleaned import Cleaned
from clipmem_core.exports.open_clip_csv import audit_command
from clipmem_core.exports.pictures import Pictures, Progress, openable

PAIRS_AT_ONCE = 20_000


def write_coco(cleaned: Cleaned, path: Path, *, progress: Progress | None = None) -> tuple[tuple[str, ...], str]:
    """Write the JSON file, and pictures that are no files yet into `<stem>_images` beside it.

    Ids count from 1. An image's `pair_id` is the pair's; `label` is there where pairs have one. `file_name` is
    relative to the data set's folder, or to the folder of the pictures written out.

    Returns:
        What the format cannot carry, and the command that audits what was written.
    """
    info = {"description": f"audit {cleaned.audit.name}, cleaned"}
    with (
        replacing(path) as temporary,
        openable(cleaned, path, progress=progress) as pictures,
        temporary.open("w", encoding="utf-8") as file,
    ):
        file.write(f'{{"info": {json.dumps(info)},\n"images": [')
        file.writelines(_listed(_images(cleaned, pictures)))
        file.write('],\n"annotations": [')
        file.writelines(_listed(_annotations(cleaned)))
        file.write("]}\n")
    return pictures.notes, audit_command(cleaned, path, pictures.folder)


def _listed(parts: Iterator[pa.Table]) -> Iterator[str]:
    """Yield the rows of tables as the inside of one JSON list, an object a line."""
    mark = "\n"
    for part in parts:
        for row in part.to_pylist():
            yield mark + json.dumps(_without_nulls(row), ensure_ascii=False)
            mark = ",\n"


def _without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None}


def _images(cleaned: Cleaned, pictures: Pictures) -> Iterator[pa.Table]:
    ids = np.arange(1, cleaned.kept + 1)
    for start in range(0, cleaned.kept, PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        pairs = cleaned.pairs.slice(start, PAIRS_AT_ONCE)
        columns = {"id": ids[part], "file_name": pictures.names.slice(start, PAIRS_AT_ONCE)}
        yield pa.table(columns | {name: pairs[name] for name in (WIDTH, HEIGHT, PAIR_ID, LABEL)})


def _annotations(cleaned: Cleaned) -> Iterator[pa.Table]:
    first = 1
    for start in range(0, cleaned.kept, PAIRS_AT_ONCE):
        captions = cleaned.pairs[CAPTIONS].slice(start, PAIRS_AT_ONCE).combine_chunks()
        texts, owner = pc.list_flatten(captions), pc.list_parent_indices(captions).to_numpy()
        ids = np.arange(first, first + len(texts))
        yield pa.table({"id": ids, "image_id": owner + start + 1, "caption": texts})
        first += len(texts)
