"""A finished audit → UnitMem of the units of its members' encoders, as `python -m clipmem_core units NAME` left it.

    <data>/cache/units/<key>/units.parquet      a table a member

The key covers all that changes the table. UnitMem is measured on the pairs that the member was trained on: all of
them, or a sample.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.settings import config_from
from clipmem_core.audits.store import CONFIG, MANIFEST, MEMBERS, MEMBERSHIP, PAIRS, Audit, read_json, read_table
from clipmem_core.config import data_folder, fingerprint
from clipmem_core.scores.units import BINS, UnitTally
from clipmem_core.training.files import CHECKPOINT

VERSION = 1  # of what is measured: a new one makes every table again
UNITS = "units.parquet"
TOWER, LAYER, UNIT, ROW = "tower", "layer", "unit", "row"
IMAGE_TOWER, TEXT_TOWER = "image", "text"
UNITMEM_MEAN, UNITMEM_MEDIAN, MEDIAN_ERROR, CLIPPED = "unitmem_mean", "unitmem_median", "median_error", "clipped"
MEASURED = (UNITMEM_MEAN, UNITMEM_MEDIAN, MEDIAN_ERROR, CLIPPED)
# What says how pictures and captions reach a member's encoders.
_HOW = ("model", "image_size", "cache_size", "resize_mode", "precision", "views", "seed")
_EVALUATED = ("crop_scale", "eval_crop_scale", "eval_captions")


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


def read_units(audit: Audit, *, sample: int = 0) -> pd.DataFrame | None:
    """Return the units of all members that were measured: `member` and the columns of `unit_table`; None without any.

    Args:
        audit: any audit; of an unfinished one nothing is measured.
        sample: as it was measured; 0 for every pair.
    """
    if not audit.finished:
        return None
    paths = {name: units_file(audit, name, sample=sample) for name in audit.config["members"]}
    return gather({name: path for name, path in paths.items() if path.is_file()})


def gather(paths: dict[str, Path]) -> pd.DataFrame | None:
    """Read the tables of several members into one, with a column `member` in front; None where there is none."""
    tables = [read_table(path) for path in paths.values()]
    for name, table in zip(paths, tables, strict=True):
        table.insert(0, c.MEMBER, name)
    return pd.concat(tables, ignore_index=True) if tables else None


def units_file(audit: Audit, name: str, *, sample: int = 0) -> Path:
    """Return where the units of a finished audit's member are, once they are measured."""
    stored, files = audit.config, read_json(audit.folder / MANIFEST)["files"]
    own, config = read_json(audit.member(name) / CONFIG), config_from(stored["config"])
    trained = pd.read_parquet(audit.folder / MEMBERSHIP, columns=[name])[name].to_numpy(dtype=bool)
    content: list[Any] = [
        [VERSION, BINS, sample],
        own.get("checkpoint_sha256") or files[f"{MEMBERS}/{name}/{CHECKPOINT}"],
        own["model_config"],
        files[PAIRS],
        hashlib.sha256(np.packbits(trained).tobytes()).hexdigest(),
        [getattr(config, field) for field in (*_HOW, *_EVALUATED)],
    ]
    return data_folder() / "cache" / "units" / fingerprint(content) / UNITS
