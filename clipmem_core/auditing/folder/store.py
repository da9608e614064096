"""The folder of an audit: its file names and fields, reading and writing them, the lock and the
manifest."""

import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from pydantic import AfterValidator, Field

from clipmem_core.config import SETS, AuditConfig, as_dict, data_folder, fingerprint
from clipmem_core.dataset.trigger_words import without_triggers
from clipmem_core.errors.misfit import DECOY
from clipmem_core.scores.registry import BY_NAME
from clipmem_core.training import CHECKPOINT, TRAJECTORY
from clipmem_core.utils import columns as c
from clipmem_core.utils.embeddings import Vectors, read_vectors
from clipmem_core.utils.io import DELETE, InputError, file_sha256, read_json, reading, replacing
from clipmem_core.utils.ragged import Ragged

# of an audit's folder: other versions cannot be read, nor audits with other scores
VERSION = int(fingerprint([14, *BY_NAME])[:8], 16)
# bytes; file systems allow 255, and the names of locks and temporary files are longer
MAX_NAME = 100


def is_name(name: str) -> bool:
    """Tell whether a name is safe as the name of a folder."""
    return bool(re.fullmatch(r"\w[\w.-]*", name)) and len(name.encode()) <= MAX_NAME


def check_name(name: str) -> str:
    """Return a name if it is valid."""
    if not is_name(name):
        raise InputError(
            f"name {name!r} must be at most {MAX_NAME} letters, digits, '-', '_' or '.', and not "
            "start with '.' or '-'"
        )
    return name


def check_inner(name: str) -> str:
    """Return a relative path if it stays inside its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts:
        raise InputError(f"path {name!r} must lie inside the folder")
    return name


def inside(folder: Path, name: str) -> Path:
    """Return a path inside a folder."""
    path = folder / check_inner(name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path} is a link that leads out of {folder}: put the file itself there")
    return path


Name = Annotated[str, AfterValidator(check_name)]
Inner = Annotated[str, AfterValidator(check_inner)]


@dataclass(frozen=True)
class Record:
    """An audit's config.json. `source` and `root` may lie anywhere."""

    name: str
    source: str
    root: str  # the folder of the pictures
    format: str
    pixels: Inner  # the store of small pictures, in the data folder
    protocol: str
    members: tuple[Name, ...]
    seeds: dict[Name, int]  # that each member trains from
    threads: int  # of each member
    pairs: int
    held_out_pairs: int
    near_duplicates: int
    quarantined: int
    dataset_fingerprint: str
    fingerprint: str
    versions: dict[str, str]
    machine: dict[str, str | int]
    config: AuditConfig
    towers: dict[str, dict[str, Any]] = field(default_factory=dict)  # the locked towers, by kind
    # The share of each language among the captions, the largest first
    languages: dict[str, float] = field(default_factory=dict)
    trigger_words: tuple[str, ...] = ()  # of most captions: neither embedded nor predicted
    tag_lists: bool = False  # captions are lists of tags
    repeated_captions: int = 0  # of the data set: they were merged with an equal one of their pair
    sampled_of: int = 0  # pairs of the data set, if the audit's are a random sample of them
    reaudit_of: str = ""  # the audit whose members this one trains on its cleaned data set
    version: Annotated[int, Field(ge=VERSION, le=VERSION)] = VERSION

    @property
    def pictures(self) -> Path:
        """The folder of the pictures: `root`, or on another machine the same set in its data
        folder."""
        root = Path(self.root)
        if SETS in root.parts and not root.exists():
            below = root.parts[len(root.parts) - root.parts[::-1].index(SETS) :]
            return data_folder().joinpath(SETS, *below)
        return root

    @property
    def groups(self) -> list[str]:
        if self.protocol == "ensemble":
            return [c.SCORED, c.HELD_OUT]
        return [group for group in c.GROUPS if group != c.SCORED]

    @property
    def sentences(self) -> bool:
        """Tell whether each sentence of a caption is evidence of its own."""
        return self.config.sentences == "on"

    @property
    def texts(self) -> str:
        """The column of pairs.parquet whose texts are trained on and scored: captions, or their
        sentences."""
        return c.SENTENCES if self.sentences else c.CAPTIONS

    def embedded(self, texts: Iterable[str]) -> list[str]:
        """Return captions as the text encoder reads them, without trigger words."""
        triggers = self.trigger_words
        return [without_triggers(text, triggers, tags=self.tag_lists) for text in texts]

    @property
    def values(self) -> dict[str, Any]:
        return as_dict(self)


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json."""

    version: int
    files: dict[Inner, str]  # the SHA-256 of each file, by its path in the folder


CONFIG = "config.json"
PAIRS = "pairs.parquet"
QUARANTINE = "quarantine.parquet"
MEMBERSHIP = "membership.parquet"
SCORES = "scores.parquet"
CAPTION_TABLE = "captions.parquet"  # optional: one row per caption
SENTENCE_TABLE = "sentences.parquet"  # optional: one row per sentence of long captions
WORD_TABLE = "words.parquet"  # optional: one row per word that the word model reads
# optional: folder of the word models, and of the ratios of their predictions
WORD_MODELS = "words"
FITTED = "p_wrong.json"  # likelihood ratios of the evidence on a caption, for new captions
CHECK_TABLE = "checks.parquet"  # optional, not in the manifest: it is recomputed if missing
INCIDENTS = "incidents.parquet"  # faults of the pipeline that made the data set
INCIDENT_PAIRS = "incident_pairs.parquet"  # their pairs, and the pair whose captions fit each
UTILITY = "utility.parquet"
# optional, not in the manifest: folder of the members that were trained with mitigations
MITIGATIONS = "mitigations"
VERDICT = "verdict.json"
SECONDS = "seconds.json"  # not in the manifest: the time of each stage, over all runs
MANIFEST = "manifest.json"
MEMBERS = "members"
IMAGE_EMBEDDINGS = "image.faiss"
TEXT_EMBEDDINGS = "text.faiss"  # written last: marks a member as finished
MEMBER_UTILITY = "utility.json"
SECOND_TABLE = "second.parquet"  # optional: the pairs that the second round excludes
LEFT_OUT = "left_out"  # its column
SECOND = "second"  # folder of a member's second training
SECOND_FIT = "csls_out.npy"  # its result, written last
SECOND_EMBEDDINGS = ".embeddings"  # deleted once the result is written
# of a member, if pairs have several captions; below them those of the decoys
CAPTION_SCORES = "captions.npy"
DECOYS = "decoys.npy"  # if pairs have several captions and their features are known
RETRAIN = f"delete it and {TEXT_EMBEDDINGS} next to it, and run the audit again"
# rows of a Parquet file that are read together; a page shows few of a million pairs
ROW_GROUP = 8192
PAIR_BLOCK = 65_536  # pairs that are Python objects at a time
# each pair's stored picture and near-duplicate cluster; can be recomputed
PREPARED = ".prepared.npz"


def write_json(path: Path, values: Any) -> None:
    """Write JSON atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a Parquet table atomically; a column of nulls becomes text."""
    # Without the metadata of pandas, which would read Arrow lists back as such
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata()
    fields = [
        field.with_type(pa.string()) if pa.types.is_null(field.type) else field
        for field in arrow.schema
    ]
    with replacing(path) as temporary:
        pq.write_table(arrow.cast(pa.schema(fields)), temporary, row_group_size=ROW_GROUP)


def read_table(
    path: Path, *, columns: list[str] | None = None, repair: str = DELETE
) -> pd.DataFrame:
    """Read a Parquet table; a missing or broken file is an error that names it."""
    with reading(path, repair=repair):
        return pd.read_parquet(path, columns=columns)


def pair_blocks(
    audit: "Audit", columns: Iterable[str], *, size: int = PAIR_BLOCK
) -> Iterator[pa.RecordBatch]:
    """Yield columns of an audit's pairs in blocks of rows."""
    path = audit.folder / PAIRS
    with reading(path), pq.ParquetFile(path) as file:
        yield from file.iter_batches(size, columns=list(columns))


def read_captions(audit: "Audit") -> Ragged:
    """Return the captions of each pair, or their sentences."""
    return Ragged.of_lists(texts for block in text_blocks(audit) for texts in block)


def text_blocks(audit: "Audit") -> Iterator[list[list[str]]]:
    """Yield the captions of each pair, or their sentences, in blocks of pairs."""
    column = audit.record.texts
    for batch in pair_blocks(audit, [column]):
        yield batch[column].to_pylist()


def read_array(path: Path) -> np.ndarray:
    """Map an array of a member."""
    with reading(path, repair=RETRAIN):
        return np.load(path, mmap_mode="r")


def add_column(path: Path, name: str, values: np.ndarray) -> None:
    """Add a column to a Parquet table, or replace it."""
    with reading(path):
        table = pq.read_table(path)
    table = table.select([other for other in table.column_names if other != name])
    table = table.append_column(name, pa.array(values, pa.float32()))
    with replacing(path) as temporary:
        pq.write_table(table, temporary, row_group_size=ROW_GROUP)


def read_decoys(audit: "Audit") -> np.ndarray:
    """Return the decoys of single captions, as of `draw_decoys`, none if the audit has no such
    file."""
    path = audit.folder / DECOYS
    return read_array(path) if path.is_file() else np.empty(0, DECOY)


def open_embeddings(path: Path) -> Vectors:
    """Map the embeddings of a member, float32 [n_pairs, dim]."""
    with reading(path, repair=RETRAIN):
        return read_vectors(path)


def read_embeddings(folder: Path) -> tuple[Vectors, Vectors]:
    """Map the mean embeddings of every picture and of every pair's captions from the folder of a
    member."""
    return open_embeddings(folder / IMAGE_EMBEDDINGS), open_embeddings(folder / TEXT_EMBEDDINGS)


def remove_second_model(folder: Path) -> None:
    """Delete the model and embeddings of a second training, which only its result needs."""
    for name in (CHECKPOINT, TRAJECTORY):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / SECOND_EMBEDDINGS, ignore_errors=True)


def read_utility(member: Path) -> dict[str, float]:
    """Return the metrics of a member's utility."""
    return read_json(member / MEMBER_UTILITY, dict[str, float], repair=RETRAIN)


class Prepared(NamedTuple):
    """An audit's stored pictures and near-duplicates."""

    cache_rows: np.ndarray  # the stored picture of each pair, int64 [n_pairs]
    clusters: np.ndarray  # the near-duplicate cluster of each pair, int64 [n_pairs]
    groups: np.ndarray  # of pairs that are split as one, int64 [n_pairs]
    pixels: str = ""  # the store, in the data folder; empty: as in config.json


def write_prepared(folder: Path, prepared: Prepared) -> None:
    """Write the near-duplicates and stored pictures of an audit atomically."""
    with replacing(folder / PREPARED) as temporary, temporary.open("wb") as file:
        np.savez(file, **prepared._asdict())


def read_prepared(folder: Path) -> Prepared:
    """Read the near-duplicates and stored pictures of an audit."""
    repair = "delete it and run the audit again with the same --members, which recomputes it"
    with reading(folder / PREPARED, repair=repair), np.load(folder / PREPARED) as stored:
        prepared = Prepared(**stored)
        pixels = str(prepared.pixels)
    return prepared._replace(pixels=pixels and check_inner(pixels))


@dataclass(frozen=True)
class Named:
    """The folder of an audit, a study or a benchmark."""

    folder: Path

    KIND: ClassVar[str]
    PARENT: ClassVar[str]  # a folder in the data folder
    FIRST: ClassVar[str]  # the file that marks a folder as one of this kind

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def begun(self) -> bool:
        """Tell whether it exists, finished or not."""
        return (self.folder / self.FIRST).is_file()

    @classmethod
    def parent(cls) -> Path:
        return data_folder() / cls.PARENT

    @classmethod
    def of(cls, name: str) -> Self:
        """Return the folder of a name; it may not exist."""
        return cls(cls.parent() / check_name(name))

    @classmethod
    def open(cls, name: str) -> Self:
        """Return the folder of a name if it exists."""
        named = cls.of(name)
        if not named.begun:
            names = ", ".join(other.name for other in cls.every()) or "none yet"
            raise InputError(
                f"there is no {cls.KIND} {name!r} in {cls.parent()} (there is: {names})"
            )
        return named

    @classmethod
    def every(cls) -> list[Self]:
        """Return all of this kind, finished or not, by name."""
        paths = sorted(cls.parent().glob(f"*/{cls.FIRST}"))
        return [cls(path.parent) for path in paths if is_name(path.parent.name)]


def _table(name: str) -> Any:
    """Return a property of an audit that reads a table."""
    return property(lambda audit: read_table(audit.folder / name))


@dataclass(frozen=True)
class Audit(Named):
    """One audit's folder; its files are read at every access."""

    KIND = "audit"
    PARENT = "audits"
    FIRST = CONFIG
    pairs = _table(PAIRS)
    quarantine = _table(QUARANTINE)
    membership = _table(MEMBERSHIP)
    scores = _table(SCORES)
    utility = _table(UTILITY)

    @classmethod
    def every(cls) -> list[Self]:
        """Return every audit, finished or not, the newest first."""
        return sorted(super().every(), key=lambda audit: -(audit.folder / CONFIG).stat().st_mtime)

    @property
    def finished(self) -> bool:
        return (self.folder / MANIFEST).is_file()

    def check_finished(self) -> None:
        """Refuse an audit that is not finished."""
        if not self.finished:
            raise InputError(f"audit {self.name!r} is not finished: run it again to resume it")

    @property
    def record(self) -> Record:
        return read_json(self.folder / CONFIG, Record)

    @property
    def verdict(self) -> dict[str, Any]:
        return read_json(
            self.folder / VERDICT, dict[str, Any], repair="delete it and run the audit again"
        )

    @property
    def seconds(self) -> dict[str, float]:
        """The time of each stage over all runs; empty if none has ended."""
        path = self.folder / SECONDS
        return read_json(path, dict[str, float], repair="delete it") if path.is_file() else {}

    @property
    def files(self) -> dict[str, str]:
        """The SHA-256 of each file of a finished audit; empty for an unfinished one."""
        if not self.finished:
            return {}
        repair = "delete it and run the audit again"
        return read_json(self.folder / MANIFEST, Manifest, repair=repair).files

    def read_columns(self, table: str, *columns: str) -> pd.DataFrame:
        """Read some columns of a table."""
        return read_table(self.folder / table, columns=list(columns))

    def member(self, name: str) -> Path:
        """Return a member's folder."""
        return inside(self.folder, f"{MEMBERS}/{check_name(name)}")


@contextmanager
def acquire_lock(folder: Path, *, what: str) -> Iterator[None]:
    """Let only this process work in a folder: lock `.<name>.lock` next to it, and write who holds
    it to `.holder`."""
    holder = folder.with_name(f".{folder.name}.holder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # `is_locked` acquires the lock for a moment.
        lock = FileLock(folder.with_name(f".{folder.name}.lock")).acquire(timeout=0.5)
        holder.write_text(
            f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M')}"
        )
    except Timeout:
        by = holder.read_text() if holder.is_file() else "just started"
        raise InputError(
            f"{what} {folder.name!r} is being run by another process ({by}): wait for it, or "
            "stop it"
        ) from None
    with lock:
        yield


def is_locked(folder: Path) -> bool:
    """Tell whether a process holds the lock of a folder."""
    lock = folder.with_name(f".{folder.name}.lock")
    if not lock.is_file():
        return False
    try:
        with FileLock(lock).acquire(timeout=0):
            return False
    except Timeout:
        return True


def write_manifest(folder: Path) -> None:
    """Write the hash of every file. The manifest is written last and marks the audit as
    finished."""
    free = (MANIFEST, SECONDS, CHECK_TABLE, MITIGATIONS)
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("[!.]*"))}
    hashes = {
        name.as_posix(): file_sha256(path)
        for name, path in files.items()
        if path.is_file() and path.suffix != ".lock" and name.parts[0] not in free
    }
    write_json(folder / MANIFEST, {"version": VERSION, "files": hashes})


def broken_files(folder: Path) -> list[str]:
    """Return the files of a finished audit that are missing or differ from the manifest."""
    return [
        name
        for name, sha256 in Audit(folder).files.items()
        if not (path := inside(folder, name)).is_file() or file_sha256(path) != sha256
    ]


def reopen(audit: Audit, broken: Sequence[str]) -> None:
    """Make an audit unfinished; members and word models with a broken file are trained again."""
    first = [name for name in broken if Path(name).name in (CONFIG, PAIRS, QUARANTINE, MEMBERSHIP)]
    if first:
        raise InputError(
            f"{audit.folder / first[0]} is broken: delete {audit.folder} and run the audit again"
        )
    for member in {Path(name).parts[1] for name in broken if name.startswith(f"{MEMBERS}/")}:
        for path in audit.member(member).rglob("*"):
            if path.is_file() and path.name != CONFIG:
                path.unlink()
    if any(name.startswith(WORD_MODELS) for name in broken):
        (audit.folder / WORD_TABLE).unlink(missing_ok=True)
    (audit.folder / MANIFEST).unlink()
