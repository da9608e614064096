"""The image encoder under labels and under its own views: losses by formula, steps as those of a member."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clipmem_core.config import InputError
from clipmem_core.training.model import build_model
from clipmem_core.training.names import LOG, TRAJECTORY
from clipmem_core.training.state import Progress, save_state
from clipmem_core.training.tower_trainers import (
    TEMPERATURE,
    SelfSupervisedTrainer,
    SupervisedTrainer,
    classifier,
    projector,
)
from clipmem_core.training.trainer import Trainer, epoch_batches, train
from clipmem_core.training.views import TrainingData
from tests.training.toys import CONFIG, draw_data, view_maker


def supervised(toy: str, data: TrainingData, *, seed: int = 0, **changes: Any) -> SupervisedTrainer:
    """A trainer on three classes; pair i is of class i mod 3."""
    config = replace(CONFIG, **changes)
    tower = classifier(build_model(toy, loss="clip", seed=seed), 3, seed=seed)
    labels = np.arange(len(data.keys)) % 3
    views = view_maker(crop_scale=config.crop_scale, seed=seed)
    return SupervisedTrainer(tower, data, config, views, labels=labels, seed=seed, device="cpu")


def self_supervised(toy: str, data: TrainingData, *, seed: int = 0, **changes: Any) -> SelfSupervisedTrainer:
    config = replace(CONFIG, **changes)
    tower = projector(build_model(toy, loss="clip", seed=seed), seed=seed)
    views = view_maker(crop_scale=config.crop_scale, seed=seed)
    return SelfSupervisedTrainer(tower, data, config, views, seed=seed, device="cpu")


BOTH = pytest.mark.parametrize("make", [supervised, self_supervised])


def blank(trainer: Trainer) -> Progress:
    return Progress(0, np.full((trainer.config.epochs, len(trainer.data.keys), 2), np.nan, dtype=np.float16))


def test_the_first_weights_of_the_encoder_are_those_of_the_clip_model(toy: str) -> None:
    model = build_model(toy, loss="clip", seed=4)
    for tower in (classifier(build_model(toy, loss="clip", seed=4), 5, seed=4), projector(model, seed=4)):
        for name, value in tower.visual.state_dict().items():
            assert torch.equal(value, model.visual.state_dict()[name]), name


def test_the_supervised_loss_is_cross_entropy_on_the_view_of_the_epoch(toy: str) -> None:
    data = draw_data(9)
    trainer = supervised(toy, data)
    rows = np.array([0, 4, 5, 8])
    loss, right, log_probability = trainer.forward_loss(rows, 2, data.pixels.gather(rows))
    images = trainer.views.images(data.pixels.gather(rows), trainer.views.boxes(data.keys[rows], 2))
    with torch.no_grad():
        features = build_model(toy, loss="clip", seed=0).visual(images)
        logits = features @ trainer.model.head[0].weight.T + trainer.model.head[0].bias
    labels = torch.tensor([0, 1, 2, 2])
    assert loss.item() == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-5)
    np.testing.assert_array_equal(right, (logits.argmax(dim=1) == labels).float())
    np.testing.assert_allclose(log_probability, -F.cross_entropy(logits, labels, reduction="none"), atol=1e-5)


def test_the_self_supervised_loss_is_nt_xent_by_a_double_loop(toy: str) -> None:
    data = draw_data(6)
    trainer = self_supervised(toy, data, epochs=3)
    rows = data.rows
    loss, cosine, log_probability = trainer.forward_loss(rows, 1, data.pixels.gather(rows))
    with torch.no_grad():
        turns = [trainer.outputs(data.pixels.gather(rows), rows, turn).double().numpy() for turn in (1, 1 + 3)]
    both = np.concatenate(turns)
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    terms = []
    for i in range(12):
        partner = (i + 6) % 12
        others = [np.exp(both[i] @ both[j] / TEMPERATURE) for j in range(12) if j != i]
        terms.append(both[i] @ both[partner] / TEMPERATURE - np.log(sum(others)))
    assert loss.item() == pytest.approx(-np.mean(terms), abs=1e-5)
    np.testing.assert_allclose(log_probability, (np.array(terms[:6]) + terms[6:]) / 2, atol=1e-5)
    np.testing.assert_allclose(cosine, (both[:6] * both[6:]).sum(axis=1), atol=1e-5)


@BOTH
def test_batches_are_those_of_a_clip_member(toy: str, make: Any) -> None:
    trainer = make(toy, draw_data(20), epochs=2)
    expected = [
        rows.tolist() for epoch in range(2) for rows in epoch_batches(trainer.data, seed=0, epoch=epoch, batch_size=8)
    ]
    seen: list[list[int]] = []
    forward_loss = trainer.forward_loss

    def noted(rows: np.ndarray, *others: Any) -> Any:
        seen.append(rows.tolist())
        return forward_loss(rows, *others)

    trainer.forward_loss = noted
    for _ in trainer.steps(blank(trainer)):
        pass
    assert seen == expected


@BOTH
def test_it_learns_and_leaves_the_files_of_a_member(toy: str, make: Any, tmp_path: Path) -> None:
    trainer = make(toy, draw_data(24), epochs=40, batch_size=24, crop_scale=0.8)
    train(trainer, tmp_path)
    trajectory = np.load(tmp_path / TRAJECTORY)
    assert trajectory[-5:, :, 1].mean() > trajectory[:5, :, 1].mean() + 0.3
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert lines[-1]["step"] == lines[-1]["steps"] == 40
    assert "logit_scale" not in lines[-1]
    assert all(name.startswith(("visual.", "head.")) for name in torch.load(tmp_path / "checkpoint.pt"))


@BOTH
def test_a_stopped_run_ends_with_the_same_bits(toy: str, make: Any, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
    train(make(toy, draw_data(20)), whole)
    first = make(toy, draw_data(20))
    progress = blank(first)
    first.model.train()
    for _ in first.steps(progress):
        if progress.step == 4:
            break
    save_state(first.model, first.optimizer, progress, stopped)
    train(make(toy, draw_data(20)), stopped)
    one, other = (torch.load(folder / "checkpoint.pt") for folder in (whole, stopped))
    assert all(torch.equal(one[name], other[name]) for name in one)
    np.testing.assert_array_equal(*(np.load(folder / TRAJECTORY) for folder in (whole, stopped)))


def test_whole_pictures_have_no_second_view(toy: str) -> None:
    with pytest.raises(InputError, match="needs views that differ: crop_scale must be below 1"):
        self_supervised(toy, draw_data(4), crop_scale=1.0)
