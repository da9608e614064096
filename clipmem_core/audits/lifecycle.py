"""Renaming and deleting an audit; a kill at any moment leaves it whole under one name."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from clipmem_core.audits.jobs import audit_task, jobs_folder
from clipmem_core.audits.lock import hold
from clipmem_core.audits.record import Record
from clipmem_core.audits.store import (
    CONFIG,
    MANIFEST,
    Audit,
    audits_folder,
    check_name,
    file_sha256,
    write_json,
)
from clipmem_core.config import InputError

DELETED = ".deleted"


def rename_audit(name: str, new: str) -> Audit:
    """Give an audit another name: its folder, its job's, the name in its config.json and that file's hash.

    A kill on the way leaves it under one of the two names, finished or such that running it again only scores anew.

    Raises:
        InputError: either name cannot be one, there is no such audit, the new name is taken, or the audit is at work.
    """
    if new == name:
        raise InputError(f"the audit is named {name!r} already: take another name")
    with _held(name) as audit, _held(new) as target:
        if not (audit.folder / CONFIG).is_file():
            raise InputError(f"there is no audit {name!r} to rename in {audits_folder()}")
        if target.folder.exists():
            raise InputError(f"there is an audit {new!r} already: take another name")
        record, manifest = dataclasses.replace(audit.record, name=new), _manifest(audit)
        audit.folder.rename(target.folder)
        _write(target, record, manifest)
        _move_job(name, new)
    return target


def delete_audit(name: str) -> int:
    """Delete an audit and its job's output, and return how many bytes that frees. Decisions on its pairs stay.

    Its folder first gets a hidden name, so that a kill on the way leaves no half of an audit.

    Raises:
        InputError: the name cannot be one, there is no such audit, or it is at work.
    """
    with _held(name) as audit:
        job = jobs_folder() / name
        if not audit.folder.exists() and not job.exists():
            raise InputError(f"there is no audit {name!r} in {audits_folder()}")
        freed = folder_bytes(audit.folder) + folder_bytes(job)
        for folder in (audit.folder, job):
            _remove(folder)
    return freed


def folder_bytes(folder: Path) -> int:
    """Return the size of all files in a folder; 0 where it is missing, or a link to another place."""
    if folder.is_symlink():
        return 0
    sizes = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # written under this name a moment ago, and renamed
                sizes += (Path(parent) / name).lstat().st_size
    return sizes


@contextlib.contextmanager
def _held(name: str) -> Iterator[Audit]:
    """Hold an audit that nobody works on.

    Raises:
        InputError: the name cannot be one, or its job waits or runs, or another process runs it.
    """
    audit = Audit(audits_folder() / check_name(name))
    job = audit_task(name).find()
    if job is not None and job.running:
        raise InputError(f"audit {name!r} is at work: cancel it first")
    with hold(audit.folder, what="audit"):
        yield audit


def _manifest(audit: Audit) -> dict[str, str] | None:
    """Return the hash of each file of a finished audit."""
    return audit.files if audit.finished else None


def _write(audit: Audit, record: Record, listed: dict[str, str] | None) -> None:
    """Write an audit's config.json and, where the old one was as its manifest says, the new one's hash.

    The two files cannot change in one moment. Between them the manifest is away, which means unfinished, never wrong.
    """
    path, manifest = audit.folder / CONFIG, audit.folder / MANIFEST
    whole = listed is not None and listed.get(CONFIG) == file_sha256(path)
    manifest.unlink(missing_ok=True)
    begun = path.stat().st_mtime_ns
    write_json(path, record.values)
    os.utime(path, ns=(begun, begun))  # audits are listed by when they began
    if listed is not None:
        write_json(manifest, {"files": listed | ({CONFIG: file_sha256(path)} if whole else {})})


def _move_job(name: str, new: str) -> None:
    old, target = jobs_folder() / name, jobs_folder() / new
    _remove(target)  # what an audit of that name, gone by now, left
    if old.is_dir():
        old.rename(target)


def _remove(folder: Path) -> None:
    """Remove a folder, and what a kill left of those removed before; a link to another place is only unlinked."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        hidden = folder.with_name(f".{folder.name}{DELETED}")
        shutil.rmtree(hidden, ignore_errors=True)
        folder.rename(hidden)
    for left_over in folder.parent.glob(f".*{DELETED}"):
        shutil.rmtree(left_over, ignore_errors=True)
