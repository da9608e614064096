"""Steps of a small member: its order, captions, loss and rates, what it learns and what it notes
about each pair."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from open_clip.loss import ClipLoss
from open_clip_train.scheduler import cosine_lr
from scipy import stats
from torch.nn import functional as F

from clipmem_core.audit.paradigms import TEMPERATURE
from clipmem_core.io import InputError
from clipmem_core.training.model import build_model
from clipmem_core.training.names import LOG, TRAJECTORY
from clipmem_core.training.trainer import (
    Contrast,
    Trainer,
    chosen_captions,
    epoch_batches,
    learning_rate,
    train,
)
from tests.training.toys import draw_data, tower_trainer, trainer


def test_the_trajectory_is_what_the_model_computes_before_each_step(toy: str) -> None:
    member = trainer(toy, draw_data(20, captions=3), epochs=2)
    for epoch in range(2):
        for rows in epoch_batches(member.data, seed=0, epoch=epoch, batch_size=8):
            cosine, log_probability, loss = slowly(member, rows, epoch)
            assert member.step(rows, member.data.pixels.gather(rows)) == pytest.approx(
                loss, abs=1e-4
            )
            np.testing.assert_allclose(member.trajectory[epoch, rows, 0], cosine, atol=2e-3)
            np.testing.assert_allclose(
                member.trajectory[epoch, rows, 1], log_probability, atol=5e-3
            )
    assert np.isfinite(member.trajectory).all()


def slowly(member: Trainer, rows: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Compute cosines, log-probabilities and loss of a batch pair by pair with open_clip's own
    encoders."""
    model = member.model
    data = member.data
    captions = chosen_captions(data, rows, seed=member.seed, epoch=epoch)
    images = []
    texts = []
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


@pytest.mark.parametrize(("precision", "atol"), [("fp32", 1e-6), ("amp_bf16", 1e-2)])
def test_the_loss_and_its_gradient_are_those_of_open_clip(precision: str, atol: float) -> None:
    draws = torch.Generator().manual_seed(0)
    values = [torch.randn(9, 5, generator=draws) for _ in range(2)]
    results = []
    for ours in (True, False):
        leaves = [each.clone().requires_grad_() for each in (*values, torch.tensor(14.0))]
        image, text = (F.normalize(each, dim=1) for each in leaves[:2])
        if ours:
            cosine, log_probability = Contrast.apply(image, text, leaves[2], precision)
            np.testing.assert_allclose(cosine, (image * text).sum(1).detach(), atol=1e-6)
            loss = -log_probability.mean()
        else:
            loss = ClipLoss()(image, text, leaves[2])
        loss.backward()
        results.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, atol=atol, rtol=1e-5)


def test_the_first_siglip_loss_is_its_formula(toy: str) -> None:
    member = trainer(toy, draw_data(6), loss="siglip", crop_scale=1.0)
    rows = member.data.rows
    with torch.no_grad():
        views = member.views.images(
            member.data.pixels.gather(rows), member.views.boxes(member.data.keys, 0)
        )
        images = member.model.encode_image(views, normalize=True)
        texts = member.model.encode_text(
            torch.from_numpy(member.data.tokens.astype(np.int64)), normalize=True
        )
    expected = sum(
        math.log1p(math.exp(-(1 if i == j else -1) * (10 * float(images[i] @ texts[j]) - 10))) / 6
        for i in range(6)
        for j in range(6)
    )
    assert member.step(rows, member.data.pixels.gather(rows)) == pytest.approx(expected, rel=1e-4)


def test_a_member_writes_its_files_a_log_of_each_epoch_and_a_trajectory_of_its_pairs(
    toy: str, tmp_path: Path
) -> None:
    data = replace(draw_data(48, captions=2), rows=np.arange(0, 48, 2))
    member = trainer(
        toy, data, epochs=3
    )  # equal batches: the mean over them is the mean over pairs
    member.model.eval()
    folder = tmp_path / "member"
    folder.mkdir()
    train(member, folder)
    assert member.model.training
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint.pt",
        "log.jsonl",
        "trajectory.npy",
    ]
    trajectory = np.load(folder / TRAJECTORY)
    assert (trajectory.shape, trajectory.dtype) == ((3, 48, 2), np.float16)
    assert np.isnan(trajectory[:, 1::2]).all()
    lines = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    assert [(line["step"], line["epoch"], line["steps"]) for line in lines] == [
        (3, 1, 9),
        (6, 2, 9),
        (9, 3, 9),
    ]
    for line, epoch in zip(lines, trajectory.astype(np.float64), strict=True):
        assert line["log_probability"] == pytest.approx(epoch[::2, 1].mean(), abs=2e-3)
        assert line["loss"] == pytest.approx(-line["log_probability"], abs=1e-3)
        assert line["samples_per_second"] > 0
    assert lines[-1]["logit_scale"] == pytest.approx(
        float(member.model.logit_scale.detach().exp()), abs=1e-3
    )


def test_a_loss_that_is_not_finite_ends_the_member_with_one_line(toy: str) -> None:
    member = trainer(toy, draw_data(16))
    with torch.no_grad():
        member.model.logit_scale.fill_(float("nan"))
    with pytest.raises(InputError, match="the loss is nan at step 0: try a lower --lr"):
        member.step(member.data.rows, member.data.pixels.gather(member.data.rows))


DATA = draw_data(300, captions=4)


@pytest.fixture(params=[False, True], ids=["shuffled", "by blocks"])
def by_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Draw the order by blocks of 16 pairs, three at a time, or not."""
    if request.param:
        for name, value in {"SHUFFLED_UP_TO": 100, "BLOCK": 16, "BLOCKS_AT_ONCE": 3}.items():
            monkeypatch.setattr(f"clipmem_core.training.trainer.{name}", value)
    return request.param


SLOW = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SLOW
@given(
    st.sets(st.integers(0, 299), min_size=1),
    st.integers(1, 70),
    st.integers(0, 9),
    st.integers(0, 9),
)
def test_batches_hold_every_pair_once_in_near_equal_sizes(
    by_blocks: bool, rows: set[int], size: int, seed: int, epoch: int
) -> None:
    data = replace(DATA, rows=np.array(sorted(rows)))
    batches = epoch_batches(data, seed=seed, epoch=epoch, batch_size=size)
    assert sorted(np.concatenate(batches).tolist()) == sorted(rows)
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    assert len(batches) == math.ceil(len(rows) / size)


@SLOW
@given(st.sets(st.integers(0, 299), min_size=1))
def test_removing_pairs_keeps_the_order_of_the_others(by_blocks: bool, rows: set[int]) -> None:
    whole = np.concatenate(epoch_batches(DATA, seed=1, epoch=2, batch_size=16))
    part = np.concatenate(
        epoch_batches(replace(DATA, rows=np.array(sorted(rows))), seed=1, epoch=2, batch_size=16)
    )
    assert part.tolist() == [row for row in whole.tolist() if row in rows]


def test_chosen_captions_are_the_pairs_own_near_uniform_and_do_not_depend_on_the_batch() -> None:
    rows = np.arange(300)
    drawn = np.stack([chosen_captions(DATA, rows, seed=0, epoch=epoch) for epoch in range(400)])
    assert (drawn >= DATA.caption_start[:-1]).all()
    assert (drawn < DATA.caption_start[1:]).all()
    for row in (1, 2, 3):  # pairs of two, three and four captions
        counts = np.bincount(drawn[:, row] - DATA.caption_start[row])
        assert len(counts) == row + 1
        assert stats.chisquare(counts).pvalue > 1e-3
    whole = chosen_captions(DATA, rows, seed=2, epoch=5)
    some = np.array([17, 3, 250])
    assert (chosen_captions(DATA, some, seed=2, epoch=5) == whole[some]).all()


@pytest.mark.parametrize(("total", "warmup"), [(100, 10), (100, 0), (1000, 7)])
def test_the_learning_rate_is_open_clips_schedule(total: int, warmup: int) -> None:
    theirs = cosine_lr(SimpleNamespace(param_groups=[]), 3e-4, warmup, total)
    for step in range(total):
        assert learning_rate(step, total=total, peak=3e-4, warmup=warmup) == pytest.approx(
            theirs(step)
        )


def test_the_supervised_loss_is_cross_entropy_on_the_view_of_the_epoch(toy: str) -> None:
    data = draw_data(9)
    member = tower_trainer(toy, data, labels=np.arange(9) % 3)
    rows = np.array([0, 4, 5, 8])
    loss, right, log_probability = member.forward_loss(rows, 2, data.pixels.gather(rows))
    images = member.views.images(data.pixels.gather(rows), member.views.boxes(data.keys[rows], 2))
    with torch.no_grad():
        features = build_model(toy, loss="clip", seed=0).visual(images)
        logits = features @ member.model.head[0].weight.T + member.model.head[0].bias
    labels = torch.tensor([0, 1, 2, 2])
    assert loss.item() == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-5)
    np.testing.assert_array_equal(right, (logits.argmax(dim=1) == labels).float())
    np.testing.assert_allclose(
        log_probability, -F.cross_entropy(logits, labels, reduction="none"), atol=1e-5
    )


def test_the_self_supervised_loss_is_nt_xent_by_a_double_loop(toy: str) -> None:
    data = draw_data(6)
    member = tower_trainer(toy, data, epochs=3)
    rows = data.rows
    loss, cosine, log_probability = member.forward_loss(rows, 1, data.pixels.gather(rows))
    with torch.no_grad():
        turns = [
            member.outputs(data.pixels.gather(rows), rows, turn).double().numpy()
            for turn in (1, 1 + 3)
        ]
    both = np.concatenate(turns)
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    terms = []
    for i in range(12):
        others = [np.exp(both[i] @ both[j] / TEMPERATURE) for j in range(12) if j != i]
        terms.append(both[i] @ both[(i + 6) % 12] / TEMPERATURE - np.log(sum(others)))
    assert loss.item() == pytest.approx(-np.mean(terms), abs=1e-5)
    np.testing.assert_allclose(log_probability, (np.array(terms[:6]) + terms[6:]) / 2, atol=1e-5)
    np.testing.assert_allclose(cosine, (both[:6] * both[6:]).sum(axis=1), atol=1e-5)


@pytest.mark.parametrize("labels", [np.arange(24) % 3, None])
def test_it_learns_on_the_batches_of_a_clip_member_and_writes_the_same_files(
    toy: str, labels: np.ndarray | None, tmp_path: Path
) -> None:
    # Mitigations of captions do not concern it.
    changes = {
        "epochs": 40,
        "batch_size": 12,
        "crop_scale": 0.8,
        "text_mask": 0.5,
        "adaptive_rest": 1.0,
    }
    member = tower_trainer(toy, draw_data(24), labels=labels, **changes)
    seen = list[list[int]]()
    forward_loss = member.forward_loss
    member.forward_loss = lambda rows, *others: (
        seen.append(rows.tolist()),
        forward_loss(rows, *others),
    )[1]
    train(member, tmp_path)
    batches = [
        rows
        for epoch in range(40)
        for rows in epoch_batches(member.data, seed=0, epoch=epoch, batch_size=12)
    ]
    assert seen == [rows.tolist() for rows in batches]
    trajectory = np.load(tmp_path / TRAJECTORY)
    assert trajectory[-5:, :, 1].mean() > trajectory[:5, :, 1].mean() + 0.3
    line = json.loads((tmp_path / LOG).read_text().splitlines()[-1])
    assert line["step"] == line["steps"] == 80
    assert all(
        name.startswith(("visual.", "head.")) for name in torch.load(tmp_path / "checkpoint.pt")
    )
