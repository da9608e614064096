"""The cleaned data set: the pairs of an audit that are not removed, with new captions, and their
picture files."""

import io
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from clipmem_core.auditing.folder.store import PAIRS, Audit, read_table
from clipmem_core.dataset.containers import (
    is_picture,
    picture_fault,
    read_bytes,
    split_reference,
    tidy,
)
from clipmem_core.review.decisions import REMOVE, Decision, open_review
from clipmem_core.review.queries import fetch_by_id
from clipmem_core.utils.columns import CAPTIONS, HEIGHT, IMAGE, LABEL, PAIR_ID, WIDTH
from clipmem_core.utils.io import InputError, replacing_folder

RECAPTIONED = "recaptioned"
MARK = ".clipmem-export"  # file in a folder that an export may replace
CLEANED = "cleaned.json"  # in the folder of a data set that a second audit is of
PictureProgress = Callable[[int, int], None]  # called with the finished pictures, and all
_IN_ARCHIVE = r"(?i)\.tar/|\.parquet#[0-9]+$"
_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2", "PPM": ".pnm"}


@dataclass(frozen=True)
class Cleaned:
    """A cleaned data set, in the order of the audit; the index of a table is the row in the
    audit."""

    audit: Audit
    root: Path  # image references are relative to it
    # pair_id, image, captions, label, width, height, recaptioned (bool)
    pairs: pd.DataFrame
    removed: pd.DataFrame  # the same
    line: str  # the counts
    notes: tuple[str, ...]  # shown with any format

    @property
    def recaptioned(self) -> int:
        return int(self.pairs[RECAPTIONED].sum())


def clean(audit: Audit) -> Cleaned:
    """Apply the decisions that apply to the captions of an audit."""
    if audit.record.config.inject_miscaptions:
        raise InputError(
            f"audit {audit.name!r} injected wrong captions: export an audit without "
            "--inject-miscaptions"
        )
    columns = [PAIR_ID, IMAGE, CAPTIONS, LABEL, WIDTH, HEIGHT]
    pairs = read_table(audit.folder / PAIRS, columns=columns)
    pairs = pairs.astype(object).where(pairs.notna(), None)
    decisions = open_review(audit).decisions()
    current = [decisions.get(pair_id, Decision(pair_id)) for pair_id in pairs[PAIR_ID]]
    stored = list(map(list, pairs[CAPTIONS]))
    pairs[CAPTIONS] = list(map(_exported_captions, current, stored))
    pairs[RECAPTIONED] = [new != old for new, old in zip(pairs[CAPTIONS], stored, strict=True)]
    is_removed = np.array([each.decision == REMOVE for each in current])
    if is_removed.all():
        raise InputError(
            f"every pair of audit {audit.name!r} is marked for removal: there is nothing to export"
        )
    kept = pairs[~is_removed]
    quarantined = len(audit.quarantine)
    limit = audit.record.config.captions
    notes = counted(
        (
            audit.record.repeated_captions,
            f"{count_words(audit.record.repeated_captions, 'caption')} of the data set equal "
            "another one of the same picture and are merged with it.",
        ),
        (
            quarantined,
            f"{count_words(quarantined, 'unusable input row')} not included: see Quarantine on "
            "the page Overview.",
        ),
        (
            limit,
            f"At most {count_words(limit, 'caption')} of a pair included, as in the audit "
            "(--captions).",
        ),
    )
    line = contents_line(audit, decisions)
    return Cleaned(audit, audit.record.pictures, kept, pairs[is_removed], line, notes)


def contents_line(audit: Audit, decisions: Mapping[str, Decision]) -> str:
    """Return how many pairs an export has, and how many pairs and captions the decisions remove or
    change."""
    stored = fetch_by_id(audit.folder / PAIRS, CAPTIONS, decisions)
    reviewed = sum(decisions[pair_id].decision is not None for pair_id in stored)
    kept = [
        (_exported_captions(decisions[pair_id], old), old)
        for pair_id, old in stored.items()
        if decisions[pair_id].decision != REMOVE
    ]
    removed = len(stored) - len(kept)
    fewer = [len(old) - len(new) for new, old in kept if set(new) < set(old)]
    changed = sum(new != old for new, old in kept) - len(fewer)
    total = audit.record.pairs
    return (
        f"{count_words(total - removed, 'pair')} in the export, {total - reviewed:,} of them not "
        f"reviewed. Removed: {count_words(removed, 'pair')} and "
        f"{count_words(sum(fewer), 'caption')}. Captions changed: {count_words(changed, 'pair')}."
    )


def _exported_captions(decision: Decision, stored: Sequence[str]) -> list[str]:
    """Return the captions that a decision leaves, tidied as a reader does."""
    return list(filter(None, dict.fromkeys(map(tidy, decision.captions)))) or list(stored)


def count_words(count: int, noun: str) -> str:
    """Return a count and its noun in the singular or plural.

    Example:
        >>> count_words(1, "pair"), count_words(2000, "pair")
        ('1 pair', '2,000 pairs')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def counted(*notes: tuple[int, str]) -> tuple[str, ...]:
    """Return the notes whose count is not 0."""
    return tuple(note for count, note in notes if count)


def check_root(root: Path) -> None:
    """Check that the folder of the data set exists."""
    if not root.is_dir():
        raise InputError(f"the data set's folder {root} is missing: put it back to export from it")


@contextmanager
def picture_files(
    cleaned: Cleaned, path: Path, progress: PictureProgress
) -> Iterator[tuple[Path, list[str], tuple[str, ...]]]:
    """Yield an absolute folder, the names of the pictures in it, and notes.

    If a picture is in an archive or a table, all are copied into a new `<stem>_images`, which is
    complete at the end or missing.
    """
    images = cleaned.pairs[IMAGE]
    if images.str.contains(_IN_ARCHIVE).any():
        folder = images_folder(path)
        with picture_folder(cleaned, folder, progress) as (_, names):
            yield folder, names, (f"{count_words(len(names), 'picture')} extracted to {folder}",)
        return
    check_root(cleaned.root)
    missing = [image for image in images if picture_fault(cleaned.root, image)]
    note = (
        f"{count_words(len(missing), 'picture')} missing on this machine, first "
        f"{next(iter(missing), '')!r}."
    )
    yield cleaned.root, images.tolist(), counted((len(missing), note))


@contextmanager
def picture_folder(
    cleaned: Cleaned, path: Path, progress: PictureProgress
) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder with copies of the pictures, which replaces `path`, and their names.

    Hidden pictures, and those in archives, are named by row.
    """
    check_root(cleaned.root)
    names = list[str]()
    stems = set[str]()
    total = len(cleaned.pairs)
    with replacing_folder(path, mark=MARK) as folder:
        for row, image in cleaned.pairs[IMAGE].items():
            progress(len(names), total)
            try:
                data = read_bytes(cleaned.root, image)
            except FileNotFoundError as error:
                raise InputError(str(error)) from None
            in_file = split_reference(cleaned.root, image)[1] is None
            hidden = any(part.startswith(".") for part in image.split("/"))
            keeps_name = in_file and is_picture(image) and not hidden
            name = image if keeps_name else f"{row:08d}{suffix_of(data)}"
            stem, ending = posixpath.splitext(name)
            if stem.casefold() in stems:  # two pictures would share a .txt
                stem = f"{stem}-{row}"
            stems.add(stem.casefold())
            names.append(f"{stem}{ending}")
            (folder / names[-1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / names[-1]).write_bytes(data)
        progress(total, total)
        yield folder, names


def images_folder(path: Path) -> Path:
    """Return the folder of the pictures that an export extracts, next to it."""
    return path.with_name(f"{path.stem}_images").absolute()


def suffix_of(data: bytes) -> str:
    """Return the usual file suffix of a picture."""
    try:
        format = Image.open(io.BytesIO(data)).format or ""
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ".img"
    return _SUFFIXES.get(format, f".{format.lower()}")
