"""Files are whole or not there, their bytes do not depend on their name, and a cut log is read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clipmem_core.training.model import build_model
from clipmem_core.training.state import Log, Progress, load_state, save_array, save_atomically, save_state
from clipmem_core.training.trainer import make_optimizer
from tests.training.toys import CONFIG


def test_bytes_of_a_torch_file_do_not_depend_on_its_name(tmp_path: Path) -> None:
    value = {"a": torch.arange(5), "b": [1, 2]}
    for name in ("one.pt", "quite another name.pt"):
        save_atomically(value, tmp_path / name)
    one, other = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert one == other
    assert torch.load(tmp_path / "one.pt", weights_only=True)["a"].tolist() == [0, 1, 2, 3, 4]


def test_files_are_renamed_into_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        moved.append((self.parent == target.parent, self.name != target.name, self.stat().st_size > 0, target.name))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    save_atomically(torch.zeros(3), tmp_path / "a.pt")
    save_array(np.arange(3), tmp_path / "b.npy")
    Log(tmp_path / "log.jsonl", 0)
    assert moved[:2] == [(True, True, True, "a.pt"), (True, True, True, "b.npy")]
    assert moved[2][3] == "log.jsonl"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "b.npy", "log.jsonl"]


def test_an_array_comes_back_as_it_was_also_after_a_write_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.array([[np.nan, 1.5]], dtype=np.float16)
    save_array(array, tmp_path / "a.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)
    path = tmp_path / "a.npy"
    save_array(np.arange(3), path)

    def full(self: Path, content: bytes) -> int:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        save_array(np.arange(9), path)
    assert np.load(path).tolist() == [0, 1, 2]


def test_a_state_comes_back_with_weights_optimiser_and_progress(toy: str, tmp_path: Path) -> None:
    model, other = (build_model(toy, loss="clip", seed=seed) for seed in (1, 2))
    optimizer, blank = make_optimizer(model, CONFIG), make_optimizer(other, CONFIG)
    model.encode_image(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    trajectory = np.full((2, 3, 2), np.nan, dtype=np.float16)
    trajectory[0, 1] = [0.25, -3]
    save_state(model, optimizer, Progress(7, trajectory, 1.5, [1.0, 2.0, 3.0]), tmp_path)
    progress = load_state(other, blank, tmp_path, device="cpu")
    assert progress is not None
    assert (progress.step, progress.seconds, progress.sums) == (7, 1.5, [1.0, 2.0, 3.0])
    assert progress.trajectory.dtype == np.float16
    np.testing.assert_array_equal(progress.trajectory, trajectory)
    progress.trajectory[1] = 0  # may be written to
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    for place, moments in optimizer.state_dict()["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, blank.state_dict()["state"][place][name])


def test_where_there_was_no_run_there_is_no_state(toy: str, tmp_path: Path) -> None:
    model = build_model(toy, loss="clip", seed=0)
    assert load_state(model, make_optimizer(model, CONFIG), tmp_path, device="cpu") is None


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


def test_a_new_log_is_empty(tmp_path: Path) -> None:
    Log(tmp_path / "log.jsonl", 0)
    assert (tmp_path / "log.jsonl").read_bytes() == b""
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, 6)))
    Log(path, 3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
