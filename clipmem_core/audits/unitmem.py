"""Measures UnitMem of a finished audit's members, and its references: python -m clipmem_core units NAME.

    <data>/cache/units/<key>/units.parquet        a table a member; of a sample of 1,000 pairs units-1000.parquet
    <data>/cache/units/<key>/references.parquet   for one member; of a sample likewise

The key covers all else that changes the tables. A unit can stand out without memorization: before any training, and on
pairs that its member never saw. Only what UnitMem has beyond these references is memorization.
"""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from clipmem_core import columns as c
from clipmem_core.audits import settings, store
from clipmem_core.audits.locked import build_member
from clipmem_core.audits.member import EVALUATION, MemberRun, open_member, trained_model, view_maker
from clipmem_core.audits.run import Screen, ensure_pixels
from clipmem_core.audits.status import MemberProgress
from clipmem_core.audits.store import Audit
from clipmem_core.config import FIELDS, InputError, data_folder, fingerprint
from clipmem_core.io import write_once
from clipmem_core.scores.encoders import BINS, UnitTally
from clipmem_core.training.activations import count_units, unit_layers
from clipmem_core.training.model import Model
from clipmem_core.training.names import CHECKPOINT

VERSION = 1  # of the measure: a new one makes every table again
UNITS, REFERENCES = "units.parquet", "references.parquet"
REFERENCE = "reference"
BEFORE, SEEN, UNSEEN = "before training", "seen", "unseen"
TOWER, LAYER, UNIT, ROW = "tower", "layer", "unit", "row"
IMAGE_TOWER, TEXT_TOWER = "image", "text"
UNITMEM_MEAN, UNITMEM_MEDIAN, MEDIAN_ERROR, CLIPPED = "unitmem_mean", "unitmem_median", "median_error", "clipped"
# The settings that decide how pictures and captions reach a member's encoders.
_HOW = sorted((name for name, own in FIELDS.items() if own.embeds), key=lambda name: FIELDS[name].embeds)


def run_units(audit: Audit, *, members: Sequence[str] = (), sample: int = 0, screen: Screen) -> None:
    """Measure the units of an audit's members, and the references of the first, unless they are measured already."""
    names = check_members(audit, members)
    if sample == 1 or sample < 0:
        raise InputError(f"--sample must be 0 (every pair) or at least 2, not {sample}")
    ensure_pixels(audit, screen)
    for name, table in [*((name, UNITS) for name in names), (names[0], REFERENCES)]:

        def make(temporary: Path, name: str = name, table: str = table) -> None:
            store.write_table(temporary, measure_member(audit, name, table, sample=sample, screen=screen))

        if not write_once(table_file(audit, name, table, sample=sample), make):
            screen.say(f"member {name}: its {table.removesuffix('.parquet')} are measured already")


def say_units(audit: Audit, *, sample: int = 0, screen: Screen) -> None:
    """Print UnitMem by layer, the pairs that set off most units, and UnitMem by layer of the references."""
    units, references = read_units(audit, sample=sample), read_units(audit, REFERENCES, sample=sample)
    assert units is not None
    assert references is not None
    means = layer_means(references, by=[REFERENCE, TOWER, LAYER])[[REFERENCE, TOWER, LAYER, UNITMEM_MEAN]]
    for line in layer_means(units).round(3).to_string(index=False).splitlines():
        screen.say(line)
    for pair_id, count in units[c.PAIR_ID].value_counts().head(5).items():
        screen.say(f"sets off {count:,} of {len(units):,} units most: {pair_id}")
    for line in means.round(3).to_string(index=False).splitlines():
        screen.say(line)


def check_members(audit: Audit, members: Sequence[str] = ()) -> list[str]:
    """Return the members asked for, all if none is named."""
    if not audit.finished:
        raise InputError(f"audit {audit.name!r} is not finished: run it again to resume it")
    if settings.has_locked_tower(audit.record.config):
        raise InputError(
            f"audit {audit.name!r} has a locked tower, and units are measured in encoders that members train: "
            "run one with --preset small"
        )
    known = audit.record.members
    if unknown := [name for name in members if name not in known]:
        raise InputError(f"audit {audit.name!r} has no member {unknown[0]!r}: it has {', '.join(known)}")
    return list(dict.fromkeys(members or known))


def measure_member(audit: Audit, name: str, table: str = UNITS, *, sample: int = 0, screen: Screen) -> pd.DataFrame:
    """Measure both encoders of a member on the pairs it was trained on, or its references.

    Returns:
        As `unit_table`; for `REFERENCES` also reference, without `seen` and `unseen` if there are fewer than two
        external pairs.
    """
    run = open_member(audit.folder, name)
    torch.set_num_threads(run.record.threads)  # as when it was trained
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, tokens=run.read(run.data.tokens)))
    seed, external = run.config.seed, run.data.external
    rows = sample_rows(run.data.rows, sample, seed=seed)
    if table == UNITS:
        return measure_model(run, trained_model(run), (IMAGE_TOWER, TEXT_TOWER), rows, label=name, screen=screen)
    untrained = build_member(run.config, run.towers, seed=run.own.seed, pretrained=run.config.pretrained)
    measured = [(BEFORE, untrained, rows)]
    as_many = min(len(rows), len(external))  # UnitMem grows with the number of pairs
    if as_many >= 2:
        model = trained_model(run)
        measured.append((SEEN, model, sample_rows(rows, as_many, seed=seed)))
        measured.append((UNSEEN, model, sample_rows(external, as_many, seed=seed)))
    tables = []
    for reference, model, own in measured:
        label = f"{name} {reference}"
        tables.append(measure_model(run, model, (IMAGE_TOWER, TEXT_TOWER), own, label=label, screen=screen))
        tables[-1].insert(0, REFERENCE, reference)
    return pd.concat(tables, ignore_index=True)


def measure_model(
    run: MemberRun, model: Model, towers: Sequence[str], rows: np.ndarray, *, label: str, screen: Screen
) -> pd.DataFrame:
    """Measure encoders of a model on pairs of a run under its evaluation views; returns as `unit_table`."""
    config, pair_ids = run.config, run.pairs[c.PAIR_ID].to_numpy()
    # A picture costs a pass for each view; the captions of a pair count as one.
    weights = {tower: config.views if tower == IMAGE_TOWER and len(towers) > 1 else 1 for tower in towers}
    steps, before, tables = sum(weights.values()) * len(rows), 0, []
    for tower, weight in weights.items():

        def report(done: int, before: int = before, weight: int = weight) -> None:
            screen.members([MemberProgress(label, "units", step=before + weight * done, steps=steps)])

        widths = unit_layers(model, tower).widths
        views = view_maker(model, config, config.seed + EVALUATION, crop_scale=config.eval_crop_scale)
        how: dict[str, Any] = {"rows": rows, "config": config, "device": run.record.device, "report": report}
        tally = count_units(model, run.data, views, tower, **how)
        tables.append(unit_table(tally, widths, tower=tower, pair_ids=pair_ids))
        before += weight * len(rows)
    return pd.concat(tables, ignore_index=True)


def sample_rows(rows: np.ndarray, sample: int, *, seed: int) -> np.ndarray:
    """Return a sample of rows in their order; all of them if `sample` is 0."""
    if not 0 < sample < len(rows):
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, sample, replace=False))


def unit_table(tally: UnitTally, widths: Sequence[int], *, tower: str, pair_ids: np.ndarray) -> pd.DataFrame:
    """Turn the counts of an encoder into a table.

    Returns:
        A row a unit: tower, layer (from 1), unit (from 0), the columns of `UnitTally.scores`, and the pair_id of the
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

    Returns:
        The columns `by`, then units, silent (units that never fire and are left out), unitmem_mean, unitmem_median,
        median_error and clipped.
    """
    groups = units.assign(silent=units[UNITMEM_MEAN].isna()).groupby(list(by), sort=False)
    means = groups[[UNITMEM_MEAN, UNITMEM_MEDIAN, MEDIAN_ERROR, CLIPPED]].mean()
    return groups["silent"].agg(units="size", silent="sum").join(means).reset_index()


def measured_samples(audit: Audit) -> list[int]:
    """Return the samples that a member is measured on: 0 for every pair, then the largest first."""
    if not audit.finished:
        return []
    paths = [path for name in audit.record.members for path in table_file(audit, name).parent.glob("units*.parquet")]
    found = {int(match[1] or 0) for path in paths if (match := re.fullmatch(r"units(?:-(\d+))?", path.stem))}
    return sorted(found, key=lambda sample: (sample > 0, -sample))


def read_units(audit: Audit, table: str = UNITS, *, sample: int = 0) -> pd.DataFrame | None:
    """Return a table of all members that have it, or None.

    Returns:
        member and the columns of `measure_member`. References: `before training`, the model that training began from,
        on the member's pairs; `seen` and `unseen`, the member on as many pairs of its training and of the external
        ones.
    """
    found = []
    for name in audit.record.members if audit.finished else ():
        path = table_file(audit, name, table, sample=sample)
        if path.is_file():
            repair = f"delete it and run `python -m clipmem_core units {audit.name}`"
            found.append(store.read_table(path, repair=repair))
            found[-1].insert(0, c.MEMBER, name)
    return pd.concat(found, ignore_index=True) if found else None


def table_file(audit: Audit, name: str, table: str = UNITS, *, sample: int = 0) -> Path:
    """Return the path of a table of a finished audit's member."""
    config, own, files = audit.record.config, audit.member_record(name), audit.files
    trained = store.read_table(audit.folder / store.MEMBERSHIP, columns=[name])[name].to_numpy(dtype=bool)
    content: list[Any] = [
        [VERSION, BINS],
        own.checkpoint_sha256 or files[f"{store.MEMBERS}/{name}/{CHECKPOINT}"],
        [own.model_config, own.seed, config.pretrained, config.loss],
        files[store.PAIRS],
        hashlib.sha256(np.packbits(trained).tobytes()).hexdigest(),
        [getattr(config, field) for field in _HOW],
    ]
    sampled = table.replace(".", f"-{sample}.") if sample else table
    return data_folder() / "cache" / "units" / fingerprint(content) / sampled
