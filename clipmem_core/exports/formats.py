"""The formats of an export: an open_clip table, COCO captions, WebDataset keys, DataComp uids, decisions, a report."""

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from csv import QUOTE_NONNUMERIC  # a lone \r must be quoted too
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from clipmem_core.atomic import replacing
from clipmem_core.audits.store import PAIRS, SCORES, Audit
from clipmem_core.columns import CAPTIONS, HEIGHT, IMAGE, LABEL, PAIR_ID, WIDTH
from clipmem_core.config import InputError, meant
from clipmem_core.exports.cleaned import (
    AT_ONCE,
    RECAPTIONED,
    Cleaned,
    Pictures,
    Progress,
    audit_command,
    clean,
    counted,
    images_folder,
    openable,
    sample_keys,
    texts_of,
)
from clipmem_core.exports.folders import check_replaceable, write_imagefolder, write_texts
from clipmem_core.review.cards import LISTED, OWN_CAPTIONS, listed_scores
from clipmem_core.review.decisions import FOR_OTHER, RECAPTION, REMOVE, open_review
from clipmem_core.review.tables import count_rows, fetch_arrow, number
from clipmem_core.scores.table import EXPORT, scores_in

Written = tuple[tuple[str, ...], str]  # what the format cannot carry, and the command that audits it, empty without one

FOLDER = ""  # the ending of a folder
SEPARATORS = {".csv": (",", ","), ".tsv": ("\t", r"$'\t'")}  # and how a shell is told of them
# Texts that pandas takes for missing values, also in quotes.
MISSING = (
    *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"),
    *("NULL", "NaN", "None", "n/a", "nan", "null"),
)
UIDS = np.dtype("u8,u8")  # the two halves of 128 bits, the higher first
_UID = re.compile("[0-9a-fA-F]{32}")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a cell begins with that a spreadsheet would compute


@dataclass(frozen=True)
class Format:
    """What a format is called, how its files end, and what it is for."""

    title: str
    suffixes: tuple[str, ...]
    sentence: str
    write_cleaned: Callable[..., Written] | None = None  # None: what it holds is no cleaned data set
    beside: Callable[[Path], Path] | None = None  # what may be written beside the file

    @property
    def is_folder(self) -> bool:
        """Tell whether it is a folder of files and not one."""
        return FOLDER in self.suffixes

    @property
    def suffix(self) -> str:
        """The usual ending."""
        return self.suffixes[0]


@dataclass(frozen=True)
class Summary:
    """What an export holds."""

    kept: int
    removed: int
    recaptioned: int
    notes: tuple[str, ...]  # what the format cannot carry, and what else to know
    command: str  # audits what was written; empty where none can

    @property
    def line(self) -> str:
        """The counts in a line."""
        return f"{self.kept:,} pairs kept, {self.removed:,} removed, {self.recaptioned:,} recaptioned"


def write_csv(cleaned: Cleaned, path: Path, *, progress: Progress | None = None) -> Written:
    """Write the table that open_clip trains from, a caption a row, with commas into a `.csv` and tabs into a `.tsv`.

    Pictures that are no files yet are written into `<stem>_images` beside it.
    """
    separator, typed = SEPARATORS[path.suffix.lower()]
    # filepath and title are what open_clip looks for unless it is told otherwise
    schema = pa.schema([(name, pa.large_string()) for name in ("filepath", "title", PAIR_ID, LABEL)])
    how, lost = pa_csv.WriteOptions(delimiter=separator), 0
    with (
        replacing(path) as temporary,
        openable(cleaned, path, progress=progress) as pictures,
        pa_csv.CSVWriter(temporary, schema, write_options=how) as writer,
    ):
        prefix, nothing = (pa.scalar(text, pa.large_string()) for text in (f"{str(pictures.folder).rstrip('/')}/", ""))
        for _, pairs, names in _parts(cleaned, pictures):
            lists = pairs[CAPTIONS].combine_chunks()
            captions, owner = pc.list_flatten(lists), pc.list_parent_indices(lists)
            paths = pc.binary_join_element_wise(prefix, names, nothing)
            columns = [paths.take(owner), captions, pairs[PAIR_ID].take(owner), pairs[LABEL].take(owner)]
            writer.write_table(pa.table(columns, schema))
            lost += pc.sum(pc.is_in(captions, value_set=pa.array(MISSING, pa.large_string()))).as_py() or 0
    missing = f"{lost:,} captions spell a missing value (NA, null …): pandas, and so open_clip, reads them as nan"
    reads = f"open_clip reads it with --train-data {shlex.quote(str(path))} --csv-separator {typed}"
    return (*pictures.notes, *counted((lost, missing)), reads), audit_command(cleaned, path, pictures.folder)


def write_coco(cleaned: Cleaned, path: Path, *, progress: Progress | None = None) -> Written:
    """Write images and annotations as JSON, and pictures that are no files yet into `<stem>_images` beside it.

    Ids count from 1. An image's `pair_id` is the pair's; `label` is there where pairs have one. `file_name` is
    relative to the data set's folder, or to the folder of the pictures written out.
    """
    info = {"description": f"audit {cleaned.audit.name}, cleaned"}
    with (
        replacing(path) as temporary,
        openable(cleaned, path, progress=progress) as pictures,
        temporary.open("w", encoding="utf-8") as file,
    ):
        file.write(f'{{"info": {json.dumps(info)},\n"images": [')
        file.writelines(_listed(_images(cleaned, pictures)))
        file.write('],\n"annotations": [')
        file.writelines(_listed(_annotations(cleaned, pictures)))
        file.write("]}\n")
    return pictures.notes, audit_command(cleaned, path, pictures.folder)


def _parts(cleaned: Cleaned, pictures: Pictures) -> Iterator[tuple[int, pa.Table, pa.ChunkedArray]]:
    """Yield some pairs at a time with the names of their pictures, and how many came before."""
    for start in range(0, cleaned.kept, AT_ONCE):
        yield start, cleaned.pairs.slice(start, AT_ONCE), pictures.names.slice(start, AT_ONCE)


def _listed(parts: Iterator[pa.Table]) -> Iterator[str]:
    """Yield the rows of tables as the inside of one JSON list, an object a line, without what is null."""
    mark = "\n"
    for part in parts:
        for row in part.to_pylist():
            known = {key: value for key, value in row.items() if value is not None}
            yield mark + json.dumps(known, ensure_ascii=False)
            mark = ",\n"


def _images(cleaned: Cleaned, pictures: Pictures) -> Iterator[pa.Table]:
    for start, pairs, names in _parts(cleaned, pictures):
        columns = {"id": np.arange(len(pairs)) + start + 1, "file_name": names}
        yield pa.table(columns | {name: pairs[name] for name in (WIDTH, HEIGHT, PAIR_ID, LABEL)})


def _annotations(cleaned: Cleaned, pictures: Pictures) -> Iterator[pa.Table]:
    first = 1
    for start, pairs, _ in _parts(cleaned, pictures):
        captions = pairs[CAPTIONS].combine_chunks()
        texts, owner = pc.list_flatten(captions), pc.list_parent_indices(captions).to_numpy()
        yield pa.table({"id": np.arange(len(texts)) + first, "image_id": owner + start + 1, "caption": texts})
        first += len(texts)


def write_keys(cleaned: Cleaned, path: Path, *, progress: Progress | None = None) -> Written:
    """Write the WebDataset `__key__` of each sample to keep, one a line, in the order of the shards.

    New captions, which a key cannot carry, go into a file beside it.
    """
    keys = sample_keys(cleaned.root, cleaned.pairs[IMAGE])
    kept = set(keys)
    shared = sum(key in kept for key in sample_keys(cleaned.root, cleaned.gone[IMAGE]))
    lines = [key for key in dict.fromkeys(keys) if not re.search(r"[\r\n]", key)]
    _write_lines(path, lines)
    beside = captions_file(path)
    beside.unlink(missing_ok=True)  # of the export that this one replaces
    if cleaned.recaptioned:
        changed = cleaned.pairs[RECAPTIONED].to_numpy().nonzero()[0]
        captions = cleaned.pairs[CAPTIONS].take(changed).to_pylist()
        rows = [{"key": keys[place], "captions": texts} for place, texts in zip(changed, captions, strict=True)]
        _write_lines(beside, [json.dumps(row, ensure_ascii=False) for row in rows])
    broken = len(kept) - len(lines)
    notes = counted(
        (cleaned.recaptioned, f"{cleaned.recaptioned:,} new captions cannot be in a list of keys: see {beside.name}"),
        (shared, f"{shared:,} removed samples have the key of a kept one and stay: export csv to be rid of them"),
        (broken, f"{broken:,} keys with a line break in them are left out"),
    )
    return notes, ""


def captions_file(path: Path) -> Path:
    """Return the file beside a list of keys that new captions go into: `key` and `captions`, a JSON object a line."""
    return path.with_name(f"{path.name}.captions.jsonl")


def _write_lines(path: Path, lines: list[str]) -> None:
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def write_uids(cleaned: Cleaned, path: Path, *, progress: Progress | None = None) -> Written:
    """Write the sorted uids of the pairs to keep, as DataComp's resharder takes a subset: a NumPy file.

    Beside them goes a CSV of pair_id and uid where an id is none and had to be made one.
    """
    ids = cleaned.pairs[PAIR_ID]
    made = sum(_UID.fullmatch(pair_id) is None for pair_id in texts_of(ids))
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, packed(map(uid_of, texts_of(ids))), allow_pickle=False)
    beside = uids_file(path)
    beside.unlink(missing_ok=True)  # of the export that this one replaces
    if made:
        schema = pa.schema([(PAIR_ID, ids.type), ("uid", pa.string())])
        with replacing(beside) as temporary, pa_csv.CSVWriter(temporary, schema) as writer:
            for start in range(0, len(ids), AT_ONCE):
                own = ids.slice(start, AT_ONCE)
                writer.write_table(pa.table([own, pa.array(map(uid_of, own.to_pylist()))], schema=schema))
    hashed = (
        f"{made:,} ids are no uids (32 hex digits) and were hashed, see {beside.name}: "
        "to name a pool's samples, audit it with --csv-id-key uid"
    )
    lost = f"{cleaned.recaptioned:,} new captions cannot be in a list of uids"
    return counted((cleaned.recaptioned, lost), (made, hashed)), ""


def uids_file(path: Path) -> Path:
    """Return the file beside the uids that says which pair each was made from."""
    return path.with_name(f"{path.stem}.uids.csv")


def uid_of(pair_id: str) -> str:
    """Return an id that is 32 hex digits as it is, in lower case, and of any other the first 128 bits of its SHA-256.

    Example:
        >>> uid_of("a.jpg"), uid_of("00000000000000010000000000000002")
        ('509b0d4641a7c3ba088ffa28559d1f57', '00000000000000010000000000000002')
    """
    return pair_id.lower() if _UID.fullmatch(pair_id) else hashlib.sha256(pair_id.encode()).hexdigest()[:32]


def packed(uids: Iterable[str]) -> np.ndarray:
    """Return uids of 32 hex digits as sorted pairs of 64-bit numbers, `u8,u8` [n]."""
    digits = bytearray()
    for uid in uids:
        digits += bytes.fromhex(uid)
    halves = np.frombuffer(digits, dtype=">u8").reshape(-1, 2)
    halves = halves[np.lexsort((halves[:, 1], halves[:, 0]))]
    found = np.empty(len(halves), UIDS)
    found["f0"], found["f1"] = halves[:, 0], halves[:, 1]
    return found


def write_decisions(audit: Audit, path: Path) -> tuple[str, ...]:
    """Write every pair with a decision or a note.

    Columns: those of the review's table, then the pair's own captions with the scores of each where the audit has them,
    image, label and the scores to take away, of this audit. In CSV lists are JSON, and a text that a spreadsheet would
    take for a formula begins with a single quote.

    Returns:
        What is not in it: decisions on other captions than the audit shows.
    """
    decisions = open_review(audit).table()
    away = decisions.pop(FOR_OTHER).notna()
    table = _with_scores(audit, decisions[~away | (decisions["note"] != "")])
    lists = [name for name in (CAPTIONS, OWN_CAPTIONS, *LISTED.values()) if name in table]
    with replacing(path) as temporary:
        if path.suffix.lower() == ".parquet":
            kinds = {name: pa.string() if name in (CAPTIONS, OWN_CAPTIONS) else pa.float64() for name in lists}
            known = [pa.array(table[name], pa.list_(kind)) for name, kind in kinds.items()]
            rest = pa.Table.from_pandas(table.drop(columns=lists), preserve_index=False)
            for name, column in zip(lists, known, strict=True):
                rest = rest.append_column(name, column)
            pq.write_table(rest.select(table.columns.tolist()), temporary)
        else:
            texts = {name: [_as_json(values) for values in table[name]] for name in lists}
            table.assign(**texts).map(_plain).to_csv(temporary, index=False, quoting=QUOTE_NONNUMERIC)
    left = f"{away.sum():,} decisions on other captions of a pair, as where mistakes are planted, are not in it"
    return counted((away.sum(), left))


def _as_json(values: Any) -> str:
    """Return a list as JSON, empty where there is none: of a pair that the audit does not have."""
    return json.dumps(list(values), ensure_ascii=False) if isinstance(values, tuple | list | np.ndarray) else ""


def _plain(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def _with_scores(audit: Audit, decisions: pd.DataFrame) -> pd.DataFrame:
    """Add own captions, picture, label and scores to decisions; empty where the audit does not have the pair."""
    decisions = decisions.merge(listed_scores(audit, decisions[PAIR_ID].tolist()), on=PAIR_ID, how="left")
    asked = pa.table({"asked": pa.array(decisions[PAIR_ID].tolist(), pa.string())})
    files = {PAIRS: [f'"{IMAGE}"', f'"{LABEL}"'], SCORES: [f'{number(name)} AS "{name}"' for name in scores_in(EXPORT)]}
    for name, columns in files.items():
        query = f'SELECT "{PAIR_ID}", {", ".join(columns)} FROM parquet SEMI JOIN asked ON "{PAIR_ID}" = asked.asked'
        found = fetch_arrow(audit.folder / name, query, asked=asked).to_pandas()
        decisions = decisions.merge(found, on=PAIR_ID, how="left")
    return decisions


FORMATS = {
    "csv": Format(
        "open_clip CSV",
        (".csv", ".tsv"),
        "The cleaned data set, a caption a row, as open_clip trains from.",
        write_csv,
        images_folder,
    ),
    "coco": Format(
        "COCO captions",
        (".json",),
        "The cleaned data set as COCO captions: images and annotations.",
        write_coco,
        images_folder,
    ),
    "folder": Format(
        "Pictures with .txt",
        (FOLDER,),
        "The cleaned data set as a folder: pictures, and beside each its captions in a .txt of the same name.",
        write_texts,
    ),
    "imagefolder": Format(
        "Hugging Face imagefolder",
        (FOLDER,),
        "The cleaned data set as a folder: pictures and a metadata.jsonl, as the library datasets reads it.",
        write_imagefolder,
    ),
    "wds": Format(
        "WebDataset keys",
        (".txt",),
        "The keys of the samples to keep, one a line; filter your shards by them.",
        write_keys,
        captions_file,
    ),
    "datacomp": Format(
        "DataComp uids",
        (".npy",),
        "The sorted uids of the pairs to keep, as DataComp's resharder takes them.",
        write_uids,
        uids_file,
    ),
    "html": Format("HTML report", (".html",), "The audit on one page that works offline, pictures included."),
    "decisions": Format(
        "Decisions", (".csv", ".parquet"), "Every decision and note with the scores it was made on, as CSV or Parquet."
    ),
}


def write(
    audit: Audit, format: str, path: Path, *, overwrite: bool = False, progress: Progress | None = None
) -> Summary:
    """Export an audit.

    Args:
        audit: a finished audit.
        format: one of `FORMATS`.
        path: the file to write; its folder is made if it is not there.
        overwrite: replace what is there.
        progress: told how many pictures are done, and of how many.

    Raises:
        InputError: the audit is not finished or a file of it is broken, format or ending are unknown, something is at
            the path already, or the data set cannot be had as it is to be.
    """
    _check(audit, format, path, overwrite)
    notes: tuple[str, ...] = ()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if write_cleaned := FORMATS[format].write_cleaned:
            cleaned = clean(audit)
            notes, command = write_cleaned(cleaned, path, progress=progress)
            return Summary(cleaned.kept, cleaned.removed, cleaned.recaptioned, (*notes, *cleaned.notes), command)
        if format == "html":
            from clipmem_core.exports.report import write_report  # brings Plotly along

            write_report(audit, path, progress=progress)
        else:
            notes = write_decisions(audit, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    counts = open_review(audit).counts()
    kept = count_rows(audit.folder / PAIRS) - counts[REMOVE]
    return Summary(kept, counts[REMOVE], counts[RECAPTION], notes, "")


def _check(audit: Audit, format: str, path: Path, overwrite: bool) -> None:
    if format not in FORMATS:
        raise InputError(f"--format {format!r} is unknown: choose one of {', '.join(FORMATS)}{meant(format, FORMATS)}")
    about = FORMATS[format]
    if not about.is_folder and path.suffix.lower() not in about.suffixes:
        raise InputError(f"--out {str(path)!r} must end in {' or '.join(about.suffixes)} for --format {format}")
    if not audit.finished:
        raise InputError(f"audit {audit.name!r} is not finished: run it again, it goes on where it stopped")
    if about.is_folder and path.is_file():
        raise InputError(f"--out {str(path)!r} is a file: give the folder to write")
    if path.is_dir() and not about.is_folder:
        raise InputError(f"--out {str(path)!r} is a folder: give the file to write")
    if about.is_folder:
        check_replaceable(path)
    for there in (path, about.beside(path) if about.beside else path):
        if there.exists() and not overwrite and not (there.is_dir() and not any(there.iterdir())):
            raise InputError(f"{there} is there already: take another --out, or replace it with --overwrite")
