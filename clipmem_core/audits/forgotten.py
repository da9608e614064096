"""A member's checkpoint without the rows of its token embedding that are of rare tokens."""

import dataclasses
import io
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from clipmem_core.atomic import replacing
from clipmem_core.audits.member import known_tokens, tokens_of
from clipmem_core.audits.store import Audit
from clipmem_core.config import InputError
from clipmem_core.training.names import CHECKPOINT
from clipmem_core.training.vocabulary import delete_rows


def write_without_rare(audit: Audit, member: str, path: Path, *, fewer_than: int) -> str:
    """Write a member's checkpoint with the rows of rare tokens set to 0, and return a line that says how many.

    Args:
        audit: its audit.
        member: whose checkpoint.
        path: the file to write; none may be there.
        fewer_than: tokens of fewer trained pairs than this are rare, and those of none are too.

    Raises:
        InputError: there is no such member or checkpoint, its text tower is locked, or the file is there.
    """
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
