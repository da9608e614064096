"""Trains one image encoder on the same pictures under three paradigms, for claim 1 of the paper.

The paradigms are captions (CLIP), labels, and another view of the same picture (SimCLR). Pictures,
their order, views, optimiser, schedule, the encoder's first weights and the number of samples seen
are the same.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipmem_core import columns as c
from clipmem_core.audit import settings, store
from clipmem_core.audit.member import (
    MemberRun,
    build_member,
    clear_leftovers,
    evaluation_views,
    open_member,
    view_maker,
)
from clipmem_core.audit.pipeline import Screen, ensure_pixels
from clipmem_core.audit.setup import MAY_DIFFER
from clipmem_core.audit.status import MemberProgress, last_line
from clipmem_core.audit.store import Audit
from clipmem_core.config import as_dict, fingerprint
from clipmem_core.features.towers import autocast
from clipmem_core.io import InputError, read_json, replacing
from clipmem_core.lab import unit_tables as t
from clipmem_core.lab import unitmem as u
from clipmem_core.lab.results import write_results
from clipmem_core.mitigations import Batch
from clipmem_core.scores.utility import linear_probe
from clipmem_core.training.model import Model, image_blocks
from clipmem_core.training.names import CHECKPOINT, LOG
from clipmem_core.training.trainer import Trainer, train

_SETTINGS = "paradigms.json"
RUNS = "runs"
RESULT = "result.json"
PROJECTION = 128  # width of SimCLR's projection, as in its paper
TEMPERATURE = 0.5  # SimCLR's for small data and batches
WHY_NOT = {
    t.SUPERVISED: "the pairs have no labels, or only one class",
    t.SELF_SUPERVISED: "image augmentation is off (--crop-scale 1), so two views of a picture "
    "are the same",
}


class HeadedTower(nn.Module):
    """The image encoder of a model with a head on its output; weights of the head are a function of
    the seed."""

    def __init__(self, model: Model, *widths: int, seed: int) -> None:
        super().__init__()
        self.visual = model.visual
        layers = []
        before = self.visual.output_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for width in widths:
                layers += [nn.Linear(before, width), nn.ReLU()]
                before = width
        self.head = nn.Sequential(*layers[:-1]).to(next(model.visual.parameters()).device)

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode images [n, 3, size, size] without the head, [n, dim]."""
        return self.visual(images)

    def forward(self, images: Tensor) -> Tensor:
        """Pass images [n, 3, size, size] through encoder and head, float32 [n, widths[-1]]."""
        return self.head(self.visual(images)).float()


class TowerTrainer(Trainer):
    """Trains with the steps of `Trainer` and the same views: on labels with cross-entropy, else as
    SimCLR.

    In SimCLR (Chen et al., ICML 2020) the two views of a picture are positives within the batch,
    and the loss is NT-Xent. Views are crops, without SimCLR's colours and blur. The head is linear
    for labels, and SimCLR's projection otherwise: a hidden layer as wide as the encoder's output,
    and 128 numbers.
    """

    encoder = "image"

    def __init__(
        self, model: Model, *args: Any, seed: int, labels: np.ndarray | None = None, **kwargs: Any
    ) -> None:
        widths = (
            (model.visual.output_dim, PROJECTION) if labels is None else (int(labels.max()) + 1,)
        )
        super().__init__(HeadedTower(model, *widths, seed=seed), *args, seed=seed, **kwargs)
        self.labels = labels  # int64 [n_pairs]

    def outputs(self, pixels: np.ndarray, rows: np.ndarray, view: int) -> Tensor:
        """Return the head's outputs for a view of some pictures, float32 [n, widths[-1]]."""
        batch = Batch(rows, self.data.keys[rows], view, self.seed)
        images = self.views.training_images(pixels, batch, self.device, self.mitigations)
        with autocast(self.config.precision, self.device):
            return self.model(images)

    def forward_loss(
        self, rows: np.ndarray, epoch: int, pixels: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, and two numbers for each picture, [n] each.

        With labels these are 1 if the label was predicted, and its log-probability. Without labels
        they are the cosine of both views, and the mean log-probability of one view given the other
        among all views of the batch.
        """
        if self.labels is not None:
            logits = self.outputs(pixels, rows, epoch)
            labels = torch.from_numpy(self.labels[rows]).to(self.device)
            terms = F.cross_entropy(logits, labels, reduction="none")
            correct = logits.argmax(dim=1) == labels
            return terms.mean(), correct.float(), -terms.detach()
        first, second = (
            F.normalize(self.outputs(pixels, rows, view), dim=1)
            for view in (epoch, epoch + self.config.epochs)
        )
        both = torch.cat([first, second])
        logits = (both @ both.T / TEMPERATURE).fill_diagonal_(-torch.inf)
        partner = torch.arange(len(both), device=both.device).roll(len(first))
        terms = F.cross_entropy(logits, partner, reduction="none")
        cosine = (first * second).sum(dim=1).detach()
        return terms.mean(), cosine, -terms.detach().view(2, -1).mean(dim=0)


@dataclass(frozen=True)
class ParadigmRun:
    """One paradigm and seed, on the pictures of a member."""

    paradigm: str
    seed: int
    run: MemberRun
    labels: np.ndarray  # int64 [n_pairs], a class or -1
    folder: Path


def plan_runs(audit: Audit, seed: int, epochs: int) -> list[ParadigmRun]:
    """Return the runs of a seed, of the paradigms that the pictures allow; with 0 epochs, those of
    the audit."""
    record = audit.record
    config_seed = record.config.seed + seed
    names = [name for name, value in record.seeds.items() if value == config_seed]
    run = open_member(audit.folder, (names or record.members)[0])
    config = replace(run.config, epochs=epochs or run.config.epochs)
    labels = pd.Categorical(run.pairs[c.LABEL].astype("string")).codes.astype(np.int64)
    rows = run.data.rows
    labelled = rows[labels[rows] >= 0]
    possible = [t.CLIP]
    if len(np.unique(labels[labelled])) >= 2:
        possible.append(t.SUPERVISED)
        rows = labelled
    if config.crop_scale < 1:
        possible.append(t.SELF_SUPERVISED)
    run = replace(run, config=config, data=replace(run.data, rows=rows))
    folder = t.paradigms_folder(audit) / RUNS
    return [
        ParadigmRun(name, config_seed, run, labels, folder / f"{name}-{config_seed}")
        for name in possible
    ]


def complete(planned: ParadigmRun, screen: Screen) -> None:
    """Train and measure a run, and write its result; result.json is written last."""
    folder = planned.folder
    run = planned.run
    config = run.config
    labels = planned.labels
    folder.mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder)
    model = _trained(planned, screen)
    units = u.measure_model(
        run, model, [t.IMAGE_TOWER], run.data.rows, label=folder.name, screen=screen
    )
    store.write_table(folder / t.UNITS, units)
    accuracy: float | None = None
    fit, test = (rows[labels[rows] >= 0] for rows in (run.data.rows, run.data.external))
    if len(np.unique(labels[fit])) >= 2 and len(test):
        blocks = image_blocks(
            model,
            run.data,
            evaluation_views(model, config),
            n_views=config.views,
            precision=config.precision,
            device=config.device,
        )
        image = np.concatenate(list(blocks))
        accuracy = linear_probe(
            image[fit], labels[fit], image[test], labels[test], seed=config.seed
        )
    samples = len(run.data.rows) * config.trained_epochs
    last = last_line(folder / LOG)
    result = {
        t.PARADIGM: planned.paradigm,
        t.SEED: planned.seed,
        "member": run.name,
        "pictures": len(run.data.rows),
        "epochs": config.epochs,
        "samples_seen": samples,
        "views_seen": samples * (2 if planned.paradigm == t.SELF_SUPERVISED else 1),
        "seconds": last.get("seconds"),
        "loss": last.get("loss"),
        "linear_probe": accuracy,
    }
    store.write_json(folder / RESULT, result)


def _trained(planned: ParadigmRun, screen: Screen) -> Model:
    """Load a run's model from its checkpoint if it has one, else train it."""
    run = planned.run
    config = run.config
    seed = planned.seed
    folder = planned.folder
    model = build_member(config, run.towers, seed=seed, pretrained=config.pretrained)
    u.unit_layers(model, t.IMAGE_TOWER)  # refuses a model without units before anything is trained
    views = view_maker(model, config, seed)
    if planned.paradigm == t.CLIP:
        trainer = Trainer(model, run.data, config, views, seed=seed, device=config.device)
    else:
        labels = planned.labels if planned.paradigm == t.SUPERVISED else None
        trainer = TowerTrainer(
            model, run.data, config, views, seed=seed, device=config.device, labels=labels
        )
    if (folder / CHECKPOINT).is_file():
        weights = torch.load(folder / CHECKPOINT, map_location=trainer.device, weights_only=True)
        trainer.model.load_state_dict(weights)
        return trainer.model

    def report(epoch: int) -> None:
        line = last_line(folder / LOG)
        shown = {key: line[key] for key in ("loss", "samples_per_second") if key in line}
        step = epoch * trainer.batches
        screen.members(
            [MemberProgress(folder.name, "training", step=step, steps=trainer.total, **shown)]
        )

    train(trainer, folder, after_epoch=report)
    return trainer.model


def run_paradigms(audit: Audit, *, seeds: int = 3, epochs: int = 0, screen: Screen) -> pd.DataFrame:
    """Train an image encoder in three ways and measure it, on the pictures of the first member of
    each seed."""
    u.check_members(audit)
    if seeds < 1 or epochs < 0:
        raise InputError(
            f"--seeds must be at least 1 and --epochs at least 0, not {seeds} and {epochs}"
        )
    ensure_pixels(audit, screen)
    record = audit.record
    folder = t.paradigms_folder(audit)
    torch.set_num_threads(record.threads)  # as the members had
    folder.mkdir(parents=True, exist_ok=True)
    fixed = {
        key: value
        for key, value in as_dict(record.config).items()
        if key not in (*MAY_DIFFER, "epochs")
    }
    key = fingerprint([fixed, record.dataset_fingerprint, epochs or record.config.epochs])
    settings_file = folder / _SETTINGS
    with store.acquire_lock(folder, what="comparison"):
        if not settings_file.is_file():
            store.write_json(settings_file, key)
        if read_json(settings_file) != key:
            raise InputError(
                f"{folder} has runs of another audit or other --epochs: delete it, or use the same"
            )
        runs = [run for seed in range(seeds) for run in plan_runs(audit, seed, epochs)]
        for name, reason in WHY_NOT.items():
            if name not in {run.paradigm for run in runs}:
                screen.say(f"note: no {name} runs, since {reason}")
        remaining = [run for run in runs if not (run.folder / RESULT).is_file()]
        screen.say(f"{len(remaining)} of {len(runs)} runs to go")
        for run in remaining:
            complete(run, screen)
            _write_table(audit)
    table = t.read_paradigms(audit)
    assert table is not None
    return table


def say_paradigms(table: pd.DataFrame, screen: Screen) -> None:
    """Print UnitMem by layer of each paradigm, means over seeds."""
    means = table.pivot_table(t.UNITMEM_MEAN, t.LAYER, t.PARADIGM, sort=False).round(3)
    for line in means.to_string().splitlines():
        screen.say(line)


def _write_table(audit: Audit) -> None:
    folder = t.paradigms_folder(audit)
    record = audit.record
    tables = []
    for path in (folder / RUNS).glob(f"*/{RESULT}"):
        layers = t.layer_means(store.read_table(path.parent / t.UNITS), by=[t.LAYER])
        tables.append(layers.assign(**read_json(path)))
    front = [t.PARADIGM, t.SEED, t.LAYER]
    table = pd.concat(tables, ignore_index=True)
    table[t.PARADIGM] = pd.Categorical(table[t.PARADIGM], t.PARADIGMS)
    table = table.sort_values(front)
    seeds = sorted(set(table[t.SEED]))
    with replacing(folder / t.PARADIGM_TABLE) as temporary:
        write_results(
            temporary,
            table[[*front, *table.columns.difference(front, sort=False)]],
            command=f"python -m clipmem_core paradigms {audit.name} --seeds {len(seeds)} --epochs "
            f"{table['epochs'].iloc[0]}",
            machine=settings.machine(),
            config=record.config,
            seeds=", ".join(map(str, seeds)),
            notes=[f"data set: {record.dataset_fingerprint}"],
        )
