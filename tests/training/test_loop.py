"""The order, the captions, the rates, the groups and the trajectory of a run, each against a slower way."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from open_clip_train.scheduler import cosine_lr
from scipy import stats
from torch import nn

from clipmem_core.training.model import build_model
from clipmem_core.training.trainer import chosen_captions, epoch_batches, learning_rate, make_optimizer
from clipmem_core.training.views import TrainingData
from tests.training.toys import CONFIG, draw_data, view_maker

DATA = draw_data(300, captions=4)


@pytest.fixture(params=[False, True], ids=["shuffled", "by blocks"])
def by_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Draw the order by blocks of 16 pairs, three at a time, or not."""
    if request.param:
        monkeypatch.setattr("clipmem_core.training.trainer.SHUFFLED_UP_TO", 100)
        monkeypatch.setattr("clipmem_core.training.trainer.BLOCK", 16)
        monkeypatch.setattr("clipmem_core.training.trainer.BLOCKS_AT_ONCE", 3)
    return request.param


def kept(data: TrainingData, rows: np.ndarray) -> TrainingData:
    return replace(data, rows=rows)


SLOW = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SLOW
@given(st.sets(st.integers(0, 299), min_size=1), st.integers(1, 70), st.integers(0, 9), st.integers(0, 9))
def test_batches_hold_every_pair_once_in_near_equal_sizes(
    by_blocks: bool, rows: set[int], size: int, seed: int, epoch: int
) -> None:
    data = kept(DATA, np.array(sorted(rows)))
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
    part = np.concatenate(epoch_batches(kept(DATA, np.array(sorted(rows))), seed=1, epoch=2, batch_size=16))
    assert part.tolist() == [row for row in whole.tolist() if row in rows]


@pytest.mark.parametrize("by_blocks", [True], indirect=True)
def test_an_order_by_blocks_reads_few_of_them_at_a_time_and_mixes_these(by_blocks: bool) -> None:
    order = np.concatenate(epoch_batches(DATA, seed=3, epoch=1, batch_size=16))
    at_once = [set((part // 16).tolist()) for part in np.split(order, np.arange(48, 288, 48))]
    assert len(at_once[0]) == 3
    assert max(map(len, at_once)) <= 6  # of two times three: the last block is short, and may come early
    assert (np.diff(order[:48] // 16) != 0).mean() > 0.4  # of three blocks in random order, two thirds
    again = np.concatenate(epoch_batches(DATA, seed=3, epoch=2, batch_size=16))
    assert set((again[:48] // 16).tolist()) != at_once[0]


def test_order_differs_between_epochs_and_seeds_and_is_a_fair_shuffle() -> None:
    orders = [
        np.concatenate(epoch_batches(DATA, seed=seed, epoch=epoch, batch_size=300))
        for seed in range(3)
        for epoch in range(20)
    ]
    correlation = np.corrcoef(np.argsort(orders, axis=1)) - np.eye(60)
    assert np.abs(correlation).max() < 5 / np.sqrt(300)


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


def test_captions_beyond_the_first_are_never_drawn_where_they_are_not_wanted() -> None:
    rows, counts = np.arange(300), np.diff(DATA.caption_start)
    drawn = np.stack([chosen_captions(DATA, rows, seed=0, epoch=epoch, first=2) for epoch in range(60)])
    place = drawn - DATA.caption_start[:-1]
    assert (place.max(axis=0) == np.minimum(counts, 2) - 1).all()
    # A pair that has no more draws what it draws anyway.
    free = np.stack([chosen_captions(DATA, rows, seed=0, epoch=epoch) for epoch in range(60)])
    assert (drawn[:, counts <= 2] == free[:, counts <= 2]).all()


def test_members_that_differ_in_one_pair_share_every_draw() -> None:
    keys = DATA.keys.copy()
    candidate, independent = 3, 7  # each of four captions
    keys[independent] = keys[candidate]
    data = replace(DATA, keys=keys)
    shared = np.arange(10, 150)
    f, g = (kept(data, np.sort(np.append(shared, row))) for row in (candidate, independent))
    views = view_maker()
    for epoch in range(3):
        for mine, other in zip(*(epoch_batches(d, seed=1, epoch=epoch, batch_size=32) for d in (f, g)), strict=True):
            assert np.where(mine == candidate, independent, mine).tolist() == other.tolist()
            assert (views.boxes(keys[mine], epoch) == views.boxes(keys[other], epoch)).all()
            one, two = (
                chosen_captions(data, rows, seed=1, epoch=epoch) - data.caption_start[rows] for rows in (mine, other)
            )
            assert (one == two).all()


def test_the_learning_rate_of_ten_steps_worked_by_hand() -> None:
    rates = [learning_rate(step, total=20, peak=2.0, warmup=50) for step in (0, 1, 2, 11, 19, 20)]
    half = 0.5 * 2.0 * (1 + math.cos(math.pi * 17 / 18))
    assert rates == pytest.approx([1.0, 2.0, 2.0, 1.0, half, 0.0])
    assert [learning_rate(step, total=19, peak=1.0, warmup=5) for step in (0, 1)] == [1.0, 1.0]
    assert [learning_rate(step, total=30, peak=3.0, warmup=5) for step in range(4)] == [1.0, 2.0, 3.0, 3.0]
    assert learning_rate(0, total=1, peak=0.5, warmup=50) == 0.5


@pytest.mark.parametrize(("total", "warmup"), [(100, 10), (100, 0), (1000, 7)])
def test_the_learning_rate_is_open_clips_schedule(total: int, warmup: int) -> None:
    theirs = cosine_lr(SimpleNamespace(param_groups=[]), 3e-4, warmup, total)
    for step in range(total):
        assert learning_rate(step, total=total, peak=3e-4, warmup=warmup) == pytest.approx(theirs(step))


def group_names(model: nn.Module) -> list[set[str]]:
    optimizer = make_optimizer(model, replace(CONFIG, weight_decay=0.3, beta1=0.8, beta2=0.95, eps=1e-7))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.3]
    assert all(group["betas"] == (0.8, 0.95) and group["eps"] == 1e-7 for group in optimizer.param_groups)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [{names[id(parameter)] for parameter in group["params"]} for group in optimizer.param_groups]


def test_gains_biases_and_the_logit_scale_are_not_decayed(toy: str) -> None:
    model = build_model(toy, loss="siglip", seed=0)
    plain, decayed = group_names(model)
    assert plain | decayed == {name for name, _ in model.named_parameters()}
    assert decayed == {
        "positional_embedding",
        "text_projection",
        "token_embedding.weight",
        "visual.positional_embedding",
        "visual.proj",
        "visual.conv1.weight",
        *(
            f"{tower}transformer.resblocks.0.{part}"
            for tower in ("", "visual.")
            for part in ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
        ),
    }
    model = nn.Module()
    for name in ("bn_gain", "ln_gain", "bias_table", "logit_scale", "weight", "frozen"):
        model.register_parameter(name, nn.Parameter(torch.zeros(2, 2), requires_grad=name != "frozen"))
    model.register_parameter("vector", nn.Parameter(torch.zeros(2)))
    assert group_names(model) == [{"bn_gain", "ln_gain", "bias_table", "logit_scale", "vector"}, {"weight"}]
