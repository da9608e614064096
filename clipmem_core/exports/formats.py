"""The formats of an export: an open_clip table, COCO captions, folders of pictures, WebDataset keys, DataComp uids,
decisions and a report."""

import fcntl
import hashlib
import json
import os
import posixpath
import re
import shlex
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from csv import QUOTE_NONNUMERIC  # a lone \r must be quoted too
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from clipmem_core.atomic import replacing
from clipmem_core.audits.store import PAIRS, SCORES, Audit
from clipmem_core.columns import CAPTIONS, HEIGHT, IMAGE, LABEL, PAIR_ID, WIDTH
from clipmem_core.config import DEFAULT_PRESET, InputError, data_folder, meant
from clipmem_core.exports.cleaned import (
    BLOCK,
    RECAPTIONED,
    ROW,
    Cleaned,
    Pictures,
    Progress,
    check_root,
    clean,
    counted,
    images_folder,
    picture_files,
    read_picture,
    replacing_folder,
    suffix_of,
    texts_of,
)
from clipmem_core.pairs.readers.files import is_picture, is_url
from clipmem_core.pairs.readers.shards import odd_names
from clipmem_core.pairs.references import split_reference
from clipmem_core.review.cards import LISTED, OWN_CAPTIONS, listed_scores
from clipmem_core.review.decisions import FOR_OTHER, RECAPTION, REMOVE, open_review
from clipmem_core.review.tables import count_rows, fetch_arrow, number
from clipmem_core.scores.registry import EXPORT, scores_in

Written = tuple[tuple[str, ...], str]  # what the format cannot carry, and the command that audits it, empty without one

FOLDER = ""  # the ending of a folder
FICLONE = 0x40049409  # Linux: a file shares the blocks of another until one of them changes
MARK = ".clipmem-export"  # in a folder that an export may replace
METADATA = "metadata.jsonl"
SEPARATORS = {".csv": (",", ","), ".tsv": ("\t", r"$'\t'")}  # of columns, and as typed in a shell
MISSING = (  # texts that pandas takes for missing values, also in quotes
    *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"),
    *("NULL", "NaN", "None", "n/a", "nan", "null"),
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a cell beginning with one would be computed by a spreadsheet
UIDS = np.dtype("u8,u8")  # the two halves of 128 bits, the higher first
_UID = re.compile("[0-9a-fA-F]{32}")
_BREAK = re.compile(r"\s*[\r\n]+\s*")


def write_csv(cleaned: Cleaned, path: Path, progress: Progress | None = None) -> Written:
    """Write the table that open_clip trains from, a caption a row, with commas into a `.csv` and tabs into a `.tsv`."""
    separator, typed = SEPARATORS[path.suffix.lower()]
    # filepath and title are the columns that open_clip reads by default
    schema = pa.schema([(name, pa.large_string()) for name in ("filepath", "title", PAIR_ID, LABEL)])
    options, lost = pa_csv.WriteOptions(delimiter=separator), 0
    with (
        replacing(path) as temporary,
        picture_files(cleaned, path, progress=progress) as pictures,
        pa_csv.CSVWriter(temporary, schema, write_options=options) as writer,
    ):
        prefix, nothing = (pa.scalar(text, pa.large_string()) for text in (f"{str(pictures.folder).rstrip('/')}/", ""))
        for _, pairs, names in _blocks(cleaned, pictures):
            lists = pairs[CAPTIONS].combine_chunks()
            captions, owner = pc.list_flatten(lists), pc.list_parent_indices(lists)
            paths = pc.binary_join_element_wise(prefix, names, nothing)
            columns = [paths.take(owner), captions, pairs[PAIR_ID].take(owner), pairs[LABEL].take(owner)]
            writer.write_table(pa.table(columns, schema))
            lost += pc.sum(pc.is_in(captions, value_set=pa.array(MISSING, pa.large_string()))).as_py() or 0
    missing = f"{lost:,} captions spell a missing value (NA, null …): pandas, and so open_clip, reads them as nan"
    reads = f"open_clip reads it with --train-data {shlex.quote(str(path))} --csv-separator {typed}"
    return (*pictures.notes, *counted((lost, missing)), reads), _audit_command(cleaned, path, pictures.folder)


def write_coco(cleaned: Cleaned, path: Path, progress: Progress | None = None) -> Written:
    """Write images and annotations as JSON.

    Ids count from 1. An image's `pair_id` is the pair's; pairs with a label have `label`. `file_name` is relative to
    the data set's folder, or to the folder of the pictures written out.
    """

    def images() -> Iterator[pa.Table]:
        for start, pairs, names in _blocks(cleaned, pictures):
            columns = {"id": np.arange(len(pairs)) + start + 1, "file_name": names}
            yield pa.table(columns | {name: pairs[name] for name in (WIDTH, HEIGHT, PAIR_ID, LABEL)})

    def annotations() -> Iterator[pa.Table]:
        first = 1
        for start, pairs, _ in _blocks(cleaned, pictures):
            lists = pairs[CAPTIONS].combine_chunks()
            texts, owner = pc.list_flatten(lists), pc.list_parent_indices(lists).to_numpy()
            yield pa.table({"id": np.arange(len(texts)) + first, "image_id": owner + start + 1, "caption": texts})
            first += len(texts)

    def lines(tables: Iterator[pa.Table]) -> Iterator[str]:
        separator = "\n"
        for row in (row for table in tables for row in table.to_pylist()):
            known = {key: value for key, value in row.items() if value is not None}
            yield separator + json.dumps(known, ensure_ascii=False)
            separator = ",\n"

    info = json.dumps({"description": f"audit {cleaned.audit.name}, cleaned"})
    with (
        replacing(path) as temporary,
        picture_files(cleaned, path, progress=progress) as pictures,
        temporary.open("w", encoding="utf-8") as file,
    ):
        file.write(f'{{"info": {info},\n"images": [')
        file.writelines(lines(images()))
        file.write('],\n"annotations": [')
        file.writelines(lines(annotations()))
        file.write("]}\n")
    return pictures.notes, _audit_command(cleaned, path, pictures.folder)


def _blocks(cleaned: Cleaned, pictures: Pictures) -> Iterator[tuple[int, pa.Table, pa.ChunkedArray]]:
    """Yield the first row of each block of pairs, the block, and the names of its pictures."""
    for start in range(0, cleaned.kept, BLOCK):
        yield start, cleaned.pairs.slice(start, BLOCK), pictures.names.slice(start, BLOCK)


def _audit_command(cleaned: Cleaned, path: Path, images: Path | None = None) -> str:
    """Return the command that audits an export under a new name, with the audit's preset and protocol."""
    config = cleaned.audit.record.config
    words = ["audit", str(path), "--name", f"{cleaned.audit.name}-clean"]
    words += ["--image-folder", str(images)] if images else []
    for field, usual in (("preset", DEFAULT_PRESET), ("protocol", "ensemble")):
        words += [f"--{field}", getattr(config, field)] if getattr(config, field) != usual else []
    return f"python -m clipmem_core {shlex.join(words)}"


def write_texts(cleaned: Cleaned, path: Path, progress: Progress | None = None) -> Written:
    """Write pictures and a same-named `.txt` beside each, a caption a line, into a folder."""
    pairs, broken, renamed, unlabelled = cleaned.pairs.select([PAIR_ID, CAPTIONS, LABEL]).to_pylist(), 0, 0, 0
    with _picture_folder(cleaned, path, progress) as (folder, names):
        for name, pair in zip(names, pairs, strict=True):
            lines = [_BREAK.sub(" ", caption) for caption in pair[CAPTIONS]]
            text = folder / f"{posixpath.splitext(name)[0]}.txt"
            text.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
            broken += sum(map(bool, map(_BREAK.search, pair[CAPTIONS])))
            renamed += name != pair[PAIR_ID]
            unlabelled += bool(pair[LABEL]) and name.partition("/")[0] != pair[LABEL]
    lost = counted(
        (broken, f"{broken:,} captions have spaces in it for their line breaks"),
        (renamed, f"{renamed:,} pairs have their picture's path here for an id: --format imagefolder keeps ids"),
        (unlabelled, f"{unlabelled:,} labels are not in it, since they are not the top folder: see imagefolder"),
    )
    return lost, _audit_command(cleaned, path)


def write_imagefolder(cleaned: Cleaned, path: Path, progress: Progress | None = None) -> Written:
    """Write pictures and a `metadata.jsonl` into a folder: file_name, text, pair_id and, if any pair has one, label.

    `text` is a caption, or for all pairs a list if one of them has several.
    """
    pairs = cleaned.pairs.select([PAIR_ID, CAPTIONS, LABEL]).to_pylist()
    several, labelled = any(len(pair[CAPTIONS]) > 1 for pair in pairs), any(pair[LABEL] for pair in pairs)
    with (
        _picture_folder(cleaned, path, progress) as (folder, names),
        (folder / METADATA).open("w", encoding="utf-8", newline="\n") as file,
    ):
        for name, pair in zip(names, pairs, strict=True):
            text = pair[CAPTIONS] if several else pair[CAPTIONS][0]
            row = {"file_name": name, "text": text, PAIR_ID: pair[PAIR_ID]}
            file.write(json.dumps(row | ({LABEL: pair[LABEL]} if labelled else {}), ensure_ascii=False) + "\n")
    reads = f"datasets reads it with load_dataset('imagefolder', data_dir={str(path)!r})"
    return (reads,), _audit_command(cleaned, path)


@contextmanager
def _picture_folder(cleaned: Cleaned, path: Path, progress: Progress | None) -> Iterator[tuple[Path, list[str]]]:
    """Give a folder with copies of the pictures, which takes the place of `path`, and the name of each pair's."""
    check_root(cleaned.root)
    names, taken = list[str](), {posixpath.splitext(METADATA)[0]}
    pairs = zip(cleaned.pairs[ROW].to_pylist(), cleaned.pairs[IMAGE].to_pylist(), strict=True)
    with replacing_folder(path) as folder:
        (folder / MARK).touch()
        for done, (row, image) in enumerate(pairs):
            data, name = read_picture(cleaned.root, image), image
            source, part = split_reference(cleaned.root, image)
            if part is not None or not is_picture(name) or any(part.startswith(".") for part in name.split("/")):
                name = f"{row:08d}{suffix_of(data)}"
            stem, ending = posixpath.splitext(name)
            if stem.casefold() in taken:  # two pictures would share a .txt
                stem = f"{stem}-{row}"
            taken.add(stem.casefold())
            names.append(f"{stem}{ending}")
            (folder / names[-1]).parent.mkdir(parents=True, exist_ok=True)
            with (folder / names[-1]).open("wb") as copy:
                try:
                    with (source if part is None else Path(os.devnull)).open("rb") as original:
                        fcntl.ioctl(copy, FICLONE, original.fileno())
                except OSError:  # another disk, or one that cannot share blocks
                    copy.write(data)
            if progress and done % 100 == 0:
                progress(done, cleaned.kept)
        if progress:
            progress(cleaned.kept, cleaned.kept)
        yield folder, names


def write_keys(cleaned: Cleaned, path: Path, progress: Progress | None = None) -> Written:
    """Write the WebDataset `__key__` of each sample to keep, one a line, in the order of the shards.

    New captions, which a key cannot carry, go into a file beside it.
    """
    keys = _sample_keys(cleaned.root, cleaned.pairs[IMAGE])
    kept = set(keys)
    shared = sum(key in kept for key in _sample_keys(cleaned.root, cleaned.gone[IMAGE]))
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


def _sample_keys(root: Path, images: pa.ChunkedArray) -> list[str]:
    """Return the WebDataset key of each picture's sample; of a picture in no tar, its reference without its ending."""
    keys, original_names = list[str](), lru_cache(maxsize=4)(odd_names)
    for image in images.to_pylist():
        path, part = split_reference(root, image)
        if isinstance(part, str):
            keys.append(webdataset_key(original_names(path).get(part, part)))
        else:
            keys.append(posixpath.splitext(image)[0] if part is None else image)
    return keys


def webdataset_key(member: str) -> str:
    """Return what webdataset calls the key of a tar's member: its path up to the first dot of its name.

    Example:
        >>> webdataset_key("./train/0001.left.jpg")
        './train/0001'
    """
    folder, slash, name = member.rpartition("/")
    return folder + slash + name.partition(".")[0]


def write_uids(cleaned: Cleaned, path: Path, progress: Progress | None = None) -> Written:
    """Write the sorted uids of the pairs to keep, as DataComp's resharder takes a subset: a NumPy file.

    Ids that are not uids are hashed; a CSV of pair_id and uid is then written beside it.
    """
    ids = cleaned.pairs[PAIR_ID]
    made = sum(_UID.fullmatch(pair_id) is None for pair_id in texts_of(ids))
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, pack_uids(map(uid_of, texts_of(ids))), allow_pickle=False)
    beside = uids_file(path)
    beside.unlink(missing_ok=True)  # of the export that this one replaces
    if made:
        schema = pa.schema([(PAIR_ID, ids.type), ("uid", pa.string())])
        with replacing(beside) as temporary, pa_csv.CSVWriter(temporary, schema) as writer:
            for start in range(0, len(ids), BLOCK):
                own = ids.slice(start, BLOCK)
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
    """Return an id of 32 hex digits in lower case, and of any other the first 128 bits of its SHA-256.

    Example:
        >>> uid_of("a.jpg"), uid_of("00000000000000010000000000000002")
        ('509b0d4641a7c3ba088ffa28559d1f57', '00000000000000010000000000000002')
    """
    return pair_id.lower() if _UID.fullmatch(pair_id) else hashlib.sha256(pair_id.encode()).hexdigest()[:32]


def pack_uids(uids: Iterable[str]) -> np.ndarray:
    """Return uids of 32 hex digits as sorted pairs of 64-bit numbers, `u8,u8` [n]."""
    halves = np.frombuffer(b"".join(map(bytes.fromhex, uids)), dtype=">u8").reshape(-1, 2)
    halves = halves[np.lexsort((halves[:, 1], halves[:, 0]))]
    packed = np.empty(len(halves), UIDS)
    packed["f0"], packed["f1"] = halves[:, 0], halves[:, 1]
    return packed


def write_decisions(audit: Audit, path: Path, progress: Progress | None = None) -> Written:
    """Write every pair with a decision or a note.

    Columns: those of the review's table, then the pair's own captions with the scores of each if the audit has them,
    image, label and the exported scores of this audit. In CSV lists are JSON, and a text that a spreadsheet would take
    for a formula begins with a single quote.
    """
    table = open_review(audit).table()
    for_other = table.pop(FOR_OTHER).notna()
    table = table[~for_other | (table["note"] != "")]
    table = table.merge(listed_scores(audit, table[PAIR_ID].tolist()), on=PAIR_ID, how="left")
    asked = pa.table({"asked": pa.array(table[PAIR_ID].tolist(), pa.string())})
    files = {PAIRS: [f'"{IMAGE}"', f'"{LABEL}"'], SCORES: [f'{number(name)} AS "{name}"' for name in scores_in(EXPORT)]}
    for name, columns in files.items():
        query = f'SELECT "{PAIR_ID}", {", ".join(columns)} FROM parquet SEMI JOIN asked ON "{PAIR_ID}" = asked.asked'
        found = fetch_arrow(audit.folder / name, query, asked=asked).to_pandas()
        table = table.merge(found, on=PAIR_ID, how="left")
    lists = [name for name in (CAPTIONS, OWN_CAPTIONS, *LISTED.values()) if name in table]
    with replacing(path) as temporary:
        if path.suffix.lower() == ".parquet":
            arrow = pa.Table.from_pandas(table.drop(columns=lists), preserve_index=False)
            for name in lists:
                kind = pa.string() if name in (CAPTIONS, OWN_CAPTIONS) else pa.float64()
                arrow = arrow.append_column(name, pa.array(table[name], pa.list_(kind)))
            pq.write_table(arrow.select(table.columns.tolist()), temporary)
        else:
            texts = {name: list(map(_as_json, table[name])) for name in lists}
            cells = table.assign(**texts).map(
                lambda cell: f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
            )
            cells.to_csv(temporary, index=False, quoting=QUOTE_NONNUMERIC)
    left = f"{for_other.sum():,} decisions on other captions of a pair, as where mistakes are planted, are not in it"
    return counted((for_other.sum(), left)), ""


def _as_json(values: Any) -> str:
    """Return a list as JSON; empty for a pair that the audit does not have."""
    return json.dumps(list(values), ensure_ascii=False) if isinstance(values, tuple | list | np.ndarray) else ""


def write_html(audit: Audit, path: Path, progress: Progress | None = None) -> Written:
    """Write the report of an audit on one page."""
    from clipmem_core.exports.report import render_report  # imports Plotly

    page = render_report(audit, progress)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return (), ""


@dataclass(frozen=True)
class Format:
    """One format of an export."""

    title: str
    suffixes: tuple[str, ...]  # the usual one first; FOLDER for a folder of files
    help: str
    limits: str  # what a person should know before choosing it
    write: Callable[..., Written]  # of a Cleaned or an Audit, a path and progress
    cleaned: bool = True  # it holds the cleaned data set
    names_paths: bool = False  # it names pictures by their paths on this machine
    beside: Callable[[Path], Path] | None = None  # what may be written beside the file

    @property
    def is_folder(self) -> bool:
        return FOLDER in self.suffixes


WRITTEN_OUT = "Pictures that lie in archives or tables are written out beside it."
COPIES = "Pictures are copies: you can edit them."
FORMATS = {
    "csv": Format(
        "open_clip CSV",
        (".csv", ".tsv"),
        "The cleaned data set, a caption a row, as open_clip trains from.",
        WRITTEN_OUT,
        write_csv,
        names_paths=True,
        beside=images_folder,
    ),
    "coco": Format(
        "COCO captions",
        (".json",),
        "The cleaned data set as COCO captions: images and annotations.",
        WRITTEN_OUT,
        write_coco,
        names_paths=True,
        beside=images_folder,
    ),
    "folder": Format(
        "Pictures with .txt",
        (FOLDER,),
        "The cleaned data set as a folder: pictures, and beside each its captions in a .txt of the same name.",
        COPIES,
        write_texts,
    ),
    "imagefolder": Format(
        "Hugging Face imagefolder",
        (FOLDER,),
        "The cleaned data set as a folder: pictures and a metadata.jsonl, as the library datasets reads it.",
        COPIES,
        write_imagefolder,
    ),
    "wds": Format(
        "WebDataset keys",
        (".txt",),
        "The keys of the samples to keep, one a line; filter your shards by them.",
        "Keys carry no captions: new ones go into a file beside it.",
        write_keys,
        beside=captions_file,
    ),
    "datacomp": Format(
        "DataComp uids",
        (".npy",),
        "The sorted uids of the pairs to keep, as DataComp's resharder takes them.",
        "Uids carry no captions: new ones are left out.",
        write_uids,
        beside=uids_file,
    ),
    "html": Format(
        "HTML report",
        (".html",),
        "The audit on one page that works offline, pictures included.",
        "It is there to be read, not to train from.",
        write_html,
        cleaned=False,
    ),
    "decisions": Format(
        "Decisions",
        (".csv", ".parquet"),
        "Every decision and note with the scores it was made on, as CSV or Parquet.",
        "Decisions on pairs that only another audit of the data set has are in it too.",
        write_decisions,
        cleaned=False,
    ),
}


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


def write(
    audit: Audit, format: str, out: Path | str, *, overwrite: bool = False, progress: Progress | None = None
) -> Summary:
    """Export a finished audit.

    Args:
        audit: a finished audit.
        format: one of `FORMATS`.
        out: the file or folder to write, or a URL of fsspec (s3://, gs:// …); parent folders are made.
        overwrite: replace what is there.
        progress: called with the number of pictures done and of all.
    """
    if format not in FORMATS:
        raise InputError(f"--format {format!r} is unknown: choose one of {', '.join(FORMATS)}{meant(format, FORMATS)}")
    about = FORMATS[format]
    if is_url(str(out)):
        return _write_to_url(audit, format, str(out), overwrite, progress)
    path = Path(out)
    _check_target(about, format, path, overwrite)
    if not audit.finished:
        raise InputError(f"audit {audit.name!r} is not finished: run it again, it goes on where it stopped")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if about.cleaned:
            cleaned = clean(audit)
            notes, command = about.write(cleaned, path, progress)
            return Summary(cleaned.kept, cleaned.removed, cleaned.recaptioned, (*notes, *cleaned.notes), command)
        notes, command = about.write(audit, path, progress)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    counts = open_review(audit).counts()
    kept = count_rows(audit.folder / PAIRS) - counts[REMOVE]
    return Summary(kept, counts[REMOVE], counts[RECAPTION], notes, command)


def _check_target(about: Format, format: str, path: Path, overwrite: bool) -> None:
    if not about.is_folder and path.suffix.lower() not in about.suffixes:
        raise InputError(f"--out {str(path)!r} must end in {' or '.join(about.suffixes)} for --format {format}")
    if about.is_folder and path.is_file():
        raise InputError(f"--out {str(path)!r} is a file: give the folder to write")
    if path.is_dir() and not about.is_folder:
        raise InputError(f"--out {str(path)!r} is a folder: give the file to write")
    if path.is_dir():
        if not any(path.iterdir()):
            return
        if not (path / MARK).is_file():
            raise InputError(f"{path} holds something else than an export: take another --out")
    for there in (path, about.beside(path) if about.beside else path):
        if there.exists() and not overwrite:
            raise InputError(f"{there} is there already: take another --out, or replace it with --overwrite")


def _write_to_url(audit: Audit, format: str, url: str, overwrite: bool, progress: Progress | None) -> Summary:
    """Write an export into the data folder and copy it to the URL."""
    import fsspec  # paths need neither

    from clipmem_core.pairs.readers.remote import unreachable_as_input_error

    about = FORMATS[format]
    if about.names_paths:
        raise InputError(
            f"--format {format} names pictures by their paths on this machine: give a path, or take imagefolder"
        )
    with unreachable_as_input_error(url):
        system, there = fsspec.core.url_to_fs(url.rstrip("/"))
        if system.exists(there) and (about.is_folder or not overwrite):
            advice = "" if about.is_folder else ", or replace it with --overwrite"
            raise InputError(f"{url} is there already: take another --out{advice}")
    parent, _, name = there.rpartition("/")
    data_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=data_folder()) as folder:
        path = Path(folder) / name
        summary = write(audit, format, path, progress=progress)
        with unreachable_as_input_error(url):
            for file in (file for file in Path(folder).rglob("*") if file.is_file()):
                target = f"{parent}/{file.relative_to(folder).as_posix()}"
                system.makedirs(target.rpartition("/")[0], exist_ok=True)
                system.put_file(str(file), target)
    notes = tuple(note.replace(str(path), url) for note in summary.notes)
    return replace(summary, notes=notes, command=summary.command.replace(str(path), url))
