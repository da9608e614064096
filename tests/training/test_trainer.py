"""Steps of a small member: its order, captions, loss and rates, what it learns and what it notes
about each pair."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from open_clip.loss import ClipLoss
from open_clip_train.scheduler import cosine_lr
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from clipmem_core.training.trainer import (
    Trainer,
    chosen_captions,
    contrast,
    epoch_batches,
    learning_rate,
)
from clipmem_core.utils.io import InputError
from tests.training.toys import draw_data, trainer


def unit_vectors(member: Trainer, rows: np.ndarray, epoch: int) -> tuple[Tensor, Tensor]:
    """Embed a batch by open_clip's own encoders."""
    data = member.data
    images = member.views.evaluation_images(data.pixels.gather(rows), data.keys[rows], epoch, "cpu")
    captions = chosen_captions(data, rows, seed=member.seed, epoch=epoch)
    tokens = torch.from_numpy(data.tokens[captions].astype(np.int64))
    with torch.no_grad():
        image = member.model.encode_image(images, normalize=True)
        return image, member.model.encode_text(tokens, normalize=True)


def test_the_trajectory_is_what_the_model_computes_before_each_step(toy: str) -> None:
    member = trainer(toy, draw_data(20, captions=3), epochs=2)
    for epoch in range(2):
        for rows in epoch_batches(member.data, seed=0, epoch=epoch, batch_size=8):
            image, text = unit_vectors(member, rows, epoch)
            scale = member.model.logit_scale.detach().exp()
            logits = scale * image @ text.T
            log_softmax = (logits.log_softmax(1) + logits.log_softmax(0)).diagonal() / 2
            loss = float(ClipLoss()(image, text, scale))
            found = member.step(rows)
            assert found == pytest.approx(loss, abs=1e-4)
            expected = torch.stack([logits.diagonal() / scale, log_softmax], 1)
            np.testing.assert_allclose(member.trajectory[epoch, rows], expected, atol=5e-3)
    assert np.isfinite(member.trajectory).all()


def test_the_loss_and_its_gradient_are_those_of_open_clip() -> None:
    draws = torch.Generator().manual_seed(0)
    vectors = [torch.randn(9, 5, generator=draws) for _ in range(2)]
    leaves = [each.requires_grad_() for each in (*vectors, torch.tensor(14.0))]
    image, text = (F.normalize(each, dim=1) for each in vectors)
    cosine, log_probability = contrast(image, text, leaves[2])
    np.testing.assert_allclose(cosine, (image * text).sum(1).detach(), atol=1e-6)
    losses = [-log_probability.mean(), ClipLoss()(image, text, leaves[2])]
    torch.testing.assert_close(*losses)
    ours, theirs = (torch.autograd.grad(loss, leaves, retain_graph=True) for loss in losses)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_the_first_siglip_loss_is_its_formula(toy: str) -> None:
    member = trainer(toy, draw_data(6), loss="siglip", crop_scale=1.0)
    rows = member.data.rows
    image, text = unit_vectors(member, rows, 0)
    logits = (10 * image @ text.T - 10) * (2 * torch.eye(6) - 1)
    expected = float(-F.logsigmoid(logits).sum()) / 6
    assert member.step(rows) == pytest.approx(expected, rel=1e-4)


def test_a_loss_that_is_not_finite_ends_the_member_with_one_line(toy: str) -> None:
    member = trainer(toy, draw_data(16))
    with torch.no_grad():
        member.model.logit_scale.fill_(float("nan"))
    with pytest.raises(InputError, match="the loss is nan at step 0: try a lower --lr"):
        member.step(member.data.rows)


DATA = draw_data(300, captions=4)


@pytest.mark.parametrize("changes", [{}, {"SHUFFLED_UP_TO": 100, "SHUFFLED_ROWS": 16}])
@pytest.mark.parametrize(("count", "size"), [(1, 70), (120, 16), (299, 7)])
def test_batches_have_near_equal_sizes_and_an_order_that_others_do_not_change(
    changes: dict[str, int], count: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in changes.items():
        monkeypatch.setattr(f"clipmem_core.training.trainer.{name}", value)
    rows = np.sort(np.random.default_rng(0).permutation(300)[:count])
    batches = epoch_batches(replace(DATA, rows=rows), seed=1, epoch=2, batch_size=size)
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    assert len(batches) == math.ceil(count / size)
    every = np.concatenate(epoch_batches(DATA, seed=1, epoch=2, batch_size=16))
    assert np.concatenate(batches).tolist() == every[np.isin(every, rows)].tolist()


def test_chosen_captions_are_uniform() -> None:
    rows = np.arange(300)
    drawn = np.stack([chosen_captions(DATA, rows, seed=0, epoch=epoch) for epoch in range(400)])
    assert (drawn >= DATA.captions.first).all()
    assert (drawn < DATA.captions.start[1:]).all()
    for row in (1, 2, 3):  # pairs of two, three and four captions
        counts = np.bincount(drawn[:, row] - DATA.captions.start[row])
        assert len(counts) == row + 1
        assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(("total", "warmup"), [(100, 10), (100, 0), (1000, 7)])
def test_the_learning_rate_is_open_clips_schedule(total: int, warmup: int) -> None:
    theirs = cosine_lr(SimpleNamespace(param_groups=[]), 3e-4, warmup, total)
    for step in range(total):
        assert learning_rate(step, total=total, peak=3e-4, warmup=warmup) == pytest.approx(
            theirs(step)
        )
