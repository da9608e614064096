"""Steps of a small member: what it learns, and what it notes about each pair."""

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clipmem_core.config import InputError, preset_config
from clipmem_core.training.model import build_model
from clipmem_core.training.names import LOG, TRAJECTORY
from clipmem_core.training.state import Progress
from clipmem_core.training.trainer import Trainer, chosen_captions, epoch_batches, read_ahead, train
from clipmem_core.training.views import TrainingData
from tests.training.toys import draw_data, trainer, view_maker


def blank(member: Trainer) -> Progress:
    shape = (member.config.epochs, len(member.data.keys), 2)
    return Progress(0, np.full(shape, np.nan, dtype=np.float16))


def losses(member: Trainer) -> list[float]:
    """Run every step and return the loss of each."""
    progress, seen = blank(member), []
    for _ in member.steps(progress):
        seen.append(progress.sums[0])
    return np.diff(seen, prepend=0).tolist()


@pytest.mark.parametrize("precision", ["fp32", "amp_bf16"])
def test_the_tiny_preset_leaves_its_files_and_a_trajectory_of_the_trained_pairs(tmp_path: Path, precision: str) -> None:
    config = replace(preset_config("tiny"), epochs=2, batch_size=32, precision=precision)
    model = build_model("tiny", loss="clip", seed=0)
    data = replace(draw_data(64, captions=2, size=40, context=16), rows=np.arange(0, 64, 2))
    views = view_maker(image_size=32)
    model.eval()
    train(Trainer(model, data, config, views, seed=0, device="cpu"), tmp_path)
    assert model.training
    trajectory = np.load(tmp_path / TRAJECTORY)
    assert trajectory.shape == (2, 64, 2)
    assert trajectory.dtype == np.float16
    assert np.isfinite(trajectory[:, ::2]).all()
    assert np.isnan(trajectory[:, 1::2]).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "log.jsonl", "trajectory.npy"]


def test_the_trajectory_is_what_the_model_thought_before_each_step(toy: str) -> None:
    member = trainer(toy, draw_data(20, captions=3), epochs=2)
    progress = blank(member)
    for epoch in range(2):
        for rows in epoch_batches(member.data, seed=0, epoch=epoch, batch_size=8):
            cosine, log_probability, loss = slowly(member, rows, epoch)
            assert member.step(rows, progress) == pytest.approx(loss, abs=1e-4)
            np.testing.assert_allclose(progress.trajectory[epoch, rows, 0], cosine, atol=2e-3)
            np.testing.assert_allclose(progress.trajectory[epoch, rows, 1], log_probability, atol=5e-3)
            progress.step += 1
    assert np.isfinite(progress.trajectory).all()


def slowly(member: Trainer, rows: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Compute cosines, log-probabilities and loss of a batch pair by pair with open_clip's own encoders."""
    model, data = member.model, member.data
    captions = chosen_captions(data, rows, seed=member.seed, epoch=epoch)
    images, texts = [], []
    with torch.no_grad():
        for row, caption in zip(rows, captions, strict=True):
            box = member.views.boxes(data.keys[[row]], epoch)
            view = member.views.images(data.pixels.gather(np.array([row])), box)
            images.append(model.encode_image(view, normalize=True)[0])
            tokens = torch.from_numpy(data.tokens[[caption]].astype(np.int64))
            texts.append(model.encode_text(tokens, normalize=True)[0])
        logits = model.logit_scale.exp() * torch.stack(images) @ torch.stack(texts).T
    log_softmax = (logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()) / 2
    target = torch.arange(len(rows))
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    cosine = logits.diagonal() / model.logit_scale.detach().exp()
    return cosine.numpy(), log_softmax.numpy(), float(loss)


@pytest.mark.parametrize("precision", ["fp32", "amp_bf16"])
@pytest.mark.parametrize(
    ("loss", "epochs", "guess"),
    [("clip", 60, math.log(32)), ("siglip", 200, math.log(32) + 31 * math.log(32 / 31))],
)
def test_32_pairs_are_learned_by_heart(toy: str, loss: str, epochs: int, guess: float, precision: str) -> None:
    member = trainer(
        toy, draw_data(32), epochs=epochs, batch_size=32, loss=loss, crop_scale=1.0, lr=5e-3, precision=precision
    )
    before = {name: value.clone() for name, value in member.model.state_dict().items()}
    seen = losses(member)
    assert seen[0] > guess  # the loss of one who sees nothing and knows the odds
    assert seen[-1] < guess / 4
    assert all(math.isfinite(value) for value in seen)
    assert all(not torch.equal(value, before[name]) for name, value in member.model.state_dict().items())


def test_the_first_siglip_loss_is_its_formula(toy: str) -> None:
    member = trainer(toy, draw_data(6), loss="siglip", crop_scale=1.0)
    rows = member.data.rows
    cosine, _, _ = slowly(member, rows, 0)
    with torch.no_grad():
        views = member.views.images(member.data.pixels.gather(rows), member.views.boxes(member.data.keys, 0))
        images = member.model.encode_image(views, normalize=True)
        tokens = torch.from_numpy(member.data.tokens.astype(np.int64))
        texts = member.model.encode_text(tokens, normalize=True)
    np.testing.assert_allclose((images * texts).sum(dim=1), cosine, atol=1e-5)
    expected = sum(
        math.log1p(math.exp(-(1 if i == j else -1) * (10 * float(images[i] @ texts[j]) - 10))) / 6
        for i in range(6)
        for j in range(6)
    )
    assert member.step(rows, blank(member)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("start", "end"), [(9.0, math.log(100)), (-3.0, 0.0)])
def test_the_logit_scale_is_clamped_between_1_and_100(toy: str, start: float, end: float) -> None:
    member = trainer(toy, draw_data(8), lr=1e-6)
    with torch.no_grad():
        member.model.logit_scale.fill_(start)
    member.step(member.data.rows, blank(member))
    assert float(member.model.logit_scale.detach()) == pytest.approx(end)


def test_each_step_takes_its_rate_of_the_schedule(toy: str) -> None:
    member = trainer(toy, draw_data(20), epochs=10, batch_size=10, lr=0.1, warmup=2)
    rates = []
    for _ in member.steps(blank(member)):
        assert len({group["lr"] for group in member.optimizer.param_groups}) == 1
        rates.append(member.optimizer.param_groups[0]["lr"])
    assert rates[:3] == pytest.approx([0.05, 0.1, 0.1])
    assert len(rates) == 20
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_a_step_is_one_of_adamw_on_the_loss_written_out(toy: str) -> None:
    member, twin = (trainer(toy, draw_data(8), crop_scale=1.0, lr=0.01, warmup=0, weight_decay=0.2) for _ in range(2))
    rows = member.data.rows
    member.step(rows, blank(member))
    views = twin.views.images(twin.data.pixels.gather(rows), twin.views.boxes(twin.data.keys, 0))
    image = twin.model.encode_image(views, normalize=True)
    text = twin.model.encode_text(torch.from_numpy(twin.data.tokens.astype(np.int64)), normalize=True)
    logits = twin.model.logit_scale.exp() * image @ text.T
    ((F.cross_entropy(logits, torch.arange(8)) + F.cross_entropy(logits.T, torch.arange(8))) / 2).backward()
    # The first step of Adam is lr × gradient / (|gradient| + eps), after the decay of matrices.
    fast = dict(member.model.named_parameters())
    for name, value in twin.model.named_parameters():
        gradient = value.grad
        assert gradient is not None
        decayed = value.detach() * (1 - 0.01 * 0.2 * (value.ndim >= 2))
        expected = decayed - 0.01 * gradient / (gradient.abs() + 1e-6)
        clear = gradient.abs() > 1e-4  # below, rounding decides
        torch.testing.assert_close(fast[name].detach()[clear], expected[clear], atol=2e-5, rtol=1e-3)


def test_the_log_tells_of_each_epochs_end(toy: str, tmp_path: Path) -> None:
    member = trainer(toy, draw_data(24), epochs=3)  # equal batches: the mean over them is the mean over pairs
    train(member, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 9]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    trajectory = np.load(tmp_path / TRAJECTORY).astype(np.float64)
    for line, epoch in zip(lines, trajectory, strict=True):
        assert line["steps"] == 9
        assert line["log_probability"] == pytest.approx(epoch[:, 1].mean(), abs=2e-3)
        assert line["loss"] == pytest.approx(-line["log_probability"], abs=1e-3)
        assert line["samples_per_second"] > 0
    assert lines[-1]["logit_scale"] == pytest.approx(float(member.model.logit_scale.detach().exp()), abs=1e-3)


@dataclass
class Shelf:
    """Pictures whose value is their row; the row -1 cannot be read. Keeps what was asked for."""

    asked: list[list[int]] = field(default_factory=list)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        self.asked.append(rows.tolist())
        if -1 in rows:
            raise OSError("the disk is gone")
        return np.broadcast_to(rows.astype(np.uint8)[:, None, None, None], (len(rows), 2, 2, 3))


def test_batches_read_ahead_come_with_their_own_pictures_and_at_most_one_is_waiting() -> None:
    shelf, batches = Shelf(), np.array_split(np.random.default_rng(0).permutation(30), 7)
    for place, (rows, pixels) in enumerate(read_ahead(shelf, batches)):
        assert rows is batches[place]
        assert (pixels[:, 0, 0, 0] == rows).all()
        assert len(shelf.asked) <= place + 2
    assert shelf.asked == [rows.tolist() for rows in batches]
    assert list(read_ahead(shelf, [])) == []


def test_a_picture_that_cannot_be_read_stops_the_run_at_its_batch() -> None:
    batches = read_ahead(Shelf(), [np.array([1]), np.array([2]), np.array([-1])])
    assert [next(batches)[0].tolist() for _ in range(2)] == [[1], [2]]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_a_pair_that_is_not_trained_changes_nothing(toy: str, tmp_path: Path) -> None:
    whole = draw_data(24)
    data = replace(whole, rows=np.arange(16))
    small: TrainingData = replace(whole, keys=whole.keys[:16], caption_start=whole.caption_start[:17], rows=data.rows)
    for name, own in (("a", data), ("b", small)):
        (tmp_path / name).mkdir()
        train(trainer(toy, own), tmp_path / name)
    torch.testing.assert_close(*(torch.load(tmp_path / name / "checkpoint.pt") for name in "ab"))
    one, other = (np.load(tmp_path / name / TRAJECTORY) for name in "ab")
    np.testing.assert_allclose(one[:, :16], other, atol=5e-3)


def test_a_loss_that_is_not_finite_ends_the_member_with_one_line(toy: str) -> None:
    member = trainer(toy, draw_data(16))
    with torch.no_grad():
        member.model.logit_scale.fill_(float("nan"))
    with pytest.raises(InputError, match="the loss is nan at step 0: try a lower --lr"):
        member.step(member.data.rows, blank(member))
