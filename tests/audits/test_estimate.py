import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmem_core.audits import estimate, progress
from clipmem_core.audits.estimate import PictureLines, main, member_seconds
from clipmem_core.audits.preflight import Request
from clipmem_core.audits.prepare import draw_membership, load_data_set
from clipmem_core.audits.progress import audit_seconds
from clipmem_core.audits.settings import resolve
from clipmem_core.audits.store import write_json
from clipmem_core.audits.throughput import Pace
from clipmem_core.config import AuditConfig, SourceOptions, as_dict, preset_config
from clipmem_core.scores.membership import Membership

SMALL = dataclasses.replace(preset_config("tiny"), source=SourceOptions(scenes_pairs=220), threads=1, epochs=2)
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pace is given instead of measured."""
    pace = Pace(warm_up=0, waited=0, step=0.5, picture=0.001, caption=0.01, busy=1.5)
    monkeypatch.setattr(estimate, "measure_pace", lambda *_: (pace, 3.0))


def checked(tmp_path: Path, request: Request, capsys: Captured) -> tuple[int, list[dict[str, Any]]]:
    path = tmp_path / "request.json"
    write_json(path, {"source": request.source, "name": request.name, "config": as_dict(request.config)})
    code = main([str(path)])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_time_adds_up_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "side_by_side", lambda config: 2)
    config = AuditConfig(members=5, epochs=10, batch_size=100, views=4)
    pace = Pace(warm_up=9.0, waited=8.0, step=0.5, picture=0.001, caption=0.002, busy=7.0)
    trained = np.zeros((5, 1000), dtype=bool)
    trained[:, :450] = True
    membership = Membership(np.full(1000, "scored"), tuple("abcde"), trained)
    member = member_seconds(pace, config, membership, captions=3000)
    # Five members two at a time are three turns; 450 pairs are five batches.
    assert audit_seconds(member, config, starting=3.0, pairs=1000) == pytest.approx(
        {
            "starting": 9.0,
            "training": 3 * 10 * 5 * 0.5,
            "embedding": 3 * (1000 * 4 * 0.001 + 3000 * 0.002),
            "scoring": 1000 * 5 * 2e-5,
        }
    )


def test_a_check_finds_what_the_audit_will_have(data: Path, tmp_path: Path, measured: None, capsys: Captured) -> None:
    code, lines = checked(tmp_path, Request("scenes", "a", SMALL), capsys)
    stages = [line["stage"] for line in lines if line["stage"] != "pictures"]
    assert (code, stages) == (0, ["found", "time", "found", "time"])
    found, time = lines[-2:]
    data_set = load_data_set("scenes", resolve(SMALL))
    membership = draw_membership(data_set.clusters, resolve(SMALL))
    assert found["pairs"] == len(data_set.pairs) == 220
    assert found["lookalikes"] == data_set.lookalikes
    assert found["groups"] == {"scored": 170, "external": int((membership.group == "external").sum())}
    assert found["exact"]
    assert (time["steps"], time["step"], time["busy"]) == (4, 0.5, 1.5)


def test_pictures_that_were_opened_already_cost_nothing_at_the_end(
    data: Path, tmp_path: Path, measured: None, capsys: Captured
) -> None:
    _, lines = checked(tmp_path, Request("scenes", "a", SMALL), capsys)
    first, last = (line["seconds"]["preparing"] for line in lines if line["stage"] == "time")
    assert last < first


def test_reasons_come_commonest_first_and_look_alikes_are_one(
    data: Path, tmp_path: Path, measured: None, capsys: Captured
) -> None:
    config = dataclasses.replace(SMALL, source=SourceOptions(scenes_pairs=500), drop_lookalikes=True)
    _, lines = checked(tmp_path, Request("scenes", "a", config), capsys)
    found = [line for line in lines if line["stage"] == "found"][-1]
    assert found["quarantined"] >= 1
    assert [reason["reason"] for reason in found["reasons"]] == ["look-alike of another pair"]
    assert found["reasons"][0]["rows"] == found["quarantined"] == 500 - found["pairs"]
    assert found["reasons"][0]["example"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("nowhere.csv", "a", SMALL), "there is no 'nowhere.csv': give a CSV"),
        (Request("scenes", "a", dataclasses.replace(SMALL, source=SourceOptions(scenes_pairs=20))), "at least 200"),
        (Request("scenes", "a", dataclasses.replace(SMALL, folds=300)), "folds must be at most 170"),
        (
            Request("scenes", "a", dataclasses.replace(SMALL, plant_miscaptions=500)),
            "plant_miscaptions must be at most",
        ),
        (Request("scenes", "a", dataclasses.replace(SMALL, epochs=0)), "--epochs must be at least 1"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_measured(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, request_: Request, message: str
) -> None:
    monkeypatch.setattr(estimate, "measure_pace", lambda *_: pytest.fail("it was measured"))
    code, lines = checked(tmp_path, request_, capsys)
    assert code == 2
    assert lines[-1]["stage"] == "error"
    assert message in lines[-1]["text"]
    assert "\n" not in lines[-1]["text"]


def test_a_set_without_a_usable_picture_says_why(data: Path, tmp_path: Path, capsys: Captured) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("filepath,title\n" + "".join(f"gone{row}.png,a caption\n" for row in range(3)))
    code, lines = checked(tmp_path, Request(str(table), "a", preset_config("tiny")), capsys)
    assert code == 2
    assert "nothing is left to audit of 3 rows" in lines[-1]["text"]
    assert "no such picture file (3 rows)" in lines[-1]["text"]


def test_pictures_are_told_now_and_then_and_at_the_end(capsys: Captured) -> None:
    lines = PictureLines()
    for done in range(1, 1001):
        lines(done, 1000)
    printed = [json.loads(line)["done"] for line in capsys.readouterr().out.splitlines()]
    assert printed[0] == 1
    assert printed[-1] == 1000
    assert len(printed) < 100


def test_real_steps_are_measured_side_by_side_and_a_model_that_cannot_be_built_is_told(
    data: Path, tmp_path: Path, capsys: Captured
) -> None:
    config = dataclasses.replace(SMALL, pretrained="nosuch.pt")
    code, lines = checked(tmp_path, Request("scenes", "a", config), capsys)
    assert code == 2
    assert "nosuch.pt" in lines[-1]["text"]
    streamed = dataclasses.replace(SMALL, cache_gb=1e-6)
    code, lines = checked(tmp_path, Request("scenes", "a", streamed), capsys)
    assert code == 0
    assert lines[-1]["step"] > 0
    assert lines[-1]["busy"] >= 1
