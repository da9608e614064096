"""The one door for data sets: turns SOURCE, whatever its format, into a table of pairs and a quarantine."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa

from clipmem_core.config import SETS, InputError, SourceOptions
from clipmem_core.pairs.readers.columnar import (
    is_saved_folder,
    parquet_files,
    read_arrow_files,
    read_parquet,
    read_saved_folder,
)
from clipmem_core.pairs.readers.files import is_url
from clipmem_core.pairs.readers.folders import has_class_folders, holds_pictures, read_folder
from clipmem_core.pairs.readers.remote import fetch, fetch_from_hub, is_hub_name
from clipmem_core.pairs.readers.rows import Rows, check_rows, merge_rows
from clipmem_core.pairs.readers.shards import expand_pattern, read_shards, shards_in
from clipmem_core.pairs.readers.tables import is_json_table, read_delimited, read_json, read_jsonl
from clipmem_core.pairs.scenes.drawing import draw_scenes

DRAWN = "scenes"
FORMATS = (
    "a CSV, TSV, JSONL or Parquet file, COCO captions JSON, WebDataset shards (name-{000..041}.tar), "
    "a Hugging Face data set (saved folder, Parquet or owner/name), a folder of pictures with .txt captions, or scenes"
)
_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
_USUAL = ("captions", "metadata", "annotations")  # names that win where a folder has several tables


@dataclass(frozen=True)
class Reader:
    """A format of data sets: `matches` tells from a path whether `read` reads it."""

    name: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, SourceOptions], Rows]


def _ends(*suffixes: str) -> Callable[[Path], bool]:
    return lambda path: path.is_file() and path.suffix.lower() in suffixes


# The first that matches a file or a folder reads it. A folder with one table of captions is read as that table.
READERS = (
    Reader("Hugging Face save_to_disk", is_saved_folder, read_saved_folder),
    Reader(
        "WebDataset shards", lambda path: bool(shards_in(path)), lambda path, opts: read_shards(shards_in(path), opts)
    ),
    Reader("CSV or TSV", _ends(".csv", ".tsv", ".txt"), read_delimited),
    Reader("JSON Lines", _ends(".jsonl", ".ndjson"), read_jsonl),
    Reader("JSON list or COCO captions", _ends(".json"), read_json),
    Reader("Parquet", lambda path: bool(parquet_files(path)), read_parquet),
    Reader("folder of pictures", holds_pictures, read_folder),
)


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
    """Refuse a source that is no path, URL, pattern, synthetic set or name on the hub."""
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
    """Return the path of a data set on this machine; one at a URL is first fetched into the data folder."""
    return fetch(source, data=data, say=say) if is_url(source) else source


def _frame(table: pa.Table) -> pd.DataFrame:
    """Return a table as a frame of plain texts and lists, None where there is nothing."""
    columns = {name: table[name].to_pylist() for name in table.column_names}
    return pd.DataFrame(columns, dtype=object)


def _read(source: str, options: SourceOptions, data: Path) -> Rows:
    check_there(source)
    if source == DRAWN:
        return _read_drawn(options, data)
    path = Path(os.path.expanduser(source))  # an unknown user's home stays as it is
    if path.is_dir() or path.is_file():
        return _read_path(path, options)
    if _is_pattern(source):
        return read_shards(expand_pattern(source), options)
    if path.exists():
        raise InputError(f"{source} is neither a folder nor a regular file: give {FORMATS}")
    file = fetch_from_hub(source, split=options.split, data=data)
    return read_arrow_files([file], file.parent, options, kind="huggingface")


def _read_drawn(options: SourceOptions, data: Path) -> Rows:
    folder = data / SETS / f"{DRAWN}-{options.scenes_pairs}-{options.scenes_seed}"
    table = folder / "captions.jsonl"
    if not table.is_file():
        draw_scenes(folder, pairs=options.scenes_pairs, seed=options.scenes_seed)
    return replace(read_jsonl(table, SourceOptions()), format=DRAWN)


def _read_path(path: Path, options: SourceOptions) -> Rows:
    if path.is_dir() and not is_saved_folder(path) and not shards_in(path):
        path = _captions_file(path) or path
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path} is empty: give {FORMATS}")
    for reader in READERS:
        if reader.matches(path):
            return reader.read(path, options)
    raise InputError(f"{path} holds no data set of a known format: give {FORMATS}")


def _captions_file(folder: Path) -> Path | None:
    """Return the only table of a folder, or the only one with a usual name; a JSON file counts if it holds pairs."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    tables = [path for path in files if path.suffix.lower() in _TABLES]
    tables = tables or [path for path in files if path.suffix.lower() == ".json" and is_json_table(path)]
    usual = [path for path in tables if path.stem.lower().startswith(_USUAL)]
    tables = usual if len(usual) == 1 else tables
    if len(tables) > 1:
        listed = ", ".join(path.name for path in tables[:5])
        raise InputError(f"{folder} holds several tables ({listed}): give the one to read itself")
    return tables[0] if tables else None
