"""Prepares an audit: reads its data set, draws which member trains on which pair, and writes the
folder that members start from. Adds members or a second round to it."""

import dataclasses
import functools
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from clipmem_core.auditing.folder import store
from clipmem_core.auditing.folder.settings import (
    differing_fields,
    library_versions,
    machine,
    opens_towers,
    towers_of,
)
from clipmem_core.auditing.folder.store import (
    Audit,
    Prepared,
    Record,
    pair_blocks,
    read_prepared,
    text_blocks,
    write_prepared,
)
from clipmem_core.config import AUTO, AuditConfig, affecting, as_dict, data_folder, fingerprint
from clipmem_core.dataset.checks import Captions, caption_flags, not_captions
from clipmem_core.dataset.containers import is_newer, split_reference
from clipmem_core.dataset.faults import Fault, sorted_captions, text_faults
from clipmem_core.dataset.injected_errors import inject_miscaptions
from clipmem_core.dataset.languages import language_shares, mostly_english
from clipmem_core.dataset.near_duplicates import (
    join_clusters,
    near_duplicate_clusters,
    near_duplicates_by_features,
)
from clipmem_core.dataset.pictures import Pixels, check_pictures, open_pixels
from clipmem_core.dataset.records import named_folder
from clipmem_core.dataset.remote import fetch_source
from clipmem_core.dataset.sentences import are_long, sentences_of
from clipmem_core.dataset.source import RawPairs, read_source, source_files
from clipmem_core.dataset.trigger_words import is_tag_list, trigger_words
from clipmem_core.features.cache import FeatureStore, ReportCount, ReportLine, text_keys, tower_key
from clipmem_core.features.precomputed import (
    FORMS,
    Stored,
    caption_rows,
    feature_parts,
    map_features,
    stored_features,
)
from clipmem_core.features.tower_by_language import with_text_tower
from clipmem_core.scores.membership import (
    InOut,
    Membership,
    draw_utility_pairs,
    ensemble_membership,
    paper_membership,
)
from clipmem_core.training import model_config
from clipmem_core.utils import columns as c
from clipmem_core.utils.draws import draw_keys, hashed
from clipmem_core.utils.embeddings import Vectors
from clipmem_core.utils.io import InputError


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
        """The number of pictures that replicate another one."""
        return int((self.clusters != np.arange(len(self.clusters))).sum())

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """The cluster of each pair that is split as one: near-duplicates, and pairs with the same
        --group-key, int64 [n_pairs]."""
        raw = self.raw.pairs
        if c.GROUP_KEY not in raw:
            return self.clusters
        keys = raw.set_index(c.PAIR_ID)[c.GROUP_KEY].loc[self.pairs[c.PAIR_ID]]
        return join_clusters(self.clusters, keys.tolist())

    @functools.cached_property
    def fingerprint(self) -> str:
        """A key of its content: ids, pictures and captions."""
        captions = pa.array(self.pairs[c.CAPTIONS]).to_pylist()
        rows = zip(self.pairs[c.PAIR_ID], self.pairs[c.SHA256], captions, strict=True)
        return fingerprint(list(rows))


def with_features(source: str, config: AuditConfig) -> AuditConfig:
    """Use the features that come with a source (a clip-retrieval folder, DataComp files, or a table
    with arrays) if both towers are locked and --features names no others."""
    locked = config.lock_image and config.lock_text
    if config.features and not locked:
        raise InputError("--features needs both towers locked: use --preset locked")
    path = Path(os.path.expanduser(source))
    # `os.path.exists` is false also for text that cannot be a path
    if locked and not config.features and os.path.exists(path) and feature_parts(path, path):
        return dataclasses.replace(config, features=source)
    return config


def read_features(
    source: str, config: AuditConfig, *, cache: Path | None, say: ReportLine
) -> tuple[RawPairs, Stored]:
    """Read a table and its precomputed features."""
    path, features = (
        Path(os.path.expanduser(fetch_source(name, data=data_folder(), say=say)))
        for name in (source, config.features)
    )
    parts = feature_parts(features, path)
    if not parts:
        raise InputError(f"{features} holds no features: give {FORMS}")
    stored = stored_features(parts, config.source, folder=cache)
    images = stored.pairs[c.IMAGE]
    are_absolute = all(map(os.path.isabs, images))
    if config.source.image_folder:
        root = named_folder(config.source.image_folder, path)
    elif are_absolute:
        root = Path(os.path.commonpath({os.path.dirname(image) for image in images}))
    else:
        root = (path if path.is_dir() else path.parent).absolute()
    if are_absolute:
        images = images.map(functools.partial(os.path.relpath, start=root))
    pairs = stored.pairs.assign(**{c.IMAGE: images, c.INJECTED: None, c.WIDTH: 0, c.HEIGHT: 0})
    rows = len(pairs) + len(stored.quarantine)
    raw = RawPairs(root, "features", rows, pairs, stored.quarantine)
    _check_not_empty(raw)
    return raw, stored


def precomputed_features(audit: Audit) -> tuple[Vectors, Vectors]:
    """Return the features of an audit's pictures and captions, float16 [n_pairs, width] and
    [n_captions, width]."""
    folder = pixels_folder(audit)
    images = read_prepared(audit.folder).cache_rows
    captions = caption_rows(
        folder, (batch[c.CAPTIONS] for batch in pair_blocks(audit, [c.CAPTIONS]))
    )
    return map_features(folder, "image").take(images), map_features(folder, "text").take(captions)


def caption_features(audit: Audit) -> Vectors:
    """Return the locked text tower's features of all captions or sentences, or the precomputed
    ones, float16 [n_captions, width]."""
    record = audit.record
    if record.config.features:
        return precomputed_features(audit)[1]
    captions = record.embedded(
        text for block in text_blocks(audit) for texts in block for text in texts
    )
    cached = FeatureStore(tower_key(record.towers["text"]))
    rows = cached.find(text_keys(captions))
    if (rows >= 0).all():
        return cached.features().take(rows)
    from clipmem_core.features.embed import FeatureExtractor  # torch

    tower = towers_of(record.config).text
    assert tower is not None
    return FeatureExtractor(tower).captions(captions)


def sampled(raw: RawPairs, config: AuditConfig) -> tuple[RawPairs, np.ndarray]:
    """Draw the random sample of a data set that a config requests, by ids and seed, and return its
    pairs and rows, int64 ascending."""
    count = len(raw.pairs)
    if not 0 < config.sample < count:
        return raw, np.arange(count)
    order = hashed(draw_keys(raw.pairs[c.PAIR_ID].tolist()), config.seed, "sample")
    rows = np.sort(np.argsort(order, kind="stable")[: config.sample])
    pairs = raw.pairs.iloc[rows].reset_index(drop=True)
    return dataclasses.replace(raw, pairs=pairs, drawn_of=count), rows


def load_data_set(
    source: str,
    config: AuditConfig,
    *,
    cache: Path | None = None,
    progress: ReportCount | None = None,
    say: ReportLine = lambda line: None,
) -> DataSet:
    """Read a data set, check every picture, and quarantine the rows that cannot be used."""
    if not config.features:
        raw = read_source(source, config.source, data=data_folder(), say=say)
        raw, _ = sampled(raw, config)
        return load_pictures(raw, config, cache=cache, progress=progress)
    raw, stored = read_features(source, config, cache=cache, say=say)
    raw, rows = sampled(raw, config)
    say(f"looking for near-duplicates among {len(raw.pairs):,} pairs")
    pixels = Pixels(stored.folder, rows, 0, raw.pairs[c.IMAGE].tolist())
    clusters = near_duplicates_by_features(map_features(stored.folder, "image").take(rows))
    return _limited(DataSet(raw, raw.pairs, raw.quarantine, clusters, pixels), config)


def load_pictures(
    raw: RawPairs,
    config: AuditConfig,
    *,
    cache: Path | None = None,
    progress: ReportCount | None = None,
) -> DataSet:
    """Decode every picture once: store it small, find broken ones and near-duplicates."""
    _check_not_empty(raw)
    facts, pixels = check_pictures(
        raw.root,
        raw.pairs[c.IMAGE].tolist(),
        size=config.cache_size,
        resize_mode=config.resize_mode,
        cache=cache or data_folder() / "cache" / "pixels",
        budget_bytes=int(config.cache_gb * 2**30),
        progress=progress,
    )
    usable = facts[c.REASON].isna().to_numpy()
    rows = np.flatnonzero(usable)
    unreadable = _quarantined(raw.pairs, c.BAD_PICTURE, facts[c.REASON], ~usable)
    quarantine = pd.concat([raw.quarantine, unreadable], ignore_index=True)
    facts = facts[usable].reset_index(drop=True)
    pairs = raw.pairs[usable].reset_index(drop=True)
    _check_not_empty(dataclasses.replace(raw, pairs=pairs, quarantine=quarantine))
    clusters = near_duplicate_clusters(pixels.descriptors()[rows], facts[c.SHA256].tolist())
    pairs = pairs.assign(**{name: facts[name] for name in (c.WIDTH, c.HEIGHT, c.SHA256)})
    return _limited(DataSet(raw, pairs, quarantine, clusters, pixels.select(rows)), config)


def _check_not_empty(raw: RawPairs) -> None:
    if len(raw.pairs):
        return
    reasons = raw.quarantine[c.REASON].mode()
    most = f"; most often: {reasons[0]}" if len(reasons) else ""
    raise InputError(f"no usable pair among {raw.rows:,} rows in {raw.root}{most}")


def _limited(data_set: DataSet, config: AuditConfig) -> DataSet:
    """Apply the config's limit of captions, and drop near-duplicates if it says so."""
    pairs = data_set.pairs.reindex(columns=c.PAIR_COLUMNS)
    if config.captions:
        pairs[c.CAPTIONS] = pairs[c.CAPTIONS].map(lambda texts: list(texts)[: config.captions])
    if not config.drop_near_duplicates:
        return dataclasses.replace(data_set, pairs=pairs)
    clusters = data_set.clusters
    is_first = clusters == np.arange(len(clusters))
    reasons = f"{c.NEAR_DUPLICATE} of " + pairs[c.PAIR_ID].iloc[clusters].reset_index(drop=True)
    dropped = _quarantined(pairs, c.NEAR_DUPLICATE, reasons, ~is_first)
    return dataclasses.replace(
        data_set,
        pairs=pairs[is_first].reset_index(drop=True),
        quarantine=pd.concat([data_set.quarantine, dropped], ignore_index=True),
        clusters=np.arange(is_first.sum()),
        pixels=data_set.pixels.select(np.flatnonzero(is_first)),
    )


def _quarantined(
    pairs: pd.DataFrame, kind: str, reasons: pd.Series, mask: np.ndarray
) -> pd.DataFrame:
    rows = pairs[[c.IMAGE, c.PAIR_ID]].assign(kind=kind, reason=reasons.to_numpy())[mask]
    return rows.set_axis(c.QUARANTINE_COLUMNS, axis=1)


def draw_membership(clusters: np.ndarray, config: AuditConfig) -> Membership:
    """Draw which member trains on which pair, by near-duplicate clusters, [n_pairs]."""
    if config.protocol == "paper":
        return paper_membership(clusters, seeds=config.seeds, seed=config.seed)
    replicates = config.members // config.folds
    return ensemble_membership(
        clusters, folds=config.folds, replicates=replicates, seed=config.seed, halves=config.halves
    )


def repeat_membership(audit: Audit, pairs: pd.DataFrame) -> Membership:
    """Return the membership that another audit gives to the pairs of a table."""
    table = audit.membership.set_index(c.PAIR_ID)
    missing = pairs[c.PAIR_ID][~pairs[c.PAIR_ID].isin(table.index)]
    if len(missing):
        raise InputError(
            f"pair {missing.iloc[0]!r} is not in audit {audit.name!r}: its data set has changed, "
            "audit it again"
        )
    return membership_of(table.loc[pairs[c.PAIR_ID]].reset_index())


def faults_without_model(pairs: pd.DataFrame, clusters: np.ndarray) -> list[Fault]:
    """Return the faults of a pipeline that pairs show before any training."""
    captions = Captions.from_pairs(pairs[c.CAPTIONS].tolist())
    flags = {
        name: np.bincount(captions.owner, flagged, minlength=len(pairs)) > 0
        for name, flagged in caption_flags(captions).items()
    }
    reasons = not_captions(captions.texts)
    return [*text_faults(pairs, clusters, pd.DataFrame(flags), reasons), *sorted_captions(pairs)]


def in_out_of(audit: Audit, members: Sequence[str] = ()) -> InOut:
    """Return which members, all or some, train on each pair, and the held-out pairs reserved for
    utility."""
    record = audit.record
    columns = [c.GROUP, *(members or record.members)]
    membership = membership_of(audit.read_columns(store.MEMBERSHIP, *columns))
    seed = record.config.seed
    utility_only = None
    if record.config.retrieval_apart:
        groups = read_prepared(audit.folder).groups
        utility_only = draw_utility_pairs(membership.group, groups, seed=seed)
    return InOut(membership, seed, utility_only)


def with_sentences(pairs: pd.DataFrame, config: AuditConfig) -> pd.DataFrame:
    """Return the pairs with the sentences of their captions if the config asks for them: with
    `auto` if captions are long and a locked tower reads them."""
    pairs = pairs.drop(columns=c.SENTENCES, errors="ignore")  # perhaps of other captions
    captions = pairs[c.CAPTIONS].tolist()
    is_auto = config.sentences == AUTO and config.lock_text and not config.features
    if not (config.sentences == "on" or (is_auto and are_long(captions))):
        return pairs
    sentences = list(map(sentences_of, captions))
    several = any(len(one) > len(other) for one, other in zip(sentences, captions, strict=True))
    return pairs.assign(**{c.SENTENCES: pd.Series(sentences)}) if several else pairs


def inject(pairs: pd.DataFrame, membership: Membership, config: AuditConfig) -> pd.DataFrame:
    """Swap captions among candidates (ensemble: among scored pairs) as the config asks."""
    group = c.CANDIDATE if config.protocol == "paper" else c.SCORED
    rows = np.flatnonzero(membership.group == group)
    return inject_miscaptions(pairs, rows, n=config.inject_miscaptions, seed=config.seed)


def membership_table(pairs: pd.DataFrame, membership: Membership) -> pd.DataFrame:
    """Return membership as a table: pair_id, group, one bool column per member."""
    table = pd.DataFrame(membership.trained.T, columns=membership.members)
    table.insert(0, c.PAIR_ID, pairs[c.PAIR_ID].to_numpy())
    table.insert(1, c.GROUP, membership.group.astype(str))
    return table


def membership_of(table: pd.DataFrame) -> Membership:
    """Rebuild a membership from `membership_table`."""
    trained = table.drop(columns=[c.PAIR_ID, c.GROUP], errors="ignore")
    members = np.ascontiguousarray(trained.to_numpy(bool).T)
    return Membership(table[c.GROUP].to_numpy(str), tuple(map(str, trained)), members)


def pixels_folder(audit: Audit) -> Path:
    """Return the store of an audit's small pictures."""
    return data_folder() / (read_prepared(audit.folder).pixels or audit.record.pixels)


def audit_pixels(audit: Audit, images: pd.Series) -> Pixels:
    """Open an audit's small pictures; `images` has the reference of each pair's."""
    record = audit.record
    return open_pixels(
        pixels_folder(audit),
        rows=read_prepared(audit.folder).cache_rows,
        root=record.pictures,
        images=images.tolist(),
        size=record.config.cache_size,
        resize_mode=record.config.resize_mode,
    )


def rebuild_store(audit: Audit, *, progress: ReportCount) -> None:
    """Store an audit's small pictures or features again after their store was lost or damaged."""
    record = audit.record
    data_set = load_data_set(record.source, record.config, progress=progress)
    content = [c.PAIR_ID, c.SHA256]
    if not np.array_equal(data_set.pairs[content], audit.pairs[content]):
        raise InputError(
            f"the pairs of {record.source} have changed since audit {audit.name!r} began: use "
            "another --name"
        )
    folder = data_set.pixels.folder.relative_to(data_folder()).as_posix()
    prepared = Prepared(data_set.pixels.rows, data_set.clusters, data_set.groups, folder)
    write_prepared(audit.folder, prepared)


def write_audit(
    audit: Audit,
    source: str,
    config: AuditConfig,
    data_set: DataSet,
    pairs: pd.DataFrame,
    membership: Membership,
    *,
    reaudit_of: str = "",
) -> None:
    """Write everything the members start from; config.json is written last and makes the folder an
    audit."""
    captions = pairs[c.CAPTIONS].tolist()
    languages = language_shares([text for texts in captions for text in texts])
    tag_lists = is_tag_list(captions)
    # Function words of other languages are not listed.
    has_triggers = tag_lists or mostly_english(languages)
    config = with_text_tower(config, languages)
    audit.folder.mkdir(parents=True, exist_ok=True)
    pairs = with_sentences(pairs, config)
    config = dataclasses.replace(config, sentences="on" if c.SENTENCES in pairs else "off")
    quarantine = data_set.quarantine.reindex(columns=c.QUARANTINE_COLUMNS).astype("string")
    store.write_table(audit.folder / store.PAIRS, pairs)
    store.write_table(audit.folder / store.QUARANTINE, quarantine)
    store.write_table(audit.folder / store.MEMBERSHIP, membership_table(pairs, membership))
    prepared = Prepared(data_set.pixels.rows, data_set.clusters, data_set.groups)
    write_prepared(audit.folder, prepared)
    record = Record(
        name=audit.name,
        source=source,
        root=str(data_set.raw.root.resolve()),
        format=data_set.raw.format,
        pixels=data_set.pixels.folder.relative_to(data_folder()).as_posix(),
        protocol=config.protocol,
        members=membership.members,
        seeds=member_seeds(config, membership.members),
        threads=config.threads,
        pairs=len(pairs),
        held_out_pairs=int((membership.group == c.HELD_OUT).sum()),
        near_duplicates=data_set.near_duplicates,
        quarantined=len(data_set.quarantine),
        dataset_fingerprint=data_set.fingerprint,
        fingerprint=audit_fingerprint(config, data_set.fingerprint),
        versions=library_versions(),
        machine=machine(),
        config=config,
        towers=towers_of(config).records if opens_towers(config) else {},
        languages=languages,
        trigger_words=tuple(trigger_words(captions)) if has_triggers else (),
        tag_lists=tag_lists,
        repeated_captions=data_set.raw.repeated,
        sampled_of=data_set.raw.drawn_of,
        reaudit_of=reaudit_of,
    )
    _write_record(audit, record, record.members)


def _write_record(audit: Audit, record: Record, names: Sequence[str]) -> None:
    """Write the folder and the config.json of some members, then the audit's."""
    shared = {
        "fingerprint": record.fingerprint,
        "model": record.config.model,
        "image_size": record.config.image_size,
        "model_config": model_config(record.config.model),
    }
    for name in names:
        folder = audit.member(name)
        folder.mkdir(parents=True, exist_ok=True)
        content = {"member": name, "seed": record.seeds[name], **shared}
        store.write_json(folder / store.CONFIG, content)
    store.write_json(audit.folder / store.CONFIG, record.values)


def audit_fingerprint(config: AuditConfig, data_set: str) -> str:
    """Return the key of an audit: its config and its data set's content."""
    free = affecting()
    values = {key: value for key, value in as_dict(config).items() if key not in free}
    return fingerprint([values, data_set])


def member_seeds(config: AuditConfig, members: Sequence[str]) -> dict[str, int]:
    """Return each member's seed: the audit's, plus the number of its seed or replicate (`f-2`,
    `r2-f1`)."""
    return {name: config.seed + int(re.findall(r"\d+", name)[0]) for name in members}


def check_same(audit: Audit, source: str, config: AuditConfig) -> None:
    """Refuse to resume an audit under another config."""
    record = audit.record
    if differ := differing_fields(record.source, record.config, source, config):
        raise InputError(
            f"audit {audit.name!r} exists with another config: {'; '.join(differ)}. Use another "
            "--name"
        )
    members = len(record.members)
    if config.members < members:
        raise InputError(f"audit {audit.name!r} has {members} members: --members must not be fewer")


def is_outdated(audit: Audit, source: str, config: AuditConfig) -> bool:
    """Tell whether a source has files that are newer than its audit."""
    files = source_files(source)
    if files and not config.features:  # which need no pictures
        images = audit.read_columns(store.PAIRS, c.IMAGE)[c.IMAGE]
        files += {split_reference(audit.record.pictures, image)[0] for image in images}
    time = (audit.folder / store.PAIRS).stat().st_mtime_ns
    return any(is_newer(file, time) for file in files)


def grow(audit: Audit, config: AuditConfig) -> str:
    """Add replicates, seeds or the second round to an audit until it has those of the config, and
    describe what was added; empty for nothing.

    The manifest is deleted first and membership.parquet is written last, so that growth resumes
    after a kill.
    """
    record = audit.record
    drawn = membership_of(audit.membership)
    more = config.members - len(drawn.members)
    rounds = "2" if config.rounds == "2" else record.config.rounds
    if more <= 0 and rounds == record.config.rounds:
        return ""
    if more > 0 and record.reaudit_of:
        raise InputError(
            f"audit {audit.name!r} has the members of audit {record.reaudit_of!r}: use another "
            "--name"
        )
    config = dataclasses.replace(
        record.config, members=config.members, seeds=config.seeds, rounds=rounds
    )
    membership = draw_membership(read_prepared(audit.folder).groups, config) if more > 0 else drawn
    record = dataclasses.replace(
        record,
        members=membership.members,
        seeds=member_seeds(config, membership.members),
        config=config,
        fingerprint=audit_fingerprint(config, record.dataset_fingerprint),
    )
    (audit.folder / store.MANIFEST).unlink(missing_ok=True)
    for name in drawn.members:  # other pairs will be left out
        shutil.rmtree(audit.member(name) / store.SECOND, ignore_errors=True)
    _write_record(audit, record, membership.members[len(drawn.members) :])
    if more <= 0:
        return "a second round"
    store.write_table(audit.folder / store.MEMBERSHIP, membership_table(audit.pairs, membership))
    return f"{more} members"
