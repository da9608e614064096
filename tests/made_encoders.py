"""Made-up results on an audit's encoders: units of its members, and paradigms. Nothing is
trained."""

import dataclasses
import itertools
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


def paradigm_rows(
    means: dict[str, float], *, seeds: int = 3, layers: int = 4, spread: float = 0.001
) -> pd.DataFrame:
    """Return a table as `read_paradigms` does: UnitMem rises by .01 a layer from a paradigm's mean
    at the first."""
    rows = []
    for (paradigm, mean), seed, layer in itertools.product(
        means.items(), range(seeds), range(1, layers + 1)
    ):
        value = mean + 0.01 * (layer - 1) + spread * (seed - (seeds - 1) / 2)
        rows.append({"paradigm": paradigm, "seed": seed, "layer": layer, "unitmem_mean": value})
    return pd.DataFrame(rows)


def make_paradigms(audit: Audit, means: dict[str, float] | None = None, *, seeds: int = 3) -> None:
    """Write the results of an audit's paradigms; CLIP lies between the others unless the means say
    otherwise."""
    table = paradigm_rows(
        means or dict(zip(t.PARADIGMS, (0.4, 0.5, 0.3), strict=True)), seeds=seeds
    )
    for (paradigm, seed), rows in table.groupby(["paradigm", "seed"]):
        t.paradigms_of(audit).add_rows(f"{paradigm}-{seed}", rows)
