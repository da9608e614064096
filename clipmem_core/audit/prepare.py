"""Reads a data set for an audit: pairs, quarantine, membership, and small pictures or precomputed
features."""

import dataclasses
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from clipmem_core import columns as c
from clipmem_core.audit.settings import towers_of
from clipmem_core.audit.store import Audit, pair_blocks, read_prepared, write_prepared
from clipmem_core.config import AuditConfig, data_folder, fingerprint
from clipmem_core.dataset.duplicates import alike_by_features, near_duplicate_clusters
from clipmem_core.dataset.injected_errors import inject_miscaptions
from clipmem_core.dataset.pixels import Pixels, check_pictures
from clipmem_core.dataset.readers.records import named_folder
from clipmem_core.dataset.readers.remote import fetch
from clipmem_core.dataset.source import RawPairs, read_source
from clipmem_core.draws import SAMPLE, draw_keys, hashed
from clipmem_core.embeddings import Vectors
from clipmem_core.features.cache import FeatureStore, text_keys, tower_key
from clipmem_core.features.precomputed import (
    SIDES,
    Stored,
    caption_rows,
    open_features,
    stored_features,
)
from clipmem_core.io import InputError
from clipmem_core.scores.membership import (
    Membership,
    Sides,
    draw_utility_pairs,
    ensemble_membership,
    paper_membership,
)

ARRAYS = {side: f"{side}.npy" for side in SIDES}  # features, in the folder of a table
TABLES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
Report = Callable[[int, int], None]
Say = Callable[[str], None]


class FeatureRows(Pixels):
    """Precomputed features of some pictures in place of their pixels: float16 [n, width], mapped
    from the file."""

    def __init__(self, folder: Path, rows: np.ndarray) -> None:
        self.values = open_features(folder, "image")
        super().__init__(folder, rows, size=0, stored=self.values)

    def select(self, rows: np.ndarray) -> "FeatureRows":
        return FeatureRows(self.folder, self.rows[rows])

    def clusters(self) -> np.ndarray:
        """Return the near-duplicate cluster of each picture by its features, int64 [n]."""
        return alike_by_features(self.values.take(self.rows))


@dataclass(frozen=True)
class DataSet:
    """A data set whose pictures were checked: the pairs that can be used, and the rows that
    cannot."""

    raw: RawPairs
    pairs: pd.DataFrame  # columns.PAIR_COLUMNS
    quarantine: pd.DataFrame  # columns.QUARANTINE_COLUMNS
    clusters: np.ndarray  # int64 [n_pairs], near-duplicates share a number
    pixels: Pixels  # of the pairs, in their order

    @property
    def near_duplicates(self) -> int:
        """The number of pictures that repeat another one."""
        return int((self.clusters != np.arange(len(self.clusters))).sum())

    @functools.cached_property
    def fingerprint(self) -> str:
        """A key of its content: ids, pictures and captions."""
        captions = pa.array(self.pairs[c.CAPTIONS]).to_pylist()
        return fingerprint(
            list(zip(self.pairs[c.PAIR_ID], self.pairs[c.SHA256], captions, strict=True))
        )


def holds_features(source: str) -> bool:
    """Tell whether features come with a data set: a clip-retrieval folder, DataComp files, or a
    table with arrays."""
    path = Path(os.path.expanduser(source))
    if not os.path.exists(path):  # False also for text that cannot be a path
        return False
    if path.is_file():
        datacomp = path.suffix == ".parquet" and path.with_suffix(".npz").is_file()
        return datacomp or (path.suffix in TABLES and _has_arrays(path.parent))
    retrieval = all((path / name).is_dir() for name in ("img_emb", "text_emb"))
    datacomp = any(table.with_suffix(".npz").is_file() for table in path.glob("*.parquet"))
    return retrieval or datacomp or (_has_arrays(path) and len(_tables(path)) == 1)


def _has_arrays(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ARRAYS.values())


def _tables(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in TABLES and path.is_file()
    )


def with_features(source: str, config: AuditConfig) -> AuditConfig:
    """Use the features that come with a source if both towers are locked and --features names no
    others."""
    locked = config.lock_image and config.lock_text
    if config.features and not locked:
        raise InputError("--features needs both towers locked: use --preset locked")
    if locked and not config.features and holds_features(source):
        return dataclasses.replace(config, features=source)
    return config


def read_features(
    source: str, config: AuditConfig, *, cache: Path | None = None, say: Say = lambda line: None
) -> tuple[RawPairs, Stored]:
    """Read a table and its precomputed features."""
    local = {name: fetch(name, data=data_folder(), say=say) for name in {source, config.features}}
    path, features = (Path(os.path.expanduser(local[name])) for name in (source, config.features))
    for file in (path, features):
        if not file.exists():
            raise InputError(
                f"there is no {file}: name a table or a folder, and the folder of its --features"
            )
    folder = features if features.is_dir() else features.parent
    table = features
    arrays = {side: "" for side in SIDES}
    has_npz = features.suffix == ".parquet" and features.with_suffix(".npz").is_file()
    if not has_npz and any((folder / name).is_file() for name in ARRAYS.values()):
        arrays = {side: str(folder / name) for side, name in ARRAYS.items()}
        table = features if features.is_file() else path
        if table.is_dir():
            tables = _tables(table)
            if len(tables) != 1:
                raise InputError(
                    f"{path} must hold one table of the features' rows, not {len(tables)}: name "
                    "the table"
                )
            table = tables[0]
    stored = stored_features(table, config.source, **arrays, folder=cache)
    path = path.absolute()
    image_folder = config.source.image_folder
    images = stored.pairs[c.IMAGE]
    root = (
        named_folder(image_folder, path) if image_folder else path if path.is_dir() else path.parent
    )
    if all(map(os.path.isabs, images)):
        folders = sorted({os.path.dirname(image) for image in images})
        if not image_folder and not all(Path(name).is_relative_to(root) for name in folders):
            root = Path(os.path.commonpath(folders))
        images = pd.Series([os.path.relpath(image, root) for image in images])
    pairs = stored.pairs.assign(**{c.IMAGE: images, c.INJECTED: None, c.WIDTH: 0, c.HEIGHT: 0})
    return RawPairs(
        root, "features", len(pairs) + len(stored.quarantine), pairs, stored.quarantine
    ), stored


def precomputed_features(audit: Audit, folder: Path) -> tuple[Vectors, Vectors]:
    """Return the features of an audit's pictures and captions, float16 [n_pairs, width] and
    [n_captions, width]."""
    rows = read_prepared(audit.folder).cache_rows
    text = caption_rows(
        folder, rows, (batch[c.CAPTIONS] for batch in pair_blocks(audit, [c.CAPTIONS]))
    )
    return open_features(folder, "image").take(rows), open_features(folder, "text").take(text)


def caption_features(audit: Audit) -> Vectors:
    """Return the locked text tower's features of all captions, or the precomputed ones, float16
    [n_captions, width]."""
    record = audit.record
    if record.config.features:
        return precomputed_features(audit, pixels_folder(audit))[1]
    captions = [
        text
        for batch in pair_blocks(audit, [c.CAPTIONS])
        for text in batch[c.CAPTIONS].flatten().to_pylist()
    ]
    store = FeatureStore(tower_key(record.towers["text"]))
    rows = store.find(text_keys(captions))
    if (rows < 0).any():
        from clipmem_core.features.embed import text_features  # torch

        tower = towers_of(record.config).text
        assert tower is not None
        return text_features([captions], tower)[0]
    return store.features().take(rows)


def sampled(
    raw: RawPairs, config: AuditConfig, *, say: Say = lambda line: None
) -> tuple[RawPairs, np.ndarray]:
    """Draw the random sample of a data set that a config requests, and return its pairs and rows,
    int64 ascending."""
    count = len(raw.pairs)
    if not 0 < config.sample < count:
        return raw, np.arange(count)
    order = hashed(draw_keys(raw.pairs[c.PAIR_ID].tolist()), config.seed, SAMPLE)
    rows = np.sort(np.argsort(order, kind="stable")[: config.sample])
    say(
        f"a random sample of {config.sample:,} of {count:,} pairs, by their ids and seed "
        f"{config.seed}"
    )
    return dataclasses.replace(
        raw, pairs=raw.pairs.iloc[rows].reset_index(drop=True), drawn_of=count
    ), rows


def load_data_set(
    source: str,
    config: AuditConfig,
    *,
    cache: Path | None = None,
    progress: Report | None = None,
    say: Say = lambda line: None,
) -> DataSet:
    """Read a data set, check every picture, and quarantine the rows that cannot be used."""
    if not config.features:
        raw, _ = sampled(
            read_source(source, config.source, data=data_folder(), say=say), config, say=say
        )
        return read_pictures(raw, config, cache=cache, progress=progress)
    raw, stored = read_features(source, config, cache=cache, say=say)
    raw, drawn = sampled(raw, config, say=say)
    say(f"looking for near-duplicates among {len(raw.pairs):,} pairs")
    rows = FeatureRows(stored.folder, drawn)
    return _data_set(raw, raw.pairs, raw.quarantine, rows.clusters(), rows, config)


def read_pictures(
    raw: RawPairs, config: AuditConfig, *, cache: Path | None = None, progress: Report | None = None
) -> DataSet:
    """Decode every picture once: store it small, find broken ones and near-duplicates."""
    _check_not_empty(raw, raw.pairs, raw.quarantine)
    facts, pixels = _store_pixels(raw.root, raw.pairs, config, cache=cache, progress=progress)
    usable = facts[c.REASON].isna().to_numpy()
    quarantine = pd.concat(
        [raw.quarantine, _quarantined(raw.pairs, facts[c.REASON], ~usable)], ignore_index=True
    )
    facts = facts[usable].reset_index(drop=True)
    pairs = raw.pairs[usable].reset_index(drop=True)
    _check_not_empty(raw, pairs, quarantine)
    rows = np.flatnonzero(usable)
    clusters = near_duplicate_clusters(pixels.descriptors()[rows], facts[c.SHA256].tolist())
    pairs = pairs.assign(**{name: facts[name] for name in (c.WIDTH, c.HEIGHT, c.SHA256)})
    return _data_set(raw, pairs, quarantine, clusters, pixels.select(rows), config)


def _check_not_empty(raw: RawPairs, pairs: pd.DataFrame, quarantine: pd.DataFrame) -> None:
    if pairs.empty:
        reasons = quarantine[c.REASON].value_counts()
        most = (
            f"; most often: {reasons.index[0]} ({reasons.iloc[0]:,} rows)" if len(reasons) else ""
        )
        raise InputError(
            f"no usable pair among {raw.rows:,} rows in {raw.root}{most}: `inspect` shows every "
            "reason"
        )


def _store_pixels(
    root: Path, pairs: pd.DataFrame, config: AuditConfig, *, cache: Path | None = None, **show: Any
) -> tuple[pd.DataFrame, Pixels]:
    return check_pictures(
        root,
        pairs[c.IMAGE].tolist(),
        size=config.cache_size,
        resize_mode=config.resize_mode,
        cache=cache or data_folder() / "cache" / "pixels",
        budget_bytes=int(config.cache_gb * 2**30),
        **show,
    )


def _data_set(
    raw: RawPairs,
    pairs: pd.DataFrame,
    quarantine: pd.DataFrame,
    clusters: np.ndarray,
    pixels: Pixels,
    config: AuditConfig,
) -> DataSet:
    """Apply the config's limit of captions, and drop near-duplicates if it says so."""
    if config.captions:
        pairs = pairs.assign(
            **{
                c.CAPTIONS: pairs[c.CAPTIONS].map(
                    lambda captions: list(captions)[: config.captions]
                )
            }
        )
    pairs = pairs.reindex(columns=c.PAIR_COLUMNS)
    if config.drop_near_duplicates:
        first = clusters == np.arange(len(clusters))
        reasons = "near-duplicate of " + pairs[c.PAIR_ID].iloc[clusters].reset_index(drop=True)
        quarantine = pd.concat(
            [quarantine, _quarantined(pairs, reasons, ~first)], ignore_index=True
        )
        pairs = pairs[first].reset_index(drop=True)
        pixels = pixels.select(np.flatnonzero(first))
        clusters = np.arange(len(pairs))
    return DataSet(raw, pairs, quarantine, clusters, pixels)


def _quarantined(pairs: pd.DataFrame, reasons: pd.Series, mask: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {c.SOURCE: pairs[c.IMAGE], c.PAIR_ID: pairs[c.PAIR_ID], c.REASON: reasons.to_numpy()}
    )[mask]


def draw_membership(clusters: np.ndarray, config: AuditConfig, *, members: int = 0) -> Membership:
    """Draw which member trains on which pair, by near-duplicate clusters, [n_pairs]; 0 members: the
    config's."""
    if config.protocol == "paper":
        return paper_membership(clusters, seeds=config.seeds, seed=config.seed)
    repeats = (members or config.members) // config.folds
    return ensemble_membership(
        clusters, folds=config.folds, repeats=repeats, seed=config.seed, halves=config.halves
    )


def repeat_membership(audit: Audit, pairs: pd.DataFrame) -> Membership:
    """Return the membership that another audit gives to the pairs of a table."""
    table = audit.membership.set_index(c.PAIR_ID)
    missing = pairs[c.PAIR_ID][~pairs[c.PAIR_ID].isin(table.index)]
    if len(missing):
        raise InputError(
            f"{len(missing):,} pairs are not in audit {audit.name!r}, first {missing.iloc[0]!r}"
        )
    return membership_of(table.loc[pairs[c.PAIR_ID]].reset_index())


def sides_of(audit: Audit, config: AuditConfig, membership: Membership) -> Sides:
    """Return each pair's side for each member, and the external pairs reserved for utility."""
    utility_only = None
    if config.retrieval_apart:
        utility_only = draw_utility_pairs(
            membership.group, read_prepared(audit.folder).clusters, seed=config.seed
        )
    return Sides(membership, config.protocol, config.seed, utility_only)


def utility_rows(sides: Sides) -> np.ndarray:
    """Return the external pairs that utility is measured on."""
    return np.flatnonzero(sides.external if sides.utility_only is None else sides.utility_only)


def inject(pairs: pd.DataFrame, membership: Membership, config: AuditConfig) -> pd.DataFrame:
    """Swap captions among candidates (ensemble: among scored pairs) as the config asks."""
    rows = np.flatnonzero(
        membership.group == (c.CANDIDATE if config.protocol == "paper" else c.SCORED)
    )
    return inject_miscaptions(pairs, rows, n=config.inject_miscaptions, seed=config.seed)


def membership_table(pairs: pd.DataFrame, membership: Membership) -> pd.DataFrame:
    """Return membership as a table: pair_id, group, one bool column per member."""
    table = pd.DataFrame(
        {c.PAIR_ID: pairs[c.PAIR_ID].to_numpy(), c.GROUP: membership.group.astype(str)}
    )
    return table.assign(**dict(zip(membership.members, membership.trained, strict=True)))


def membership_of(table: pd.DataFrame) -> Membership:
    """Rebuild a membership from `membership_table`."""
    names = tuple(column for column in table.columns if column not in (c.PAIR_ID, c.GROUP))
    trained = np.stack([table[name].to_numpy(dtype=bool) for name in names])
    groups, values = pd.factorize(table[c.GROUP])
    return Membership(np.asarray(values, dtype=str)[groups], names, trained)


def pixels_folder(audit: Audit) -> Path:
    """Return the store of an audit's small pictures."""
    return data_folder() / (read_prepared(audit.folder).pixels or audit.record.pixels)


def rebuild_store(audit: Audit, *, progress: Report | None = None) -> None:
    """Store an audit's small pictures or features again after their store was lost or damaged."""
    record = audit.record
    changed = f"have changed since audit {audit.name!r} began: use another --name"
    pairs = audit.pairs
    pixels: Pixels
    if record.config.features:
        stored = read_features(record.source, record.config)[1]
        rows = pd.Series(np.arange(len(stored.pairs)), index=stored.pairs[c.SHA256])
        rows = rows[~rows.index.duplicated()].reindex(pairs[c.SHA256])
        if rows.isna().any():
            raise InputError(f"the features in {record.config.features} {changed}")
        pixels = FeatureRows(stored.folder, rows.to_numpy(np.int64))
        clusters = pixels.clusters()
    else:
        if not record.pictures.exists():  # on another machine: fetch or draw the set again
            read_source(record.source, record.config.source, data=data_folder())
            if not record.pictures.exists():
                raise InputError(f"there is no {record.pictures}")
        facts, pixels = _store_pixels(record.pictures, pairs, record.config, progress=progress)
        if facts[c.REASON].notna().any() or facts[c.SHA256].tolist() != pairs[c.SHA256].tolist():
            raise InputError(f"the pictures in {record.root} {changed}")
        clusters = near_duplicate_clusters(pixels.descriptors(), pairs[c.SHA256].tolist())
    folder = pixels.folder.relative_to(data_folder()).as_posix()
    write_prepared(audit.folder, cache_rows=pixels.rows, clusters=clusters, pixels=folder)
