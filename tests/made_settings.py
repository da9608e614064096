"""A lab of a made-up audit: settings that look as if the audit's members had trained again."""

import json
from typing import Any

import numpy as np

from clipmem_core.auditing.folder.store import CONFIG, Audit, Prepared, write_json, write_prepared
from clipmem_core.lab import mitigated
from clipmem_core.lab.experiment import Study
from clipmem_core.lab.setting import BASELINE, parse_setting
from tests.made_encoders import with_config

CHANGED = 17  # the pair whose clipmem a setting changes most
# of the baseline
MEMORIZED = 0.4
RETRIEVAL = 0.5


def make_lab(audit: Audit, *, heads: bool = False) -> Audit:
    """Give an audit near-duplicates and a training on one caption, or locked towers, and the
    baseline of its lab."""
    clusters = np.arange(len(audit.pairs))
    towers = {"image_tower": "efficientnet-lite2", "text_tower": "all-MiniLM-L6-v2"}
    changed: dict[str, Any] = {"lock_image": True, "lock_text": True, **towers}
    if not heads:
        clusters[3] = 2
        changed = {"train_captions": 1}
    with_config(audit, **changed)
    write_prepared(audit.folder, Prepared(clusters, clusters, clusters))
    measure(audit, BASELINE)
    return audit


def add_setting(audit: Audit, text: str, *, members: int = 4, **effects: float) -> str:
    """Begin a setting and measure some members."""
    name = mitigated.begin(audit, parse_setting(text)).name
    measure(audit, name, members=members, **effects)
    return name


def measure(
    audit: Audit, setting: str, *, members: int = 4, times: float = 1.0, retrieval: float = 0.0
) -> None:
    """Measure members whose memorization is `times` that of the baseline, and more retrieval."""
    table = audit.membership
    for number, member in enumerate(audit.record.members[:members]):
        rng = np.random.default_rng([number, len(setting)])
        size = MEMORIZED * times * table[member].to_numpy()
        if setting != BASELINE:
            size[CHANGED] *= -1
        alignment = size + 0.01 * rng.normal(size=len(table))
        folder = mitigated.setting_folder(audit, setting) / member
        folder.mkdir(parents=True)
        values = [alignment, np.full(len(table), 0.1), alignment - 0.1]
        np.save(folder / mitigated.PAIR_VALUES, np.array(values, dtype=np.float32))
        found = {"retrieval": RETRIEVAL + retrieval + 0.01 * number, "linear_probe": 0.6}
        measures = found | {"zero_shot": 0.2, "seconds": 30.0 * (1 + retrieval)}
        (folder / mitigated.MEASURES_FILE).write_text(json.dumps(measures))


def make_study(audit: Audit, name: str, setting: str) -> Study:
    """Write a finished study of three splits: each has the rows of an audit's lab."""
    study = Study.of(name)
    study.folder.mkdir(parents=True)
    write_json(study.folder / CONFIG, audit.record.values)
    title = mitigated.read_setting(audit, setting).title
    for split in range(3):
        for each in (setting, BASELINE):
            rows = mitigated.setting_rows(audit, each)
            rows = rows.assign(split=split, seed=split, title=title)
            rows["retrieval"] += split / 9
            study.add_rows(f"{split}-{each}", rows)
    return study
