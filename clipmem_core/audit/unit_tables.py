"""Tables of UnitMem, of members and of paradigms: names, files, means over layers. Without torch,
for the dashboard."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audit import store
from clipmem_core.audit.store import Audit
from clipmem_core.config import data_folder, fingerprint
from clipmem_core.io import reading
from clipmem_core.training.names import CHECKPOINT

_VERSION = 1  # of the measure: a new number recomputes every table
UNITS = "units.parquet"
REFERENCES = "references.parquet"
REFERENCE = "reference"
BEFORE = "before training"
SEEN = "seen"
UNSEEN = "unseen"
TOWER = "tower"
LAYER = "layer"
UNIT = "unit"
ROW = "row"
IMAGE_TOWER = "image"
TEXT_TOWER = "text"
TOWERS = (IMAGE_TOWER, TEXT_TOWER)
UNITMEM_MEAN = "unitmem_mean"
CLIP = "clip"
SUPERVISED = "supervised"
SELF_SUPERVISED = "self-supervised"
PARADIGMS = (CLIP, SUPERVISED, SELF_SUPERVISED)
PARADIGM = "paradigm"
SEED = "seed"
PARADIGM_TABLE = "paradigms.csv"


def layer_means(
    units: pd.DataFrame, *, by: Sequence[str] = (c.MEMBER, TOWER, LAYER)
) -> pd.DataFrame:
    """Average UnitMem over the units of each layer that fire; also count all and the silent
    ones."""
    groups = units.assign(silent=units[UNITMEM_MEAN].isna()).groupby(list(by), sort=False)
    means = groups[UNITMEM_MEAN].mean()
    return groups["silent"].agg(units="size", silent="sum").join(means).reset_index()


def read_units(audit: Audit, table: str = UNITS) -> pd.DataFrame | None:
    """Return a table of all members that have it, or None.

    References are `before training`, the untrained model on the member's pairs, and `seen` and
    `unseen`, the member on equally many of its training pairs and of the external pairs.
    """
    repair = f"delete it and run `python -m clipmem_core units {audit.name}`"
    tables = []
    for name in audit.record.members if audit.finished else ():
        path = table_file(audit, name, table)
        if path.is_file():
            tables.append(store.read_table(path, repair=repair))
            tables[-1].insert(0, c.MEMBER, name)
    return pd.concat(tables, ignore_index=True) if tables else None


def table_file(audit: Audit, name: str, table: str = UNITS) -> Path:
    """Return the path of a table of a finished audit's member."""
    member = audit.member_record(name)
    weights = member.checkpoint_sha256 or audit.files[f"{store.MEMBERS}/{name}/{CHECKPOINT}"]
    content = [_VERSION, vars(member), weights, audit.files[store.MEMBERSHIP]]
    return data_folder() / "cache" / "units" / fingerprint(content) / table


def paradigms_folder(audit: Audit) -> Path:
    """Return the folder of an audit's paradigms."""
    return data_folder() / "studies" / f"paradigms-{audit.name}"


def read_paradigms(audit: Audit) -> pd.DataFrame | None:
    """Return UnitMem by layer of every finished run, as of `layer_means`, with the run's
    result.json; or None."""
    path = paradigms_folder(audit) / PARADIGM_TABLE
    with reading(path):
        return pd.read_csv(path, comment="#") if path.is_file() else None
