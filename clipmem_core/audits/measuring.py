"""A finished audit's members → UnitMem of their units, member by member: python -m clipmem_core units NAME.

Takes about as long as embedding the pairs that the members were trained on. A run that was killed goes on with the
member it was at.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from clipmem_core import columns as c
from clipmem_core.audits.member import EVALUATION, trained_model, view_maker
from clipmem_core.audits.member_run import MemberRun, open_member
from clipmem_core.audits.progress import MemberProgress
from clipmem_core.audits.run import Screen, ensure_pixels
from clipmem_core.audits.settings import config_from
from clipmem_core.audits.store import Audit, whole_table, write_table
from clipmem_core.audits.units import (
    IMAGE_TOWER,
    TEXT_TOWER,
    gather,
    layer_means,
    listed_members,
    unit_table,
    units_file,
)
from clipmem_core.config import InputError
from clipmem_core.training.model import Model
from clipmem_core.training.units import Report, image_layers, image_units, text_layers, text_units

SAID_PAIRS = 5
LAYERS_OF = {IMAGE_TOWER: image_layers, TEXT_TOWER: text_layers}


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
    ensure_pixels(audit, config_from(audit.config["config"]), screen)
    paths = {name: units_file(audit, name, sample=sample) for name in names}
    for name, path in paths.items():
        if whole_table(path):
            screen.say(f"member {name}: its units are measured already")
        else:
            say_broken(path, screen)
            keep_table(path, measure_member(audit, name, sample=sample, screen=screen))
    units = gather(paths)
    assert units is not None
    return units


def keep_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table into a folder that may not be there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, table, checksums=True)


def say_broken(path: Path, screen: Screen) -> None:
    """Name a table that is measured again although it is there."""
    if path.is_file():
        screen.say(f"{path} is broken: measuring it again")


def say_layers(units: pd.DataFrame, screen: Screen) -> None:
    """Say UnitMem by layer, and which pairs set off most units."""
    for line in layer_means(units).round(3).to_string(index=False).splitlines():
        screen.say(line)
    counts = units[c.PAIR_ID].value_counts()
    for pair_id, count in counts.head(SAID_PAIRS).items():
        screen.say(f"sets off {count:,} of {len(units):,} units most: {pair_id}")


def check_members(audit: Audit, members: Sequence[str]) -> list[str]:
    """Return the members asked for, all if none is named.

    Raises:
        InputError: the audit is not finished, or has no such member.
    """
    if not audit.finished:
        raise InputError(f"audit {audit.name!r} is not finished: run it again, it goes on where it stopped")
    known = listed_members(audit)
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
    run = open_run(audit, name)
    model = trained_model(run)
    towers, refused = measurable(model)
    if not towers:
        raise InputError("; ".join(refused))
    for reason in refused:
        screen.say(f"note: {reason}")
    rows = drawn(run.data.rows, sample, seed=run.config.seed)
    return measure_model(run, model, towers, rows, label=name, screen=screen)


def open_run(audit: Audit, name: str) -> MemberRun:
    """Open a member to measure it by what it reads once it is trained."""
    run = open_member(audit.folder, name)
    torch.set_num_threads(run.stored["threads"])  # as when it was trained
    return dataclasses.replace(run, data=dataclasses.replace(run.data, tokens=run.read(run.data.tokens)))


def measure_model(
    run: MemberRun, model: Model, towers: Sequence[str], rows: np.ndarray, *, label: str, screen: Screen
) -> pd.DataFrame:
    """Measure some encoders of a model on pairs of a run, and show how far it is under a label.

    Returns:
        As `unit_table`.
    """
    # A picture costs a pass for each view; the captions of a pair count as one.
    weights = {tower: run.config.views if tower == IMAGE_TOWER else 1 for tower in towers}
    tables, before = [], 0
    for tower, weight in weights.items():

        def report(done: int, total: int, before: int = before, weight: int = weight) -> None:
            step, steps = before * total + weight * done, sum(weights.values()) * total
            screen.members([MemberProgress(label, "units", step=step, steps=steps)])

        tables.append(measure_tower(run, model, tower, rows, report=report))
        before += weight
    return pd.concat(tables, ignore_index=True)


def measure_tower(
    run: MemberRun, model: Model, tower: str, rows: np.ndarray, *, report: Report | None = None
) -> pd.DataFrame:
    """Measure one encoder of a model on pairs of a run, under its evaluation views.

    Returns:
        As `unit_table`.
    """
    config, device = run.config, run.stored["device"]
    if tower == IMAGE_TOWER:
        views = view_maker(model, config, config.seed + EVALUATION, crop_scale=config.eval_crop_scale)
        tally = image_units(
            model,
            run.data,
            views,
            rows=rows,
            n_views=config.views,
            precision=config.precision,
            device=device,
            report=report,
        )
    else:
        tally = text_units(
            model,
            run.data,
            rows=rows,
            first=config.eval_captions,
            precision=config.precision,
            device=device,
            report=report,
        )
    return unit_table(tally, LAYERS_OF[tower](model).widths, tower=tower, pair_ids=run.pairs[c.PAIR_ID].to_numpy())


def measurable(model: Model) -> tuple[list[str], list[str]]:
    """Return the encoders whose units can be measured, and why the others' cannot."""
    towers, refused = [], []
    for tower, layers_of in LAYERS_OF.items():
        try:
            layers_of(model)
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
