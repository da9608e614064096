"""Features that were computed elsewhere, with their table: a folder of clip-retrieval's, DataComp's metadata, or .npy
files beside a table. No picture is needed for them."""

import shutil
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from clipmem_core import columns as c
from clipmem_core.config import InputError, SourceOptions, as_dict, data_folder, fingerprint
from clipmem_core.features.kept import BLOCK, SIDES, Stored, Usable, file_stamp, halves, is_kept, keep, open_kept
from clipmem_core.pairs.readers.columnar import read_arrow_files, read_schema
from clipmem_core.pairs.readers.delimited import read_delimited
from clipmem_core.pairs.readers.json_files import read_jsonl
from clipmem_core.pairs.readers.rows import Row
from clipmem_core.pairs.readers.text import as_name, is_missing, tidy
from clipmem_core.shortage import shortage

_GUESSED = SourceOptions()
_NO_ROWS = np.empty((0, 0))
_CAPTION = pa.schema(
    [(name, pa.string()) for name in (c.PAIR_ID, c.IMAGE, c.LABEL, c.CAPTIONS)]
    + [("row", pa.int64()), ("text", pa.int64())]
)
_FORMS = (
    "a folder of clip-retrieval's (img_emb, text_emb, metadata), DataComp's .parquet with .npz, or a table with .npy"
)


class DamagedError(InputError):
    """A file is cut off or damaged; others of its set may be whole."""


@dataclass(frozen=True)
class _Part:
    """A table and the arrays beside it, as they are in the files."""

    files: tuple[Path, Path, Path]  # the table, and those of the arrays
    options: SourceOptions
    image: np.ndarray  # [n_rows, image_dim]
    text: np.ndarray  # [n_captions, text_dim]

    def rows(self) -> Iterator[Row]:
        """Read the table."""
        table = self.files[0]
        kind = table.suffix.lower()
        if kind == ".parquet":
            home = table.resolve()
            yield from read_arrow_files([home], home.parent, self.options, kind="parquet").rows
        elif kind in (".jsonl", ".ndjson"):
            yield from read_jsonl(table, self.options).rows
        else:
            yield from read_delimited(table, self.options).rows

    def open_table(self) -> None:
        """Look whether a Parquet table can be read.

        Raises:
            FileNotFoundError: it is missing.
            DamagedError: it cannot.
        """
        table = self.files[0]
        table.stat()
        if table.suffix.lower() == ".parquet":
            try:
                read_schema(table)
            except InputError as error:
                raise DamagedError(str(error)) from None

    def check(self, rows: int, captions: int) -> None:
        """Hold the counts of the table against those of the arrays."""
        table, image, text = self.files
        for path, array, wanted, what in ((image, self.image, rows, "rows"), (text, self.text, captions, "captions")):
            if len(array) != wanted:
                raise InputError(
                    f"{path} has {len(array):,} features, but {table} {wanted:,} {what}: they must be as many"
                )


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
        zero or one number over and over, is in quarantine with the reason. `sha256` is that of a pair's features.

    Raises:
        InputError: a file is missing, cut off, or has another count or length than the rest; one line names it.
    """
    home = (folder or data_folder() / "cache" / "features") / "stored"
    try:
        files = _files(source, image, text)
        stamps = [file_stamp(path) for part in files for path in part]
        target = home / fingerprint([stamps, image, text, as_dict(options)])
        if not is_kept(target):
            shutil.rmtree(target, ignore_errors=True)
            parts, refused = _opened(files, options, (image or "l14_img", text or "l14_txt"))
            _check_widths(parts)
            keep(target, _usable(parts, refused), {side: [getattr(part, side) for part in parts] for side in SIDES})
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} is missing: give {_FORMS}") from None
    return open_kept(target)


def _opened(
    files: list[tuple[Path, Path, Path]], options: SourceOptions, keys: tuple[str, str]
) -> tuple[list[_Part], list[tuple[str, str, str]]]:
    """Open the parts of a set, and refuse the rows of those that are missing or cut off, as long as others are not.

    Raises:
        InputError: every part is damaged.
        FileNotFoundError: every part is missing.
    """
    parts, refused, faults = list[_Part](), list[tuple[str, str, str]](), list[Exception]()
    for part in files:
        table = _Part(part, options, _NO_ROWS, _NO_ROWS)
        try:
            listed = [(part[0].name, "")]  # who is refused, if it is the table
            table.open_table()
            listed = []
            parts.append(replace(table, image=_array(part[1], keys[0]), text=_array(part[2], keys[1])))
        except (FileNotFoundError, DamagedError) as error:
            faults.append(error)
            told = f"{error.filename} is missing" if isinstance(error, FileNotFoundError) else str(error)
            listed = listed or [(row.source, _id_of(row)) for row in table.rows()]
            refused += [(source, pair_id, told) for source, pair_id in listed]
    if not parts:
        raise faults[0]
    return parts, refused


def feature_faults(features: np.ndarray) -> np.ndarray:
    """Say of each row of features why it cannot be used, empty where it can: object [n].

    Example:
        >>> feature_faults(np.array([[1, 2], [0, 0], [3, 3], [np.nan, 1]])).tolist()
        ['', 'features are all zero', 'features are one number over and over', 'features are NaN or infinite']
    """
    reasons = np.full(len(features), "", object)
    for at in range(0, len(features), BLOCK):
        part = reasons[at : at + BLOCK]
        bits = halves(features[at : at + BLOCK]).view(np.uint16)
        largest = (bits & 0x7FFF).max(axis=1)  # without the sign, in the order of the numbers
        part[(bits == bits[:, :1]).all(axis=1)] = "features are one number over and over"
        part[largest == 0] = "features are all zero"
        part[largest >= 0x7C00] = "features are NaN or infinite"
    return reasons


def _files(source: Path, image: str, text: str) -> list[tuple[Path, Path, Path]]:
    """Return the table, and the files of picture and caption features, of each part."""
    if (source / "metadata").is_dir():
        forms = (("metadata", ".parquet"), ("img_emb", ".npy"), ("text_emb", ".npy"))
        found = [(name, ending, _numbered(source / name, ending)) for name, ending in forms]
        if numbers := sorted(set().union(*(paths for _, _, paths in found))):
            missing = "{0}/{0}_{1}{2}"
            return [
                tuple(paths.get(n, source / missing.format(name, n, ending)) for name, ending, paths in found)  # type: ignore[misc]
                for n in numbers
            ]
    if source.is_dir():
        tables = {path.with_suffix(".parquet") for ending in ("parquet", "npz") for path in source.glob(f"*.{ending}")}
        archives = {table: table.with_suffix(".npz") for table in sorted(tables)}
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
        raise DamagedError(f"{path} is cut off or damaged ({' '.join(str(error).split())}): copy it again") from None
    if array.ndim != 2 or array.dtype.kind != "f" or not array.shape[1]:
        raise InputError(f"{path} must hold numbers [n, dim], not {array.dtype} {list(array.shape)}")
    return array


def _of_archive(path: Path, key: str) -> np.ndarray:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        if key not in archive.files:
            raise InputError(f"{path} has no array {key!r} but {', '.join(archive.files)}: name one of them")
        return archive[key]


def _check_widths(parts: list[_Part]) -> None:
    for side in SIDES:
        shapes = {getattr(part, side).shape[1]: part.files[0] for part in parts}
        if len(shapes) > 1:
            told = " and ".join(f"{dim} beside {path.name}" for dim, path in shapes.items())
            raise InputError(f"{side} features must be of one length, not {told}")


def _usable(parts: list[_Part], refused: list[tuple[str, str, str]]) -> Usable:
    """Go through the tables once and join the rows of one id; those without use come to the `refused` ones. What is
    kept are columns of Arrow's: there may be millions of rows."""
    tables, used = list[pa.Table](), list[tuple[Any, ...]]()
    row_at = text_at = 0
    for part in parts:
        first_row, first_text = row_at, text_at
        bad_image, bad_text = feature_faults(part.image), feature_faults(part.text)
        for row in part.rows():
            pair_id = _id_of(row)
            own = row.captions if isinstance(row.captions, list) and row.captions else [row.captions]
            reason = row.reason or _at(bad_image, row_at - first_row, "picture's ")
            for caption in own:
                words = "" if is_missing(caption) else tidy(str(caption))
                fault = reason or ("" if words else "caption is empty")
                fault = fault or _at(bad_text, text_at - first_text, "caption's ")
                if fault:
                    refused.append((row.source, pair_id, fault))
                else:
                    used.append((pair_id, as_name(row.image) or "", as_name(row.label), words, row_at, text_at))
                text_at += 1
            row_at += 1
            if len(used) >= BLOCK:
                tables.append(_columns(used))
                used = []
        part.check(row_at - first_row, text_at - first_text)
    tables.append(_columns(used))
    captions = pa.concat_tables(tables)
    if not len(captions):
        reasons = pd.Series([reason for _, _, reason in refused]).value_counts()
        raise InputError(
            f"nothing is left of {row_at:,} rows; most often: {reasons.index[0] if len(reasons) else 'none'}"
        )
    return _joined(captions, pd.DataFrame(refused, columns=c.QUARANTINE_COLUMNS))


def _columns(used: list[tuple[Any, ...]]) -> pa.Table:
    """Return some captions as columns."""
    values = zip(*used, strict=True) if used else [()] * len(_CAPTION)
    return pa.table([pa.array(own, kind) for own, kind in zip(values, _CAPTION.types, strict=True)], schema=_CAPTION)


def _joined(captions: pa.Table, quarantine: pd.DataFrame) -> Usable:
    """Join captions of one pair id, each once, with the picture and the label of the first."""
    pair = np.concatenate([codes.indices for codes in pc.dictionary_encode(captions[c.PAIR_ID]).chunks], dtype=np.int64)
    first = np.flatnonzero(np.diff(np.maximum.accumulate(pair), prepend=-1))  # ids are numbered as they come
    pairs = captions.select([c.PAIR_ID, c.IMAGE, c.LABEL, "row"])
    if len(first) < len(pair):
        spoken = captions.select([c.CAPTIONS, "text"]).append_column("pair", pa.array(pair))
        spoken = spoken.group_by(["pair", c.CAPTIONS], use_threads=False).aggregate([("text", "min")])
        captions = spoken.rename_columns(["pair", c.CAPTIONS, "text"]).sort_by(
            [("pair", "ascending"), ("text", "ascending")]
        )
        pairs, pair = pairs.take(pa.array(first)), captions["pair"].to_numpy()
    offsets = np.concatenate([[0], np.cumsum(np.bincount(pair))])
    return Usable(
        pairs.drop_columns(["row"]),
        captions[c.CAPTIONS],
        quarantine,
        {"image": pairs["row"].to_numpy(), "text": captions["text"].to_numpy()},
        offsets,
    )


def _id_of(row: Row) -> str:
    return as_name(row.pair_id) or as_name(row.image) or row.source


def _at(faults: np.ndarray, row: int, whose: str) -> str:
    """Return what is wrong with a row's features; nothing where there are none, which counting tells later."""
    return f"{whose}{faults[row]}" if row < len(faults) and faults[row] else ""
