import dataclasses
from pathlib import Path

import pytest

from clipmem_core.audits.prepare import draw_membership
from clipmem_core.audits.store import read_json, write_json
from clipmem_core.config import InputError
from clipmem_core.studies.basis import Decided, basis_of, reference_config
from clipmem_core.studies.own import add_own
from clipmem_core.studies.setting import Setting
from clipmem_core.studies.store import StudyFolder
from tests.studies.made_basis import SIZE, TWINS, make_study


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    return make_study(tmp_path)


def test_the_reference_arm_is_the_studys_config_with_its_own_fields(study: StudyFolder) -> None:
    assert reference_config(study) == basis_of(study).reference == dataclasses.replace(SIZE, train_captions=1)


def test_an_older_study_has_them_in_its_audit(study: StudyFolder) -> None:
    asked = {name: value for name, value in study.asked.items() if name not in ("reference_fields", "settings")}
    study.write_asked(asked)
    assert reference_config(study) == dataclasses.replace(SIZE, train_captions=1)
    assert study.settings == {}
    assert basis_of(study).names == {"none", "text-mask", "early-stop"}


def test_what_a_person_added_is_no_part_of_the_plan(study: StudyFolder) -> None:
    name = add_own(study, Setting({"text_mask": 0.3}))
    study.write_asked(study.asked | {"arms": study.asked["arms"] | {name: {}}, "settings": study.settings})
    assert basis_of(study).names == {"none", "text-mask", "early-stop"}
    assert name not in basis_of(study).settings
    assert study.settings[name] == "text_mask=0.3"


def test_of_lookalikes_that_somebody_trains_on_the_first_stay(study: StudyFolder) -> None:
    assert basis_of(study).lookalikes == {f"p{row}" for row in TWINS if row < 340}


def test_a_ranking_can_take_out_shared_pairs_that_its_audit_scores(study: StudyFolder) -> None:
    basis = basis_of(study)
    drawn = draw_membership(basis.clusters, dataclasses.replace(SIZE, protocol="ensemble", seeds=1, members=4))
    expected = {f"p{row}" for row in range(220) if drawn.group[row] == "scored"}
    assert basis.ranked == expected
    assert 0 < len(expected) < 220


def test_of_decisions_counts_what_changes_training(study: StudyFolder) -> None:
    decided = Decided(
        frozenset({"p0", "p230", "p350", "another"}),  # p350 is external
        {"p5": ("new",), "p6": ("one", "two"), "p351": ("new",), "other": ("new",)},
    )
    basis = basis_of(study)
    assert basis.standing(decided) == Decided(frozenset({"p0", "p230"}), {"p5": ("new",)})
    one = dataclasses.replace(basis, config=dataclasses.replace(SIZE, captions=1))
    assert one.standing(Decided(recaptioned={"p5": ("new", "newer")})).recaptioned == {"p5": ("new",)}
    assert not basis.standing(Decided(frozenset({"p350"}), {"p6": ("one", "two")}))


def test_a_study_whose_reference_arm_has_not_begun_says_so(study: StudyFolder) -> None:
    (study.audit("none").folder / "membership.parquet").unlink()
    with pytest.raises(InputError, match="arm none of study 'made' has not begun: wait until it trains, or run"):
        basis_of(study)


def test_the_data_set_is_that_of_audits_of_it(study: StudyFolder) -> None:
    assert study.dataset_fingerprint == "0123456789abcdef"
    study.write_asked({name: value for name, value in study.asked.items() if name != "dataset_fingerprint"})
    path = study.audit("none").folder / "config.json"
    write_json(path, read_json(path) | {"dataset_fingerprint": "fedcba9876543210"})
    assert study.dataset_fingerprint == "fedcba9876543210"
