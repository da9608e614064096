import dataclasses
import json
import os
import time
from pathlib import Path

import pytest

from clipmem_core.audits import preflight
from clipmem_core.audits.jobs import Task, process_start
from clipmem_core.audits.preflight import Request, find_check, find_request, refuse_at_once, start_check
from clipmem_core.audits.store import write_json
from clipmem_core.commands import parse
from clipmem_core.config import AuditConfig, InputError, SourceOptions, as_dict, preset_config
from tests.audits.small import config_of
from tests.audits.test_jobs import until
from tests.conftest import Made

TINY = preset_config("tiny")


def leave_check(data: Path, request: Request, *lines: str, exit_code: int | None = 0, started: str = "1") -> None:
    folder = data / "jobs" / ".checks" / request.key
    folder.mkdir(parents=True)
    write_json(
        folder / "request.json", {"source": request.source, "name": request.name, "config": as_dict(request.config)}
    )
    write_json(folder / "job.json", {"pid": os.getpid(), "started": started, "command": ["x"]})
    (folder / "output.log").write_text("".join(lines))
    if exit_code is not None:
        (folder / "exit_code").write_text(f"{exit_code}\n")


def said(stage: str, **values: object) -> str:
    return json.dumps({"stage": stage, **values}) + "\n"


def test_a_request_is_what_the_command_line_makes_of_its_arguments() -> None:
    source = SourceOptions(csv_separator="\t", scenes_pairs=300)
    config = dataclasses.replace(TINY, source=source, epochs=3, protocol="paper", seeds=2, drop_lookalikes=True)
    request = Request("my pairs.csv", "mine", config)
    command = parse(["audit", *request.arguments])
    assert (command.source, command.name, command.config) == ("my pairs.csv", "mine", config)


def test_two_requests_have_one_key_only_if_they_are_the_same() -> None:
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
    (data / "jobs" / "a").mkdir(parents=True)
    job = {"pid": os.getpid(), "started": process_start(os.getpid()), "command": ["x"]}
    write_json(data / "jobs" / "a" / "job.json", job)
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
        '{"stage": "time", "seco',
    ]
    leave_check(data, request, *lines)
    check = find_check(request.key)
    assert check is not None
    assert check.found == {"exact": True, "pairs": 219}
    assert check.exact
    assert check.time is None
    assert check.pictures == (220, 220)
    assert check.error == ""
    assert find_request(request.key) == request


@pytest.mark.parametrize(
    ("lines", "exit_code", "error"),
    [
        ([said("error", text="there is no 'x'")], 2, "there is no 'x'"),
        (["MemoryError\n"], 1, "the check stopped with exit code 1: MemoryError"),
        (["KeyboardInterrupt\n"], -2, "the check was stopped: check again"),
        ([], -9, "the check stopped with exit code -9: it said nothing"),
        ([], None, "the check stopped with exit code None: it said nothing"),
    ],
)
def test_a_check_that_failed_says_why(data: Path, lines: list[str], exit_code: int | None, error: str) -> None:
    request = Request("x", "a", TINY)
    leave_check(data, request, *lines, exit_code=exit_code)
    check = find_check(request.key)
    assert check is not None
    assert check.error == error


def test_a_check_that_runs_has_no_error(data: Path) -> None:
    request = Request("x", "a", TINY)
    leave_check(data, request, exit_code=None, started=process_start(os.getpid()) or "")
    check = find_check(request.key)
    assert check is not None
    assert (check.error, check.found, check.exact) == ("", None, False)


@pytest.mark.parametrize("key", ["", "0" * 16, "../../etc", "0" * 17, "g" * 16])
def test_a_key_of_no_request_finds_nothing(data: Path, key: str) -> None:
    assert find_check(key) is None
    assert find_request(key) is None


@pytest.mark.parametrize("content", ["[]", "{}", '{"source": "x", "name": "y", "config": {}}'])
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
    leave_check(data, running, exit_code=None, started=process_start(os.getpid()) or "")
    long_ago = time.time() - preflight.KEPT_SECONDS - 1
    for request in (old, running):
        os.utime(data / "jobs" / ".checks" / request.key, (long_ago, long_ago))
    start_check(new)
    kept = {path.name for path in (data / "jobs" / ".checks").iterdir()}
    assert kept == {running.key, new.key}


def test_a_check_of_the_drawn_set_finds_what_its_audit_will_have(data: Path) -> None:
    source = SourceOptions(scenes_pairs=220)
    request = Request("scenes", "a", dataclasses.replace(TINY, source=source, epochs=2, threads=1))
    start_check(request)
    until(lambda: not find_check(request.key).job.running, seconds=120)
    check = find_check(request.key)
    assert check.error == ""
    assert check.found["groups"] == {"scored": 170, "external": 50}  # ⌊220/11⌋ = 20, at least 50
    assert check.found["captions"] == 1100
    # 85 of 170 pairs in batches of at most 64, twice: 4 steps.
    assert (check.time["members"], check.time["trained"], check.time["steps"]) == (4, 85, 4)
    assert all(seconds > 0 for seconds in check.time["seconds"].values())
    assert not (data / "audits").exists()


def test_the_default_request_uses_the_default_preset() -> None:
    assert Request("scenes", "a", AuditConfig()).arguments == ["scenes", "--name=a", "--preset=small"]
