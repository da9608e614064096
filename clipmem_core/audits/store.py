"""The folder of an audit: where its files are, how they are written, and when it counts as finished."""

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from clipmem_core.atomic import replacing
from clipmem_core.audits.record import VERSION, ManifestFile, MemberRecord, Record, VerdictFile, check_inner, check_name
from clipmem_core.columns import CAPTIONS
from clipmem_core.config import InputError, data_folder
from clipmem_core.files import DELETE, read_json, reading
from clipmem_core.shortage import shortage

CONFIG = "config.json"
PAIRS = "pairs.parquet"
QUARANTINE = "quarantine.parquet"
MEMBERSHIP = "membership.parquet"
SCORES = "scores.parquet"
CAPTION_TABLE = "captions.parquet"  # optional: one row a caption
CHECK_TABLE = "checks.parquet"  # optional, in no manifest: it is made again where it is missing or of older checks
UTILITY = "utility.parquet"
VERDICT = "verdict.json"
MANIFEST = "manifest.json"
MEMBERS = "members"
SNAPSHOTS = "snapshots"  # of a member: its embeddings after some epochs, a folder each
IMAGE_EMBEDDINGS = "image.npy"
TEXT_EMBEDDINGS = "text.npy"  # written last: a member that has it is complete
MEMBER_UTILITY = "utility.json"
SECOND_TABLE = "second.parquet"  # optional: what a second round of training leaves out
SECOND = "second"  # of a member that is trained a second time: a folder
SECOND_FIT = "log_probability_out.npy"  # in there, written last
CAPTION_SCORES = "captions.npy"  # of a member, where pairs have several captions
MEMBER_ANEW = f"delete it and {TEXT_EMBEDDINGS} beside it, and run the audit again"
ROW_GROUP = 8192  # rows of a Parquet file that are read together: a page of pairs touches few of a million
PAIR_BLOCK = 65_536  # pairs that are Python objects at a time, where there may be millions
PREPARED = ".prepared.npz"  # which stored picture each pair is, and its look-alikes; can be made again


def write_json(path: Path, values: Any) -> None:
    """Write JSON atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, sort_keys=False, allow_nan=False) + "\n", encoding="utf-8")


def write_table(path: Path, table: pd.DataFrame, *, checksums: bool = False) -> None:
    """Write a Parquet table atomically; a column without a single value is one of text.

    With `checksums` its pages carry some: that is for tables that no manifest lists, which `whole_table` tells of.
    """
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    fields = [field.with_type(pa.string()) if pa.types.is_null(field.type) else field for field in arrow.schema]
    # Lists that are Arrow's are read again as Python's are
    noted = {
        name: value.replace(b'"list<item: string>[pyarrow]"', b'"object"')
        for name, value in arrow.schema.metadata.items()
    }
    with replacing(path) as temporary:
        whole = arrow.cast(pa.schema(fields, metadata=noted))
        pq.write_table(whole, temporary, row_group_size=ROW_GROUP, write_page_checksum=checksums)


def whole_table(path: Path) -> bool:
    """Tell whether a Parquet table is there and can be read, with pages that are what was written."""
    try:
        return pq.read_table(path, page_checksum_verification=True) is not None
    except (OSError, ValueError, pa.ArrowException) as error:
        if shortage(error):
            raise
        return False


def write_prepared(folder: Path, *, cache_rows: np.ndarray, clusters: np.ndarray, pixels: str = "") -> None:
    """Write, atomically, which stored picture each pair is and whom it looks like, int64 [n_pairs] each.

    `pixels` is the store they are in, in the data folder, where that is no longer the one that config.json names.
    """
    with replacing(folder / PREPARED) as temporary, temporary.open("wb") as file:
        np.savez(file, cache_rows=cache_rows, clusters=clusters, pixels=pixels)


def read_table(path: Path, *, columns: Sequence[str] | None = None, mend: str = DELETE) -> pd.DataFrame:
    """Read a Parquet table; a missing or broken file is an error that names it."""
    with reading(path, mend=mend):
        return pd.read_parquet(path, columns=None if columns is None else list(columns))


def caption_counts(audit: "Audit") -> np.ndarray:
    """Return how many captions each pair has, int32 [n_pairs], without a Python object for any."""
    counts = (pc.list_value_length(batch[CAPTIONS]) for batch in pair_blocks(audit, [CAPTIONS]))
    return np.concatenate([own.to_numpy(zero_copy_only=False) for own in counts])


def pair_blocks(audit: "Audit", columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield columns of an audit's pairs, some rows at a time; a missing or broken file is an error that names it."""
    path = audit.folder / PAIRS
    with reading(path, mend=DELETE), pq.ParquetFile(path) as file:
        yield from file.iter_batches(PAIR_BLOCK, columns=list(columns))


def read_array(path: Path, *, shared: bool = False) -> np.ndarray:
    """Read an array that a member left, or map it; a missing or broken file is an error that names it."""
    with reading(path, mend=MEMBER_ANEW):
        return np.load(path, mmap_mode="r" if shared else None)


def read_embeddings(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Map μ_I and μ_T of every pair from a member's folder, or from one of its snapshots, float32 [n_pairs, dim]."""
    image, text = (read_array(folder / name, shared=True) for name in (IMAGE_EMBEDDINGS, TEXT_EMBEDDINGS))
    return image, text


def write_blocks(path: Path, blocks: Iterable[np.ndarray], rows: int) -> None:
    """Write blocks [n, dim] as one array, float32 [rows, dim], atomically; one block is held at a time."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        for block in blocks:
            if not file.tell():
                header = {"descr": "<f4", "fortran_order": False, "shape": (rows, block.shape[1])}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(block, dtype="<f4").data)


def read_utility(member: Path) -> dict[str, float]:
    """Return the metrics of a member's utility."""
    return read_json(member / MEMBER_UTILITY, dict[str, float], mend=MEMBER_ANEW)


class Prepared(NamedTuple):
    """What an audit's members take from the data set beside its tables."""

    cache_rows: np.ndarray  # which stored picture each pair is, int64 [n_pairs]
    clusters: np.ndarray  # whom each pair looks like, int64 [n_pairs]
    pixels: str  # where the stored pictures are in the data folder; empty where config.json says so


def read_prepared(folder: Path) -> Prepared:
    """Return what `write_prepared` wrote; a missing or broken file is an error that names it."""
    mend = "delete it and run the audit again with as many members as before, which makes it anew"
    # Opened here, since numpy leaves a broken archive open.
    with reading(folder / PREPARED, mend=mend), (folder / PREPARED).open("rb") as file, np.load(file) as stored:
        pixels = str(stored["pixels"])
        return Prepared(stored["cache_rows"], stored["clusters"], check_inner(pixels) if pixels else "")


@dataclass(frozen=True)
class Named:
    """A folder that goes by its name: an audit's, a study's, a benchmark's."""

    folder: Path

    KIND: ClassVar[str]
    PARENT: ClassVar[str]  # the folder of all of its kind, in the data folder
    FIRST: ClassVar[str]  # the file that makes a folder one of its kind

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def begun(self) -> bool:
        """Tell whether it got as far as writing down what it is."""
        return (self.folder / self.FIRST).is_file()

    @classmethod
    def parent(cls) -> Path:
        """Return the folder that holds every one of its kind."""
        return data_folder() / cls.PARENT

    @classmethod
    def of(cls, name: str) -> Self:
        """Return the one of a name, whether it is there or not.

        Raises:
            InputError: the name cannot be one.
        """
        return cls(cls.parent() / check_name(name))

    @classmethod
    def open(cls, name: str) -> Self:
        """Return the one of a name.

        Raises:
            InputError: there is none; the message lists those there are.
        """
        found = cls.of(name)
        if not found.begun:
            known = ", ".join(one.name for one in cls.every()) or "none yet"
            raise InputError(f"there is no {cls.KIND} {name!r} in {cls.parent()} (there is: {known})")
        return found

    @classmethod
    def every(cls) -> list[Self]:
        """Return every one, finished or not, by name; hidden folders are what a deletion left behind."""
        return [cls(path.parent) for path in sorted(cls.parent().glob(f"[!.]*/{cls.FIRST}"))]


@dataclass(frozen=True)
class Audit(Named):
    """One audit's folder. Record and tables are read when asked for; nothing is kept."""

    KIND, PARENT, FIRST = "audit", "audits", CONFIG

    @classmethod
    def every(cls) -> list[Self]:
        """Return every audit, finished or not, the newest first."""
        return sorted(super().every(), key=lambda audit: audit._began, reverse=True)

    @property
    def _began(self) -> float:
        try:
            return (self.folder / CONFIG).stat().st_mtime
        except FileNotFoundError:  # deleted or renamed a moment ago
            return 0.0

    @property
    def finished(self) -> bool:
        return (self.folder / MANIFEST).is_file()

    @property
    def record(self) -> Record:
        """What the audit is, as config.json says now; to be asked for once where more than one field is needed."""
        self.check_version()
        return read_json(self.folder / CONFIG, Record)

    def check_version(self) -> None:
        """Refuse an audit that another version has made.

        Raises:
            InputError: it is of another version, or its config.json is broken.
        """
        path = self.folder / CONFIG
        version = read_json(path, dict[str, Any]).get("version", 0)
        if version != VERSION:
            raise InputError(f"{path} was made by version {str(version)[:20]!r}: delete the audit and run it again")

    @property
    def pairs(self) -> pd.DataFrame:
        return read_table(self.folder / PAIRS)

    @property
    def quarantine(self) -> pd.DataFrame:
        return read_table(self.folder / QUARANTINE)

    @property
    def membership(self) -> pd.DataFrame:
        return read_table(self.folder / MEMBERSHIP)

    @property
    def scores(self) -> pd.DataFrame:
        return read_table(self.folder / SCORES)

    @property
    def utility(self) -> pd.DataFrame:
        return read_table(self.folder / UTILITY)

    @property
    def verdict(self) -> dict[str, Any]:
        return read_json(self.folder / VERDICT, VerdictFile, mend="delete it and run the audit again")

    @property
    def manifest(self) -> ManifestFile:
        """What manifest.json says of each file; nothing of an audit that is not finished."""
        if not self.finished:
            return {"version": VERSION, "files": {}, "sizes": {}}
        return read_json(self.folder / MANIFEST, ManifestFile, mend="delete it and run the audit again")

    @property
    def files(self) -> dict[str, str]:
        """The SHA-256 of each file of a finished audit."""
        return self.manifest["files"]

    def member(self, name: str) -> Path:
        """Return a member's folder.

        Raises:
            InputError: it would lie outside the audit's.
        """
        return inside(self.folder, f"{MEMBERS}/{check_name(name)}")

    def member_record(self, name: str) -> MemberRecord:
        """Return what a member is, as its config.json says."""
        return read_json(self.member(name) / CONFIG, MemberRecord)


audits_folder, open_audit, list_audits = Audit.parent, Audit.open, Audit.every


@contextmanager
def acquire_lock(folder: Path, *, what: str) -> Iterator[None]:
    """Let this process alone work in a folder: lock `.<name>.lock` beside it, and note the holder in `.<name>.holder`.

    Args:
        folder: the folder of an audit, a study or a benchmark.
        what: which of them, for messages.

    Raises:
        InputError: another process holds the lock, or the folder's parent cannot be written.
    """
    holder = folder.with_name(f".{folder.name}.holder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(_lock_file(folder)).acquire(timeout=0.5)  # `is_locked` holds it for a moment
        holder.write_text(f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M')}")
    except Timeout:
        by = holder.read_text() if holder.is_file() else "just started"
        raise InputError(
            f"{what} {folder.name!r} is being run by another process ({by}): wait for it, or stop it"
        ) from None
    except OSError as error:
        raise InputError(f"{folder.parent} cannot be written ({error.strerror}): set CLIPMEM_DATA") from None
    with lock:
        yield


def is_locked(folder: Path) -> bool:
    """Tell whether a process holds the lock of a folder."""
    if not _lock_file(folder).is_file():
        return False
    try:
        with FileLock(_lock_file(folder)).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def is_name(name: str) -> bool:
    """Tell whether an audit can have a name."""
    try:
        return bool(check_name(name))
    except InputError:
        return False


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_sha256(audit: "Audit", path: Path) -> str:
    """Return the SHA-256 of one of an audit's files, which its manifest has.

    Raises:
        InputError: the file is missing.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing: run the audit again, it goes on where it stopped")
    return audit.files.get(path.relative_to(audit.folder).as_posix()) or file_sha256(path)


def inside(folder: Path, name: str) -> Path:
    """Return a path inside a folder.

    Raises:
        InputError: it leads out of it, as it is written or by a link.
    """
    path = folder / check_inner(name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path} is a link that leads out of {folder}: put the file itself there")
    return path


def write_manifest(folder: Path) -> None:
    """List every file with its hash and size. Written last: its existence means that the audit is complete."""
    unlisted = (MANIFEST, CHECK_TABLE)
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path.name not in unlisted and path.suffix != ".lock"
    }
    hashes = {name: file_sha256(path) for name, path in files.items()}
    sizes = {name: path.stat().st_size for name, path in files.items()}
    write_json(folder / MANIFEST, {"version": VERSION, "files": hashes, "sizes": sizes})


def broken_files(folder: Path) -> list[str]:
    """Return the files of a finished audit that are missing or of another size than its manifest says.

    Raises:
        InputError: the manifest is broken, or names a file outside the folder.
    """
    sizes = Audit(folder).manifest["sizes"]
    paths = {name: inside(folder, name) for name in sizes}
    return [name for name, path in paths.items() if not path.is_file() or path.stat().st_size != sizes[name]]


def reopen(audit: Audit, broken: Sequence[str]) -> None:
    """Make an audit unfinished: members with a broken file are trained again, and all that follows is made again.

    Raises:
        InputError: a broken file is one that the audit began from, which cannot be made again.
    """
    first = [name for name in broken if Path(name).name in (CONFIG, PAIRS, QUARANTINE, MEMBERSHIP)]
    if first:
        raise InputError(f"{audit.folder / first[0]} is broken: delete {audit.folder} and run the audit again")
    for member in {Path(name).parts[1] for name in broken if name.startswith(f"{MEMBERS}/")}:
        for path in audit.member(member).rglob("*"):
            if path.is_file() and path.name != CONFIG:
                path.unlink()
    (audit.folder / MANIFEST).unlink()
