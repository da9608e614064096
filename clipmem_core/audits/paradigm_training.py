"""One run of a paradigm: an image encoder that is trained, UnitMem of its units, and what it cost."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from clipmem_core import columns as c
from clipmem_core.audits import unitmem_tables as t
from clipmem_core.audits.member import EVALUATION, clear_leftovers, trained_model, view_maker
from clipmem_core.audits.member_run import MemberRun, open_member
from clipmem_core.audits.progress import MemberProgress, last_line
from clipmem_core.audits.run import Screen, drop_broken
from clipmem_core.audits.store import Audit, write_json, write_table
from clipmem_core.audits.unitmem import measure_model, model_before
from clipmem_core.audits.unitmem_tables import paradigms_folder
from clipmem_core.scores.utility import linear_probe
from clipmem_core.training.activations import unit_layers
from clipmem_core.training.embed import mean_image_embeddings
from clipmem_core.training.files import CHECKPOINT, LOG, STATE
from clipmem_core.training.loop import Trainer, train
from clipmem_core.training.model import Model
from clipmem_core.training.tower_trainers import SelfSupervisedTrainer, SupervisedTrainer, classifier, projector

RUNS, RESULT = "runs", "result.json"


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
    stored = audit.config
    config_seed = stored["config"]["seed"] + seed
    own = [name for name, value in stored["seeds"].items() if value == config_seed]
    run = open_member(audit.folder, (own or stored["members"])[0])
    labels, rows = class_numbers(run.pairs[c.LABEL]), run.data.rows
    labelled = rows[labels[rows] >= 0]
    with_labels = len(np.unique(labels[labelled])) >= 2
    chosen = labelled if with_labels else rows
    epochs = epochs or run.config.epochs
    reused = bool(own) and len(chosen) == len(rows) and epochs == run.config.epochs and "checkpoint" not in run.own
    config = dataclasses.replace(run.config, epochs=epochs)
    run = dataclasses.replace(run, config=config, data=dataclasses.replace(run.data, rows=chosen))
    possible = {t.CLIP: True, t.SUPERVISED: with_labels, t.SELF_SUPERVISED: config.crop_scale < 1}
    folder = paradigms_folder(audit) / RUNS
    return [
        ParadigmRun(name, config_seed, run, labels, reused and name == t.CLIP, folder / f"{name}-{config_seed}")
        for name in t.PARADIGMS
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
    unit_layers(model, t.IMAGE_TOWER)  # refuses a model without units before anything is trained
    views, how = view_maker(model, config, seed), {"seed": seed, "device": run.stored["device"]}
    if planned.paradigm == t.CLIP:
        return Trainer(model, run.data, config, views, **how)
    if planned.paradigm == t.SELF_SUPERVISED:
        return SelfSupervisedTrainer(projector(model, seed=seed), run.data, config, views, **how)
    tower = classifier(model, int(planned.labels.max()) + 1, seed=seed)
    return SupervisedTrainer(tower, run.data, config, views, labels=planned.labels, **how)


def complete(planned: ParadigmRun, screen: Screen) -> None:
    """Bring a run to its end: train, measure, and write what came out; result.json comes last."""
    folder, run, config = planned.folder, planned.run, planned.run.config
    folder.mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder)
    for name in (CHECKPOINT, STATE):
        drop_broken(folder / name, screen)
    model, log = (trained_model(run), run.folder) if planned.reused else (_trained(planned, screen), folder)
    units = measure_model(run, model, [t.IMAGE_TOWER], run.data.rows, label=folder.name, screen=screen)
    write_table(folder / t.UNITS, units)
    seen, ended = len(run.data.rows) * config.trained_epochs, last_line(log / LOG)
    result = {
        t.PARADIGM: planned.paradigm,
        t.SEED: planned.seed,
        "member": run.name,
        "reused": planned.reused,
        "pictures": len(run.data.rows),
        "epochs": config.epochs,
        "samples_seen": seen,
        "views_seen": seen * (2 if planned.paradigm == t.SELF_SUPERVISED else 1),
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
    how: dict[str, Any] = {"n_views": config.views, "precision": config.precision, "device": run.stored["device"]}
    image = mean_image_embeddings(model, run.data, views, **how)
    return linear_probe(image[fit], labels[fit], image[external], labels[external], seed=config.seed)
