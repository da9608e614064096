"""Measures UnitMem of a finished audit's members, and of what it is read against: python -m clipmem_core units NAME.

    <data>/cache/units/<key>/units.parquet        a table a member; of a sample of 1,000 pairs units-1000.parquet
    <data>/cache/units/<key>/references.parquet   of one member, what its UnitMem is read against; the sample likewise

The key covers all else that changes the tables. UnitMem is measured on the pairs that the member was trained on, all of
them or a sample. A unit also stands out where it was never trained, and on pairs that it never saw: it is selective.
What UnitMem has beyond that, in the references of one member, is memorization.

Takes about as long as embedding the pairs that the members were trained on. A run that was killed goes on with the
member it was at.
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
from clipmem_core.atomic import cached
from clipmem_core.audits import settings
from clipmem_core.audits.member import EVALUATION, MemberRun, open_member, trained_model, view_maker
from clipmem_core.audits.run import Screen, ensure_pixels
from clipmem_core.audits.status import MemberProgress
from clipmem_core.audits.store import MEMBERS, MEMBERSHIP, PAIRS, Audit, read_table, whole_table, write_table
from clipmem_core.config import FIELDS, InputError, data_folder, fingerprint
from clipmem_core.scores.encoders import BINS, UnitTally
from clipmem_core.training.activations import count_units, unit_layers
from clipmem_core.training.model import Model, build_model
from clipmem_core.training.names import CHECKPOINT

VERSION = 1  # of what is measured: a new one makes every table again
UNITS, REFERENCES = "units.parquet", "references.parquet"
# What UnitMem is read against. It grows with the number of pairs, so `seen` and `unseen` are as many of each.
REFERENCE = "reference"
BEFORE, SEEN, UNSEEN = "before training", "seen", "unseen"
TOWER, LAYER, UNIT, ROW = "tower", "layer", "unit", "row"
IMAGE_TOWER, TEXT_TOWER = "image", "text"
UNITMEM_MEAN, UNITMEM_MEDIAN, MEDIAN_ERROR, CLIPPED = "unitmem_mean", "unitmem_median", "median_error", "clipped"
# What says how pictures and captions reach a member's encoders.
_HOW = sorted((name for name, own in FIELDS.items() if own.embeds), key=lambda name: FIELDS[name].embeds)
SAID_PAIRS = 5


def run_units(audit: Audit, *, members: Sequence[str] = (), sample: int = 0, screen: Screen) -> None:
    """Measure the units of an audit's members, and the references of the first; what is measured is not touched."""
    names = check_members(audit, members)
    if sample == 1 or sample < 0:
        raise InputError(f"--sample must be 0 (every pair) or at least 2, not {sample}")
    ensure_pixels(audit, screen)
    for name, table in [*((name, UNITS) for name in names), (names[0], REFERENCES)]:

        def make(temporary: Path, name: str = name, table: str = table) -> None:
            measure = measure_member if table == UNITS else measure_references
            write_table(temporary, measure(audit, name, sample=sample, screen=screen), checksums=True)

        if not cached(table_file(audit, name, table, sample=sample), make, whole=whole_table, broken=screen.say):
            screen.say(f"member {name}: its {table.removesuffix('.parquet')} are measured already")


def say_units(audit: Audit, *, sample: int = 0, screen: Screen) -> None:
    """Say UnitMem by layer, which pairs set off most units, and UnitMem by layer of what it is read against."""
    units, references = read_units(audit, sample=sample), read_units(audit, REFERENCES, sample=sample)
    assert units is not None
    assert references is not None
    for line in layer_means(units).round(3).to_string(index=False).splitlines():
        screen.say(line)
    for pair_id, count in units[c.PAIR_ID].value_counts().head(SAID_PAIRS).items():
        screen.say(f"sets off {count:,} of {len(units):,} units most: {pair_id}")
    means = layer_means(references, by=[REFERENCE, TOWER, LAYER])
    for line in means[[REFERENCE, TOWER, LAYER, UNITMEM_MEAN]].round(3).to_string(index=False).splitlines():
        screen.say(line)


def check_members(audit: Audit, members: Sequence[str] = ()) -> list[str]:
    """Return the members asked for, all if none is named."""
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
    measured = [(BEFORE, model_before(run, run.own.seed), rows)]
    as_many = min(len(rows), len(external))
    if as_many >= 2:
        model = trained_model(run)
        measured.append((SEEN, model, drawn(rows, as_many, seed=seed)))
        measured.append((UNSEEN, model, drawn(external, as_many, seed=seed)))
    tables = []
    for reference, model, own in measured:
        table = measure_model(run, model, measurable(model)[0], own, label=f"{name} {reference}", screen=screen)
        table.insert(0, REFERENCE, reference)
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
    weights = {tower: config.views if tower == IMAGE_TOWER and len(towers) > 1 else 1 for tower in towers}
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
    for tower in (IMAGE_TOWER, TEXT_TOWER):
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


def unit_table(tally: UnitTally, widths: Sequence[int], *, tower: str, pair_ids: np.ndarray) -> pd.DataFrame:
    """Turn the counts of an encoder into a table.

    Returns:
        A row a unit: tower, layer (from 1), unit (from 0), what `UnitTally.scores` says of it, and the pair_id of the
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
        Those columns, then units, silent (units that never fire and are left out), unitmem_mean, unitmem_median,
        median_error and clipped.
    """
    groups = units.assign(silent=units[UNITMEM_MEAN].isna()).groupby(list(by), sort=False)
    means = groups[[UNITMEM_MEAN, UNITMEM_MEDIAN, MEDIAN_ERROR, CLIPPED]].mean()
    return groups["silent"].agg(units="size", silent="sum").join(means).reset_index()


def measured_samples(audit: Audit) -> list[int]:
    """Return the samples of which a member is measured: 0, which is every pair, then the largest first."""
    if not audit.finished:
        return []
    paths = [path for name in audit.record.members for path in table_file(audit, name).parent.glob("units*.parquet")]
    found = {int(match[1] or 0) for path in paths if (match := re.fullmatch(r"units(?:-(\d+))?", path.stem))}
    return sorted(found, key=lambda sample: (sample > 0, -sample))


def read_units(audit: Audit, table: str = UNITS, *, sample: int = 0) -> pd.DataFrame | None:
    """Return a table of all members that have it, or None where none has.

    Returns:
        member and the columns of `unit_table`; of `REFERENCES` also reference. `before training`: the model that the
        member's training began from, on the member's pairs. `seen` and `unseen`: the member on as many pairs that it
        was trained on as there are external ones, and on those, which it never saw.
    """
    found = []
    for name in audit.record.members if audit.finished else ():
        path = table_file(audit, name, table, sample=sample)
        if path.is_file() and not whole_table(path):
            raise InputError(f"{path} is broken: `python -m clipmem_core units {audit.name}` makes it again")
        if path.is_file():
            found.append(read_table(path))
            found[-1].insert(0, c.MEMBER, name)
    return pd.concat(found, ignore_index=True) if found else None


def table_file(audit: Audit, name: str, table: str = UNITS, *, sample: int = 0) -> Path:
    """Return where a table of a finished audit's member is, once it is measured; of a sample in a file of its own."""
    config, own, files = audit.record.config, audit.member_record(name), audit.files
    trained = read_table(audit.folder / MEMBERSHIP, columns=[name])[name].to_numpy(dtype=bool)
    content: list[Any] = [
        [VERSION, BINS],
        own.checkpoint_sha256 or files[f"{MEMBERS}/{name}/{CHECKPOINT}"],
        [own.model_config, own.seed, config.pretrained, config.loss],
        files[PAIRS],
        hashlib.sha256(np.packbits(trained).tobytes()).hexdigest(),
        [getattr(config, field) for field in _HOW],
    ]
    sampled = table.replace(".", f"-{sample}.") if sample else table
    return data_folder() / "cache" / "units" / fingerprint(content) / sampled
