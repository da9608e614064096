"""Studies: their rows are the labs of their splits, and how they resume."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipmem_core.auditing.run.member import MemberRun
from clipmem_core.cli import main
from clipmem_core.lab import mitigated
from clipmem_core.lab import study as studies
from clipmem_core.lab.experiment import Study, titles_of
from clipmem_core.lab.setting import BASELINE, parse_setting
from clipmem_core.review.decisions import REMOVE, open_review
from clipmem_core.training.model import Model
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError
from tests.lab.conftest import FLAGS, copy_of, run
from tests.lab.test_mitigated import check_baseline

SETTING = "crop_scale-1"


@pytest.fixture
def data(study_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own with the drawn set, but no study."""
    for name in ("sets", "cache"):
        shutil.copytree(study_data / name, tmp_path / name)
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is trained with a setting: split, setting and member."""
    members = []
    before = studies.trained_model

    def noted(run: MemberRun) -> Model:
        members.append("/".join(run.folder.parts[-4::2]) + f"/{run.name}")
        return before(run)

    monkeypatch.setattr(studies, "trained_model", noted)
    return members


def test_the_rows_are_the_labs_of_its_splits(finished_study: Study) -> None:
    rows = finished_study.rows
    for split in (0, 1):
        audit = finished_study.audit(f"split-{split}")
        table = mitigated.lab_table(audit, [SETTING, BASELINE])
        assert len(table) == 3 * 4
        expected = rows[rows["split"] == split].drop(columns=["split", "seed", "title"])
        pd.testing.assert_frame_equal(table, expected.reset_index(drop=True))
        check_baseline(audit, SETTING, np.zeros(220, dtype=bool))
        assert audit.record.seeds == {f"{side}-{n}": 2 * split + n for n in (0, 1) for side in "fg"}
        assert audit.record.config.train_captions == 1
    groups = [finished_study.audit(f"split-{split}").membership[c.GROUP] for split in (0, 1)]
    assert (groups[0] != groups[1]).mean() > 0.3
    assert titles_of(rows) == {SETTING: parse_setting("crop_scale=1").title}


def test_an_interrupted_study_trains_nothing_twice_and_gets_more_settings(
    data: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = studies.train_member_pair
    member_pairs = []

    def interrupted(shared: object, setting: str, member_pair: object) -> None:
        if member_pairs:  # of the first split
            raise KeyboardInterrupt
        member_pairs.append(setting)
        before(shared, setting, member_pair)

    with monkeypatch.context() as patch:
        patch.setattr(studies, "train_member_pair", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("resumed")
    assert member_pairs == [SETTING]
    study = Study(data / "studies" / "resumed")
    first = study.rows
    assert set(first["split"]) == {0}
    run("resumed")
    assert sorted(trained) == [
        f"split-{split}/{SETTING}/{side}-0" for split in (0, 1) for side in "fg"
    ]
    rows = study.rows
    assert set(rows["split"]) == {0, 1}
    pd.testing.assert_frame_equal(rows[: len(first)], first)
    with pytest.raises(InputError, match="Use another --name"):
        run("resumed", seeds=2)

    groups = [study.audit(f"split-{split}").membership[c.GROUP] for split in (0, 1)]
    ids = study.pairs[c.PAIR_ID]
    # The first split trains on one of them alone, the second on the other two.
    held_out = [np.flatnonzero(group == c.HELD_OUT).tolist() for group in groups]
    chosen = sorted({*held_out[0][:4], *held_out[1][:4], *range(4)})
    open_review(study).decide(ids[chosen].tolist(), REMOVE)
    trained.clear()
    monkeypatch.setitem(studies.STUDIES, "one", ["crop_scale=1"])
    typed = ["study", "one", "scenes", "--name", "resumed", *FLAGS, "--splits", "2", "--seeds", "1"]
    assert main([*typed, "--also", "decisions"]) == 0
    (name,) = set(titles_of(study.rows)) - {SETTING}
    assert trained == [f"split-{split}/{name}/{side}-0" for split in (0, 1) for side in "fg"]
    for split, outside in enumerate(held_out):
        removed = mitigated.read_changes(study.audit(f"split-{split}"), name).removed
        assert np.flatnonzero(removed).tolist() == [row for row in chosen if row not in outside]


WRONG = {
    "study nosuch scenes --name a": "study 'nosuch'",
    "study combined scenes --name a --splits 0": "--splits",
    "study combined scenes --name a --also nosuch": "setting 'nosuch'",
    "study bad scenes --name a": "--weight-decay",
    "study removal scenes --name a": "no setting",
    "study settings scenes --name a": "--also",
    "study settings scenes --name a --also decisions": "decide first",
    "mitigate scenes": "no mitigation",
    "mitigate scenes --text-noise=-1": "--text-noise",
    "mitigate scenes --text-mask=0.3": "locked text tower",
    "mitigate scenes --removal=clipmem:51": "removal",
    "mitigate scenes --decisions": "decide first",
    "benchmark scenes --kinds swaps": "'swaps' of error is unknown: choose from random, nearest",
    "benchmark scenes --injections 0": "--injections",
    "benchmark scenes --shares 0.2 1.5": "1.5",
    "benchmark scenes --protocol paper": "--protocol paper",
    "benchmark scenes --inject-miscaptions 9": "--inject-miscaptions",
}


@pytest.mark.parametrize("typed_words", WRONG)
def test_wrong_input_is_one_line_and_nothing_is_written(
    typed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed_words: str,
) -> None:
    copy_of(typed, tmp_path / "data")
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path / "data"))
    monkeypatch.setitem(studies.STUDIES, "bad", ["weight_decay=-1"])
    words = typed_words.split()
    assert main([*words, *([] if words[0] == "mitigate" else ["--scenes-pairs", "330"])]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert WRONG[typed_words] in line
    for folder in ("studies/[!.]*/[!.]*", "benchmarks/[!.]*", "audits/*/mitigations"):
        assert not list((tmp_path / "data").glob(folder))
