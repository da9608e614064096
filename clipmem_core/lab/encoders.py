"""Trains the encoders of an audit whose towers are locked on a sample of its pairs, and compares
what text and image encoder memorized."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core.auditing.folder import prepare, store
from clipmem_core.auditing.folder.jobs import Screen
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.run.pipeline import run_audit
from clipmem_core.config import AuditConfig, affecting, preset_config
from clipmem_core.errors.calibration import HALF
from clipmem_core.lab import unit_tables as t
from clipmem_core.lab.unitmem import run_units
from clipmem_core.scores.encoders import compare_parts
from clipmem_core.utils import columns as c
from clipmem_core.utils import draws
from clipmem_core.utils.io import InputError

MOST_COMPARED = 4_000  # scored pairs of a comparison, drawn at random


def encoders_config(audit: Audit, sample: int) -> AuditConfig:
    """Return the config of an audit whose members train encoders on pairs of another one."""
    config = audit.record.config
    if config.features or not (config.lock_image and config.lock_text) or config.unlock:
        raise InputError(
            f"audit {audit.name!r} has no two locked towers with pictures: audit the data set with "
            "--preset tuned"
        )
    data = {name: getattr(config, name) for name in affecting("data") if hasattr(config, name)}
    tuned = preset_config("tuned")
    is_sample = sample < audit.record.pairs
    chosen: dict[str, Any] = {
        "preset": tuned.preset,
        "image_tower": config.image_tower,
        "text_tower": config.text_tower,
        "tower_size": config.tower_size,
        "members": min(config.members, 2 * config.folds),
        "sample": min(sample, config.sample or sample) if is_sample else config.sample,
    }
    if is_sample and config.protocol == "paper":
        chosen["members"] = 0
    if is_sample:  # another number of pairs would get other errors
        chosen["inject_miscaptions"] = 0
    return dataclasses.replace(tuned, **data | chosen)


def train_encoders(audit: Audit, sample: int, screen: Screen) -> Audit:
    """Train encoders on pairs of an audit with its groups and folds, measure their units, and
    compare both audits' encoders. The same call resumes it."""
    audit.check_finished()
    config = encoders_config(audit, sample)
    name = t.encoders_name(audit)
    second = run_audit(audit.record.source, config, name=name, screen=screen, pairs_of=audit)
    run_units(second, screen)
    for each in (audit, second):
        compare_encoders(each, screen)
    screen.result({"audit": name})
    return second


def compare_encoders(audit: Audit, screen: Screen) -> None:
    """Write the mean part of each encoder for groups of pairs, unless it is written."""
    path = t.comparison_file(audit)
    if path.is_file():
        return
    screen.say(f"comparing the encoders of audit {audit.name}")
    record = audit.record
    membership = prepare.membership_of(audit.membership)
    scores = audit.read_columns(store.SCORES, c.CLIPMEM, c.P_WRONG, c.GROUP)
    is_held_out = (scores[c.GROUP] == c.HELD_OUT).to_numpy()
    rows = np.flatnonzero(~is_held_out)
    if len(rows) > MOST_COMPARED:
        rows = draws.rng(record.config.seed, "encoders").choice(rows, MOST_COMPARED, replace=False)
    rows = np.sort(np.concatenate([rows, np.flatnonzero(is_held_out)]))
    membership = dataclasses.replace(
        membership, group=membership.group[rows], trained=membership.trained[:, rows]
    )
    sides = prepare.sides_of(
        audit, dataclasses.replace(record.config, retrieval_apart=False), membership
    )
    embeddings = [store.read_embeddings(audit.member(name)) for name in record.members]
    image, text = ([vectors[side][rows] for vectors in embeddings] for side in (0, 1))
    of_pairs = scores.iloc[rows].reset_index(drop=True)
    clipmem = of_pairs[c.CLIPMEM]
    wrong = (of_pairs[c.P_WRONG] > HALF).to_numpy()
    scored = of_pairs[c.GROUP].isin(c.TARGET_GROUPS).to_numpy()
    top = (clipmem >= clipmem[scored].quantile(0.9)).to_numpy()
    groups = {
        t.TYPICAL: scored & ~top & ~wrong,
        t.MOST: scored & top,
        t.WRONG: scored & wrong,
        c.HELD_OUT: is_held_out[rows],
    }
    table = compare_parts(image, text, sides, groups)
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_table(path, table)


def say_encoders(audit: Audit, second: Audit, screen: Screen) -> None:
    """Print which encoder memorized more, by the heads and by the trained encoders."""
    for each in (second, audit):
        table = t.read_comparison(each)
        if isinstance(table, pd.DataFrame):
            screen.say(f"{t.trained_words(each.record.config)}:")
            for line in t.comparison_lines(table):
                screen.say(f"  {line}")
