"""Studies that are trained: their rows, their splits, arms that a person adds, and how they resume."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from clipmem_core import columns as c
from clipmem_core.audit.executor import Task, TaskEvents
from clipmem_core.audit.member import open_member, trained_model
from clipmem_core.audit.prepare import membership_of, sides_of
from clipmem_core.audit.store import Audit, read_embeddings
from clipmem_core.cli import main, parse
from clipmem_core.config import InputError
from clipmem_core.review.decisions import RECAPTION, REMOVE, Review
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.attacks import BAVARIA, Shadows, attack
from clipmem_core.scores.membership import draw_utility_pairs
from clipmem_core.studies import plan
from clipmem_core.studies.arm import Arm, parse_setting
from clipmem_core.studies.measure import attack_arm
from clipmem_core.studies.plan import command_of, resume_arguments
from clipmem_core.studies.run import run_study
from clipmem_core.studies.study_folder import ARM, SEED, StudyFolder
from clipmem_core.training.model import text_embeddings
from tests.audit.small import Silent, in_process, vectors
from tests.forked import Server
from tests.studies.conftest import FLAGS, RANKED, Trained, config_of, numbers, study_of

Start = Callable[..., StudyFolder]


def centring(audit: Audit) -> np.ndarray:
    """The external pairs that utility is not measured on."""
    group, clusters = audit.membership[c.GROUP].to_numpy(), np.load(audit.folder / ".prepared.npz")["clusters"]
    return (group == c.EXTERNAL) & ~draw_utility_pairs(group, clusters, seed=audit.record.config.seed)


def mean_clipmem(study: StudyFolder, arm: str, *, seed: int = 0, without: Sequence[str] = ()) -> float:
    """Mean clipmem of candidates, but for some, from the embeddings alone."""
    audit = study.audit(arm)
    table, external = audit.membership, centring(audit)
    judged = (table[c.GROUP] == c.CANDIDATE).to_numpy() & ~table[c.PAIR_ID].isin(without).to_numpy()
    found = []
    for side in "fg":
        image, text = (vectors(audit.member(f"{side}-{seed}") / f"{kind}.faiss") for kind in ("image", "text"))
        a = np.einsum("nd,nd->n", image, text) - image @ text[external].mean(0) - text @ image[external].mean(0)
        found.append(a[judged].mean())
    return float(found[0] - found[1])


def test_every_arm_and_seed_has_its_row_measured_on_its_f_and_g(whole: StudyFolder) -> None:
    table = whole.arms
    done = list(table[[ARM, SEED]].itertuples(index=False, name=None))
    assert done == [("none", 0), ("whole", 0), ("none", 1), ("whole", 1)]
    assert table["crop_scale"].tolist()[1] == 1.0
    assert (table["samples_seen"] == 2 * 120).all()  # two epochs of 70 shared and 50 candidates
    assert (table["seconds"] > 0).all()
    assert (table["peak_mb"] > 100).all()
    for (arm, seed), row in zip(done, table.to_dict("records"), strict=True):
        assert row["clipmem_candidate"] == pytest.approx(mean_clipmem(whole, arm, seed=seed), abs=1e-6)
        assert row["clipmem_image"] + row["clipmem_text"] == pytest.approx(row["clipmem_candidate"], abs=1e-5)


def test_every_row_has_the_attack_by_the_other_seeds_of_its_arm(whole: StudyFolder) -> None:
    """Built by hand and measured with scikit-learn."""
    audit, alignments, trained, judged, outside = whole.audit("none"), [], [], [], []
    external = sides_of(audit, audit.record.config, membership_of(audit.membership)).external
    seeds = [(audit, number, np.ones(len(audit.pairs), dtype=bool)) for number in (0, 1)]
    for name in ("f-0", "g-0", "f-1", "g-1"):
        alignments.append(pair_terms(*read_embeddings(audit.member(name)), external)["alignment"])
        trained.append(audit.membership[name].to_numpy())
        judged.append(audit.membership["group"].isin(["candidate", "independent"]).to_numpy())
        outside.append(external)
    shadows = Shadows(*map(np.stack, (trained, judged, outside)), np.array([0, 0, 1, 1]), seed=0)
    found = attack(alignments, shadows, attacks=(BAVARIA,))
    expected = [roc_auc_score(one.trained, one.scores[BAVARIA]) for one in found]
    rows = attack_arm(seeds)
    assert [row["attack_auroc"] for row in rows] == pytest.approx(np.reshape(expected, (-1, 2)).mean(axis=1), abs=0.02)
    stored = whole.arms.query("arm == 'none'")
    assert stored["attack_auroc"].tolist() == pytest.approx([row["attack_auroc"] for row in rows])
    assert set(whole.arms["attack_shadows"]) == {2}


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
        if "clipmem" in text:
            assert gone["f-0"] == set(scores[scores.index.isin(shared)].dropna().sort_values().index[-9:])
        assert len(gone["f-0"]) == table.loc[arm, "removed"] == 9
        assert gone["f-0"] <= set(scores.dropna().index) & set(shared)
        assert table.loc[arm, "samples_seen"] == table.loc["none", "samples_seen"] - 2 * 9
    # Shared pairs that are removed change no other row.
    both = [name for name in numbers(whole) if not name.startswith("attack")]  # one seed has no other to attack it
    pd.testing.assert_frame_equal(numbers(ranked)[:2][both], numbers(whole)[:2][both])


# Lets a process run the study of two arms, and train its members itself.
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


def test_every_seed_draws_its_own_split_that_its_arms_share_and_resumes(
    start: Start, trained: Trained, whole: StudyFolder
) -> None:
    trained.stop_after = 5  # in the second split
    with pytest.raises(KeyboardInterrupt):
        start("two", "splits", seeds_per_split=1)
    trained.stop_after = None
    study = start("two", "splits", seeds_per_split=1)
    assert len(trained.members) == len(set(trained.members)) + 4 == 8  # f-0 and g-0 of two arms on two splits
    rows = study.arms[["arm", "seed", "split"]].to_numpy().tolist()
    assert rows == [["none", 0, 0], ["whole", 0, 0], ["none", 1, 1], ["whole", 1, 1]]
    tables = {(arm, split): study.audit(arm, split).membership for arm in ("none", "whole") for split in (0, 1)}
    for split in (0, 1):
        pd.testing.assert_frame_equal(tables["none", split], tables["whole", split])
    groups = [tables["none", split][c.GROUP] for split in (0, 1)]
    assert (groups[0] != groups[1]).mean() > 0.5
    assert [study.audit("none", split).record.seeds for split in (0, 1)] == [{"f-0": 0, "g-0": 0}, {"f-0": 1, "g-0": 1}]
    # The first seed is that of a study with one split.
    both = [name for name in numbers(whole) if not name.startswith("attack")]  # whose shadows are of all splits
    pd.testing.assert_frame_equal(numbers(study)[both][:2], numbers(whole)[both][:2])
    assert parse(["study", *resume_arguments(study)]).seeds_per_split == 1
    assert "--seeds-per-split" not in command_of(study)
    with pytest.raises(InputError, match="seeds_per_split is 1 there and 2 here. Use another --name"):
        start("two", "splits", seeds_per_split=2)


def test_an_added_arm_trains_alone_and_all_rows_compare_the_same_pairs(
    start: Start, trained: Trained, data: Path
) -> None:
    study = start("two", "again", seeds=1)
    before, groups = study.arms, study.audit("none").membership.set_index(c.PAIR_ID)[c.GROUP]
    candidates = groups.index[groups == c.CANDIDATE].tolist()
    external = groups.index[groups == c.EXTERNAL][0]  # that utility is measured on: it keeps its captions
    removed = [*candidates[:3], *groups.index[groups == c.SHARED][:2]]
    review = Review(data / "review" / f"{study.dataset_fingerprint}.sqlite")
    review.decide(removed, REMOVE)
    review.decide([candidates[3], external], RECAPTION, captions=["another caption"])
    typed = ["study", "two", "scenes", "--name", "again", *FLAGS, "--seeds", "1", "--also", "decisions"]
    for _ in range(2):  # the second time nothing is left to do
        assert main(typed) == 0
        name = study.arms["arm"].iloc[-1]
        assert trained.members[4:] == [f"{name}/f-0", f"{name}/g-0"]
    rows = study.arms.set_index("arm")
    for arm in ("none", "whole", name):
        expected = mean_clipmem(study, arm, without=candidates[:4])
        assert rows.loc[arm, "clipmem_candidate"] == pytest.approx(expected, abs=1e-6)
    assert rows["clipmem_candidate"].tolist()[:2] != pytest.approx(before["clipmem_candidate"].tolist(), abs=1e-6)
    same = ["retrieval", "samples_seen", "seconds", "peak_mb", "clipmem_external"]
    pd.testing.assert_frame_equal(rows.loc[["none", "whole"], same], before.set_index("arm")[same])
    assert (rows.loc[name, "removed"], rows.loc[name, "recaptioned"]) == (5, 1)
    assert study.settings == {"none": "", "whole": "crop_scale=1", name: "decisions"}
    there, usual = (study.audit(arm).membership.set_index(c.PAIR_ID) for arm in (name, "none"))
    for member in ("f-0", "g-0"):
        assert (there[member] == usual[member] & ~usual.index.isin(removed)).all()
    captions, own = (study.audit(arm).pairs.set_index(c.PAIR_ID)[c.CAPTIONS].map(list) for arm in (name, "none"))
    assert captions[captions != own].to_dict() == {candidates[3]: ["another caption"]}


def test_a_member_never_reads_the_words_of_few_pairs(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plan.STUDIES, "two", study_of(Arm("none", {"train_captions": 1})))
    study = start("two", "words", seeds=1, also=["text_min_df=3"])
    audit = study.audit(parse_setting("text_min_df=3").folder_name)
    every, run = (open_member(study.audit(name).folder, "f-0") for name in ("none", audit.name))
    first = run.data.caption_start[:-1]
    words = np.unique(run.data.tokens[first[run.data.rows]])
    assert len(words) < len(np.unique(every.data.tokens[first[run.data.rows]]))
    expected = text_embeddings(
        trained_model(run), run.data.tokens[first], precision=audit.record.precision, device="cpu"
    )
    assert np.abs(vectors(audit.member("f-0") / "text.faiss") - expected).max() < 2e-3  # stored in half precision


WRONG = [
    ("nosuch scenes --name a", "study 'nosuch' is unknown: choose one of captions, text-noise, removal, combined"),
    ("combined scenes --name a/b", "name 'a/b' must be letters, digits"),
    ("combined scenes --name a --protocol ensemble", "a study runs --protocol paper, not ensemble"),
    ("combined scenes --name a --seeds 3 --seeds-per-split 2", "--seeds must be a multiple of --seeds-per-split (2)"),
    ("combined scenes --name a --also nosuch", "setting 'nosuch' is unknown: choose from train_captions"),
    ("combined scenes --name a --only nosuch", "study combined has no arm 'nosuch' for --only: choose from none"),
    ("two scenes --name a", "--weight-decay must be greater than or equal to 0, not -1"),
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


def test_a_cluster_trains_members_of_all_arms_and_seeds_side_by_side_and_no_number_moves(
    data: Path, trained: Trained, whole: StudyFolder
) -> None:
    asked: list[list[str]] = []

    def cluster(tasks: Sequence[Task]) -> TaskEvents:
        asked.append([f"{folder.parents[1].name}/{folder.name}" for task in tasks for folder in task.folders])
        yield from in_process(tasks)

    found = run_study("two", "scenes", config_of("two"), name="whole", screen=Silent(), executor=cluster)
    pd.testing.assert_frame_equal(numbers(found), numbers(whole))
    assert asked == [[f"{arm}/{side}-{seed}" for arm in ("none", "whole") for seed in "01" for side in "fg"]]
    assert trained.members == []
