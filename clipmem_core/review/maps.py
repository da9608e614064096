"""Maps (UMAP) of a member's embeddings of pictures or captions, kept as files: where each pair lies.

    <data>/cache/maps/<key>.parquet   row int64, map_x and map_y float32

A map of 20,000 pairs takes a minute or more, so it is built once, by a process of its own.
"""

import functools
import hashlib
import importlib.metadata
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from clipmem_core.atomic import cached
from clipmem_core.audits.jobs import Task, jobs_folder
from clipmem_core.audits.store import (
    PAIRS,
    SCORES,
    Audit,
    known_sha256,
    read_array,
    read_table,
    whole_table,
    write_table,
)
from clipmem_core.columns import GROUP, LABEL, PLANTED
from clipmem_core.config import InputError, data_folder
from clipmem_core.review.search import EMBEDDINGS, embeddings_path
from clipmem_core.review.selection import MAP_X, MAP_Y
from clipmem_core.review.tables import ROW, fetch_arrow, number, other_pairs

MAP_ROW = "row"
LIMIT = 20_000  # pairs on a map
FEWEST = 5
SEED = 0  # of the map and of the pairs drawn for it
NEIGHBOURS = 15
SETTINGS = {"min_dist": 0.1, "metric": "cosine"}
LIBRARIES = ("umap-learn", "pynndescent")


def map_name(member: str, side: str) -> str:
    """Return the name of a map, which an address carries.

    Example:
        >>> map_name("r0-f0", "image")
        'r0-f0.image'
    """
    return f"{member}.{side}"


def map_path(audit: Audit, name: str) -> Path:
    """Return where a map is kept: under another name for each content it could have.

    Args:
        audit: a finished audit.
        name: what `map_name` returned.

    Raises:
        InputError: the audit has no such member, or its embeddings are missing.
    """
    member, _, side = name.rpartition(".")
    if side not in EMBEDDINGS or member not in audit.record.members:
        raise InputError(f"{audit.name} has no map {name!r}: choose one on the page Map of embeddings")
    content = {
        "embeddings": known_sha256(audit, embeddings_path(audit, member, side)),
        "settings": {**SETTINGS, "n_neighbors": NEIGHBOURS, "seed": SEED, "limit": LIMIT},
        "versions": _versions(),
    }
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return data_folder() / "cache" / "maps" / f"{key}.parquet"


def map_file(audit: Audit, name: str) -> Path | None:
    """Return the file of a map that has been drawn.

    Returns:
        None where there is no such map, as for a name from an address, or where it has not been drawn or is broken.
    """
    try:
        path = map_path(audit, name)
    except InputError:
        return None
    return path if whole_table(path) else None


def read_map(audit: Audit, name: str) -> pd.DataFrame:
    """Return row, map_x and map_y of the pairs on a map that has been drawn.

    Raises:
        InputError: it has not been drawn, or its file is broken.
    """
    path = map_file(audit, name)
    if path is None:
        raise InputError(f"there is no map {name!r} of {audit.name} yet: draw it on the page Map of embeddings")
    return read_table(path, columns=[MAP_ROW, MAP_X, MAP_Y], mend="delete it and draw the map again")


def map_points(audit: Audit, name: str, column: str) -> pd.DataFrame:
    """Return row, map_x, map_y and one column more of the pairs on a map that has been drawn.

    Args:
        audit: a finished audit.
        name: of the map.
        column: a score or `group`, of scores.parquet, or `label` or `planted`, of pairs.parquet.

    Raises:
        InputError: the map has not been drawn or is not of these pairs, or a file is missing or broken.
    """
    places = read_map(audit, name)
    text = column in (LABEL, PLANTED, GROUP)
    value = f'"{column}"' if text else number(column)
    query = f'SELECT {ROW}, map_x, map_y, {value} AS "{column}" FROM parquet JOIN places USING ({ROW}) ORDER BY {ROW}'
    table = audit.folder / (PAIRS if column in (LABEL, PLANTED) else SCORES)
    arrow = pa.Table.from_pandas(places.rename(columns={MAP_ROW: ROW}), preserve_index=False)
    points = fetch_arrow(table, query, places=arrow).to_pandas().rename(columns={ROW: MAP_ROW})
    if len(points) != len(places):
        raise other_pairs(audit)
    return points


def make_map(audit: Audit, name: str, *, say: Callable[[str], None] = lambda line: None) -> Path:
    """Draw a map, unless its file is there, and return the file.

    Args:
        audit: a finished audit.
        name: of the map.
        say: told in a few words what is done next.

    Raises:
        InputError: there is no such member, or its embeddings are missing, broken, or too few.
    """
    path = map_path(audit, name)

    def draw(temporary: Path) -> None:
        say("reading the embeddings")
        vectors = read_array(embeddings_path(audit, *name.rsplit(".", 1)), shared=True)
        rows = drawn_rows(len(vectors))
        places = lay_out(np.array(vectors[rows]), say=say)
        table = pd.DataFrame({MAP_ROW: rows, MAP_X: places[:, 0], MAP_Y: places[:, 1]})
        write_table(temporary, table, checksums=True)

    cached(path, draw, whole=whole_table, broken=lambda _: say(f"{path} is broken: drawing it again"))
    return path


def drawn_rows(n_pairs: int) -> np.ndarray:
    """Return the rows that are on a map, int64, ascending: all of them, or `LIMIT` drawn from a fixed seed."""
    if n_pairs <= LIMIT:
        return np.arange(n_pairs)
    return np.sort(np.random.default_rng(SEED).choice(n_pairs, LIMIT, replace=False))


def lay_out(vectors: np.ndarray, *, say: Callable[[str], None] = lambda line: None) -> np.ndarray:
    """Lay vectors out in the plane so that neighbours by cosine stay neighbours (UMAP, McInnes et al. 2018).

    Distances between far groups mean little. The same vectors give the same map: one seed, hence one core.

    Args:
        vectors: float32 [n_pairs, dim].
        say: told in a few words what is done next.

    Returns:
        float32 [n_pairs, 2].

    Raises:
        InputError: there are fewer than `FEWEST` vectors, or some are not finite.
    """
    if len(vectors) < FEWEST:
        raise InputError(f"a map needs at least {FEWEST} pairs, and there are {len(vectors)}: audit a larger data set")
    if not np.isfinite(vectors).all():
        raise InputError("the member's embeddings are not all finite: its training failed, try a lower lr (--lr)")
    say("loading UMAP")
    with warnings.catch_warnings():  # of a part of it that we do not use
        warnings.simplefilter("ignore", ImportWarning)
        from umap import UMAP
    say(f"placing {len(vectors):,} pairs")
    neighbours = min(NEIGHBOURS, len(vectors) - 1)
    return UMAP(n_neighbors=neighbours, random_state=SEED, n_jobs=1, **SETTINGS).fit_transform(vectors)


@functools.cache
def _versions() -> dict[str, str]:
    return {library: importlib.metadata.version(library) for library in LIBRARIES}


def map_task(audit: Audit, name: str) -> Task:
    """Return the task of drawing a map in a process of its own.

    Raises:
        InputError: the audit has no such map.
    """
    folder = jobs_folder() / ".maps" / map_path(audit, name).stem
    return Task(folder, ["map", audit.name, name])
