"""The table of one image encoder under three teachers, as `python -m clipmem_core paradigms NAME` left it.

    <data>/studies/paradigms-<audit>/   paradigms.json, runs/<paradigm>-<seed>/, paradigms.csv

The CSV has a row a run and layer: UnitMem, what the run saw, how long it took and how well it ended.
"""

from pathlib import Path

import pandas as pd

from clipmem_core.audits.store import Audit
from clipmem_core.config import data_folder

CLIP, SUPERVISED, SELF_SUPERVISED = "clip", "supervised", "self-supervised"
PARADIGMS = (CLIP, SUPERVISED, SELF_SUPERVISED)
PARADIGM, SEED = "paradigm", "seed"
SETTINGS, TABLE, RUNS, RESULT = "paradigms.json", "paradigms.csv", "runs", "result.json"


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
