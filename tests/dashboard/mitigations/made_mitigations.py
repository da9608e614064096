"""A made-up study of mitigations: its arms' rows are drawn, and the pairs of `none` are those of a made audit."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from clipmem_core.audits.store import Audit, write_json, write_prepared, write_table
from clipmem_core.config import as_dict, preset_config
from clipmem_core.studies.measure import RECALLS
from clipmem_core.studies.store import ARMS, MEMORIZATION, PEAK_MB, SAMPLES_SEEN, SECONDS, STUDY, StudyFolder
from tests.made_arms import asked_of

SETTINGS = {
    "none": "",
    "text-mask": "text_mask=0.15",
    "text-mask-strong": "text_mask=0.3",
    "adaptive-rest": "adaptive_rest=1 adaptive_quantile=0.95",
    "captions": "train_captions=0",
}
LESS = {"none": 1.0, "text-mask": 0.9, "text-mask-strong": 0.7, "adaptive-rest": 0.8, "captions": 0.6}


def make_mitigations(
    data: Path, audit: Audit, *, name: str = "lab", seeds: int = 3, done: int | None = None, plan: str = "combined"
) -> StudyFolder:
    """Write a study of which so many seeds of every arm are done.

    Clipmem is 0.4 of `none` and a share of it, one of LESS, of the others; every arm has the same AUROC less 0.1 times
    what is gone, and the same retrieval.
    """
    study = StudyFolder(data / "studies" / name)
    study.folder.mkdir(parents=True)
    config = replace(preset_config("tiny"), protocol="paper", seeds=seeds, members=2 * seeds, device="cpu", threads=1)
    arms = {arm: {"setting": text} for arm, text in SETTINGS.items()}
    fields = {"reference_fields": {"train_captions": 1}, "settings": SETTINGS}
    fields |= {"dataset_fingerprint": audit.record.dataset_fingerprint}
    write_json(study.folder / STUDY, asked_of(plan, as_dict(config), arms, **fields))
    shutil.copytree(audit.folder, study.audit("none").folder)
    clusters = np.arange(len(audit.pairs))
    write_prepared(study.audit("none").folder, cache_rows=clusters, clusters=clusters)
    count = seeds if done is None else done
    if count:
        write_table(study.folder / ARMS, made_rows(count))
    return study


def made_rows(seeds: int) -> pd.DataFrame:
    """Return rows of every arm; a seed moves all arms alike, and each a little by itself."""
    rng = np.random.default_rng(0)
    together = rng.normal(size=seeds) * 0.02
    return pd.DataFrame(
        [_row(arm, seed, together[seed] + rng.normal() * 0.002) for arm, seed in itertools.product(LESS, range(seeds))]
    )


def _row(arm: str, seed: int, moved: float) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(MEMORIZATION, 0.01) | dict.fromkeys(RECALLS, 0.4)
    whole = 0.4 * LESS[arm] + moved
    row |= {"clipmem_candidate": whole, "clipmem_text": 0.9 * whole, "clipmem_image": 0.1 * whole}
    row |= {"membership_auroc": 0.8 - 0.1 * (1 - LESS[arm]) + moved / 10, "map_fit": 0.9}
    row |= {"retrieval": 0.4 + moved / 10, "linear_probe": 0.6, "zero_shot": 0.3}
    row |= dict.fromkeys((SAMPLES_SEEN, SECONDS, PEAK_MB), 100.0)
    return {"arm": arm, "seed": seed, "setting": SETTINGS[arm]} | row
