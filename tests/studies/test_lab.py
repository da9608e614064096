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
from clipmem_core.cli import main
from clipmem_core.io import InputError
from clipmem_core.review.decisions import RECAPTION, REMOVE, decided_for, open_review
from clipmem_core.scores.attacks import BAVARIA, Shadows, attack
from clipmem_core.scores.membership import draw_utility_pairs
from clipmem_core.studies import lab, lab_training
from clipmem_core.studies.arm import NONE, Arm, parse_arm
from clipmem_core.studies.lab_training import serve, train_members, with_setting
from tests.audit.small import aligned, embeddings
from tests.audit.test_locked import KILLS
from tests.forked import Server
from tests.studies.conftest import AGAIN, NOISE, REMOVED, copy_of, train

PARTNER = np.array([1, 0, 3, 2, 5, 4, 7, 6])
UNEQUAL = [lab.ARM, lab.AGAINST, lab.SECONDS]


@pytest.fixture
def audit(typed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """A finished audit without a lab."""
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path / "data"))
    return copy_of(typed, tmp_path / "data")


@pytest.fixture
def own(lab_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """A copy of the audit with its arms."""
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path / "data"))
    return copy_of(lab_data, tmp_path / "data")


def rows_of(table: pd.DataFrame, arm: str, against: str) -> pd.DataFrame:
    found = table[(table[lab.ARM] == arm) & (table[lab.AGAINST] == against)]
    return found.reset_index(drop=True)


# --- What is measured


def test_members_train_again_as_they_did(measured: Audit) -> None:
    table = pd.read_parquet(measured.folder / "mitigations.parquet")
    again, none = (rows_of(table, arm, AGAIN).drop(columns=UNEQUAL) for arm in (AGAIN, NONE))
    assert again[c.MEMBER].tolist() == list(measured.record.members)
    pd.testing.assert_frame_equal(again, none)
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
    partner = PARTNER[: len(members)]
    rows = rows_of(lab.lab_table(audit, [arm]), NONE, arm)
    assert rows[c.MEMBER].tolist() == members
    alignments = np.stack(
        [aligned(*embeddings(audit, name), external)["alignment"] for name in members]
    )
    attacked = ~removed & np.isin(group, ["scored", "candidate", "independent"])
    everywhere = [np.broadcast_to(where, alignments.shape) for where in (attacked, external)]
    replicate = np.array([int(name.split("-")[0][1:] or name[-1]) for name in members])
    shadows = Shadows(in_training, *everywhere, replicate, seed=seed)
    guesses = attack(alignments, shadows, attacks=(BAVARIA,))
    for number, row in enumerate(rows.to_dict("records")):
        folder = audit.member(row[c.MEMBER])
        own = alignments[number]
        other = alignments[partner[number]]
        only = in_training[number] & ~in_training[partner[number]] & ~removed
        assert only.sum() > 20
        auroc = roc_auc_score(in_training[number][attacked], own[attacked])
        trained = guesses[number].trained
        scores = guesses[number].scores[BAVARIA]
        alarms, detected, _ = roc_curve(trained, scores, drop_intermediate=False)
        utility = json.loads((folder / "utility.json").read_text())
        recalls = [utility.pop(name) for name in list(utility) if "_R@" in name]
        assert len(recalls) == 6
        log = (folder / "log.jsonl").read_text().splitlines()
        expected = {
            c.CLIPMEM: (own - other)[only].mean(),
            "clipmem_external": (own - other)[external].mean(),
            "membership_auroc": auroc,
            c.ATTACK_AUROC: roc_auc_score(trained, scores),
            # Absent where 1 % is less than one false alarm.
            c.ATTACK_TPR: detected[alarms <= 0.01].max() if sum(~trained) >= 100 else np.nan,
            "retrieval": np.mean(recalls),
            "seconds": json.loads(log[-1])["seconds"],
            **utility,
        }
        assert {name: row[name] for name in expected} == pytest.approx(
            expected, abs=1e-4, nan_ok=True
        )
        assert row[c.CLIPMEM_IMAGE] + row[c.CLIPMEM_TEXT] == pytest.approx(row[c.CLIPMEM], abs=1e-5)


@pytest.mark.parametrize("arm", [NONE, REMOVED])
def test_every_column_is_what_slow_loops_find(measured: Audit, arm: str) -> None:
    removed = np.zeros(len(measured.pairs), dtype=bool)
    if arm == REMOVED:
        setting = json.loads((lab.arm_folder(measured, arm) / "setting.json").read_text())
        removed = measured.pairs[c.PAIR_ID].isin(setting["removed"]).to_numpy()
        assert removed.sum() == 25  # 9 % of 280
    check_baseline(measured, arm, removed)


def test_clipmem_of_a_pair_is_that_of_the_audit(measured: Audit) -> None:
    found = lab.clipmem_by_pair(measured, NONE, measured.record.members)
    table = measured.scores
    expected = table[c.CLIPMEM].where(table[c.GROUP] != c.EXTERNAL)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    half = lab.clipmem_by_pair(measured, NONE, measured.record.members[:2])
    trained = measured.membership[["r0-f0", "r0-f1"]].to_numpy()
    assert (np.isnan(half) == (trained[:, 0] == trained[:, 1])).all()


def test_the_highest_pairs_are_in_no_training_and_the_others_are_compared(measured: Audit) -> None:
    scores = measured.scores[measured.scores[c.GROUP] == c.SCORED]
    highest = scores.nlargest(25, c.CLIPMEM).index
    removed = np.isin(np.arange(330), highest)
    shared = open_shared(measured.folder)
    changed = with_setting(shared, REMOVED)
    table = measured.membership
    rows = rows_of(lab.lab_table(measured, [REMOVED]), REMOVED, REMOVED)
    values = lab.read_values(measured, REMOVED, measured.record.members)
    for number, name in enumerate(measured.record.members):
        trained = open_member(measured.folder, name, changed).data.rows
        assert trained.tolist() == np.flatnonzero(table[name] & ~removed).tolist()
        partner = PARTNER[number]
        only = table[name] & ~table.iloc[:, 2 + partner] & ~removed
        drift = (values[number, 0] - values[partner, 0])[only].mean()
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
    changes = lab.read_setting(audit, name)[1]
    assert np.flatnonzero(changes.removed).tolist() == trained[:3].tolist()
    assert changes.captions == {trained[5]: (text,)}
    assert np.flatnonzero(~changes.compared).tolist() == sorted([*trained[:3], trained[5]])
    before = open_shared(audit.folder)
    after = with_setting(before, name)
    start = after.data.caption_start
    old = before.data.caption_start
    assert np.diff(start).tolist() == [1 if row == trained[5] else 5 for row in range(330)]
    tower = after.towers.text
    assert tower is not None
    expected = tower.open().embed([text])[0]
    first = start[trained[5]]
    np.testing.assert_allclose(after.data.tokens[first : first + 1][0], expected, atol=2e-3)
    last = after.data.tokens[start[-2] : start[-1]]
    np.testing.assert_array_equal(last, before.data.tokens[old[-2] : old[-1]])
    row = rows_of(lab.lab_table(audit, [name]), name, name).iloc[0]
    values = lab.read_values(audit, name, ["r0-f0", "r0-f1"])[:, 0]
    first, second = (audit.membership[member] & changes.compared for member in ("r0-f0", "r0-f1"))
    assert row[c.CLIPMEM] == pytest.approx((values[0] - values[1])[first & ~second].mean())
    # Other decisions are another arm.
    review.decide(ids[[trained[9]]].tolist(), REMOVE)
    assert lab.begin(audit, Arm({"decisions": True}, decided_for(audit))).name != name


# --- Interruptions, processes and workers

TYPED = ["mitigate", "scenes", "--text-noise", "0.15", "--members", "4"]
COUNTS = """
import os
from clipmem_core.studies import lab_training
train = lab_training._train

def noted(run, goes_on):
    with open(os.environ["CLIPMEM_DATA"] + "/trained.txt", "a") as file:
        print(run.name, file=file, flush=True)
    return train(run, goes_on)

lab_training._train = noted
"""


def check_four(audit: Audit, own: Audit) -> None:
    """Compare the table of an audit with that of an undisturbed run of four members."""
    for folder in (own.folder / "mitigations").iterdir():
        if folder.name not in (NONE, NOISE):
            shutil.rmtree(folder, ignore_errors=True)
        for member in folder.glob("r1-*"):
            shutil.rmtree(member)
    lab.write_lab_table(own)
    found, expected = (
        pd.read_parquet(each.folder / "mitigations.parquet") for each in (audit, own)
    )
    assert len(found) == 4 * 3
    pd.testing.assert_frame_equal(found.drop(columns="seconds"), expected.drop(columns="seconds"))


def test_a_killed_training_ends_with_the_same_table(
    typed: Path, own: Audit, tmp_path: Path, forks: Server
) -> None:
    audit = copy_of(typed, tmp_path / "killed")
    data = tmp_path / "killed"
    for moment in ("r0-f1/trajectory.npy", "r0-f1/measures.json"):
        at = f"os.rename:{NOISE}/{moment}"
        process = forks.start(*TYPED, data=data, before=KILLS, KILL_AT=at)
        process.communicate()
        assert process.returncode == 1
        assert "r0-f1" not in lab.finished_members(audit, NOISE)
        assert (lab.arm_folder(audit, NOISE) / "r0-f0").is_dir()
    process = forks.start(*TYPED, data=data)
    assert (process.communicate()[1].count("error"), process.returncode) == (0, 0)
    check_four(audit, own)
    left = {path.name for path in lab.arm_folder(audit, NOISE).glob("r0-*/[!.]*")}
    assert left == {"log.jsonl", "measures.json", "pairs.npy"}


def test_two_processes_train_every_couple_once(
    typed: Path, own: Audit, tmp_path: Path, forks: Server
) -> None:
    data = tmp_path / "two"
    audit = copy_of(typed, data)
    processes = [forks.start(*TYPED, data=data, before=COUNTS) for _ in range(2)]
    for process in processes:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
    trained = (data / "trained.txt").read_text().split()
    assert sorted(trained) == ["r0-f0", "r0-f1", "r0-f2", "r0-f3"]
    check_four(audit, own)


def forget(audit: Audit, arm: str, *members: str) -> None:
    for name in members:
        shutil.rmtree(lab.arm_folder(audit, arm) / name)


def close_when_idle(patch: pytest.MonkeyPatch) -> None:
    """Take every page for closed as soon as nothing is left to train."""
    sleep = SimpleNamespace(sleep=lambda _: patch.setattr(lab, "SECONDS_OPEN", 0))
    patch.setattr(lab_training, "time", sleep)


@pytest.mark.parametrize("finished", [4, 6])
def test_a_worker_abandons_what_no_page_wants_unless_it_is_nearly_done(
    own: Audit, monkeypatch: pytest.MonkeyPatch, finished: int
) -> None:
    forget(own, NOISE, *own.record.members[finished:])
    close_when_idle(monkeypatch)
    before = lab_training.train_couple
    began = []

    def changes_mind(shared: Any, arm: str, couple: Sequence[str], goes_on: Any) -> None:
        began.append((arm, couple[0]))
        lab.want(own, "page", [])
        before(shared, arm, couple, goes_on)

    monkeypatch.setattr(lab_training, "train_couple", changes_mind)
    lab.want(own, "page", [NOISE])
    serve(own.folder, ["0"])
    assert began == [(NOISE, own.record.members[finished])]
    assert len(lab.finished_members(own, NOISE)) == (4 if finished == 4 else 8)
    assert not list((own.folder / "mitigations" / ".wanted").glob("*.json"))  # the page is closed
    if finished == 6:
        rows = rows_of(pd.read_parquet(own.folder / "mitigations.parquet"), NOISE, NOISE)
        assert len(rows) == 8


def test_a_worker_trains_the_newest_wish_after_its_baseline_and_reports_faults(
    own: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    other = "text_noise-0.3"
    lab.begin(own, parse_arm("text_noise=0.3"))
    forget(own, NONE, "r1-f2")
    forget(own, NOISE, "r1-f2")
    forget(own, REMOVED, "r0-f1", "r1-f3")
    close_when_idle(monkeypatch)

    def stub(shared: Any, arm: str, couple: Sequence[str], goes_on: Any) -> None:
        done.append((arm, couple))
        if arm == other:
            raise InputError("no such thing")
        for name in couple:
            folder = lab.arm_folder(own, arm) / name
            shutil.copytree(lab.arm_folder(own, AGAIN) / name, folder, dirs_exist_ok=True)

    monkeypatch.setattr(lab_training, "train_couple", stub)
    for session, arms in {"a": [NOISE], "b": [other, REMOVED]}.items():
        lab.want(own, session, arms)
    serve(own.folder, ["0"])
    last = ("r1-f2", "r1-f3")
    first = ("r0-f0", "r0-f1")
    assert done == [(other, first), (REMOVED, first), (NONE, last), (REMOVED, last), (NOISE, last)]
    assert lab.fault_of(own, other) == "no such thing"
    monkeypatch.undo()
    lab.want(own, "a", [NOISE, other])
    assert lab.wanted_arms(own) == [NOISE]
    lab.begin(own, parse_arm("text_noise=0.3"))  # it is tried again
    assert lab.wanted_arms(own) == [NOISE, other]
    (own.folder / "mitigations" / ".wanted" / "a.json").unlink()
    assert lab.wanted_arms(own) is None
    lab.stay_open(own, "a")  # a page that was silent for long
    serve(own.folder, ["0"])


def test_a_finished_couple_is_not_trained_again_and_a_removed_arm_is(
    own: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    monkeypatch.setattr(lab_training, "train_couple", lambda *how: trained.append(how[1]))
    train_members(own.folder, [f"{NOISE}/r0-f0"])
    assert trained == []
    assert list(lab.list_arms(own)) == [AGAIN, NOISE, REMOVED]
    lab.remove_arm(own, NOISE)
    assert list(lab.list_arms(own)) == [AGAIN, REMOVED]
    table = pd.read_parquet(own.folder / "mitigations.parquet")
    assert NOISE not in set(table[lab.AGAINST])
    lab.begin(own, parse_arm("text_noise=0.15"))
    train_members(own.folder, [f"{NOISE}/r0-f0"])
    assert trained == [NOISE]


# --- Wrong input

WRONG = {
    "": "no mitigation",
    "--text-noise=0": "no mitigation",
    "--text-noise=0.1 --members=3": "--members",
    "--text-noise=0.1 --members=-2": "--members",
    "--text-noise=-1": "--text-noise",
    "--text-noise=much": "--text-noise",
    "--text-mask=0.3": "locked text tower",
    "--removal=clipmem": "removal",
    "--removal=clipmem:51": "removal",
    "--removal=size:5": "removal",
    "--decisions": "decisions",
    "--text-niose=1": "--text-noise",
    "--seed=3": "--seed",
}


@pytest.mark.parametrize("flags", WRONG)
def test_wrong_input_is_one_line_and_nothing_is_written(
    typed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: str
) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(typed))
    assert main(["mitigate", "scenes", *flags.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert WRONG[flags] in line
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
