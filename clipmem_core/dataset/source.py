"""Reads a data set of any format into a table of pairs and a quarantine."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from clipmem_core.config import SETS, SourceOptions, fingerprint
from clipmem_core.dataset import samples, scenes, table_files, web_pages
from clipmem_core.dataset.containers import (
    DELIMITED_SUFFIXES,
    JSON_LINES_SUFFIXES,
    TABLE_SUFFIXES,
    is_picture,
    is_url,
    reading_fault,
    stamped,
)
from clipmem_core.dataset.records import Row, Rows, merge_rows
from clipmem_core.dataset.remote import fetch_source, fetch_split, is_hub_name
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError

DRAWN = "scenes"
KNOWN_SOURCES = (
    "a CSV, TSV, JSONL or Parquet file, COCO captions JSON, WebDataset shards "
    "(name-{000..041}.tar), a Hugging Face data set (saved folder, Parquet or owner/name), "
    "a folder of pictures with .txt, .caption or .json files, HTML pages with their pictures, "
    "or scenes"
)
_PATTERN = re.compile(r".*\{.*\.tar", re.DOTALL)  # of shards
_SAVED = ("dataset_dict.json", "state.json")  # of a folder that `save_to_disk` made
_USUAL = ("captions", "metadata", "annotations")  # names that win if a folder has several tables


# reader of a file by its suffix
READERS: dict[str, Callable[[Path, SourceOptions], Rows]] = {
    **dict.fromkeys((*DELIMITED_SUFFIXES, ".txt"), table_files.read_delimited),
    **dict.fromkeys(JSON_LINES_SUFFIXES, table_files.read_jsonl),
    ".json": table_files.read_json_table,
    ".parquet": table_files.read_parquet,
    **dict.fromkeys(web_pages.HTML_SUFFIXES, web_pages.read_page),
}


@dataclass(frozen=True)
class RawPairs:
    """A data set before any picture is opened.

    `pairs` has the columns pair_id, image, captions (a list of at least one), label and injected,
    in the order of the source; `quarantine` has columns.QUARANTINE_COLUMNS. Each of the `rows`
    is in one of the two.
    """

    root: Path  # image references are relative to it; absolute
    format: str
    rows: int
    pairs: pd.DataFrame
    quarantine: pd.DataFrame
    repeated: int = 0  # captions that repeat one of their pair, and were merged with it
    drawn_of: int = 0  # pairs before a sample was drawn; 0 without a sample


def read_source(
    source: str,
    options: SourceOptions,
    *,
    data: Path,
    say: Callable[[str], None] = lambda line: None,
) -> RawPairs:
    """Read a data set: a path, a brace pattern of shards, a URL of either, `owner/name` on the hub,
    or `scenes`."""
    source = fetch_source(source, data=data, say=say)
    try:
        rows = _read(source, options, data)
        merged = merge_rows(rows)
    except OSError as error:
        raise InputError(reading_fault(error, source)) from error
    if rows.notes:
        say(
            f"note: {len(rows.notes):,} caption files are not UTF-8: they were read as "
            f"Windows-1252 or UTF-16, such as {rows.notes[0]}"
        )
    return RawPairs(rows.root.absolute(), rows.format, *merged)


def check_source(source: str) -> None:
    """Refuse a source that is no path, URL, pattern, synthetic set or name on the hub."""
    if not (
        source == DRAWN
        or is_url(source)
        or _PATTERN.fullmatch(source)
        or is_hub_name(source)
        or Path(os.path.expanduser(source)).exists()
    ):
        raise InputError(f"there is no {source!r}: give {KNOWN_SOURCES}")


def source_files(source: str) -> list[Path]:
    """List the files and folders of a data set on this machine; none of a URL, a hub name or
    `scenes`."""
    if source == DRAWN or is_url(source):
        return []
    path = Path(os.path.expanduser(source))
    if path.exists():
        return [path, *path.rglob("*")]
    return samples.expand_pattern(source) if _PATTERN.fullmatch(source) else []


def _read(source: str, options: SourceOptions, data: Path) -> Rows:
    check_source(source)
    if source == DRAWN:
        folder = data / SETS / f"{DRAWN}-{options.scenes_pairs}-{options.scenes_seed}"
        table = folder / scenes.CAPTIONS_FILE
        if not table.is_file():
            scenes.draw_scenes(folder, pairs=options.scenes_pairs, seed=options.scenes_seed)
        return replace(table_files.read_jsonl(table, SourceOptions()), format=DRAWN)
    path = Path(os.path.expanduser(source))  # an unknown user's home stays as it is
    if not path.exists() and _PATTERN.fullmatch(source):
        return samples.read_shards(samples.expand_pattern(source), options)
    saved = [path / name for name in _SAVED if (path / name).is_file()]
    if saved or not path.exists():
        key = (
            f"{path.name}-{fingerprint(stamped(saved[0]))}" if saved else source.replace("/", "--")
        )
        file = fetch_split(str(path), split=options.split, folder=data / SETS / key)
        return table_files.read_parquet_files([file], file.parent, options, kind="huggingface")
    if shards := samples.shards_in(path):
        return samples.read_shards(shards, options)
    listing = _captions_file(path)
    if listing:
        return _with_unlisted(READERS[listing.suffix.lower()](listing, options), listing)
    if path.is_file() and path.suffix.lower() in READERS:
        return READERS[path.suffix.lower()](path, options)
    if path.is_dir() and table_files.parquet_files(path):
        return table_files.read_parquet(path, options)
    pages = web_pages.html_files(path)
    if pages and not samples.holds_captions(path):
        return web_pages.read_pages(path, pages, options)
    if samples.holds_pictures(path):
        return samples.read_folder(path, options)
    raise InputError(f"{path} holds no data set of a known format: give {KNOWN_SOURCES}")


def _with_unlisted(rows: Rows, table: Path) -> Rows:
    """Add a row for each picture below the table's folder that it does not list."""
    if not rows.files or not rows.root.resolve().is_relative_to(table.parent.resolve()):
        return rows

    def listed() -> Iterator[Row]:
        images = set[str]()
        for row in rows.rows:
            images.add(os.path.normpath(str(row.image).strip()))
            yield row
        for name in samples.visible_files(rows.root):
            if is_picture(name) and name not in images:
                yield Row(name, name, kind=c.BAD_CAPTION, reason=f"{table.name} does not list it")

    return replace(rows, rows=listed())


def _captions_file(folder: Path) -> Path | None:
    """Return the only table of a folder, or the only one with a usual name; a JSON file needs a
    usual name."""
    files = [path for path in sorted(folder.glob("[!.]*")) if path.is_file()]
    tables = [path for path in files if path.suffix.lower() in (*TABLE_SUFFIXES, ".json")]
    candidates = [path for path in tables if path.stem.lower().startswith(_USUAL)]
    if len(candidates) != 1:
        candidates = [path for path in tables if path.suffix.lower() != ".json"] or candidates
    if len(candidates) > 1:
        listed = ", ".join(path.name for path in candidates[:5])
        raise InputError(f"{folder} holds several tables ({listed}): give the one to read itself")
    return candidates[0] if candidates else None
