"""Trains one image encoder on the same pictures under three paradigms, for claim 1 of the paper.

python -m clipmem_core paradigms NAME --seeds 3

The paradigms are captions (CLIP), labels, and another view of the same picture (SimCLR). Pictures, their order, views,
optimiser, schedule and the encoder's first weights are the same; so is the number of samples seen. A run that was
killed goes on where it stopped.

    <data>/studies/paradigms-<audit>/   paradigms.json, runs/<paradigm>-<seed>/, paradigms.csv
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout

from clipmem_core import columns as c
from clipmem_core.atomic import replacing
from clipmem_core.audits import settings
from clipmem_core.audits.console import write_csv
from clipmem_core.audits.member import EVALUATION, MemberRun, clear_leftovers, open_member, trained_model, view_maker
from clipmem_core.audits.run import Screen, ensure_pixels
from clipmem_core.audits.setup import MAY_DIFFER
from clipmem_core.audits.status import MemberProgress, last_line
from clipmem_core.audits.store import Audit, read_table, write_json, write_table
from clipmem_core.audits.unitmem import (
    IMAGE_TOWER,
    LAYER,
    UNITMEM_MEAN,
    UNITS,
    check_members,
    layer_means,
    measure_model,
    model_before,
)
from clipmem_core.config import InputError, as_dict, data_folder, fingerprint
from clipmem_core.files import read_json
from clipmem_core.scores.utility import linear_probe
from clipmem_core.training.activations import unit_layers
from clipmem_core.training.model import Model, mean_image_embeddings
from clipmem_core.training.names import CHECKPOINT, LOG
from clipmem_core.training.tower_trainers import SelfSupervisedTrainer, SupervisedTrainer, classifier, projector
from clipmem_core.training.trainer import Trainer, train

CLIP, SUPERVISED, SELF_SUPERVISED = "clip", "supervised", "self-supervised"
PARADIGMS = (CLIP, SUPERVISED, SELF_SUPERVISED)
PARADIGM, SEED = "paradigm", "seed"
TABLE, SETTINGS = "paradigms.csv", "paradigms.json"
RUNS, RESULT = "runs", "result.json"
WHY_NOT = {
    SUPERVISED: "the pairs have no labels, or of one class alone",
    SELF_SUPERVISED: "image augmentation is off (--crop-scale 1), so two views of a picture are the same",
}


@dataclass(frozen=True)
class Shared:
    """What all runs share: the fields of paradigms.json."""

    audit: str
    epochs: int


@dataclass(frozen=True)
class ParadigmRun:
    """One paradigm, one seed: the run of a member whose pictures it has, under the epochs of all paradigms."""

    paradigm: str
    seed: int
    run: MemberRun
    labels: np.ndarray  # int64 [n_pairs], a class or -1
    reused: bool  # the member itself is the model
    folder: Path

    @property
    def done(self) -> bool:
        return (self.folder / RESULT).is_file()


def plan_runs(audit: Audit, seed: int, epochs: int) -> list[ParadigmRun]:
    """Return the runs under a seed, of the paradigms that the pictures allow; 0 epochs are those of the audit."""
    record = audit.record
    config_seed = record.config.seed + seed
    own = [name for name, value in record.seeds.items() if value == config_seed]
    run = open_member(audit.folder, (own or record.members)[0])
    labels, rows = class_numbers(run.pairs[c.LABEL]), run.data.rows
    labelled = rows[labels[rows] >= 0]
    with_labels = len(np.unique(labels[labelled])) >= 2
    chosen = labelled if with_labels else rows
    epochs = epochs or run.config.epochs
    reused = bool(own) and len(chosen) == len(rows) and epochs == run.config.epochs and not run.own.checkpoint
    config = dataclasses.replace(run.config, epochs=epochs)
    run = dataclasses.replace(run, config=config, data=dataclasses.replace(run.data, rows=chosen))
    possible = {CLIP: True, SUPERVISED: with_labels, SELF_SUPERVISED: config.crop_scale < 1}
    folder = paradigms_folder(audit) / RUNS
    return [
        ParadigmRun(name, config_seed, run, labels, reused and name == CLIP, folder / f"{name}-{config_seed}")
        for name in PARADIGMS
        if possible[name]
    ]


def class_numbers(labels: pd.Series) -> np.ndarray:
    """Number the classes in alphabetical order, int64 [n_pairs]; -1 without a label.

    Example:
        >>> class_numbers(pd.Series(["cat", None, "ant"])).tolist()
        [1, -1, 0]
    """
    return pd.Categorical(labels.astype("string")).codes.astype(np.int64)


def trainer_of(planned: ParadigmRun) -> Trainer:
    """Build the model of a run, its first weights a function of the seed, and what trains it."""
    run, config, seed = planned.run, planned.run.config, planned.seed
    model = model_before(run, seed)
    unit_layers(model, IMAGE_TOWER)  # refuses a model without units before anything is trained
    views = view_maker(model, config, seed)
    how: dict[str, Any] = {"seed": seed, "device": run.record.device}
    if planned.paradigm == CLIP:
        return Trainer(model, run.data, config, views, **how)
    if planned.paradigm == SELF_SUPERVISED:
        return SelfSupervisedTrainer(projector(model, seed=seed), run.data, config, views, **how)
    tower = classifier(model, int(planned.labels.max()) + 1, seed=seed)
    return SupervisedTrainer(tower, run.data, config, views, labels=planned.labels, **how)


def complete(planned: ParadigmRun, screen: Screen) -> None:
    """Bring a run to its end: train, measure, and write what came out; result.json comes last."""
    folder, run, config = planned.folder, planned.run, planned.run.config
    folder.mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder)
    model, log = (trained_model(run), run.folder) if planned.reused else (_trained(planned, screen), folder)
    units = measure_model(run, model, [IMAGE_TOWER], run.data.rows, label=folder.name, screen=screen)
    write_table(folder / UNITS, units)
    seen, ended = len(run.data.rows) * config.trained_epochs, last_line(log / LOG)
    result = {
        PARADIGM: planned.paradigm,
        SEED: planned.seed,
        "member": run.name,
        "reused": planned.reused,
        "pictures": len(run.data.rows),
        "epochs": config.epochs,
        "samples_seen": seen,
        "views_seen": seen * (2 if planned.paradigm == SELF_SUPERVISED else 1),
        "seconds": ended.get("seconds"),
        "loss": ended.get("loss"),
        "linear_probe": _probe(planned, model),
    }
    write_json(folder / RESULT, result)


def _trained(planned: ParadigmRun, screen: Screen) -> Model:
    """Return a run's model: from its checkpoint if there is one, else trained now."""
    trainer, folder = trainer_of(planned), planned.folder
    if (folder / CHECKPOINT).is_file():
        weights = torch.load(folder / CHECKPOINT, map_location=trainer.device, weights_only=True)
        trainer.model.load_state_dict(weights)
        return trainer.model

    def show(epoch: int) -> None:
        said = last_line(folder / LOG)
        shown = {key: said[key] for key in ("loss", "samples_per_second") if key in said}
        step = epoch * trainer.batches
        screen.members([MemberProgress(folder.name, "training", step=step, steps=trainer.total, **shown)])

    train(trainer, folder, after_epoch=show)
    return trainer.model


def _probe(planned: ParadigmRun, model: Model) -> float | None:
    """Return the accuracy on external pictures of a linear probe on the encoder; None without labels."""
    run, config, labels = planned.run, planned.run.config, planned.labels
    fit, external = (rows[labels[rows] >= 0] for rows in (run.data.rows, run.data.external))
    if len(np.unique(labels[fit])) < 2 or not len(external):
        return None
    views = view_maker(model, config, config.seed + EVALUATION, crop_scale=config.eval_crop_scale)
    how: dict[str, Any] = {"n_views": config.views, "precision": config.precision, "device": run.record.device}
    image = mean_image_embeddings(model, run.data, views, **how)
    return linear_probe(image[fit], labels[fit], image[external], labels[external], seed=config.seed)


def run_paradigms(audit: Audit, *, seeds: int = 3, epochs: int = 0, screen: Screen) -> pd.DataFrame:
    """Train the image encoder of an audit's model in three ways and measure its units; what is done is not done again.

    Seed s has the pictures of the first member of the audit's seed s, those with a label if there are labels; where
    that member is itself a CLIP model of these pictures and epochs, it is the CLIP run.

    Returns:
        As `read_paradigms`.
    """
    check_members(audit)
    if seeds < 1 or epochs < 0:
        raise InputError(f"--seeds must be at least 1 and --epochs at least 0, not {seeds} and {epochs}")
    ensure_pixels(audit, screen)
    record = audit.record
    torch.set_num_threads(record.threads)  # as the members had
    folder = paradigms_folder(audit)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            _check_same(audit, folder, epochs or record.config.epochs)
            runs = [run for seed in range(seeds) for run in plan_runs(audit, seed, epochs)]
            _say_plan(runs, screen)
            for run in runs:
                if not run.done:
                    complete(run, screen)
                    _write_table(audit)
    except Timeout:
        raise InputError(f"{folder} is being filled by another process: wait for it, or stop it") from None
    table = read_paradigms(audit)
    assert table is not None
    return table


def paradigms_folder(audit: Audit) -> Path:
    """Return the folder of an audit's paradigms."""
    return data_folder() / "studies" / f"paradigms-{audit.name}"


def read_paradigms(audit: Audit) -> pd.DataFrame | None:
    """Return UnitMem by layer of every run that is finished, or None where there is none.

    Returns:
        paradigm, seed, layer, units, silent, unitmem_mean, unitmem_median, median_error, clipped (means over the
        layer's units); then the run's: member (whose pictures), reused (its CLIP model is that member), pictures,
        epochs, samples_seen, views_seen (SimCLR takes two views of each sample), seconds, loss (at the end),
        linear_probe (accuracy on external pictures; empty without labels).
    """
    path = paradigms_folder(audit) / TABLE
    return pd.read_csv(path, comment="#") if path.is_file() else None


def say_paradigms(table: pd.DataFrame, screen: Screen) -> None:
    """Say UnitMem by layer of each paradigm, means over seeds."""
    layers = table.pivot_table(UNITMEM_MEAN, LAYER, PARADIGM, sort=False)
    for line in layers.round(3).to_string().splitlines():
        screen.say(line)


def _check_same(audit: Audit, folder: Path, epochs: int) -> None:
    """Freeze what all runs share, and refuse to mix it."""
    record = audit.record
    fixed = {key: value for key, value in as_dict(record.config).items() if key not in (*MAY_DIFFER, "epochs")}
    wanted = Shared(fingerprint([fixed, record.dataset_fingerprint]), epochs)
    if not (folder / SETTINGS).is_file():
        write_json(folder / SETTINGS, dataclasses.asdict(wanted))
    there = read_json(folder / SETTINGS, Shared, mend=f"delete {folder} and run the command again")
    if there.audit != wanted.audit:
        raise InputError(f"{folder} was made from another audit of this name: delete it")
    if there.epochs != epochs:
        raise InputError(f"{folder} holds runs of {there.epochs} epochs: ask for --epochs {there.epochs}, or delete it")


def _say_plan(runs: Sequence[ParadigmRun], screen: Screen) -> None:
    for name in PARADIGMS:
        if name not in {run.paradigm for run in runs}:
            screen.say(f"note: no {name} runs, since {WHY_NOT[name]}")
    left = [run for run in runs if not run.done]
    reused = sum(run.reused for run in left)
    screen.say(f"{len(left)} of {len(runs)} runs to go{f', {reused} of them trained by the audit' if reused else ''}")


def _write_table(audit: Audit) -> None:
    """Write the table of every run that is finished, with a head of comment lines that say where it comes from."""
    folder, record, machine = paradigms_folder(audit), audit.record, settings.machine()
    tables = []
    for path in (folder / RUNS).glob(f"*/{RESULT}"):
        mend = f"delete {path.parent} and run the command again"
        layers = layer_means(read_table(path.parent / UNITS, mend=mend), by=[LAYER])
        tables.append(layers.assign(**read_json(path, dict[str, bool | int | str | float | None], mend=mend)))
    whole = pd.concat(tables, ignore_index=True)
    order = whole[PARADIGM].map(PARADIGMS.index)
    whole = whole.assign(order=order).sort_values(["order", SEED, LAYER]).drop(columns="order")
    seeds = sorted(set(whole[SEED]))
    head = [
        f"command: python -m clipmem_core paradigms {audit.name} "
        f"--seeds {len(seeds)} --epochs {whole['epochs'].iloc[0]}",
        f"machine: {machine['processor']}, {machine['cores']} cores; {record.device}, {record.precision}",
        f"seeds: {', '.join(map(str, seeds))}",
        f"data set: {record.dataset_fingerprint}",
    ]
    front = [PARADIGM, SEED, LAYER]
    with replacing(folder / TABLE) as temporary:
        write_csv(temporary, head, whole[[*front, *(column for column in whole if column not in front)]])
