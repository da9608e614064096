"""Creates an audit's folder, compares its config with a new one, and adds members or a second round
to it."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from clipmem_core.auditing.folder import settings, store
from clipmem_core.auditing.folder.prepare import (
    DataSet,
    draw_membership,
    load_data_set,
    membership_of,
    membership_table,
    with_sentences,
)
from clipmem_core.auditing.folder.status import Screen
from clipmem_core.auditing.folder.store import Audit, Record
from clipmem_core.config import (
    AUTO,
    FIELDS,
    AuditConfig,
    affecting,
    as_dict,
    data_folder,
    fingerprint,
    flat,
)
from clipmem_core.dataset.languages import language_shares
from clipmem_core.dataset.readers.containers import is_newer, split_reference
from clipmem_core.dataset.source import source_files
from clipmem_core.features.tower_by_language import with_text_tower
from clipmem_core.scores.membership import Membership
from clipmem_core.training.names import model_config
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError

_BY_CAPTIONS = ("text_tower", "sentences")  # with `auto` fields that the captions decide
MAY_DIFFER = (*affecting("members"), *affecting())  # fields that may change when an audit resumes


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
    languages = language_shares([text for captions in pairs[c.CAPTIONS] for text in captions])
    config = with_text_tower(config, languages)
    audit.folder.mkdir(parents=True, exist_ok=True)
    pairs = with_sentences(pairs, config)
    config = dataclasses.replace(config, sentences="on" if c.SENTENCES in pairs else "off")
    quarantine = data_set.quarantine.reindex(columns=c.QUARANTINE_COLUMNS).astype("string")
    store.write_table(audit.folder / store.PAIRS, pairs)
    store.write_table(audit.folder / store.QUARANTINE, quarantine)
    store.write_table(audit.folder / store.MEMBERSHIP, membership_table(pairs, membership))
    prepared = store.Prepared(data_set.pixels.rows, data_set.clusters, data_set.groups)
    store.write_prepared(audit.folder, prepared)
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
        versions=settings.library_versions(),
        machine=settings.machine(),
        config=config,
        towers=settings.towers_of(config).records if settings.opens_towers(config) else {},
        languages=languages,
        repeated_captions=data_set.raw.repeated,
        sampled_of=data_set.raw.drawn_of,
        reaudit_of=reaudit_of,
    )
    _write_members(audit, record, record.members)
    store.write_json(audit.folder / store.CONFIG, record.values)


def _write_members(audit: Audit, record: Record, names: Sequence[str]) -> None:
    model = record.config.model
    for name in names:
        audit.member(name).mkdir(parents=True, exist_ok=True)
        member = store.MemberRecord(
            name,
            record.seeds[name],
            record.fingerprint,
            model,
            record.config.image_size,
            model_config(model),
        )
        store.write_json(audit.member(name) / store.CONFIG, vars(member))


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


def source_changes(audit: Audit, source: str, config: AuditConfig, screen: Screen) -> str:
    """Describe how a source differs from the pairs of its audit; empty if it does not.

    It is read again only if one of its files is newer than the audit's.
    """
    time = (audit.folder / store.PAIRS).stat().st_mtime_ns
    root = audit.record.pictures
    files = source_files(source)
    if files and not config.features:  # which need no pictures
        images = audit.read_columns(store.PAIRS, c.IMAGE)[c.IMAGE]
        files += {split_reference(root, image)[0] for image in images}
    if not any(is_newer(file, time) for file in files):
        return ""
    screen.say(f"reading {source} again: it has newer files than audit {audit.name!r}")
    data_set = load_data_set(source, config, progress=screen.pictures, say=screen.say)
    then, now = (pairs.set_index(c.PAIR_ID) for pairs in (audit.pairs, data_set.pairs))
    both = then.index.intersection(now.index)
    added = len(now) - len(both)
    removed = len(then) - len(both)
    then, now = then.loc[both], now.loc[both]
    injected = then[c.INJECTED].notna() & bool(config.inject_miscaptions)
    captions = then[c.CAPTIONS].map(list) != now[c.CAPTIONS].map(list)
    counts = {
        "pairs added": added,
        "pairs removed": removed,
        "pairs with other captions": (captions & ~injected).sum(),
        "pairs with another picture": (then[c.SHA256] != now[c.SHA256]).sum(),
    }
    return ", ".join(f"{what}: {count:,}" for what, count in counts.items() if count)


def differing_fields(
    source_then: str,
    config_then: AuditConfig,
    source: str,
    config: AuditConfig,
    *,
    may_differ: Sequence[str] = MAY_DIFFER,
) -> list[str]:
    """Describe how the source and config of an audit, a study or a benchmark differ from the
    requested ones."""
    now = flat(as_dict(config))
    then = flat(as_dict(config_then))
    # `threads`: another machine may resume. What is to be chosen by the captions was chosen.
    free = {*may_differ, "threads", *(key for key in _BY_CAPTIONS if now[key] == AUTO)}
    differ = [
        f"{FIELDS[key].flag} is {then[key]!r} there and {now[key]!r} here"
        for key in now
        if key not in free and now[key] != then[key]
    ]
    if source_then != source and Path(source_then).resolve() != Path(source).resolve():
        differ.insert(0, f"the source is {source_then!r} there and {source!r} here")
    return differ


def grow(audit: Audit, config: AuditConfig) -> int:
    """Add replicates or seeds to an audit until it has the members of the config, and return the
    number added.

    The manifest is deleted first and membership.parquet is written last, so that growth resumes
    after a kill.
    """
    record = audit.record
    drawn = membership_of(audit.membership)
    more = config.members - len(drawn.members)
    if more <= 0:
        return 0
    if record.reaudit_of:
        raise InputError(
            f"audit {audit.name!r} has the members of audit {record.reaudit_of!r}: use another "
            "--name"
        )
    rounds = "2" if config.rounds == "2" else record.config.rounds
    chosen = {name: getattr(record.config, name) for name in ("threads", *_BY_CAPTIONS)}
    config = dataclasses.replace(config, rounds=rounds, **chosen)
    membership = draw_membership(store.read_prepared(audit.folder).groups, config)
    new = membership.members[len(drawn.members) :]
    seeds = member_seeds(config, membership.members)
    record = dataclasses.replace(record, members=membership.members, seeds=seeds, config=config)
    _change(audit, record, new)
    store.write_table(audit.folder / store.MEMBERSHIP, membership_table(audit.pairs, membership))
    return more


def add_round(audit: Audit, config: AuditConfig) -> bool:
    """Add the second round of training to an audit if the config requests it, and tell whether it
    was added."""
    record = audit.record
    if config.rounds != "2" or record.config.rounds == "2":
        return False
    config = dataclasses.replace(record.config, rounds=config.rounds)
    _change(audit, dataclasses.replace(record, config=config))
    return True


def _change(audit: Audit, record: Record, new: Sequence[str] = ()) -> None:
    """Reopen an audit, and write its changed record and the folders of new members."""
    record = dataclasses.replace(
        record, fingerprint=audit_fingerprint(record.config, record.dataset_fingerprint)
    )
    (audit.folder / store.MANIFEST).unlink(missing_ok=True)
    _write_members(audit, record, new)
    store.write_json(audit.folder / store.CONFIG, record.values)
