"""Measures UnitMem of a finished audit's members, and of what it is read against: python -m clipmem_core units NAME.

A unit also stands out where it was never trained, and on pairs that it never saw: it is selective. What UnitMem has
beyond that, in the references of one member, is memorization.

Takes about as long as embedding the pairs that the members were trained on. A run that was killed goes on with the
member it was at.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from clipmem_core import columns as c
from clipmem_core.atomic import cached
from clipmem_core.audits import settings
from clipmem_core.audits import unitmem_tables as t
from clipmem_core.audits.member import EVALUATION, MemberRun, open_member, trained_model, view_maker
from clipmem_core.audits.progress import MemberProgress
from clipmem_core.audits.run import Screen, ensure_pixels
from clipmem_core.audits.store import Audit, read_table, whole_table, write_table
from clipmem_core.audits.unitmem_tables import layer_means, table_file, unit_table
from clipmem_core.config import InputError
from clipmem_core.training.activations import count_units, unit_layers
from clipmem_core.training.model import Model, build_model

SAID_PAIRS = 5


def run_units(audit: Audit, *, members: Sequence[str] = (), sample: int = 0, screen: Screen) -> pd.DataFrame:
    """Measure the units of an audit's members, one after the other; those measured before are not touched.

    Args:
        audit: a finished one.
        members: which members; all if empty.
        sample: how many of a member's pairs are drawn; 0 takes all.
        screen: where progress goes.

    Returns:
        As `read_units`, of the members asked for.

    Raises:
        InputError: the audit is not finished, a member is unknown, the sample is too small, or neither encoder of a
            member can be measured.
    """
    names = check_members(audit, members)
    if sample == 1 or sample < 0:
        raise InputError(f"--sample must be 0 (every pair) or at least 2, not {sample}")
    ensure_pixels(audit, screen)
    tables = []
    for name in names:
        path = table_file(audit, name, sample=sample)
        if not _have(path, partial(measure_member, audit, name, sample=sample, screen=screen), screen):
            screen.say(f"member {name}: its units are measured already")
        tables.append(read_table(path))
        tables[-1].insert(0, c.MEMBER, name)
    return pd.concat(tables, ignore_index=True)


def run_references(audit: Audit, *, members: Sequence[str] = (), sample: int = 0, screen: Screen) -> pd.DataFrame:
    """Measure the references of the first of an audit's members, unless that has been done.

    Args:
        audit: a finished one, whose members were measured.
        members: which of them; all if empty.
        sample: as they were measured; 0 for every pair.
        screen: where progress goes.

    Returns:
        As `read_units` of `REFERENCES`, without `member`.

    Raises:
        InputError: the audit is not finished, or a member is unknown.
    """
    name = check_members(audit, members)[0]
    path = table_file(audit, name, t.REFERENCES, sample=sample)
    _have(path, partial(measure_references, audit, name, sample=sample, screen=screen), screen)
    return read_table(path)


def _have(path: Path, measure: Callable[[], pd.DataFrame], screen: Screen) -> bool:
    """Measure a table unless it is there and whole; True if it was measured now."""

    def make(temporary: Path) -> None:
        write_table(temporary, measure(), checksums=True)

    return cached(path, make, whole=whole_table, broken=screen.say)


def say_layers(units: pd.DataFrame, screen: Screen) -> None:
    """Say UnitMem by layer, and which pairs set off most units."""
    for line in layer_means(units).round(3).to_string(index=False).splitlines():
        screen.say(line)
    counts = units[c.PAIR_ID].value_counts()
    for pair_id, count in counts.head(SAID_PAIRS).items():
        screen.say(f"sets off {count:,} of {len(units):,} units most: {pair_id}")


def say_references(references: pd.DataFrame, screen: Screen) -> None:
    """Say UnitMem by layer of what it is read against."""
    means = layer_means(references, by=[t.REFERENCE, t.TOWER, t.LAYER])
    for line in means[[t.REFERENCE, t.TOWER, t.LAYER, t.UNITMEM_MEAN]].round(3).to_string(index=False).splitlines():
        screen.say(line)


def check_members(audit: Audit, members: Sequence[str] = ()) -> list[str]:
    """Return the members asked for, all if none is named.

    Raises:
        InputError: the audit is not finished, has a locked tower, or has no such member.
    """
    if not audit.finished:
        raise InputError(f"audit {audit.name!r} is not finished: run it again, it goes on where it stopped")
    record = audit.record
    if settings.has_locked_tower(record.config):
        raise InputError(
            f"audit {audit.name!r} has a locked tower, and units are measured in encoders that members train: "
            "run one with --preset small"
        )
    known = list(record.members)
    if unknown := [name for name in members if name not in known]:
        raise InputError(f"member {unknown[0]!r} is none of audit {audit.name!r}: it has {', '.join(known)}")
    return list(dict.fromkeys(members)) or known


def measure_member(audit: Audit, name: str, *, sample: int = 0, screen: Screen) -> pd.DataFrame:
    """Measure both encoders of a member; one that cannot be measured is named on the screen and left out.

    Returns:
        As `unit_table`.

    Raises:
        InputError: neither can be measured.
    """
    run = _open(audit, name)
    model = trained_model(run)
    towers, refused = measurable(model)
    if not towers:
        raise InputError("; ".join(refused))
    for reason in refused:
        screen.say(f"note: {reason}")
    rows = drawn(run.data.rows, sample, seed=run.config.seed)
    return measure_model(run, model, towers, rows, label=name, screen=screen)


def measure_references(audit: Audit, name: str, *, sample: int = 0, screen: Screen) -> pd.DataFrame:
    """Measure what a member's UnitMem is read against.

    Returns:
        As `read_units` of `REFERENCES`, without `member`; without `seen` and `unseen` where there are fewer than two
        external pairs.
    """
    run = _open(audit, name)
    seed, external = run.config.seed, run.data.external
    rows = drawn(run.data.rows, sample, seed=seed)
    measured = [(t.BEFORE, model_before(run, run.own.seed), rows)]
    as_many = min(len(rows), len(external))
    if as_many >= 2:
        model = trained_model(run)
        measured.append((t.SEEN, model, drawn(rows, as_many, seed=seed)))
        measured.append((t.UNSEEN, model, drawn(external, as_many, seed=seed)))
    tables = []
    for reference, model, own in measured:
        table = measure_model(run, model, measurable(model)[0], own, label=f"{name} {reference}", screen=screen)
        table.insert(0, t.REFERENCE, reference)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _open(audit: Audit, name: str) -> MemberRun:
    """Open a member to measure it by what it reads once it is trained."""
    run = open_member(audit.folder, name)
    torch.set_num_threads(run.record.threads)  # as when it was trained
    return dataclasses.replace(run, data=dataclasses.replace(run.data, tokens=run.read(run.data.tokens)))


def model_before(run: MemberRun, seed: int) -> Model:
    """Return the model that training began from: random weights of a seed, or those of the pretrained start."""
    config = run.config
    return build_model(
        config.model,
        loss=config.loss,
        seed=seed,
        image_size=config.image_size,
        pretrained=config.pretrained,
        device=run.record.device,
    )


def measure_model(
    run: MemberRun, model: Model, towers: Sequence[str], rows: np.ndarray, *, label: str, screen: Screen
) -> pd.DataFrame:
    """Measure some encoders of a model on pairs of a run under its evaluation views; show how far it is under a label.

    Returns:
        As `unit_table`.
    """
    config, pair_ids = run.config, run.pairs[c.PAIR_ID].to_numpy()
    # Beside the captions of a pair, which count as one, a picture costs a pass for each view.
    weights = {tower: config.views if tower == t.IMAGE_TOWER and len(towers) > 1 else 1 for tower in towers}
    steps, before, tables = sum(weights.values()) * len(rows), 0, []
    for tower, weight in weights.items():

        def report(done: int, before: int = before, weight: int = weight) -> None:
            screen.members([MemberProgress(label, "units", step=before + weight * done, steps=steps)])

        views = view_maker(model, config, config.seed + EVALUATION, crop_scale=config.eval_crop_scale)
        how: dict[str, Any] = {"rows": rows, "config": config, "device": run.record.device, "report": report}
        tally = count_units(model, run.data, views, tower, **how)
        tables.append(unit_table(tally, unit_layers(model, tower).widths, tower=tower, pair_ids=pair_ids))
        before += weight * len(rows)
    return pd.concat(tables, ignore_index=True)


def measurable(model: Model) -> tuple[list[str], list[str]]:
    """Return the encoders whose units can be measured, and why the others' cannot."""
    towers, refused = [], []
    for tower in (t.IMAGE_TOWER, t.TEXT_TOWER):
        try:
            unit_layers(model, tower)
            towers.append(tower)
        except InputError as error:
            refused.append(str(error))
    return towers, refused


def drawn(rows: np.ndarray, sample: int, *, seed: int) -> np.ndarray:
    """Return all rows, or a sample of them in their order.

    Example:
        >>> drawn(np.array([3, 5, 8]), 0, seed=0).tolist()
        [3, 5, 8]
    """
    if not 0 < sample < len(rows):
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, sample, replace=False))
