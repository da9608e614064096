"""A member of a finished audit → what its UnitMem is read against: the untrained model, and pairs that it never saw.

A unit also stands out where it was never trained, and on pairs that it never saw: it is selective. What UnitMem has
beyond that is memorization. `python -m clipmem_core units NAME` measures both.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.measuring import (
    check_members,
    drawn,
    keep_table,
    measurable,
    measure_model,
    open_run,
    say_broken,
)
from clipmem_core.audits.member import trained_model
from clipmem_core.audits.member_run import MemberRun
from clipmem_core.audits.run import Screen, ensure_pixels
from clipmem_core.audits.settings import config_from
from clipmem_core.audits.store import Audit, read_table, whole_table
from clipmem_core.audits.units import (
    BEFORE,
    LAYER,
    MEASURE,
    REFERENCE,
    SEEN,
    TOWER,
    UNITMEM_MEAN,
    UNSEEN,
    layer_means,
    references_file,
)
from clipmem_core.training.model import Model, build_model


def run_references(audit: Audit, *, members: Sequence[str] = (), sample: int = 0, screen: Screen) -> pd.DataFrame:
    """Measure the references of the first of an audit's members, unless that has been done.

    Args:
        audit: a finished one.
        members: which members were measured; all if empty.
        sample: as they were measured; 0 for every pair.
        screen: where progress goes.

    Returns:
        As `read_references`, without `member`.

    Raises:
        InputError: the audit is not finished, or a member is unknown.
    """
    name = check_members(audit, members)[0]
    path = references_file(audit, name, sample=sample)
    if not whole_table(path):
        say_broken(path, screen)
        ensure_pixels(audit, config_from(audit.config["config"]), screen)
        keep_table(path, measure_references(audit, name, sample=sample, screen=screen))
    return read_table(path, mend=MEASURE)


def say_references(references: pd.DataFrame, screen: Screen) -> None:
    """Say UnitMem by layer of what it is read against."""
    means = layer_means(references, by=[REFERENCE, TOWER, LAYER])
    for line in means[[REFERENCE, TOWER, LAYER, UNITMEM_MEAN]].round(3).to_string(index=False).splitlines():
        screen.say(line)


def measure_references(audit: Audit, name: str, *, sample: int = 0, screen: Screen) -> pd.DataFrame:
    """Measure what a member's UnitMem is read against.

    Returns:
        As `read_references`, without `member`; without `seen` and `unseen` where there are fewer than two external
        pairs.
    """
    run = open_run(audit, name)
    rows = drawn(run.data.rows, sample, seed=run.config.seed)
    tables = []
    for reference, model, own in _sides(run, rows):
        table = measure_model(run, model, measurable(model)[0], own, label=f"{name} {reference}", screen=screen)
        table.insert(0, REFERENCE, reference)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _sides(run: MemberRun, rows: np.ndarray) -> list[tuple[str, Model, np.ndarray]]:
    """Return the name of each reference, its model and the pairs that it is measured on."""
    external = np.flatnonzero(run.membership[c.GROUP].to_numpy() == c.EXTERNAL)
    as_many = min(len(rows), len(external))
    before = (BEFORE, _model_before(run), rows)
    if as_many < 2:
        return [before]
    model, seed = trained_model(run), run.config.seed
    return [
        before,
        (SEEN, model, drawn(rows, as_many, seed=seed)),
        (UNSEEN, model, drawn(external, as_many, seed=seed)),
    ]


def _model_before(run: MemberRun) -> Model:
    """Return the model that a member's training began from: random weights, or those of the pretrained start."""
    config = run.config
    return build_model(
        config.model,
        loss=config.loss,
        seed=run.own["seed"],
        image_size=config.image_size,
        pretrained=config.pretrained,
        device=run.stored["device"],
    )
