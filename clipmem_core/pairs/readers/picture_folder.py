"""A table's rows and the folder that `--image-folder` names → the same rows, with paths that start in that folder."""

import os
import posixpath
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipmem_core.config import InputError
from clipmem_core.pairs.readers.rows import Rows


def named_folder(flag: str, file: Path) -> Path:
    """Return the folder that the flag names, as seen from here or else from beside the file that lists the pictures.

    Raises:
        InputError: neither is a folder.
    """
    folders = [folder for folder in (Path(os.path.expanduser(flag)), file.parent / flag) if folder.is_dir()]
    if not folders:
        raise InputError(f"--image-folder {flag} is not a folder: name the one with the pictures of {file.name}")
    return folders[0].absolute()


def placed(rows: Rows, flag: str, file: Path) -> Rows:
    """Let picture paths start in the folder that the flag names; absolute ones that lie in it become relative to it.

    What is inside is told by the path alone: merging refuses the links that lead out, and every other absolute path.

    Args:
        rows: of a table. Where its pictures are inside it, they stay as they are.
        flag: the folder; empty leaves the rows as they are.
        file: the table.

    Raises:
        InputError: the flag names no folder.
    """
    if not flag or not rows.files:
        return rows
    folder = named_folder(flag, file)
    real = folder.resolve()
    prefixes = [f"{os.path.normpath(path).rstrip('/')}/" for path in dict.fromkeys((folder, real))]
    return replace(rows, root=real, rows=[row._replace(image=_relative(row.image, prefixes)) for row in rows.rows])


def _relative(image: Any, prefixes: list[str]) -> Any:
    """Return an absolute path below one of the folders without that folder, and anything else as it is."""
    if not isinstance(image, str) or not image.lstrip().startswith("/"):
        return image
    path = posixpath.normpath(image.strip())
    inside = (path.removeprefix(prefix) for prefix in prefixes if path.startswith(prefix))
    return next(inside, image)
