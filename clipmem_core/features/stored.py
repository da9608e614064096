"""Features that were computed elsewhere, with their table: a folder of clip-retrieval's, DataComp's metadata, or .npy
files beside a table. No picture is needed for them."""

import shutil
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.config import InputError, SourceOptions, as_dict, fingerprint
from clipmem_core.features.cache import is_whole, replacing_folder, seal
from clipmem_core.features.embed import features_folder
from clipmem_core.pairs.readers.columnar import read_arrow_files
from clipmem_core.pairs.readers.delimited import read_delimited
from clipmem_core.pairs.readers.json_files import read_jsonl
from clipmem_core.pairs.readers.rows import Row
from clipmem_core.pairs.readers.text import as_name, is_missing, tidy
from clipmem_core.shortage import shortage

_GUESSED = SourceOptions()
_KEPT = ("pairs.parquet", "quarantine.parquet", "image.npy", "text.npy", "offsets.npy")
_BLOCK = 65_536  # rows checked and copied at a time
_FORMS = (
    "a folder of clip-retrieval's (img_emb, text_emb, metadata), DataComp's .parquet with .npz, or a table with .npy"
)


@dataclass(frozen=True)
class Stored:
    """Pairs with the features of their pictures and captions; those of pair i's captions are rows offsets[i] to
    offsets[i + 1] of `text`."""

    pairs: pd.DataFrame  # pair_id, image, captions, label
    quarantine: pd.DataFrame  # source, pair_id, reason
    image: np.ndarray  # float16 [n_pairs, image_dim], mapped from a file
    text: np.ndarray  # float16 [n_captions, text_dim], mapped from a file
    offsets: np.ndarray  # int64 [n_pairs + 1]


@dataclass(frozen=True)
class _Part:
    """A table and the arrays beside it, as they are in the files."""

    table: Path
    rows: list[Row]
    captions: list[list[Any]]  # of each row
    image: np.ndarray  # [n_rows, image_dim]
    text: np.ndarray  # [n_captions, text_dim]


def stored_features(
    source: Path,
    options: SourceOptions = _GUESSED,
    *,
    image: str = "",
    text: str = "",
    folder: Path | None = None,
) -> Stored:
    """Read features that were computed elsewhere. Rows of one id are one pair with several captions.

    Args:
        source: a folder of clip-retrieval's, or of DataComp's metadata, one of its .parquet files, or a table.
        options: the table's columns, where they are not to be guessed.
        image: beside a table, the .npy file with a row for each of the table's; in DataComp's .npz the array's name,
            l14_img where nothing is given.
        text: the same for captions; where rows have lists of captions, the .npy file has a row for each caption.
        folder: where the checked features are kept; None takes the cache in the data folder.

    Returns:
        The pairs that can be used with their features; a row without a caption, or whose features are NaN, infinite,
        zero or one number over and over, is in quarantine with the reason.

    Raises:
        InputError: a file is missing, cut off, or has another count or length than the rest; one line names it.
    """
    home = (folder or features_folder()) / "stored"
    try:
        files = _files(source, image, text)
        stamps = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for part in files for path in part]
        target = home / fingerprint([stamps, image, text, as_dict(options)])
        if not is_whole(target, _KEPT):
            shutil.rmtree(target, ignore_errors=True)
            parts = [_read(*part, options, image or "l14_img", text or "l14_txt") for part in files]
            _keep(target, *_joined(parts), parts)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} is missing: give {_FORMS}") from None
    arrays = [np.load(target / f"{name}.npy", mmap_mode="r") for name in ("image", "text", "offsets")]
    return Stored(pd.read_parquet(target / _KEPT[0]), pd.read_parquet(target / _KEPT[1]), *arrays)


def feature_faults(features: np.ndarray) -> np.ndarray:
    """Say of each row of features why it cannot be used, empty where it can: object [n].

    Example:
        >>> feature_faults(np.array([[1, 2], [0, 0], [3, 3], [np.nan, 1]])).tolist()
        ['', 'features are all zero', 'features are one number over and over', 'features are NaN or infinite']
    """
    reasons = np.full(len(features), "", object)
    for at in range(0, len(features), _BLOCK):
        with np.errstate(over="ignore"):
            block, part = features[at : at + _BLOCK].astype(np.float16), reasons[at : at + _BLOCK]
        part[(block == block[:, :1]).all(axis=1)] = "features are one number over and over"
        part[(block == 0).all(axis=1)] = "features are all zero"
        part[~np.isfinite(block).all(axis=1)] = "features are NaN or infinite"
    return reasons


def _files(source: Path, image: str, text: str) -> list[tuple[Path, Path, Path]]:
    """Return the table, and the files of picture and caption features, of each part."""
    if (source / "metadata").is_dir():
        tables, images, texts = (
            _numbered(source / name, ending)
            for name, ending in (("metadata", ".parquet"), ("img_emb", ".npy"), ("text_emb", ".npy"))
        )
        for name, found in (("img_emb", images), ("text_emb", texts)):
            if lacking := sorted(tables.keys() ^ found.keys()):
                raise InputError(
                    f"{source}: metadata and {name} do not have the same parts: {lacking[0]} is in only one"
                )
        if tables:
            return [(tables[n], images[n], texts[n]) for n in sorted(tables)]
    if source.is_dir():
        archives = {table: table.with_suffix(".npz") for table in sorted(source.glob("*.parquet"))}
        if any(archive.is_file() for archive in archives.values()):
            return [(table, archive, archive) for table, archive in archives.items()]
        raise InputError(f"{source} holds no features: give {_FORMS}")
    if image.endswith(".npy") and text.endswith(".npy"):
        return [(source, Path(image), Path(text))]
    if source.suffix == ".parquet" and source.with_suffix(".npz").is_file():
        return [(source, source.with_suffix(".npz"), source.with_suffix(".npz"))]
    raise InputError(f"{source} holds no features: give {_FORMS}")


def _numbered(folder: Path, ending: str) -> dict[int, Path]:
    """Return a folder's files by the number that their names end in, which has leading zeros or not."""
    paths = [path for path in folder.glob(f"*{ending}") if path.stem.rpartition("_")[2].isdigit()]
    return {int(path.stem.rpartition("_")[2]): path for path in paths}


def _read(table: Path, image: Path, text: Path, options: SourceOptions, image_key: str, text_key: str) -> _Part:
    """Read one part and hold its counts against each other."""
    kind = table.suffix.lower()
    if kind == ".parquet":
        rows = read_arrow_files([table.resolve()], table.resolve().parent, options, kind="parquet").rows
    else:
        rows = (read_jsonl if kind in (".jsonl", ".ndjson") else read_delimited)(table, options).rows
    captions = [row.captions if isinstance(row.captions, list) and row.captions else [row.captions] for row in rows]
    part = _Part(table, rows, captions, _array(image, image_key), _array(text, text_key))
    for path, array, wanted, what in (
        (image, part.image, len(rows), "rows"),
        (text, part.text, sum(map(len, captions)), "captions"),
    ):
        if len(array) != wanted:
            raise InputError(f"{path} has {len(array):,} features, but {table} {wanted:,} {what}: they must be as many")
    return part


def _array(path: Path, key: str) -> np.ndarray:
    """Open an array [n, dim] of a .npy or .npz file.

    Raises:
        InputError: it is cut off, not an array of numbers with two dimensions, or the .npz lacks it.
    """
    try:
        array = _of_archive(path, key) if path.suffix == ".npz" else np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, InputError):
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if shortage(error):
            raise
        raise InputError(f"{path} is cut off or damaged ({' '.join(str(error).split())}): copy it again") from None
    if array.ndim != 2 or array.dtype.kind != "f" or not array.shape[1]:
        raise InputError(f"{path} must hold numbers [n, dim], not {array.dtype} {list(array.shape)}")
    return array


def _of_archive(path: Path, key: str) -> np.ndarray:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        if key not in archive.files:
            raise InputError(f"{path} has no array {key!r} but {', '.join(archive.files)}: name one of them")
        return archive[key]


def _joined(parts: list[_Part]) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs, the quarantine, the row of each pair's picture and of each caption among all parts', and where
    the captions of each pair begin."""
    for side in ("image", "text"):
        shapes = {getattr(part, side).shape[1]: part.table for part in parts}
        if len(shapes) > 1:
            told = " and ".join(f"{dim} beside {path.name}" for dim, path in shapes.items())
            raise InputError(f"{side} features must be of one length, not {told}")
    bad_image, bad_text = (
        np.concatenate([feature_faults(getattr(part, side)) for part in parts]) for side in ("image", "text")
    )
    found: dict[
        str, tuple[int, Row, list[str], list[int]]
    ] = {}  # id → row of the picture, and the captions with theirs
    refused: list[tuple[str, str, str]] = []
    row_at = text_at = 0
    for part in parts:
        for row, captions in zip(part.rows, part.captions, strict=True):
            pair_id = as_name(row.pair_id) or as_name(row.image) or row.source
            reason = row.reason or (bad_image[row_at] and f"picture's {bad_image[row_at]}")
            kept = found.setdefault(pair_id, (row_at, row, [], [])) if not reason else None
            for offset, caption in enumerate(captions):
                words = "" if is_missing(caption) else tidy(str(caption))
                fault = bad_text[text_at + offset]
                fault = reason or (not words and "caption is empty") or (fault and f"caption's {fault}")
                if fault or kept is None:
                    refused.append((row.source, pair_id, str(fault)))
                elif words not in kept[2]:
                    kept[2].append(words)
                    kept[3].append(text_at + offset)
            row_at, text_at = row_at + 1, text_at + len(captions)
    usable = {pair_id: kept for pair_id, kept in found.items() if kept[2]}
    if not usable:
        reasons = pd.Series([reason for _, _, reason in refused]).value_counts()
        raise InputError(
            f"nothing is left of {row_at:,} rows; most often: {reasons.index[0] if len(reasons) else 'none'}"
        )
    pairs = pd.DataFrame(
        {
            c.PAIR_ID: list(usable),
            c.IMAGE: [as_name(row.image) or "" for _, row, _, _ in usable.values()],
            c.CAPTIONS: [captions for _, _, captions, _ in usable.values()],
            c.LABEL: [as_name(row.label) for _, row, _, _ in usable.values()],
        }
    )
    image_rows = np.array([row for row, _, _, _ in usable.values()], np.int64)
    text_rows = np.array([row for _, _, _, rows in usable.values() for row in rows], np.int64)
    offsets = np.cumsum([0, *map(len, pairs[c.CAPTIONS])], dtype=np.int64)
    return pairs, pd.DataFrame(refused, columns=c.QUARANTINE_COLUMNS), image_rows, text_rows, offsets


def _keep(
    target: Path,
    pairs: pd.DataFrame,
    quarantine: pd.DataFrame,
    image_rows: np.ndarray,
    text_rows: np.ndarray,
    offsets: np.ndarray,
    parts: list[_Part],
) -> None:
    """Write what can be used to the cache, complete or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(target) as new:
        pairs.to_parquet(new / _KEPT[0])
        quarantine.to_parquet(new / _KEPT[1])
        np.save(new / "offsets.npy", offsets)
        for side, rows in (("image", image_rows), ("text", text_rows)):
            _copy([getattr(part, side) for part in parts], rows, new / f"{side}.npy")
        seal(new, _KEPT, {})


def _copy(arrays: Sequence[np.ndarray], rows: np.ndarray, path: Path) -> None:
    """Write some rows of arrays that follow each other as one of float16, a block at a time."""
    starts = np.cumsum([0, *map(len, arrays)])
    with path.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (len(rows), arrays[0].shape[1])}
        np.lib.format.write_array_header_1_0(file, header)
        for at in range(0, len(rows), _BLOCK):
            block = rows[at : at + _BLOCK]
            values = np.empty((len(block), arrays[0].shape[1]), np.float16)
            whose = np.searchsorted(starts, block, side="right") - 1
            for n in np.unique(whose):
                values[whose == n] = arrays[n][block[whose == n] - starts[n]]
            file.write(values.tobytes())
