"""Features that were computed elsewhere, with their table: a folder of clip-retrieval's, DataComp's metadata, or .npy
files beside a table. No picture is needed for them."""

import hashlib
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipmem_core import columns as c
from clipmem_core.config import InputError, SourceOptions, as_dict, data_folder, fingerprint
from clipmem_core.features.cache import is_whole, replacing_folder, seal
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
    folder: Path  # that they are kept in


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

    def check(self, rows: int, captions: int) -> None:
        """Hold the counts of the table against those of the arrays."""
        table, image, text = self.files
        for path, array, wanted, what in ((image, self.image, rows, "rows"), (text, self.text, captions, "captions")):
            if len(array) != wanted:
                raise InputError(
                    f"{path} has {len(array):,} features, but {table} {wanted:,} {what}: they must be as many"
                )


@dataclass(frozen=True)
class _Usable:
    """The pairs that can be used, and where in all parts' arrays their features are."""

    pairs: pd.DataFrame
    quarantine: pd.DataFrame
    image_rows: np.ndarray  # int64 [n_pairs]
    text_rows: np.ndarray  # int64 [n_captions]
    offsets: np.ndarray  # int64 [n_pairs + 1]


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
        stamps = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for part in files for path in part]
        target = home / fingerprint([stamps, image, text, as_dict(options)])
        if not is_whole(target, _KEPT):
            shutil.rmtree(target, ignore_errors=True)
            keys = image or "l14_img", text or "l14_txt"
            parts = [_Part(part, options, _array(part[1], keys[0]), _array(part[2], keys[1])) for part in files]
            _check_widths(parts)
            _keep(target, _usable(parts), parts)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} is missing: give {_FORMS}") from None
    return open_stored(target)


def open_stored(folder: Path) -> Stored:
    """Open what `stored_features` keeps in a folder."""
    image, text, offsets = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("image", "text", "offsets"))
    pairs, quarantine = (pd.read_parquet(folder / name) for name in _KEPT[:2])
    return Stored(pairs, quarantine, image, text, offsets, folder)


def broken_features(folder: Path) -> Path | None:
    """Return a folder of `stored_features` that is gone or not what was written, None where it is whole."""
    return None if is_whole(folder, _KEPT) else folder


def caption_rows(folder: Path, rows: np.ndarray, captions: pa.ListArray) -> np.ndarray:
    """Say where the features of captions are, some of which may have moved to another pair.

    Args:
        folder: what `stored_features` keeps, as `Stored.folder`.
        rows: int64 [n_pairs], the row that each pair has there.
        captions: of each pair, [n_pairs] lists.

    Returns:
        int64 [n_captions], rows of `Stored.text`.

    Raises:
        InputError: there are no features of a caption.
    """
    texts = captions.flatten().cast(pa.large_string())
    counts = np.asarray(captions.value_lengths())
    kept = pq.read_table(folder / _KEPT[0], columns=[c.CAPTIONS])[c.CAPTIONS].combine_chunks()
    known = kept.flatten().cast(pa.large_string())
    first = np.load(folder / "offsets.npy")[rows]
    found = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(len(texts))
    found = np.minimum(found, len(known) - 1)
    moved = np.flatnonzero(~np.asarray(pc.equal(texts, known.take(pa.array(found)))))
    if len(moved):
        place = pc.index_in(texts.take(pa.array(moved)), known)
        if place.null_count:
            text = texts[int(moved[np.flatnonzero(np.asarray(place.is_null()))[0]])].as_py()
            raise InputError(f"caption {text!r} has no features: they were computed elsewhere, of other captions")
        found[moved] = np.asarray(place)
    return found


def feature_faults(features: np.ndarray) -> np.ndarray:
    """Say of each row of features why it cannot be used, empty where it can: object [n].

    Example:
        >>> feature_faults(np.array([[1, 2], [0, 0], [3, 3], [np.nan, 1]])).tolist()
        ['', 'features are all zero', 'features are one number over and over', 'features are NaN or infinite']
    """
    reasons = np.full(len(features), "", object)
    for at in range(0, len(features), _BLOCK):
        part = reasons[at : at + _BLOCK]
        bits = _halves(features[at : at + _BLOCK]).view(np.uint16)
        largest = (bits & 0x7FFF).max(axis=1)  # without the sign, in the order of the numbers
        part[(bits == bits[:, :1]).all(axis=1)] = "features are one number over and over"
        part[largest == 0] = "features are all zero"
        part[largest >= 0x7C00] = "features are NaN or infinite"
    return reasons


def _halves(block: np.ndarray) -> np.ndarray:
    """Return numbers as float16; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(block, dtype=np.float16)


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


def _check_widths(parts: list[_Part]) -> None:
    for side in ("image", "text"):
        shapes = {getattr(part, side).shape[1]: part.files[0] for part in parts}
        if len(shapes) > 1:
            told = " and ".join(f"{dim} beside {path.name}" for dim, path in shapes.items())
            raise InputError(f"{side} features must be of one length, not {told}")


def _usable(parts: list[_Part]) -> _Usable:
    """Go through the tables once and join the rows of one id. What is kept is flat lists: there may be millions."""
    pair_of: dict[str, int] = {}
    images, labels, captions = list[str](), list[str | None](), list[list[str]]()
    image_rows, refused = list[int](), list[tuple[str, str, str]]()
    owners, text_rows = list[int](), list[int]()
    row_at = text_at = 0
    for part in parts:
        first_row, first_text = row_at, text_at
        bad_image, bad_text = feature_faults(part.image), feature_faults(part.text)
        for row in part.rows():
            pair_id = as_name(row.pair_id) or as_name(row.image) or row.source
            own = row.captions if isinstance(row.captions, list) and row.captions else [row.captions]
            reason = row.reason or _at(bad_image, row_at - first_row, "picture's ")
            for caption in own:
                words = "" if is_missing(caption) else tidy(str(caption))
                fault = reason or ("" if words else "caption is empty")
                fault = fault or _at(bad_text, text_at - first_text, "caption's ")
                if fault:
                    refused.append((row.source, pair_id, fault))
                else:
                    pair = pair_of.setdefault(pair_id, len(images))
                    if pair == len(images):
                        images.append(as_name(row.image) or "")
                        labels.append(as_name(row.label))
                        captions.append([])
                        image_rows.append(row_at)
                    if words not in captions[pair]:
                        captions[pair].append(words)
                        owners.append(pair)
                        text_rows.append(text_at)
                text_at += 1
            row_at += 1
        part.check(row_at - first_row, text_at - first_text)
    if not images:
        reasons = pd.Series([reason for _, _, reason in refused]).value_counts()
        raise InputError(
            f"nothing is left of {row_at:,} rows; most often: {reasons.index[0] if len(reasons) else 'none'}"
        )
    columns = {c.PAIR_ID: list(pair_of), c.IMAGE: images, c.CAPTIONS: captions, c.LABEL: labels}
    return _Usable(
        pd.DataFrame(columns, dtype=object),
        pd.DataFrame(refused, columns=c.QUARANTINE_COLUMNS),
        np.array(image_rows, np.int64),
        np.array(text_rows, np.int64)[np.argsort(owners, kind="stable")],
        np.cumsum([0, *map(len, captions)], dtype=np.int64),
    )


def _at(faults: np.ndarray, row: int, whose: str) -> str:
    """Return what is wrong with a row's features; nothing where there are none, which counting tells later."""
    return f"{whose}{faults[row]}" if row < len(faults) and faults[row] else ""


def _keep(target: Path, usable: _Usable, parts: list[_Part]) -> None:
    """Write what can be used to the cache, complete or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(target) as new:
        np.save(new / "offsets.npy", usable.offsets)
        for side, rows in (("image", usable.image_rows), ("text", usable.text_rows)):
            _copy([getattr(part, side) for part in parts], rows, new / f"{side}.npy")
        image, text = (np.load(new / f"{side}.npy", mmap_mode="r") for side in ("image", "text"))
        digests = pd.Series(_digests(image, text, usable.offsets), dtype=object)
        usable.pairs.assign(**{c.SHA256: digests}).to_parquet(new / _KEPT[0])
        usable.quarantine.to_parquet(new / _KEPT[1])
        seal(new, _KEPT, {})


def _digests(image: np.ndarray, text: np.ndarray, offsets: np.ndarray) -> list[str]:
    """Return the sha256 of each pair's features, those of its picture before those of its captions."""
    found = []
    for at in range(0, len(image), _BLOCK):
        ends = offsets[at : at + _BLOCK + 1].tolist()
        pictures, captions = image[at : at + _BLOCK], np.asarray(text[ends[0] : ends[-1]])
        for picture, start, stop in zip(np.asarray(pictures), ends, ends[1:], strict=False):
            digest = hashlib.sha256(picture.data)
            digest.update(captions[start - ends[0] : stop - ends[0]].data)
            found.append(digest.hexdigest())
    return found


def _copy(arrays: Sequence[np.ndarray], rows: np.ndarray, path: Path) -> None:
    """Write some rows of arrays that follow each other as one of float16, a block at a time."""
    starts = np.cumsum([0, *map(len, arrays)])
    with path.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (len(rows), arrays[0].shape[1])}
        np.lib.format.write_array_header_1_0(file, header)
        for at in range(0, len(rows), _BLOCK):
            file.write(_gathered(arrays, starts, rows[at : at + _BLOCK]).data)


def _gathered(arrays: Sequence[np.ndarray], starts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return some rows of arrays that follow each other, float16 [n, dim]."""
    whose = np.searchsorted(starts, rows, side="right") - 1
    if whose[0] == whose[-1] and (np.diff(rows) == 1).all():  # as they lie there, which is most often so
        first = int(rows[0] - starts[whose[0]])
        return _halves(arrays[whose[0]][first : first + len(rows)])
    values = np.empty((len(rows), arrays[0].shape[1]), np.float16)
    for n in np.unique(whose):
        values[whose == n] = _halves(arrays[n][rows[whose == n] - starts[n]])
    return values
