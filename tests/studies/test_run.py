import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from clipmem_core import columns as c
from clipmem_core.commands import main
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.scores.membership import paper_membership
from clipmem_core.studies import plans
from clipmem_core.studies.arms import Arm
from clipmem_core.studies.plans import Study
from clipmem_core.studies.store import ARM, SEED, StudyFolder, open_study
from tests.audits.small import ROOT, vectors
from tests.studies.conftest import FLAGS, Trained

Start = Callable[..., StudyFolder]
PRICE = ["seconds", "peak_mb"]


def numbers(study: StudyFolder) -> pd.DataFrame:
    """What a study found, without what depends on the machine's mood."""
    return study.arms.drop(columns=PRICE)


def test_every_arm_and_seed_has_its_row_seed_by_seed(whole: StudyFolder) -> None:
    table = whole.arms
    done = list(table[[ARM, SEED]].itertuples(index=False, name=None))
    assert done == [("none", 0), ("whole", 0), ("none", 1), ("whole", 1)]
    assert table["crop_scale"].tolist()[1] == 1.0
    assert (table["samples_seen"] == 2 * 120).all()  # two epochs of 70 shared and 50 candidates
    assert (table["seconds"] > 0).all()
    assert (table["peak_mb"] > 100).all()


def test_a_row_is_what_that_seeds_f_and_g_say(whole: StudyFolder) -> None:
    audit = whole.audit("whole")
    group = audit.membership[c.GROUP].to_numpy()
    external, candidate = group == c.EXTERNAL, group == c.CANDIDATE
    for number in (0, 1):
        alignment = []
        for side in "fg":
            image, text = (vectors(audit.member(f"{side}-{number}") / f"{kind}.faiss") for kind in ("image", "text"))
            a = np.einsum("nd,nd->n", image, text) - image @ text[external].mean(0) - text @ image[external].mean(0)
            alignment.append(a[candidate])
        row = whole.arms.query("arm == 'whole' and seed == @number").iloc[0]
        assert row["clipmem_candidate"] == pytest.approx((alignment[0] - alignment[1]).mean(), abs=1e-6)
        parts = row["clipmem_image"] + row["clipmem_text"]
        assert parts == pytest.approx(row["clipmem_candidate"], abs=1e-5)


def test_arms_share_splits_and_initialisation_within_a_seed(whole: StudyFolder) -> None:
    first, second = whole.audit("none"), whole.audit("whole")
    pd.testing.assert_frame_equal(first.membership, second.membership)
    assert first.record.seeds == second.record.seeds == {"f-0": 0, "g-0": 0, "f-1": 1, "g-1": 1}
    clusters = np.load(first.folder / ".prepared.npz")["clusters"]
    drawn = paper_membership(clusters, seeds=1, seed=0).group
    assert (first.membership[c.GROUP].to_numpy() == drawn).all()  # what the source and the seed say, no setting


def test_members_of_two_arms_start_from_the_same_weights_and_see_the_same_order(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[dict[str, torch.Tensor], np.ndarray]] = []

    def look(trainer: object, folder: Path, **_: object) -> None:
        weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        begun.append((weights, trainer.data.rows))
        raise KeyboardInterrupt

    monkeypatch.setattr("clipmem_core.audits.member.train", look)
    with pytest.raises(KeyboardInterrupt):
        start("two", "a", seeds=1)
    only = Study("?", lambda config, pairs: [Arm("whole", {"crop_scale": 1.0})], "whole", lambda arms, times: [])
    monkeypatch.setitem(plans.STUDIES, "two", only)
    with pytest.raises(KeyboardInterrupt):
        start("two", "b", seeds=1)
    (weights, rows), (others, other_rows) = begun
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert (rows == other_rows).all()


def test_a_study_that_was_interrupted_ends_with_the_same_table(
    start: Start, trained: Trained, whole: StudyFolder
) -> None:
    for members in (0, 1, 5):  # before the first; between an f and its g; in the second seed
        trained.stop_after = members
        with pytest.raises(KeyboardInterrupt):
            start("two", "again")
        assert len(trained.members) == members
    trained.stop_after = None
    pd.testing.assert_frame_equal(numbers(start("two", "again")), numbers(whole))
    assert len(trained.members) == len(set(trained.members)) == 8


# As `python -m clipmem_core`, knowing the study of two arms.
START = """
import sys
from clipmem_core.commands import main, parse
from tests.studies.conftest import know_two
know_two(lambda of, name, value: of.update({name: value}), setattr)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_study_that_was_killed_ends_with_the_same_table(
    start: Start, whole: StudyFolder, data: Path, trained: Trained
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", START, "study", "two", "scenes", "--name", "again", *FLAGS],
        env={**os.environ, "CLIPMEM_DATA": str(data), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    study = StudyFolder(data / "studies" / "again")
    while len(study.done()) < 1 and process.poll() is None:
        time.sleep(0.02)
    process.kill()  # it has begun with the second arm
    process.wait()
    assert 1 <= len(study.done()) < 4
    start("two", "again")
    assert len(trained.members) < 8
    both = [name for name in numbers(study) if name in numbers(whole)]
    pd.testing.assert_frame_equal(numbers(study)[both], numbers(whole)[both])


def test_seeds_are_added_to_what_is_there_and_a_finished_study_does_nothing(
    start: Start, trained: Trained, whole: StudyFolder
) -> None:
    start("two", "again", seeds=1)
    assert trained.members == ["none/f-0", "none/g-0", "whole/f-0", "whole/g-0"]
    for _ in range(2):
        pd.testing.assert_frame_equal(numbers(start("two", "again")), numbers(whole))
        assert len(trained.members) == 8


def test_another_study_trains_no_member_again(start: Start, trained: Trained) -> None:
    first = start("two", "a", seeds=1)
    second = start("two", "b", seeds=1)
    assert len(trained.members) == 4
    pd.testing.assert_frame_equal(first.arms, second.arms)  # what it cost too
    checkpoints = [study.audit("none").member("f-0") / "checkpoint.pt" for study in (first, second)]
    assert checkpoints[0].samefile(checkpoints[1])


def test_pairs_that_an_arm_leaves_out_are_trained_on_by_none_of_its_members(
    start: Start, monkeypatch: pytest.MonkeyPatch, whole: StudyFolder
) -> None:
    groups = whole.audit("none").membership.set_index(c.PAIR_ID)[c.GROUP]
    removed = frozenset([*groups.index[groups == c.SHARED][:5], *groups.index[groups == c.CANDIDATE][:3]])

    def arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
        return [Arm("none"), Arm("fewer", removed=removed)]

    monkeypatch.setitem(plans.STUDIES, "two", Study("?", arms, "none", lambda arms, times: []))
    study = start("two", "removal")
    there = study.audit("fewer").membership.set_index(c.PAIR_ID)
    usual = study.audit("none").membership.set_index(c.PAIR_ID)
    for member in ("f-0", "g-0", "f-1", "g-1"):  # the second seed was added by growing
        assert (there[member] == usual[member] & ~usual.index.isin(removed)).all()
    assert (there[c.GROUP] == usual[c.GROUP]).all()
    rows = study.arms.set_index([ARM, SEED])
    assert rows.loc[("fewer", 0), "removed"] == 8
    assert rows.loc[("fewer", 0), "samples_seen"] == 2 * (120 - 8)
    # Candidates that one arm leaves out are not compared in the other either.
    assert rows.loc[("none", 0), "clipmem_candidate"] != whole.arms.loc[0, "clipmem_candidate"]


WRONG = [
    ("nosuch scenes --name a", "study 'nosuch' is unknown: choose one of size, views, time"),
    ("size scenes", "missing: --name STR"),
    ("size scenes --name members", "name 'members' is the folder of the members that studies share"),
    ("size scenes --name a/b", "name 'a/b' must be letters, digits"),
    ("size scenes --name a --protocol ensemble", "a study runs --protocol paper, not ensemble"),
    ("size scenes --name a --epochs 0", "--epochs must be at least 1, not 0"),
    ("size scenes --name a --seeds 0", "--seeds must be at least 1, not 0"),
    ("size scenes --name a --model RN50", "study size scales the width of open_clip's own transformers"),
    ("views scenes --name a --crop-scale 1", "study views compares --crop-scale with 0.2 and 1: it must lie between"),
    ("views scenes --name a --eval-crop-scale 2", "--eval-crop-scale must be at least 0 and at most 1, not 2.0"),
    ("combined scenes --name a --also nosuch", "a setting does not know 'nosuch': say one of train_captions"),
    ("combined scenes --name a --also text_mask=2", "--text-mask must be at least 0 and below 1, not 2.0"),
    ("combined scenes --name a --also colour=.1 --also removal=clipmem:99", "removal takes out at most 35 of the 70"),
    ("combined scenes --name a --also decisions", "decisions: no pair of this study is decided to be removed"),
    ("time scenes --name a --also text_mask=0.1", "study time has its own arms and no others: settings can be added"),
    ("size scenes --name a --equal-time", "study size has its own arms and no others"),
    ("two scenes --name a", "--weight-decay must be at least 0, not -1"),
]


@pytest.mark.parametrize(("typed", "message"), WRONG, ids=[typed for typed, _ in WRONG])
def test_wrong_input_is_one_line_and_nothing_is_written(
    typed: str,
    message: str,
    data: Path,
    trained: Trained,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = Study("?", lambda config, pairs: [Arm("none"), Arm("bad", {"weight_decay": -1})], "none", lambda a, t: [])
    monkeypatch.setitem(plans.STUDIES, "two", bad)
    assert main(["study", *typed.split(), "--scenes-pairs", "220"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {message}")
    assert not list(data.glob("studies/[!.]*"))


def test_a_name_that_is_taken_by_another_study_is_refused(start: Start, trained: Trained) -> None:
    trained.stop_after = 0
    with pytest.raises(KeyboardInterrupt):
        start("two", "a", seeds=1)
    with pytest.raises(InputError, match="study 'a' exists with another: --epochs is 2 there and 3 here. Take another"):
        start("two", "a", seeds=1, epochs=3)
    with pytest.raises(InputError, match="it is study 'two' there and 'time' here"):
        start("time", "a", seeds=1)
    with pytest.raises(InputError, match="there is no study 'nosuch' in .* \\(there is: a\\)"):
        open_study("nosuch")
