"""Audits of features that were computed elsewhere: where they are, and the data set that they and their table make."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.store import Audit, pair_blocks, read_prepared
from clipmem_core.config import AuditConfig, InputError, data_folder
from clipmem_core.features.lookalikes import alike_by_features
from clipmem_core.features.stored import SIDES, Stored, caption_rows, open_features, some_rows, stored_features
from clipmem_core.pairs.pixels import Pixels
from clipmem_core.pairs.readers.rows import named_folder
from clipmem_core.pairs.table import RawPairs, local_path

FORMAT = "features"
IMAGE_FEATURES, TEXT_FEATURES = "image.npy", "text.npy"
_TABLES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")


class GivenRows(Pixels):
    """Features of some pictures in the place of their squares: float16 [n, width], mapped from the file."""

    def __init__(self, folder: Path, rows: np.ndarray) -> None:
        super().__init__(folder, rows, 0)
        self.values = open_features(folder, "image")

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return the features of some pictures, float16 [n, width]."""
        return self.values[self.rows[rows]]

    def select(self, rows: np.ndarray) -> "GivenRows":
        """Return some of the pictures, addressed anew."""
        return GivenRows(self.folder, self.rows[rows])


def holds_features(source: str) -> bool:
    """Tell whether a data set brings features along: a folder of clip-retrieval's, DataComp's .parquet with .npz
    files, or a table with image.npy and text.npy in its folder."""
    path = Path(os.path.expanduser(source))
    if not os.path.exists(path):  # or no name of a file at all
        return False
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and (folder / "img_emb").is_dir() and (folder / "text_emb").is_dir():
        return True
    if path.suffix == ".parquet" and path.with_suffix(".npz").is_file():
        return True
    if path.is_dir() and any(table.with_suffix(".npz").is_file() for table in folder.glob("*.parquet")):
        return True
    beside = (folder / IMAGE_FEATURES).is_file() and (folder / TEXT_FEATURES).is_file()
    return beside and (len(_tables(folder)) == 1 if path.is_dir() else path.suffix in _TABLES)


def with_features(source: str, config: AuditConfig) -> AuditConfig:
    """Take a source's own features where both towers are locked and no others are named.

    Raises:
        InputError: features are named, but a tower is not locked.
    """
    if config.features and not (config.lock_image and config.lock_text):
        raise InputError("--features needs both towers locked: take --preset locked")
    if not config.features and config.lock_image and config.lock_text and holds_features(source):
        return dataclasses.replace(config, features=source)
    return config


def read_given(
    source: str, config: AuditConfig, *, cache: Path | None = None, say: Callable[[str], None] = lambda line: None
) -> tuple[RawPairs, Stored]:
    """Read a table and the features that were computed of it elsewhere.

    Args:
        source: the table that `config.features` has a row for each of, or the folder that the pictures are in where
            the features bring their own table along; both may be URLs.
        config: of which `features` and `source` matter.
        cache: where the checked features are kept; None takes the one in the data folder.
        say: told what is fetched from a URL.

    Raises:
        InputError: something is missing, cut off or does not fit; one line names it.
    """
    here = {one: local_path(one, data=data_folder(), say=say) for one in {source, config.features}}
    table, arrays = _named(here[source], here[config.features])
    stored = stored_features(
        table, config.source, image=arrays.get("image", ""), text=arrays.get("text", ""), folder=cache
    )
    root, images = _pictures(here[source], config, stored.pairs[c.IMAGE])
    pairs = stored.pairs.assign(**{c.IMAGE: images, c.PLANTED: None, c.WIDTH: 0, c.HEIGHT: 0})
    rows = len(pairs) + len(stored.quarantine)
    return RawPairs(root, FORMAT, rows, pairs, stored.quarantine), stored


def given_lookalikes(rows: GivenRows) -> np.ndarray:
    """Say which pictures look alike by their features, int64 [n_pairs]."""
    return alike_by_features(some_rows(rows.values, rows.rows))


def given_features(audit: Audit, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the features of an audit's pictures and captions, float16 [n_pairs, width] and [n_captions, width].

    Args:
        audit: one with features that were computed elsewhere.
        folder: where they are kept.
    """
    rows = read_prepared(audit.folder).cache_rows
    text = caption_rows(folder, rows, (batch[c.CAPTIONS] for batch in pair_blocks(audit, [c.CAPTIONS])))
    image, captioned = (open_features(folder, side) for side in SIDES)
    return some_rows(image, rows), some_rows(captioned, text)


def find_again(audit: Audit, source: str, config: AuditConfig) -> tuple[Path, np.ndarray]:
    """Return where the features of an audit's pairs are, read anew, and the row that each pair has there.

    Raises:
        InputError: they are no longer those that the audit began with.
    """
    stored, pairs = read_given(source, config)[1], audit.pairs
    known = pd.Series(np.arange(len(stored.pairs)), index=stored.pairs[c.SHA256])
    known = known[~known.index.duplicated()]
    rows = known.reindex(pairs[c.SHA256])
    if rows.isna().any():
        raise InputError(
            f"the features in {config.features} have changed since audit {audit.name!r} began: take another --name"
        )
    return stored.folder, rows.to_numpy(np.int64)


def _named(source: str, features: str) -> tuple[Path, dict[str, str]]:
    """Return the table to read, or the folder of several, and the arrays beside it where they do not have its name."""
    path, given = Path(os.path.expanduser(source)), Path(os.path.expanduser(features))
    for one, what in ((path, source), (given, f"--features {features}")):
        if not one.exists():
            raise InputError(f"there is no {what}: give a table or a folder, and the folder of its features")
    home = given if given.is_dir() else given.parent
    if given.suffix == ".parquet" and given.with_suffix(".npz").is_file():
        return given, {}
    if not any((home / name).is_file() for name in (IMAGE_FEATURES, TEXT_FEATURES)):
        return given, {}
    table = given if given.is_file() else path if path.is_file() else _the_table(path)
    return table, {"image": str(home / IMAGE_FEATURES), "text": str(home / TEXT_FEATURES)}


def _tables(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _TABLES and path.is_file())


def _the_table(folder: Path) -> Path:
    tables = _tables(folder)
    if len(tables) != 1:
        raise InputError(f"{folder} must hold one table of what the features are of, not {len(tables)}: name the table")
    return tables[0]


def _pictures(source: str, config: AuditConfig, images: pd.Series) -> tuple[Path, pd.Series]:
    """Return the folder that pictures are in, as far as they can be found, and the path of each in it."""
    path = Path(os.path.expanduser(source)).absolute()
    root = path if path.is_dir() else path.parent
    if config.source.image_folder:
        root = named_folder(config.source.image_folder, path)
    if not all(map(os.path.isabs, images)):
        return root, images
    folders = sorted({os.path.dirname(image) for image in images})
    if not config.source.image_folder and not all(Path(folder).is_relative_to(root) for folder in folders):
        root = Path(os.path.commonpath(folders))
    return root, pd.Series([os.path.relpath(image, root) for image in images])
