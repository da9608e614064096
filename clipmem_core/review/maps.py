"""Maps (UMAP) of a member's embeddings of pictures or captions.

    <data>/cache/maps/<key>.parquet         row int64, map_x and map_y float32

A map of 20,000 pairs takes a minute or more, so a background job draws it.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from clipmem_core.audit.status import Task, jobs_folder
from clipmem_core.audit.store import (
    PAIRS,
    SCORES,
    Audit,
    open_embeddings,
    read_table,
    recorded_sha256,
    write_table,
)
from clipmem_core.columns import GROUP, INJECTED, LABEL
from clipmem_core.config import data_folder, fingerprint
from clipmem_core.io import InputError, write_once
from clipmem_core.review.queries import ROW, fetch_arrow, mismatched_tables, number_sql
from clipmem_core.review.search import EMBEDDINGS, embeddings_path
from clipmem_core.review.selection import MAP_X, MAP_Y

_MAP_ROW = "row"
LIMIT = 20_000  # pairs on a map
_SEED = 0  # of the map and of the pairs drawn for it
_SETTINGS = {"n_neighbors": 15, "min_dist": 0.1, "metric": "cosine"}


def map_path(audit: Audit, name: str) -> Path:
    """Return the path of a map such as "r0-f0.image", which depends on the embeddings and the
    settings."""
    member, _, side = name.rpartition(".")
    if side not in EMBEDDINGS or member not in audit.record.members:
        raise InputError(f"{audit.name} has no map {name!r}: choose one on the page Map")
    content = {
        "embeddings": recorded_sha256(audit, embeddings_path(audit, member, side)),
        "settings": {**_SETTINGS, "seed": _SEED, "limit": LIMIT},
    }
    return data_folder() / "cache" / "maps" / f"{fingerprint(content)}.parquet"


def map_file(audit: Audit, name: str) -> Path | None:
    """Return the file of a map; None if it is not drawn or has an unknown name."""
    try:
        path = map_path(audit, name)
    except InputError:
        return None
    return path if path.is_file() else None


def require_map(audit: Audit, name: str) -> Path:
    """Return the file of a map, or say how to draw it."""
    path = map_file(audit, name)
    if path is None:
        raise InputError(f"there is no map {name!r} of {audit.name} yet: draw it on the page Map")
    return path


def map_points(audit: Audit, name: str, column: str) -> pd.DataFrame:
    """Return row, map_x, map_y and one more column of the pairs on a map."""
    places = read_table(require_map(audit, name), repair="delete it and draw the map again")
    value = f'"{column}"' if column in (LABEL, INJECTED, GROUP) else number_sql(column)
    query = f"""
        SELECT {_MAP_ROW}, {MAP_X}, {MAP_Y}, {value} AS "{column}"
        FROM parquet JOIN places ON {ROW} = {_MAP_ROW} ORDER BY {_MAP_ROW}
    """
    table = audit.folder / (PAIRS if column in (LABEL, INJECTED) else SCORES)
    points = fetch_arrow(table, query, places=places).to_pandas()
    if len(points) != len(places):
        raise mismatched_tables(audit)
    return points


def make_map(audit: Audit, name: str, *, say: Callable[[str], None] = lambda line: None) -> Path:
    """Return the file of a map, which is drawn if it is missing."""
    path = map_path(audit, name)

    def draw(temporary: Path) -> None:
        vectors = open_embeddings(embeddings_path(audit, *name.rsplit(".", 1)))
        rows = np.arange(len(vectors))
        if len(rows) > LIMIT:
            rows = np.sort(np.random.default_rng(_SEED).choice(len(rows), LIMIT, replace=False))
        say(f"placing {len(rows):,} pairs by UMAP")
        places = lay_out(vectors[rows])
        table = pd.DataFrame({_MAP_ROW: rows, MAP_X: places[:, 0], MAP_Y: places[:, 1]})
        write_table(temporary, table)

    write_once(path, draw)
    return path


def lay_out(vectors: np.ndarray) -> np.ndarray:
    """Map vectors to the plane, float32 [n_pairs, 2], by UMAP (McInnes et al. 2018) with the cosine
    distance."""
    with warnings.catch_warnings():  # of an optional part of UMAP
        warnings.simplefilter("ignore", ImportWarning)
        from umap import UMAP
    return UMAP(random_state=_SEED, n_jobs=1, **_SETTINGS).fit_transform(vectors)


def map_task(audit: Audit, name: str) -> Task:
    """Return the background job that draws a map."""
    folder = jobs_folder() / ".maps" / map_path(audit, name).stem
    return Task(folder, ["map", audit.name, name])
