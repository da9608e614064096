"""The formats of an export, each with what writes it, and an export as a whole: checks, file, what it holds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clipmem_core.audits.store import PAIRS, Audit
from clipmem_core.config import InputError
from clipmem_core.exports import writers
from clipmem_core.exports.cleaned import clean
from clipmem_core.exports.pictures import Progress, images_folder
from clipmem_core.review.decisions import RECAPTION, REMOVE, open_review
from clipmem_core.review.tables import count_rows


@dataclass(frozen=True)
class Format:
    """What a format is called, how its files end, and what it is for."""

    title: str
    suffixes: tuple[str, ...]
    sentence: str
    write_cleaned: Callable[..., writers.Written] | None = None  # None: what it holds is no cleaned data set
    beside: Callable[[Path], Path] | None = None  # what may be written beside the file

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


FORMATS = {
    "csv": Format(
        "open_clip CSV",
        (".csv", ".tsv"),
        "The cleaned data set, a caption a row, as open_clip trains from.",
        writers.write_csv,
        images_folder,
    ),
    "coco": Format(
        "COCO captions",
        (".json",),
        "The cleaned data set as COCO captions: images and annotations.",
        writers.write_coco,
        images_folder,
    ),
    "wds": Format(
        "WebDataset keys",
        (".txt",),
        "The keys of the samples to keep, one a line; filter your shards by them.",
        writers.write_keys,
        writers.captions_file,
    ),
    "datacomp": Format(
        "DataComp uids",
        (".npy",),
        "The sorted uids of the pairs to keep, as DataComp's resharder takes them.",
        writers.write_uids,
        writers.uids_file,
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
            notes = writers.write_decisions(audit, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    counts = open_review(audit).counts()
    kept = count_rows(audit.folder / PAIRS) - counts[REMOVE]
    return Summary(kept, counts[REMOVE], counts[RECAPTION], notes, "")


def _check(audit: Audit, format: str, path: Path, overwrite: bool) -> None:
    if format not in FORMATS:
        raise InputError(f"--format {format!r} is unknown: choose one of {', '.join(FORMATS)}")
    suffixes = FORMATS[format].suffixes
    if path.suffix.lower() not in suffixes:
        raise InputError(f"--out {str(path)!r} must end in {' or '.join(suffixes)} for --format {format}")
    if not audit.finished:
        raise InputError(f"audit {audit.name!r} is not finished: run it again, it goes on where it stopped")
    if path.is_dir():
        raise InputError(f"--out {str(path)!r} is a folder: give the file to write")
    beside = FORMATS[format].beside
    for there in (path, beside(path) if beside else path):
        if there.exists() and not overwrite:
            raise InputError(f"{there} is there already: take another --out, or replace it with --overwrite")
