"""A batch in parts, and in two processes, has the gradients of the whole batch."""

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from open_clip.loss import ClipLoss, SigLipLoss
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from clipmem_core.config import InputError
from clipmem_core.training.heads import locked_model
from clipmem_core.training.loop import Trainer, epoch_batches
from clipmem_core.training.model import build_model
from clipmem_core.training.parallel import ParallelTrainer, keep_less
from clipmem_core.training.state import Progress
from tests.forked import Server
from tests.training.toys import CONFIG, draw_data, view_maker, write_model

ADAPTIVE = {"adaptive_noise": 0.2, "adaptive_mask": 0.5, "adaptive_rest": 0.5, "adaptive_every": 1}


def made(kind: type[Trainer], model: str, changes: dict[str, Any], **how: Any) -> Trainer:
    """Return a trainer of 22 pairs in batches of 8, 7 and 7; two external pairs are looked at."""
    config = replace(CONFIG, **changes)
    data = replace(draw_data(24, captions=2), rows=np.arange(22), external=np.arange(22, 24))
    built = build_model(model, loss=config.loss, seed=0)
    return kind(built, data, config, view_maker(), seed=0, device="cpu", **how)


def told(trainer: Trainer) -> tuple[list[float], np.ndarray]:
    """Train to the end and return the loss of each step, and the trajectory."""
    progress = Progress(0, np.full((3, 24, 2), np.nan, dtype=np.float16))
    losses = [progress.sums[0] for _ in trainer.steps(progress)]
    return np.diff(losses, prepend=0).tolist(), progress.trajectory


@pytest.mark.parametrize(
    "changes",
    [{}, {"loss": "siglip"}, {"text_noise": 0.1, "image_noise": 0.1, "text_mask": 0.3}, ADAPTIVE, {"colour": 0.3}],
    ids=lambda changes: "-".join(map(str, changes)) or "plain",
)
def test_four_parts_of_each_batch_train_the_member_of_whole_batches(toy: str, changes: dict[str, Any]) -> None:
    whole, parts = told(made(Trainer, toy, changes)), told(made(ParallelTrainer, toy, changes, accum_freq=4))
    assert parts[0] == pytest.approx(whole[0], abs=1e-4)
    np.testing.assert_allclose(parts[1], whole[1], atol=5e-3)
    alone = told(made(ParallelTrainer, toy, changes))
    assert alone[0] == pytest.approx(whole[0], abs=1e-4)
    np.testing.assert_allclose(alone[1], whole[1], atol=5e-3)


def test_towers_that_keep_less_train_the_same_member(toy: str) -> None:
    less = made(ParallelTrainer, toy, {}, accum_freq=2, grad_checkpointing=True)
    assert less.model.visual.transformer.grad_checkpointing
    assert less.model.transformer.grad_checkpointing
    assert told(less)[0] == pytest.approx(told(made(Trainer, toy, {}))[0], abs=1e-4)


def test_a_part_is_embedded_twice_with_the_same_dropout_and_others_with_their_own(tmp_path: Path) -> None:
    model = write_model(tmp_path, patch_dropout=0.5)
    trainer = made(ParallelTrainer, model, {"batch_size": 22}, accum_freq=2)
    trainer.model.train()
    trainer.generator.manual_seed(5)
    pixels = trainer.source.gather(np.arange(8))
    trainer.look(np.arange(8), 0, pixels)
    for part, place in zip(trainer.parts, (slice(0, 4), slice(4, 8)), strict=True):
        torch.testing.assert_close(part()[0], trainer.leaves[0][place].detach())
    trainer.look(np.array([0, 0]), 0, pixels[[0, 0]])
    assert not torch.equal(*trainer.leaves[0])  # one picture, in two parts


@pytest.mark.parametrize("accum_freq", [0, 8])
def test_parts_without_a_pair_are_refused(toy: str, accum_freq: int) -> None:
    with pytest.raises(InputError, match=f"1 processes × --accum-freq {accum_freq} cannot share a batch of 7 pairs"):
        made(ParallelTrainer, toy, {}, accum_freq=accum_freq)


def test_a_model_that_needs_the_statistics_of_a_batch_is_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path, layers=[1, 1, 1, 1], width=8, image_size=32)
    made(ParallelTrainer, model, {})
    with pytest.raises(InputError, match="normalises by the statistics of a batch"):
        made(ParallelTrainer, model, {}, accum_freq=2)


def test_heads_have_nothing_to_keep_less_of() -> None:
    with pytest.raises(InputError, match="--grad-checkpointing is for transformer towers"):
        keep_less(locked_model(8, 8, dim=4, loss="clip", seed=0))


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_two_processes_have_the_gradients_of_the_gathered_loss_of_open_clip(
    toy: str, loss: str, tmp_path: Path, forks: Server
) -> None:
    with socket.create_server(("localhost", 0)) as free:
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    code = f"from tests.training.test_parallel import compare; compare({toy!r}, {loss!r})"
    both = [forks.start("list", data=tmp_path, before=code, RANK=str(rank), **group) for rank in range(2)]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said


def compare(model: str, loss: str) -> None:
    """Hold the gradients of a first step against those of open_clip's own gathered loss; runs in each process."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    trainer = made(ParallelTrainer, model, {"loss": loss}, accum_freq=2)
    rows = epoch_batches(trainer.data, seed=0, epoch=0, batch_size=8)[0]
    assert len(rows) == 8
    found, _, _ = trainer.look(rows, 0, trainer.source.gather(rows))
    trainer.backward(found)
    wanted = build_model(model, loss=loss, seed=0)
    own = {"rank": dist.get_rank(), "world_size": 2}
    gathered = ClipLoss(local_loss=True, gather_with_grad=True, **own) if loss == "clip" else SigLipLoss(**own)
    share = np.array_split(rows, 2)[dist.get_rank()]
    images, tokens = trainer.inputs(share, 0, trainer.data.pixels.gather(share))
    encoders = DistributedDataParallel(wanted)  # kept: its hooks go with it
    seen = encoders(images, tokens)
    scale = {"logit_scale": seen["logit_scale"]} | ({"logit_bias": seen["logit_bias"]} if loss == "siglip" else {})
    vectors = (F.normalize(seen[side], dim=-1) for side in ("image_features", "text_features"))
    value = gathered(*vectors, **scale)
    value.backward()
    for (name, one), other in zip(trainer.model.named_parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4, msg=lambda said, name=name: name + said)
    dist.all_reduce(value := value.detach())
    assert float(found.detach()) == pytest.approx(float(value) / 2, rel=1e-5)
    dist.destroy_process_group()
    os.environ.pop("RANK")
