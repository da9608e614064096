"""An audit whose folder is kept at a URL too: another machine, here another data folder, goes on with it."""

import json
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest

from clipmem_core.audits import mirror
from clipmem_core.audits.executor import Looks, Task
from clipmem_core.audits.mirror import Mirror, fetch_audit, mirrored
from clipmem_core.audits.run import run_audit
from clipmem_core.audits.store import Audit, write_json
from clipmem_core.commands import main
from clipmem_core.config import InputError
from tests.audits.small import Silent, config_of, here
from tests.made_audit import make_audit

URL = "memory://bucket/audits"
FLAGS = shlex.split(
    "--preset tiny --scenes-pairs 210 --captions 1 --epochs 1 --batch-size 32 --folds 2 --members 2 --rounds 1"
)


@pytest.fixture
def bucket() -> Iterator[Any]:
    memory = fsspec.filesystem("memory")
    yield memory
    if memory.exists("/bucket"):
        memory.rm("/bucket", recursive=True)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Goes to a machine of a name: its data folder becomes the one in use."""

    def go_to(name: str) -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path / name))
        return tmp_path / name

    return go_to


def run(executor: Any, url: str = URL) -> Audit:
    return run_audit("scenes", config_of(FLAGS), name="kept", screen=Silent(), executor=executor, mirror=url)


def lost_after_one(tasks: Sequence[Task]) -> Looks:
    """An executor whose machine is lost when a member is done."""
    for task in here(tasks):
        yield task
        raise KeyboardInterrupt


def written(folder: Path, url: str = URL) -> Mirror:
    """Make an audit's folder of two files whose copy is kept."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "scores.parquet").write_bytes(b"scores")
    found = Mirror(Audit(folder), url)
    found.take(lambda line: None)
    return found


def age(bucket: Any, seconds: float) -> None:
    """Let the last sign of life of who works on the copy be so long ago."""
    path = "/bucket/audits/kept/.mirror.json"
    claim = json.loads(bucket.cat_file(path))
    bucket.pipe_file(path, json.dumps(claim | {"heard": time.time() - seconds}).encode())


def test_another_machine_goes_on_where_the_first_one_was_lost(machine: Any, bucket: Any) -> None:
    machine("never lost")
    whole = run(here, url="")
    first = machine("first")
    with pytest.raises(KeyboardInterrupt):
        run(lost_after_one)
    age(bucket, 61)
    (first / "sets").rename(first / "out of reach")
    second = machine("second")
    trained = list[str]()

    def rest(tasks: Sequence[Task]) -> Looks:
        for task in here(tasks):
            trained.extend(folder.name for folder in task.folders)
            yield task

    done = run(rest)
    assert trained == [whole.record.members[1]]
    assert done.record.pictures.is_relative_to(second)
    assert str(first) in done.record.root
    pd.testing.assert_frame_equal(done.scores, whole.scores)
    for name in [*done.files, "manifest.json"]:
        assert bucket.cat_file(f"/bucket/audits/kept/{name}") == (done.folder / name).read_bytes()
    (first / "out of reach").rename(first / "sets")
    machine("first")  # which has the audit as it was when it was lost
    again = Silent()
    run_audit("scenes", config_of(FLAGS), name="kept", screen=again, executor=here, mirror=URL)
    assert again.lines[-1] == "it is finished: nothing to do"


def test_an_audit_is_fetched_to_look_at_it_and_is_then_what_it_is_there(machine: Any, bucket: Any) -> None:
    first = machine("first")
    audit = make_audit(first, "kept")
    with mirrored(audit, URL, say=print):
        pass
    files, scores = audit.files, audit.scores
    (first / "sets").rename(first / "out of reach")
    machine("second")
    assert main(["fetch", f"{URL}/kept"]) == 0
    found = Audit.open("kept")
    assert found.finished
    assert found.files == files
    pd.testing.assert_frame_equal(found.scores, scores)
    bucket.pipe_file("/bucket/audits/kept/verdict.json", b"{}")
    left = found.folder.with_name(".kept.fetched")  # by a fetch that was killed, of a file that is gone there since
    left.mkdir()
    (left / "manifest.old").touch()
    lines = list[str]()
    assert fetch_audit(f"{URL}/kept", say=lines.append).folder == found.folder
    assert lines[-1].startswith(f"note: its pictures are shown once they are in {found.record.pictures} (")
    assert (found.folder / "verdict.json").read_bytes() == b"{}"
    assert not (found.folder / "manifest.old").exists()


def test_files_are_copied_in_the_order_they_changed_in_and_deletions_come_first(
    tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = written(tmp_path / "kept")
    kept.push()
    for name in ("z", "manifest.json", "a"):
        (kept.audit.folder / name).write_text(name)
        time.sleep(0.01)
    (kept.audit.folder / "scores.parquet").unlink()
    (kept.audit.folder / ".manifest.json.123").write_text("being written")
    done = list[str]()
    for call in ("put_file", "rm_file"):
        real = getattr(kept.system, call)
        monkeypatch.setattr(kept.system, call, lambda *given, real=real: (done.append(given[-1][-8:]), real(*given)))
    kept.push()
    assert [name.rpartition("/")[2] for name in done] == [".parquet", "z", "est.json", "a"]
    done.clear()
    kept.push()
    assert done == []


def test_what_could_not_be_copied_is_copied_once_it_can_be(
    tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "SECONDS_BETWEEN", 0.01)
    kept, lines = written(tmp_path / "kept"), list[str]()
    reached, put = [False], type(kept.system).put_file

    def failing(*given: Any) -> None:
        if not reached[0]:
            raise ConnectionError("no route")
        put(*given)

    monkeypatch.setattr(type(kept.system), "put_file", failing)
    with mirrored(kept.audit, URL, say=lines.append):
        while not lines:
            time.sleep(0.01)
        reached[0] = True
    assert lines[0] == "note: memory://bucket/audits/kept cannot be reached: no route; trying again"
    assert bucket.cat_file("/bucket/audits/kept/scores.parquet") == b"scores"


def test_two_machines_do_not_work_on_one_audit(tmp_path: Path, bucket: Any) -> None:
    first = written(tmp_path / "first" / "kept")
    first.push()
    with pytest.raises(InputError, match=r"'kept' is being run by another process \(process \d+ on .*\), says memory"):
        Mirror(Audit(tmp_path / "second" / "kept"), URL).take(print)
    age(bucket, 61)
    second = Mirror(Audit(tmp_path / "second" / "kept"), URL)
    second.take(print)
    assert (tmp_path / "second" / "kept" / "scores.parquet").read_bytes() == b"scores"
    with pytest.raises(InputError, match="'kept' was taken over at memory://bucket/audits/kept by process"):
        first.push()
    (second.audit.folder / "scores.parquet").write_bytes(b"new")
    second.leave()
    first.take(print)  # it was left: no minute to wait
    assert (first.audit.folder / "scores.parquet").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fetch", f"{URL}/kept"], "there is no audit at memory://bucket/audits/kept"),
        (["fetch", "nosuch://bucket/kept"], "nosuch://bucket/kept cannot be reached: Protocol not known"),
        (["audit", "scenes", "--name", "kept", "--mirror", "nosuch://b"], "nosuch://b/kept cannot be reached"),
    ],
)
def test_what_is_not_there_is_one_line_and_leaves_nothing(
    machine: Any, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    here = machine("first")
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not list(here.glob("audits/[!.]*"))


def test_of_an_audit_that_could_not_begin_nothing_stays(machine: Any, bucket: Any) -> None:
    here = machine("first")
    few = config_of([*FLAGS, "--scenes-pairs", "100"])
    with pytest.raises(InputError, match="at least 200 usable pairs, found 100"):
        run_audit("scenes", few, name="kept", screen=Silent(), mirror=URL)
    assert not bucket.find("/bucket")
    assert not [path for path in here.glob("audits/.kept*") if path.suffix == ".mirrored"]


def test_an_audit_that_is_no_copy_is_not_overwritten(machine: Any, tmp_path: Path, bucket: Any) -> None:
    written(tmp_path / "elsewhere" / "kept").leave()
    own = make_audit(machine("first"), "kept")
    with pytest.raises(InputError, match="'kept' is here and at memory.*kept, and one is no copy of the other"):
        fetch_audit(f"{URL}/kept", say=print)
    with pytest.raises(InputError, match="one is no copy of the other"):
        Mirror(own, URL).take(print)
    assert own.finished
    write_json(Mirror(own, URL).note, {"url": f"{URL}/kept", "folder": Mirror(own, URL).claim().folder, "files": {}})
    with pytest.raises(InputError, match="'kept' is run from this folder, and .*kept is a copy of it"):
        fetch_audit(f"{URL}/kept", say=print)
