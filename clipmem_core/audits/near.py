"""An approximate index beside the exact one of a member's embeddings, for so many pairs that comparing all takes long.

    <data>/cache/near/<key>.faiss   unit vectors, 8 bits a number, in cells around some of them (IVF of faiss)
    <data>/cache/near/<key>.json    how it is to be asked, and the recall that was measured so

It only names candidates, whose cosines are computed exactly. Cells are laid out on a sample, and filled block by block,
in time proportional to the pairs. Of the kinds of faiss, this one is small and quick to make, and a search maps it. On
two busy cores, 200,000 made embeddings × 256, recall of the first 10 at least .95: 19 s, 54 MB and 6 ms a query; cells
of float32 23 s, 207 MB and 5 ms; HNSW 244 s, 259 MB and 8 ms. A million: 64 s, 265 MB and 39 ms, float32 67 s, 1,033 MB
and 147 ms; one exact pass takes 410 ms (`python -m tests.bench index`).
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from clipmem_core.atomic import checksum, read_through
from clipmem_core.audits.embeddings import indexed_members
from clipmem_core.audits.index import map_vectors
from clipmem_core.audits.store import IMAGE_INDEX, TEXT_INDEX, Audit, known_sha256, write_json
from clipmem_core.config import InputError, data_folder, fingerprint
from clipmem_core.files import read_json

ABOVE = 200_000  # pairs: up to here one exact pass is quick
CODE = "SQ8"
CELLS, PER_CELL, ROUNDS = 1024, 64, 10  # cells, pairs a cell that they are laid out on, rounds of k-means
RECALL, FIRST = 0.95, 10  # least share of the first pairs that is found
QUERIES = 200  # of either side, held out of the sample, that recall is measured with
OTHER_SIDE = {IMAGE_INDEX: TEXT_INDEX, TEXT_INDEX: IMAGE_INDEX}
_MORE = 2  # candidates for each pair that is wanted
_BLOCK = 16_384
_KEY = [CODE, CELLS, PER_CELL, ROUNDS, RECALL, FIRST, QUERIES, faiss.__version__]


@dataclass(frozen=True)
class Measured:
    """What is known of an approximate index: the fields of its JSON file."""

    checksum: int  # CRC-32 of the index
    probes: int  # cells that a search looks into
    recall: float  # of the first 10: the lower of those with queries of its own side and of the other
    queries: int
    pairs: int
    bytes: int
    seconds: float  # that making it took


@dataclass(frozen=True)
class Near:
    """An approximate index that was opened."""

    index: Any
    measured: Measured

    def candidates(self, query: np.ndarray, k: int) -> np.ndarray:
        """Return rows that the k nearest to a vector [dim] are probably among, int64, ascending."""
        return _candidates(self.index, query[None], k)[0]


def ensure_near(audit: Audit, *, say: Callable[[str], None]) -> None:
    """Make the approximate indexes of an audit that has more pairs than `ABOVE`, those that are not there and whole.

    Raises:
        InputError: embeddings are missing or broken.
    """
    if audit.record.pairs <= ABOVE:
        return
    for member in indexed_members(audit):
        for own, other in OTHER_SIDE.items():
            made_of = audit.member(member) / own, audit.member(member) / other
            path = near_path(audit, member, own)
            if _opened(path) is None:
                say(f"making an approximate index of {member}/{own}")
            near = read_through(path, functools.partial(_write, path, *made_of), _opened, broken=say)
            if near.measured.recall < RECALL:
                say(
                    f"note: it finds only {near.measured.recall:.2f} of the nearest {FIRST}, and searches go without it"
                )


def open_near(audit: Audit, member: str, name: str) -> Near | None:
    """Return the approximate index beside `image.faiss` or `text.faiss` of a member.

    Returns:
        None where there is none, it is broken, or finds too little: compare all.
    """
    # It was measured with the embeddings of both sides: without one of them it has no name.
    if audit.record.pairs <= ABOVE or not all((audit.member(member) / side).is_file() for side in OTHER_SIDE):
        return None
    near = _opened(near_path(audit, member, name))
    return near if near is not None and near.measured.recall >= RECALL else None


def near_path(audit: Audit, member: str, name: str) -> Path:
    """Return where the approximate index beside one of a member's is kept: its name has all that changes it.

    Raises:
        InputError: the exact index is missing.
    """
    content = [known_sha256(audit, audit.member(member) / one) for one in (name, OTHER_SIDE[name])]
    return data_folder() / "cache" / "near" / f"{fingerprint([content, _KEY])}.faiss"


def _opened(path: Path) -> Near | None:
    if not path.is_file():
        return None
    status = path.stat()
    return _open(path, status.st_ino, status.st_mtime_ns)


@functools.lru_cache(maxsize=32)
def _open(path: Path, inode: int, changed: int) -> Near | None:
    """Map an index, which its inode and time tell from another of its name, if it is what was written."""
    try:
        measured = read_json(path.with_suffix(".json"), Measured)
        if measured.checksum != checksum(path):
            return None
        index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    except (InputError, RuntimeError):
        return None
    index.nprobe = measured.probes
    return Near(index, measured)


def _write(path: Path, own: Path, other: Path, temporary: Path) -> None:
    began, vectors = time.monotonic(), map_vectors(own)
    drawn = np.random.default_rng(0).permutation(len(vectors))
    queries = min(QUERIES, len(vectors) // 10)
    held_out = drawn[:queries]
    index = build(vectors, drawn[queries:])
    asked = np.concatenate([vectors[held_out], map_vectors(other)[held_out]])
    faiss.write_index(index, str(temporary))
    recall = tune(index, vectors, asked, np.concatenate([held_out, np.full(queries, -1)]))
    size = temporary.stat().st_size
    seconds = round(time.monotonic() - began, 1)
    measured = Measured(checksum(temporary), index.nprobe, round(recall, 4), queries, len(vectors), size, seconds)
    write_json(path.with_suffix(".json"), dataclasses.asdict(measured))


def build(vectors: np.ndarray, drawn: np.ndarray, *, code: str = CODE) -> Any:
    """Lay out cells on a sample of vectors and fill them with all.

    Args:
        vectors: float32 [n_pairs, dim]; may be a memory map, of which a block is read at a time.
        drawn: rows in a random order that the sample is taken of the front of.
        code: how faiss is to keep them.
    """
    n, dim = vectors.shape
    cells = max(1, min(CELLS, len(drawn) // PER_CELL))
    index: Any = faiss.index_factory(dim, f"IVF{cells},{code}", faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.spherical, index.cp.seed = ROUNDS, True, 1
    index.train(_unit(vectors[np.sort(drawn[: cells * PER_CELL])]))
    for at in range(0, n, _BLOCK):
        index.add(_unit(vectors[at : at + _BLOCK]))
    return index


def tune(index: Any, vectors: np.ndarray, asked: np.ndarray, own: np.ndarray) -> float:
    """Let searches look into as few cells as find enough, and return the recall of the first 10 of the worse half.

    Args:
        index: of the vectors.
        vectors: float32 [n_pairs, dim].
        asked: float32 [n_queries, dim]; each half of the queries has its recall.
        own: the row of each query among the vectors, which does not count as found, −1 where it has none; int64.
    """
    wanted = exact_nearest(vectors, asked, own)
    index.nprobe = 1
    while (recall := recall_of(index, asked, wanted)) < RECALL and index.nprobe < index.nlist:
        index.nprobe = min(index.nlist, index.nprobe + max(1, index.nprobe // 2))
    return recall


def recall_of(index: Any, asked: np.ndarray, wanted: list[np.ndarray]) -> float:
    """Return the share of wanted rows among the candidates of each query, on average: that of the worse half."""
    found = _candidates(index, asked, FIRST + 1)
    hits = np.array([np.isin(rows, near).mean() for rows, near in zip(wanted, found, strict=True)])
    return float(min(half.mean() for half in np.split(hits, 2)))


def exact_nearest(vectors: np.ndarray, asked: np.ndarray, own: np.ndarray) -> list[np.ndarray]:
    """Return the rows of the 10 vectors with the largest cosine with each query, itself left out: one exact pass."""
    asked = _unit(asked)
    heap = faiss.ResultHeap(len(asked), FIRST + 1, keep_max=True)
    for at in range(0, len(vectors), _BLOCK):
        block = _unit(vectors[at : at + _BLOCK])
        products, rows = faiss.knn(asked, block, FIRST + 1, metric=faiss.METRIC_INNER_PRODUCT)
        heap.add_result(products, rows + at)
    heap.finalize()
    return [rows[rows != row][:FIRST] for rows, row in zip(heap.I, own, strict=True)]


def _candidates(index: Any, asked: np.ndarray, k: int) -> list[np.ndarray]:
    found = index.search(_unit(asked), min(index.ntotal, _MORE * k))[1]
    return [np.sort(rows[rows >= 0]) for rows in found]


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors at length 1, float32 [n, dim]; those without a length stay zero."""
    own = np.array(vectors, dtype=np.float32)
    faiss.normalize_L2(own)
    return own
