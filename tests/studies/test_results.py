"""What a study leaves for a person: its tables on a terminal, and its CSV."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipmem_core.commands import main
from clipmem_core.studies.arguments import commands_of
from clipmem_core.studies.results import show_study, write_results
from clipmem_core.studies.store import StudyFolder, list_studies
from tests.studies.conftest import Trained
from tests.studies.made_context import make_study

Start = Callable[..., StudyFolder]


def test_time_keeps_what_was_memorized_after_each_epoch_and_a_look_changes_nothing(
    start: Start, trained: Trained, whole: StudyFolder, tmp_path: Path
) -> None:
    study = start("time", "t", seeds=1)
    times, arms = study.times, study.arms
    assert times["epoch"].tolist() == [1, 2]
    other = ("arm", "seed", "retrieval")  # after an epoch a pair's captions are looked for as one
    shared = [name for name in times if name in arms and name not in other]
    assert "clipmem_text" in shared
    np.testing.assert_allclose(
        times.loc[1, shared].astype(float), arms.loc[0, shared].astype(float), atol=1e-5
    )  # the last look is at the finished member
    assert (times.loc[0, shared] != arms.loc[0, shared]).any()
    write_results(study, tmp_path / "t.csv")
    table = pd.read_csv(tmp_path / "t.csv", comment="#")
    row = table.query("measure == 'clipmem_text' and epoch == 1").iloc[0]
    assert row["value"] == pytest.approx(times.loc[0, "clipmem_text"], rel=1e-4)
    for name in ("checkpoint.pt", "trajectory.npy", "image.npy", "text.npy"):
        first, second = (one.audit("none").member("f-0") / name for one in (study, whole))
        assert not first.samefile(second)
        assert first.read_bytes() == second.read_bytes()


def test_a_study_is_shown_and_written_with_its_answer_and_what_made_it(
    whole: StudyFolder, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_study(whole)
    shown = capsys.readouterr().out
    assert "none over 2 seeds, and paired differences to it" in shown
    assert "95 % interval over training seeds of one split" in " ".join(shown.split())
    assert "4 points." in shown
    assert "±" in shown
    write_results(whole, tmp_path / "two.csv")
    lines = (tmp_path / "two.csv").read_text().splitlines()
    assert lines[0] == "# command: " + commands_of(whole)[0]
    assert lines[1].startswith("# machine: ")
    assert lines[2] == "# seeds: 0, 1"
    assert "# 4 points." in lines
    table = pd.read_csv(tmp_path / "two.csv", comment="#")
    arms = whole.arms.set_index(["arm", "seed"])["clipmem_candidate"]
    assert set(table["reference"]) == {"none"}
    row = table.query("arm == 'whole' and measure == 'clipmem_candidate'").iloc[0]
    assert row["difference"] == pytest.approx(np.mean([arms["whole", s] - arms["none", s] for s in (0, 1)]), rel=1e-4)


def test_the_command_line_writes_a_table_or_says_what_is_wrong(
    drawn: Path, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(drawn))
    assert [one.name for one in list_studies()] == ["ranked", "whole"]
    assert main(["results", "whole", str(tmp_path / "out.csv"), "--study"]) == 0
    assert (tmp_path / "out.csv").is_file()
    assert main(["results", "whole", "--study"]) == main(["results", "nosuch", "x", "--study"]) == 2
    assert capsys.readouterr().err.count("error: ") == 2


def test_a_study_without_a_row_has_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    make_study(tmp_path)
    assert main(["results", "made", str(tmp_path / "out.csv"), "--study"]) == 2
    assert "study 'made' has no result yet: run it again" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()
