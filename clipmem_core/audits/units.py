"""A finished audit → UnitMem of the units of its members' encoders, as `python -m clipmem_core units NAME` left it.

    <data>/cache/units/<key>/units.parquet        a table a member; of a sample of 1,000 pairs units-1000.parquet
    <data>/cache/units/<key>/references.parquet   of one member, what its UnitMem is read against; the sample likewise

The key covers all else that changes the tables. UnitMem is measured on the pairs that the member was trained on: all of
them, or a sample.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.settings import config_from
from clipmem_core.audits.store import MEMBERS, MEMBERSHIP, PAIRS, Audit, read_table, whole_table
from clipmem_core.config import FIELDS, InputError, data_folder, fingerprint
from clipmem_core.scores.units import BINS, UnitTally
from clipmem_core.training.files import CHECKPOINT

VERSION = 1  # of what is measured: a new one makes every table again
UNITS = "units.parquet"
REFERENCES = "references.parquet"
MEASURE = "delete it and measure the units again"
# UnitMem grows with the number of pairs, so `seen` and `unseen` are as many of each.
REFERENCE = "reference"
BEFORE, SEEN, UNSEEN = "before training", "seen", "unseen"
TOWER, LAYER, UNIT, ROW = "tower", "layer", "unit", "row"
IMAGE_TOWER, TEXT_TOWER = "image", "text"
UNITMEM_MEAN, UNITMEM_MEDIAN, MEDIAN_ERROR, CLIPPED = "unitmem_mean", "unitmem_median", "median_error", "clipped"
MEASURED = (UNITMEM_MEAN, UNITMEM_MEDIAN, MEDIAN_ERROR, CLIPPED)
# What says how pictures and captions reach a member's encoders.
_HOW = sorted((name for name, own in FIELDS.items() if own.embeds), key=lambda name: FIELDS[name].embeds)


def unit_table(tally: UnitTally, widths: Sequence[int], *, tower: str, pair_ids: np.ndarray) -> pd.DataFrame:
    """Turn the counts of an encoder into a table.

    Args:
        tally: its units, layer after layer.
        widths: units of each layer.
        tower: `image` or `text`.
        pair_ids: of every row of the audit.

    Returns:
        A row a unit: tower, layer (from 1), unit (from 0), unitmem_mean, unitmem_median, median_error, max, second,
        rest_mean, rest_median, clipped, and row and pair_id of the pair that sets it off most (-1 and null for a
        silent unit, which has no UnitMem).
    """
    scores = tally.scores()
    place = {
        TOWER: np.repeat(tower, sum(widths)),
        LAYER: np.repeat(np.arange(1, len(widths) + 1), widths),
        UNIT: np.concatenate([np.arange(width) for width in widths]),
    }
    owner = pd.Series(pair_ids[np.maximum(scores.row, 0)], dtype="string").where(scores.row >= 0)
    return pd.DataFrame(place | vars(scores)).rename(columns={"highest": "max"}).assign(**{c.PAIR_ID: owner})


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
    counts = groups["silent"].agg(units="size", silent="sum")
    return counts.join(groups[list(MEASURED)].mean()).reset_index()


def measured_samples(audit: Audit) -> list[int]:
    """Return the samples of which a member is measured: 0, which is every pair, then the largest first.

    Raises:
        InputError: a file that says where the tables are is missing or broken.
    """
    if not audit.finished:
        return []
    folders = [_folder(audit, name) for name in listed_members(audit)]
    stems = [path.stem for folder in folders for path in folder.glob("units*.parquet")]
    found = {int(match[1] or 0) for stem in stems if (match := re.fullmatch(r"units(?:-(\d+))?", stem))}
    return sorted(found, key=lambda sample: (sample > 0, -sample))


def listed_members(audit: Audit) -> list[str]:
    """Return the names of an audit's members.

    Raises:
        InputError: its config names none.
    """
    return audit.config["members"]


def read_units(audit: Audit, *, sample: int = 0) -> pd.DataFrame | None:
    """Return the units of all members that were measured: `member` and the columns of `unit_table`; None without any.

    Args:
        audit: any audit; of an unfinished one nothing is measured.
        sample: as it was measured; 0 for every pair.
    """
    return _read(audit, units_file, sample)


def read_references(audit: Audit, *, sample: int = 0) -> pd.DataFrame | None:
    """Return what UnitMem is read against, of one member, or None where that was not measured.

    Args:
        audit: any audit.
        sample: as it was measured; 0 for every pair.

    Returns:
        member, reference and the columns of `unit_table`. `before training`: the model that the member's training began
        from, on the member's pairs. `seen` and `unseen`: the member on as many pairs that it was trained on as there
        are external ones, and on those, which it never saw.
    """
    return _read(audit, references_file, sample)


def _read(audit: Audit, file_of: Callable[..., Path], sample: int) -> pd.DataFrame | None:
    if not audit.finished:
        return None
    paths = {name: file_of(audit, name, sample=sample) for name in listed_members(audit)}
    there = {name: path for name, path in paths.items() if path.is_file()}
    for path in there.values():
        if not whole_table(path):
            raise InputError(f"{path} is broken: `python -m clipmem_core units {audit.name}` makes it again")
    return gather(there)


def gather(paths: dict[str, Path]) -> pd.DataFrame | None:
    """Read the tables of several members into one, with a column `member` in front; None where there is none."""
    tables = [read_table(path, mend=MEASURE) for path in paths.values()]
    for name, table in zip(paths, tables, strict=True):
        table.insert(0, c.MEMBER, name)
    return pd.concat(tables, ignore_index=True) if tables else None


def units_file(audit: Audit, name: str, *, sample: int = 0) -> Path:
    """Return where the units of a finished audit's member are, once they are measured."""
    return _folder(audit, name) / _sampled(UNITS, sample)


def references_file(audit: Audit, name: str, *, sample: int = 0) -> Path:
    """Return where the references of a finished audit's member are, once they are measured."""
    return _folder(audit, name) / _sampled(REFERENCES, sample)


def _sampled(name: str, sample: int) -> str:
    """Return the name of a file of a sample.

    Example:
        >>> _sampled("units.parquet", 0), _sampled("units.parquet", 1000)
        ('units.parquet', 'units-1000.parquet')
    """
    return name.replace(".", f"-{sample}.") if sample else name


def _folder(audit: Audit, name: str) -> Path:
    config, own, files = config_from(audit.config["config"]), audit.member_file(name), audit.files
    trained = read_table(audit.folder / MEMBERSHIP, columns=[name])[name].to_numpy(dtype=bool)
    content: list[Any] = [
        [VERSION, BINS],
        own.get("checkpoint_sha256") or files[f"{MEMBERS}/{name}/{CHECKPOINT}"],
        [own["model_config"], own["seed"], config.pretrained, config.loss],
        files[PAIRS],
        hashlib.sha256(np.packbits(trained).tobytes()).hexdigest(),
        [getattr(config, field) for field in _HOW],
    ]
    return data_folder() / "cache" / "units" / fingerprint(content)
