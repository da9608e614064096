"""The lab of an audit with locked towers, and a study of two splits, both trained once."""

import functools
import shutil
from pathlib import Path

import pytest

from clipmem_core.auditing.folder.store import Audit, write_json
from clipmem_core.auditing.run.pipeline import Run
from clipmem_core.cli import parse_command
from clipmem_core.lab import mitigated, study
from clipmem_core.lab.experiment import Study
from clipmem_core.lab.setting import Setting, parse_setting
from clipmem_core.lab.study import Request, run_settings, run_study, train_members
from tests.audit.small import Silent, in_process, made_once

UNCHANGED = "unchanged"
NOISE = "text_noise-0.15"
REMOVED = "removal-clipmem-9"
FLAGS = ["--preset", "tiny", "--scenes-pairs", "220", "--epochs", "2", "--threads", "1"]


def train(audit: Audit, setting: Setting, *, members: int = 0) -> str:
    """Train a setting in this process, its first members or all, and return its name."""
    name = mitigated.begin(audit, setting).name
    pairs = mitigated.member_pairs(audit.record.members)
    firsts = [first for first, _ in pairs[: members // 2 or len(pairs)]]
    mitigated.ensure_baseline(audit, members or len(audit.record.members))
    train_members(audit.folder, [f"{name}/{first}" for first in firsts])
    return name


def copy_of(data: Path, to: Path, *leave_out: str) -> Audit:
    """Copy a data folder with the audit `scenes`."""
    shutil.copytree(data, to, ignore=shutil.ignore_patterns(*leave_out))
    return Audit(to / "audits" / "scenes")


@pytest.fixture(scope="session")
def lab_data(typed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with an audit and three settings: one changes nothing. Not to be changed."""
    return made_once(tmp_path_factory, "lab", functools.partial(train_settings, typed))


def train_settings(typed: Path, data: Path) -> None:
    shutil.copytree(typed, data, dirs_exist_ok=True)
    audit = Audit(data / "audits" / "scenes")
    folder = mitigated.setting_folder(audit, UNCHANGED)
    folder.mkdir(parents=True)
    values = {"setting": "", "title": "unchanged", "removed_rows": [], "captions_by_row": {}}
    write_json(folder / mitigated.SETTING_FILE, values)
    run_settings(Run(audit, Silent(), executor=in_process), [UNCHANGED])
    for text in ("text_noise=0.15", "removal=clipmem:9"):
        train(audit, parse_setting(text))


@pytest.fixture(scope="session")
def measured(lab_data: Path) -> Audit:
    """The audit with its settings, not to be changed."""
    return Audit(lab_data / "audits" / "scenes")


def run(name: str, *, splits: int = 2, seeds: int = 1) -> Study:
    """Run the study `one` in this process."""
    typed = ["study", "one", "scenes", "--name", name, *FLAGS, "--seeds", str(seeds)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(study.STUDIES, "one", ["crop_scale=1"])
        request = Request("scenes", parse_command(typed).config, name, Silent(), in_process)
        return run_study(request, "one", splits=splits, also=())


@pytest.fixture(scope="session")
def study_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the finished study `finished` of one setting, two splits and two seeds."""
    return made_once(tmp_path_factory, "studies", lambda _: run("finished", seeds=2))


@pytest.fixture
def finished_study(study_data: Path) -> Study:
    """The finished study, not to be changed."""
    return Study(study_data / "studies" / "finished")
