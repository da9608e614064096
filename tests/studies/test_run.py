"""Studies that are trained: what their rows say, and where they go on after an interruption or with more seeds."""

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from clipmem_core import columns as c
from clipmem_core.audits.executor import Looks, Task
from clipmem_core.audits.store import Audit
from clipmem_core.commands import main
from clipmem_core.config import InputError
from clipmem_core.features.embed import run_shards
from clipmem_core.scores.membership import paper_membership, set_apart
from clipmem_core.studies import plan
from clipmem_core.studies.arm import Arm, Decided
from clipmem_core.studies.run import run_study
from clipmem_core.studies.store import ARM, SEED, StudyFolder, open_study
from clipmem_core.training.model import build_model
from clipmem_core.training.trainer import Trainer
from tests.audits.small import Silent, here, vectors
from tests.forked import Server
from tests.studies.conftest import FLAGS, RANKED, Trained, config_of, numbers, study_of

Start = Callable[..., StudyFolder]


def centring(audit: Audit) -> np.ndarray:
    """The external pairs that utility is not measured on."""
    group, clusters = audit.membership[c.GROUP].to_numpy(), np.load(audit.folder / ".prepared.npz")["clusters"]
    return (group == c.EXTERNAL) & ~set_apart(group, clusters, seed=audit.record.config.seed)


def test_every_arm_and_seed_has_its_row_seed_by_seed_that_its_f_and_g_say(whole: StudyFolder) -> None:
    table = whole.arms
    done = list(table[[ARM, SEED]].itertuples(index=False, name=None))
    assert done == [("none", 0), ("whole", 0), ("none", 1), ("whole", 1)]
    assert table["crop_scale"].tolist()[1] == 1.0
    assert (table["samples_seen"] == 2 * 120).all()  # two epochs of 70 shared and 50 candidates
    assert (table["seconds"] > 0).all()
    assert (table["peak_mb"] > 100).all()
    audit = whole.audit("whole")
    group = audit.membership[c.GROUP].to_numpy()
    external, candidate = centring(audit), group == c.CANDIDATE
    for number in (0, 1):
        alignment = []
        for side in "fg":
            image, text = (vectors(audit.member(f"{side}-{number}") / f"{kind}.npy") for kind in ("image", "text"))
            a = np.einsum("nd,nd->n", image, text) - image @ text[external].mean(0) - text @ image[external].mean(0)
            alignment.append(a[candidate])
        row = table.query("arm == 'whole' and seed == @number").iloc[0]
        assert row["clipmem_candidate"] == pytest.approx((alignment[0] - alignment[1]).mean(), abs=1e-6)
        assert row["clipmem_image"] + row["clipmem_text"] == pytest.approx(row["clipmem_candidate"], abs=1e-5)


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

    def look(trainer: Trainer) -> None:
        weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        begun.append((weights, trainer.data.rows))
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "steps", look)
    for arm in (Arm("none"), Arm("whole", {"crop_scale": 1.0})):
        monkeypatch.setitem(plan.STUDIES, "two", study_of(arm))
        with pytest.raises(KeyboardInterrupt):
            start("two", arm.name, seeds=1)
    (weights, rows), (others, other_rows) = begun
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert (rows == other_rows).all()


def test_each_arm_loses_the_first_pairs_of_its_ranking_from_f_and_g_and_no_other(
    ranked: StudyFolder, whole: StudyFolder
) -> None:
    usual = ranked.audit("none").membership.set_index(c.PAIR_ID)
    shared = usual.index[usual[c.GROUP] == c.SHARED]
    scores = ranked.audit("ranking").scores.set_index(c.PAIR_ID)[c.CLIPMEM]
    table = ranked.arms.set_index("arm")
    for arm, text in zip(("text_mask-0.3_removal-clipmem-9", "removal-random-9"), RANKED, strict=True):
        assert ranked.settings[arm] == text
        there = ranked.audit(arm).membership.set_index(c.PAIR_ID)
        gone = {member: set(usual.index[usual[member] & ~there[member]]) for member in ("f-0", "g-0")}
        assert gone["f-0"] == gone["g-0"]
        assert not (there[["f-0", "g-0"]] & ~usual[["f-0", "g-0"]]).any(axis=None)
        if "clipmem" in text:
            assert gone["f-0"] == set(scores[scores.index.isin(shared)].dropna().sort_values().index[-9:])
        assert len(gone["f-0"]) == table.loc[arm, "removed"] == 9
        assert gone["f-0"] <= set(scores.dropna().index) & set(shared)
        assert table.loc[arm, "samples_seen"] == table.loc["none", "samples_seen"] - 2 * 9
    assert table.loc["removal-random-9", "removed_by"] == "random"
    # Shared pairs that are taken out change no other row.
    both = [name for name in numbers(whole) if not name.startswith("attack")]  # one seed has no other to attack it
    pd.testing.assert_frame_equal(numbers(ranked)[:2][both], numbers(whole)[:2][both])
    assert ranked.asked["compared"] == whole.asked["compared"]


def test_a_study_that_was_interrupted_ends_with_the_same_table(
    start: Start, trained: Trained, ranked: StudyFolder, whole: StudyFolder
) -> None:
    also = RANKED
    # While pairs are ranked, in the first arm, between f and g of an added one.
    for members in (2, 5, 9):
        trained.stop_after = members
        with pytest.raises(KeyboardInterrupt):
            start("two", "again", seeds=1, also=also)
        assert len(trained.members) == members
        also = []  # they are in the folder
    trained.stop_after = None
    for _ in range(2):  # the second time nothing is left to do
        again = start("two", "again", seeds=1)
        assert len(trained.members) == len(set(trained.members)) == 4 + 2 * 4
        pd.testing.assert_frame_equal(numbers(again), numbers(ranked))
        assert {**again.asked, "machine": {}} == {**ranked.asked, "machine": {}}
    # Seeds are added to what is there.
    trained.stop_after = 13
    with pytest.raises(KeyboardInterrupt):
        start("two", "again", only=["whole"])
    trained.stop_after = None
    rows = numbers(start("two", "again", only=["whole"]))
    assert trained.members[12:] == ["none/f-1", "none/g-1", "whole/f-1", "whole/g-1"]
    both = [name for name in numbers(whole) if not name.startswith("attack")]  # one seed has no other to attack it
    kept = rows[rows["arm"].isin(["none", "whole"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept[both], numbers(whole)[both])


# Lets a process know the study of two arms, and train its members itself.
KNOWS_TWO = """
import pytest
from tests.studies.conftest import in_this_process
in_this_process(pytest.MonkeyPatch())
"""


def test_a_study_that_was_killed_ends_with_the_same_table(
    start: Start, whole: StudyFolder, data: Path, trained: Trained, forks: Server
) -> None:
    typed = ["study", "two", "scenes", "--name", "again", *FLAGS, "--seeds", "1", "--also", "colour=0.2"]
    process = forks.start(*typed, data=data, before=KNOWS_TWO)
    study = StudyFolder(data / "studies" / "again")
    while len(study.done()) < 1 and process.poll() is None:
        time.sleep(0.02)
    process.kill()  # it has begun with the second arm, or with the one that was added
    process.communicate()
    assert 1 <= len(study.done()) < 3
    start("two", "again", seeds=1)
    assert 0 < len(trained.members) < 6
    both = [name for name in numbers(whole) if name in numbers(study)]
    pd.testing.assert_frame_equal(numbers(study)[both][:2], numbers(whole)[both][:2])
    assert study.arms["arm"].tolist() == ["none", "whole", "colour-0.2"]


def test_an_arm_that_is_not_asked_for_is_not_trained(start: Start, trained: Trained, data: Path) -> None:
    with pytest.raises(InputError, match=r"study two has no arm 'hole' to train only: choose from none, whole$"):
        start("two", "again", only=["whole", "hole"])
    assert trained.members == []
    assert not (data / "studies" / "again" / "study.json").exists()


def test_pairs_that_an_arm_leaves_out_or_recaptions_are_so_in_all_its_members_and_compared_in_none(
    start: Start, monkeypatch: pytest.MonkeyPatch, whole: StudyFolder
) -> None:
    groups = whole.audit("none").membership.set_index(c.PAIR_ID)[c.GROUP]
    candidates = groups.index[groups == c.CANDIDATE]
    removed = frozenset([*groups.index[groups == c.SHARED][:5], *candidates[:3]])
    external = str(groups.index[groups == c.EXTERNAL][0])  # that utility is measured on: it keeps its captions
    decided = Decided(removed, dict.fromkeys([str(candidates[4]), external], ("another caption",)))
    monkeypatch.setitem(plan.STUDIES, "two", study_of(Arm("none"), Arm("fewer", {"decisions": True}, decided=decided)))
    study = start("two", "removal")
    there = study.audit("fewer").membership.set_index(c.PAIR_ID)
    usual = study.audit("none").membership.set_index(c.PAIR_ID)
    for member in ("f-0", "g-0", "f-1", "g-1"):  # the second seed was added by growing
        assert (there[member] == usual[member] & ~usual.index.isin(removed)).all()
    assert (there[c.GROUP] == usual[c.GROUP]).all()
    captions, own = (study.audit(arm).pairs.set_index(c.PAIR_ID)[c.CAPTIONS].map(list) for arm in ("fewer", "none"))
    assert captions[captions != own].to_dict() == {candidates[4]: ["another caption"]}
    rows = study.arms.set_index([ARM, SEED])
    assert (rows.loc[("fewer", 0), "removed"], rows.loc[("fewer", 0), "recaptioned"]) == (8, 2)
    assert rows.loc[("fewer", 0), "samples_seen"] == 2 * (120 - 8)
    assert rows.loc[("none", 0), "clipmem_candidate"] != whole.arms.loc[0, "clipmem_candidate"]


WRONG = [
    ("nosuch scenes --name a", "study 'nosuch' is unknown: choose one of scale, size, views, time"),
    ("size scenes", "the following arguments are required: --name"),
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
    ("two scenes --name a", "--weight-decay must be at least 0, not -1"),
]


def test_wrong_input_is_one_line_and_nothing_is_written(
    data: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(plan.STUDIES, "two", study_of(Arm("none"), Arm("bad", {"weight_decay": -1})))
    for typed, message in WRONG:
        assert main(["study", *typed.split(), "--scenes-pairs", "220"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {message}"), typed
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


class Cluster:
    """An executor of this process that keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, tasks: Sequence[Task]) -> Looks:
        self.asked.append([f"{folder.parents[1].name}/{folder.name}" for task in tasks for folder in task.folders])
        for task in tasks:
            if task.what == "shard":
                run_shards(task.folders[0].parent, task.names)
        yield from here([task for task in tasks if task.what == "member"])


def test_a_cluster_trains_members_of_all_arms_and_seeds_side_by_side_and_no_number_moves(
    data: Path, trained: Trained, whole: StudyFolder
) -> None:
    cluster = Cluster()
    found = run_study("two", "scenes", config_of("two"), name="whole", screen=Silent(), executor=cluster)
    pd.testing.assert_frame_equal(numbers(found), numbers(whole))
    assert cluster.asked == [[f"{arm}/{side}-{seed}" for arm in ("none", "whole") for seed in "01" for side in "fg"]]
    assert trained.members == []


def test_a_cluster_computes_features_once_and_trains_the_heads_of_all_arms(
    data: Path, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(build_model("tiny", loss="clip", seed=5).state_dict(), tmp_path / "tiny.pt")
    given = ["--lock-image", "--lock-text", "--pretrained", str(tmp_path / "tiny.pt"), "--cache-size", "40"]
    config = dataclasses.replace(config_of("two", "--model", "tiny", *given), seeds=1)
    arms = (Arm("none"), Arm("slow", {"lr": 1e-4}), Arm("first", {"eval_captions": 1}))
    monkeypatch.setitem(plan.STUDIES, "two", study_of(*arms))
    local = run_study("two", "scenes", config, name="local", screen=Silent())
    shutil.rmtree(data / "cache" / "features")
    trained.members.clear()
    cluster = Cluster()
    found = run_study("two", "scenes", config, name="there", screen=Silent(), executor=cluster)
    pd.testing.assert_frame_equal(numbers(found), numbers(local))
    *features, members = cluster.asked
    assert len(features) == 2
    assert members == [f"{arm}/{side}-0" for arm in ("none", "slow", "first") for side in "fg"]
    assert trained.members == []
