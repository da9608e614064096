"""The beginning of an audit: what its members start from, written once, compared and grown later."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits import settings
from clipmem_core.audits.prepare import DataSet, draw_membership, leave_out, membership_of, membership_table
from clipmem_core.audits.store import (
    CONFIG,
    MANIFEST,
    MEMBERSHIP,
    PAIRS,
    QUARANTINE,
    Audit,
    MemberRecord,
    Record,
    file_sha256,
    read_prepared,
    write_json,
    write_prepared,
    write_table,
)
from clipmem_core.config import (
    FIELDS,
    AuditConfig,
    InputError,
    affecting,
    as_dict,
    data_folder,
    fingerprint,
    flat,
)
from clipmem_core.scores.membership import Membership
from clipmem_core.training.names import model_config

FREE = affecting()
# Fields that may differ in what an audit goes on with: how many members there are may grow.
MAY_DIFFER = (*affecting("members"), *FREE)


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
    """Write everything the members start from; config.json comes last and makes the folder an audit.

    `snapshots` are epochs after which each member keeps its embeddings; they change nothing else. `again` is the audit
    whose membership it repeats.
    """
    audit.folder.mkdir(parents=True, exist_ok=True)
    write_table(audit.folder / PAIRS, pairs)
    write_table(audit.folder / QUARANTINE, data_set.quarantine.reindex(columns=c.QUARANTINE_COLUMNS).astype("string"))
    write_table(audit.folder / MEMBERSHIP, membership_table(pairs, membership))
    write_prepared(audit.folder, cache_rows=data_set.pixels.rows, clusters=data_set.clusters)
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
    write_members(audit, record, record.members, checkpoints)
    write_json(audit.folder / CONFIG, record.values)


def write_members(audit: Audit, record: Record, names: Sequence[str], checkpoints: Sequence[Path] = ()) -> None:
    """Make each new member's folder: what rebuilds its model, and the seed it trains from or the checkpoint it is."""
    config = record.config
    for place, name in enumerate(names):
        audit.member(name).mkdir(parents=True, exist_ok=True)
        own = MemberRecord(
            name, record.seeds[name], record.fingerprint, config.model, config.image_size, model_config(config.model)
        )
        if checkpoints:
            given = checkpoints[place]
            own = dataclasses.replace(own, checkpoint=str(given), checkpoint_sha256=file_sha256(given))
        write_json(audit.member(name) / CONFIG, own.values)


def audit_fingerprint(config: AuditConfig, data_set: str) -> str:
    """Return the key of an audit: its config and its data set's content."""
    values = as_dict(config)
    values["source"] = {key: value for key, value in values["source"].items() if key not in FREE}
    return fingerprint([{key: value for key, value in values.items() if key not in FREE}, data_set])


def member_seeds(config: AuditConfig, members: Sequence[str]) -> dict[str, int]:
    """Return each member's seed: the audit's, plus the number of its seed or repeat (`f-2`, `r2-f1`)."""
    return {name: config.seed + int(re.findall(r"\d+", name)[0]) for name in members}


def check_same(audit: Audit, source: str, config: AuditConfig) -> None:
    """Refuse to go on with an audit under another config."""
    record = audit.record
    differ = differing_fields(record.source, record.config, source, config)
    if differ:
        listed = "; ".join(differ)
        raise InputError(f"audit {audit.name!r} exists with another config: {listed}. Take another --name")
    members = len(record.members)  # of one that stopped once it was stable, fewer than were asked for
    if config.members < members:
        raise InputError(
            f"audit {audit.name!r} has {members} members and {config.members} were asked for: "
            "ask for as many or more, or take another --name"
        )


def differing_fields(source_then: str, config_then: AuditConfig, source: str, config: AuditConfig) -> list[str]:
    """Say what differs between what an audit or a study was made from and what is asked for now; seeds may grow."""
    asked, given = (flat(as_dict(one)) for one in (config, config_then))
    # Threads are frozen: another machine may go on.
    asked["threads"] = given["threads"]
    differ = [
        f"{FIELDS[key].flag} is {given[key]!r} there and {asked[key]!r} here"
        for key in asked
        if key not in MAY_DIFFER and asked[key] != given[key]
    ]
    if source_then != source and Path(source_then).resolve() != Path(source).resolve():
        differ.insert(0, f"the source is {source_then!r} there and {source!r} here")
    return differ


def grow(audit: Audit, config: AuditConfig, *, members: int = 0) -> int:
    """Add repeats or seeds to an audit and return how many members came; those it has stay as they are.

    It then has as many `members` as are given, or else as the config asks for.

    Pairs that were left out of the training of those it has are left out of that of the new ones.

    The manifest goes first and membership.parquet comes last, so that a growth cut short is taken up again.
    """
    record, drawn = audit.record, membership_of(audit.membership)
    more = (members or config.members) - len(drawn.members)
    if more <= 0:
        return 0
    if record.again:
        raise InputError(
            f"audit {audit.name!r} has the members of audit {record.again!r} and no others: audit its data set under "
            "another --name"
        )
    if audit.member_record(drawn.members[0]).checkpoint:
        raise InputError(f"audit {audit.name!r} scores given checkpoints and cannot train more: take another --name")
    config = dataclasses.replace(
        config, threads=record.threads, rounds="2" if config.rounds == "2" else record.config.rounds
    )
    membership = draw_membership(read_prepared(audit.folder).clusters, config, members=members)
    new = membership.members[len(drawn.members) :]
    membership = leave_out(membership, (membership.trained[: -len(new)] & ~drawn.trained).any(axis=0))
    (audit.folder / MANIFEST).unlink(missing_ok=True)
    record = dataclasses.replace(
        record,
        members=membership.members,
        seeds=member_seeds(config, membership.members),
        config=config,
        fingerprint=audit_fingerprint(config, record.dataset_fingerprint),
    )
    write_members(audit, record, new)
    write_json(audit.folder / CONFIG, record.values)
    write_table(audit.folder / MEMBERSHIP, membership_table(audit.pairs, membership))
    return more


def add_round(audit: Audit, config: AuditConfig) -> bool:
    """Give an audit the second round of training that a config asks for, and tell whether it had none."""
    record = audit.record
    if config.rounds != "2" or record.config.rounds == "2":
        return False
    if audit.member_record(record.members[0]).checkpoint:
        raise InputError(f"audit {audit.name!r} scores given checkpoints and cannot train them again: no --rounds")
    (audit.folder / MANIFEST).unlink(missing_ok=True)
    config = dataclasses.replace(record.config, rounds=config.rounds)
    fingerprint = audit_fingerprint(config, record.dataset_fingerprint)
    write_json(audit.folder / CONFIG, dataclasses.replace(record, config=config, fingerprint=fingerprint).values)
    return True
