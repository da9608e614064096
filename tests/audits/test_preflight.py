import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from clipmem_core.audits import preflight
from clipmem_core.audits.jobs import Task
from clipmem_core.audits.preflight import PictureLines, Request, find_check, find_request, refuse_at_once, start_check
from clipmem_core.audits.prepare import draw_membership, load_data_set
from clipmem_core.audits.settings import resolve
from clipmem_core.audits.store import write_json
from clipmem_core.commands import main, parse
from clipmem_core.config import AuditConfig, InputError, SourceOptions, as_dict, data_folder, preset_config
from tests.audits.small import config_of
from tests.audits.test_jobs import until
from tests.conftest import Made
from tests.made_jobs import leave_job

TINY = preset_config("tiny")
SMALL = dataclasses.replace(TINY, source=SourceOptions(scenes_pairs=220), threads=1, epochs=2)
Captured = pytest.CaptureFixture[str]


def leave_request(data: Path, request: Request) -> Path:
    path = data / "jobs" / ".checks" / request.key / "request.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"source": request.source, "name": request.name, "config": as_dict(request.config)})
    return path


def leave_check(data: Path, request: Request, *lines: str, exit_code: int | None = 0, running: bool = False) -> None:
    folder = data / "jobs" / ".checks" / request.key
    leave_job(folder, said="".join(lines), exit_code=exit_code, running=running)
    leave_request(data, request)


def checked(request: Request, capsys: Captured) -> tuple[int, list[dict[str, Any]], str]:
    """Check a request in this process: exit code, what is printed for the page, and the line of an error."""
    code = main(["check", str(leave_request(data_folder(), request))])
    printed = capsys.readouterr()
    return code, [json.loads(line) for line in printed.out.splitlines()], printed.err


def said(stage: str, **values: object) -> str:
    return json.dumps({"stage": stage, **values}) + "\n"


def test_a_request_is_what_the_command_line_makes_of_its_arguments() -> None:
    source = SourceOptions(csv_separator="\t", scenes_pairs=300)
    config = dataclasses.replace(TINY, source=source, epochs=3, protocol="paper", seeds=2, drop_lookalikes=True)
    request = Request("my pairs.csv", "mine", config)
    command = parse(["audit", *request.arguments])
    assert (command.source, command.name, command.config) == ("my pairs.csv", "mine", config)
    assert Request("scenes", "a", AuditConfig()).arguments == ["scenes", "--name=a", "--preset=small"]
    request = Request("scenes", "a", TINY)
    assert request.key == Request("scenes", "a", preset_config("tiny")).key
    others = [
        Request("scene", "a", TINY),
        Request("scenes", "b", TINY),
        Request("scenes", "a", dataclasses.replace(TINY, lr=0.1)),
    ]
    assert request.key not in [other.key for other in others]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("scenes", "a/b", TINY), "name 'a/b' must be"),
        (Request("  ", "a", TINY), "no data set is given"),
        (Request("scenes", "a", dataclasses.replace(TINY, epochs=0)), "--epochs must be at least 1, not 0"),
        (Request("scenes", "a", dataclasses.replace(TINY, members=3)), "--members must be a multiple of --folds"),
        (Request("scenes", "a", dataclasses.replace(TINY, model="nope")), "model 'nope' is unknown"),
    ],
)
def test_what_is_wrong_at_first_sight_is_refused(data: Path, request_: Request, message: str) -> None:
    with pytest.raises(InputError, match=message):
        refuse_at_once(request_)


def test_a_name_is_refused_while_its_audit_waits_or_runs(data: Path) -> None:
    leave_job(data / "jobs" / "a", running=True)
    with pytest.raises(InputError, match="audit 'a' waits or runs already"):
        refuse_at_once(Request("scenes", "a", TINY))
    refuse_at_once(Request("scenes", "b", TINY))


def test_the_name_of_an_audit_with_another_config_is_refused(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(made.data))
    config = config_of(["--preset", "tiny", "--scenes-pairs", "400", "--epochs", "11"])
    with pytest.raises(InputError, match="audit 'ensemble' exists with another config: --epochs is 10 there and 11"):
        refuse_at_once(Request("scenes", "ensemble", config))
    refuse_at_once(Request("scenes", "ensemble", dataclasses.replace(config, epochs=10)))


def test_the_last_word_on_each_thing_counts(data: Path) -> None:
    request = Request("scenes", "a", TINY)
    lines = [
        "a library's warning\n",
        said("found", exact=False, pairs=220),
        said("pictures", done=1, total=220),
        said("pictures", done=220, total=220),
        said("found", exact=True, pairs=219),
        '{"stage": "found", "exa',
    ]
    leave_check(data, request, *lines)
    check = find_check(request.key)
    assert check is not None
    assert check.found == {"exact": True, "pairs": 219}
    assert check.exact
    assert check.pictures == (220, 220)
    assert check.error == ""
    assert find_request(request.key) == request
    request = Request("x", "a", TINY)
    leave_check(data, request, exit_code=None, running=True)
    check = find_check(request.key)
    assert check is not None
    assert (check.error, check.found, check.exact) == ("", None, False)


@pytest.mark.parametrize(
    ("lines", "exit_code", "error"),
    [
        (["error: there is no 'x'\n"], 2, "there is no 'x'"),
        (["MemoryError\n"], 1, "the check stopped with exit code 1: MemoryError"),
        (["interrupted\n"], 130, "the check was stopped: check again"),
        ([], None, "the check stopped with exit code None: it said nothing"),
    ],
)
def test_a_check_that_failed_says_why(data: Path, lines: list[str], exit_code: int | None, error: str) -> None:
    request = Request("x", "a", TINY)
    leave_check(data, request, *lines, exit_code=exit_code)
    check = find_check(request.key)
    assert check is not None
    assert check.error == error


@pytest.mark.parametrize("key", ["", "0" * 16, "../../etc", "0" * 17, "g" * 16])
def test_a_key_of_no_request_finds_nothing(data: Path, key: str) -> None:
    assert find_check(key) is None
    assert find_request(key) is None


@pytest.mark.parametrize("content", ["[]", "{}", '{"source": "x", "name": "y", "config": 5}'])
def test_a_request_that_is_none_is_named(data: Path, content: str) -> None:
    request = Request("x", "a", TINY)
    leave_check(data, request)
    (data / "jobs" / ".checks" / request.key / "request.json").write_text(content)
    with pytest.raises(InputError, match=r"request\.json.*: check the audit again"):
        find_request(request.key)


def test_old_checks_are_thrown_away_when_the_next_one_starts(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Task, "start", lambda task: None)
    old, running, new = (Request("x", name, TINY) for name in ("old", "running", "new"))
    leave_check(data, old)
    leave_check(data, running, exit_code=None, running=True)
    long_ago = time.time() - preflight.KEPT_SECONDS - 1
    for request in (old, running):
        os.utime(data / "jobs" / ".checks" / request.key, (long_ago, long_ago))
    start_check(new)
    kept = {path.name for path in (data / "jobs" / ".checks").iterdir()}
    assert kept == {running.key, new.key}


def test_a_check_of_the_drawn_set_finds_what_its_audit_will_have(data: Path) -> None:
    request = Request("scenes", "a", dataclasses.replace(SMALL, cache_gb=1e-6))  # pictures stream
    start_check(request)
    until(lambda: not find_check(request.key).job.running, seconds=300)
    check = find_check(request.key)
    assert check.error == ""
    assert check.found["groups"] == {"scored": 170, "external": 50}  # ⌊220/11⌋ = 20, at least 50
    assert check.found["captions"] == 1100
    assert not (data / "audits").exists()


def test_a_check_finds_what_the_audit_will_have(data: Path, capsys: Captured) -> None:
    code, lines, _ = checked(Request("scenes", "a", SMALL), capsys)
    stages = [line["stage"] for line in lines if line["stage"] != "pictures"]
    assert (code, stages) == (0, ["found", "found"])
    found = lines[-1]
    data_set = load_data_set("scenes", resolve(SMALL))
    membership = draw_membership(data_set.clusters, resolve(SMALL))
    assert found["pairs"] == len(data_set.pairs) == 220
    assert found["lookalikes"] == data_set.lookalikes
    assert found["groups"] == {"scored": 170, "external": int((membership.group == "external").sum())}
    assert found["exact"]


def test_reasons_come_commonest_first_and_look_alikes_are_one(data: Path, capsys: Captured) -> None:
    config = dataclasses.replace(SMALL, source=SourceOptions(scenes_pairs=500), drop_lookalikes=True)
    _, lines, _ = checked(Request("scenes", "a", config), capsys)
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
def test_what_is_wrong_is_one_line(data: Path, capsys: Captured, request_: Request, message: str) -> None:
    code, _, said = checked(request_, capsys)
    assert code == 2
    assert message in said
    assert said.count("\n") == 1


def test_a_set_without_a_usable_picture_says_why(data: Path, tmp_path: Path, capsys: Captured) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("filepath,title\n" + "".join(f"gone{row}.png,a caption\n" for row in range(3)))
    code, _, said = checked(Request(str(table), "a", TINY), capsys)
    assert code == 2
    assert "nothing is left to audit of 3 rows" in said
    assert "no such picture file (3 rows)" in said


def test_pictures_are_told_now_and_then_and_at_the_end(capsys: Captured) -> None:
    lines = PictureLines()
    for done in range(1, 1001):
        lines(done, 1000)
    printed = [json.loads(line)["done"] for line in capsys.readouterr().out.splitlines()]
    assert printed[0] == 1
    assert printed[-1] == 1000
    assert len(printed) < 100
