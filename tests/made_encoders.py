"""Made-up results on an audit's encoders: units of its members. Nothing is trained."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core.auditing.folder.store import (
    CONFIG,
    Audit,
    write_json,
    write_manifest,
    write_table,
)
from clipmem_core.lab import encoders as t
from clipmem_core.lab.unitmem import unit_table
from clipmem_core.scores.encoders import UnitTally
from clipmem_core.training import CHECKPOINT

WIDTHS = {"image": [6, 5], "text": [4]}


def with_config(audit: Audit, **changed: Any) -> Audit:
    """Change fields of the config of an audit."""
    record = audit.record
    config = dataclasses.replace(record.config, **changed)
    write_json(audit.folder / CONFIG, dataclasses.replace(record, config=config).values)
    return audit


def make_members(audit: Audit) -> None:
    """Write the checkpoint of each member, by which its units are cached."""
    for name in audit.record.members:
        audit.member(name).mkdir(parents=True, exist_ok=True)
        (audit.member(name) / CHECKPOINT).write_text(name)
    write_manifest(audit.folder)


def make_units(audit: Audit) -> pd.DataFrame:
    """Write the units of an audit's members, and the references of the first; return those of the
    members.

    The last unit of each encoder is silent.
    """
    make_members(audit)
    rng = np.random.default_rng(0)
    tables = []
    ids = audit.pairs["pair_id"].to_numpy()
    for name in audit.record.members:
        rows = np.flatnonzero(audit.membership[name])
        table = _units(rng, rows, ids)
        _write(t.table_file(audit, name), table)
        table.insert(0, "member", name)
        tables.append(table)
    references = [
        _units(rng, np.arange(20), ids).assign(reference=name)
        for name in (t.BEFORE, t.SEEN, t.UNSEEN)
    ]
    _write(
        t.table_file(audit, audit.record.members[0], t.REFERENCES),
        pd.concat(references, ignore_index=True),
    )
    return pd.concat(tables, ignore_index=True)


def _units(rng: np.random.Generator, rows: np.ndarray, ids: np.ndarray) -> pd.DataFrame:
    tables = []
    for tower, widths in WIDTHS.items():
        tally = UnitTally(sum(widths))
        values = rng.exponential(size=(len(rows), sum(widths))).astype(np.float32)
        values[:, -1] = 0
        tally.add(rows, values)
        tables.append(unit_table(tally, widths, tower=tower, pair_ids=ids))
    return pd.concat(tables, ignore_index=True)


def _write(path: Path, table: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, table)
