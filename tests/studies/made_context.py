"""A made-up study of 400 pairs whose reference arm has begun: its tables, with nothing trained."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core.audits.store import CONFIG, MEMBERSHIP, PAIRS, write_json, write_prepared, write_table
from clipmem_core.config import as_dict, preset_config
from clipmem_core.studies.store import ARMS, StudyFolder
from tests.fixtures import made_record

GROUPS = {"shared": 220, "candidate": 60, "independent": 60, "external": 60}
SIZE = dataclasses.replace(preset_config("tiny"), protocol="paper", seeds=3, members=6, threads=1, device="cpu")
# Pairs 0 and 1 look alike, 2, 3 and 4 do, a candidate and the next one, and two external ones.
TWINS = {1: 0, 3: 2, 4: 2, 221: 220, 341: 340}
Rows = Sequence[tuple[str, int, float]]


def make_study(data: Path, rows: Rows = (), **changes: Any) -> StudyFolder:
    """Write a study's folder: study.json, the tables of arm `none`, and rows of (arm, seed, seconds)."""
    study = StudyFolder(data / "studies" / "made")
    config = dataclasses.replace(SIZE, **changes)
    study.write_asked(
        {
            "study": "combined",
            "source": "made.csv",
            "config": as_dict(config),
            "reference": "none",
            "reference_fields": {"train_captions": 1},
            "arms": {"none": {}, "text-mask": {"text_mask": 0.15}, "early-stop": {"stop_epoch": 40}},
            "settings": {"none": "", "text-mask": "text_mask=0.15", "early-stop": "stop_epoch=40"},
            "snapshots": [],
            "seeds_per_split": 0,
            "compared": ["x"],
            "dataset_fingerprint": "0123456789abcdef",
            "machine": {"processor": "an abacus", "cores": 2},
        }
    )
    group = np.repeat(list(GROUPS), list(GROUPS.values()))
    ids = [f"p{row}" for row in range(len(group))]
    folder = study.audit("none").folder
    folder.mkdir(parents=True)
    record = made_record("none", folder, "paper", group)
    own = {"config": dataclasses.replace(config, train_captions=1), "members": ("f-0", "g-0")}
    write_json(folder / CONFIG, dataclasses.replace(record, **own).values)
    write_table(folder / PAIRS, pd.DataFrame({"pair_id": ids, "captions": [["one", "two"]] * len(ids)}))
    write_table(folder / MEMBERSHIP, pd.DataFrame({"pair_id": ids, "group": group}))
    clusters = np.array([TWINS.get(row, row) for row in range(len(ids))])
    write_prepared(folder, cache_rows=np.arange(len(ids)), clusters=clusters)
    if rows:
        samples = {"samples_seen": 280 * 80}
        study.add(ARMS, [{"arm": arm, "seed": n, "seconds": seconds, **samples} for arm, n, seconds in rows])
    return study


def ids_of(rows: range) -> frozenset[str]:
    """Return the ids of some rows."""
    return frozenset(f"p{row}" for row in rows)
