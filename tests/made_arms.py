"""Made-up studies of mitigations: rows of the real arms of a plan, and audits of some of them."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core.audit.store import CONFIG, SCORES, Audit, write_json, write_table
from clipmem_core.config import AuditConfig, as_dict, preset_config
from clipmem_core.studies.arm import Decided, normal
from clipmem_core.studies.plan import find_study
from clipmem_core.studies.study_folder import ARMS, StudyFolder

# What an arm does to none's clipmem (a factor) and retrieval (a difference); others do a little of both.
EFFECTS = {
    "none": (1.0, 0.0),
    "text-mask-strong": (0.7, 0.01),
    "text-mask": (0.85, 0.012),
    "crops-and-colour": (0.9, 0.02),
    "mask-and-crops": (0.62, 0.004),
    "early-stop": (0.55, -0.06),
    "adaptive-rest": (0.5, -0.09),
    "captions-and-adaptive-mask": (0.72, 0.03),
}


def request_of(study: str, config: Mapping[str, Any], arms: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the content of a study.json."""
    asked = {"study": study, "source": "scenes", "config": config, "arms": arms}
    asked |= {"reference_fields": {}, "settings": {}, "seeds_per_split": 0, "compared": []}
    asked |= {"dataset_fingerprint": "0123456789abcdef", "machine": {"processor": "an abacus", "cores": 2}}
    return asked | more


def make_arms(
    data: Path, plan: str = "combined", *, name: str = "", seeds: int | Mapping[str, int] = 3, captions: int = 3
) -> StudyFolder:
    """Write a study in which every arm has so many seeds, by its name where they differ, and return it."""
    config = dataclasses.replace(preset_config("tiny"), protocol="paper", train_captions=0)
    pairs = pd.DataFrame({"captions": [["a"] * captions] * 4000, "group": "shared"})
    arms = find_study(plan).arms(config, pairs)
    study = StudyFolder(data / "studies" / (name or plan))
    none = dataclasses.replace(config, **next(arm for arm in arms if arm.name == "none").fields)
    values = as_dict(dataclasses.replace(config, seeds=seeds if isinstance(seeds, int) else 3))
    settings = {arm.name: normal(arm, none).text for arm in arms}
    fields = {"reference_fields": {"train_captions": none.train_captions}, "settings": settings}
    study.write_request(request_of(plan, values, {arm.name: arm.row(Decided()) for arm in arms}, **fields))
    counts = {arm.name: seeds if isinstance(seeds, int) else seeds.get(arm.name, 0) for arm in arms}
    rows = [
        _row(arm.name, place, seed, config) | arm.row(Decided())
        for place, arm in enumerate(arms)
        for seed in range(counts[arm.name])
    ]
    if rows:
        write_table(study.folder / ARMS, pd.DataFrame(rows))
    return study


def _row(arm: str, place: int, seed: int, config: AuditConfig) -> dict[str, object]:
    rng = np.random.default_rng([place, seed])
    shared = np.random.default_rng([99, seed]).normal(size=3) * 0.01  # what a seed does to all arms
    factor, more = EFFECTS.get(arm, (1 - 0.02 * (place % 8), 0.03 * np.sin(place)))
    noise = rng.normal(size=6) * 0.003
    image, text = 0.02 + noise[0], 0.30 * factor + shared[0] + noise[1]
    return {
        "arm": arm,
        "seed": seed,
        "clipmem_candidate": image + text,
        "membership_auroc": 0.5 + 0.28 * factor + shared[1] / 2 + noise[2],
        "clipmem_image": image,
        "clipmem_text": text,
        "clipmem_external": 0.005 + noise[3] / 3,
        "retrieval": 0.41 + more + shared[2] + noise[4],
        "linear_probe": 0.61 + more / 2 + shared[2] + noise[5],
        "zero_shot": 0.11 + more / 4 + noise[5],
        "samples_seen": 165180.0,
        "seconds": 400.0 + 20 * place + seed,
        "peak_mb": 1200.0 + place,
    }


def give_audit(study: StudyFolder, arm: str, made: Audit, *, seeds: int = 3, scale: float = 1.0) -> Audit:
    """Copy a made audit of the paper's protocol as that of an arm, its clipmem of candidates scaled."""
    audit = study.audit(arm)
    shutil.copytree(made.folder, audit.folder)
    record, scores = audit.record, audit.scores
    config = dataclasses.replace(record.config, seeds=seeds, members=2 * seeds)
    write_json(audit.folder / CONFIG, dataclasses.replace(record, config=config).values)
    scores.loc[scores["group"] == "candidate", "clipmem"] *= scale
    write_table(audit.folder / SCORES, scores)
    return audit
