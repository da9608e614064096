"""Members on machines that do not share the data folder: here each has one of its own, and a folder is the bucket."""

import dataclasses
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from clipmem_core.audits import mirror
from clipmem_core.audits.cluster import UNSEEN, run_here, versions
from clipmem_core.audits.executor import Copy, Looks, Task
from clipmem_core.audits.guests import run_visiting, shares
from clipmem_core.audits.mirror import GUEST, Mirror, mirrored
from clipmem_core.audits.run import run_audit
from clipmem_core.audits.store import write_prepared
from clipmem_core.commands import parse
from clipmem_core.config import DATA_VARIABLE, InputError
from tests.audits.small import Silent, config_of, here
from tests.audits.test_resume import same
from tests.made_audit import make_audit
from tests.made_features import make_features

SCRATCH = shlex.split(
    "--preset tiny --scenes-pairs 210 --epochs 2 --batch-size 32 --folds 2 --members 2 --threads 1 --rounds 1"
)
# Runs in every process before anything else: members save at every step, and those of a machine that is lost end as by
# kill -9 in place of a save.
STARTUP = """
import os, signal, sys
from clipmem_core.training import loop

saved = []

def end(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("resume.pt"):
        saved.append(arguments)
        if "/lost/" in str(arguments[1]) and len(saved) == 4:
            os.kill(os.getpid(), signal.SIGKILL)

loop.SECONDS_BETWEEN_SAVES = loop.TRAINED_TO_SAVED = 0
sys.addaudithook(end)
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Goes to a machine of a name: its data folder becomes the one in use."""

    def go_to(name: str) -> Path:
        monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / name))
        return tmp_path / name

    return go_to


def test_members_of_machines_that_share_nothing_and_are_lost_are_those_of_one_machine(
    machine: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied, began = tmp_path / "bucket" / "a", list[bytes]()

    def cluster(tasks: Sequence[Task]) -> Looks:
        """Run each member on a machine that is lost, and again: one on a third, one on that which asks."""
        for task, again in zip(tasks, ("third", "asked"), strict=True):
            task, own = dataclasses.replace(task, data=tmp_path / "asked"), task.folders[0]
            machine("lost")
            with pytest.raises(RuntimeError, match=rf"member {own.name} was ended by signal 9; .* \(on "):
                run_here(task, versions())
            machine("asked")
            yield None  # what it left is looked at
            assert (copied / "members" / own.name / "resume.pt").is_file()
            began.append((own / "log.jsonl").read_bytes().splitlines()[0])  # with seconds that no other run has
            machine(again)
            assert run_here(task, versions()) is None
            machine("asked")
            yield task

    (tmp_path / "sitecustomize.py").write_text(STARTUP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(mirror, "SECONDS_BETWEEN", 0.1)
    found = []
    for name, executor, url in (("alone", here, ""), ("asked", cluster, f"file://{tmp_path}/bucket")):
        machine(name)
        how = {"name": "a", "screen": Silent(), "executor": executor, "mirror": url}
        found.append(run_audit("scenes", config_of(SCRATCH), **how))
    whole, done = found
    same(done, whole)
    assert [(done.member(name) / "log.jsonl").read_bytes().splitlines()[0] for name in done.record.members] == began
    assert not list(copied.rglob(GUEST))
    for name in done.files:
        assert (copied / name).read_bytes() == (done.folder / name).read_bytes()
    (fetched,) = [path.read_text() for path in (tmp_path / "lost").rglob(".fetched.jsonl")]
    assert [fetched.count(name) for name in ("pixels.npy", "cache/tokens", "pairs.parquet")] == [1, 1, 1]


def test_features_of_another_tool_are_copied_to_where_guests_read_them(
    machine: Callable[[str], Path], tmp_path: Path
) -> None:
    source, data = str(make_features(tmp_path / "features", pairs=300, dim=16)), machine("asked")
    config = parse(["audit", source, *shlex.split("--folds 2 --members 2 --epochs 1 --threads 1")]).config
    how = {"name": "a", "screen": Silent(), "executor": here, "mirror": f"file://{tmp_path}/bucket"}
    stored = data / run_audit(source, config, **how).record.pixels
    copied = tmp_path / "bucket" / "a" / ".data" / stored.relative_to(data)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == {
        path.name: path.read_bytes() for path in stored.iterdir()
    }
    assert (copied / "image.npy").is_file()


@pytest.fixture
def kept(machine: Callable[[str], Path], tmp_path: Path) -> Iterator[Mirror]:
    """An audit of a machine that asks, with logs of two members, kept at a URL."""
    audit = make_audit(machine("asked"), "a")
    for name in audit.record.members[:2]:
        audit.member(name).mkdir(parents=True)
        for file in ("log.jsonl", "text.npy"):
            (audit.member(name) / file).write_text("old")
    with mirrored(audit, f"file://{tmp_path}/bucket", say=print) as found:
        found.push()
        yield found


def test_a_machine_shares_a_folder_that_is_in_its_own_data_folder_and_the_one_that_is_copied(
    kept: Mirror, machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kept.known is not None
    folder, data = kept.audit.member(kept.audit.record.members[0]), kept.audit.folder.parents[1]
    task = Task((folder,), ("python",), (folder.name,), 1, data=data, copy=Copy(kept.url, kept.known.folder))
    assert shares(task)
    monkeypatch.delenv(DATA_VARIABLE)
    assert shares(task)
    assert not shares(dataclasses.replace(task, copy=Copy(kept.url, "of another machine, under the same path")))
    machine("other")
    assert not shares(task)
    assert shares(dataclasses.replace(task, copy=None))
    assert run_here(dataclasses.replace(task, what="shard"), versions()) == UNSEEN
    gone = dataclasses.replace(task, copy=Copy(f"{kept.url}/gone", ""))
    assert str(run_here(gone, versions())).startswith(f"there is no audit at {kept.url}/gone (on ")


def test_what_guests_of_a_run_that_was_killed_have_left_is_brought_when_it_goes_on(
    kept: Mirror, tmp_path: Path
) -> None:
    first, second = (kept.audit.member(name) for name in kept.audit.record.members[:2])
    there = tmp_path / "bucket" / "a" / "members" / first.name
    (there / GUEST).touch()
    (there / "text.npy").unlink()
    for folder in (there, there.with_name(second.name)):
        (folder / "log.jsonl").write_text("longer")
    kept.take(print)
    assert [(folder / "log.jsonl").read_text() for folder in (first, second)] == ["longer", "old"]
    assert [(folder / "text.npy").exists() for folder in (first, second)] == [False, True]
    assert not (there / GUEST).exists()


def test_what_a_guest_lacks_is_a_line(kept: Mirror, machine: Callable[[str], Path]) -> None:
    (kept.audit.folder.parents[1] / "sets").rename(machine("other"))
    write_prepared(kept.audit.folder, cache_rows=np.arange(0), clusters=np.arange(0))
    with pytest.raises(InputError, match=r"there is no .* here, and the small pictures are not stored: give more --ca"):
        run_visiting(kept.audit.folder, [])
