"""Scores checkpoints that somebody else trained."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audit import settings, store
from clipmem_core.audit.member import build_member, open_member, trained_model, write_embeddings
from clipmem_core.audit.pipeline import (
    Run,
    Screen,
    counts,
    ensure_features,
    ensure_pixels,
    finish_audit,
)
from clipmem_core.audit.prepare import load_data_set
from clipmem_core.audit.setup import check_same, write_audit
from clipmem_core.audit.store import Audit
from clipmem_core.config import AuditConfig, data_folder
from clipmem_core.io import InputError
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.membership import Membership, protocol_of, replicate_rows
from clipmem_core.training.model import load_weights

COMPARISON = "foreign.parquet"
COMPARISON_CLAIM = (
    "difference = alignment under the target − alignment under the reference. It suggests "
    "memorization only if the two checkpoints differ in nothing but whether they saw the pair; "
    "model, data, epochs and seed may differ too."
)
TRUE_FALSE = {"true": True, "false": False, "1": True, "0": False}


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
    audit = Audit.of(name)
    table = read_membership(Path(membership))
    names = [column for column in table.columns if column not in (c.PAIR_ID, c.GROUP)]
    files = _checkpoint_files(checkpoints, names)
    refused = {
        "inject-miscaptions": config.inject_miscaptions,
        "stable": config.stable,
        "rounds": config.rounds == "2",
    }
    for flag, used in refused.items():
        if used:
            raise InputError(f"--{flag} belongs to audit: score trains no members")
    protocol = protocol_of(names)
    replicates = replicate_rows(names)
    config = dataclasses.replace(
        config,
        protocol=protocol,
        members=len(names),
        seeds=len(replicates) if protocol == "paper" else 1,
        folds=len(replicates[0]) if protocol == "ensemble" else config.folds,
        halves=False,  # the file lists the training pairs
    )
    with store.acquire_lock(audit.folder, what="audit"):
        is_new = not audit.begun
        align = functools.partial(align_membership, table, names)
        _begin(audit, source, config, files, screen, align)
        finish_audit(Run(audit, screen), is_new=is_new)
    return audit


def compare_checkpoints(
    source: str, config: AuditConfig, *, name: str, checkpoints: Sequence[str], screen: Screen
) -> Path:
    """Score each pair under a target and a reference checkpoint whose training pairs are
    unknown."""
    sides = ("target", "reference")
    names = tuple(f"{side}-0" for side in sides)
    config = dataclasses.replace(config, protocol="paper", seeds=1, members=2, halves=False)
    audit = Audit(data_folder() / "foreign" / store.check_name(name))

    def membership(pairs: pd.DataFrame) -> Membership:  # a placeholder that no score reads
        trained = np.repeat([[True], [False]], len(pairs), axis=1)
        return Membership(np.full(len(pairs), c.CANDIDATE, dtype="<U11"), names, trained)

    with store.acquire_lock(audit.folder, what="comparison"):
        _begin(audit, source, config, _checkpoint_files(checkpoints, names), screen, membership)
        ensure_pixels(audit, screen)
        ensure_features(audit, screen)
        table = pd.DataFrame({c.PAIR_ID: audit.pairs[c.PAIR_ID]})
        for side, member in zip(sides, names, strict=True):
            run = open_member(audit.folder, member)
            if not (run.folder / store.TEXT_EMBEDDINGS).is_file():
                screen.say(f"embedding with the {side}")
                write_embeddings(run, trained_model(run), run.folder)
            terms = pair_terms(*store.read_embeddings(run.folder), np.ones(len(table), dtype=bool))
            for term in (c.ALIGNMENT, c.SIMILARITY):
                table[f"{term}_{side}"] = terms[term].astype(np.float64)
        table["difference"] = table["alignment_target"] - table["alignment_reference"]
        store.write_table(audit.folder / COMPARISON, table)
        store.write_manifest(audit.folder)
    return audit.folder / COMPARISON


def _checkpoint_files(checkpoints: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    if len(checkpoints) != len(names):
        raise InputError(
            f"--checkpoints must be {len(names)} ({', '.join(names)}), not {len(checkpoints)}"
        )
    files = {name: Path(path).resolve() for name, path in zip(names, checkpoints, strict=True)}
    for path in files.values():
        if not path.is_file():
            raise InputError(f"--checkpoints {str(path)!r} is not a file")
    return files


def _begin(
    audit: Audit,
    source: str,
    config: AuditConfig,
    files: Mapping[str, Path],
    screen: Screen,
    membership_of: Callable[[pd.DataFrame], Membership],
) -> None:
    """Write the first files of an audit of checkpoints, or refuse one with other files or
    settings."""
    config = settings.resolve(config)
    if audit.begun:
        check_same(audit, source, config)
        hashes = {
            name: audit.member_record(name).checkpoint_sha256 for name in audit.record.members
        }
        if hashes != {name: store.file_sha256(path) for name, path in files.items()}:
            raise InputError(
                f"{audit.name!r} was made from other checkpoints: choose another --name"
            )
        return
    model = build_member(config, settings.towers_of(config), seed=config.seed)
    for file in files.values():  # refuses a broken one before a picture is read
        load_weights(model, file)
    screen.say(f"reading {source}")
    data_set = load_data_set(source, config, progress=screen.pictures, say=screen.say)
    membership = membership_of(data_set.pairs)
    screen.say(counts(data_set, membership))
    write_audit(
        audit,
        source,
        config,
        data_set,
        data_set.pairs,
        membership,
        checkpoints=files,
    )


def read_membership(path: Path) -> pd.DataFrame:
    """Read a membership file: pair_id, and a column per member that is true for its training
    pairs."""
    flag = f"--membership {str(path)!r}"
    if not path.is_file():
        raise InputError(f"{flag} is not a file")
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{flag} cannot be read: {str(error).splitlines()[0]}") from None
    if c.PAIR_ID not in table:
        raise InputError(f"{flag} needs a column pair_id, it has {', '.join(map(str, table))}")
    repeated = table[c.PAIR_ID][table[c.PAIR_ID].duplicated()]
    if len(repeated):
        raise InputError(f"{flag} has pair {repeated.iloc[0]!r} more than once")
    for column in table.columns.difference([c.PAIR_ID, c.GROUP]):
        values = table[column].astype(str).str.strip().str.lower().map(TRUE_FALSE)
        if values.isna().any():
            raise InputError(f"{flag}: column {column!r} must be true or false in every row")
        table[column] = values.astype(bool)
    return table.astype({c.PAIR_ID: str})


def align_membership(table: pd.DataFrame, names: Sequence[str], pairs: pd.DataFrame) -> Membership:
    """Bring a membership file into the order of the pairs, and derive each pair's group."""
    absent = pairs[c.PAIR_ID][~pairs[c.PAIR_ID].isin(table[c.PAIR_ID])]
    if len(absent):
        raise InputError(
            f"--membership lacks {len(absent):,} of {len(pairs):,} pairs, first "
            f"{absent.iloc[0]!r}: add them"
        )
    rows = table.set_index(c.PAIR_ID).loc[pairs[c.PAIR_ID], list(names)]
    trained = rows.to_numpy(dtype=bool).T
    group = derive_groups(trained, names)
    if (group == c.EXTERNAL).sum() < 2:
        raise InputError(
            "--membership has fewer than two pairs that no member trained on: scores need them"
        )
    return Membership(group, tuple(names), trained)


def derive_groups(trained: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return each pair's group, [n_pairs], by the members trained on it, bool [n_members,
    n_pairs]."""
    n_trained = trained.sum(axis=0)
    if protocol_of(names) == "ensemble":
        return np.select(
            [n_trained == 0, n_trained == len(names)], [c.EXTERNAL, c.SHARED], c.SCORED
        )
    is_f = np.array([name.startswith("f") for name in names])
    by_f = trained[is_f].any(axis=0)
    by_g = trained[~is_f].any(axis=0)
    return np.select([by_f & by_g, by_f, by_g], [c.SHARED, c.CANDIDATE, c.INDEPENDENT], c.EXTERNAL)
