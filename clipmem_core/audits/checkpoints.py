"""Checkpoints: scores those that somebody else trained, and writes those of members without rare tokens."""

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from clipmem_core import columns as c
from clipmem_core.atomic import replacing
from clipmem_core.audits import settings
from clipmem_core.audits.locked import build_locked
from clipmem_core.audits.member import known_tokens, open_member, tokens_of, trained_model, write_embeddings
from clipmem_core.audits.prepare import load_data_set
from clipmem_core.audits.run import Screen, bring_to_end, counts, ensure_features, ensure_pixels
from clipmem_core.audits.setup import check_same, write_audit
from clipmem_core.audits.store import (
    IMAGE_EMBEDDINGS,
    TEXT_EMBEDDINGS,
    Audit,
    acquire_lock,
    audits_folder,
    check_name,
    file_sha256,
    read_array,
    write_manifest,
    write_table,
)
from clipmem_core.config import AuditConfig, InputError, data_folder
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.membership import Membership, protocol_of, replicate_rows
from clipmem_core.training.model import build_model, load_weights
from clipmem_core.training.names import CHECKPOINT
from clipmem_core.training.vocabulary import delete_rows

TRUE_FALSE = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
TABLE, DIFFERENCE = "foreign.parquet", "difference"
TARGET, REFERENCE = "target-0", "reference-0"
DIFFERENCE_CLAIM = (
    "difference: alignment under the target minus that under the reference, high where the target knows a pair better. "
    "It is a sign of memorization only as far as the two checkpoints differ in having seen the pair. Model, data, "
    "epochs and seed may differ too, and none of that can be told apart here, so no pair is called memorized for it."
)


def score_checkpoints(
    source: str,
    config: AuditConfig,
    *,
    name: str,
    membership: str,
    checkpoints: Sequence[str],
    screen: Screen,
) -> Audit:
    """Score existing checkpoints without training."""
    audit = Audit(audits_folder() / check_name(name))
    table = read_membership(Path(membership))
    names = [column for column in table.columns if column not in (c.PAIR_ID, c.GROUP)]
    files = dict(zip(names, check_checkpoints(checkpoints, names), strict=True))
    config = checkpoint_config(config, names)
    with acquire_lock(audit.folder, what="audit"):
        fresh = not audit.begun
        _begin(audit, source, config, files, lambda pairs: align_membership(table, names, pairs), screen)
        bring_to_end(audit, screen, fresh=fresh)
    return audit


def compare_checkpoints(
    source: str, config: AuditConfig, *, name: str, checkpoints: Sequence[str], screen: Screen
) -> Path:
    """Score every pair under a target checkpoint and a reference, of which nobody knows what they were trained on.

    Returns:
        The table: alignment and similarity of each pair under both, and their difference in alignment.
    """
    names = (TARGET, REFERENCE)
    if len(checkpoints) != len(names):
        raise InputError(
            "without --membership, --checkpoints must be two, a target and a reference: what one alone makes of a pair "
            "says nothing of its memorization"
        )
    files = dict(zip(names, check_checkpoints(checkpoints, names), strict=True))
    config = dataclasses.replace(config, protocol="paper", seeds=1, members=2, halves=False)
    config = settings.resolve(config)
    audit = Audit(data_folder() / "foreign" / check_name(name))
    with acquire_lock(audit.folder, what="comparison"):
        # As if the target had seen every pair and the reference none; no score reads it
        _begin(
            audit,
            source,
            config,
            files,
            lambda pairs: Membership(
                np.full(len(pairs), c.CANDIDATE, dtype="<U11"), names, np.repeat([[True], [False]], len(pairs), axis=1)
            ),
            screen,
        )
        if not all((audit.member(one) / TEXT_EMBEDDINGS).is_file() for one in names):
            ensure_pixels(audit, screen)
            ensure_features(audit, audit.record, screen)
            for one in names:
                screen.say(f"embedding with the {one.removesuffix('-0')}")
                run = open_member(audit.folder, one)
                write_embeddings(run, trained_model(run), run.folder)
        table = pd.DataFrame({c.PAIR_ID: audit.pairs[c.PAIR_ID]})
        for one in names:
            image, text = (
                read_array(audit.member(one) / file, shared=True) for file in (IMAGE_EMBEDDINGS, TEXT_EMBEDDINGS)
            )
            terms = pair_terms(image, text, np.ones(len(table), dtype=bool))
            for term in (c.ALIGNMENT, c.SIMILARITY):
                table[f"{term}_{one.removesuffix('-0')}"] = terms[term].astype(np.float64)
        table[DIFFERENCE] = table["alignment_target"] - table["alignment_reference"]
        write_table(audit.folder / TABLE, table)
        write_manifest(audit.folder)
    return audit.folder / TABLE


def _begin(
    audit: Audit,
    source: str,
    config: AuditConfig,
    files: Mapping[str, Path],
    membership_of: Callable[[pd.DataFrame], Membership],
    screen: Screen,
) -> None:
    """Write what an audit of checkpoints starts from, or refuse one that started from something else."""
    if audit.begun:
        check_same(audit, source, config)
        check_files(audit, files)
        return
    check_weights(config, list(files.values()))
    screen.say(f"reading {source}")
    data_set = load_data_set(source, config, progress=screen.pictures, say=screen.say)
    membership = membership_of(data_set.pairs)
    screen.say(counts(data_set, membership))
    write_audit(
        audit, source, config, data_set, data_set.pairs, membership, seconds=0.0, checkpoints=list(files.values())
    )


def read_membership(path: Path) -> pd.DataFrame:
    """Read a membership file."""
    if not path.is_file():
        raise InputError(f"--membership {str(path)!r} is not a file")
    try:
        table = (
            pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=str, keep_default_na=False)
        )
    except (OSError, ValueError) as error:
        raise InputError(f"--membership {str(path)!r} cannot be read: {str(error).splitlines()[0]}") from None
    if c.PAIR_ID not in table.columns:
        raise InputError(
            f"--membership {str(path)!r} needs a column pair_id, it has {', '.join(map(str, table.columns))}"
        )
    if table[c.PAIR_ID].duplicated().any():
        twice = table[c.PAIR_ID][table[c.PAIR_ID].duplicated()].iloc[0]
        raise InputError(f"--membership {str(path)!r} has pair {twice!r} more than once")
    for column in table.columns.difference([c.PAIR_ID, c.GROUP]):
        values = table[column].astype(str).str.strip().str.lower().map(TRUE_FALSE)
        if values.isna().any():
            raise InputError(f"--membership {str(path)!r}: column {column!r} must be true or false in every row")
        table[column] = values.astype(bool)
    return table.astype({c.PAIR_ID: str})


def check_checkpoints(checkpoints: Sequence[str], names: Sequence[str]) -> list[Path]:
    """Return the checkpoint files, one a member."""
    if len(checkpoints) != len(names):
        raise InputError(
            f"--checkpoints must be one a member column ({len(names)}: {', '.join(names)}), not {len(checkpoints)}"
        )
    files = [Path(path).resolve() for path in checkpoints]
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise InputError(f"--checkpoints {missing[0]!r} is not a file")
    return files


def check_weights(config: AuditConfig, files: Sequence[Path]) -> None:
    """Load every checkpoint once, before a picture is read: what does not load or is no number is found at once."""
    if settings.has_locked_tower(config):
        model = build_locked(settings.towers_of(config), config, seed=config.seed)
    else:
        model = build_model(config.model, loss=config.loss, seed=config.seed, image_size=config.image_size)
    for file in files:
        load_weights(model, file)


def checkpoint_config(config: AuditConfig, names: Sequence[str]) -> AuditConfig:
    """Return the config with protocol, members and seeds read off the member columns' names."""
    if config.plant_miscaptions:
        raise InputError(
            "--plant-miscaptions belongs to audit: these checkpoints were trained on the captions as they are"
        )
    if config.stable:
        raise InputError("--stable belongs to audit: score trains no members")
    if config.rounds == "2":
        raise InputError("--rounds belongs to audit: score trains no members")
    protocol = protocol_of(names)
    replicates = replicate_rows(names)
    config = dataclasses.replace(
        config,
        protocol=protocol,
        members=len(names),
        seeds=len(replicates) if protocol == "paper" else 1,
        folds=len(replicates[0]) if protocol == "ensemble" else config.folds,
        halves=False,  # the file says who saw what
    )
    return settings.resolve(config)


def align_membership(table: pd.DataFrame, names: Sequence[str], pairs: pd.DataFrame) -> Membership:
    """Bring a membership file into the order of the pairs; groups are derived where it does not name them."""
    rows = table.set_index(c.PAIR_ID).reindex(pairs[c.PAIR_ID])
    absent = rows[names[0]].isna().to_numpy()
    if absent.any():
        first = pairs[c.PAIR_ID].to_numpy()[absent][0]
        raise InputError(
            f"--membership lacks {absent.sum():,} of {len(pairs):,} pairs, first {first!r}: every pair needs a row"
        )
    trained = np.stack([rows[name].to_numpy(dtype=bool) for name in names])
    group = rows[c.GROUP].to_numpy(dtype=str) if c.GROUP in rows else derive_groups(trained, names)
    if unknown := sorted(set(group) - set(c.GROUPS)):
        raise InputError(f"--membership: group must be one of {', '.join(c.GROUPS)}, not {str(unknown[0])!r}")
    external = group == c.EXTERNAL
    if trained[:, external].any():
        raise InputError("--membership names pairs external that a member saw: external pairs are seen by none")
    if external.sum() < 2:
        raise InputError("--membership leaves fewer than two pairs that no member saw: external pairs are the null")
    return Membership(group, tuple(names), trained)


def derive_groups(trained: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Name each pair's group by who saw it: true where a member did, [n_members, n_pairs]."""
    seen = trained.sum(axis=0)
    if protocol_of(names) == "ensemble":
        return np.select([seen == 0, seen == len(names)], [c.EXTERNAL, c.SHARED], c.SCORED)
    is_f = np.array([name.startswith("f") for name in names])
    by_f, by_g = trained[is_f].any(axis=0), trained[~is_f].any(axis=0)
    return np.select([by_f & by_g, by_f, by_g], [c.SHARED, c.CANDIDATE, c.INDEPENDENT], c.EXTERNAL)


def check_files(audit: Audit, files: Mapping[str, Path]) -> None:
    """Refuse to go on with an audit whose members are other checkpoints."""
    if tuple(files) != audit.record.members:
        raise InputError(f"audit {audit.name!r} was made from other members: take another --name")
    for name, path in files.items():
        if audit.member_record(name).checkpoint_sha256 != file_sha256(path):
            raise InputError(f"audit {audit.name!r} was made from another checkpoint for {name}: take another --name")


def write_without_rare(audit: Audit, member: str, path: Path, *, fewer_than: int) -> str:
    """Write a member's checkpoint with the rows of rare tokens set to 0, and return a line that says how many."""
    config, weights = audit.record.config, audit.member(member) / CHECKPOINT
    if member not in audit.record.members:
        raise InputError(f"audit {audit.name!r} has no member {member!r}: take one of {audit.record.members[0]}, …")
    if config.lock_text:
        raise InputError(f"the text tower of audit {audit.name!r} is locked: it has no rows that were trained")
    if fewer_than < 1:
        raise InputError(f"--fewer-than must be at least 1, not {fewer_than}")
    if path.exists() or not weights.is_file():
        raise InputError(f"{path} is there already" if path.exists() else f"{weights} is missing: run the audit again")
    tokens, start = tokens_of(audit.pairs, config)
    rows = np.flatnonzero(audit.membership[member].to_numpy())
    known = known_tokens(dataclasses.replace(config, **cast(Any, {"text_forget_df": fewer_than})), tokens, start, rows)
    assert known is not None
    rare = dataclasses.replace(known, min_df=fewer_than).rare_rows(tokens)
    state = torch.load(weights, map_location="cpu", weights_only=True)
    delete_rows(state, rare)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    trained = int((known.pairs[rare] > 0).sum())
    return f"{path}: {len(rare):,} rows of rare tokens deleted, {trained:,} of them of tokens that it was trained on"
