"""What the regions of a map of embeddings are about: the most distinctive words of the captions that lie there.

    <data>/cache/maps/<key>.words.parquet   map_x and top float32, words, pairs

The places are cut into regions by k-means, and a region's words are ranked by class-based TF-IDF.
"""

import hashlib
import json

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import CountVectorizer

from clipmem_core.atomic import cached
from clipmem_core.audits.store import PAIRS, Audit, file_sha256, read_table, whole_table, write_table
from clipmem_core.columns import CAPTIONS
from clipmem_core.review.maps import MAP_ROW, map_path, read_map
from clipmem_core.review.selection import MAP_X, MAP_Y
from clipmem_core.review.tables import ROW, fetch_columns

TOP = "top"
WORDS = 3  # of a region
REGIONS = (3, 14)  # at least and at most
PAIRS_A_REGION = 60  # about, on a map of few pairs
LONGEST = 24  # letters of a word
FEWEST = 3  # pairs of a region that a word is in, at least
SEED = 0
VERSION = 3  # of what is done here: another one is another file


def map_words(audit: Audit, name: str) -> pd.DataFrame:
    """Return the words of each region of a map that has been drawn: found once and kept beside it.

    Args:
        audit: a finished audit.
        name: of the map.

    Returns:
        map_x (the middle of the region), top (what nine tenths of its pairs lie below), words (empty for none) and
        pairs (how many lie there).

    Raises:
        InputError: the map has not been drawn, or a file is missing or broken.
    """
    pairs = audit.files.get(PAIRS) or file_sha256(audit.folder / PAIRS)
    content = [map_path(audit, name).stem, pairs, WORDS, REGIONS, PAIRS_A_REGION, LONGEST, FEWEST, SEED, VERSION]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    path = map_path(audit, name).with_name(f"{key}.words.parquet")
    if not whole_table(path):
        places = read_map(audit, name)
        query = f'SELECT {ROW}, array_to_string("{CAPTIONS}", chr(10)) AS text FROM parquet ORDER BY {ROW}'
        texts = fetch_columns(audit.folder / PAIRS, query)["text"][places[MAP_ROW].to_numpy()]
        table = region_words(places[[MAP_X, MAP_Y]].to_numpy(), [str(text) for text in texts])
        cached(path, lambda temporary: write_table(temporary, table, checksums=True), whole=whole_table)
    return read_table(path, columns=[MAP_X, TOP, "words", "pairs"], mend="delete it and open the map again")


def region_words(places: np.ndarray, texts: list[str]) -> pd.DataFrame:
    """Cut a map into regions and find the words that tell each of them from the others.

    Args:
        places: float32 [n_pairs, 2].
        texts: [n_pairs], all captions of a pair in one text.

    Returns:
        map_x, top, words and pairs of each region.

    Example:
        >>> places = np.repeat([[0, 0], [9, 9], [0, 9]], 20, axis=0).astype(np.float32)
        >>> words = [f"a {animal} in the grass" for animal in ("frog", "crow", "mole") for _ in range(20)]
        >>> sorted(region_words(places, words)["words"])
        ['crow', 'frog', 'mole']
    """
    fewest, most = REGIONS
    count = min(most, max(fewest, len(places) // PAIRS_A_REGION), len(np.unique(places, axis=0)))
    found = KMeans(count, n_init=3, random_state=SEED).fit(places)
    regions = pd.DataFrame(places, columns=[MAP_X, MAP_Y]).groupby(found.labels_)
    table = pd.DataFrame({MAP_X: regions[MAP_X].median(), TOP: regions[MAP_Y].quantile(0.9)}).astype(np.float32)
    return table.assign(words=distinctive_words(texts, found.labels_), pairs=regions.size())


def distinctive_words(texts: list[str], classes: np.ndarray) -> list[str]:
    """Return the words of each class that tell it from the others, the most telling first.

    Class-based TF-IDF (Grootendorst 2022, BERTopic): share of the class times log(1 + A / f), where A is the words of a
    class on average and f how often the word is there in all. A pair counts once for a word, however often it says it.
    A word that is as frequent in the class as elsewhere is left out.

    Args:
        texts: [n_pairs].
        classes: int [n_pairs], from 0.

    Example:
        >>> distinctive_words(["red frog", "red crow"] * 5, np.array([0, 1] * 5))
        ['frog', 'crow']
    """
    n_classes = int(classes.max(initial=-1)) + 1
    counter = CountVectorizer(binary=True, stop_words="english", token_pattern=r"(?u)\b[^\W\d_]{2,}\b", dtype=np.int64)
    try:
        said = counter.fit_transform(texts)
    except ValueError:  # there are no words but the most usual ones
        return [""] * n_classes
    members = csr_matrix((np.ones(len(texts), np.int64), (classes, np.arange(len(texts)))), (n_classes, len(texts)))
    counts = (members @ said).toarray()  # [n_classes, n_words]
    in_all = counts.sum(axis=0)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    scores = shares * np.log1p(totals.mean() / in_all)
    scores[(counts < FEWEST) | (shares <= in_all / in_all.sum())] = 0
    names = counter.get_feature_names_out()
    scores[:, [len(name) > LONGEST for name in names]] = 0
    return [_named(names, row) for row in scores]


def _named(names: np.ndarray, scores: np.ndarray) -> str:
    """Return the best words, without those that begin as another one does: a house and houses say the same."""
    chosen: list[str] = []
    for name in names[np.argsort(-scores, kind="stable")[: np.count_nonzero(scores)]]:
        if not any(name.startswith(other) or other.startswith(name) for other in chosen):
            chosen.append(str(name))
        if len(chosen) == WORDS:
            break
    return ", ".join(chosen)
