"""Maps (UMAP) of a member's embeddings of pictures or captions, cached as files, and the words of their regions.

    <data>/cache/maps/<key>.parquet         row int64, map_x and map_y float32

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
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import CountVectorizer

from clipmem_core.audits.jobs import Task, jobs_folder
from clipmem_core.audits.store import (
    PAIRS,
    SCORES,
    Audit,
    read_array,
    read_table,
    recorded_sha256,
    write_table,
)
from clipmem_core.columns import CAPTIONS, GROUP, LABEL, PLANTED
from clipmem_core.config import InputError, data_folder
from clipmem_core.io import write_once
from clipmem_core.review.search import EMBEDDINGS, embeddings_path
from clipmem_core.review.selection import MAP_X, MAP_Y
from clipmem_core.review.tables import ROW, fetch_arrow, fetch_columns, kept, mismatched_tables, number

MAP_ROW = "row"
LIMIT = 20_000  # pairs on a map
FEWEST = 5
SEED = 0  # of the map, of the pairs drawn for it and of its regions
NEIGHBOURS = 15
SETTINGS = {"min_dist": 0.1, "metric": "cosine"}
LIBRARIES = ("umap-learn", "pynndescent")
WORDS = 3  # of a region
REGIONS = (3, 14)  # at least and at most
PAIRS_A_REGION = 60  # about, on a map of few pairs
LONGEST_WORD = 24  # letters of a word
FEWEST_WITH = 3  # pairs of a region that a word is in, at least


def map_name(member: str, side: str) -> str:
    """Return the name of a map in an address: "r0-f0.image"."""
    return f"{member}.{side}"


def map_path(audit: Audit, name: str) -> Path:
    """Return the path of a map: another one for each content it could have."""
    member, _, side = name.rpartition(".")
    if side not in EMBEDDINGS or member not in audit.record.members:
        raise InputError(f"{audit.name} has no map {name!r}: choose one on the page Map of embeddings")
    content = {
        "embeddings": recorded_sha256(audit, embeddings_path(audit, member, side)),
        "settings": {**SETTINGS, "n_neighbors": NEIGHBOURS, "seed": SEED, "limit": LIMIT},
        "versions": _versions(),
    }
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return data_folder() / "cache" / "maps" / f"{key}.parquet"


@functools.cache
def _versions() -> dict[str, str]:
    return {library: importlib.metadata.version(library) for library in LIBRARIES}


def map_file(audit: Audit, name: str) -> Path | None:
    """Return the file of a map; None if it is not drawn yet or the name is wrong."""
    try:
        path = map_path(audit, name)
    except InputError:
        return None
    return path if path.is_file() else None


def read_map(audit: Audit, name: str) -> pd.DataFrame:
    """Return row, map_x and map_y of the pairs on a map that has been drawn."""
    path = map_file(audit, name)
    if path is None:
        raise InputError(f"there is no map {name!r} of {audit.name} yet: draw it on the page Map of embeddings")
    return read_table(path, columns=[MAP_ROW, MAP_X, MAP_Y], repair="delete it and draw the map again")


def map_points(audit: Audit, name: str, column: str) -> pd.DataFrame:
    """Return row, map_x, map_y and one more column of the pairs on a map that has been drawn."""
    places = read_map(audit, name)
    value = f'"{column}"' if column in (LABEL, PLANTED, GROUP) else number(column)
    query = f'SELECT {ROW}, map_x, map_y, {value} AS "{column}" FROM parquet JOIN places USING ({ROW}) ORDER BY {ROW}'
    table = audit.folder / (PAIRS if column in (LABEL, PLANTED) else SCORES)
    arrow = pa.Table.from_pandas(places.rename(columns={MAP_ROW: ROW}), preserve_index=False)
    points = fetch_arrow(table, query, places=arrow).to_pandas().rename(columns={ROW: MAP_ROW})
    if len(points) != len(places):
        raise mismatched_tables(audit)
    return points


def make_map(audit: Audit, name: str, *, say: Callable[[str], None] = lambda line: None) -> Path:
    """Draw a map, unless its file is there, and return the file."""
    path = map_path(audit, name)

    def draw(temporary: Path) -> None:
        say("reading the embeddings")
        vectors = read_array(embeddings_path(audit, *name.rsplit(".", 1)), shared=True)
        rows = np.arange(len(vectors))
        if len(rows) > LIMIT:
            rows = np.sort(np.random.default_rng(SEED).choice(len(rows), LIMIT, replace=False))
        places = lay_out(np.array(vectors[rows]), say=say)
        table = pd.DataFrame({MAP_ROW: rows, MAP_X: places[:, 0], MAP_Y: places[:, 1]})
        write_table(temporary, table)

    write_once(path, draw)
    return path


def lay_out(vectors: np.ndarray, *, say: Callable[[str], None] = lambda line: None) -> np.ndarray:
    """Lay vectors out in the plane, float32 [n_pairs, 2], so that neighbours by cosine stay neighbours.

    UMAP, McInnes et al. 2018. Distances between far groups mean little. The same vectors give the same map: one seed,
    hence one core.
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


def map_task(audit: Audit, name: str) -> Task:
    """Return the task of drawing a map in a process of its own."""
    folder = jobs_folder() / ".maps" / map_path(audit, name).stem
    return Task(folder, ["map", audit.name, name])


@kept(8, PAIRS, paths=lambda audit, name: [map_path(audit, name)])
def map_words(audit: Audit, name: str) -> pd.DataFrame:
    """Cut a map into regions, and return the words that are typical of each, its place and its number of pairs.

    map_x is the middle of the region; nine tenths of its pairs lie below top.
    """
    places = read_map(audit, name)
    query = f'SELECT array_to_string("{CAPTIONS}", chr(10)) AS text FROM parquet ORDER BY {ROW}'
    texts = fetch_columns(audit.folder / PAIRS, query)["text"][places[MAP_ROW].to_numpy()]
    fewest, most = REGIONS
    count = min(most, max(fewest, len(places) // PAIRS_A_REGION), len(places[[MAP_X, MAP_Y]].drop_duplicates()))
    classes = KMeans(count, n_init=3, random_state=SEED).fit_predict(places[[MAP_X, MAP_Y]].to_numpy())
    regions = places.groupby(classes)
    table = pd.DataFrame({MAP_X: regions[MAP_X].median(), "top": regions[MAP_Y].quantile(0.9)})
    return table.assign(words=distinctive_words([str(text) for text in texts], classes), pairs=regions.size())


def distinctive_words(texts: list[str], classes: np.ndarray) -> list[str]:
    """Return the words of each class that distinguish it from the others, the most distinctive first.

    Class-based TF-IDF (Grootendorst 2022, BERTopic): share of the class times log(1 + A / f), where A is the mean
    number of words of a class and f how often the word occurs in all. A pair counts once for a word. A word that is not
    more frequent in the class than in all is left out.
    """
    n_classes = int(classes.max(initial=-1)) + 1
    counter = CountVectorizer(binary=True, stop_words="english", token_pattern=r"(?u)\b[^\W\d_]{2,}\b", dtype=np.int64)
    try:
        occurs = counter.fit_transform(texts)
    except ValueError:  # only stop words
        return [""] * n_classes
    counts = np.stack([np.asarray(occurs[classes == k].sum(axis=0)).ravel() for k in range(n_classes)])
    in_all, totals = counts.sum(axis=0), counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    scores = shares * np.log1p(totals.mean() / in_all)
    scores[(counts < FEWEST_WITH) | (shares <= in_all / in_all.sum())] = 0
    names = counter.get_feature_names_out()
    scores[:, [len(name) > LONGEST_WORD for name in names]] = 0
    found = []
    for row in scores:
        chosen: list[str] = []
        for name in names[np.argsort(-row, kind="stable")[: np.count_nonzero(row)]]:
            if not any(name.startswith(other) or other.startswith(name) for other in chosen):  # house, houses
                chosen.append(str(name))
        found.append(", ".join(chosen[:WORDS]))
    return found
