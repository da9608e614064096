"""Kinds of approximate indexes over made embeddings × 256: seconds to make, size, recall of the first 10, ms a query.

Pictures and captions lie in one space, as heads put them: about 5,000 concepts, the latent of `made_features`. Each
kind looks as far as recall needs to reach .95, for queries of either side, and is asked for 1,000 pairs at a time, one
query after the other. An index of 10 million pairs is ten times one of a million in bytes and seconds to fill.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from clipmem_core.audits import near
from clipmem_core.audits.index import map_vectors, write_index
from clipmem_core.config import data_folder
from clipmem_core.review.search import LIMIT, cosines
from tests.bench.report import Measure, Measures, console
from tests.bench.scoring_turn import AnonymousMemory
from tests.made_features import APART, CONCEPTS, LATENT, NOISE, OWN

SIZES, QUICK = (200_000, 1_000_000), (5_000, 10_000)
DIM, QUERIES, TIMED = 256, 200, 40
HNSW_UP_TO = 200_000  # pairs: more take longer than an audit of them
FACTORS = (64, 128, 256, 512, 1024)  # efSearch


def measure(quick: bool, repeats: int) -> Measures:
    """Build each kind once a size; `repeats` changes nothing."""
    lines: Measures = []
    for pairs in QUICK if quick else SIZES:
        data_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="bench-", dir=data_folder().resolve()) as temporary:
            lines += _of_size(Path(temporary), pairs)
    return lines


def _of_size(folder: Path, pairs: int) -> Measures:
    write_index(folder / "image.faiss", _embeddings(pairs, side=1))
    write_index(folder / "text.faiss", _embeddings(pairs, side=2))
    vectors = map_vectors(folder / "image.faiss")
    drawn = np.random.default_rng(0).permutation(pairs)
    held_out, own = drawn[:QUERIES], np.full(2 * QUERIES, -1)
    own[:QUERIES] = held_out
    asked = np.concatenate([vectors[held_out], map_vectors(folder / "text.faiss")[held_out]])
    began = time.perf_counter()
    for query in asked[:TIMED]:
        cosines(folder / "image.faiss", query)
    lines = [Measure(f"{pairs:,} pairs, exact pass (ms)", 1000 * (time.perf_counter() - began) / TIMED)]
    wanted = near.exact_nearest(vectors, asked, own)
    for kind in ("IVF-SQ8", "IVF-Flat", *(("HNSW32",) if pairs <= HNSW_UP_TO else ())):
        began = time.perf_counter()
        with AnonymousMemory() as memory:
            index = _built(kind, vectors, drawn[QUERIES:])
        seconds = time.perf_counter() - began
        faiss.write_index(index, str(folder / "near.faiss"))
        recall, looks = _tuned(index, vectors, asked, own, wanted)
        began = time.perf_counter()
        for query in asked[:TIMED]:
            near.Near(index, None).candidates(query, LIMIT)
        took, size = time.perf_counter() - began, (folder / "near.faiss").stat().st_size
        what = f"{pairs:,} pairs, {kind}"
        console.print(f"{what}: {seconds:.0f} s, {size / 1e6:.0f} MB, recall {recall:.3f}")
        lines += [
            Measure(f"{what}: to make (s)", seconds),
            Measure(f"{what}: file (MB)", size / 1e6),
            Measure(f"{what}: anonymous memory while it is made (MB)", memory.peak / 1e6),
            Measure(
                f"{what}: recall of the first {near.FIRST}, {looks}", ratio=recall, target=f"at least {near.RECALL}"
            ),
            Measure(f"{what}: a query for {LIMIT:,} pairs (ms)", 1000 * took / TIMED),
        ]
    return lines


def _built(kind: str, vectors: np.ndarray, drawn: np.ndarray) -> Any:
    if kind == "IVF-SQ8":
        return near.build(vectors, drawn)
    if kind == "IVF-Flat":
        return near.build(vectors, drawn, code="Flat")
    index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    return index


def _tuned(
    index: Any, vectors: np.ndarray, asked: np.ndarray, own: np.ndarray, wanted: list[np.ndarray]
) -> tuple[float, str]:
    """Let an index look as far as it needs to; return its recall and how far that is."""
    if not hasattr(index, "hnsw"):
        return near.tune(index, vectors, asked, own), f"{index.nprobe} of {index.nlist} cells"
    for factor in FACTORS:
        index.hnsw.efSearch = factor
        recall = near.recall_of(index, asked, wanted)
        if recall >= near.RECALL:
            break
    return recall, f"efSearch {index.hnsw.efSearch}"


def _embeddings(pairs: int, *, side: int) -> np.ndarray:
    """Return unit vectors, float32 [pairs, DIM]; the two sides of a pair share a latent."""
    drawn, apart = np.random.default_rng(0), np.random.default_rng(side)
    concepts = drawn.standard_normal((CONCEPTS, LATENT), dtype=np.float32)
    spread = drawn.standard_normal((LATENT, DIM), dtype=np.float32) / LATENT**0.5
    found = np.empty((pairs, DIM), np.float32)
    for at in range(0, pairs, 50_000):
        n = min(50_000, pairs - at)
        own = drawn.standard_normal((n, LATENT), dtype=np.float32)
        latent = (1 - APART**2) ** 0.5 * concepts[drawn.integers(CONCEPTS, size=n)] + APART * own
        latent += OWN * apart.standard_normal((n, LATENT), dtype=np.float32)
        found[at : at + n] = latent @ spread + NOISE * apart.standard_normal((n, DIM), dtype=np.float32)
    faiss.normalize_L2(found)
    return found
