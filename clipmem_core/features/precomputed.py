"""Precomputed features with their table: a clip-retrieval folder, DataComp metadata, or a table
with .npy files.

A cache folder holds:

pairs.arrow, quarantine.parquet     the usable rows of the table, and the skipped ones with a reason
image.faiss, text.faiss             float16 [n, dim], in the order of the source files
image_rows.npy, text_rows.npy       int64 [n_pairs], [n_captions], rows in image.faiss and
                                    text.faiss
offsets.npy                         int64 [n_pairs + 1]; the captions of pair i are offsets[i] to
                                    offsets[i + 1]
"""

import hashlib
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from clipmem_core import columns as c
from clipmem_core.config import SourceOptions, as_dict, data_folder, fingerprint
from clipmem_core.dataset.readers.columnar import read_arrow_files, read_schema
from clipmem_core.dataset.readers.paths import as_name, is_missing, tidy
from clipmem_core.dataset.readers.records import Row
from clipmem_core.dataset.readers.tables import read_delimited, read_jsonl
from clipmem_core.embeddings import Vectors, read_vectors, write_vectors
from clipmem_core.io import InputError, naming, replacing_folder, shortage

BLOCK = 65_536  # rows checked and copied at a time
SIDES = ("image", "text")
DATACOMP = {"image": "l14_img", "text": "l14_txt"}  # arrays of its .npz
_RETRIEVAL = {
    "metadata": ".parquet",
    "img_emb": ".npy",
    "text_emb": ".npy",
}  # folders of clip-retrieval, and endings
PAIRS_FILE = "pairs.arrow"
QUARANTINE_FILE = "quarantine.parquet"
OFFSETS_FILE = "offsets.npy"
TEXTS = (c.PAIR_ID, c.IMAGE, c.LABEL, c.CAPTIONS)
CAPTION = pa.schema(
    [*((name, pa.string()) for name in TEXTS), ("image_row", pa.int64()), ("text_row", pa.int64())]
)
_PAIR = pa.schema(
    [(name, pa.string()) for name in (c.PAIR_ID, c.IMAGE)]
    + [(c.CAPTIONS, pa.list_(pa.string()))]
    + [(name, pa.string()) for name in (c.LABEL, c.SHA256)]
)
FORMS = (
    "a folder of clip-retrieval's (img_emb, text_emb, metadata), DataComp's .parquet with "
    ".npz, or a table with .npy"
)


@dataclass(frozen=True)
class Stored:
    """Pairs with features in a folder."""

    pairs: (
        pd.DataFrame
    )  # pair_id, image, captions (Arrow lists: a tenth of the memory of Python's), label, sha256
    quarantine: pd.DataFrame  # source, pair_id, reason
    folder: Path


def stored_features(
    source: Path,
    options: SourceOptions,
    *,
    image: str = "",
    text: str = "",
    folder: Path | None = None,
) -> Stored:
    """Read precomputed features. Rows with the same id are one pair with several captions.

    A row without a caption, or with features that are NaN, infinite, zero or constant, is in
    quarantine with its reason. `sha256` is that of a pair's features.

    Args:
        source: a clip-retrieval folder, a folder of DataComp metadata, one of its .parquet files,
            or a table.
        options: the table's columns, guessed where they are not named.
        image, text: for a table, the .npy files with a row for each picture and each caption.
        folder: for the copied features, by default the cache in the data folder.
    """
    try:
        parts = _parts(source, image, text)
        stamps = [
            [str(path), (status := path.stat()).st_size, status.st_mtime_ns]
            for part in parts
            for path in part
        ]
        key = fingerprint([stamps, image, text, as_dict(options)])
        target = (folder or data_folder() / "cache" / "features") / "stored" / key
        if not target.is_dir():
            with naming(target), replacing_folder(target) as new:
                _store(new, parts, options)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} is missing: give {FORMS}") from None
    table = _open_pairs(target)
    pairs = table.drop_columns([c.CAPTIONS]).to_pandas()
    pairs.insert(2, c.CAPTIONS, pd.arrays.ArrowExtensionArray(table[c.CAPTIONS]))
    if pairs[c.LABEL].isna().all():
        pairs[c.LABEL] = None
    return Stored(pairs, pd.read_parquet(target / QUARANTINE_FILE), target)


def open_features(folder: Path, side: str) -> Vectors:
    """Open the features of one side, "image" or "text": float16 [n, dim], mapped, in the order of
    the pairs."""
    return read_vectors(folder / f"{side}.faiss").take(np.load(folder / f"{side}_rows.npy"))


def caption_rows(folder: Path, rows: np.ndarray, captions: Iterable[pa.ListArray]) -> np.ndarray:
    """Return the text features' row of each caption, int64 [n_captions], also if it moved to
    another pair.

    Args:
        folder: `Stored.folder`.
        rows: int64 [n_pairs], ascending, the row of each pair in `Stored.pairs`.
        captions: of each pair, [n_pairs] lists in blocks.
    """
    offsets = np.load(folder / OFFSETS_FILE)
    stored = _open_pairs(folder)[c.CAPTIONS]
    texts = pa.chunked_array([chunk.flatten() for chunk in stored.chunks], pa.string())
    places = list[np.ndarray]()
    moved = dict[int, str]()
    done = 0
    at = 0
    for block in captions:
        words = block.flatten()
        counts = block.value_lengths().to_numpy(zero_copy_only=False)
        first = offsets[rows[at : at + len(block)]] - (np.cumsum(counts) - counts)
        place = np.minimum(np.repeat(first, counts) + np.arange(len(words)), len(texts) - 1)
        start = int(place.min(initial=len(texts)))
        expected = texts.slice(start, int(place.max(initial=start)) + 1 - start).take(
            pa.array(place - start)
        )
        same = pc.equal(words, expected.combine_chunks().cast(words.type)).to_numpy(
            zero_copy_only=False
        )
        moved |= {done + other: words[other].as_py() for other in np.flatnonzero(~same).tolist()}
        places.append(place)
        at = at + len(block)
        done = done + len(words)
    caption_places = np.concatenate(places)
    if moved:
        place = pc.fill_null(
            pc.index_in(pa.array(moved.values(), pa.string()), value_set=texts), -1
        ).to_numpy()
        if (place < 0).any():
            text = list(moved.values())[int(place.argmin())]
            raise InputError(
                f"caption {text!r} has no precomputed features: they are of other captions"
            )
        caption_places[list(moved)] = place
    return caption_places


def _open_pairs(folder: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(folder / PAIRS_FILE))).read_all()


def _parts(source: Path, image: str, text: str) -> list[tuple[Path, Path, Path]]:
    """Return the table, and the files of picture and caption features, of each part."""
    if (source / "metadata").is_dir():
        found = [path for name in _RETRIEVAL for path in (source / name).glob(f"{name}_*[0-9].*")]
        numbers = sorted(
            {path.stem.rpartition("_")[2] for path in found},
            key=lambda number: (len(number), number),
        )
        if numbers:
            named = [
                [source / name / f"{name}_{number}{end}" for name, end in _RETRIEVAL.items()]
                for number in numbers
            ]
            return [(table, picture, caption) for table, picture, caption in named]
    elif image and text:
        return [(source, Path(image), Path(text))]
    else:
        files = [*source.glob("*.parquet"), *source.glob("*.npz")] if source.is_dir() else [source]
        tables = sorted({path.with_suffix(".parquet") for path in files})
        if any(table.with_suffix(".npz").is_file() for table in tables):
            return [
                (table, table.with_suffix(".npz"), table.with_suffix(".npz")) for table in tables
            ]
    raise InputError(f"{source} holds no features: give {FORMS}")


def _store(folder: Path, parts: list[tuple[Path, Path, Path]], options: SourceOptions) -> None:
    """Copy the features of all parts and write the pairs that can use them."""
    tables = list[pa.Table]()
    refused = list[tuple[str, str, str]]()
    counts = [0, 0]
    faults: list[list[np.ndarray]] = [[], []]  # of each row, by side and part
    for number, side in enumerate(SIDES):
        paths = [part[number + 1] for part in parts]
        write_vectors(folder / f"{side}.faiss", _copied(side, paths, faults[number]))
    for (table, *files), *part_faults in zip(parts, *faults, strict=True):
        used = []
        rows = [0, 0]
        for row in _read_table(table, options):
            pair_id = as_name(row.pair_id) or as_name(row.image) or row.source
            reason = row.reason or _fault(part_faults[0], rows[0], "picture")
            for caption in (
                row.captions if isinstance(row.captions, list) and row.captions else [row.captions]
            ):
                words = "" if is_missing(caption) else tidy(str(caption))
                fault = (
                    reason
                    or ("" if words else "caption is empty")
                    or _fault(part_faults[1], rows[1], "caption")
                )
                if fault:
                    refused.append((row.source, pair_id, fault))
                else:
                    places = counts[0] + rows[0], counts[1] + rows[1]
                    used.append(
                        (pair_id, as_name(row.image) or "", as_name(row.label), words, *places)
                    )
                rows[1] += 1
            rows[0] += 1
            if len(used) >= BLOCK:
                tables.append(_as_table(used))
                used = []
        tables.append(_as_table(used))
        for path, reasons, count, unit in zip(
            files, part_faults, rows, ("rows", "captions"), strict=True
        ):
            if len(reasons) != count:
                raise InputError(
                    f"{path} has {len(reasons):,} features, but {table} {count:,} {unit}: make "
                    "them equal"
                )
        counts = [counts[0] + rows[0], counts[1] + rows[1]]
    captions = pa.concat_tables(tables)
    if not len(captions):
        frequent = pd.Series([reason for _, _, reason in refused]).value_counts()
        raise InputError(
            f"all {counts[0]:,} rows were skipped; most often: "
            f"{frequent.index[0] if len(frequent) else 'none'}"
        )
    pd.DataFrame(refused, columns=c.QUARANTINE_COLUMNS).to_parquet(folder / QUARANTINE_FILE)
    _write_pairs(folder, captions)


def _array(path: Path, side: str) -> np.ndarray:
    """Open an array [n, dim] of a .npy or .npz file."""
    try:
        if path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                if (key := DATACOMP[side]) not in archive.files:
                    raise InputError(
                        f"{path} has no array {key!r} but {', '.join(archive.files)}: rename one "
                        "of them"
                    )
                array = archive[key]
        else:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, InputError):
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if shortage(error):
            raise
        raise InputError(
            f"{path} is cut off or damaged ({' '.join(str(error).split())}): copy it again"
        ) from None
    if array.ndim != 2 or array.dtype.kind != "f" or not array.shape[1]:
        raise InputError(
            f"{path} must hold numbers [n, dim], not {array.dtype} {list(array.shape)}"
        )
    return array


def _copied(side: str, paths: Iterable[Path], faults: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the features of all parts as float16; add to `faults` each part's faults, empty for
    usable rows, [n]."""
    dim = 0
    for path in paths:
        array = _array(path, side)
        dim = dim or array.shape[1]
        if array.shape[1] != dim:
            raise InputError(
                f"{side} features must be of one length, not {dim} and, in {path}, {array.shape[1]}"
            )
        reasons = np.full(len(array), "", object)
        for at in range(0, len(array), BLOCK):
            with np.errstate(over="ignore"):  # becomes infinite
                values = np.ascontiguousarray(array[at : at + BLOCK], dtype=np.float16)
            yield values
            part = reasons[at : at + BLOCK]
            bits = values.view(np.uint16)  # which numpy compares ten times as fast
            largest = (bits & 0x7FFF).max(axis=1)  # without the sign
            part[bits.min(axis=1) == bits.max(axis=1)] = "features are constant"
            part[largest == 0] = "features are all zero"
            part[largest >= 0x7C00] = "features are NaN or infinite"
        faults.append(reasons)


def _fault(faults: np.ndarray, row: int, whose: str) -> str:
    return f"{whose}'s {faults[row]}" if row < len(faults) and faults[row] else ""


def _read_table(table: Path, options: SourceOptions) -> Iterator[Row]:
    if table.suffix.lower() == ".parquet":
        read_schema(table)  # raises for a damaged file
        home = table.resolve()
        return iter(read_arrow_files([home], home.parent, options, kind="parquet").rows)
    read = read_jsonl if table.suffix.lower() in (".jsonl", ".ndjson") else read_delimited
    return iter(read(table, options).rows)


def _as_table(used: list[tuple[Any, ...]]) -> pa.Table:
    columns = zip(*used, strict=True) if used else [()] * len(CAPTION)
    return pa.table(
        [pa.array(values, kind) for values, kind in zip(columns, CAPTION.types, strict=True)],
        schema=CAPTION,
    )


def _write_pairs(folder: Path, captions: pa.Table) -> None:
    """Join captions with the same pair id, each text once, with the picture and the label of the
    first."""
    encoded = pc.dictionary_encode(captions[c.PAIR_ID])  # numbers ids in order of appearance
    pair = np.concatenate([codes.indices for codes in encoded.chunks], dtype=np.int64)
    _, first = np.unique(pair, return_index=True)
    pairs = captions.select([c.PAIR_ID, c.IMAGE, c.LABEL, "image_row"])
    if len(first) < len(pair):
        texts = captions.select([c.CAPTIONS, "text_row"]).append_column("pair", pa.array(pair))
        texts = texts.group_by(["pair", c.CAPTIONS], use_threads=False).aggregate(
            [("text_row", "min")]
        )
        captions = texts.rename_columns(["pair", c.CAPTIONS, "text_row"]).sort_by(
            [("pair", "ascending"), ("text_row", "ascending")]
        )
        pairs = pairs.take(pa.array(first))
        pair = captions["pair"].to_numpy()
    offsets = np.concatenate([[0], np.cumsum(np.bincount(pair))])
    np.save(folder / OFFSETS_FILE, offsets)
    np.save(folder / "image_rows.npy", pairs["image_row"].to_numpy())
    np.save(folder / "text_rows.npy", captions["text_row"].to_numpy())
    image, text = (open_features(folder, side) for side in SIDES)
    with pa.ipc.new_file(str(folder / PAIRS_FILE), _PAIR) as writer:
        for at in range(0, len(pairs), BLOCK):
            ends = offsets[at : at + BLOCK + 1]
            starts = (ends - ends[0]).tolist()
            pictures = image[at : at + BLOCK]
            words = text[ends[0] : ends[-1]]
            sha256 = []
            for picture, start, stop in zip(pictures, starts, starts[1:], strict=False):
                sha256.append(
                    hashlib.sha256(picture.tobytes() + words[start:stop].tobytes()).hexdigest()
                )
            block = pairs.slice(at, BLOCK)
            texts = captions[c.CAPTIONS].slice(ends[0], ends[-1] - ends[0]).combine_chunks()
            lists = pa.ListArray.from_arrays(pa.array(starts, pa.int32()), texts)
            columns = [block[c.PAIR_ID], block[c.IMAGE], lists, block[c.LABEL], pa.array(sha256)]
            writer.write_table(pa.table(columns, schema=_PAIR))
