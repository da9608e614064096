"""How long one more arm takes, worked out by hand from what arm `none` of a made-up study took."""

import os
from pathlib import Path

import pytest

from clipmem_core.audits.store import read_json, write_json
from clipmem_core.studies import estimate
from clipmem_core.studies.arm import parse_setting
from clipmem_core.studies.estimate import minutes_of
from clipmem_core.studies.store import StudyFolder
from tests.studies.made_context import Rows, make_study


def begun(data: Path, rows: Rows) -> StudyFolder:
    """A study whose `none` has members that were embedded for 8 s each, and an audit that was scored in 2 s."""
    study = make_study(data, rows)
    audit = study.audit("none")
    path = audit.folder / "config.json"
    write_json(path, read_json(path) | {"members": ["f-0", "g-0", "f-1", "g-1"]})
    write_json(audit.folder / "verdict.json", {"seconds": {"scoring": 2.0}})
    for member in ("f-0", "g-0"):  # the others have not ended
        audit.member(member).mkdir(parents=True)
        for name, moment in (("checkpoint.pt", 1000), ("text.npy", 1008)):
            (audit.member(member) / name).touch()
            os.utime(audit.member(member) / name, (moment, moment))
    return study


@pytest.fixture(autouse=True)
def _two_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    monkeypatch.setattr("clipmem_core.audits.settings.available_cores", lambda: 2)


# f and g side by side, so that half of 200 s is waited for, and half of 2 × 8 s of embedding, and 2 s of scoring.
ONE_SEED = 200 / 2 + 8 + estimate.STARTING + 2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("text_mask=0.3", 3 * ONE_SEED),
        ("text_mask=0.3 equal_time", 3 * ONE_SEED),
        ("text_forget_df=3", 3 * (ONE_SEED - 100)),  # members of none, judged anew
        ("text_mask=0.3 text_forget_df=3", 3 * ONE_SEED),  # no arm masks so much
        ("text_forget_df=3 removal=random:70", 4 * (ONE_SEED - 25)),
        ("stop_epoch=20", 3 * (ONE_SEED - 75)),  # 20 of 80 epochs
        ("removal=random:70", 4 * (ONE_SEED - 25)),  # 210 of 280 pairs, and an audit that ranks takes as long as a seed
    ],
)
def test_one_more_arm_takes_as_long_as_none_by_epochs_and_pairs(tmp_path: Path, text: str, seconds: float) -> None:
    study = begun(tmp_path, [("none", 0, 200.0), ("none", 1, 300.0), ("text-mask", 0, 5.0)])
    assert minutes_of(study, parse_setting(text)) == pytest.approx((estimate.BEGINNING + seconds) / 60)


def test_pairs_are_ranked_once(tmp_path: Path) -> None:
    study = begun(tmp_path, [("none", 0, 200.0)])
    study.audit("ranking").folder.mkdir()
    (study.audit("ranking").folder / "manifest.json").touch()
    expected = (estimate.BEGINNING + 3 * (ONE_SEED - 25)) / 60
    assert minutes_of(study, parse_setting("removal=random:70")) == pytest.approx(expected)


def test_one_core_trains_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipmem_core.audits.settings.available_cores", lambda: 1)
    expected = (estimate.BEGINNING + 3 * (200 + 16 + estimate.STARTING + 2)) / 60
    assert minutes_of(begun(tmp_path, [("none", 0, 200.0)]), parse_setting("colour=0.4")) == pytest.approx(expected)


def test_nothing_is_known_before_none_has_a_row(tmp_path: Path) -> None:
    assert minutes_of(begun(tmp_path, []), parse_setting("text_mask=0.3")) is None
    assert minutes_of(StudyFolder(tmp_path / "studies" / "made"), parse_setting("decisions")) is None
