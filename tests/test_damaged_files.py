"""A file of ours, damaged in any way: every command and page loader does its work or says one line, never a traceback.

One small audit and one made-up study are copied by hard links for each damage; nothing outside the folder may change.
"""

import io
import itertools
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from clipmem_core.audits import run as audit_run
from clipmem_core.audits.jobs import audit_task
from clipmem_core.audits.run import run_audit
from clipmem_core.audits.status import list_states
from clipmem_core.audits.store import open_audit, read_utility
from clipmem_core.commands import main
from clipmem_core.config import InputError
from clipmem_core.dashboard.plain import read_noise
from clipmem_core.review.overview import load_overview
from clipmem_core.studies.plan import read_own, resume_arguments
from clipmem_core.studies.store import open_study
from tests.audits.small import Silent, config_of
from tests.made_arms import make_arms

FLAGS = [
    *("--preset", "tiny", "--scenes-pairs", "200", "--epochs", "1", "--members", "2", "--batch-size", "32"),
    *("--plant-miscaptions", "4", "--threads", "1"),
]
MISSING = object()
DAMAGES = [None, -7, 1e308, 10**400, "no such thing", "../../outside", [], {}, ["a"], True, MISSING]
LENGTHS = {True: (0.0, 0.999), False: (0.4,)}  # of an audit that is finished, and of one that is not


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder with a finished audit `a` and a made-up study `s`."""
    data = tmp_path_factory.mktemp("damaged") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(data))
        run_audit("scenes", config_of(FLAGS), name="a", screen=Silent())
        study = make_arms(data, "combined", name="s", seeds=2)
        study.write_asked(study.asked | {"machine": {"processor": "", "cores": 1}})
        arms = [{"name": "own", "setting": "text_mask=0.1", "removed": ["a"]}]
        (study.folder / "own.json").write_text(json.dumps({"arms": arms}))
        job = {"pid": 1, "started": "0", "arguments": ["true"]}
        (data / "jobs" / "a").mkdir(parents=True)
        (data / "jobs/a/job.json").write_text(json.dumps(job))
        patch.setattr(audit_run, "local_processes", _trains_nothing)
        yield data


def _trains_nothing(*_: object, **__: object) -> Iterator[None]:
    """What is broken of a member is found before it would be trained anew, which is not tried here."""
    yield None


@pytest.fixture
def copy(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Return a function that lays the data folder out anew, at the same place."""
    data = tmp_path / "data"
    monkeypatch.setenv("CLIPMEM_DATA", str(data))

    def lay_out() -> Path:
        shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(whole, data, copy_function=os.link)
        return data

    return lay_out


def commands(data: Path) -> list[Callable[[], Any]]:
    """What is done with a damaged audit."""
    return [
        lambda: main(["audit", "scenes", *FLAGS, "--name", "a"]),
        lambda: main(["export", "a", "--format", "csv", "--out", str(data / "out.csv"), "--overwrite"]),
        lambda: main(["units", "a", "--members", "r0-f0", "--sample", "2"]),
        lambda: main(["results", "a", str(data / "out.csv")]),
        lambda: (load_overview(open_audit("a")), read_noise(open_audit("a")), list_states()),
    ]


def study_commands(data: Path) -> list[Callable[[], Any]]:
    """What is done with a damaged study."""
    return [
        lambda: main(["results", "s", str(data / "out.csv"), "--study"]),
        lambda: (resume_arguments(open_study("s")), open_study("s").dataset_fingerprint),
        lambda: read_own(open_study("s")),
    ]


def check(action: Callable[[], Any], said: str) -> None:
    """Run a command or a loader: it ends well or with one line."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = action()
    except InputError as error:
        code, lines = 2, [str(error)]
    else:
        lines = err.getvalue().splitlines()
    if isinstance(code, int):
        assert code in (0, 2), (said, code, lines)
        assert code == 0 or (len(lines) == 1 and len(lines[0]) < 800), (said, lines)
    assert "Traceback" not in err.getvalue(), (said, err.getvalue())


def places(values: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in JSON: the whole, each key, the first item of each list."""
    yield at
    inner = (
        values.items() if isinstance(values, dict) else list(enumerate(values))[:1] if isinstance(values, list) else ()
    )
    for key, value in inner:
        yield from places(value, (*at, key))


def damaged(values: Any, place: tuple[Any, ...], damage: Any) -> Any:
    if not place:
        return None if damage is MISSING else damage
    changed = json.loads(json.dumps(values))
    *before, last = place
    inner = changed
    for key in before:
        inner = inner[key]
    if damage is MISSING:
        del inner[last]
    else:
        inner[last] = damage
    return changed


def replace(path: Path, content: bytes) -> None:
    """Write a file anew: what it was linked to stays as it is."""
    path.unlink()
    path.write_bytes(content)


def outside(data: Path) -> dict[str, tuple[int, int]]:
    """What lies beside the data folder."""
    kept = data.parent / "outside"
    kept.mkdir(exist_ok=True)
    (kept / "config.json").write_text("mine")
    return {str(path): path.stat().st_size for path in data.parent.rglob("*") if data not in path.parents}


READERS: dict[str, Callable[[], Any]] = {
    "audits/a/config.json": lambda: open_audit("a").record,
    "audits/a/members/r0-f0/config.json": lambda: open_audit("a").member_record("r0-f0"),
    "audits/a/members/r0-f0/utility.json": lambda: read_utility(open_audit("a").member("r0-f0")),
    "audits/a/manifest.json": lambda: open_audit("a").files,
    "audits/a/verdict.json": lambda: open_audit("a").verdict,
    "studies/s/study.json": lambda: open_study("s").asked,
    "studies/s/own.json": lambda: open_study("s").own,
    "jobs/a/job.json": lambda: audit_task("a").find(),
}


@pytest.mark.parametrize("name", READERS)
def test_a_value_of_the_wrong_kind_is_told_by_its_file(name: str, copy: Callable[[], Path]) -> None:
    data = copy()
    values = json.loads((data / name).read_text())
    for place, damage in itertools.product(places(values), DAMAGES):
        replace(data / name, json.dumps(damaged(values, place, damage)).encode())
        said = refusal(READERS[name])
        assert not said or (name in said and "\n" not in said), (place, damage, said)


def refusal(read: Callable[[], Any]) -> str:
    """Return what a reader says of a file that it refuses; empty where it reads it."""
    try:
        read()
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", READERS)
def test_a_command_says_in_one_line_which_value_is_wrong(name: str, copy: Callable[[], Path]) -> None:
    data, rng = copy(), random.Random(name)
    values = json.loads((data / name).read_text())
    before = outside(data)
    for place in rng.sample(found := list(places(values)), min(6, len(found))):
        replace(data / name, json.dumps(damaged(values, place, rng.choice(DAMAGES))).encode())
        for action in (study_commands if name.startswith("studies") else commands)(data):
            check(action, f"{name} {place}")
            data = copy() if not (data / name).is_file() else data
    assert outside(data) == before


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b'{"files": NaN}', b"\xff\xfe", b'{"a": "\\ud800"}'])
def test_a_file_that_is_no_json_is_one_line(content: bytes, copy: Callable[[], Path]) -> None:
    data = copy()
    for name in ("config.json", "manifest.json", "verdict.json", "members/r0-f0/config.json"):
        replace(data / "audits/a" / name, content)
        for number, action in reversed(list(enumerate(commands(data)))):
            check(action, f"{name} {content[:20]!r} action {number}")
        data = copy()


@pytest.mark.parametrize("finished", [True, False])
def test_a_file_cut_short_is_one_line(finished: bool, copy: Callable[[], Path]) -> None:
    data = copy()
    names = [path.relative_to(data) for path in sorted((data / "audits/a").rglob("*")) if path.is_file()]
    turn = itertools.cycle(range(len(commands(data))))
    for name, length in itertools.product(names, LENGTHS[finished]):
        if not finished:
            (data / "audits/a/manifest.json").unlink(missing_ok=True)
        if not (data / name).is_file():
            continue
        content = (data / name).read_bytes()
        replace(data / name, content[: int(len(content) * length)])
        for number in sorted({0, next(turn)}, reverse=True):  # running it again may make it whole
            check(commands(data)[number], f"{name} cut to {length} action {number}")
        data = copy()
