"""Features that were computed elsewhere, with their table: a folder of clip-retrieval's, DataComp's metadata, or .npy
files beside a table. No picture is needed for them. What is stored of them, after checks, in a folder of the cache:

pairs.parquet, quarantine.parquet   the usable rows of the table, and the others with a reason
offsets.npy                         int64 [n_pairs + 1], where the captions of each pair are
image.npy, text.npy                 float16 [n, dim], copied in the order of the pairs; for large ones instead
image_rows.npy, text_rows.npy       int64 [n], rows in the source files, which are read in place
features.json                       size and time of each file that is read in place; written last
"""

import hashlib
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipmem_core import columns as c
from clipmem_core.config import InputError, SourceOptions, as_dict, data_folder, fingerprint
from clipmem_core.features.cache import MADE_FILE, replacing_folder, seal
from clipmem_core.files import read_json
from clipmem_core.pairs.readers.columnar import read_arrow_files, read_schema
from clipmem_core.pairs.readers.files import as_name, is_missing, tidy
from clipmem_core.pairs.readers.rows import Row
from clipmem_core.pairs.readers.tables import read_delimited, read_jsonl
from clipmem_core.shortage import shortage

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


def store(target: Path, usable: Usable, arrays: dict[str, list[np.ndarray]]) -> None:
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


def is_stored(folder: Path) -> bool:
    """Tell whether what `store` left can be opened, and the files that are read in place have not changed."""
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


def open_stored(folder: Path) -> Stored:
    """Open what `store` left in a folder."""
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
        if not is_stored(target):
            shutil.rmtree(target, ignore_errors=True)
            parts, refused = _opened(files, options, (image or "l14_img", text or "l14_txt"))
            _check_widths(parts)
            store(target, _usable(parts, refused), {side: [getattr(part, side) for part in parts] for side in SIDES})
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} is missing: give {_FORMS}") from None
    return open_stored(target)


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
