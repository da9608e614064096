"""Fixtures of all tests: small finished audits, made once, that many tests read and none may
change."""

import functools
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from open_clip import factory
from open_clip.tokenizer import SimpleTokenizer
from streamlit.components.v2 import manifest_scanner
from streamlit.components.v2.manifest_scanner import scan_component_manifests

from clipmem_core.auditing.folder.store import Audit, file_sha256
from clipmem_core.auditing.run import pipeline
from clipmem_core.auditing.run.pipeline import run_audit
from clipmem_core.cli import main
from clipmem_core.dataset import pictures, scenes
from clipmem_core.dataset.scenes import draw_scenes
from tests.audit.small import ENSEMBLE, LOCKED, PAPER, Silent, config_of, in_process, made_once
from tests.forked import Server

# A busy machine makes no test wrong: an example may take as long as it takes.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


class Threads(ThreadPoolExecutor):
    """Threads in place of a pool of processes."""

    def __init__(self, size: int, **_: Any) -> None:
        super().__init__(size)

    def schedule(self, function: Callable[..., Any], args: list[Any]) -> Future[Any]:
        return self.submit(function, *args)


@pytest.fixture(scope="session", autouse=True)
def _few_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Make tests fast: members train and pictures are decoded in the test's process; sets,
    tokenizer and Streamlit's list of components are cached; and no test waits for the disk.

    Processes have tests of their own: dataset/test_pixel_cache, audit/test_executor,
    audit/test_preflight, test_smoke.
    """

    def drawn_once(folder: Path, *, pairs: int, seed: int) -> None:
        name = f"drawn-{pairs}-{seed}"
        drawn = made_once(
            tmp_path_factory, name, lambda empty: draw_scenes(empty, pairs=pairs, seed=seed)
        )
        shutil.copytree(drawn, folder, dirs_exist_ok=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(scenes, "draw_scenes", drawn_once)
        patch.setattr(pipeline, "local_processes", in_process)
        patch.setattr(pictures, "ProcessPool", Threads)
        patch.setattr(factory, "SimpleTokenizer", functools.cache(SimpleTokenizer))
        patch.setattr(
            manifest_scanner, "scan_component_manifests", functools.cache(scan_component_manifests)
        )
        yield


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Starts commands in processes of their own."""
    server = Server(tmp_path_factory.mktemp("forks"))
    yield server
    server.close()


@dataclass(frozen=True)
class Made:
    """A data folder with an audit of the drawn set in each protocol; the ensemble grew from one
    repeat to two."""

    data: Path

    @property
    def paper(self) -> Audit:
        return Audit(self.data / "audits" / "paper")

    @property
    def ensemble(self) -> Audit:
        return Audit(self.data / "audits" / "ensemble")

    @property
    def before_growth(self) -> dict[str, str]:
        """The hash of each file that the ensemble's first members had left."""
        return json.loads((self.data / "before_growth.json").read_text())


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(made_once(tmp_path_factory, "made", train_both))


@pytest.fixture(scope="session")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with an audit of locked towers that was typed on a command line, and what it
    printed."""
    return made_once(tmp_path_factory, "typed", type_it)


def type_it(data: Path) -> None:
    errors = io.StringIO()
    with (
        (data / "printed.txt").open("w") as printed,
        redirect_stdout(printed),
        redirect_stderr(errors),
    ):
        code = main(["audit", "scenes", "--name", "scenes", *LOCKED])
    assert (code, errors.getvalue()) == (0, "")


def make_long(typed: Path, data: Path) -> None:
    """Audit pictures whose captions have two or three sentences; their features are computed."""
    shutil.copytree(typed / "cache", data / "cache")
    folder = data / "sets" / "long"
    scenes.draw_scenes(folder, pairs=330, seed=0)
    lines = []
    for line in (folder / "captions.jsonl").read_text().splitlines():
        record = json.loads(line)
        sentences = [f"{text[:1].upper()}{text[1:].rstrip('.')}." for text in record["captions"]]
        captions = [" ".join(sentences[:3]), "  ".join(sentences[3:])]
        lines.append(json.dumps({"image": record["image"], "captions": captions}) + "\n")
    (folder / "captions.jsonl").write_text("".join(lines))
    run_audit(
        str(folder / "captions.jsonl"),
        config_of([*LOCKED, "--members", "4", "--sentences", "on"]),
        name="long",
        screen=Silent(),
    )


@pytest.fixture(scope="session")
def long(typed: Path, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """An audit of long captions by sentence."""
    make = functools.partial(make_long, typed)
    return Audit(made_once(tmp_path_factory, "long", make) / "audits" / "long")


def train_both(data: Path) -> None:
    run_audit("scenes", config_of(PAPER), name="paper", screen=Silent())
    members = [*ENSEMBLE, "--members"]
    ensemble = run_audit("scenes", config_of([*members, "2"]), name="ensemble", screen=Silent())
    before = {
        str(path.relative_to(ensemble.folder)): file_sha256(path)
        for path in (ensemble.folder / "members").rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    (data / "before_growth.json").write_text(json.dumps(before))
    run_audit("scenes", config_of([*members, "4"]), name="ensemble", screen=Silent())


@pytest.fixture(params=["paper", "ensemble"])
def audit(made: Made, request: pytest.FixtureRequest) -> Audit:
    """The audit of either protocol."""
    return getattr(made, request.param)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder of the test's own."""
    folder = tmp_path / "data"
    monkeypatch.setenv("CLIPMEM_DATA", str(folder))
    return folder
