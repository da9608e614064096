"""The lab: an audit's members train again with a setting, and what is measured of them."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from clipmem_core import columns as c
from clipmem_core.audit.member import open_member, open_shared
from clipmem_core.audit.store import Audit, write_json
from clipmem_core.io import InputError
from clipmem_core.review.decisions import RECAPTION, REMOVE, decided_for, open_review
from clipmem_core.scores.attacks import BAVARIA, attack
from clipmem_core.scores.membership import draw_utility_pairs
from clipmem_core.studies import lab, training
from clipmem_core.studies.arm import BASELINE, Arm, parse_arm
from clipmem_core.studies.training import serve, train_members, with_setting
from tests.audit.small import aligned, embeddings
from tests.audit.test_locked import KILLS
from tests.forked import Server
from tests.studies.conftest import NOISE, REMOVED, UNCHANGED, check_refused, copy_of, train

PARTNER = np.array([1, 0, 3, 2, 5, 4, 7, 6])
UNEQUAL = [lab.ARM, lab.AGAINST, lab.SECONDS]


@pytest.fixture
def audit(typed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """A finished audit without a lab."""
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path / "data"))
    return copy_of(typed, tmp_path / "data")


@pytest.fixture
def lab_copy(lab_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """A copy of the audit with its arms."""
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path / "data"))
    return copy_of(lab_data, tmp_path / "data")


def rows_of(table: pd.DataFrame, arm: str, against: str) -> pd.DataFrame:
    found = table[(table[lab.ARM] == arm) & (table[lab.AGAINST] == against)]
    return found.reset_index(drop=True)


# --- What is measured


def test_members_train_again_as_they_did(measured: Audit) -> None:
    table = pd.read_parquet(measured.folder / "mitigations.parquet")
    unchanged, none = (
        rows_of(table, arm, UNCHANGED).drop(columns=UNEQUAL) for arm in (UNCHANGED, BASELINE)
    )
    assert unchanged[c.MEMBER].tolist() == list(measured.record.members)
    pd.testing.assert_frame_equal(unchanged, none)
    noisy = rows_of(table, NOISE, NOISE)
    assert (noisy[c.CLIPMEM] - none[c.CLIPMEM]).abs().min() > 1e-4


def check_baseline(audit: Audit, arm: str, removed: np.ndarray) -> None:
    """Compare the rows of the baseline for an arm with slow loops over its embeddings."""
    table = pd.read_parquet(audit.folder / "membership.parquet")
    seed = audit.record.config.seed
    group = table["group"].to_numpy()
    members = table.columns[2:].tolist()
    in_training = table[members].to_numpy().T
    external = group == "external"
    if audit.record.config.retrieval_apart:
        clusters = np.load(audit.folder / ".prepared.npz")["clusters"]
        external &= ~draw_utility_pairs(group, clusters, seed=seed)
    rows = rows_of(lab.lab_table(audit, [arm]), BASELINE, arm)
    assert rows[c.MEMBER].tolist() == members
    alignments = np.stack(
        [aligned(*embeddings(audit, name), external)["alignment"] for name in members]
    )
    attacked = ~removed & np.isin(group, ["scored", "candidate", "independent"])
    sides = lab.lab_sides(audit, members)
    guesses = attack(list(alignments), sides, np.flatnonzero(attacked))
    for number, row in enumerate(rows.to_dict("records")):
        folder = audit.member(row[c.MEMBER])
        alignment = alignments[number]
        lead = alignment - alignments[PARTNER[number]]
        only = in_training[number] & ~in_training[PARTNER[number]] & ~removed
        assert only.sum() > 20
        auroc = roc_auc_score(in_training[number][attacked], alignment[attacked])
        trained = guesses[number].trained
        scores = guesses[number].scores[BAVARIA]
        alarms, detected, _ = roc_curve(trained, scores, drop_intermediate=False)
        utility = json.loads((folder / "utility.json").read_text())
        recalls = [utility.pop(name) for name in list(utility) if "_R@" in name]
        assert len(recalls) == 6
        log = (folder / "log.jsonl").read_text().splitlines()
        expected = {
            c.CLIPMEM: lead[only].mean(),
            "clipmem_external": lead[external].mean(),
            "membership_auroc": auroc,
            c.ATTACK_AUROC: roc_auc_score(trained, scores),
            # Absent where 1 % is less than one false alarm.
            c.ATTACK_TPR: detected[alarms <= 0.01].max() if sum(~trained) >= 100 else np.nan,
            "retrieval": np.mean(recalls),
            "seconds": json.loads(log[-1])["seconds"],
            **utility,
        }
        # Ranks of pairs with nearly equal scores differ between processors.
        assert {name: row[name] for name in expected} == pytest.approx(
            expected, abs=1e-3, nan_ok=True
        )
        assert row[c.CLIPMEM_IMAGE] + row[c.CLIPMEM_TEXT] == pytest.approx(row[c.CLIPMEM], abs=1e-5)


@pytest.mark.parametrize("arm", [BASELINE, REMOVED])
def test_every_column_is_what_slow_loops_find(measured: Audit, arm: str) -> None:
    removed = np.zeros(len(measured.pairs), dtype=bool)
    if arm == REMOVED:
        setting = json.loads((lab.arm_folder(measured, arm) / "setting.json").read_text())
        removed[setting["removed_rows"]] = True
        assert removed.sum() == 25  # 9 % of 280
    check_baseline(measured, arm, removed)


def test_clipmem_of_a_pair_is_that_of_the_audit(measured: Audit) -> None:
    table = measured.scores
    expected = table[c.CLIPMEM].where(table[c.GROUP] != c.EXTERNAL)
    clipmem = lab.clipmem_by_pair(measured, BASELINE, measured.record.members)
    np.testing.assert_allclose(clipmem, expected, atol=1e-5)
    half = lab.clipmem_by_pair(measured, BASELINE, measured.record.members[:2])
    first, second = measured.membership[["r0-f0", "r0-f1"]].to_numpy().T
    assert (np.isnan(half) == (first == second)).all()


def test_the_highest_pairs_are_in_no_training_and_the_others_are_compared(measured: Audit) -> None:
    scores = measured.scores[measured.scores[c.GROUP] == c.SCORED]
    removed = np.isin(np.arange(330), scores.nlargest(25, c.CLIPMEM).index)
    changed = with_setting(open_shared(measured.folder), REMOVED)
    table = measured.membership[list(measured.record.members)].to_numpy().T & ~removed
    rows = rows_of(lab.lab_table(measured, [REMOVED]), REMOVED, REMOVED)
    alignments = lab.read_values(measured, REMOVED, measured.record.members)[:, 0]
    for number, name in enumerate(measured.record.members):
        trained = open_member(measured.folder, name, changed).data.rows
        assert trained.tolist() == np.flatnonzero(table[number]).tolist()
        partner = PARTNER[number]
        only = table[number] & ~table[partner]
        drift = (alignments[number] - alignments[partner])[only].mean()
        assert rows[c.CLIPMEM][number] == pytest.approx(drift)


def test_decided_pairs_are_not_compared_and_new_captions_are_embedded(audit: Audit) -> None:
    ids = audit.pairs[c.PAIR_ID]
    group = audit.membership[c.GROUP]
    trained = np.flatnonzero(group == c.SCORED)
    external = np.flatnonzero(group == c.EXTERNAL)
    review = open_review(audit)
    review.decide(ids[[*trained[:3], external[0]]].tolist(), REMOVE)
    text = "a purple zebra on a bicycle"
    review.decide(ids[[trained[5], external[1]]].tolist(), RECAPTION, captions=[text])
    name = train(audit, Arm({"decisions": True}, decided_for(audit)), members=2)
    changes = lab.read_changes(audit, name)
    assert np.flatnonzero(changes.removed).tolist() == trained[:3].tolist()
    assert changes.captions == {trained[5]: (text,)}
    assert np.flatnonzero(~changes.compared).tolist() == sorted([*trained[:3], trained[5]])
    before = open_shared(audit.folder).data
    shared = with_setting(open_shared(audit.folder), name)
    after = shared.data
    start = after.captions.start
    counts = np.full(330, 5)
    counts[trained[5]] = 1
    np.testing.assert_array_equal(np.diff(start), counts)
    expected = shared.towers.text.opened.embed([text])[0]
    first = start[trained[5]]
    np.testing.assert_allclose(after.tokens[first : first + 1][0], expected, atol=2e-3)
    old = before.captions.start
    last = after.tokens[start[-2] : start[-1]]
    np.testing.assert_array_equal(last, before.tokens[old[-2] : old[-1]])
    row = rows_of(lab.lab_table(audit, [name]), name, name).iloc[0]
    values = lab.read_values(audit, name, ["r0-f0", "r0-f1"])[:, 0]
    first, second = audit.membership[["r0-f0", "r0-f1"]].to_numpy().T & changes.compared
    assert row[c.CLIPMEM] == pytest.approx((values[0] - values[1])[first & ~second].mean())
    # Other decisions are another arm.
    review.decide(ids[[trained[9]]].tolist(), REMOVE)
    assert lab.begin(audit, Arm({"decisions": True}, decided_for(audit))).name != name


# --- Interruptions, processes and workers

TYPED = ["mitigate", "scenes", "--text-noise", "0.15", "--members", "4"]
COUNTS = """
import os
from clipmem_core.studies import training
train = training._train

def noted(run, is_wanted):
    with open(os.environ["CLIPMEM_DATA"] + "/trained.txt", "a") as file:
        print(run.name, file=file, flush=True)
    return train(run, is_wanted)

training._train = noted
"""


def test_a_killed_training_is_resumed_by_two_processes_with_the_same_table(
    typed: Path, lab_copy: Audit, tmp_path: Path, forks: Server
) -> None:
    data = tmp_path / "killed"
    audit = copy_of(typed, data)
    for moment in ("r0-f1/trajectory.npy", "r0-f1/measures.json"):
        at = f"os.rename:{NOISE}/{moment}"
        process = forks.start(*TYPED, data=data, before=KILLS, KILL_AT=at)
        process.communicate()
        assert process.returncode == 1
        assert "r0-f1" not in lab.finished_members(audit, NOISE)
        assert (lab.arm_folder(audit, NOISE) / "r0-f0").is_dir()
    before = lab.finished_members(audit, NOISE)  # of another couple, on a busy machine
    processes = [forks.start(*TYPED, data=data, before=COUNTS) for _ in range(2)]
    for process in processes:
        errors = process.communicate()[1]
        assert (errors.count("error"), process.returncode) == (0, 0), errors
    trained = (data / "trained.txt").read_text().split()
    assert sorted([*trained, *before]) == ["r0-f0", "r0-f1", "r0-f2", "r0-f3"]
    left = {path.name for path in lab.arm_folder(audit, NOISE).glob("r0-*/[!.]*")}
    assert left == {"log.jsonl", "measures.json", "pairs.npy"}
    for member in (lab_copy.folder / "mitigations").glob("*/r1-*"):
        shutil.rmtree(member)
    table, undisturbed = (lab.lab_table(each, [NOISE, BASELINE]) for each in (audit, lab_copy))
    assert len(table) == 4 * 3
    seconds = [lab.SECONDS]
    pd.testing.assert_frame_equal(table.drop(columns=seconds), undisturbed.drop(columns=seconds))


def forget(audit: Audit, arm: str, *members: str) -> None:
    for name in members:
        shutil.rmtree(lab.arm_folder(audit, arm) / name)


def close_when_idle(patch: pytest.MonkeyPatch) -> None:
    """Take every page for closed as soon as nothing is left to train."""
    sleep = SimpleNamespace(sleep=lambda _: patch.setattr(lab, "SECONDS_OPEN", 0))
    patch.setattr(training, "time", sleep)


def test_a_worker_abandons_what_no_page_wants(
    lab_copy: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(lab_copy, NOISE, *lab_copy.record.members[4:])
    close_when_idle(monkeypatch)
    before = training.train_couple
    began = []

    def changes_mind(shared: Any, arm: str, couple: Sequence[str], is_wanted: Any) -> None:
        began.append((arm, couple[0]))
        lab.want(lab_copy, "page", [])
        before(shared, arm, couple, is_wanted)

    monkeypatch.setattr(training, "train_couple", changes_mind)
    lab.want(lab_copy, "page", [NOISE])
    serve(lab_copy.folder, ["0"])
    assert began == [(NOISE, lab_copy.record.members[4])]
    assert len(lab.finished_members(lab_copy, NOISE)) == 4
    assert not list((lab_copy.folder / "mitigations" / ".wanted").glob("*.json"))  # page closed


def test_a_worker_trains_the_newest_wish_after_its_baseline_and_reports_faults(
    lab_copy: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    other = "text_noise-0.3"
    lab.begin(lab_copy, parse_arm("text_noise=0.3"))
    forget(lab_copy, BASELINE, "r1-f2")
    forget(lab_copy, NOISE, "r1-f2")
    forget(lab_copy, REMOVED, "r0-f1", "r1-f3")
    close_when_idle(monkeypatch)

    def stub(shared: Any, arm: str, couple: Sequence[str], is_wanted: Any) -> None:
        done.append((arm, couple))
        if arm == other:
            raise InputError("no such thing")
        for name in couple:
            folder = lab.arm_folder(lab_copy, arm) / name
            shutil.copytree(lab.arm_folder(lab_copy, UNCHANGED) / name, folder, dirs_exist_ok=True)

    monkeypatch.setattr(training, "train_couple", stub)
    for session, arms in {"a": [NOISE], "b": [other, REMOVED]}.items():
        lab.want(lab_copy, session, arms)
    serve(lab_copy.folder, ["0"])
    last = ("r1-f2", "r1-f3")
    first = ("r0-f0", "r0-f1")
    assert done == [
        (other, first),
        (REMOVED, first),
        (BASELINE, last),
        (REMOVED, last),
        (NOISE, last),
    ]
    assert lab.fault_of(lab_copy, other) == "no such thing"
    monkeypatch.undo()
    lab.want(lab_copy, "a", [NOISE, other])
    assert lab.wanted_arms(lab_copy) == [NOISE]
    lab.begin(lab_copy, parse_arm("text_noise=0.3"))  # it is tried again
    assert lab.wanted_arms(lab_copy) == [NOISE, other]
    (lab_copy.folder / "mitigations" / ".wanted" / "a.json").unlink()
    assert lab.wanted_arms(lab_copy) is None


def test_a_finished_couple_is_not_trained_again_and_a_removed_arm_is(
    lab_copy: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    monkeypatch.setattr(training, "train_couple", lambda *how: trained.append(how[1]))
    train_members(lab_copy.folder, [f"{NOISE}/r0-f0"])
    assert trained == []
    assert list(lab.list_arms(lab_copy)) == [UNCHANGED, NOISE, REMOVED]
    lab.remove_arm(lab_copy, NOISE)
    assert list(lab.list_arms(lab_copy)) == [UNCHANGED, REMOVED]
    table = pd.read_parquet(lab_copy.folder / "mitigations.parquet")
    assert NOISE not in set(table[lab.AGAINST])
    lab.begin(lab_copy, parse_arm("text_noise=0.15"))
    train_members(lab_copy.folder, [f"{NOISE}/r0-f0"])
    assert trained == [NOISE]


def test_a_page_measures_the_baseline_as_a_worker_does(lab_copy: Audit) -> None:
    first = lab.paired_members(lab_copy)[:2]
    before = lab.read_values(lab_copy, BASELINE, first)
    table = lab.lab_table(lab_copy, [BASELINE])
    forget(lab_copy, BASELINE, *lab_copy.record.members)
    lab.ensure_baseline(lab_copy, 2)
    assert lab.finished_members(lab_copy, BASELINE) == first
    np.testing.assert_allclose(lab.read_values(lab_copy, BASELINE, first), before, atol=1e-6)
    lab.ensure_baseline(lab_copy, len(lab_copy.record.members))
    pd.testing.assert_frame_equal(lab.lab_table(lab_copy, [BASELINE]), table, atol=1e-5)


# --- Wrong input

WRONG = {
    "": "no mitigation",
    "--text-noise=0": "no mitigation",
    "--text-noise=0.1 --members=3": "--members",
    "--text-noise=-1": "--text-noise",
    "--text-mask=0.3": "locked text tower",
    "--removal=clipmem:51": "removal",
    "--decisions": "decisions",
}


@pytest.mark.parametrize("flags", WRONG)
def test_wrong_input_is_one_line_and_nothing_is_written(
    typed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: str
) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(typed))
    check_refused(["mitigate", "scenes", *flags.split()], WRONG[flags], capsys)
    assert not (typed / "audits" / "scenes" / "mitigations").exists()


@pytest.mark.parametrize("kind", ["checkpoint", "not finished", "one member"])
def test_an_audit_that_cannot_train_again_is_refused(audit: Audit, kind: str) -> None:
    if kind == "checkpoint":
        path = audit.member("r0-f0") / "config.json"
        write_json(path, json.loads(path.read_text()) | {"checkpoint": "/x/epoch_9.pt"})
    elif kind == "not finished":
        (audit.folder / "manifest.json").unlink()
    else:
        path = audit.folder / "config.json"
        write_json(path, json.loads(path.read_text()) | {"members": ["r0-f0"]})
    with pytest.raises(InputError, match=kind):
        lab.begin(audit, parse_arm("text_noise=0.1"))
    assert not (audit.folder / "mitigations").exists()
