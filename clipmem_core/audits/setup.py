"""The beginning of an audit: what its members start from, written once, compared and grown later."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits import settings, store
from clipmem_core.audits.prepare import DataSet, draw_membership, leave_out, membership_of, membership_table
from clipmem_core.audits.store import Audit, Record
from clipmem_core.config import FIELDS, AuditConfig, InputError, affecting, as_dict, data_folder, fingerprint, flat
from clipmem_core.scores.membership import Membership
from clipmem_core.training.names import model_config

MAY_DIFFER = (*affecting("members"), *affecting())  # fields that may change when an audit resumes


def write_audit(
    audit: Audit,
    source: str,
    config: AuditConfig,
    data_set: DataSet,
    pairs: pd.DataFrame,
    membership: Membership,
    *,
    seconds: float,
    checkpoints: Sequence[Path] = (),
    snapshots: Sequence[int] = (),
    again: str = "",
) -> None:
    """Write everything the members start from; config.json is written last and makes the folder an audit.

    `snapshots` are epochs after which each member stores its embeddings. `again` is the audit whose membership it
    repeats.
    """
    audit.folder.mkdir(parents=True, exist_ok=True)
    quarantine = data_set.quarantine.reindex(columns=c.QUARANTINE_COLUMNS).astype("string")
    store.write_table(audit.folder / store.PAIRS, pairs)
    store.write_table(audit.folder / store.QUARANTINE, quarantine)
    store.write_table(audit.folder / store.MEMBERSHIP, membership_table(pairs, membership))
    store.write_prepared(audit.folder, cache_rows=data_set.pixels.rows, clusters=data_set.clusters)
    content = data_set.fingerprint
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
        device=config.device,
        precision=config.precision,
        pairs=len(pairs),
        external_pairs=int((membership.group == c.EXTERNAL).sum()),
        lookalikes=data_set.lookalikes,
        quarantined=len(data_set.quarantine),
        dataset_fingerprint=content,
        fingerprint=audit_fingerprint(config, content),
        prepare_seconds=round(seconds, 2),
        versions=settings.versions(),
        machine=settings.machine(),
        config=config,
        snapshots=tuple(snapshots),
        towers=settings.towers_of(config).records if settings.opens_towers(config) else {},
        sampled_of=data_set.raw.drawn_of,
        again=again,
    )
    _write_members(audit, record, record.members, checkpoints)
    store.write_json(audit.folder / store.CONFIG, record.values)


def _write_members(audit: Audit, record: Record, names: Sequence[str], checkpoints: Sequence[Path] = ()) -> None:
    """Make each new member's folder: what rebuilds its model, and the seed it trains from or the checkpoint it is."""
    model, size = record.config.model, record.config.image_size
    for place, name in enumerate(names):
        audit.member(name).mkdir(parents=True, exist_ok=True)
        paths = checkpoints[place : place + 1]
        file = [text for path in paths for text in (str(path), store.file_sha256(path))]
        member = store.MemberRecord(
            name, record.seeds[name], record.fingerprint, model, size, model_config(model), *file
        )
        store.write_json(audit.member(name) / store.CONFIG, member.values)


def audit_fingerprint(config: AuditConfig, data_set: str) -> str:
    """Return the key of an audit: its config and its data set's content."""
    values, free = as_dict(config), affecting()
    values["source"] = {key: value for key, value in values["source"].items() if key not in free}
    return fingerprint([{key: value for key, value in values.items() if key not in free}, data_set])


def member_seeds(config: AuditConfig, members: Sequence[str]) -> dict[str, int]:
    """Return each member's seed: the audit's, plus the number of its seed or repeat (`f-2`, `r2-f1`)."""
    return {name: config.seed + int(re.findall(r"\d+", name)[0]) for name in members}


def check_same(audit: Audit, source: str, config: AuditConfig) -> None:
    """Refuse to resume an audit under another config."""
    record = audit.record
    if differ := differing_fields(record.source, record.config, source, config):
        raise InputError(f"audit {audit.name!r} exists with another config: {'; '.join(differ)}. Take another --name")
    members = len(record.members)  # fewer than asked for, if an audit stopped once it was stable
    if config.members < members:
        raise InputError(
            f"audit {audit.name!r} has {members} members and {config.members} were asked for: "
            "ask for as many or more, or take another --name"
        )


def differing_fields(source_then: str, config_then: AuditConfig, source: str, config: AuditConfig) -> list[str]:
    """Say what differs between the source and config of an audit or a study and those asked for now."""
    now, then = (flat(as_dict(one)) for one in (config, config_then))
    differ = [
        f"{FIELDS[key].flag} is {then[key]!r} there and {now[key]!r} here"
        for key in now
        if key not in (*MAY_DIFFER, "threads") and now[key] != then[key]  # another machine may resume
    ]
    if source_then != source and Path(source_then).resolve() != Path(source).resolve():
        differ.insert(0, f"the source is {source_then!r} there and {source!r} here")
    return differ


def grow(audit: Audit, config: AuditConfig, *, members: int = 0) -> int:
    """Add repeats or seeds to an audit until it has as many `members` (0: as the config asks for), and return how many
    were added. Pairs left out of the training of the first members are left out of that of the new ones.

    The manifest is deleted first and membership.parquet is written last, so that growth resumes after a kill.
    """
    record, drawn = audit.record, membership_of(audit.membership)
    more = (members or config.members) - len(drawn.members)
    if more <= 0:
        return 0
    if record.again:
        raise InputError(f"audit {audit.name!r} has the members of audit {record.again!r}: take another --name")
    _check_trains(audit, drawn.members[0])
    rounds = "2" if config.rounds == "2" else record.config.rounds
    config = dataclasses.replace(config, threads=record.threads, rounds=rounds)
    membership = draw_membership(store.read_prepared(audit.folder).clusters, config, members=members)
    new = membership.members[len(drawn.members) :]
    membership = leave_out(membership, (membership.trained[: -len(new)] & ~drawn.trained).any(axis=0))
    seeds = member_seeds(config, membership.members)
    _change(audit, dataclasses.replace(record, members=membership.members, seeds=seeds, config=config), new)
    store.write_table(audit.folder / store.MEMBERSHIP, membership_table(audit.pairs, membership))
    return more


def add_round(audit: Audit, config: AuditConfig) -> bool:
    """Give an audit the second round of training if a config asks for it, and tell whether it had none."""
    record = audit.record
    if config.rounds != "2" or record.config.rounds == "2":
        return False
    _check_trains(audit, record.members[0])
    _change(audit, dataclasses.replace(record, config=dataclasses.replace(record.config, rounds=config.rounds)))
    return True


def _check_trains(audit: Audit, member: str) -> None:
    if audit.member_record(member).checkpoint:
        raise InputError(f"audit {audit.name!r} scores given checkpoints and cannot train: take another --name")


def _change(audit: Audit, record: Record, new: Sequence[str] = ()) -> None:
    """Make an audit unfinished, and write its changed record and the folders of new members."""
    record = dataclasses.replace(record, fingerprint=audit_fingerprint(record.config, record.dataset_fingerprint))
    (audit.folder / store.MANIFEST).unlink(missing_ok=True)
    _write_members(audit, record, new)
    store.write_json(audit.folder / store.CONFIG, record.values)
