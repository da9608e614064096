"""From a data set to the tables a member starts from: pairs, quarantine, membership, and pictures or features."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.store import PAIR_BLOCK, Audit, Record, pair_blocks, read_prepared, write_prepared
from clipmem_core.config import AuditConfig, InputError, data_folder, fingerprint_rows
from clipmem_core.draws import SAMPLE, draw_keys, hashed
from clipmem_core.features.cache import some_rows
from clipmem_core.features.lookalikes import alike_by_features
from clipmem_core.features.stored import SIDES, Stored, caption_rows, open_features, stored_features
from clipmem_core.pairs.errors import plant_miscaptions
from clipmem_core.pairs.lookalikes import lookalike_clusters
from clipmem_core.pairs.pixels import Pixels, check_pictures
from clipmem_core.pairs.readers.rows import named_folder
from clipmem_core.pairs.table import RawPairs, local_path, read_source
from clipmem_core.scores.membership import Membership, Sides, ensemble_membership, paper_membership, set_apart
from clipmem_core.shortage import shortage
from clipmem_core.training.names import model_config

FORMAT = "features"
IMAGE_FEATURES, TEXT_FEATURES = "image.npy", "text.npy"
_TABLES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")


class GivenRows(Pixels):
    """Features of some pictures in the place of their squares: float16 [n, width], mapped from the file."""

    def __init__(self, folder: Path, rows: np.ndarray) -> None:
        self.values = open_features(folder, "image")
        super().__init__(folder, rows, size=0, stored=self.values)

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
    """Take a source's own features where both towers are locked and no others are named."""
    if config.features and not (config.lock_image and config.lock_text):
        raise InputError("--features needs both towers locked: take --preset locked")
    if not config.features and config.lock_image and config.lock_text and holds_features(source):
        return dataclasses.replace(config, features=source)
    return config


def read_given(
    source: str, config: AuditConfig, *, cache: Path | None = None, say: Callable[[str], None] = lambda line: None
) -> tuple[RawPairs, Stored]:
    """Read a table and the features that were computed of it elsewhere."""
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
    """Return the features of an audit's pictures and captions, float16 [n_pairs, width] and [n_captions, width]."""
    rows = read_prepared(audit.folder).cache_rows
    text = caption_rows(folder, rows, (batch[c.CAPTIONS] for batch in pair_blocks(audit, [c.CAPTIONS])))
    image, captioned = (open_features(folder, side) for side in SIDES)
    return some_rows(image, rows), some_rows(captioned, text)


def find_again(audit: Audit, source: str, config: AuditConfig) -> tuple[Path, np.ndarray]:
    """Return where the features of an audit's pairs are, read anew, and the row that each pair has there."""
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


def sampled(
    raw: RawPairs, config: AuditConfig, *, say: Callable[[str], None] = lambda line: None
) -> tuple[RawPairs, np.ndarray]:
    """Return a data set with as many of its pairs as a config asks for, and their rows, int64 ascending."""
    count = len(raw.pairs)
    if not 0 < config.sample < count:
        if config.sample:
            say(f"note: --sample {config.sample:,} is no less than the {count:,} pairs there are: all are audited")
        return raw, np.arange(count)
    order = hashed(draw_keys(raw.pairs[c.PAIR_ID].tolist()), config.seed, SAMPLE)
    rows = np.sort(np.argsort(order, kind="stable")[: config.sample])
    say(f"a random sample of {config.sample:,} of {count:,} pairs, by their ids and seed {config.seed}")
    return dataclasses.replace(raw, pairs=raw.pairs.iloc[rows].reset_index(drop=True), drawn_of=count), rows


Report = Callable[[int, int], None]
Say = Callable[[str], None]
REASONS_SAID = 3  # why rows of given features were set aside, the commonest


@dataclass(frozen=True)
class DataSet:
    """A data set that was read and looked at: what can be used, and what cannot and why."""

    raw: RawPairs
    pairs: pd.DataFrame  # columns.PAIR_COLUMNS
    quarantine: pd.DataFrame  # columns.QUARANTINE_COLUMNS
    clusters: np.ndarray  # int64 [n_pairs], look-alikes share a number
    pixels: Pixels  # of the pairs, in their order

    @property
    def lookalikes(self) -> int:
        """Pictures that look like an earlier one."""
        return int((self.clusters != np.arange(len(self.clusters))).sum())

    @property
    def fingerprint(self) -> str:
        """A key of the content: ids, pictures and captions."""
        return content_fingerprint(self.pairs)


def content_fingerprint(pairs: pd.DataFrame) -> str:
    """Return a key of a pair table's content: ids, pictures and captions."""
    blocks = (pairs.iloc[at : at + PAIR_BLOCK] for at in range(0, len(pairs), PAIR_BLOCK))
    parts = ((block[name].astype(object) for name in (c.PAIR_ID, c.SHA256, c.CAPTIONS)) for block in blocks)
    rows = itertools.chain.from_iterable(zip(*part, strict=True) for part in parts)
    return fingerprint_rows([pair_id, sha256, list(captions)] for pair_id, sha256, captions in rows)


def load_data_set(
    source: str,
    config: AuditConfig,
    *,
    cache: Path | None = None,
    progress: Report | None = None,
    say: Say = lambda line: None,
) -> DataSet:
    """Read a data set, look at every picture once, and set aside what cannot be used.

    What is stored of it lies in `cache`, or in the data folder.
    """
    if config.features:
        return _given(source, config, cache, say)
    raw, _ = sampled(read_source(source, config.source, data=data_folder(), say=say), config, say=say)
    return look_at_pictures(raw, config, cache=cache, progress=progress, say=say)


def look_at_pictures(
    raw: RawPairs,
    config: AuditConfig,
    *,
    cache: Path | None = None,
    progress: Report | None = None,
    say: Say = lambda line: None,
) -> DataSet:
    """Decode every picture once: store it small (in the data folder or `cache`), find broken ones and look-alikes.

    `say` is told which file of the store was broken, where it is made again because of one.
    """
    if raw.pairs.empty:
        raise InputError(_nothing_left(raw, raw.quarantine))
    images = raw.pairs[c.IMAGE].tolist()
    facts, pixels = _store(raw.root, images, config, cache=cache, progress=progress, say=say)
    usable = facts[c.REASON].isna().to_numpy()
    quarantine = pd.concat([raw.quarantine, _set_aside(raw.pairs, facts[c.REASON], ~usable)], ignore_index=True)
    if not usable.any():
        raise InputError(_nothing_left(raw, quarantine))
    rows = np.flatnonzero(usable)
    clusters = lookalike_clusters(pixels.descriptors()[rows], facts[c.SHA256].to_numpy()[rows].tolist())
    pairs = raw.pairs.iloc[rows].reset_index(drop=True)
    for column in (c.WIDTH, c.HEIGHT, c.SHA256):
        pairs[column] = facts[column].to_numpy()[rows]
    data_set = DataSet(raw, _as_asked(pairs, config), quarantine, clusters, pixels.select(rows))
    return drop_lookalikes(data_set) if config.drop_lookalikes else data_set


def _as_asked(pairs: pd.DataFrame, config: AuditConfig) -> pd.DataFrame:
    """Return the columns of a pair table, with as many captions as a config uses."""
    if config.captions:
        pairs[c.CAPTIONS] = [list(captions)[: config.captions] for captions in pairs[c.CAPTIONS]]
    return pairs.reindex(columns=c.PAIR_COLUMNS)


def _given(source: str, config: AuditConfig, cache: Path | None, say: Say) -> DataSet:
    """Read a data set whose features were computed elsewhere: its pictures are not opened."""
    raw, stored = read_given(source, config, cache=cache, say=say)
    for reason, count in raw.quarantine[c.REASON].value_counts().head(REASONS_SAID).items():
        say(f"{count:,} rows set aside: {reason}")
    raw, drawn = sampled(raw, config, say=say)
    say(f"looking for look-alikes among {len(raw.pairs):,} pairs")
    rows = GivenRows(stored.folder, drawn)
    data_set = DataSet(raw, _as_asked(raw.pairs, config), raw.quarantine, given_lookalikes(rows), rows)
    return drop_lookalikes(data_set) if config.drop_lookalikes else data_set


def _store(
    root: Path,
    images: Sequence[str],
    config: AuditConfig,
    *,
    cache: Path | None = None,
    progress: Report | None = None,
    say: Say = lambda line: None,
) -> tuple[pd.DataFrame, Pixels]:
    """Store pictures small as a config says, unless they are; return the facts of each, and where they are stored."""
    return check_pictures(
        root,
        images,
        size=config.cache_size,
        resize_mode=config.resize_mode,
        cache=cache or data_folder() / "cache" / "pixels",
        budget_bytes=int(config.cache_gb * 2**30),
        progress=progress,
        say=say,
    )


def _set_aside(pairs: pd.DataFrame, reasons: pd.Series, mask: np.ndarray) -> pd.DataFrame:
    aside = pairs[mask]
    return pd.DataFrame({c.SOURCE: aside[c.IMAGE], c.PAIR_ID: aside[c.PAIR_ID], c.REASON: reasons.to_numpy()[mask]})


def _nothing_left(raw: RawPairs, quarantine: pd.DataFrame) -> str:
    commonest = quarantine[c.REASON].value_counts()
    why = f"; most often: {commonest.index[0]} ({commonest.iloc[0]:,} rows)" if len(commonest) else ""
    return f"nothing is left to audit of {raw.rows:,} rows in {raw.root}{why}: `inspect` shows every reason"


def drop_lookalikes(data_set: DataSet) -> DataSet:
    """Keep the first picture of each group of look-alikes and set the others aside, naming their twin."""
    first = data_set.clusters == np.arange(len(data_set.clusters))
    ids = data_set.pairs[c.PAIR_ID].to_numpy()
    reasons = pd.Series([f"look-alike of {ids[twin]}" for twin in data_set.clusters])
    quarantine = pd.concat([data_set.quarantine, _set_aside(data_set.pairs, reasons, ~first)], ignore_index=True)
    rows = np.flatnonzero(first)
    return DataSet(
        raw=data_set.raw,
        pairs=data_set.pairs.iloc[rows].reset_index(drop=True),
        quarantine=quarantine,
        clusters=np.arange(len(rows)),
        pixels=data_set.pixels.select(rows),
    )


def draw_membership(clusters: np.ndarray, config: AuditConfig, *, members: int = 0) -> Membership:
    """Draw which member trains on which pair; of an ensemble so many members, or else those of the config.

    Args:
        clusters: look-alike cluster of each pair, [n_pairs].
        config: which protocol, how many folds and seeds, and what is drawn from.
        members: of an ensemble; 0 takes those of the config.
    """
    if config.protocol == "paper":
        return paper_membership(clusters, seeds=config.seeds, seed=config.seed)
    repeats = (members or config.members) // config.folds
    return ensemble_membership(clusters, folds=config.folds, repeats=repeats, seed=config.seed, halves=config.halves)


def repeat_membership(audit: Audit, pairs: pd.DataFrame) -> Membership:
    """Return the membership of another audit for those of its pairs that are in a table."""
    table = audit.membership.set_index(c.PAIR_ID)
    strange = [pair_id for pair_id in pairs[c.PAIR_ID] if pair_id not in table.index]
    if strange:
        raise InputError(f"{len(strange):,} pairs are not in audit {audit.name!r}, first {strange[0]!r}")
    return membership_of(table.loc[pairs[c.PAIR_ID]].reset_index())


def sides_of(audit: Audit, config: AuditConfig, membership: Membership) -> Sides:
    """Return as what each member counts for each pair, and the external pairs that are set apart for utility."""
    apart = None
    if config.retrieval_apart:
        apart = set_apart(membership.group, read_prepared(audit.folder).clusters, seed=config.seed)
    return Sides(membership, config.protocol, config.seed, apart)


def utility_rows(sides: Sides) -> np.ndarray:
    """Return the external pairs that utility is measured on: those set apart, or all."""
    return np.flatnonzero(sides.external if sides.apart is None else sides.apart)


def leave_out(membership: Membership, rows: np.ndarray) -> Membership:
    """Let no member train on some pairs, true in [n_pairs]; groups stay, so that nothing else moves."""
    return dataclasses.replace(membership, trained=membership.trained & ~rows)


def plant(pairs: pd.DataFrame, membership: Membership, config: AuditConfig) -> pd.DataFrame:
    """Swap captions among candidates (ensemble: among scored pairs) as the config asks."""
    drawn_from = c.CANDIDATE if config.protocol == "paper" else c.SCORED
    rows = np.flatnonzero(membership.group == drawn_from)
    return plant_miscaptions(pairs, rows, n=config.plant_miscaptions, seed=config.seed)


def membership_table(pairs: pd.DataFrame, membership: Membership) -> pd.DataFrame:
    """Return membership as a table: pair_id, group, one bool column a member."""
    table = pd.DataFrame({c.PAIR_ID: pairs[c.PAIR_ID].to_numpy(), c.GROUP: membership.group.astype(str)})
    for name, trained in zip(membership.members, membership.trained, strict=True):
        table[name] = trained
    return table


def membership_of(table: pd.DataFrame) -> Membership:
    """Rebuild a membership from `membership_table`."""
    names = tuple(column for column in table.columns if column not in (c.PAIR_ID, c.GROUP))
    trained = np.stack([table[name].to_numpy(dtype=bool) for name in names])
    groups, known = pd.factorize(table[c.GROUP])
    return Membership(np.asarray(known, dtype=str)[groups], names, trained)


def pixels_folder(audit: Audit) -> Path:
    """Return the store of an audit's small pictures: the one it began with, or where that was made again, that one."""
    return data_folder() / (read_prepared(audit.folder).pixels or audit.record.pixels)


def tokens_file(model: str, pairs: pd.DataFrame) -> Path:
    """Return where the tokens of all captions are kept, made once for all members."""
    captions = (caption for own in pairs[c.CAPTIONS] for caption in own)
    key = fingerprint_rows(captions, beside=[model_config(model)["text_cfg"], version("open_clip_torch")])
    return data_folder() / "cache" / "tokens" / f"{key}.npz"


def read_tokens(path: Path) -> np.ndarray | None:
    """Return the tokens in such a file, int32 [n_captions, context_length]; None where it is missing or broken."""
    try:
        with path.open("rb") as file, np.load(file) as kept:  # opened here, since numpy leaves a broken archive open
            return kept["tokens"]
    except Exception as error:  # zipfile and zlib raise whatever damaged bytes lead them to
        if shortage(error):
            raise
        return None


def store_again(audit: Audit, record: Record, *, progress: Report | None = None) -> None:
    """Store an audit's pictures small again, where their store is gone or broken."""
    if record.config.features:
        at, cache_rows = find_again(audit, record.source, record.config)
        clusters = given_lookalikes(GivenRows(at, cache_rows))
        write_prepared(
            audit.folder, cache_rows=cache_rows, clusters=clusters, pixels=at.relative_to(data_folder()).as_posix()
        )
        return
    if not record.pictures.exists():  # on another machine a set is fetched, or drawn, again
        read_source(record.source, record.config.source, data=data_folder())
        if not record.pictures.exists():
            raise InputError(f"there is no {record.pictures}")
    pairs = audit.pairs
    facts, pixels = _store(record.pictures, pairs[c.IMAGE].tolist(), record.config, progress=progress)
    if facts[c.REASON].notna().any() or facts[c.SHA256].tolist() != pairs[c.SHA256].tolist():
        raise InputError(
            f"the pictures in {record.root} have changed since audit {audit.name!r} began: take another --name"
        )
    clusters = lookalike_clusters(pixels.descriptors(), pairs[c.SHA256].tolist())
    folder = pixels.folder.relative_to(data_folder()).as_posix()
    write_prepared(audit.folder, cache_rows=pixels.rows, clusters=clusters, pixels=folder)
