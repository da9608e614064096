"""The tables of UnitMem, of a finished audit's members and of its image encoder under three paradigms.

    <data>/cache/units/<key>/units.parquet        a table a member; of a sample of 1,000 pairs units-1000.parquet
    <data>/cache/units/<key>/references.parquet   of one member, what its UnitMem is read against; the sample likewise
    <data>/studies/paradigms-<audit>/             paradigms.json, runs/<paradigm>-<seed>/, paradigms.csv

The key covers all else that changes the tables. UnitMem is measured on the pairs that the member was trained on, all of
them or a sample, by `python -m clipmem_core units NAME`; the paradigms are those of `python -m clipmem_core paradigms`.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.store import MEMBERS, MEMBERSHIP, PAIRS, Audit, read_table, whole_table
from clipmem_core.config import FIELDS, InputError, data_folder, fingerprint
from clipmem_core.scores.unit_tally import BINS, UnitTally
from clipmem_core.training.files import CHECKPOINT

VERSION = 1  # of what is measured: a new one makes every table again
UNITS, REFERENCES = "units.parquet", "references.parquet"
# What UnitMem is read against. It grows with the number of pairs, so `seen` and `unseen` are as many of each.
REFERENCE = "reference"
BEFORE, SEEN, UNSEEN = "before training", "seen", "unseen"
TOWER, LAYER, UNIT, ROW = "tower", "layer", "unit", "row"
IMAGE_TOWER, TEXT_TOWER = "image", "text"
UNITMEM_MEAN, UNITMEM_MEDIAN, MEDIAN_ERROR, CLIPPED = "unitmem_mean", "unitmem_median", "median_error", "clipped"
# What says how pictures and captions reach a member's encoders.
_HOW = sorted((name for name, own in FIELDS.items() if own.embeds), key=lambda name: FIELDS[name].embeds)
CLIP, SUPERVISED, SELF_SUPERVISED = "clip", "supervised", "self-supervised"
PARADIGMS = (CLIP, SUPERVISED, SELF_SUPERVISED)
PARADIGM, SEED = "paradigm", "seed"
TABLE = "paradigms.csv"


def unit_table(tally: UnitTally, widths: Sequence[int], *, tower: str, pair_ids: np.ndarray) -> pd.DataFrame:
    """Turn the counts of an encoder into a table.

    Args:
        tally: its units, layer after layer.
        widths: units of each layer.
        tower: `image` or `text`.
        pair_ids: of every row of the audit.

    Returns:
        A row a unit: tower, layer (from 1), unit (from 0), what `UnitTally.scores` says of it, and the pair_id of the
        pair that sets it off most (null for a silent unit, which has no UnitMem).
    """
    scores = tally.scores()
    scores.insert(0, TOWER, np.repeat(tower, sum(widths)))
    scores.insert(1, LAYER, np.repeat(np.arange(1, len(widths) + 1), widths))
    scores.insert(2, UNIT, np.concatenate([np.arange(width) for width in widths]))
    owner = pd.Series(pair_ids[np.maximum(scores[ROW], 0)], dtype="string")
    return scores.assign(**{c.PAIR_ID: owner.where(scores[ROW] >= 0)})


def layer_means(units: pd.DataFrame, *, by: Sequence[str] = (c.MEMBER, TOWER, LAYER)) -> pd.DataFrame:
    """Average UnitMem over the units of each layer.

    Args:
        units: rows of `unit_table`.
        by: the columns that tell layers apart.

    Returns:
        Those columns, then units, silent (units that never fire and are left out), unitmem_mean, unitmem_median,
        median_error and clipped.
    """
    groups = units.assign(silent=units[UNITMEM_MEAN].isna()).groupby(list(by), sort=False)
    means = groups[[UNITMEM_MEAN, UNITMEM_MEDIAN, MEDIAN_ERROR, CLIPPED]].mean()
    return groups["silent"].agg(units="size", silent="sum").join(means).reset_index()


def measured_samples(audit: Audit) -> list[int]:
    """Return the samples of which a member is measured: 0, which is every pair, then the largest first.

    Raises:
        InputError: a file that says where the tables are is missing or broken.
    """
    if not audit.finished:
        return []
    paths = [path for name in audit.record.members for path in table_file(audit, name).parent.glob("units*.parquet")]
    found = {int(match[1] or 0) for path in paths if (match := re.fullmatch(r"units(?:-(\d+))?", path.stem))}
    return sorted(found, key=lambda sample: (sample > 0, -sample))


def read_units(audit: Audit, table: str = UNITS, *, sample: int = 0) -> pd.DataFrame | None:
    """Return a table of all members that have it, or None where none has.

    Args:
        audit: any audit; of an unfinished one nothing is measured.
        table: `UNITS`, or `REFERENCES` for what UnitMem is read against, which one member has.
        sample: as it was measured; 0 for every pair.

    Returns:
        member and the columns of `unit_table`; of `REFERENCES` also reference. `before training`: the model that the
        member's training began from, on the member's pairs. `seen` and `unseen`: the member on as many pairs that it
        was trained on as there are external ones, and on those, which it never saw.

    Raises:
        InputError: a table is broken, or where it is cannot be told.
    """
    found = []
    for name in audit.record.members if audit.finished else ():
        path = table_file(audit, name, table, sample=sample)
        if path.is_file() and not whole_table(path):
            raise InputError(f"{path} is broken: `python -m clipmem_core units {audit.name}` makes it again")
        if path.is_file():
            found.append(read_table(path))
            found[-1].insert(0, c.MEMBER, name)
    return pd.concat(found, ignore_index=True) if found else None


def table_file(audit: Audit, name: str, table: str = UNITS, *, sample: int = 0) -> Path:
    """Return where a table of a finished audit's member is, once it is measured; of a sample in a file of its own."""
    config, own, files = audit.record.config, audit.member_record(name), audit.files
    trained = read_table(audit.folder / MEMBERSHIP, columns=[name])[name].to_numpy(dtype=bool)
    content: list[Any] = [
        [VERSION, BINS],
        own.checkpoint_sha256 or files[f"{MEMBERS}/{name}/{CHECKPOINT}"],
        [own.model_config, own.seed, config.pretrained, config.loss],
        files[PAIRS],
        hashlib.sha256(np.packbits(trained).tobytes()).hexdigest(),
        [getattr(config, field) for field in _HOW],
    ]
    sampled = table.replace(".", f"-{sample}.") if sample else table
    return data_folder() / "cache" / "units" / fingerprint(content) / sampled


def paradigms_folder(audit: Audit) -> Path:
    """Return the folder of an audit's paradigms."""
    return data_folder() / "studies" / f"paradigms-{audit.name}"


def read_paradigms(audit: Audit) -> pd.DataFrame | None:
    """Return UnitMem by layer of every run that is finished, or None where there is none.

    Returns:
        paradigm, seed, layer, units, silent, unitmem_mean, unitmem_median, median_error, clipped (means over the
        layer's units); then the run's: member (whose pictures), reused (its CLIP model is that member), pictures,
        epochs, samples_seen, views_seen (SimCLR takes two views of each sample), seconds, loss (at the end),
        linear_probe (accuracy on external pictures; empty without labels).
    """
    path = paradigms_folder(audit) / TABLE
    return pd.read_csv(path, comment="#") if path.is_file() else None
