"""The folder of an audit: where its files are, how they are written, and when it counts as finished."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clipmem_core.atomic import replacing
from clipmem_core.config import InputError, data_folder
from clipmem_core.shortage import shortage

CONFIG = "config.json"
PAIRS = "pairs.parquet"
QUARANTINE = "quarantine.parquet"
MEMBERSHIP = "membership.parquet"
SCORES = "scores.parquet"
UTILITY = "utility.parquet"
VERDICT = "verdict.json"
MANIFEST = "manifest.json"
MEMBERS = "members"
SNAPSHOTS = "snapshots"  # of a member: its embeddings after some epochs, a folder each
MAX_NAME = 100  # bytes; file systems take 255, and locks and temporary files add to it
IMAGE_INDEX = "image.faiss"
TEXT_INDEX = "text.faiss"  # written last: a member that has it is complete
MEMBER_UTILITY = "utility.json"
EMBEDDED = (IMAGE_INDEX, TEXT_INDEX, MEMBER_UTILITY)  # what a member's checkpoint is turned into
ROW_GROUP = 8192  # rows of a Parquet file that are read together: a page of pairs touches few of a million
PREPARED = ".prepared.npz"  # which stored picture each pair is, and its look-alikes; can be made again


def audits_folder() -> Path:
    """Return the folder that holds every audit."""
    return data_folder() / "audits"


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
    with replacing(path) as temporary:
        whole = arrow.cast(pa.schema(fields, metadata=arrow.schema.metadata))
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


def read_json(path: Path) -> Any:
    """Read JSON; a missing or broken file is an error that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run the audit again, it goes on where it stopped") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}): delete the audit's folder and run it again") from None


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet table; a missing or broken file is an error that names it."""
    if not path.is_file():
        raise InputError(f"{path} is missing: run the audit again, it goes on where it stopped")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): delete the audit's folder and run it again") from None


@dataclass(frozen=True)
class Audit:
    """One audit's folder. Tables are read when asked for; nothing is kept."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def finished(self) -> bool:
        return (self.folder / MANIFEST).is_file()

    @property
    def config(self) -> dict[str, Any]:
        config = read_json(self.folder / CONFIG)
        if not isinstance(config, dict):
            raise InputError(f"{self.folder / CONFIG} is no JSON object: delete {self.folder} and run it again")
        return config

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
        return read_json(self.folder / VERDICT)

    def member(self, name: str) -> Path:
        return self.folder / MEMBERS / name


def open_audit(name: str) -> Audit:
    """Return the audit of a name.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    audit = Audit(audits_folder() / check_name(name))
    if not (audit.folder / CONFIG).is_file():
        known = ", ".join(a.name for a in list_audits()) or "none yet"
        raise InputError(f"there is no audit {name!r} in {audits_folder()} (there is: {known})")
    return audit


def check_name(name: str) -> str:
    """Return a name that is safe as a folder's; anything else is an error."""
    if not name or name.startswith((".", "-")) or not all(c.isalnum() or c in "-_." for c in name):
        raise InputError(f"name {name!r} must be letters, digits, '-', '_' or '.', and not start with '.' or '-'")
    if len(name.encode()) > MAX_NAME:
        raise InputError(f"name {name!r} must be at most {MAX_NAME} bytes long, not {len(name.encode())}")
    return name


def is_name(name: str) -> bool:
    """Tell whether an audit can have a name."""
    try:
        return bool(check_name(name))
    except InputError:
        return False


def list_audits() -> list[Audit]:
    """Return every audit, finished or not, the newest first; hidden folders are what a deletion left behind."""
    folder = audits_folder()
    found = [Audit(path.parent) for path in folder.glob(f"[!.]*/{CONFIG}")] if folder.is_dir() else []
    return sorted(found, key=_begun, reverse=True)


def _begun(audit: Audit) -> float:
    try:
        return (audit.folder / CONFIG).stat().st_mtime
    except FileNotFoundError:  # deleted or renamed a moment ago
        return 0.0


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path) -> None:
    """List every file with its hash. Written last: its existence means that the audit is complete."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".") and p.name != MANIFEST)
    listed = {path.relative_to(folder).as_posix(): file_sha256(path) for path in files if path.suffix != ".lock"}
    write_json(folder / MANIFEST, {"files": listed})


def broken_files(folder: Path) -> list[str]:
    """Return the files of a finished audit that are gone or no longer what its manifest says."""
    listed = read_json(folder / MANIFEST)["files"]
    return [
        name for name, sha256 in listed.items() if not (folder / name).is_file() or file_sha256(folder / name) != sha256
    ]


def reopen(folder: Path, broken: list[str]) -> None:
    """Make a finished audit unfinished again and remove what is broken, so that it is made anew.

    Raises:
        InputError: what is broken is what the audit began from, which cannot be made anew.
    """
    first = [name for name in broken if Path(name).name in (CONFIG, PAIRS, QUARANTINE, MEMBERSHIP)]
    if first:
        raise InputError(f"{folder / first[0]} is broken: delete {folder} and run the audit again")
    (folder / MANIFEST).unlink()
    for name in broken:
        for file in _made_with(folder / name):
            file.unlink(missing_ok=True)


def _made_with(path: Path) -> list[Path]:
    """Return the files that must be made anew together with a broken one."""
    member = next((folder for folder in path.parents if folder.parent.name == MEMBERS), None)
    if member is None:
        return [path]
    if path.parent == member and path.name in EMBEDDED:
        return [member / name for name in EMBEDDED]
    # Checkpoint, trajectory, log and snapshots come from one run of training, and the embeddings from its end.
    return [file for file in member.rglob("*") if file.is_file() and file.name != CONFIG]
