"""The exports of an audit that are kept in the data folder: made here or by a detached process, listed, deleted.

<data>/exports/<audit>/<kind>/     the file, what belongs beside it, and export.json, which says what it holds
<data>/jobs/.exports/<audit>/<kind>/   the process that makes one that takes time
"""

import re
import shlex
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from typing_extensions import TypedDict

from clipmem_core.audits.jobs import PROGRAM, Task, jobs_folder
from clipmem_core.audits.lifecycle import folder_bytes
from clipmem_core.audits.store import Audit, write_json
from clipmem_core.config import InputError, data_folder
from clipmem_core.exports import FORMATS, Format, Summary, write
from clipmem_core.exports.cleaned import Progress
from clipmem_core.files import read_json
from clipmem_core.review.decisions import open_review
from clipmem_core.review.tables import Stamp, count_pairs_of, stamp

SUMMARY = "export.json"
LARGE = 20_000  # pairs: more take longer than a page may
SLOW = ("html",)  # formats that take long whatever the size
LINES = 100  # that a process says of how far it is
_PROGRESS = re.compile(r"([\d,]+) of ([\d,]+) pictures")


class SummaryFile(TypedDict):
    """The fields of export.json."""

    stamp: Stamp
    position: int
    summary: Summary


@dataclass(frozen=True)
class Kind:
    """A format and the ending of its file."""

    format: str
    suffix: str

    @property
    def name(self) -> str:
        """What its folder and its address are called: the format, and the ending where that is not the usual one."""
        return self.format if self.suffix == self.about.suffix else f"{self.format}-{self.suffix[1:]}"

    @property
    def about(self) -> Format:
        """What the format is called and is for."""
        return FORMATS[self.format]


KINDS = {kind.name: kind for name, about in FORMATS.items() for kind in (Kind(name, end) for end in about.suffixes)}


@dataclass(frozen=True)
class Kept:
    """An export that is in the data folder. `summary` is None where it is not known what it holds."""

    kind: Kind
    path: Path
    file_bytes: int
    beside_bytes: int  # of what belongs to it: pictures, new captions
    time: float  # when it was made, in seconds since the epoch
    summary: Summary | None
    position: int  # of the log of decisions, when it was made


def export_path(audit: Audit, kind: Kind) -> Path:
    """Return the file of an export."""
    return data_folder() / "exports" / audit.name / kind.name / f"{audit.name}-{kind.format}{kind.suffix}"


def typed_command(audit: Audit, kind: Kind) -> str:
    """Return what to type in a terminal to make the same file."""
    words = ["export", audit.name, "--format", kind.format, "--out", str(export_path(audit, kind)), "--overwrite"]
    return f"python -m clipmem_core {shlex.join(words)}"


def reading_code(kept: Kept) -> tuple[str, str]:
    """Return the code that reads an export back, and its language; empty where there is nothing to read it with."""
    path = str(kept.path)
    if kept.summary is not None and kept.summary.command:
        return kept.summary.command, "bash"
    lines = {
        ".parquet": f"pandas.read_parquet({path!r})",
        ".csv": f"pandas.read_csv({path!r})" if kept.kind.format == "decisions" else "",
        ".npy": f"numpy.load({path!r})",
        ".txt": f'keys = {{line.rstrip("\\n") for line in open({path!r}, encoding="utf-8")}}\n'
        'webdataset.WebDataset(SHARDS).select(lambda sample: sample["__key__"] in keys)',
    }
    return lines.get(kept.kind.suffix, ""), "python"


def takes_time(audit: Audit, kind: Kind) -> bool:
    """Tell whether an export is to be made by a process of its own."""
    return kind.format in SLOW or count_pairs_of(audit) > LARGE


def make(audit: Audit, kind: Kind, *, progress: Progress | None = None) -> Summary:
    """Write an export, in place of an older one.

    Raises:
        InputError: it cannot be made, or not be written there.
    """
    path = export_path(audit, kind)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _held(path):
            position = open_review(audit).position()
            summary = write(audit, kind.format, path, overwrite=True, progress=progress)
            known = {"stamp": stamp(path), "position": position, "summary": asdict(summary)}
            write_json(path.parent / SUMMARY, known)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    return summary


def kept_exports(audit: Audit) -> list[Kept]:
    """Return the exports of an audit that are in the data folder, in the order of the formats."""
    found = [(kind, export_path(audit, kind)) for kind in KINDS.values()]
    return [_kept(kind, path) for kind, path in found if (path.is_dir() if kind.about.is_folder else path.is_file())]


def delete(audit: Audit, kind: Kind) -> None:
    """Delete an export and all that belongs beside it.

    Raises:
        InputError: it is being made, or cannot be deleted.
    """
    path, job = export_path(audit, kind), export_task(audit, kind).find()
    if job is not None and job.running:
        raise InputError(f"{path} is being made: cancel that first")
    try:
        with _held(path):
            shutil.rmtree(path.parent)
    except FileNotFoundError:
        return  # somebody else was faster
    except OSError as error:
        raise InputError(f"{path.parent} cannot be deleted: {error.strerror or error}") from error


def export_task(audit: Audit, kind: Kind) -> Task:
    """Return the task of making an export."""
    return Task(jobs_folder() / ".exports" / audit.name / kind.name, [*PROGRAM, "keep", audit.name, kind.name])


def share_done(line: str) -> float | None:
    """Return how far an export is, from 0 to 1, by the last line of its process; None where that does not say.

    Example:
        >>> share_done("1,500 of 6,000 pictures")
        0.25
    """
    found = _PROGRESS.fullmatch(line)
    done, total = (int(number.replace(",", "")) for number in found.groups()) if found else (0, 0)
    return min(1.0, done / total) if total else None


def _held(path: Path) -> FileLock:
    """Return the lock of an export: two pages may ask for the same one at once."""
    return FileLock(path.parent.parent / f".{path.parent.name}.lock")


def _kept(kind: Kind, path: Path) -> Kept:
    status = path.stat()
    known = _known(path)
    summary = known["summary"] if known else None
    noted = path.parent / SUMMARY
    own = folder_bytes(path) if kind.about.is_folder else status.st_size
    beside = folder_bytes(path.parent) - own - (noted.stat().st_size if noted.is_file() else 0)
    return Kept(kind, path, own, beside, status.st_mtime, summary, known["position"] if known else 0)


def _known(path: Path) -> dict[str, Any]:
    """Return what was noted of an export; nothing where another was written to its place since."""
    try:
        known = read_json(path.parent / SUMMARY, SummaryFile)
        return known if tuple(known["stamp"]) == stamp(path) else {}
    except InputError:
        return {}


def say_pictures(done: int, total: int) -> None:
    """Print now and then how many pictures are done."""
    if done == total or done % max(1, total // LINES) == 0:
        print(f"{done:,} of {total:,} pictures", flush=True)
