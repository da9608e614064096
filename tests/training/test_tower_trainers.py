"""The image encoder trained on labels and on its own views: losses by formula, steps as those of a member."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clipmem_core.training.model import build_model
from clipmem_core.training.names import LOG, TRAJECTORY
from clipmem_core.training.tower_trainers import (
    TEMPERATURE,
    SelfSupervisedTrainer,
    SupervisedTrainer,
    classifier,
    projector,
)
from clipmem_core.training.trainer import epoch_batches, train
from clipmem_core.training.views import TrainingData
from tests.training.toys import CONFIG, draw_data, view_maker


def supervised(toy: str, data: TrainingData, **changes: Any) -> SupervisedTrainer:
    """Return a trainer on three classes; pair i is of class i mod 3."""
    config = replace(CONFIG, **changes)
    tower = classifier(build_model(toy, loss="clip", seed=0), 3, seed=0)
    labels, views = np.arange(len(data.keys)) % 3, view_maker(crop_scale=config.crop_scale)
    return SupervisedTrainer(tower, data, config, views, labels=labels, seed=0, device="cpu")


def self_supervised(toy: str, data: TrainingData, **changes: Any) -> SelfSupervisedTrainer:
    config = replace(CONFIG, **changes)
    tower, views = projector(build_model(toy, loss="clip", seed=0), seed=0), view_maker(crop_scale=config.crop_scale)
    return SelfSupervisedTrainer(tower, data, config, views, seed=0, device="cpu")


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
        others = [np.exp(both[i] @ both[j] / TEMPERATURE) for j in range(12) if j != i]
        terms.append(both[i] @ both[(i + 6) % 12] / TEMPERATURE - np.log(sum(others)))
    assert loss.item() == pytest.approx(-np.mean(terms), abs=1e-5)
    np.testing.assert_allclose(log_probability, (np.array(terms[:6]) + terms[6:]) / 2, atol=1e-5)
    np.testing.assert_allclose(cosine, (both[:6] * both[6:]).sum(axis=1), atol=1e-5)


@pytest.mark.parametrize("make", [supervised, self_supervised])
def test_it_learns_on_the_batches_of_a_clip_member_and_writes_the_same_files(
    toy: str, make: Any, tmp_path: Path
) -> None:
    # Mitigations of captions do not concern it.
    trainer = make(toy, draw_data(24), epochs=40, batch_size=12, crop_scale=0.8, text_mask=0.5, adaptive_rest=1.0)
    seen, forward_loss = list[list[int]](), trainer.forward_loss
    trainer.forward_loss = lambda rows, *others: (seen.append(rows.tolist()), forward_loss(rows, *others))[1]
    train(trainer, tmp_path)
    batches = [rows for epoch in range(40) for rows in epoch_batches(trainer.data, seed=0, epoch=epoch, batch_size=12)]
    assert seen == [rows.tolist() for rows in batches]
    trajectory = np.load(tmp_path / TRAJECTORY)
    assert trajectory[-5:, :, 1].mean() > trajectory[:5, :, 1].mean() + 0.3
    line = json.loads((tmp_path / LOG).read_text().splitlines()[-1])
    assert line["step"] == line["steps"] == 80
    assert all(name.startswith(("visual.", "head.")) for name in torch.load(tmp_path / "checkpoint.pt"))
