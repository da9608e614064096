"""A made-up study of 400 pairs whose reference arm has begun: its tables, with nothing trained."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from clipmem_core.audit.store import CONFIG, MEMBERSHIP, PAIRS, write_json, write_prepared, write_table
from clipmem_core.config import as_dict, preset_config
from clipmem_core.studies.study_folder import StudyFolder
from tests.fixtures import made_record
from tests.made_arms import request_of

GROUPS = {"shared": 220, "candidate": 60, "independent": 60, "external": 60}
SIZE = dataclasses.replace(preset_config("tiny"), protocol="paper", seeds=3, members=6, threads=1, device="cpu")
# Pairs 0 and 1 look alike, 2, 3 and 4 do, a candidate and the next one, and two external ones.
TWINS = {1: 0, 3: 2, 4: 2, 221: 220, 341: 340}


def make_study(data: Path) -> StudyFolder:
    """Write a study's folder: study.json and the tables of arm `none`."""
    study = StudyFolder(data / "studies" / "made")
    arms = {"none": {}, "text-mask": {"text_mask": 0.15}, "early-stop": {"stop_epoch": 40}}
    settings = {"none": "", "text-mask": "text_mask=0.15", "early-stop": "stop_epoch=40"}
    more = {"source": "made.csv", "settings": settings, "reference_fields": {"train_captions": 1}}
    study.write_request(request_of("combined", as_dict(SIZE), arms, **more))
    group = np.repeat(list(GROUPS), list(GROUPS.values()))
    ids = [f"p{row}" for row in range(len(group))]
    folder = study.audit("none").folder
    folder.mkdir(parents=True)
    record = made_record("none", folder, "paper", group)
    own = {"config": dataclasses.replace(SIZE, train_captions=1), "members": ("f-0", "g-0")}
    write_json(folder / CONFIG, dataclasses.replace(record, **own).values)
    write_table(folder / PAIRS, pd.DataFrame({"pair_id": ids, "captions": [["one", "two"]] * len(ids)}))
    write_table(folder / MEMBERSHIP, pd.DataFrame({"pair_id": ids, "group": group}))
    clusters = np.array([TWINS.get(row, row) for row in range(len(ids))])
    write_prepared(folder, cache_rows=np.arange(len(ids)), clusters=clusters)
    return study


def ids_of(rows: range) -> frozenset[str]:
    """Return the ids of some rows."""
    return frozenset(f"p{row}" for row in rows)
