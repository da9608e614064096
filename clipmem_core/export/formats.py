"""The formats of an export: a writer for each, and their registry `FORMATS`."""

import json
import posixpath
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from csv import QUOTE_NONNUMERIC  # a lone \r must be quoted too
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from clipmem_core.auditing.folder.store import PAIRS, SCORES, Audit, write_json
from clipmem_core.config import data_folder
from clipmem_core.dataset.containers import scan_tar, split_reference
from clipmem_core.errors.certificate import CONFIDENCE
from clipmem_core.export.cleaned import (
    Cleaned,
    PictureProgress,
    clean,
    count_words,
    counted,
    images_folder,
    picture_files,
    picture_folder,
)
from clipmem_core.review.bulk_edits import word_changes
from clipmem_core.review.cards import OWN_CAPTIONS, listed_scores
from clipmem_core.review.decisions import CODES, KEEP, count_decisions, decided, open_review
from clipmem_core.review.progress_and_repair import read_effect, review_progress
from clipmem_core.review.queries import fetch_numbered, fetch_pairs, number_sql
from clipmem_core.scores.registry import EXPORT_SCORES
from clipmem_core.utils.columns import CAPTIONS, HEIGHT, IMAGE, LABEL, PAIR_ID, WIDTH
from clipmem_core.utils.io import FORMULA, InputError, replacing, write_frame

# Notes on data the format cannot hold, and the command that audits the export, if any. The first
# note of a format without the cleaned data set is the counts.
Written = tuple[tuple[str, ...], str]

CERTIFICATE = "certificate.json"  # in the folder of an export
METHOD = (
    "confidence sequence by betting on random checks without replacement (Waudby-Smith & Ramdas, "
    "NeurIPS 2020); pairs that a person kept count as right"
)
_UID = re.compile("[0-9a-fA-F]{32}")
_BREAK = re.compile(r"\s*[\r\n]+\s*")


Writer = Callable[..., Written]  # of a Cleaned or an Audit, a path and progress


@dataclass(frozen=True)
class Format:
    """A format of an export."""

    title: str
    suffixes: Sequence[str]  # the default first; an empty one for a folder of files
    limits: str  # shown before the export
    write: Writer
    cleaned: bool = True  # whether it contains the cleaned data set
    extracts: bool = False  # whether it extracts pictures into a folder next to it

    @property
    def help(self) -> str:
        """The first paragraph of the writer's docstring."""
        return " ".join((self.write.__doc__ or "").partition("\n\n")[0].split())

    @property
    def is_folder(self) -> bool:
        return "" in self.suffixes


FORMATS: dict[str, Format] = {}
EXTRACTED = "Pictures in archives or tables are extracted into a folder next to it."
COPIES = "Pictures are copies: you can edit them."


def export_format(
    name: str, title: str, limits: str, *suffixes: str, **style: bool
) -> Callable[[Writer], Writer]:
    """Register a writer as a format; pages show the first paragraph of its docstring."""

    def register(write: Writer) -> Writer:
        FORMATS[name] = Format(title, suffixes, limits, write, **style)
        return write

    return register


@export_format("csv", "open_clip CSV", EXTRACTED, ".csv", extracts=True)
def write_open_clip(cleaned: Cleaned, path: Path, progress: PictureProgress) -> Written:
    """The cleaned data set as open_clip reads it, one row a caption."""
    # filepath and title are the columns that open_clip reads by default
    table = cleaned.pairs[[CAPTIONS, PAIR_ID, LABEL]].rename(columns={CAPTIONS: "title"})
    with (
        replacing(path) as temporary,
        picture_files(cleaned, path, progress) as (folder, names, notes),
    ):
        table.insert(0, "filepath", [f"{folder}/{name}" for name in names])
        rows = table.explode("title")
        rows.to_csv(temporary, index=False, quoting=QUOTE_NONNUMERIC)
    reads = f"open_clip reads it with --train-data {shlex.quote(str(path))} --csv-separator ,"
    formulas = int(rows["title"].str.startswith(FORMULA).sum())
    note = (
        f"{count_words(formulas, 'caption')} like a formula, written as in the data set: do not "
        "open the file in a spreadsheet, which would compute them."
    )
    return (*notes, *counted((formulas, note)), reads), _audit_command(cleaned, path, folder)


@export_format("coco", "COCO captions", EXTRACTED, ".json", extracts=True)
def write_coco(cleaned: Cleaned, path: Path, progress: PictureProgress) -> Written:
    """The cleaned data set as COCO captions: images and annotations."""
    images = cleaned.pairs[[WIDTH, HEIGHT, PAIR_ID, LABEL]].reset_index(drop=True)
    images.insert(0, "id", images.index + 1)
    captions = pd.DataFrame({"image_id": images["id"], "caption": list(cleaned.pairs[CAPTIONS])})
    captions = captions.explode("caption", ignore_index=True)
    captions.insert(0, "id", captions.index + 1)
    with (
        replacing(path) as temporary,
        picture_files(cleaned, path, progress) as (folder, names, notes),
        temporary.open("w", encoding="utf-8") as file,
    ):
        images.insert(1, "file_name", names)
        content = {
            "info": {"description": f"audit {cleaned.audit.name}, cleaned"},
            "images": images.to_dict("records"),
            "annotations": captions.to_dict("records"),
        }
        json.dump(content, file, ensure_ascii=False)
    return notes, _audit_command(cleaned, path, folder)


def _audit_command(cleaned: Cleaned, path: Path, images: Path | None = None) -> str:
    """Return the command that audits an export under a new name, with the audit's preset and
    protocol."""
    config = cleaned.audit.record.config
    words = ["audit", str(path), "--name", f"{cleaned.audit.name}-clean"]
    words += ["--image-folder", str(images)] if images else []
    words += ["--preset", config.preset, "--protocol", config.protocol]
    return f"python -m clipmem_core {shlex.join(words)}"


@export_format(
    "folder",
    "Pictures with .txt",
    f"{COPIES} Line breaks in captions become spaces, and ids are paths; labels are "
    "omitted: imagefolder keeps them.",
    "",
)
def write_texts(cleaned: Cleaned, path: Path, progress: PictureProgress) -> Written:
    """The cleaned data set as a folder: pictures, each with its captions in a .txt of the same
    name."""
    with picture_folder(cleaned, path, progress) as (folder, names):
        for name, captions in zip(names, cleaned.pairs[CAPTIONS], strict=True):
            lines = [_BREAK.sub(" ", caption) for caption in captions]
            _write_lines((folder / name).with_suffix(".txt"), lines)
    return (), _audit_command(cleaned, path)


@export_format("imagefolder", "Hugging Face imagefolder", COPIES, "")
def write_imagefolder(cleaned: Cleaned, path: Path, progress: PictureProgress) -> Written:
    """The cleaned data set as a folder: pictures and a metadata.jsonl, as the datasets library
    reads it."""
    table = cleaned.pairs[[CAPTIONS, PAIR_ID, LABEL]].rename(columns={CAPTIONS: "text"})
    if table["text"].map(len).max() == 1:
        table["text"] = table["text"].str[0]
    if table[LABEL].isna().all():
        table = table.drop(columns=LABEL)
    with picture_folder(cleaned, path, progress) as (folder, names):
        table.insert(0, "file_name", names)
        table.to_json(folder / "metadata.jsonl", orient="records", lines=True, force_ascii=False)
    reads = f"datasets reads it with load_dataset('imagefolder', data_dir={str(path)!r})"
    return (reads,), _audit_command(cleaned, path)


@export_format("wds", "WebDataset keys", "Keys have no captions: new captions are omitted.", ".txt")
def write_keys(cleaned: Cleaned, path: Path, progress: PictureProgress) -> Written:
    """The keys of the samples to keep, one a line; filter your shards by them."""
    keys = pd.Series(_sample_keys(cleaned.root, cleaned.pairs[IMAGE]))
    removed = pd.Series(_sample_keys(cleaned.root, cleaned.removed[IMAGE]))
    shared = int(removed.isin(keys).sum())
    with replacing(path) as temporary:
        _write_lines(temporary, keys.unique())
    note = (
        f"{count_words(shared, 'removed sample')} still in the list, as another sample has the "
        "same key: export csv to remove all."
    )
    return (*_lost_captions(cleaned), *counted((shared, note))), ""


def _lost_captions(cleaned: Cleaned) -> tuple[str, ...]:
    """Return the note on new captions that a list cannot hold, if there are any."""
    count = cleaned.recaptioned
    return counted((count, f"{count_words(count, 'pair')} with new captions: a list has none."))


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _sample_keys(root: Path, images: Iterable[str]) -> list[str]:
    """Return the WebDataset key of each picture; outside of a tar, its path without the suffix."""
    keys = []
    scan = lru_cache(maxsize=4)(scan_tar)
    for image in images:
        path, part = split_reference(root, image)
        if isinstance(part, str):
            folder, slash, name = scan(path).original_names.get(part, part).rpartition("/")
            # as in WebDataset: up to the first dot
            keys.append(folder + slash + name.partition(".")[0])
        else:
            keys.append(posixpath.splitext(image)[0] if part is None else image)
    return keys


@export_format(
    "datacomp", "DataComp uids", "Uids have no captions: new captions are omitted.", ".npy"
)
def write_uids(cleaned: Cleaned, path: Path, progress: PictureProgress) -> Written:
    """The sorted uids of the pairs to keep, as DataComp's resharder reads them."""
    others = [each for each in cleaned.pairs[PAIR_ID] if not _UID.fullmatch(each)]
    if others:
        raise InputError(
            f"{len(others):,} ids are not a uid of 32 hex digits, first {others[0]!r}: audit the "
            "pool with --csv-id-key uid"
        )
    # 128 bits, the high half first
    uids = np.frombuffer(bytes.fromhex("".join(cleaned.pairs[PAIR_ID])), dtype=">u8,>u8")
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.sort(uids.astype("u8,u8")), allow_pickle=False)
    return _lost_captions(cleaned), ""


@export_format(
    "decisions",
    "Decisions",
    "It includes decisions on pairs of other audits of the data set.",
    ".csv",
    ".parquet",
    cleaned=False,
)
def write_decisions(audit: Audit, path: Path, progress: PictureProgress) -> Written:
    """Every decision and note with the scores of the pair.

    In CSV, lists are JSON, and a single quote is put before a text that a spreadsheet would compute
    as a formula.
    """
    table = open_review(audit).table()
    table = table.merge(listed_scores(audit, table[PAIR_ID].tolist()), on=PAIR_ID, how="left")
    captions = zip(table[OWN_CAPTIONS], table[CAPTIONS], strict=True)
    changes = [word_changes(old, new) for old, new in captions]
    table.insert(list(table).index(CAPTIONS) + 1, "word_changes", changes)
    scores = [f'{number_sql(name)} AS "{name}"' for name in EXPORT_SCORES]
    for name, columns in ((PAIRS, [IMAGE, LABEL]), (SCORES, scores)):
        values = fetch_pairs(audit.folder / name, columns, table[PAIR_ID])
        table = table.merge(values.to_pandas(), on=PAIR_ID, how="left")
    write_frame(table, path)
    line = f"{count_words(len(table), 'pair')} with a decision, new captions or a note."
    return (line,), ""


@export_format("html", "HTML report", "For reading, not for training.", ".html", cleaned=False)
def write_html(audit: Audit, path: Path, progress: PictureProgress) -> Written:
    """The audit on one page that works offline, pictures included."""
    from clipmem_core.export.report import render_report  # imports Plotly

    page = render_report(audit)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return (f"Report of {count_words(audit.record.pairs, 'pair')}.",), ""


class Summary(NamedTuple):
    """The content of an export."""

    line: str  # the counts
    notes: tuple[str, ...]  # on data that is missing from the export, and how to read it
    command: str  # audits the export; empty if the format cannot be read


def export_audit(
    audit: Audit,
    format: str,
    path: Path,
    *,
    overwrite: bool = False,
    progress: PictureProgress = lambda done, total: None,
) -> Summary:
    """Export a finished audit into a file or folder; `progress` gets the number of finished
    pictures and the total."""
    if format not in FORMATS:
        raise InputError(f"--format {format!r} is unknown: choose {', '.join(FORMATS)}")
    about = FORMATS[format]
    audit.check_finished()
    _check_target(about, format, path, overwrite)
    # decisions are read once
    cleaned = clean(audit) if about.cleaned else None
    notes, command = about.write(cleaned or audit, path, progress)
    _write_certificate(audit, _certificate_of(about, path))
    if cleaned:
        notes = (cleaned.line, *notes, *cleaned.notes)
    return Summary(notes[0], notes[1:], command)


def _certificate_of(about: Format, path: Path) -> Path:
    return (path if about.is_folder else path.parent) / CERTIFICATE


def _write_certificate(audit: Audit, path: Path) -> None:
    """Write the bound on the kept pairs with a wrong caption, and the random checks behind it."""
    certificate = review_progress(audit).certificate
    ids = fetch_numbered(audit.folder / PAIRS, [PAIR_ID], certificate.checks)
    codes = decided(audit).codes
    content = {
        "method": METHOD,
        "audit": audit.name,
        "data_set": audit.record.dataset_fingerprint,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "statement": certificate.sentence or "No random checks yet: no bound.",
        "confidence": CONFIDENCE,
        "kept": certificate.kept,
        "most_wrong": certificate.most if certificate.checks else None,
        "share": certificate.share if certificate.checks else None,
        "decisions": count_decisions(audit),
        "effect_on_training": read_effect(audit),
        "checks": len(certificate.checks),
        "wrong": certificate.wrong,
        "draws": [
            {"pair_id": ids[row][0], "wrong": bool(codes[row] != CODES[KEEP])}
            for row in certificate.checks
        ],
    }
    write_json(path, content)


def _check_target(about: Format, format: str, path: Path, overwrite: bool) -> None:
    """Check the suffix of a path, and that it is free or may be replaced. Its folder must exist,
    except in the data folder."""
    if path.parent.resolve().is_relative_to(data_folder().resolve()):
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.parent.is_dir():
        raise InputError(f"--out {str(path)!r}: there is no folder {path.parent}: create it")
    if not about.is_folder and path.suffix.lower() not in about.suffixes:
        raise InputError(
            f"--out {str(path)!r} must end in {' or '.join(about.suffixes)} for --format {format}"
        )
    if path.exists() and path.is_dir() != about.is_folder:
        actual, expected = ("folder", "file") if path.is_dir() else ("file", "folder")
        raise InputError(f"--out {str(path)!r} is a {actual}, and the format needs a {expected}")
    certificate = _certificate_of(about, path)
    if certificate.is_file() and METHOD not in certificate.read_text("utf-8", "replace"):
        raise InputError(f"{certificate} is not of an export: choose another folder for --out")
    if overwrite or (path.is_dir() and not any(path.iterdir())):
        return
    for target in (path, images_folder(path)) if about.extracts else (path,):
        if target.exists():
            raise InputError(
                f"{target} exists already: choose another --out, or replace it with --overwrite"
            )
