"""A study that takes pairs out: an audit ranks them first, and each arm loses exactly its own."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from clipmem_core import columns as c
from clipmem_core.config import AuditConfig
from clipmem_core.studies import plans
from clipmem_core.studies.arms import Arm
from clipmem_core.studies.plans import Study
from clipmem_core.studies.rankings import Removal
from clipmem_core.studies.store import StudyFolder
from tests.studies.conftest import Trained

Start = Callable[..., StudyFolder]


def arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    removals = (Removal("clipmem", 9), Removal("random", 9))
    return [Arm("none"), *(Arm(one.by, shown={"removed_by": one.by}, removal=one) for one in removals)]


@pytest.fixture
def removal(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plans.STUDIES, "two", Study("?", arms, "none", lambda arms, times: []))


@pytest.mark.usefixtures("removal")
def test_each_arm_loses_the_first_pairs_of_its_ranking_from_f_and_g_and_no_other(
    start: Start, trained: Trained
) -> None:
    study = start("two", "out", seeds=1)
    assert [name for name in trained.members if name.startswith("ranking/")] == [
        f"ranking/r{repeat}-f{fold}" for repeat in (0, 1) for fold in (0, 1)
    ]
    usual = study.audit("none").membership.set_index(c.PAIR_ID)
    shared = usual.index[usual[c.GROUP] == c.SHARED]
    scores = study.audit("ranking").scores.set_index(c.PAIR_ID)[c.CLIPMEM]
    first = set(scores[scores.index.isin(shared)].dropna().sort_values().index[-9:])
    there = study.audit("clipmem").membership.set_index(c.PAIR_ID)
    for member in ("f-0", "g-0"):
        assert set(usual.index[usual[member] & ~there[member]]) == first
        assert not (there[member] & ~usual[member]).any()
    random = study.audit("random").membership.set_index(c.PAIR_ID)
    gone = set(usual.index[usual["f-0"] & ~random["f-0"]])
    assert len(gone) == 9
    assert gone <= set(scores.dropna().index) & set(shared)
    table = study.arms.set_index("arm")
    assert table.loc["clipmem", "samples_seen"] == table.loc["none", "samples_seen"] - 2 * 9
    assert table.loc["random", "removed_by"] == "random"


@pytest.mark.usefixtures("removal")
def test_a_study_that_was_interrupted_while_ranking_ends_with_the_same_table(
    start: Start, trained: Trained, data: Path
) -> None:
    for members in (2, 5):  # while the pairs are ranked; in the first arm
        trained.stop_after = members
        with pytest.raises(KeyboardInterrupt):
            start("two", "again", seeds=1)
        assert len(trained.members) == members
    trained.stop_after = None
    again = start("two", "again", seeds=1)
    assert len(trained.members) == 4 + 6
    start("two", "again", seeds=1)
    assert len(trained.members) == 4 + 6
    shutil.rmtree(data / "studies" / "members")
    whole = start("two", "whole", seeds=1)
    assert len(trained.members) == 2 * (4 + 6)
    price = ["seconds", "peak_mb"]
    pd.testing.assert_frame_equal(again.arms.drop(columns=price), whole.arms.drop(columns=price))
    assert again.asked["compared"] == whole.asked["compared"]


@pytest.mark.usefixtures("trained")
def test_an_arm_with_other_captions_trains_on_them_and_its_pairs_are_not_compared(
    start: Start, monkeypatch: pytest.MonkeyPatch, whole: StudyFolder
) -> None:
    groups = whole.audit("none").membership.set_index(c.PAIR_ID)[c.GROUP]
    candidate = str(groups.index[groups == c.CANDIDATE][0])

    def recaptioning(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
        return [Arm("none"), Arm("decisions", recaptioned={candidate: ("another caption",)})]

    monkeypatch.setitem(plans.STUDIES, "two", Study("?", recaptioning, "none", lambda arms, times: []))
    study = start("two", "recaptioned", seeds=1)
    captions = study.audit("decisions").pairs.set_index(c.PAIR_ID)[c.CAPTIONS]
    assert list(captions[candidate]) == ["another caption"]
    usual = study.audit("none").pairs.set_index(c.PAIR_ID)[c.CAPTIONS]
    others = captions.index != candidate
    assert captions[others].map(list).tolist() == usual[others].map(list).tolist()
    none = study.arms.set_index("arm").loc["none", "clipmem_candidate"]
    assert none != pytest.approx(whole.arms.set_index(["arm", "seed"]).loc[("none", 0), "clipmem_candidate"], abs=1e-9)
