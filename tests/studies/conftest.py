"""A study of the drawn set with two arms and two seeds, its members trained in this process: no starting of Python."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from clipmem_core.audit import member
from clipmem_core.audit import pipeline as audits_run
from clipmem_core.audit.status import member_progress
from clipmem_core.audit.store import Audit
from clipmem_core.cli import parse
from clipmem_core.config import AuditConfig
from clipmem_core.studies import plan
from clipmem_core.studies.arm import Arm, parse_setting
from clipmem_core.studies.plan import Study
from clipmem_core.studies.run import run_study
from clipmem_core.studies.study_folder import StudyFolder
from tests.audit.small import Silent, made_once

FLAGS = [
    *("--preset", "tiny", "--scenes-pairs", "220", "--epochs", "2"),
    *("--threads", "1", "--seeds", "2", "--seeds-per-split", "0"),
]
RANKED = ["text_mask=0.3 removal=clipmem:9", "removal=random:9"]


def study_of(*arms: Arm) -> Study:
    """A study with these arms."""
    return Study("?", lambda config, pairs: list(arms))


def config_of(study: str, *flags: str) -> AuditConfig:
    return parse(["study", study, "scenes", "--name", "x", *FLAGS, *flags]).config


class Trained:
    """What was trained, in order, and how to make it stop on the way."""

    def __init__(self) -> None:
        self.members: list[str] = []
        self.stop_after: int | None = None

    def run_members(self, audit: Audit, names: Sequence[str], *, again: bool = False, **how: object) -> None:
        if again:
            member.train_second_round(audit.folder, names)
            return
        for name in names:
            if member_progress(audit.folder, name).stage == "finished":
                continue
            if len(self.members) == self.stop_after:
                raise KeyboardInterrupt
            self.members.append(f"{audit.name}/{name}")
            member.run_members(audit.folder, [name])


def in_this_process(patch: pytest.MonkeyPatch) -> Trained:
    """Train members here, without a probe of their labels, and know the study of two arms."""
    seen = Trained()
    patch.setattr(audits_run, "run_members", seen.run_members)
    patch.setattr(member, "probe_rows", lambda _: np.array([], dtype=np.int64))
    patch.setitem(plan.STUDIES, "two", study_of(Arm("none"), Arm("whole", {"crop_scale": 1.0})))
    return seen


def numbers(study: StudyFolder) -> pd.DataFrame:
    """What a study found, without what depends on the machine's mood."""
    return study.arms.drop(columns=["seconds", "peak_mb"])


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trained]:
    threads = torch.get_num_threads()
    yield in_this_process(monkeypatch)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the drawn set and its stored pictures, with the finished study `whole` of two seeds, and with
    `ranked`, that has one seed and arms that a ranking takes pairs out of."""
    return made_once(tmp_path_factory, "studies", run_both)


def run_both(_: Path) -> None:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        in_this_process(patch)
        run_study("two", "scenes", config_of("two"), name="whole", screen=Silent())
        one, also = replace(config_of("two"), seeds=1), [parse_setting(text) for text in RANKED]
        run_study("two", "scenes", one, name="ranked", screen=Silent(), also=also)
    torch.set_num_threads(threads)


@pytest.fixture
def data(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own with the drawn set, but no study."""
    folder = tmp_path / "data"
    for name in ("sets", "cache"):
        shutil.copytree(drawn / name, folder / name)
    monkeypatch.setenv("CLIPMEM_DATA", str(folder))
    return folder


@pytest.fixture
def whole(drawn: Path) -> StudyFolder:
    """The finished study, not to be changed."""
    return StudyFolder(drawn / "studies" / "whole")


@pytest.fixture
def ranked(drawn: Path) -> StudyFolder:
    """The finished study with removals, not to be changed."""
    return StudyFolder(drawn / "studies" / "ranked")


@pytest.fixture
def start(data: Path, trained: Trained) -> Callable[..., StudyFolder]:
    """Run a study under a name in the test's own data folder."""

    def run_it(
        study: str,
        name: str,
        *flags: str,
        also: Sequence[str] = (),
        only: Sequence[str] = (),
        seeds_per_split: int = 0,
        **changes: object,
    ) -> StudyFolder:
        config, arms = replace(config_of(study, *flags), **changes), [parse_setting(text) for text in also]
        more = {"also": arms, "only": only, "seeds_per_split": seeds_per_split}
        return run_study(study, "scenes", config, name=name, screen=Silent(), **more)

    return run_it
