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

from clipmem_core.audits import results as audit_results
from clipmem_core.audits import run as audit_run
from clipmem_core.audits.run import run_audit
from clipmem_core.audits.states import list_states
from clipmem_core.audits.store import open_audit
from clipmem_core.commands import main
from clipmem_core.config import InputError
from clipmem_core.dashboard.numbers import read_noise
from clipmem_core.review.overview import load_overview
from clipmem_core.studies import results as study_results
from clipmem_core.studies.own import read_own
from clipmem_core.studies.store import open_study
from clipmem_core.studies.typed import resume_arguments
from tests.audits.small import Silent, config_of
from tests.made_arms import make_arms

FLAGS = [
    *("--preset", "tiny", "--scenes-pairs", "200", "--epochs", "1", "--members", "2", "--batch-size", "32"),
    *("--plant-miscaptions", "4", "--threads", "1"),
]
MISSING = object()
DAMAGES = [None, -7, 1e308, 10**400, "no such thing", "../../outside", [], {}, ["a"], True, MISSING]
LENGTHS = (0.0, 0.3, 0.9, 0.999)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder with a finished audit `a` and a made-up study `s`."""
    data = tmp_path_factory.mktemp("damaged") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(data))
        run_audit("scenes", config_of(FLAGS), name="a", screen=Silent())
        study = make_arms(data, "combined", name="s", seeds=2)
        study.write_asked(study.asked | {"machine": {"processor": "", "cores": 1}})
        arms = [{"name": "own", "setting": "text_mask=0.1", "epochs": {"epochs": 3}}]
        (study.folder / "own.json").write_text(json.dumps({"arms": arms}))
        patch.setattr(audit_run, "run_members", _trains_nothing)
        yield data


def _trains_nothing(*_: object, **__: object) -> None:
    """What is broken of a member is found before it would be trained anew, which is not tried here."""


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
        lambda: main(["units", "a", "--sample", "2"]),
        lambda: audit_results.main(["a", str(data / "out.csv")]),
        lambda: (load_overview(open_audit("a")), read_noise(open_audit("a")), list_states()),
    ]


def study_commands(data: Path) -> list[Callable[[], Any]]:
    """What is done with a damaged study."""
    return [
        lambda: study_results.main(["s", str(data / "out.csv")]),
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
        assert code == 0 or (len(lines) == 1 and len(lines[0]) < 700), (said, lines)
    assert "Traceback" not in err.getvalue(), (said, err.getvalue())


def places(values: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in JSON: the whole, each key, the first item of each list."""
    yield at
    inner = values.items() if isinstance(values, dict) else list(enumerate(values))[:1] if isinstance(values, list) else ()
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


@pytest.mark.parametrize(
    ("name", "every"),
    [
        ("audits/a/config.json", 1),
        ("audits/a/members/r0-f0/config.json", 1),
        ("audits/a/manifest.json", 1),
        ("audits/a/verdict.json", 1),
        ("audits/a/members/r0-f0/utility.json", 2),
        ("audits/a/.files.json", 2),
        ("studies/s/study.json", 1),
        ("studies/s/own.json", 1),
    ],
)
def test_a_value_of_the_wrong_kind_is_one_line(name: str, every: int, copy: Callable[[], Path]) -> None:
    data = copy()
    values, turn, rng = json.loads((data / name).read_text()), itertools.count(), random.Random(0)
    actions = (study_commands if name.startswith("studies") else commands)(data)
    before = outside(data)
    for place in places(values):
        for damage in rng.sample(DAMAGES, 3 if len(place) > 1 else 5)[::every]:
            number = next(turn) % len(actions)
            replace(data / name, json.dumps(damaged(values, place, damage)).encode())
            check(actions[number], f"{name} {place} {damage!r} action {number}")
            if number < 2:
                data = copy()
    assert outside(data) == before


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b'{"files": NaN}', b"\xff\xfe", b'{"a": "\\ud800"}'])
def test_a_file_that_is_no_json_is_one_line(content: bytes, copy: Callable[[], Path]) -> None:
    for name in ("config.json", "manifest.json", "verdict.json", "members/r0-f0/config.json"):
        data = copy()
        replace(data / "audits/a" / name, content)
        for number, action in enumerate(commands(data)):
            check(action, f"{name} {content[:20]!r} action {number}")


@pytest.mark.parametrize("finished", [True, False])
def test_a_file_cut_short_is_one_line(finished: bool, copy: Callable[[], Path]) -> None:
    data = copy()
    names = [path.relative_to(data) for path in sorted((data / "audits/a").rglob("*")) if path.is_file()]
    for name, length in itertools.product(names, LENGTHS):
        data = copy()
        if not finished:
            (data / "audits/a/manifest.json").unlink(missing_ok=True)
        if not (data / name).is_file():
            continue
        content = (data / name).read_bytes()
        replace(data / name, content[: int(len(content) * length)])
        for number, action in enumerate(commands(data)):
            check(action, f"{name} cut to {length} action {number}")
