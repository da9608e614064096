"""The one door for data sets: turns SOURCE, whatever its format, into a table of pairs and a quarantine."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa

from clipmem_core.config import SETS, InputError, SourceOptions
from clipmem_core.pairs.readers.columnar import is_saved_folder, parquet_files, read_arrow_files, read_saved_folder
from clipmem_core.pairs.readers.containers import JSON, is_url, read_file
from clipmem_core.pairs.readers.delimited import read_delimited
from clipmem_core.pairs.readers.folders import has_class_folders, holds_pictures, read_folder
from clipmem_core.pairs.readers.hub import fetch_from_hub, is_hub_name
from clipmem_core.pairs.readers.json_files import is_coco, read_coco, read_json_list, read_jsonl
from clipmem_core.pairs.readers.rows import Rows, check_rows, merge_rows
from clipmem_core.pairs.readers.shards import expand_pattern, read_shards
from clipmem_core.pairs.readers.text import decode_text, parse

DRAWN = "scenes"
FORMATS = (
    "a CSV, TSV, JSONL or Parquet file, COCO captions JSON, WebDataset shards (name-{000..041}.tar), "
    "a Hugging Face data set (saved folder, Parquet or owner/name), a folder of pictures with .txt captions, or scenes"
)
_DELIMITED = {".csv", ".tsv", ".txt"}
_LINES = {".jsonl", ".ndjson"}
_TABLES = {".csv", ".tsv", *_LINES}
_USUAL = ("captions", "metadata", "annotations")  # names that win where a folder has several tables


@dataclass(frozen=True)
class RawPairs:
    """What a data set holds before any picture is opened.

    `pairs` has the columns pair_id, image, captions (a list of at least one), label and planted, in the order of the
    source; `quarantine` has source, pair_id and reason. Every one of the `rows` is in one of the two.
    """

    root: Path  # image references are relative to it; absolute
    format: str
    rows: int
    pairs: pd.DataFrame
    quarantine: pd.DataFrame
    drawn_of: int = 0  # pairs that a sample was drawn of, which are then the only ones in `pairs`


def read_source(
    source: str, options: SourceOptions, *, data: Path, say: Callable[[str], None] = lambda line: None
) -> RawPairs:
    """Read a data set.

    Args:
        source: a path, a brace pattern of shards, a URL of either, `owner/name` on the Hugging Face hub, or `scenes`.
        options: columns, folders and splits that are not to be guessed.
        data: the data folder, where drawn and downloaded sets are kept.
        say: told what is downloaded from a URL.

    Raises:
        InputError: nothing is there, its format is not known, or it cannot be read; one line says what to do.
    """
    source = local_path(source, data=data, say=say)
    try:
        rows = _read(source, options, data)
        checked = check_rows(rows.rows)
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror or error}") from error
    total = len(checked)
    pairs, quarantine = merge_rows(checked, rows.root, files=rows.files)
    del checked  # as large as both, and frames are larger still
    return RawPairs(rows.root.absolute(), rows.format, total, _frame(pairs), _frame(quarantine))


def check_there(source: str) -> None:
    """Refuse a source that is no path, URL, pattern, set or name of a hub.

    Raises:
        InputError: nothing is there.
    """
    named = source == DRAWN or is_url(source) or _is_pattern(source) or is_hub_name(source)
    if not named and not Path(os.path.expanduser(source)).exists():
        raise InputError(f"there is no {source!r}: give {FORMATS}")


def lacks_captions(source: str) -> bool:
    """Tell whether a source is class folders of pictures, without captions: `--caption-template` makes some."""
    folder = Path(os.path.expanduser(source))
    endings = {*_TABLES, ".json", ".tar", ".parquet"}
    if not folder.is_dir() or any(path.suffix.lower() in endings for path in folder.iterdir()):
        return False
    return has_class_folders(folder)


def _is_pattern(source: str) -> bool:
    return "{" in source and source.endswith(".tar")


def local_path(source: str, *, data: Path, say: Callable[[str], None] = lambda line: None) -> str:
    """Return where a data set is on this machine; what a URL names is fetched into the data folder first.

    Raises:
        InputError: it cannot be reached.
    """
    if not is_url(source):
        return source
    from clipmem_core.pairs.readers.remote import fetch  # fsspec, which most data sets need nothing of

    return fetch(source, data=data, say=say)


def _frame(table: pa.Table) -> pd.DataFrame:
    """Return a table as a frame of plain texts and lists, None where there is nothing."""
    columns = {name: table[name].to_pylist() for name in table.column_names}
    return pd.DataFrame(columns, dtype=object)


def _read(source: str, options: SourceOptions, data: Path) -> Rows:
    check_there(source)
    if source == DRAWN:
        return _read_drawn(options, data)
    path = Path(os.path.expanduser(source))  # a home that is nobody's stays as it is
    if path.is_dir():
        return _read_folder(path, options)
    if path.is_file():
        return _read_file(path, options)
    if _is_pattern(source):
        return read_shards(expand_pattern(source), options)
    if path.exists():
        raise InputError(f"{source} is neither a folder nor a regular file: give {FORMATS}")
    file = fetch_from_hub(source, split=options.split, data=data)
    return read_arrow_files([file], file.parent, options, kind="huggingface")


def _read_drawn(options: SourceOptions, data: Path) -> Rows:
    from clipmem_core.pairs.scenes.drawing import draw_scenes  # brings the drawing code along

    folder = data / SETS / f"{DRAWN}-{options.scenes_pairs}-{options.scenes_seed}"
    table = folder / "captions.jsonl"
    if not table.is_file():
        draw_scenes(folder, pairs=options.scenes_pairs, seed=options.scenes_seed)
    return replace(read_jsonl(table, SourceOptions()), format=DRAWN)


def _read_file(path: Path, options: SourceOptions) -> Rows:
    suffix = path.suffix.lower()
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty: give {FORMATS}")
    if suffix in _DELIMITED:
        return read_delimited(path, options)
    if suffix in _LINES:
        return read_jsonl(path, options)
    if suffix == ".json":
        return _read_json(path, options)
    if suffix == ".parquet":
        return read_arrow_files([path.resolve()], path.resolve().parent, options, kind="parquet")
    if suffix == ".tar":
        return read_shards([path.resolve()], options)
    raise InputError(f"{path}: format {suffix or 'without ending'!r} is not known: give {FORMATS}")


def _read_json(path: Path, options: SourceOptions) -> Rows:
    try:
        value = parse(decode_text(read_file(path, JSON)))
    except ValueError:  # Hugging Face also calls JSON Lines `.json`
        return read_jsonl(path, options)
    if is_coco(value):
        return read_coco(path, value, options)
    if isinstance(value, list):
        return read_json_list(path, value, options)
    raise InputError(f"{path}: neither COCO captions (images and annotations) nor a list of objects; give {FORMATS}")


def _read_folder(folder: Path, options: SourceOptions) -> Rows:
    if is_saved_folder(folder):
        return read_saved_folder(folder, options)
    if shards := sorted(path for path in folder.glob("*.tar") if not path.is_dir() and not path.name.startswith(".")):
        return read_shards(shards, options)
    if table := _captions_file(folder):
        return _read_file(table, options)
    if files := parquet_files(folder, split=options.split):
        return read_arrow_files(files, folder, options, kind="parquet")
    if holds_pictures(folder):
        return read_folder(folder, options.caption_template)
    raise InputError(f"{folder} holds no data set we know: give {FORMATS}")


def _captions_file(folder: Path) -> Path | None:
    """Return the one table of a folder, or the one of several that has a usual name; JSON only if it is a table.

    Raises:
        InputError: several files could be it.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    tables = [path for path in files if path.suffix.lower() in _TABLES]
    tables = tables or [path for path in files if path.suffix.lower() == ".json" and _is_table(path)]
    usual = [path for path in tables if path.stem.lower().startswith(_USUAL)]
    tables = usual if len(usual) == 1 else tables
    if len(tables) > 1:
        listed = ", ".join(path.name for path in tables[:5])
        raise InputError(f"{folder} holds several tables ({listed}): give the one to read itself")
    return tables[0] if tables else None


def _is_table(path: Path) -> bool:
    try:
        value = parse(decode_text(read_file(path, JSON)))
    except InputError:
        return True  # too large to look into: reading it will say so
    except ValueError:
        return False
    return is_coco(value) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))
