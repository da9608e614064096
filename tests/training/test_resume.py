"""A member stopped at any step goes on from its last state and ends with the bits of one that never stopped."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipmem_core.training import trainer as loop
from clipmem_core.training.names import CHECKPOINT, LOG, STATE, TRAJECTORY
from clipmem_core.training.state import Log, Progress
from clipmem_core.training.trainer import Trainer, train
from tests.training.toys import draw_data, trainer, write_model

PAIRS = 30  # four steps of eight or seven pairs an epoch, three epochs


class Stopped(Exception):
    """Stands for a kill."""


@dataclass
class Clock:
    """Ten seconds pass with each step, none otherwise: with states 25 seconds apart one is saved every third step."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", 25.0)
    return clock


def member(
    name: str, clock: Clock, *, stop: int = 1000, before: Callable[[], None] | None = None, **how: Any
) -> Trainer:
    """Return a trainer that is stopped in the middle of step number `stop`."""
    made = trainer(name, draw_data(PAIRS, captions=3), **how)
    step = made.step

    def timed(rows: np.ndarray, progress: Progress, pixels: np.ndarray) -> float:
        if before is not None:
            before()
        loss = step(rows, progress, pixels)
        if progress.step + 1 == stop:
            raise Stopped
        clock.now += 10
        return loss

    made.step = timed  # type: ignore[method-assign]
    return made


def run(name: str, folder: Path, clock: Clock, *, stops: tuple[int, ...] = (), **how: Any) -> Path:
    """Train into a folder, stopping and beginning anew at each of some steps."""
    folder.mkdir(exist_ok=True)
    for stop in stops:
        with pytest.raises(Stopped):
            train(member(name, clock, stop=stop, **how), folder)
        torch.manual_seed(stop)  # another process has another random state
        clock.now += 12345
    train(member(name, clock, **how), folder)
    return folder


def assert_same_bits(one: Path, other: Path) -> None:
    first, second = (torch.load(folder / CHECKPOINT, weights_only=True) for folder in (one, other))
    assert list(first) == list(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    for file in (CHECKPOINT, TRAJECTORY):
        assert (one / file).read_bytes() == (other / file).read_bytes()


@pytest.mark.parametrize("precision", ["fp32", "amp_bf16"])
@pytest.mark.parametrize("stops", [(2,), (5,), (7, 8, 11, 12)], ids=["before a state", "mid epoch", "again and again"])
def test_a_stopped_run_ends_with_the_same_bits(
    toy: str, tmp_path: Path, clock: Clock, stops: tuple[int, ...], precision: str
) -> None:
    straight = run(toy, tmp_path / "straight", clock, precision=precision)
    stopped = run(toy, tmp_path / "stopped", clock, stops=stops, precision=precision)
    assert_same_bits(straight, stopped)


def test_a_siglip_run_resumes_too(toy: str, tmp_path: Path, clock: Clock) -> None:
    straight = run(toy, tmp_path / "straight", clock, loss="siglip")
    assert_same_bits(straight, run(toy, tmp_path / "stopped", clock, stops=(5, 9), loss="siglip"))


def test_a_tower_that_drops_patches_at_random_resumes_too(tmp_path: Path, clock: Clock) -> None:
    name = write_model(tmp_path, patch_dropout=0.5)
    straight = run(name, tmp_path / "straight", clock)
    assert_same_bits(straight, run(name, tmp_path / "stopped", clock, stops=(5, 9)))


def test_a_resumed_run_repeats_only_the_steps_after_its_state(toy: str, tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(Stopped):
        train(member(toy, clock, stop=8), tmp_path)
    assert torch.load(tmp_path / STATE, weights_only=True)["step"] == 6
    taken: list[None] = []
    train(member(toy, clock, before=lambda: taken.append(None)), tmp_path)
    assert len(taken) == 12 - 6


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    """Change a weight: one bit in the middle of the file."""
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [cut, flip, lambda content: b""], ids=["cut", "flipped", "empty"])
def test_a_run_whose_state_is_broken_begins_anew_and_ends_with_the_same_bits(
    toy: str, tmp_path: Path, clock: Clock, damage: Callable[[bytes], bytes]
) -> None:
    straight, folder = run(toy, tmp_path / "straight", clock), tmp_path / "stopped"
    folder.mkdir()
    with pytest.raises(Stopped):
        train(member(toy, clock, stop=8), folder)
    (folder / STATE).write_bytes(damage((folder / STATE).read_bytes()))
    assert_same_bits(straight, run(toy, folder, clock))


def test_a_stopped_run_leaves_a_log_of_each_step_once_no_state_and_no_temporary_file(
    toy: str, tmp_path: Path, clock: Clock
) -> None:
    straight = run(toy, tmp_path / "straight", clock)
    stopped = run(toy, tmp_path / "stopped", clock, stops=(5, 8, 11))
    first, second = (
        [json.loads(line) for line in (folder / LOG).read_text().splitlines()] for folder in (straight, stopped)
    )
    assert [line["step"] for line in second] == list(range(1, 13))
    assert [line["seconds"] for line in second] == [10.0 * step for step in range(1, 13)]
    # Peak memory is that of all that this process did.
    told = [
        [{key: value for key, value in line.items() if key != "peak_mb"} for line in log] for log in (first, second)
    ]
    assert told[0] == told[1]
    assert sorted(path.name for path in stopped.iterdir()) == sorted([CHECKPOINT, LOG, TRAJECTORY])


def test_a_checkpoint_never_stands_without_its_trajectory(
    toy: str, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        raise Stopped

    straight = run(toy, tmp_path / "straight", clock)
    folder = tmp_path / "stopped"
    folder.mkdir()
    for name in ("save_array", "save_atomically"):
        with monkeypatch.context() as patch:
            patch.setattr(loop, name, stopped)
            with pytest.raises(Stopped):
                train(member(toy, clock), folder)
        assert not (folder / CHECKPOINT).exists()
        assert (folder / STATE).exists()
    assert_same_bits(straight, run(toy, folder, clock))


@pytest.mark.parametrize("cut", ['{"step": 3, "lo', "{", '{"step": 3, "loss": 1'])
def test_a_log_whose_last_line_is_cut_is_read_and_goes_on(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n' + cut)
    Log(path, 9).add(step=4, loss=0.5)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1},
        {"step": 2},
        {"step": 4, "loss": 0.5},
    ]
