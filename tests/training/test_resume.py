"""A member stopped at any step continues from its last saved state and ends with the weights of an
unstopped one."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipmem_core import mitigations
from clipmem_core.config import AuditConfig
from clipmem_core.training import CHECKPOINT, LOG, TRAJECTORY
from clipmem_core.training import trainer as loop
from clipmem_core.training.trainer import Trainer, train
from clipmem_core.utils.options import option
from tests.training.toys import CONFIG, held_out_data, trainer, write_model

PAIRS = 30  # four steps of eight or seven pairs an epoch, three epochs
ADAPTIVE = {"adaptive_every": 1, "adaptive_noise": 0.5, "adaptive_mask": 0.5, "adaptive_rest": 1.0}
DRAWN = {"text_noise": 0.2, "image_noise": 0.2, "text_mask": 0.4, "colour": 0.5}


class Stopped(Exception):
    """Stands for a kill."""


@dataclass
class Clock:
    """Ten seconds pass with each step, none otherwise: with states 25 seconds apart one is saved
    every third step."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", 25.0)
    return clock


def clip(name: str, **how: Any) -> Trainer:
    return trainer(name, held_out_data(PAIRS), **how)


def run(made: Trainer, folder: Path, clock: Clock, *, stop: int = 1000) -> None:
    """Train into a folder; stop after a step."""
    folder.mkdir(exist_ok=True)
    step = made.step

    def timed(rows: np.ndarray) -> float:
        loss = step(rows)
        if made.done == stop:
            raise Stopped
        clock.now += 10
        return loss

    made.step = timed  # type: ignore[method-assign]
    train(made, folder)


def stopped(make: Callable[[], Trainer], folder: Path, clock: Clock, *stops: int) -> None:
    for stop in stops:
        with pytest.raises(Stopped):
            run(make(), folder, clock, stop=stop)
        torch.manual_seed(stop)  # another process has another random state
        with (folder / LOG).open("a") as file:
            file.write('{"step": 3, "lo')  # cut short by a kill
        clock.now += 12345


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: clip(write_model(folder), precision="amp_bf16"),
        lambda folder: clip(write_model(folder, patch_dropout=0.5), loss="siglip"),
        lambda folder: clip(write_model(folder), **ADAPTIVE, **DRAWN),
    ],
    ids=["bf16", "siglip, dropout", "mitigations"],
)
def test_a_stopped_run_ends_with_the_same_weights_and_log(
    tmp_path: Path, clock: Clock, make: Callable[[Path], Trainer]
) -> None:
    check(lambda: make(tmp_path), tmp_path, clock)


def test_a_mitigation_with_a_state_is_one_class_and_resumes(
    toy: str, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mitigations, "MITIGATIONS", list(mitigations.MITIGATIONS))

    @mitigations.mitigation(group="Training")
    class SlowWeights(mitigations.Mitigation):
        """The example of EXTENDING.md."""

        slow_weights: float = option(0.0, "share of the way from weights to their running mean")

        def start(self, trainer: Trainer) -> None:
            self.state["steps"] = 0

        def after_step(self, model: Any) -> None:
            if not self.slow_weights:
                return
            self.state["steps"] += 1
            for name, weight in model.named_parameters():
                mean = self.state.setdefault(name, weight.detach().clone())
                mean.lerp_(weight.detach(), 1 / self.state["steps"])
                weight.data.lerp_(mean, self.slow_weights)

    @dataclass(frozen=True)
    class Config(SlowWeights, AuditConfig):
        """The settings of an audit with those of the mitigation."""

    config = Config(**{**vars(CONFIG), "slow_weights": 0.5})
    slow = check(lambda: clip(toy, base=config), tmp_path, clock)
    run(clip(toy, base=config, slow_weights=0.0), tmp_path / "without", clock)
    plain = torch.load(tmp_path / "without" / CHECKPOINT, weights_only=True)
    assert (slow["visual.proj"] - plain["visual.proj"]).abs().max() > 1e-3


def check(make: Callable[[], Trainer], tmp_path: Path, clock: Clock) -> dict[str, torch.Tensor]:
    """Check that a run that is stopped four times ends as one that is not; return its weights."""
    folder = tmp_path / "stopped"
    straight = tmp_path / "straight"
    run(make(), straight, clock)
    stopped(make, folder, clock, 2, 5, 7, 8)
    again = make()
    run(again, folder, clock)
    weights = [torch.load(one / CHECKPOINT, weights_only=True) for one in (straight, folder)]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(*(np.load(one / TRAJECTORY) for one in (straight, folder)))
    logs = [
        [json.loads(line) for line in (own / LOG).read_text().splitlines()]
        for own in (straight, folder)
    ]
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[1]] == list(range(1, again.total + 1))
    assert sorted(path.name for path in folder.iterdir()) == sorted([CHECKPOINT, LOG, TRAJECTORY])
    return weights[1]
