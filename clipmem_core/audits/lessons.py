"""One teacher and one seed → an image encoder that was taught, UnitMem of its units, and what it cost."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from clipmem_core import columns as c
from clipmem_core.audits.measuring import measure_tower
from clipmem_core.audits.member import EVALUATION, clear_leftovers, trained_model, view_maker
from clipmem_core.audits.member_run import MemberRun, open_member
from clipmem_core.audits.paradigms import (
    CLIP,
    PARADIGM,
    PARADIGMS,
    RESULT,
    RUNS,
    SEED,
    SELF_SUPERVISED,
    SUPERVISED,
    paradigms_folder,
)
from clipmem_core.audits.progress import MemberProgress, last_line
from clipmem_core.audits.run import Screen, drop_broken
from clipmem_core.audits.store import Audit, write_json, write_table
from clipmem_core.audits.units import IMAGE_TOWER, UNITS
from clipmem_core.scores.utility import linear_probe
from clipmem_core.training.embed import mean_image_embeddings
from clipmem_core.training.files import CHECKPOINT, LOG, STATE
from clipmem_core.training.loop import Trainer, train
from clipmem_core.training.model import Model, build_model
from clipmem_core.training.paradigms import SelfSupervisedTrainer, SupervisedTrainer, classifier, projector
from clipmem_core.training.units import image_layers


@dataclass(frozen=True)
class Lesson:
    """One teacher, one seed: the run of a member whose pictures it has, under the study's epochs."""

    paradigm: str
    seed: int
    run: MemberRun
    labels: np.ndarray  # int64 [n_pairs], a class or -1
    reused: bool  # the member itself is the model
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.paradigm}-{self.seed}"

    @property
    def done(self) -> bool:
        return (self.folder / RESULT).is_file()


def plan(audit: Audit, seed: int, epochs: int) -> list[Lesson]:
    """Return what is to be taught under a seed: the paradigms that the pictures allow."""
    stored, runs = audit.config, paradigms_folder(audit) / RUNS
    config_seed = stored["config"]["seed"] + seed
    own = [name for name, value in stored["seeds"].items() if value == config_seed]
    run = open_member(audit.folder, (own or stored["members"])[0])
    labels = class_numbers(run.pairs[c.LABEL])
    rows = run.data.rows
    labelled = rows[labels[rows] >= 0]
    with_labels = len(np.unique(labels[labelled])) >= 2
    chosen = labelled if with_labels else rows
    epochs = epochs or run.config.epochs
    reused = bool(own) and len(chosen) == len(rows) and epochs == run.config.epochs and "checkpoint" not in run.own
    run = dataclasses.replace(
        run,
        config=dataclasses.replace(run.config, epochs=epochs),
        data=dataclasses.replace(run.data, rows=chosen),
    )
    open_to = {CLIP: True, SUPERVISED: with_labels, SELF_SUPERVISED: run.config.crop_scale < 1}
    return [
        Lesson(name, config_seed, run, labels, reused and name == CLIP, runs / f"{name}-{config_seed}")
        for name in PARADIGMS
        if open_to[name]
    ]


def class_numbers(labels: pd.Series) -> np.ndarray:
    """Number the classes in alphabetical order, int64 [n_pairs]; -1 without a label.

    Example:
        >>> class_numbers(pd.Series(["cat", None, "ant"])).tolist()
        [1, -1, 0]
    """
    return pd.Categorical(labels.astype("string")).codes.astype(np.int64)


def trainer_of(lesson: Lesson) -> Trainer:
    """Build the model of a run, its first weights a function of the seed, and what trains it."""
    run, config, device = lesson.run, lesson.run.config, lesson.run.stored["device"]
    model = build_model(
        config.model,
        loss=config.loss,
        seed=lesson.seed,
        image_size=config.image_size,
        pretrained=config.pretrained,
        device=device,
    )
    image_layers(model)  # refuses a model without units before anything is trained
    views, how = view_maker(model, config, lesson.seed), {"seed": lesson.seed, "device": device}
    if lesson.paradigm == CLIP:
        return Trainer(model, run.data, config, views, **how)
    if lesson.paradigm == SELF_SUPERVISED:
        return SelfSupervisedTrainer(projector(model, seed=lesson.seed), run.data, config, views, **how)
    tower = classifier(model, int(lesson.labels.max()) + 1, seed=lesson.seed)
    return SupervisedTrainer(tower, run.data, config, views, labels=lesson.labels, **how)


def teach(lesson: Lesson, screen: Screen) -> None:
    """Bring a run to its end: train, measure, and write what came out; result.json comes last."""
    lesson.folder.mkdir(parents=True, exist_ok=True)
    clear_leftovers(lesson.folder)
    for name in (CHECKPOINT, STATE):
        drop_broken(lesson.folder / name, screen)
    model, log = (trained_model(lesson.run), lesson.run.folder) if lesson.reused else _trained(lesson, screen)
    run, config = lesson.run, lesson.run.config

    def report(done: int, total: int) -> None:
        screen.members([MemberProgress(lesson.name, "units", step=done, steps=total)])

    units = measure_tower(run, model, IMAGE_TOWER, run.data.rows, report=report)
    write_table(lesson.folder / UNITS, units)
    seen, ended = len(run.data.rows) * config.trained_epochs, last_line(log / LOG)
    result = {
        "member": run.name,
        "reused": lesson.reused,
        "pictures": len(run.data.rows),
        "epochs": config.epochs,
        "samples_seen": seen,
        "views_seen": seen * (2 if lesson.paradigm == SELF_SUPERVISED else 1),
        "seconds": ended.get("seconds"),
        "loss": ended.get("loss"),
        "linear_probe": _probe(lesson, model),
    }
    write_json(lesson.folder / RESULT, {PARADIGM: lesson.paradigm, SEED: lesson.seed} | result)


def _trained(lesson: Lesson, screen: Screen) -> tuple[Model, Path]:
    """Return a run's model and the folder of its log: from its checkpoint if there is one, else trained now."""
    trainer = trainer_of(lesson)
    if (lesson.folder / CHECKPOINT).is_file():
        device = lesson.run.stored["device"]
        weights = torch.load(lesson.folder / CHECKPOINT, map_location=device, weights_only=True)
        trainer.model.load_state_dict(weights)
        return trainer.model, lesson.folder

    def show(epoch: int) -> None:
        step = {"step": epoch * trainer.batches, "steps": trainer.total}
        said = last_line(lesson.folder / LOG)
        shown = {key: said[key] for key in ("loss", "samples_per_second") if key in said}
        screen.members([MemberProgress(lesson.name, "training", **step, **shown)])

    train(trainer, lesson.folder, after_epoch=show)
    return trainer.model, lesson.folder


def _probe(lesson: Lesson, model: Model) -> float | None:
    """Return the accuracy on external pictures of a linear probe on the encoder; None without labels."""
    run, config = lesson.run, lesson.run.config
    external = np.flatnonzero((run.membership[c.GROUP] == c.EXTERNAL).to_numpy() & (lesson.labels >= 0))
    fit = run.data.rows[lesson.labels[run.data.rows] >= 0]
    if len(np.unique(lesson.labels[fit])) < 2 or not len(external):
        return None
    views = view_maker(model, config, config.seed + EVALUATION, crop_scale=config.eval_crop_scale)
    how: dict[str, Any] = {"n_views": config.views, "precision": config.precision, "device": run.stored["device"]}
    image = mean_image_embeddings(model, run.data, views, **how)
    labels = lesson.labels
    return linear_probe(image[fit], labels[fit], image[external], labels[external], seed=config.seed)
