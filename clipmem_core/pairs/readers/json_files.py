"""Reads JSON: lines of objects, a list of them, and COCO captions, which are `images`, `annotations` and a folder."""

import os
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.readers.column_roles import find_fields
from clipmem_core.pairs.readers.containers import JSON, normal_reference, read_lines
from clipmem_core.pairs.readers.rows import Row, Rows, named_folder, placed, spelled
from clipmem_core.pairs.readers.text import as_name, parse

Numbered = Iterator[tuple[int, Any]]  # a place in the file and what stands there: a value, or the error of reading it

_TRIED = 50  # pictures looked for in each likely folder


def read_jsonl(path: Path, options: SourceOptions) -> Rows:
    """Read a JSON Lines file; picture paths are relative to its folder or `image_folder`. Blank lines are no rows.

    It is read twice, as any line may name a column.

    Raises:
        InputError: no line is a JSON object, or its keys do not tell picture and caption.
    """
    return _read(path, lambda: _lines(path), options, kind="jsonl")


def read_json_list(path: Path, values: list[Any], options: SourceOptions) -> Rows:
    """Read the objects of a JSON list, as `read_jsonl` reads lines; rows are numbered from 1."""
    return _read(path, lambda: iter(enumerate(values, start=1)), options, kind="json")


def _lines(path: Path) -> Numbered:
    for number, line in enumerate(read_lines(path, JSON), start=1):
        if line.isspace() or not line:
            continue
        try:
            yield number, parse(line.removesuffix("\n"))
        except ValueError as error:
            yield number, error


def _read(path: Path, values: Callable[[], Numbered], options: SourceOptions, *, kind: str) -> Rows:
    first: dict[str, Any] | None = None
    columns: dict[str, None] = {}
    for _, value in values():
        if isinstance(value, dict):
            first = value if first is None else first
            columns.update(dict.fromkeys(value))
    if first is None:
        raise InputError(f"{path.name} holds no JSON object: one object a line (or a list of them) is wanted")
    order = find_fields(list(columns), options, source=path.name, first=first).in_order()
    rows = (_object_row(f"{path.name}:{number}", value, order) for number, value in values())
    return placed(Rows(path.parent, kind, rows), options.image_folder, path)


def _object_row(source: str, value: Any, order: tuple[str, ...]) -> Row:
    if isinstance(value, dict):
        return Row._make((source, *map(value.get, order), ""))
    if isinstance(value, ValueError):
        return Row(source, reason=f"line is not JSON ({value})")
    return Row(source, reason=f"row is not a JSON object but {type(value).__name__}")


def is_coco(value: Any) -> bool:
    """Say whether a JSON value is laid out like COCO's annotation files.

    Example:
        >>> is_coco({"images": [], "annotations": []}), is_coco([])
        (True, False)
    """
    return isinstance(value, dict) and "images" in value and "annotations" in value


def read_coco(path: Path, value: dict[str, Any], options: SourceOptions) -> Rows:
    """Read COCO captions. An annotation is a row; so is a picture without one, and it goes to quarantine.

    The image's `id` is the pair's id, or its `pair_id` where it has one; `label` and `planted` are read if there.

    Args:
        path: the JSON file.
        value: what it holds.
        options: `image_folder` says where the pictures are; otherwise they are looked for near the file.

    Raises:
        InputError: the lists are not lists, no annotation has a caption, or the folder is not there.
    """
    images, annotations = value["images"], value["annotations"]
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise InputError(f"{path.name}: images and annotations must be lists, as in COCO's captions files")
    if annotations and not any(isinstance(entry, dict) and "caption" in entry for entry in annotations):
        raise InputError(f"{path.name}: no annotation has a caption: give COCO's captions_*.json, not its instances")
    known, faulty = _known_images(path.name, images)
    folder = _picture_folder(path, options.image_folder, known)
    for image in known.values():
        image["file_name"] = spelled(image.get("file_name"), folder)
    root = _root(path.parent.resolve(), folder)
    prefix = os.path.relpath(folder, root)
    rows = _annotation_rows(path.name, annotations, known, "" if prefix == "." else f"{prefix}/")
    return Rows(root, "coco", chain(rows, faulty, _silent_rows(path.name, annotations, known)))


def _known_images(name: str, images: list[Any]) -> tuple[dict[Any, dict[str, Any]], list[Row]]:
    """Return image id → entry, and a row for each entry that cannot be used."""
    known: dict[Any, dict[str, Any]] = {}
    faulty = []
    for at, image in enumerate(images):
        source = f"{name}: images[{at}]"
        key = image.get("id") if isinstance(image, dict) else None
        if not isinstance(key, str | int):
            faulty.append(Row(source, reason="image entry has no id"))
        elif key in known:
            reason = f"image id {key!r} already belongs to {known[key].get('file_name')!r}"
            faulty.append(Row(source, pair_id=key, reason=reason))
        else:
            known[key] = image
    return known, faulty


def _annotation_rows(name: str, annotations: list[Any], known: dict[Any, Any], prefix: str) -> Iterator[Row]:
    for at, annotation in enumerate(annotations):
        source = f"{name}: annotations[{at}]"
        if not isinstance(annotation, dict):
            yield Row(source, reason=f"annotation is not an object but {type(annotation).__name__}")
            continue
        key = annotation.get("image_id")
        image = known.get(key) if isinstance(key, str | int) else None
        if image is None:
            yield Row(source, reason=f"annotation belongs to no image: image_id {key!r} is unknown")
            continue
        yield _annotation_row(source, image, annotation.get("caption"), prefix)


def _annotation_row(source: str, image: dict[str, Any], caption: Any, prefix: str) -> Row:
    path, reason = image.get("file_name"), ""
    if isinstance(path, str) and path.strip():
        # Checked before the folder is put in front, so that `..` does not climb from the pictures into the root.
        try:
            path = prefix + normal_reference(path)
        except InputError as error:
            reason = str(error)
    return Row(source, path, caption, image.get("label"), _pair_id(image), image.get("planted"), reason)


def _pair_id(image: dict[str, Any]) -> str | None:
    return as_name(image.get("pair_id")) or as_name(image["id"])


def _silent_rows(name: str, annotations: list[Any], known: dict[Any, Any]) -> Iterator[Row]:
    keys = (entry.get("image_id") for entry in annotations if isinstance(entry, dict))
    spoken = {key for key in keys if isinstance(key, str | int)}
    for key, image in known.items():
        if key not in spoken:
            yield Row(f"{name}: image {key}", pair_id=_pair_id(image), reason="image has no annotation")


def _picture_folder(path: Path, flag: str, known: dict[Any, Any]) -> Path:
    """Return the pictures' folder: the flag's (from here, else from the file), or a likely one that has some."""
    here = path.parent.resolve()
    if flag:
        return named_folder(flag, here / path.name).resolve()
    split = path.stem.rpartition("_")[2]
    likely = [
        here,
        here / "images",
        here / split,
        here.parent / split,
        here.parent / "images" / split,
        here.parent / "images",
    ]
    names = [name for image in list(known.values())[:_TRIED] if (name := _plain_name(image.get("file_name")))]
    return max(likely, key=lambda folder: sum(os.path.isfile(folder / name) for name in names)).resolve()


def _plain_name(name: Any) -> str:
    """Return a file name that stays in its folder, or an empty string."""
    try:
        return normal_reference(name) if isinstance(name, str) else ""
    except InputError:
        return ""


def _root(here: Path, folder: Path) -> Path:
    """Return the common parent of file and pictures, so that no reference has to climb; not the whole disk, though."""
    common = Path(os.path.commonpath([here, folder]))
    return folder if common == Path(common.anchor) else common
