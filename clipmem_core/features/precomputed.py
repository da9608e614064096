"""Precomputed features with their table: a clip-retrieval folder, DataComp metadata, or a table
with .npy files.

A cache folder holds:

pairs.feather, quarantine.parquet   the usable rows of the table, and the skipped ones with a reason
image.faiss, text.faiss             float16 [n, dim], in the order of the source files
image_rows.npy, text_rows.npy       int64 [n_pairs], [n_captions], rows in image.faiss and
                                    text.faiss
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import feather

from clipmem_core.config import SourceOptions, as_dict, data_folder, fingerprint
from clipmem_core.dataset.containers import TABLE_SUFFIXES, as_name, is_missing, stamped, tidy
from clipmem_core.dataset.source import READERS
from clipmem_core.utils import columns as c
from clipmem_core.utils.embeddings import Vectors, read_vectors, write_vectors
from clipmem_core.utils.io import InputError, cached_folder, naming, reading
from clipmem_core.utils.ragged import Ragged

ROWS_AT_ONCE = 65_536  # checked and converted at a time
TOWERS = ("image", "text")
DATACOMP = {"image": "l14_img", "text": "l14_txt"}  # arrays of its .npz
# Folders of clip-retrieval, and the endings of their files
_RETRIEVAL = {"metadata": ".parquet", "img_emb": ".npy", "text_emb": ".npy"}
PAIRS_FILE = "pairs.feather"
QUARANTINE_FILE = "quarantine.parquet"
_LISTED = (*c.QUARANTINE_COLUMNS, c.IMAGE, c.LABEL, c.CAPTIONS, "image_row")
FORMS = (
    "a folder of clip-retrieval's (img_emb, text_emb, metadata), DataComp's .parquet with "
    ".npz, or a table with .npy"
)

Part = tuple[Path, ...]  # a table, and the files of picture and caption features


@dataclass(frozen=True)
class Stored:
    """Pairs with features in a folder.

    Attributes:
        pairs: pair_id, image, captions (Arrow lists: a tenth of the memory of Python's), label,
            sha256.
        quarantine: source, pair_id, kind, reason.
        folder: the cache folder.
    """

    pairs: pd.DataFrame
    quarantine: pd.DataFrame
    folder: Path


def feature_parts(features: Path, source: Path) -> list[Part]:
    """Return the parts of precomputed features; empty if there are none.

    Args:
        features: a clip-retrieval folder, a folder of DataComp metadata, one of its .parquet files,
            or the table or the folder of .npy files.
        source: the table of .npy files, or a folder with this table alone.
    """
    if any((features / name).is_dir() for name in ("img_emb", "text_emb")):
        paths = [path for name in _RETRIEVAL for path in (features / name).glob(f"{name}_*[0-9].*")]
        numbers = {path.stem.rpartition("_")[2] for path in paths}
        return [
            tuple(features / name / f"{name}_{number}{end}" for name, end in _RETRIEVAL.items())
            for number in sorted(numbers, key=lambda number: (len(number), number))
        ]
    folder = features if features.is_dir() else features.parent
    files = list(folder.glob("*.*")) if features.is_dir() else [features]
    suffixes = (".parquet", ".npz")
    tables = sorted({path.with_suffix(".parquet") for path in files if path.suffix in suffixes})
    if any(table.is_file() and table.with_suffix(".npz").is_file() for table in tables):
        return [(table, *[table.with_suffix(".npz")] * 2) for table in tables]
    arrays = [folder / f"{tower}.npy" for tower in TOWERS]
    if all(path.is_file() for path in arrays):
        path = features if features.is_file() else source
        files = list(path.iterdir()) if path.is_dir() else [path]
        tables = [path for path in files if path.suffix.lower() in (".parquet", *TABLE_SUFFIXES)]
        if len(tables) == 1:
            return [(tables[0], *arrays)]
    return []


def stored_features(
    parts: Sequence[Part], options: SourceOptions, *, folder: Path | None
) -> Stored:
    """Read precomputed features. Rows with the same id are one pair with several captions.

    A row without a caption, or with features that are NaN, infinite or constant, is in quarantine
    with its reason. `sha256` is that of a pair's features.

    Args:
        parts: as of `feature_parts`.
        options: the table's columns, guessed where they are not named.
        folder: for the copied features, None for the cache in the data folder.
    """
    try:
        stamps = [stamped(path) for part in parts for path in part]
        key = fingerprint([stamps, as_dict(options), c.QUARANTINE_COLUMNS])
        target = (folder or data_folder() / "cache" / "features") / "stored" / key
        with naming(target):
            cached_folder(target, lambda new: _store(new, parts, options))
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} is missing: give {FORMS}") from None
    table = _open_pairs(target)
    pairs = table.drop_columns([c.CAPTIONS]).to_pandas()
    pairs.insert(2, c.CAPTIONS, pd.arrays.ArrowExtensionArray(table[c.CAPTIONS]))
    if pairs[c.LABEL].isna().all():
        pairs[c.LABEL] = None
    return Stored(pairs, pd.read_parquet(target / QUARANTINE_FILE), target)


def map_features(folder: Path, tower: str) -> Vectors:
    """Map the features of one tower in the order of the pairs, float16 [n, dim].

    Args:
        folder: `Stored.folder`.
        tower: image or text.
    """
    return read_vectors(folder / f"{tower}.faiss").take(np.load(folder / f"{tower}_rows.npy"))


def caption_rows(folder: Path, captions: Iterable[pa.ListArray]) -> np.ndarray:
    """Return a row of `map_features` for each caption; the same text has the same features.

    Args:
        folder: `Stored.folder`.
        captions: of each pair, lists in blocks.

    Returns:
        int64 [n_captions].
    """
    stored = pa.chunked_array([chunk.flatten() for chunk in _open_pairs(folder)[c.CAPTIONS].chunks])
    texts = pa.chunked_array([block.flatten().cast(pa.string()) for block in captions])
    rows = pc.index_in(texts, value_set=stored)
    if rows.null_count:
        text = texts.filter(pc.is_null(rows))[0].as_py()
        raise InputError(
            f"caption {text!r} has no precomputed features: they are of other captions"
        )
    return rows.to_numpy().astype(np.int64)


def _open_pairs(folder: Path) -> pa.Table:
    return feather.read_table(folder / PAIRS_FILE, memory_map=True)


def _store(folder: Path, parts: Sequence[Part], options: SourceOptions) -> None:
    """Copy the features of all parts and write the pairs that can use them."""
    faults: list[list[np.ndarray]] = [[], []]  # of each row, by tower and part
    for number, tower in enumerate(TOWERS):
        paths = [part[number + 1] for part in parts]
        write_vectors(folder / f"{tower}.faiss", _copied(tower, paths, faults[number]))
    listed = pd.DataFrame(_captions_of(parts, faults, options), columns=_LISTED)
    listed["text_row"] = listed.index
    image_faults, text_faults = map(np.concatenate, faults)
    empty = np.where(listed[c.CAPTIONS] == "", "caption is empty", "")
    for kind, reason in (
        (c.BAD_FEATURES, image_faults[listed["image_row"]]),
        (c.BAD_CAPTION, empty),
        (c.BAD_FEATURES, text_faults),
    ):
        is_first = (listed[c.REASON] == "") & (reason != "")
        listed.loc[is_first, c.KIND] = kind
        listed.loc[is_first, c.REASON] = reason[is_first]
    is_usable = listed[c.REASON] == ""
    quarantine = listed.loc[~is_usable, c.QUARANTINE_COLUMNS]
    quarantine.to_parquet(folder / QUARANTINE_FILE, index=False)
    _write_pairs(folder, listed[is_usable])


def _captions_of(
    parts: Sequence[Part], faults: Sequence[Sequence[np.ndarray]], options: SourceOptions
) -> Iterator[tuple[str | int | None, ...]]:
    """Yield the columns `_LISTED` of each caption of all parts."""
    first = 0  # row of the first picture of a part
    for (table, *_), *own in zip(parts, *faults, strict=True):
        n_rows = 0
        n_captions = 0
        for row in READERS[table.suffix.lower()](table, options).rows:
            image = as_name(row.image) or ""
            pair_id = as_name(row.pair_id) or image or row.source
            is_list = isinstance(row.captions, list) and row.captions
            for caption in row.captions if is_list else [row.captions]:
                text = "" if is_missing(caption) else tidy(str(caption))
                facts = (row.source, pair_id, row.kind, row.reason, image, as_name(row.label))
                yield *facts, text, first + n_rows
                n_captions += 1
            n_rows += 1
        n_features = [len(values) for values in own]
        if n_features != [n_rows, n_captions]:
            raise InputError(
                f"{table} has {n_rows:,} pictures with {n_captions:,} captions, but there are "
                f"features of {n_features[0]:,} and {n_features[1]:,}: make them equal"
            )
        first += n_rows


def _array(path: Path, tower: str) -> np.ndarray:
    """Open an array [n, dim] of a .npy or .npz file."""
    with reading(path, repair="copy it again"):
        if path.suffix == ".npz":
            with np.load(path) as archive:
                array = archive[DATACOMP[tower]]
        else:
            array = np.load(path, mmap_mode="r")
    if array.ndim != 2 or array.dtype.kind != "f" or not array.shape[1]:
        raise InputError(
            f"{path} must hold numbers [n, dim], not {array.dtype} {list(array.shape)}"
        )
    return array


def _copied(tower: str, paths: Iterable[Path], faults: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the features of all parts as float16; add to `faults` each part's faults, empty for
    usable rows, [n]."""
    dim = 0
    for path in paths:
        array = _array(path, tower)
        dim = dim or array.shape[1]
        if array.shape[1] != dim:
            raise InputError(
                f"{tower} features must have one length, not {dim} and, in {path}, {array.shape[1]}"
            )
        reasons = np.full(len(array), "", object)
        whose = {"image": "picture's", "text": "caption's"}[tower]
        for at in range(0, len(array), ROWS_AT_ONCE):
            with np.errstate(over="ignore"):  # becomes infinite
                values = np.ascontiguousarray(array[at : at + ROWS_AT_ONCE], dtype=np.float16)
            yield values
            part = reasons[at : at + ROWS_AT_ONCE]
            wide = values.astype(np.float32)  # which numpy compares faster
            part[wide.min(axis=1) == wide.max(axis=1)] = f"{whose} features are constant"
            part[~np.isfinite(wide).all(axis=1)] = f"{whose} features are NaN or infinite"
        faults.append(reasons)


def _write_pairs(folder: Path, captions: pd.DataFrame) -> None:
    """Join captions with the same pair id, each text once, with the picture and the label of the
    first."""
    captions = captions.assign(pair=pd.factorize(captions[c.PAIR_ID])[0])
    pairs = captions.drop_duplicates("pair")
    texts = captions.drop_duplicates(["pair", c.CAPTIONS]).sort_values("pair", kind="stable")
    np.save(folder / "image_rows.npy", pairs["image_row"].to_numpy(np.int64))
    np.save(folder / "text_rows.npy", texts["text_row"].to_numpy(np.int64))
    image, text = (map_features(folder, tower) for tower in TOWERS)
    starts = Ragged.of(np.bincount(texts["pair"])).start
    sha256 = [
        hashlib.sha256(image[row : row + 1].tobytes() + text[first:end].tobytes()).hexdigest()
        for row, (first, end) in enumerate(pairwise(starts))
    ]
    listed = pa.array(texts[c.CAPTIONS].tolist(), pa.string())
    columns = {
        c.PAIR_ID: pairs[c.PAIR_ID],
        c.IMAGE: pairs[c.IMAGE],
        c.CAPTIONS: pa.ListArray.from_arrays(pa.array(starts, pa.int32()), listed),
        c.LABEL: pairs[c.LABEL],
        c.SHA256: sha256,
    }
    feather.write_feather(pa.table(columns), folder / PAIRS_FILE, compression="uncompressed")
