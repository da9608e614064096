"""The formats of an export: an open_clip table, COCO captions, folders of pictures, WebDataset keys, DataComp uids,
decisions and a report."""

import hashlib
import itertools
import json
import posixpath
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from csv import QUOTE_NONNUMERIC  # a lone \r must be quoted too
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipmem_core.audits.store import PAIRS, SCORES, Audit
from clipmem_core.columns import CAPTIONS, HEIGHT, IMAGE, LABEL, PAIR_ID, WIDTH
from clipmem_core.config import DEFAULT_PRESET, InputError, meant
from clipmem_core.exports import cleaned as d
from clipmem_core.exports.cleaned import RECAPTIONED, Cleaned, Progress, counted
from clipmem_core.io import replacing
from clipmem_core.pairs.readers.files import is_picture
from clipmem_core.pairs.readers.shards import odd_names
from clipmem_core.pairs.references import split_reference
from clipmem_core.review.cards import LISTED, OWN_CAPTIONS, listed_scores
from clipmem_core.review.decisions import FOR_OTHER, RECAPTION, REMOVE, open_review
from clipmem_core.review.tables import count_rows, fetch_pairs, number
from clipmem_core.scores.registry import EXPORT, scores_in

Written = tuple[tuple[str, ...], str]  # what the format cannot carry, and the command that audits it, empty without one

FOLDER = ""  # the ending of a folder
MARK = ".clipmem-export"  # in a folder that an export may replace
METADATA = "metadata.jsonl"
SEPARATORS = {".csv": (",", ","), ".tsv": ("\t", r"$'\t'")}  # of columns, and as typed in a shell
MISSING = (  # texts that pandas reads as missing values, also in quotes
    *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"),
    *("NULL", "NaN", "None", "n/a", "nan", "null"),
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would compute a cell that begins with one
UIDS = np.dtype("u8,u8")  # the two halves of 128 bits, the higher first
_UID = re.compile("[0-9a-fA-F]{32}")
_BREAK = re.compile(r"\s*[\r\n]+\s*")


def write_csv(cleaned: Cleaned, path: Path, progress: Progress | None = None) -> Written:
    """Write the table that open_clip trains from, a caption a row, with commas into a `.csv` and tabs into a `.tsv`."""
    (separator, typed), lost = SEPARATORS[path.suffix.lower()], 0
    with (
        replacing(path) as temporary,
        d.picture_files(cleaned, path, progress=progress) as pictures,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        for start in range(0, cleaned.kept, d.BLOCK):
            block = cleaned.pairs.slice(start, d.BLOCK).select([CAPTIONS, PAIR_ID, LABEL]).to_pandas()
            # filepath and title are the columns that open_clip reads by default
            names = pictures.names.slice(start, d.BLOCK).to_pylist()
            block.insert(0, "filepath", [f"{str(pictures.folder).rstrip('/')}/{name}" for name in names])
            block = block.explode(CAPTIONS).rename(columns={CAPTIONS: "title"})
            block.to_csv(file, sep=separator, index=False, header=start == 0, quoting=QUOTE_NONNUMERIC)
            lost += int(block["title"].isin(MISSING).sum())
    missing = f"{lost:,} captions spell a missing value (NA, null …): pandas, and so open_clip, reads them as nan"
    reads = f"open_clip reads it with --train-data {shlex.quote(str(path))} --csv-separator {typed}"
    return (*pictures.notes, *counted((lost, missing)), reads), _audit_command(cleaned, path, pictures.folder)


def write_coco(cleaned: Cleaned, path: Path, progress: Progress | None = None) -> Written:
    """Write images, with pair_id and label, and annotations as JSON; ids count from 1.

    `file_name` is relative to the data set's folder, or to the folder of the pictures written out.
    """

    def images() -> Iterator[dict[str, Any]]:
        columns = [d.values_of(cleaned.pairs[name]) for name in (WIDTH, HEIGHT, PAIR_ID, LABEL)]
        for place, (name, *values) in enumerate(zip(d.values_of(pictures.names), *columns, strict=True), 1):
            row = {"id": place, "file_name": name} | dict(zip((WIDTH, HEIGHT, PAIR_ID, LABEL), values, strict=True))
            yield {key: value for key, value in row.items() if value is not None}

    def annotations() -> Iterator[dict[str, Any]]:
        number = itertools.count(1)
        for image, captions in enumerate(d.values_of(cleaned.pairs[CAPTIONS]), 1):
            yield from ({"id": next(number), "image_id": image, "caption": caption} for caption in captions)

    info = json.dumps({"description": f"audit {cleaned.audit.name}, cleaned"})
    with (
        replacing(path) as temporary,
        d.picture_files(cleaned, path, progress=progress) as pictures,
        temporary.open("w", encoding="utf-8") as file,
    ):
        file.write(f'{{"info": {info}')
        for key, rows in (("images", images()), ("annotations", annotations())):
            file.write(f',\n"{key}": [')
            lines = (json.dumps(row, ensure_ascii=False) for row in rows)
            file.writelines(f"{',' if place else ''}\n{line}" for place, line in enumerate(lines))
            file.write("]")
        file.write("}\n")
    return pictures.notes, _audit_command(cleaned, path, pictures.folder)


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
    broken, renamed, unlabelled = 0, 0, 0
    with _picture_folder(cleaned, path, progress) as (folder, names, pairs):
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
    with (
        _picture_folder(cleaned, path, progress) as (folder, names, pairs),
        (folder / METADATA).open("w", encoding="utf-8", newline="\n") as file,
    ):
        several, labelled = any(len(pair[CAPTIONS]) > 1 for pair in pairs), any(pair[LABEL] for pair in pairs)
        for name, pair in zip(names, pairs, strict=True):
            text = pair[CAPTIONS] if several else pair[CAPTIONS][0]
            row = {"file_name": name, "text": text, PAIR_ID: pair[PAIR_ID]}
            file.write(json.dumps(row | ({LABEL: pair[LABEL]} if labelled else {}), ensure_ascii=False) + "\n")
    reads = f"datasets reads it with load_dataset('imagefolder', data_dir={str(path)!r})"
    return (reads,), _audit_command(cleaned, path)


@contextmanager
def _picture_folder(
    cleaned: Cleaned, path: Path, progress: Progress | None
) -> Iterator[tuple[Path, list[str], list[dict[str, Any]]]]:
    """Give a folder with copies of the pictures, which replaces `path`, the name of each picture, and the pairs."""
    d.check_root(cleaned.root)
    names, taken = list[str](), {posixpath.splitext(METADATA)[0]}
    with d.replacing_folder(path) as folder:
        (folder / MARK).touch()
        for row, image, data in d.read_pictures(cleaned, progress):
            _, part = split_reference(cleaned.root, image)
            hidden = any(part.startswith(".") for part in image.split("/"))
            name = image if part is None and is_picture(image) and not hidden else f"{row:08d}{d.suffix_of(data)}"
            stem, ending = posixpath.splitext(name)
            if stem.casefold() in taken:  # two pictures would share a .txt
                stem = f"{stem}-{row}"
            taken.add(stem.casefold())
            names.append(f"{stem}{ending}")
            (folder / names[-1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / names[-1]).write_bytes(data)
        yield folder, names, cleaned.pairs.select([PAIR_ID, CAPTIONS, LABEL]).to_pylist()


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
    """Return webdataset's key of a tar's member: its path up to the first dot of its name."""
    folder, slash, name = member.rpartition("/")
    return folder + slash + name.partition(".")[0]


def write_uids(cleaned: Cleaned, path: Path, progress: Progress | None = None) -> Written:
    """Write the sorted uids of the pairs to keep, as DataComp's resharder takes a subset: a NumPy file.

    Ids that are not uids are hashed; a CSV of pair_id and uid is then written beside it.
    """
    ids = cleaned.pairs[PAIR_ID]
    made = sum(_UID.fullmatch(pair_id) is None for pair_id in d.values_of(ids))
    with replacing(path) as temporary, temporary.open("wb") as file:
        packed = b"".join(bytes.fromhex(uid_of(pair_id)) for pair_id in d.values_of(ids))
        np.save(file, np.sort(np.frombuffer(packed, dtype=">u8,>u8").astype(UIDS)), allow_pickle=False)
    beside = uids_file(path)
    beside.unlink(missing_ok=True)  # of the export that this one replaces
    if made:
        with replacing(beside) as temporary:
            table = ids.to_pandas().rename(PAIR_ID).to_frame()
            table.assign(uid=table[PAIR_ID].map(uid_of)).to_csv(temporary, index=False, quoting=QUOTE_NONNUMERIC)
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
    """Return an id of 32 hex digits in lower case, and for any other id the first 128 bits of its SHA-256."""
    return pair_id.lower() if _UID.fullmatch(pair_id) else hashlib.sha256(pair_id.encode()).hexdigest()[:32]


def write_decisions(audit: Audit, path: Path, progress: Progress | None = None) -> Written:
    """Write every pair with a decision or a note, its captions with their scores, image, label and scores.

    In CSV lists are JSON, and a text that a spreadsheet would compute as a formula begins with a single quote.
    """
    table = open_review(audit).table()
    for_other = table.pop(FOR_OTHER).notna()
    table = table[~for_other | (table["note"] != "")]
    table = table.merge(listed_scores(audit, table[PAIR_ID].tolist()), on=PAIR_ID, how="left")
    files = {PAIRS: [f'"{IMAGE}"', f'"{LABEL}"'], SCORES: [f'{number(name)} AS "{name}"' for name in scores_in(EXPORT)]}
    for name, columns in files.items():
        found = fetch_pairs(audit.folder / name, columns, table[PAIR_ID])
        table = table.merge(found.to_pandas(), on=PAIR_ID, how="left")
    lists = [name for name in (CAPTIONS, OWN_CAPTIONS, *LISTED.values()) if name in table]
    with replacing(path) as temporary:
        if path.suffix.lower() == ".parquet":
            arrow = pa.Table.from_pandas(table.drop(columns=lists), preserve_index=False)
            for name in lists:
                kind = pa.string() if name in (CAPTIONS, OWN_CAPTIONS) else pa.float64()
                arrow = arrow.append_column(name, pa.array(table[name], pa.list_(kind)))
            pq.write_table(arrow.select(table.columns.tolist()), temporary)
        else:
            texts = {name: table[name].map(_as_json) for name in lists}
            cells = table.assign(**texts).map(
                lambda cell: f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
            )
            cells.to_csv(temporary, index=False, quoting=QUOTE_NONNUMERIC)
    left = f"{for_other.sum():,} decisions on other captions of a pair, for example injected errors, are not in it"
    return counted((for_other.sum(), left)), ""


def _as_json(values: Any) -> str:
    """Return a list as JSON; empty for a pair that the audit does not have."""
    return json.dumps(values, ensure_ascii=False) if isinstance(values, list) else ""


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
        beside=d.images_folder,
    ),
    "coco": Format(
        "COCO captions",
        (".json",),
        "The cleaned data set as COCO captions: images and annotations.",
        WRITTEN_OUT,
        write_coco,
        beside=d.images_folder,
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
    audit: Audit, format: str, path: Path, *, overwrite: bool = False, progress: Progress | None = None
) -> Summary:
    """Export a finished audit into a file or folder; `progress` gets the number of pictures done and of all."""
    if format not in FORMATS:
        raise InputError(f"--format {format!r} is unknown: choose one of {', '.join(FORMATS)}{meant(format, FORMATS)}")
    about = FORMATS[format]
    _check_target(about, format, path, overwrite)
    if not audit.finished:
        raise InputError(f"audit {audit.name!r} is not finished: run it again to resume it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if about.cleaned:
            cleaned = d.clean(audit)
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
    if path.exists() and path.is_dir() != about.is_folder:
        kind, wanted = ("folder", "file") if path.is_dir() else ("file", "folder")
        raise InputError(f"--out {str(path)!r} is a {kind}: give the {wanted} to write")
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.is_dir() and not (path / MARK).is_file():
        raise InputError(f"{path} has other files than an export: take another --out")
    for there in (path, about.beside(path) if about.beside else path):
        if there.exists() and not overwrite:
            raise InputError(f"{there} is there already: take another --out, or replace it with --overwrite")
