"""Mitigations in a member's training: off they leave no trace, on they draw by pair and epoch alone."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.loss import SigLipLoss
from torch import Tensor
from torch.nn import functional as F

from clipmem_core.training import loop
from clipmem_core.training.loop import Trainer, TrainingData, chosen_captions, epoch_batches, train
from clipmem_core.training.losses import partner_log_probability
from clipmem_core.training.model import autocast
from clipmem_core.training.state import STATE, Progress
from tests.training.test_resume import Clock, Stopped, assert_same_bits
from tests.training.toys import draw_data, trainer

EACH: dict[str, dict[str, Any]] = {
    "text noise": {"text_noise": 0.2},
    "image noise": {"image_noise": 0.2},
    "noise before": {"text_noise": 0.2, "noise_place": "before"},
    "text mask": {"text_mask": 0.4},
    "colour": {"colour": 0.5},
    "logit scale": {"max_logit_scale": 14.0},
    "logit scale from below": {"min_logit_scale": 14.5},
    "adaptive noise": {"adaptive_noise": 0.5, "adaptive_every": 1, "adaptive_quantile": 0.5},
    "adaptive mask": {"adaptive_mask": 0.5, "adaptive_every": 1, "adaptive_quantile": 0.5},
    "adaptive rest": {"adaptive_rest": 1.0, "adaptive_every": 1, "adaptive_quantile": 0.5},
}
ALL = {key: value for one in EACH.values() for key, value in one.items()} | {"min_logit_scale": 13.0}


class PlainTrainer(Trainer):
    """The step as it is without any mitigation, written out."""

    def look(self, rows: np.ndarray, epoch: int, pixels: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        images = self.views.images(pixels, self.views.boxes(self.data.keys[rows], epoch), self.device)
        captions = chosen_captions(self.data, rows, seed=self.seed, epoch=epoch, first=self.config.train_captions)
        tokens = torch.from_numpy(self.data.tokens[captions].astype(np.int64))
        with autocast(self.config.precision, self.device):
            image = F.normalize(self.model.encode_image(images).float(), dim=-1)
            text = loop.encode_text(self.model, tokens, cut=self.cut)
        scale = self.model.logit_scale.exp()
        cosine, log_probability = partner_log_probability(image, text, scale)
        loss = -log_probability.mean()
        if self.config.loss == "siglip":
            loss = SigLipLoss()(image, text, scale, logit_bias=self.model.logit_bias)
        return loss, cosine, log_probability.detach()


def data_of(pairs: int = 30) -> TrainingData:
    whole = draw_data(pairs, captions=3)
    return replace(whole, rows=np.arange(pairs - 6), external=np.arange(pairs - 6, pairs))


def blank(member: Trainer) -> Progress:
    return Progress(0, np.full((member.config.epochs, len(member.data.keys), 2), np.nan, dtype=np.float16))


def run(member: Trainer, folder: Path) -> Path:
    folder.mkdir()
    train(member, folder)
    return folder


@pytest.mark.parametrize("precision", ["fp32", "amp_bf16"])
@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_off_a_run_is_one_without_mitigations(toy: str, tmp_path: Path, loss: str, precision: str) -> None:
    how = {"loss": loss, "precision": precision}
    member = trainer(toy, data_of(), **how)
    plain = trainer(toy, data_of(), **how)
    plain.__class__ = PlainTrainer
    folders = run(member, tmp_path / "with"), run(plain, tmp_path / "without")
    torch.testing.assert_close(*(torch.load(folder / "checkpoint.pt") for folder in folders), atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(*(np.load(folder / "trajectory.npy") for folder in folders), atol=5e-3)


def test_on_each_changes_the_run(toy: str, tmp_path: Path) -> None:
    runs = {name: run(trainer(toy, data_of(), **how), tmp_path / name) for name, how in {"off": {}, **EACH}.items()}
    assert len({(folder / "checkpoint.pt").read_bytes() for folder in runs.values()}) == len(runs)


def test_a_stopped_run_ends_with_the_same_bits(toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", 25.0)  # a state every third step
    straight = run(trainer(toy, data_of(), epochs=4, **ALL), tmp_path / "straight")
    for stop in (4, 7, 9):
        folder = tmp_path / str(stop)
        with pytest.raises(Stopped):
            run(stopping(trainer(toy, data_of(), epochs=4, **ALL), clock, stop), folder)
        assert (folder / STATE).exists()
        train(trainer(toy, data_of(), epochs=4, **ALL), folder)
        assert_same_bits(straight, folder)


def stopping(member: Trainer, clock: Clock, stop: int) -> Trainer:
    step = member.step

    def timed(rows: np.ndarray, progress: Progress, pixels: np.ndarray) -> float:
        loss = step(rows, progress, pixels)
        clock.now += 10
        if progress.step + 1 == stop:
            raise Stopped
        return loss

    member.step = timed  # type: ignore[method-assign]
    return member


def seen(member: Trainer, epoch: int) -> dict[int, np.ndarray]:
    """What each trained pair meets in an epoch, by its row: view, tokens, noise on text and on image, in one vector."""
    found = {}
    for rows in epoch_batches(member.data, seed=member.seed, epoch=epoch, batch_size=7):
        images, tokens = member.inputs(rows, epoch, member.data.pixels.gather(rows))
        unit = F.normalize(torch.ones(len(rows), 16), dim=1)
        text, image = (side(unit, unit, rows, epoch) for side in (member.mitigation.text, member.mitigation.image))
        for place, row in enumerate(rows.tolist()):
            parts = (images[place], tokens[place], text[place], image[place])
            found[row] = np.concatenate([part.numpy().ravel() for part in parts])
    return found


DRAWN = {"text_noise": 0.2, "image_noise": 0.1, "text_mask": 0.4, "colour": 0.5}


def test_removing_pairs_moves_no_other_pairs_draws(toy: str) -> None:
    whole = data_of()
    gone = np.array([3, 11, 12])
    member = trainer(toy, whole, **DRAWN)
    smaller = trainer(toy, replace(whole, rows=np.setdiff1d(whole.rows, gone)), **DRAWN)
    for epoch in (0, 2):
        before, after = seen(member, epoch), seen(smaller, epoch)
        assert set(before) - set(after) == set(gone.tolist())
        for row, drawn in after.items():
            np.testing.assert_allclose(drawn, before[row], atol=1e-5)
    assert not np.allclose(seen(member, 0)[5], seen(member, 1)[5], atol=1e-2)


def test_candidate_and_independent_share_every_draw(toy: str) -> None:
    whole = data_of()
    keys, tokens, pixels = whole.keys.copy(), whole.tokens.copy(), whole.pixels.gather(np.arange(30)).copy()
    candidate, independent = 2, 5  # each of three captions
    keys[independent], pixels[independent] = keys[candidate], pixels[candidate]
    start = whole.caption_start
    tokens[start[independent] : start[independent + 1]] = tokens[start[candidate] : start[candidate + 1]]
    alike = replace(whole, keys=keys, tokens=tokens, pixels=type(whole.pixels)(pixels))
    f, g = (
        trainer(toy, replace(alike, rows=np.sort(np.append(np.arange(8, 24), row))), **DRAWN)
        for row in (candidate, independent)
    )
    for epoch in range(3):
        mine, other = seen(f, epoch), seen(g, epoch)
        other[candidate] = other.pop(independent)
        assert mine.keys() == other.keys()
        for row, drawn in mine.items():
            np.testing.assert_allclose(drawn, other[row], atol=1e-5)


def test_training_stops_early_on_the_way_that_it_would_have_gone(toy: str, tmp_path: Path) -> None:
    whole, short = trainer(toy, data_of(), epochs=5), trainer(toy, data_of(), epochs=5, stop_epoch=2)
    weights: list[dict[str, Tensor]] = []

    def keep(epoch: int) -> None:
        if epoch == 2:
            weights.append({name: value.clone() for name, value in whole.model.state_dict().items()})

    for name, member in (("whole", whole), ("short", short)):
        (tmp_path / name).mkdir()
        train(member, tmp_path / name, after_epoch=keep if name == "whole" else None)
    torch.testing.assert_close(dict(short.model.state_dict()), weights[0])
    one, other = (np.load(tmp_path / name / "trajectory.npy") for name in ("whole", "short"))
    np.testing.assert_allclose(one[:2], other[:2], atol=5e-3)
    assert np.isfinite(other[:2, short.data.rows]).all()
    assert np.isnan(other[2:]).all()


@pytest.mark.parametrize(("name", "end"), [("max_logit_scale", 5.0), ("min_logit_scale", 40.0)])
def test_the_logit_scale_stays_within_its_ends(toy: str, name: str, end: float) -> None:
    member = trainer(toy, data_of(), **{name: end})
    member.step(member.data.rows, blank(member))
    assert float(member.model.logit_scale.detach()) == pytest.approx(math.log(end))


def test_the_trajectory_tells_of_embeddings_without_noise(toy: str) -> None:
    usual, noised = (trainer(toy, data_of(), text_noise=sigma, image_noise=sigma) for sigma in (0.0, 5.0))
    found = []
    for member in (usual, noised):
        progress = blank(member)
        member.step(member.data.rows, progress)
        found.append(progress.trajectory[0])
    np.testing.assert_allclose(*found, atol=5e-3)


def test_only_pairs_that_are_ahead_get_noise_a_mask_and_rest(toy: str) -> None:
    member = trainer(toy, data_of(), adaptive_noise=0.3, adaptive_mask=0.6, adaptive_rest=0.75)
    assert member.mitigation.held_out is not None
    rows = np.arange(12, 24)
    ahead = rows % 2 == 0
    member.mitigation.held_out.ahead[rows] = ahead
    unit = F.normalize(torch.ones(12, 16), dim=1)
    moved = (member.mitigation.text(unit, unit, rows, 0) - unit).abs().sum(dim=1) > 1e-3
    assert moved.tolist() == ahead.tolist()
    assert torch.equal(member.mitigation.image(unit, unit, rows, 0), unit)
    weight = member.mitigation.weight(rows)
    assert weight is not None
    assert weight.tolist() == [0.25 if one else 1.0 for one in ahead]
    captions = chosen_captions(member.data, rows, seed=0, epoch=0)
    tokens = member.data.tokens[captions]
    changed = (member.mitigation.tokens(tokens, captions, rows, 0) != tokens).any(axis=1)
    assert not changed[~ahead].any()
    assert changed[ahead].any()


def test_the_external_pairs_are_looked_at_as_the_audit_would(toy: str) -> None:
    member = trainer(toy, data_of(), adaptive_rest=1.0, adaptive_every=1)
    before = {name: value.clone() for name, value in member.model.state_dict().items()}
    looked: list[tuple[Tensor, Tensor]] = []
    assert member.mitigation.held_out is not None
    member.mitigation.held_out.look = lambda image, text: looked.append((image, text))  # type: ignore[method-assign]
    member.look_at_external(4)
    rows = member.data.external
    views = member.views.images(member.data.pixels.gather(rows), member.views.boxes(member.data.keys[rows], 4))
    captions = chosen_captions(member.data, rows, seed=0, epoch=4)
    with torch.no_grad():
        image = member.model.encode_image(views, normalize=True)
        text = member.model.encode_text(torch.from_numpy(member.data.tokens[captions].astype(np.int64)), normalize=True)
    torch.testing.assert_close(looked[0][0], image, atol=1e-5, rtol=0)
    torch.testing.assert_close(looked[0][1], text, atol=1e-5, rtol=0)
    assert member.model.training
    assert all(torch.equal(value, before[name]) for name, value in member.model.state_dict().items())
