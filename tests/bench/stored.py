"""Features in a FAISS index: a mapped open, and a search by meaning."""

import time
from collections.abc import Callable

import faiss
import numpy as np

from clipmem_core.embeddings import Vectors, read_vectors, write_vectors
from clipmem_core.scores.alignment import unit
from tests.bench import Measure, Measures, scratch

DIM = 384
BLOCK = 10_000


def measure_embeddings(quick: bool) -> Measures:
    """Open and search features of captions."""
    captions = 20_000 if quick else 1_000_000
    rng = np.random.default_rng(0)
    with scratch() as folder:
        path = folder / "features.faiss"
        blocks = (
            unit(rng.standard_normal((BLOCK, DIM))).astype(np.float16)
            for _ in range(captions // BLOCK)
        )
        write_vectors(path, blocks)
        query = rng.standard_normal(DIM).astype(np.float32)
        read_vectors(path).nearest(query, 1)  # reads the file once
        what = f"of {captions:,} features × {DIM}"
        opening = best(lambda: read_vectors(path))
        stored = read_vectors(path)
        half = Vectors(stored.index, np.arange(0, captions, 2))
        index = faiss.read_index(str(path))
        floor = best(lambda: index.search(query[None], 10_000))
        search = best(lambda: stored.nearest(query, 10_000))
        search_half = best(lambda: half.nearest(query, 10_000))
    return [
        Measure(f"mapped open {what}", opening, "ms", target="≤ 13"),
        Measure(f"search {what}", search, "ms", floor, target="≤ 500"),
        Measure(f"search in half {what}", search_half, "ms", floor, target="≤ 500"),
    ]


def best(run: Callable[[], object], times: int = 5) -> float:
    """Return the least milliseconds of some calls."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return 1000 * min(seconds)
