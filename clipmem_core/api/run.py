"""Runs an audit from Python, of anything that holds pictures and captions."""

import dataclasses
import hashlib
import io
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from clipmem_core.api.frames import AuditFrames
from clipmem_core.auditing.run.console import RichScreen
from clipmem_core.auditing.run.pipeline import run_audit
from clipmem_core.config import DEFAULT_PRESET, FIELDS, SETS, configured, data_folder, did_you_mean
from clipmem_core.utils.io import InputError, write_once

_COLUMNS = ["image", "caption"]  # of a table that is made from a list


def audit(
    source: Any, name: str | None = None, *, preset: str = DEFAULT_PRESET, **settings: Any
) -> AuditFrames:
    """Audit a data set, as the command `audit` does, and return the finished audit. The same call
    resumes it.

    Args:
        source: what the command takes (a path, a URL, a hub name), a pandas table, a data set of
            the library `datasets`, or pairs of a picture (a path or a PIL image) and its caption or
            captions.
        name: the audit's folder in the data folder; None: a temporary folder.
        preset: of the settings.
        settings: flags of the command, such as `image_folder="photos"`, `members=8`.
    """
    for field in settings:
        if field not in FIELDS:
            raise InputError(f"setting {field!r} is unknown{did_you_mean(field, FIELDS)}")
    config = configured(preset, settings)
    if not isinstance(source, (str, os.PathLike)):
        source, folder = _stored_table(source)
        if not config.source.image_folder:
            options = dataclasses.replace(config.source, image_folder=folder)
            config = dataclasses.replace(config, source=options)
    parent = None
    if name is None:
        parent = Path(tempfile.mkdtemp(prefix="clipmem-"))
        name = "audit"
    with RichScreen() as screen:
        finished = run_audit(str(source), config, name=name, screen=screen, parent=parent)
    return AuditFrames(finished.folder)


def _stored_table(source: Any) -> tuple[Path, str]:
    """Write a table, a data set or a list of pairs as a Parquet file, once. Return its path, and
    the folder that absolute paths of pictures have in common, or the working directory."""
    folder = os.getcwd()
    if hasattr(source, "cast_column"):  # of `datasets`, whose pictures are not decoded
        for name, kind in source.features.items():
            if type(kind).__name__ == "Image":
                source = source.cast_column(name, type(kind)(decode=False))
        source = source.to_pandas()
    elif not isinstance(source, pd.DataFrame):
        source = _table_of(source)
    cells = source.map(_as_cell)
    for _, column in cells.items():
        if all(isinstance(value, str) and os.path.isabs(value) for value in column):
            folder = os.path.commonpath([os.path.dirname(value) for value in column])
    content = cells.to_parquet(index=False)
    digest = hashlib.sha256(content).hexdigest()[:16]
    path = data_folder() / SETS / "tables" / f"{digest}.parquet"
    write_once(path, lambda temporary: temporary.write_bytes(content))
    return path, folder


def _table_of(pairs: Iterable[Any]) -> pd.DataFrame:
    """Return pairs of a picture and captions as a table."""
    listed = list(pairs) if isinstance(pairs, Iterable) else []
    wrong = next((row for row, pair in enumerate(listed) if len(pair) != 2), None)
    if not listed or wrong is not None:
        raise InputError(
            "source must be a path, a table, a data set or a list of (picture, caption)"
            + (f": item {wrong} has {len(listed[wrong])} parts" if wrong is not None else "")
        )
    return pd.DataFrame(listed, columns=_COLUMNS)


def _as_cell(value: Any) -> Any:
    """Return a value of a table as Parquet stores it: a picture as PNG, as `datasets` does."""
    if hasattr(value, "save") and hasattr(value, "mode"):
        file = io.BytesIO()
        value.save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}
    if isinstance(value, dict) and value.get("path") and not value.get("bytes"):
        return value | {"bytes": Path(value["path"]).read_bytes()}
    return str(value) if isinstance(value, Path) else value
