"""The formats of an export: a writer for each, and their registry `FORMATS`."""

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
from filelock import FileLock, Timeout

from clipmem_core.audit.store import MAX_NAME, PAIRS, SCORES, Audit
from clipmem_core.columns import CAPTIONS, HEIGHT, IMAGE, LABEL, PAIR_ID, WIDTH
from clipmem_core.config import DEFAULT_PRESET, InputError, data_folder, did_you_mean
from clipmem_core.dataset.readers.containers import scan_tar, split_reference
from clipmem_core.dataset.readers.paths import is_picture, normal_reference
from clipmem_core.export import cleaned as d
from clipmem_core.export.cleaned import RECAPTIONED, Cleaned, Progress, counted
from clipmem_core.io import replacing, replacing_folder
from clipmem_core.review.bulk_edit import word_changes
from clipmem_core.review.cards import LISTED, OWN_CAPTIONS, listed_scores
from clipmem_core.review.decisions import (
    FOR_OTHER,
    RECAPTION,
    REMOVE,
    UNDECIDED_CODE,
    decided,
    open_review,
)
from clipmem_core.review.queries import count_rows_of, fetch_pairs, number_sql
from clipmem_core.scores.registry import EXPORT, scores_in

Written = tuple[
    tuple[str, ...], str
]  # notes on data the format cannot hold, and the command that audits it, if any

FOLDER = ""  # the suffix of a folder
METADATA = "metadata.jsonl"
NEW_CAPTIONS = (
    "{name}.captions.jsonl"  # of a list of keys: one JSON object a line, `key` and `captions`
)
HASHED = "{stem}.uids.csv"  # maps ids to the hashes in a list of uids
SEPARATORS = {
    ".csv": (",", ","),
    ".tsv": ("\t", r"$'\t'"),
}  # column separator, and its form in a shell
FORMULA = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
)  # a spreadsheet computes a cell that begins with one of these
UIDS = np.dtype("u8,u8")  # 128 bits, the high half first
_UID = re.compile("[0-9a-fA-F]{32}")
_BREAK = re.compile(r"\s*[\r\n]+\s*")


def write_csv(cleaned: Cleaned, path: Path, progress: Progress | None) -> Written:
    """Write a table for open_clip, one row a caption, separated by commas (`.csv`) or tabs
    (`.tsv`)."""
    separator, shell_separator = SEPARATORS[path.suffix.lower()]
    with (
        replacing(path) as temporary,
        d.picture_files(cleaned, path, progress) as (folder, names, notes),
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        for start in range(0, cleaned.kept, d.BLOCK):
            block = (
                cleaned.pairs.slice(start, d.BLOCK).select([CAPTIONS, PAIR_ID, LABEL]).to_pandas()
            )
            # filepath and title are the columns that open_clip reads by default
            files = names.slice(start, d.BLOCK).to_pylist()
            block.insert(0, "filepath", [f"{str(folder).rstrip('/')}/{name}" for name in files])
            block = block.explode(CAPTIONS).rename(columns={CAPTIONS: "title"})
            block.to_csv(
                file, sep=separator, index=False, header=start == 0, quoting=QUOTE_NONNUMERIC
            )
    reads = (
        f"open_clip reads it with --train-data {shlex.quote(str(path))} --csv-separator "
        f"{shell_separator}"
    )
    return (*notes, reads), _audit_command(cleaned, path, folder)


def write_coco(cleaned: Cleaned, path: Path, progress: Progress | None) -> Written:
    """Write COCO captions: images, with pair_id and label, and annotations; ids count from 1."""

    def images() -> Iterator[dict[str, Any]]:
        columns = [d.values_of(cleaned.pairs[name]) for name in (WIDTH, HEIGHT, PAIR_ID, LABEL)]
        for image_id, (name, *values) in enumerate(
            zip(d.values_of(names), *columns, strict=True), 1
        ):
            row = {"id": image_id, "file_name": name} | dict(
                zip((WIDTH, HEIGHT, PAIR_ID, LABEL), values, strict=True)
            )
            yield {key: value for key, value in row.items() if value is not None}

    def annotations() -> Iterator[dict[str, Any]]:
        ids = itertools.count(1)
        for image, captions in enumerate(d.values_of(cleaned.pairs[CAPTIONS]), 1):
            yield from (
                {"id": next(ids), "image_id": image, "caption": caption} for caption in captions
            )

    info = json.dumps({"description": f"audit {cleaned.audit.name}, cleaned"})
    with (
        replacing(path) as temporary,
        d.picture_files(cleaned, path, progress) as (folder, names, notes),
        temporary.open("w", encoding="utf-8") as file,
    ):
        file.write(f'{{"info": {info}')
        for key, rows in (("images", images()), ("annotations", annotations())):
            file.write(f',\n"{key}": [')
            lines = (json.dumps(row, ensure_ascii=False) for row in rows)
            file.writelines(f"{',' if place else ''}\n{line}" for place, line in enumerate(lines))
            file.write("]")
        file.write("}\n")
    return notes, _audit_command(cleaned, path, folder)


def _audit_command(cleaned: Cleaned, path: Path, images: Path | None = None) -> str:
    """Return the command that audits an export under a new name, with the audit's preset and
    protocol."""
    config = cleaned.audit.record.config
    words = ["audit", str(path), "--name", f"{cleaned.audit.name}-clean"]
    words += ["--image-folder", str(images)] if images else []
    for field, usual in (("preset", DEFAULT_PRESET), ("protocol", "ensemble")):
        words += [f"--{field}", getattr(config, field)] if getattr(config, field) != usual else []
    return f"python -m clipmem_core {shlex.join(words)}"


def write_texts(cleaned: Cleaned, path: Path, progress: Progress | None) -> Written:
    """Write a folder of pictures, each with a `.txt` of the same name, one caption a line."""
    with _picture_folder(cleaned, path, progress, by_label=True) as (folder, names, pairs):
        for name, pair in zip(names, pairs, strict=True):
            lines = [_BREAK.sub(" ", caption) for caption in pair[CAPTIONS]]
            text = folder / f"{posixpath.splitext(name)[0]}.txt"
            text.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    return (), _audit_command(cleaned, path)


def write_imagefolder(cleaned: Cleaned, path: Path, progress: Progress | None) -> Written:
    """Write pictures and a `metadata.jsonl`: file_name, text (lists if a pair has several),
    pair_id, label if any."""
    with (
        _picture_folder(cleaned, path, progress) as (folder, names, pairs),
        (folder / METADATA).open("w", encoding="utf-8", newline="\n") as file,
    ):
        several = any(len(pair[CAPTIONS]) > 1 for pair in pairs)
        labelled = any(pair[LABEL] for pair in pairs)
        for name, pair in zip(names, pairs, strict=True):
            text = pair[CAPTIONS] if several else pair[CAPTIONS][0]
            row = {"file_name": name, "text": text, PAIR_ID: pair[PAIR_ID]}
            file.write(
                json.dumps(row | ({LABEL: pair[LABEL]} if labelled else {}), ensure_ascii=False)
                + "\n"
            )
    reads = f"datasets reads it with load_dataset('imagefolder', data_dir={str(path)!r})"
    return (reads,), _audit_command(cleaned, path)


@contextmanager
def _picture_folder(
    cleaned: Cleaned, path: Path, progress: Progress | None, *, by_label: bool = False
) -> Iterator[tuple[Path, list[str], list[dict[str, Any]]]]:
    """Yield a folder with copies of the pictures, which replaces `path`; the names of the pictures;
    and the pairs.

    With `by_label` the top folder of a picture is its label; a picture without label is in no
    folder.
    """
    d.check_root(cleaned.root)
    names = list[str]()
    stems = {posixpath.splitext(METADATA)[0]}
    with replacing_folder(path, mark=d.MARK) as folder:
        pictures = zip(
            d.read_pictures(cleaned, progress), d.values_of(cleaned.pairs[LABEL]), strict=True
        )
        for (row, image, data), label in pictures:
            _, part = split_reference(cleaned.root, image)
            hidden = any(part.startswith(".") for part in image.split("/"))
            name = (
                image
                if part is None and is_picture(image) and not hidden
                else f"{row:08d}{d.suffix_of(data)}"
            )
            if by_label and posixpath.dirname(name).partition("/")[0] != (label or ""):
                name = posixpath.join(_as_folder(label or ""), posixpath.basename(name))
            stem, ending = posixpath.splitext(name)
            if stem.casefold() in stems:  # two pictures would share a .txt
                stem = f"{stem}-{row}"
            stems.add(stem.casefold())
            names.append(f"{stem}{ending}")
            (folder / names[-1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / names[-1]).write_bytes(data)
        yield folder, names, cleaned.pairs.select([PAIR_ID, CAPTIONS, LABEL]).to_pylist()


def _as_folder(label: str) -> str:
    """Return a label if a folder can have this name, else an empty text."""
    try:
        fits = normal_reference(label) == label and len(label.encode()) <= MAX_NAME
    except InputError:
        fits = False
    return label if fits and "/" not in label and not label.startswith(".") else ""


def write_keys(cleaned: Cleaned, path: Path, progress: Progress | None) -> Written:
    """Write the WebDataset `__key__` of each sample to keep, one a line; new captions go into a
    second file."""
    keys = _sample_keys(cleaned.root, cleaned.pairs[IMAGE])
    distinct = dict.fromkeys(keys)
    shared = sum(
        key in distinct for key in _sample_keys(cleaned.root, cleaned.removed_pairs[IMAGE])
    )
    _write_lines(path, list(distinct))
    second = d.beside(path, NEW_CAPTIONS)
    second.unlink(missing_ok=True)  # of the replaced export
    if cleaned.recaptioned:
        changed = cleaned.pairs[RECAPTIONED].to_numpy().nonzero()[0]
        captions = cleaned.pairs[CAPTIONS].take(changed).to_pylist()
        rows = [
            {"key": keys[row], "captions": texts}
            for row, texts in zip(changed, captions, strict=True)
        ]
        _write_lines(second, [json.dumps(row, ensure_ascii=False) for row in rows])
    notes = counted(
        (
            cleaned.recaptioned,
            f"{cleaned.recaptioned:,} new captions cannot be in a list of keys: see {second.name}",
        ),
        (
            shared,
            f"{shared:,} removed samples share the key of another sample and stay: export csv to "
            "remove them",
        ),
    )
    return notes, ""


def _write_lines(path: Path, lines: list[str]) -> None:
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _sample_keys(root: Path, images: pa.ChunkedArray) -> list[str]:
    """Return the WebDataset key of each picture; outside of a tar, its path without the suffix."""
    keys = list[str]()
    scan = lru_cache(maxsize=4)(scan_tar)
    for image in images.to_pylist():
        path, part = split_reference(root, image)
        if isinstance(part, str):
            folder, slash, name = scan(path).original_names.get(part, part).rpartition("/")
            keys.append(
                folder + slash + name.partition(".")[0]
            )  # as in WebDataset: up to the first dot
        else:
            keys.append(posixpath.splitext(image)[0] if part is None else image)
    return keys


def write_uids(cleaned: Cleaned, path: Path, progress: Progress | None) -> Written:
    """Write the sorted uids to keep, as DataComp's resharder reads them; a CSV has the uids of ids
    that are hashed."""
    ids = cleaned.pairs[PAIR_ID]
    n_hashed = sum(_UID.fullmatch(pair_id) is None for pair_id in d.values_of(ids))
    with replacing(path) as temporary, temporary.open("wb") as file:
        packed = b"".join(bytes.fromhex(uid_of(pair_id)) for pair_id in d.values_of(ids))
        np.save(
            file, np.sort(np.frombuffer(packed, dtype=">u8,>u8").astype(UIDS)), allow_pickle=False
        )
    second = d.beside(path, HASHED)
    second.unlink(missing_ok=True)  # of the replaced export
    if n_hashed:
        with replacing(second) as temporary:
            table = ids.to_pandas().rename(PAIR_ID).to_frame()
            table.assign(uid=table[PAIR_ID].map(uid_of)).to_csv(
                temporary, index=False, quoting=QUOTE_NONNUMERIC
            )
    hashed = (
        f"{n_hashed:,} ids are no uids (32 hex digits) and were hashed, see {second.name}: "
        "to keep the uids of a pool, audit it with --csv-id-key uid"
    )
    lost = f"{cleaned.recaptioned:,} new captions cannot be in a list of uids"
    return counted((cleaned.recaptioned, lost), (n_hashed, hashed)), ""


def uid_of(pair_id: str) -> str:
    """Return an id of 32 hex digits in lower case, and for any other id the first 128 bits of its
    SHA-256."""
    return (
        pair_id.lower()
        if _UID.fullmatch(pair_id)
        else hashlib.sha256(pair_id.encode()).hexdigest()[:32]
    )


def write_decisions(audit: Audit, path: Path, progress: Progress | None) -> Written:
    """Write the pairs with a decision, new captions or a note, with their captions and scores.

    In CSV, lists are JSON, and a single quote is put before a text that a spreadsheet would compute
    as a formula.
    """
    table = open_review(audit).table()
    for_other = table.pop(FOR_OTHER).notna()
    table = table[~for_other | (table["note"] != "")]
    table = table.merge(listed_scores(audit, table[PAIR_ID].tolist()), on=PAIR_ID, how="left")
    changes = [
        word_changes(*texts) for texts in zip(table[OWN_CAPTIONS], table[CAPTIONS], strict=True)
    ]
    table.insert(list(table).index(CAPTIONS) + 1, "word_changes", changes)
    files = {
        PAIRS: [f'"{IMAGE}"', f'"{LABEL}"'],
        SCORES: [f'{number_sql(name)} AS "{name}"' for name in scores_in(EXPORT)],
    }
    for name, columns in files.items():
        values = fetch_pairs(audit.folder / name, columns, table[PAIR_ID])
        table = table.merge(values.to_pandas(), on=PAIR_ID, how="left")
    texts = pa.list_(pa.string())
    numbers = pa.list_(pa.float64())
    kinds = {CAPTIONS: texts, OWN_CAPTIONS: texts} | dict.fromkeys(LISTED.values(), numbers)
    with replacing(path) as temporary:
        if path.suffix.lower() == ".parquet":
            arrow = pa.Table.from_pandas(table, preserve_index=False)
            fields = [field.with_type(kinds.get(field.name, field.type)) for field in arrow.schema]
            pq.write_table(arrow.cast(pa.schema(fields)), temporary)
        else:
            cells = table.assign(
                **{name: table[name].map(_as_json) for name in kinds if name in table}
            ).map(
                lambda cell: (
                    f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
                )
            )
            cells.to_csv(temporary, index=False, quoting=QUOTE_NONNUMERIC)
    note = (
        f"{for_other.sum():,} decisions on other captions, for example injected errors, are "
        "not included"
    )
    return counted((for_other.sum(), note)), ""


def _as_json(values: Any) -> str:
    return json.dumps(values, ensure_ascii=False) if isinstance(values, list) else ""


def write_html(audit: Audit, path: Path, progress: Progress | None) -> Written:
    """Write the report of an audit on one page."""
    from clipmem_core.export.report import render_report  # imports Plotly

    page = render_report(audit)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return (), ""


@dataclass(frozen=True)
class Format:
    """A format of an export."""

    title: str
    suffixes: tuple[str, ...]  # the default first; FOLDER for a folder of files
    help: str
    limits: str  # shown before the export
    write: Callable[..., Written]  # of a Cleaned or an Audit, a path and progress
    cleaned: bool = True  # whether it contains the cleaned data set
    second: str = ""  # name of a second file or folder, see `beside`

    @property
    def is_folder(self) -> bool:
        return FOLDER in self.suffixes


EXTRACTED = "Pictures in archives or tables are extracted into a folder next to it."
COPIES = "Pictures are copies: you can edit them."
FORMATS = {
    "csv": Format(
        "open_clip CSV",
        (".csv", ".tsv"),
        "The cleaned data set as open_clip reads it, one row a caption.",
        EXTRACTED,
        write_csv,
        second=d.IMAGES,
    ),
    "coco": Format(
        "COCO captions",
        (".json",),
        "The cleaned data set as COCO captions: images and annotations.",
        EXTRACTED,
        write_coco,
        second=d.IMAGES,
    ),
    "folder": Format(
        "Pictures with .txt",
        (FOLDER,),
        "The cleaned data set as a folder: pictures, each with its captions in a .txt of the "
        "same name.",
        f"{COPIES} Line breaks in captions become spaces, labels folders and ids paths: "
        "imagefolder keeps them.",
        write_texts,
    ),
    "imagefolder": Format(
        "Hugging Face imagefolder",
        (FOLDER,),
        "The cleaned data set as a folder: pictures and a metadata.jsonl, as the datasets "
        "library reads it.",
        COPIES,
        write_imagefolder,
    ),
    "wds": Format(
        "WebDataset keys",
        (".txt",),
        "The keys of the samples to keep, one a line; filter your shards by them.",
        "Keys have no captions: new captions go into a second file.",
        write_keys,
        second=NEW_CAPTIONS,
    ),
    "datacomp": Format(
        "DataComp uids",
        (".npy",),
        "The sorted uids of the pairs to keep, as DataComp's resharder reads them.",
        "Uids have no captions: new captions are omitted.",
        write_uids,
        second=HASHED,
    ),
    "html": Format(
        "HTML report",
        (".html",),
        "The audit on one page that works offline, pictures included.",
        "For reading, not for training.",
        write_html,
        cleaned=False,
    ),
    "decisions": Format(
        "Decisions",
        (".csv", ".parquet"),
        "Every decision and note with the scores of the pair, as CSV or Parquet.",
        "It includes decisions on pairs of other audits of the data set.",
        write_decisions,
        cleaned=False,
    ),
}


@dataclass(frozen=True)
class Summary:
    """The content of an export."""

    kept: int
    unreviewed: int
    removed: int
    recaptioned: int
    notes: tuple[str, ...]  # on data that is missing from the export, and how to read it
    command: str  # audits the export; empty if the format cannot be read

    @property
    def line(self) -> str:
        """The counts in one line."""
        exported = f"{self.kept:,} exported, {self.unreviewed:,} of them not reviewed"
        return f"{exported}; {self.removed:,} removed, {self.recaptioned:,} recaptioned"


def write(
    audit: Audit,
    format: str,
    path: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Export a finished audit into a file or folder; `progress` gets the number of finished
    pictures and the total."""
    if format not in FORMATS:
        raise InputError(
            f"--format {format!r} is unknown: choose "
            f"{', '.join(FORMATS)}{did_you_mean(format, FORMATS)}"
        )
    about = FORMATS[format]
    audit.check_finished()
    with _lock(path):
        _check_target(about, format, path, overwrite)
        cleaned = d.clean(audit) if about.cleaned else None
        notes, command = about.write(cleaned or audit, path, progress)
    unreviewed = int((decided(audit).codes == UNDECIDED_CODE).sum())
    if cleaned:
        notes = (*notes, *cleaned.notes)
        return Summary(
            cleaned.kept, unreviewed, cleaned.removed, cleaned.recaptioned, notes, command
        )
    counts = open_review(audit).counts()
    kept = count_rows_of(audit.folder / PAIRS) - counts[REMOVE]
    return Summary(kept, unreviewed, counts[REMOVE], counts[RECAPTION], notes, command)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let only this process export to a path. Its folder must exist, except in the data folder."""
    if path.parent.resolve().is_relative_to(data_folder().resolve()):
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.parent.is_dir():
        raise InputError(f"--out {str(path)!r}: there is no folder {path.parent}: create it")
    lock = path.with_name(f".{path.name}.clipmem-lock")
    try:
        with FileLock(lock, timeout=0):
            try:
                yield
            finally:
                lock.unlink()
    except Timeout:
        raise InputError(
            f"another export writes {path}: wait for it, or choose another --out"
        ) from None


def _check_target(about: Format, format: str, path: Path, overwrite: bool) -> None:
    if not about.is_folder and path.suffix.lower() not in about.suffixes:
        raise InputError(
            f"--out {str(path)!r} must end in {' or '.join(about.suffixes)} for --format {format}"
        )
    if path.exists() and path.is_dir() != about.is_folder:
        actual, expected = ("folder", "file") if path.is_dir() else ("file", "folder")
        raise InputError(f"--out {str(path)!r} is a {actual}, and the format needs a {expected}")
    if path.is_dir() and not any(path.iterdir()):
        return
    for target in (path, d.beside(path, about.second) if about.second else path):
        if target.exists() and not overwrite:
            raise InputError(
                f"{target} exists already: choose another --out, or replace it with --overwrite"
            )
