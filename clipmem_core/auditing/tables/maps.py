"""Maps of an audit: its pictures or its captions in the plane, similar ones close together, and
regions with names.

    <data>/cache/maps/<key>.parquet     row int64, map_x and map_y float32, region (its name)
"""

from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from clipmem_core.auditing.folder.jobs import JobRequest, jobs_folder
from clipmem_core.auditing.folder.store import (
    IMAGE_EMBEDDINGS,
    MEMBERS,
    PAIRS,
    TEXT_EMBEDDINGS,
    Audit,
    open_embeddings,
    write_table,
)
from clipmem_core.config import data_folder, fingerprint
from clipmem_core.dataset.languages import spaces_words
from clipmem_core.utils import draws
from clipmem_core.utils.columns import CAPTIONS, MAP_X, MAP_Y, REGION
from clipmem_core.utils.embeddings import unit
from clipmem_core.utils.io import InputError, write_once

SIDES = {"pictures": IMAGE_EMBEDDINGS, "captions": TEXT_EMBEDDINGS}
LIMIT = 8_000  # pairs on a map
AUDIT_LIMIT = 4_000  # pairs whose map the audit draws: less than 20 s on two cores
_VERSION = 1  # of how maps are drawn
_SEED = 0  # of a map and of the pairs drawn for it
_MEMBERS = 4  # pictures with similar captions are as close by 4 models as by 16, less by 1
_COMPONENTS = 50
_NEIGHBOURS = 30  # perplexity
_STEPS = 500
_REGIONS = 15
_PAIRS_OF_REGION = 10


def map_path(audit: Audit, side: str) -> Path:
    """Return the path of a map, which depends on the embeddings and the captions."""
    if side not in SIDES:
        raise InputError(f"{audit.name} has no map {side!r}: choose one of {', '.join(SIDES)}")
    members = audit.record.members[:_MEMBERS]
    names = [PAIRS, *(f"{MEMBERS}/{name}/{SIDES[side]}" for name in members)]
    content = [_VERSION, *map(audit.files.get, names)]
    return data_folder() / "cache" / "maps" / f"{fingerprint(content)}.parquet"


def require_map(audit: Audit, side: str) -> Path:
    """Return the file of a map, or say how to draw it."""
    path = map_path(audit, side)
    if not path.is_file():
        raise InputError(f"there is no map of the {side} of {audit.name} yet: open the page Map")
    return path


def make_map(audit: Audit, side: str) -> Path:
    """Return the file of a map, which is drawn if it is missing."""
    path = map_path(audit, side)

    def draw(temporary: Path) -> None:
        folders = map(audit.member, audit.record.members[:_MEMBERS])
        vectors = [open_embeddings(folder / SIDES[side]) for folder in folders]
        rows = np.arange(len(vectors[0]))
        if len(rows) > LIMIT:
            rows = np.sort(draws.rng(_SEED, "map").choice(len(rows), LIMIT, replace=False))
        # A product of these vectors is the sum of the members' cosines.
        points = lay_out(np.concatenate([unit(each[rows]) for each in vectors], axis=1))
        captions = audit.read_columns(PAIRS, CAPTIONS)[CAPTIONS].iloc[rows].map("\n".join)
        regions = name_regions(points, captions, spaced=spaces_words(audit.record.languages))
        table = pd.DataFrame({"row": rows, MAP_X: points[:, 0], MAP_Y: points[:, 1]})
        write_table(temporary, table.assign(**{REGION: regions}))

    write_once(path, draw)
    return path


def lay_out(vectors: np.ndarray) -> np.ndarray:
    """Map unit vectors to the plane by t-SNE (van der Maaten and Hinton 2008) of their principal
    components.

    Args: [n_pairs, dim], at least 2 of each. Returns: float32 [n_pairs, 2].
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    # t-SNE cannot start from equal vectors.
    vectors = vectors + draws.rng(_SEED, "map offsets").normal(scale=1e-6, size=vectors.shape)
    reduced = PCA(min(_COMPONENTS, *vectors.shape), random_state=_SEED).fit_transform(vectors)
    perplexity = min(_NEIGHBOURS, len(vectors) / 5)
    # On a busy machine threads wait for each other, ten times as long as they compute.
    with threadpool_limits(1):
        return TSNE(
            perplexity=perplexity, init="pca", max_iter=_STEPS, random_state=_SEED
        ).fit_transform(reduced.astype(np.float32))


def name_regions(points: np.ndarray, texts: pd.Series, *, spaced: bool) -> np.ndarray:
    """Name the region of each pair by two words that its captions have more often than those of
    other regions: those of the highest tf–idf, with all captions of a region as one document
    (Grootendorst 2022). A word names one region.

    Args:
        points: on a map, [n_pairs, 2].
        texts: the captions of each pair.
        spaced: whether words have spaces between them; otherwise pairs of letters count.

    Returns:
        Names, object [n_pairs]; empty for few pairs or without words.
    """
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    count = max(1, min(_REGIONS, len(texts) // _PAIRS_OF_REGION))
    regions = KMeans(count, random_state=_SEED).fit_predict(points)
    documents = texts.groupby(regions).agg("\n".join)
    pattern = r"[^\W\d_]{3,}" if spaced else r"(?=([^\W\d_]{2}))"
    counter = TfidfVectorizer(
        stop_words="english" if spaced else None, token_pattern=pattern, max_df=0.8
    )
    try:
        weights = counter.fit_transform(documents).toarray()
    except ValueError:  # no word is in some regions only
        return np.full(len(texts), "", object)
    table = pd.DataFrame(weights, documents.index, counter.get_feature_names_out())
    names = table.where(table == table.max()).apply(_name, axis=1)
    return names.loc[regions].to_numpy(object)


def _name(weights: pd.Series) -> str:
    """Return the two words with the highest weight that begin differently: no plural of the
    first."""
    words = weights.nlargest(4).dropna().index
    return ", ".join(words[~words.str[:3].duplicated()][:2])


def map_request(audit: Audit, side: str) -> JobRequest:
    """Return the background job that draws a map."""
    folder = jobs_folder() / ".maps" / map_path(audit, side).stem
    return JobRequest(folder, ["map", audit.name, side])
