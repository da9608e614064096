"""What is kept of features that were computed elsewhere: their table, checked, and the features of its pairs.

pairs.parquet, quarantine.parquet   what can be used of the table, and what cannot and why
offsets.npy                         int64 [n_pairs + 1], where the captions of each pair are
image.npy, text.npy                 float16 [n, dim], copied in the order of the pairs; instead, of large ones,
image_rows.npy, text_rows.npy       int64 [n], where each is in the files that were given, which are read in place
features.json                       size and time of each file that is read in place; written last
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipmem_core import columns as c
from clipmem_core.config import InputError
from clipmem_core.features.cache import MADE_FILE, replacing_folder, seal
from clipmem_core.files import read_json

BLOCK = 65_536  # rows checked and copied at a time
IN_PLACE_FROM = 1 << 30  # bytes of one side's features that are float16 already: a copy would take as much disk again
PAIRS_FILE, QUARANTINE_FILE, OFFSETS_FILE = "pairs.parquet", "quarantine.parquet", "offsets.npy"
SIDES = ("image", "text")
_IN_PLACE = "in_place"
_PAIR = pa.schema(
    [(c.PAIR_ID, pa.string()), (c.IMAGE, pa.string()), (c.CAPTIONS, pa.list_(pa.string()))]
    + [(name, pa.string()) for name in (c.LABEL, c.SHA256)]
)


@dataclass(frozen=True)
class Stored:
    """Pairs with the features of their pictures and captions; those of pair i's captions are rows offsets[i] to
    offsets[i + 1] of `text`."""

    pairs: pd.DataFrame  # pair_id, image, captions (Arrow's lists: Python's take ten times the memory), label, sha256
    quarantine: pd.DataFrame  # source, pair_id, reason
    image: np.ndarray  # float16 [n_pairs, image_dim], mapped from files
    text: np.ndarray  # float16 [n_captions, text_dim], mapped from files
    offsets: np.ndarray  # int64 [n_pairs + 1]
    folder: Path  # that they are kept in


@dataclass(frozen=True)
class Usable:
    """The pairs that can be used, and where in the arrays of all files their features are."""

    pairs: pa.Table  # pair_id, image, label
    captions: pa.ChunkedArray  # [n_captions]
    quarantine: pd.DataFrame
    rows: dict[str, np.ndarray]  # of each side int64, [n_pairs] and [n_captions]
    offsets: np.ndarray  # int64 [n_pairs + 1]


class SomeRows:
    """Rows of arrays that follow each other, in an order of their own, read as they are asked for: what `array[rows]`
    is of an array [n, dim], without a copy."""

    ndim = 2

    def __init__(self, arrays: Sequence[np.ndarray], rows: np.ndarray) -> None:
        self.arrays, self.rows = arrays, rows
        self.starts = np.cumsum([0, *map(len, arrays)])
        self.shape, self.dtype = (len(rows), arrays[0].shape[1]), np.dtype(np.float16)
        self.size = len(rows) * arrays[0].shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        """Return some rows, float16 [n, dim]; `key` is a slice, rows, or true for each row."""
        rows = self.rows[key]
        whose = np.searchsorted(self.starts, rows, side="right") - 1
        if len(rows) and (whose == whose[0]).all():
            own, rows = self.arrays[whose[0]], rows - self.starts[whose[0]]
            if (np.diff(rows) == 1).all():  # as they lie there, which is most often so
                return halves(own[rows[0] : rows[0] + len(rows)])
            return halves(own[rows])
        values = np.empty((len(rows), self.shape[1]), np.float16)
        for n in np.unique(whose):
            values[whose == n] = halves(self.arrays[n][rows[whose == n] - self.starts[n]])
        return values


def some_rows(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return rows of a mapped array: itself where they are all of them in order, else what reads them one by one."""
    if np.array_equal(rows, np.arange(len(values))):
        return values
    if isinstance(values, SomeRows):
        return SomeRows(values.arrays, values.rows[rows])
    return SomeRows([values], rows)  # type: ignore[return-value]  # wherever rows are read


def halves(block: np.ndarray) -> np.ndarray:
    """Return numbers as float16; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(block, dtype=np.float16)


def file_stamp(path: Path) -> list[Any]:
    """Return what tells a file from another one of its name, or from none."""
    status = path.stat() if path.is_file() else None
    return [str(path), status and status.st_size, status and status.st_mtime_ns]


def keep(target: Path, usable: Usable, arrays: dict[str, list[np.ndarray]]) -> None:
    """Write what can be used into a folder, complete or not at all.

    Args:
        target: the folder.
        usable: the pairs, and the rows of their features.
        arrays: of each side those of all files; of a mapped one the file is read in place where that saves much.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(target) as new:
        np.save(new / OFFSETS_FILE, usable.offsets)
        names, in_place = [PAIRS_FILE, QUARANTINE_FILE, OFFSETS_FILE], dict[str, list[list[Any]]]()
        features = {}
        for side in SIDES:
            features[side] = SomeRows(arrays[side], usable.rows[side])
            if _stays(features[side]):
                in_place[side] = [file_stamp(Path(str(array.filename)).absolute()) for array in arrays[side]]  # type: ignore[attr-defined]
                names.append(f"{side}_rows.npy")
                np.save(new / names[-1], usable.rows[side])
            else:
                names.append(f"{side}.npy")
                _copy(features[side], new / names[-1])
        with pq.ParquetWriter(new / PAIRS_FILE, _PAIR) as writer:
            for at in range(0, len(features["image"]), BLOCK):
                writer.write_table(_block(usable, features["image"], features["text"], at))
        usable.quarantine.to_parquet(new / QUARANTINE_FILE)
        seal(new, names, {_IN_PLACE: in_place})


def _stays(features: SomeRows) -> bool:
    """Tell whether features are read where they are."""
    return 2 * features.size >= IN_PLACE_FROM and all(
        isinstance(array, np.memmap) and array.dtype == "<f2" and array.flags.c_contiguous for array in features.arrays
    )


def is_kept(folder: Path) -> bool:
    """Tell whether what `keep` left can be opened, and the files that are read in place have not changed."""
    try:
        made = read_json(folder / MADE_FILE, dict[str, Any])
        for name in (PAIRS_FILE, QUARANTINE_FILE):
            pq.read_metadata(folder / name)
        _mapped(folder / OFFSETS_FILE)
        for side in SIDES:
            open_features(folder, side)
        return all(file_stamp(Path(stamp[0])) == stamp for side in made[_IN_PLACE].values() for stamp in side)
    except (InputError, OSError, ValueError, EOFError, LookupError, TypeError, AttributeError, pa.ArrowException):
        return False


def open_kept(folder: Path) -> Stored:
    """Open what `keep` left in a folder."""
    table = pq.read_table(folder / PAIRS_FILE)
    pairs = table.drop_columns([c.CAPTIONS]).to_pandas()
    pairs.insert(2, c.CAPTIONS, pd.arrays.ArrowExtensionArray(table[c.CAPTIONS].cast(pa.list_(pa.string()))))
    if pairs[c.LABEL].isna().all():
        pairs[c.LABEL] = None
    image, text = (open_features(folder, side) for side in SIDES)
    return Stored(pairs, pd.read_parquet(folder / QUARANTINE_FILE), image, text, _mapped(folder / OFFSETS_FILE), folder)


def open_features(folder: Path, side: str) -> np.ndarray:
    """Open the features of one side, "image" or "text": float16 [n, dim], mapped, or what stands for such an array.

    Raises:
        InputError: a file that is read in place is gone.
    """
    files = read_json(folder / MADE_FILE, dict[str, Any]).get(_IN_PLACE, {}).get(side)
    if files is None:
        return _mapped(folder / f"{side}.npy")
    try:
        arrays = [_mapped(Path(path)) for path, _, _ in files]
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename} is missing: its features are read where they are, put it back there"
        ) from None
    if len(arrays) == 1:
        return some_rows(arrays[0], _mapped(folder / f"{side}_rows.npy"))
    return SomeRows(arrays, _mapped(folder / f"{side}_rows.npy"))  # type: ignore[return-value]  # stands for an array


def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r")


def caption_rows(folder: Path, rows: np.ndarray, captions: Iterable[pa.ListArray]) -> np.ndarray:
    """Say where the features of captions are, some of which may have moved to another pair.

    Args:
        folder: what `stored_features` keeps, as `Stored.folder`.
        rows: int64 [n_pairs], the row that each pair has there.
        captions: of each pair, [n_pairs] lists in blocks, of which one is held at a time.

    Returns:
        int64 [n_captions], rows of `Stored.text`.

    Raises:
        InputError: there are no features of a caption.
    """
    offsets, at, done = np.load(folder / OFFSETS_FILE), 0, 0
    found, moved = list[np.ndarray](), dict[int, str]()  # of a caption's place the words
    with pq.ParquetFile(folder / PAIRS_FILE) as file:
        for block in captions:
            own, texts = rows[at : at + len(block)], block.flatten()
            counts = block.value_lengths().to_numpy(zero_copy_only=False)
            places = np.repeat(offsets[own] - (np.cumsum(counts) - counts), counts) + np.arange(len(texts))
            places = np.minimum(places, offsets[-1] - 1)
            first, known = _texts_of(file, offsets, own)
            there = np.minimum(places - first, len(known) - 1)
            other = np.flatnonzero(~pc.equal(texts, known.take(pa.array(there))).to_numpy(zero_copy_only=False))
            moved |= dict(zip((done + other).tolist(), texts.take(pa.array(other)).to_pylist(), strict=True))
            found.append(places)
            at, done = at + len(block), done + len(texts)
        places = np.concatenate(found)
        if moved:
            places[list(moved)] = _places_of(file, list(moved.values()))
    return places


def _texts_of(file: pq.ParquetFile, offsets: np.ndarray, rows: np.ndarray) -> tuple[int, pa.Array]:
    """Return the captions of the row groups that some pairs are in, and the place of the first."""
    ends = np.cumsum([0, *(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))])
    first, last = np.searchsorted(ends, [rows.min(), rows.max()], side="right")
    table = file.read_row_groups(list(range(first - 1, last)), columns=[c.CAPTIONS])
    return int(offsets[ends[first - 1]]), table[c.CAPTIONS].combine_chunks().flatten()


def _places_of(file: pq.ParquetFile, texts: list[str]) -> np.ndarray:
    """Return the first place of each of some captions, int64 [n_texts].

    Raises:
        InputError: one is nowhere.
    """
    wanted, start = pa.array(texts), 0
    found = np.full(len(texts), -1)
    for batch in file.iter_batches(columns=[c.CAPTIONS]):
        known = batch[c.CAPTIONS].flatten()
        place = pc.fill_null(pc.index_in(wanted, known), -1).to_numpy()
        new = (found < 0) & (place >= 0)
        found[new] = start + place[new]
        start += len(known)
    if (found < 0).any():
        text = texts[int(found.argmin())]
        raise InputError(f"caption {text!r} has no features: they were computed elsewhere, of other captions")
    return found


def _block(usable: Usable, image: SomeRows, text: SomeRows, at: int) -> pa.Table:
    """Return some pairs with the sha256 of their features."""
    ends = usable.offsets[at : at + BLOCK + 1]
    words = usable.captions.slice(ends[0], ends[-1] - ends[0]).combine_chunks()
    own = usable.pairs.slice(at, BLOCK)
    lists = pa.ListArray.from_arrays(pa.array(ends - ends[0], pa.int32()), words)
    digests = _digests(image[at : at + BLOCK], text[ends[0] : ends[-1]], (ends - ends[0]).tolist())
    columns = {name: own[name] for name in own.column_names} | {c.CAPTIONS: lists, c.SHA256: digests}
    return pa.table([columns[name] for name in _PAIR.names], schema=_PAIR)


def _digests(image: np.ndarray, text: np.ndarray, offsets: list[int]) -> list[str]:
    """Return the sha256 of each pair's features, those of its picture before those of its captions."""
    found = []
    for picture, start, stop in zip(np.asarray(image), offsets, offsets[1:], strict=False):
        digest = hashlib.sha256(picture.data)
        digest.update(text[start:stop].data)
        found.append(digest.hexdigest())
    return found


def _copy(features: SomeRows, path: Path) -> None:
    """Write features as one array of float16, a block at a time."""
    with path.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": features.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for at in range(0, len(features), BLOCK):
            file.write(features[at : at + BLOCK].data)
