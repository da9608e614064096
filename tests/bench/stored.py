"""Embeddings in FAISS indices beside numpy's files: scoring, a mapped open, a search, and a search
by meaning.

python -m tests.bench.stored FOLDER KIND     scores the embeddings of a folder, read from `npy` or
                                             `faiss` files
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np

from clipmem_core.embeddings import Vectors, read_vectors, write_vectors
from clipmem_core.scores.alignment import pair_terms, unit
from clipmem_core.scores.detectors import fit_out, swapped_csls
from clipmem_core.scores.encoders import contributions
from clipmem_core.scores.membership import MemberSides, ensemble_membership
from tests.bench import Measure, Measures, scratch
from tests.bench.large import run_command

MEMBERS = 4
DIM = 256
CAPTION_DIM = 384
BLOCK = 10_000


def measure_embeddings(quick: bool) -> Measures:
    """Score members' embeddings, and search features of captions."""
    pairs, captions = (3_000, 20_000) if quick else (300_000, 1_000_000)
    rng = np.random.default_rng(0)
    lines = list[Measure]()
    with scratch() as folder:
        for member in range(MEMBERS):
            for side in ("image", "text"):
                vectors = unit(rng.standard_normal((pairs, DIM), dtype=np.float32))
                np.save(folder / f"{member}-{side}.npy", vectors)
                write_vectors(folder / f"{member}-{side}.faiss", [vectors])
        module = "tests.bench.stored"
        kinds = ("npy", "faiss")
        both = {kind: run_command([str(folder), kind], folder, module=module) for kind in kinds}
        for place, unit_of in ((0, "s"), (2, "MB")):
            npy, ours = (both[kind][place] / (1 if unit_of == "s" else 1e6) for kind in kinds)
            what = (
                f"scores of {pairs:,} pairs × {DIM}, {MEMBERS} "
                f"members{'' if unit_of == 's' else ': own memory'}"
            )
            lines.append(
                Measure(what, ours, unit_of, alternative="from .npy", alternative_value=npy)
            )
    with scratch() as folder:
        path = folder / "features.faiss"
        blocks = (
            unit(rng.standard_normal((10_000, CAPTION_DIM))).astype(np.float16)
            for _ in range(captions // 10_000)
        )
        write_vectors(path, blocks)
        rows = np.arange(0, captions, 2)
        query = rng.standard_normal(CAPTION_DIM).astype(np.float32)
        read_vectors(path).nearest(query, 1)  # reads the file once
        what = f"of {captions:,} features × {CAPTION_DIM}"
        lines.append(
            Measure(f"mapped open {what}", best(lambda: read_vectors(path)), "ms", target="≤ 13")
        )
        stored = read_vectors(path)
        alone = faiss.read_index(str(path))
        floor = best(lambda: alone.search(query[None], 10_000))
        lines.append(
            Measure(
                f"search {what}",
                best(lambda: stored.nearest(query, 10_000)),
                "ms",
                floor,
                target="≤ 500",
            )
        )
        half = Vectors(stored.index, rows)
        lines.append(
            Measure(
                f"search in half {what}", best(lambda: half.nearest(query, 10_000)), "ms", floor
            )
        )
    return lines


def best(run: Callable[[], object], times: int = 5) -> float:
    """Return the least milliseconds of some calls."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return 1000 * min(seconds)


def score(folder: Path, kind: str) -> None:
    """Compute the scores that read embeddings."""
    read: Callable[[Path], np.ndarray] = (
        read_vectors if kind == "faiss" else lambda path: np.load(path, mmap_mode="r")
    )
    image, text = (
        [read(folder / f"{n}-{side}.{kind}") for n in range(MEMBERS)] for side in ("image", "text")
    )
    membership = ensemble_membership(
        np.arange(len(image[0])), folds=MEMBERS, repeats=1, seed=0, halves=True
    )
    sides = MemberSides(membership, 0)
    trained = membership.trained
    for member in range(MEMBERS):
        pair_terms(image[member], text[member], sides.external)
    contributions(image, text, sides)
    fit_out(image, text, trained, sides.external, [50.0] * MEMBERS)
    swapped_csls(image, text, trained, sides.external, seed=0)


if __name__ == "__main__":
    score(Path(sys.argv[1]), sys.argv[2])
