"""Reads a folder of pictures, each with a `.txt` or `.caption` of one caption a line; the top
folders are the labels."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from clipmem_core import columns as c
from clipmem_core.config import SourceOptions
from clipmem_core.dataset.readers import paths
from clipmem_core.dataset.readers.records import Row, Rows
from clipmem_core.io import InputError

LABEL = "{label}"
_NO_CAPTION = "no caption file: a .txt or .caption of the same name is missing"
_SUFFIXES = (".caption", ".txt")  # of captions; the last one counts where a picture has both
_LINE_END = re.compile(r"\r\n|\r|\n")


def holds_pictures(root: Path) -> bool:
    """Tell whether a folder has a picture somewhere below."""
    return any(paths.is_picture(name) for _, files in _walk(root) for name in files)


def has_class_folders(root: Path) -> bool:
    """Tell whether the first subfolder with pictures has no captions."""
    first = next(
        (files for folder, files in _walk(root) if folder and any(map(paths.is_picture, files))), []
    )
    return bool(first) and not any(name.lower().endswith(_SUFFIXES) for name in first)


def read_folder(root: Path, options: SourceOptions) -> Rows:
    """Read a folder; a picture without captions is captioned by the template or quarantined, as is
    the reverse."""
    template = options.caption_template
    if template and LABEL not in template:
        raise InputError(
            f"--caption-template {template!r} must hold {LABEL}: 'a photo of a {LABEL}'"
        )

    def rows() -> Iterator[Row]:
        used = False
        for folder, files in _walk(root):
            texts = {
                os.path.splitext(name)[0]: os.path.join(folder, name)
                for name in files
                if name.lower().endswith(_SUFFIXES)
            }
            pictures = {name: os.path.splitext(name)[0] for name in files if paths.is_picture(name)}
            for name, stem in pictures.items():
                row = _row(root, os.path.join(folder, name), texts.get(stem), template)
                used = used or not row.reason
                yield row
            for stem in sorted(texts.keys() - pictures.values()):
                yield Row(texts[stem], kind=c.BAD_PICTURE, reason="no picture of the same name")
        if not used:
            raise InputError(
                f"{root} holds pictures but no captions: put a .txt or .caption beside each, "
                "give a table, or let class folders name them: --caption-template 'a photo of a "
                f"{LABEL}'"
            )

    return Rows(root, "folder", rows())


def _walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder, relative to the root, with its files, in sorted order; links to folders
    are not followed."""
    for path, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(path, root)
        shown = sorted(name for name in files if not name.startswith("."))
        yield "" if relative == "." else relative, shown


def _row(root: Path, image: str, text: str | None, template: str) -> Row:
    label = os.path.dirname(image).partition("/")[0] or None
    if text is None and template and label:
        return Row(image, image, [template.replace(LABEL, label.replace("_", " "))], label)
    if text is None:
        return Row(image, image, kind=c.BAD_CAPTION, reason=_NO_CAPTION)
    path = root / text
    if not paths.is_inside(os.path.realpath(root), os.fspath(path)):
        reason = paths.LINK_LEAVES.replace("image", "caption file")
        return Row(image, image, kind=c.BAD_CAPTION, reason=reason)
    try:
        lines = _LINE_END.split(paths.decode_text(paths.read_file(path, paths.TEXT)))
    except (InputError, OSError) as error:
        reason = paths.reading_fault(error, "caption file")
        return Row(image, image, kind=c.BAD_CAPTION, reason=reason)
    return Row(image, image, list(filter(str.strip, lines)), label)
