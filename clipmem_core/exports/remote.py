"""Exports to what a URL of fsspec names (s3://, gs:// …): they are written into the data folder and copied there."""

import dataclasses
import tempfile
from pathlib import Path

import fsspec

from clipmem_core.audits.store import Audit
from clipmem_core.config import InputError, data_folder
from clipmem_core.exports.cleaned import Progress
from clipmem_core.exports.formats import FORMATS, Summary, write
from clipmem_core.pairs.readers.remote import told

NAME_PATHS = ("csv", "coco")  # name pictures by their paths on this machine


def write_at(
    audit: Audit, format: str, url: str, *, overwrite: bool = False, progress: Progress | None = None
) -> Summary:
    """Export an audit to a URL; as of `formats.write`.

    Raises:
        InputError: also where the URL cannot be written, something is there, or the format names pictures by paths.
    """
    if format in NAME_PATHS:
        raise InputError(
            f"--format {format} names pictures by their paths on this machine: give a path, or take imagefolder"
        )
    with told(url):
        system, there = fsspec.core.url_to_fs(url.rstrip("/"))
        is_folder = format in FORMATS and FORMATS[format].is_folder
        if system.exists(there) and (is_folder or not overwrite):
            advice = "" if is_folder else ", or replace it with --overwrite"
            raise InputError(f"{url} is there already: take another --out{advice}")
    data_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=data_folder()) as folder:
        path = Path(folder) / there.rpartition("/")[2]
        found = write(audit, format, path, progress=progress)
        with told(url):
            for file in (file for file in Path(folder).rglob("*") if file.is_file()):
                target = f"{there.rpartition('/')[0]}/{file.relative_to(folder).as_posix()}"
                system.makedirs(target.rpartition("/")[0], exist_ok=True)
                system.put_file(str(file), target)
    notes = tuple(note.replace(str(path), url) for note in found.notes)
    return dataclasses.replace(found, notes=notes, command=found.command.replace(str(path), url))
