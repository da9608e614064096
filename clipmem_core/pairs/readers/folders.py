"""Reads a folder of pictures with a same-named `.txt` beside each; the top folders are the labels.

Every line of a `.txt` that is not empty is a caption.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from clipmem_core.config import InputError
from clipmem_core.pairs.readers.containers import LINK_LEAVES, TEXT, is_inside, is_picture, read_file
from clipmem_core.pairs.readers.rows import Row, Rows
from clipmem_core.pairs.readers.text import decode_text
from clipmem_core.shortage import shortage

_LINE_END = re.compile(r"\r\n|\r|\n")


def holds_pictures(root: Path) -> bool:
    """Say whether a folder has a picture somewhere below."""
    return any(is_picture(name) for _, files in _walk(root) for name in files)


def read_folder(root: Path) -> Rows:
    """Read a folder. A picture without `.txt`, or the reverse, goes to quarantine; hidden files are no rows.

    Raises:
        InputError: no picture has a caption file.
    """
    return Rows(root, "folder", _rows(root))


def _rows(root: Path) -> Iterator[Row]:
    used = False
    for folder, files in _walk(root):
        for row in _folder_rows(root, folder, files):
            used = used or not row.reason
            yield row
    if not used:
        raise InputError(
            f"{root} holds pictures but no captions: put a .txt of the same name beside each, or give a table"
        )


def _walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder, relative to the root, with its files; in a fixed order, links to folders not followed."""
    for path, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(path, root)
        yield "" if relative == "." else relative, sorted(name for name in files if not name.startswith("."))


def _folder_rows(root: Path, folder: str, files: list[str]) -> Iterator[Row]:
    texts = {os.path.splitext(name)[0]: name for name in files if name.lower().endswith(".txt")}
    pictures = [name for name in files if is_picture(name)]
    for name in pictures:
        text = texts.get(os.path.splitext(name)[0])
        yield _row(root, os.path.join(folder, name), text and os.path.join(folder, text))
    paired = {os.path.splitext(name)[0] for name in pictures}
    for stem, name in texts.items():
        if stem not in paired:
            yield Row(os.path.join(folder, name), reason="no picture of the same name")


def _row(root: Path, image: str, text: str | None) -> Row:
    if text is None:
        stem = PurePosixPath(image).stem
        return Row(image, image, reason=f"no caption file: {stem}.txt is not beside the picture")
    path = root / text
    if path.is_symlink() and not is_inside(os.path.realpath(root), os.fspath(path)):
        return Row(image, image, reason=LINK_LEAVES.replace("image", "caption file"))
    try:
        captions = [line for line in _LINE_END.split(decode_text(read_file(path, TEXT))) if line.strip()]
    except OSError as error:
        if shortage(error):
            raise
        return Row(image, image, reason=f"caption file cannot be read: {error.strerror}")
    except InputError as error:
        return Row(image, image, reason=str(error))
    return Row(image, image, captions, os.path.dirname(image).partition("/")[0] or None)
