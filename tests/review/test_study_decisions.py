import dataclasses
from pathlib import Path

import pytest

from clipmem_core.audits.prepare import load_data_set
from clipmem_core.audits.run import PIPELINE, Progress
from clipmem_core.audits.settings import resolve
from clipmem_core.audits.store import Audit
from clipmem_core.config import InputError
from clipmem_core.review.decisions import KEEP, RECAPTION, REMOVE, Review, decided_for, decided_of, open_review
from clipmem_core.studies.arm import Arm, Decided
from clipmem_core.studies.run import start, with_decisions
from clipmem_core.studies.store import StudyFolder
from tests.audits.small import PAPER, Silent, config_of
from tests.made_arms import asked_of


@pytest.fixture(autouse=True)
def _data(data: Path) -> None:
    pass


def test_what_is_removed_and_recaptioned_counts_and_what_is_taken_back_does_not(data: Path) -> None:
    review = Review(data / "review" / "0123abcd.sqlite")
    assert decided_of("0123abcd") == Decided()
    review.decide(["a", "b", "c"], REMOVE)
    review.decide(["d"], RECAPTION, captions=["new", "newer"])
    review.decide(["e"], KEEP)
    review.decide(["b"], KEEP)
    review.decide(["c"], None, note="not sure")
    assert decided_of("0123abcd") == Decided(frozenset("a"), {"d": ("new", "newer")})
    study = StudyFolder(data / "studies" / "mine")
    study.write_asked(asked_of("combined", {}, {"none": {}}, dataset_fingerprint="0123abcd"))
    assert decided_for(study) == decided_of("0123abcd")


def test_a_fingerprint_that_is_none_opens_no_file() -> None:
    with pytest.raises(InputError, match="name '../a' must be letters"):
        decided_of("../a")


def test_a_study_has_the_decisions_of_an_audit_of_the_same_pairs(data: Path) -> None:
    config = resolve(config_of([*PAPER, "--scenes-pairs", "220", "--plant-miscaptions", "5"]))
    audit = Audit(data / "audits" / "one")
    PIPELINE["prepare"](audit, Progress(audit, Silent(), "scenes", config))
    open_review(audit).decide(["any"], REMOVE, audit="one")
    run = start("combined", "scenes", config, StudyFolder(data / "studies" / "one"), Silent())
    assert run.dataset_fingerprint == load_data_set("scenes", config).fingerprint
    assert decided_of(run.dataset_fingerprint) == Decided(frozenset({"any"}))


def test_an_arm_by_decisions_leaves_out_what_was_decided_on_captions_that_the_study_does_not_show(data: Path) -> None:
    plain = resolve(config_of([*PAPER, "--scenes-pairs", "220"]))
    planted = Audit(data / "audits" / "planted")
    PIPELINE["prepare"](planted, Progress(planted, Silent(), "scenes", dataclasses.replace(plain, plant_miscaptions=5)))
    own = load_data_set("scenes", plain).pairs["captions"]
    swapped = [list(there) != list(here) for there, here in zip(planted.pairs["captions"], own, strict=True)]
    assert sum(swapped) == 5
    shown, same = planted.pairs["pair_id"][swapped].tolist(), planted.pairs["pair_id"][swapped.index(False)]
    open_review(planted).decide([*shown, same], REMOVE, audit="planted")
    for miscaptions, expected in ((0, {same}), (5, {*shown, same})):
        config = dataclasses.replace(plain, plant_miscaptions=miscaptions)
        run = start("combined", "scenes", config, StudyFolder(data / "studies" / f"with-{miscaptions}"), Silent())
        (arm,) = with_decisions(run, [Arm(overrides={"decisions": True})], decided_of)
        assert arm.decided == Decided(frozenset(expected))
