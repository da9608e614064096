"""Scores checkpoints that somebody else trained."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audit import settings, store
from clipmem_core.audit.member import build_member
from clipmem_core.audit.pipeline import Run, Screen, counts, finish_audit
from clipmem_core.audit.prepare import load_data_set
from clipmem_core.audit.setup import check_same, write_audit
from clipmem_core.audit.store import Audit
from clipmem_core.config import AuditConfig
from clipmem_core.io import InputError
from clipmem_core.scores.membership import Membership, protocol_of, replicate_rows
from clipmem_core.tables import read_frame
from clipmem_core.training.model import load_weights

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
    if len(checkpoints) != len(names):
        raise InputError(
            f"--checkpoints must be {len(names)} ({', '.join(names)}), not {len(checkpoints)}"
        )
    files = {name: Path(path).resolve() for name, path in zip(names, checkpoints, strict=True)}
    for path in files.values():
        if not path.is_file():
            raise InputError(f"--checkpoints {str(path)!r} is not a file")
    if config.inject_miscaptions or config.rounds == "2":
        flag = "inject-miscaptions" if config.inject_miscaptions else "rounds"
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
    config = settings.resolve(config)
    with store.acquire_lock(audit.folder, what="audit"):
        is_new = not audit.begun
        if is_new:
            model = build_member(config, settings.towers_of(config), seed=config.seed)
            for file in files.values():  # refuses a broken one before a picture is read
                load_weights(model, file)
            screen.say(f"reading {source}")
            data_set = load_data_set(source, config, progress=screen.pictures, say=screen.say)
            pairs = data_set.pairs
            drawn = align_membership(table, names, pairs)
            screen.say(counts(data_set, drawn))
            write_audit(audit, source, config, data_set, pairs, drawn, checkpoints=files)
        else:
            check_same(audit, source, config)
            for member, file in files.items():
                if audit.member_record(member).checkpoint_sha256 != store.file_sha256(file):
                    raise InputError(
                        f"{audit.name!r} was made from other checkpoints: choose another --name"
                    )
        finish_audit(Run(audit, screen), is_new=is_new)
    return audit


def read_membership(path: Path) -> pd.DataFrame:
    """Read a membership file: pair_id, and a column per member that is true for its training
    pairs."""
    flag = f"--membership {str(path)!r}"
    if not path.is_file():
        raise InputError(f"{flag} is not a file")
    table = read_frame(path)
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
