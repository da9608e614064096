import json
import math
from pathlib import Path
from typing import Any

import pytest

from clipmem_core.audits.progress import (
    POINTS,
    MemberProgress,
    last_line,
    loss_curves,
    member_progress,
    training_seconds_left,
)


def line(step: int, **more: Any) -> str:
    return json.dumps({"step": step, "steps": 100, "loss": 2.0, "seconds": 5.0, "epoch": 1.0} | more) + "\n"


def test_the_last_whole_line_counts(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert last_line(log) == {}
    log.write_text("")
    assert last_line(log) == {}
    log.write_text(line(1) + line(2) + '{"step": 3, "ste')
    assert last_line(log)["step"] == 2
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"\xff not text\n" * 10_000 + line(7, note="x" * 500).encode())
    assert last_line(log)["step"] == 7


def test_a_members_stage_is_read_off_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "members" / "f-0"
    folder.mkdir(parents=True)
    stages = [member_progress(tmp_path, "f-0").stage]
    for name, content in (("log.jsonl", line(10)), ("checkpoint.pt", ""), ("image.npy", ""), ("text.npy", "")):
        (folder / name).write_text(content)
        stages.append(member_progress(tmp_path, "f-0").stage)
    assert stages == ["waiting", "training", "embedding", "embedding", "done"]
    assert member_progress(tmp_path, "f-0").step == 10


@pytest.mark.parametrize(
    ("step", "log_probability", "expected"),
    [(19, -math.log(64), False), (20, -math.log(64), True), (20, -0.9 * math.log(64), False), (0, math.nan, False)],
)
def test_a_loss_of_guessing_counts_after_a_fifth_of_the_run(step: int, log_probability: float, expected: bool) -> None:
    progress = MemberProgress("f-0", "training", step=step, steps=100, log_probability=log_probability)
    assert progress.at_chance(64) is expected


def member(stage: str, step: int, seconds: float) -> MemberProgress:
    return MemberProgress("m", stage, step=step, steps=100, seconds=seconds)


def test_time_left_counts_the_members_that_wait_for_a_place() -> None:
    # Two side by side, with 30 and 60 s to go; the others take (40 + 120) / 2 = 80 s each: 30 + 80 and 60 + 80.
    training = [member("training", 25, 10.0), member("training", 50, 60.0)]
    assert training_seconds_left(training) == 60
    assert training_seconds_left([*training, member("waiting", 0, 0.0)]) == 30 + 80
    assert training_seconds_left([*training, member("waiting", 0, 0.0), member("waiting", 0, 0.0)]) == 60 + 80
    assert training_seconds_left([member("embedding", 100, 40.0), member("waiting", 0, 0.0)]) == 40
    assert math.isnan(training_seconds_left([member("waiting", 0, 0.0)]))
    assert math.isnan(training_seconds_left([member("done", 100, 40.0)]))
    assert MemberProgress("f-0", "training", step=25, steps=100, seconds=10.0).seconds_left == 30
    assert math.isnan(MemberProgress("f-0", "waiting").seconds_left)


def test_loss_curves_are_the_lines_of_the_logs(tmp_path: Path) -> None:
    for name, losses in (("f-0", [3.0, 2.0, 1.0]), ("g-0", [4.0])):
        (tmp_path / "members" / name).mkdir(parents=True)
        lines = [line(step, loss=loss, epoch=step / 2) for step, loss in enumerate(losses, start=1)]
        (tmp_path / "members" / name / "log.jsonl").write_text("".join(lines) + '{"step": 9, "lo')
    curves = loss_curves(tmp_path, ["f-0", "g-0", "h-0"])
    rows = list(curves[["member", "epoch", "loss"]].itertuples(index=False, name=None))
    assert rows == [("f-0", 0.5, 3.0), ("f-0", 1.0, 2.0), ("f-0", 1.5, 1.0), ("g-0", 0.5, 4.0)]
    assert loss_curves(tmp_path, ["h-0"]).empty


def test_a_long_loss_curve_is_thinned_and_keeps_its_end(tmp_path: Path) -> None:
    (tmp_path / "members" / "m").mkdir(parents=True)
    (tmp_path / "members" / "m" / "log.jsonl").write_text("".join(line(step, epoch=step) for step in range(1001)))
    epochs = loss_curves(tmp_path, ["m"])["epoch"]
    assert 200 < len(epochs) <= POINTS
    assert epochs.iloc[-1] == 1000
    assert epochs.is_monotonic_increasing


def test_lines_that_are_no_numbers_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "members" / "m").mkdir(parents=True)
    (tmp_path / "members" / "m" / "log.jsonl").write_text('3\n["x"]\n{"loss": "<b>", "epoch": 1, "step": "x"}\n')
    assert loss_curves(tmp_path, ["m"]).empty
    assert member_progress(tmp_path, "m").step == 0
