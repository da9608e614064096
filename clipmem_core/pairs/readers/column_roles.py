"""Finds out which columns of a table hold picture, caption, label and id: by a flag, else by the names people use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipmem_core import columns as names
from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.readers.containers import is_picture

_IMAGE = (
    "filepath file_path image_path img_path image_file image_filename file_name filename image_name image img images "
    "picture photo path file local_path image_url url key"
)
_CAPTION = "caption captions title text txt description alt_text alttext alt comment sentence sentences raw prompt"
IMAGE_NAMES, CAPTION_NAMES = _IMAGE.split(), _CAPTION.split()  # the first that a table has is taken
LABEL_NAMES = ["label", "labels", "class", "class_name", "category", "cls"]
ID_NAMES = ["pair_id", "image_id", "id", "uid"]
_SHOWN = 12  # columns an error message lists


@dataclass(frozen=True)
class Fields:
    """The names of the columns that matter; an empty string where there is none."""

    image: str
    caption: str
    label: str = ""
    pair_id: str = ""
    planted: str = ""

    def in_order(self) -> tuple[str, ...]:
        """Return the column of each value of a row, after its source."""
        return self.image, self.caption, self.label, self.pair_id, self.planted

    def chosen(self) -> list[str]:
        """Return the columns to read, each once."""
        return [name for name in dict.fromkeys(self.in_order()) if name]


def find_fields(
    columns: Sequence[str],
    options: SourceOptions,
    *,
    source: str,
    first: Mapping[str, Any] | None = None,
    picture: str = "",
) -> Fields:
    """Choose the columns of a table.

    Args:
        columns: all column names.
        options: its `csv_*_key` fields override the guess.
        source: the file's name, for the message.
        first: the first row; an image column of no usual name is recognised by its file name.
        picture: the column known to hold pictures, from its type.

    Raises:
        InputError: a flag names an absent column, there is no column for pictures or captions, or one comes twice.

    Example:
        >>> find_fields(["id", "filepath", "title"], SourceOptions(), source="a.csv")
        Fields(image='filepath', caption='title', label='', pair_id='id', planted='')
    """
    shown = f"{source} has {_listed(columns)}"
    caption = _flagged(columns, options.csv_caption_key, "--csv-caption-key", shown)
    image = _flagged(columns, options.csv_img_key, "--csv-img-key", shown)
    label = _flagged(columns, options.csv_label_key, "--csv-label-key", shown)
    pair_id = _flagged(columns, options.csv_id_key, "--csv-id-key", shown)
    free = [column for column in columns if column not in (caption, image, label, pair_id, picture)]
    caption = caption or _guess(free, CAPTION_NAMES)
    image = image or picture or _guess(free, IMAGE_NAMES) or _by_value(free, first or {})
    for found, what, flag in ((caption, "captions", "--csv-caption-key"), (image, "pictures", "--csv-img-key")):
        if not found:
            raise InputError(f"{shown}, and none is known to hold {what}: name it with {flag}")
    free = [column for column in free if column not in (caption, image)]
    fields = Fields(
        image,
        caption,
        label or _guess(free, LABEL_NAMES),
        pair_id or _guess(free, ID_NAMES),
        _guess(free, [names.PLANTED]),
    )
    twice = [name for name in fields.chosen() if list(columns).count(name) > 1]
    if picture in fields.in_order()[1:] and picture:
        raise InputError(f"{source}: column {picture!r} holds pictures: name another for captions, labels and ids")
    if twice:
        raise InputError(f"{source} has the column {twice[0]!r} more than once: rename all but the one to read")
    return fields


def _flagged(columns: Sequence[str], wanted: str, flag: str, shown: str) -> str:
    if not wanted or wanted in columns:
        return wanted
    for column in columns:
        if column.strip() == wanted.strip():
            return column
    raise InputError(f"{flag} names column {wanted!r}, but {shown}")


def _guess(columns: Sequence[str], known: Sequence[str]) -> str:
    """Return the column whose name comes first among the known ones, whatever its case and outer spaces."""
    plain = {column.strip().lower(): column for column in reversed(columns)}
    return next((plain[name] for name in known if name in plain), "")


def _by_value(columns: Sequence[str], first: Mapping[str, Any]) -> str:
    texts = ((column, first.get(column)) for column in columns)
    return next((column for column, value in texts if isinstance(value, str) and is_picture(value.strip())), "")


def _listed(columns: Sequence[str]) -> str:
    """Return the column names on one line, shortened where a file that is no table has absurd ones."""
    listed = ", ".join(repr(column[:40]) for column in columns[:_SHOWN])
    more = f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else ""
    return f"the columns {listed}{more}"
