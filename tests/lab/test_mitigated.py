"""The lab: an audit's members train again with a setting, and what is measured of them."""

import json
import shutil
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.run.member import open_member, open_shared
from clipmem_core.lab import lab_pool, mitigated
from clipmem_core.lab import study as studies
from clipmem_core.lab.setting import BASELINE, Setting, parse_setting
from clipmem_core.lab.study import train_members, with_setting
from clipmem_core.review.decisions import RECAPTION, REMOVE, open_review
from clipmem_core.scores.attacks import BAVARIA, attack
from clipmem_core.scores.membership import draw_utility_pairs
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError
from tests.audit.small import aligned, embeddings
from tests.audit.test_locked import KILLS
from tests.forked import Server
from tests.lab.conftest import NOISE, REMOVED, UNCHANGED, copy_of, train

PARTNER = np.array([1, 0, 3, 2, 5, 4, 7, 6])
UNEQUAL = [mitigated.SETTING, mitigated.AGAINST, mitigated.SECONDS]


@pytest.fixture
def audit(typed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """A finished audit without a lab."""
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path / "data"))
    return copy_of(typed, tmp_path / "data")


@pytest.fixture
def lab_copy(lab_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """A copy of the audit with its settings."""
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path / "data"))
    return copy_of(lab_data, tmp_path / "data")


def rows_of(table: pd.DataFrame, setting: str, against: str) -> pd.DataFrame:
    found = table[(table[mitigated.SETTING] == setting) & (table[mitigated.AGAINST] == against)]
    return found.reset_index(drop=True)


# --- What is measured


def test_members_train_again_as_they_did(measured: Audit) -> None:
    table = mitigated.lab_table(measured, [UNCHANGED, NOISE, BASELINE])
    unchanged, none = (
        rows_of(table, setting, UNCHANGED).drop(columns=UNEQUAL)
        for setting in (UNCHANGED, BASELINE)
    )
    assert unchanged[c.MEMBER].tolist() == list(measured.record.members)
    pd.testing.assert_frame_equal(unchanged, none)
    noisy = rows_of(table, NOISE, NOISE)
    assert (noisy[c.CLIPMEM] - none[c.CLIPMEM]).abs().min() > 1e-4


def check_baseline(audit: Audit, setting: str, removed: np.ndarray) -> None:
    """Compare the rows of the baseline for a setting with slow loops over its embeddings."""
    table = audit.membership
    group = table["group"].to_numpy()
    members = list(audit.record.members)
    in_training = table[members].to_numpy().T
    held_out = group == "held-out"
    if audit.record.config.retrieval_apart:
        clusters = np.load(audit.folder / ".prepared.npz")["clusters"]
        held_out &= ~draw_utility_pairs(group, clusters, seed=audit.record.config.seed)
    rows = rows_of(mitigated.lab_table(audit, [setting]), BASELINE, setting)
    assert rows[c.MEMBER].tolist() == members
    alignments = [aligned(*embeddings(audit, name), held_out)["alignment"] for name in members]
    attacked = ~removed & np.isin(group, ["scored", "candidate", "independent"])
    guesses = attack(alignments, mitigated.lab_in_out(audit, members), np.flatnonzero(attacked))
    for number, row in enumerate(rows.to_dict("records")):
        folder = audit.member(row[c.MEMBER])
        alignment = alignments[number]
        lead = alignment - alignments[PARTNER[number]]
        only = in_training[number] & ~in_training[PARTNER[number]] & ~removed
        assert only.sum() > 20
        trained = in_training[number][attacked]
        utility = json.loads((folder / "utility.json").read_text())
        recalls = [utility.pop(name) for name in list(utility) if "_R@" in name]
        assert len(recalls) == 6
        log = (folder / "log.jsonl").read_text().splitlines()
        expected = {
            c.CLIPMEM: lead[only].mean(),
            "clipmem_held_out": lead[held_out].mean(),
            "membership_auroc": roc_auc_score(trained, alignment[attacked]),
            c.ATTACK_AUROC: roc_auc_score(trained, guesses[number].scores[BAVARIA]),
            "retrieval": np.mean(recalls),
            "seconds": json.loads(log[-1])["seconds"],
            **utility,
        }
        # Ranks of pairs with nearly equal scores differ between processors.
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-3)
        assert row[c.CLIPMEM_IMAGE] + row[c.CLIPMEM_TEXT] == pytest.approx(row[c.CLIPMEM], abs=1e-5)


@pytest.mark.parametrize("setting", [BASELINE, REMOVED])
def test_every_column_is_what_slow_loops_find(measured: Audit, setting: str) -> None:
    removed = np.zeros(len(measured.pairs), dtype=bool)
    if setting == REMOVED:
        path = mitigated.setting_folder(measured, setting) / "setting.json"
        removed[json.loads(path.read_text())["removed_rows"]] = True
        assert removed.sum() == 25  # 9 % of 280
    check_baseline(measured, setting, removed)


def test_clipmem_of_a_pair_is_that_of_the_audit(measured: Audit) -> None:
    table = measured.scores
    expected = table[c.CLIPMEM].where(table[c.GROUP] != c.HELD_OUT)
    clipmem = mitigated.clipmem_by_pair(measured, BASELINE, measured.record.members)
    np.testing.assert_allclose(clipmem, expected, atol=1e-5)
    half = mitigated.clipmem_by_pair(measured, BASELINE, measured.record.members[:2])
    first, second = measured.membership[["r0-f0", "r0-f1"]].to_numpy().T
    assert (np.isnan(half) == (first == second)).all()


def test_the_highest_pairs_are_in_no_training_and_the_others_are_compared(measured: Audit) -> None:
    scores = measured.scores[measured.scores[c.GROUP] == c.SCORED]
    removed = np.isin(np.arange(330), scores.nlargest(25, c.CLIPMEM).index)
    changed = with_setting(open_shared(measured.folder), REMOVED)
    names = ["r0-f0", "r0-f1"]
    first, second = measured.membership[names].to_numpy().T & ~removed
    trained = open_member(measured.folder, names[0], changed).data.rows
    assert trained.tolist() == np.flatnonzero(first).tolist()
    rows = rows_of(mitigated.lab_table(measured, [REMOVED]), REMOVED, REMOVED)
    values = mitigated.read_values(measured, REMOVED, names)[:, 0]
    drift = (values[0] - values[1])[first & ~second].mean()
    assert rows[c.CLIPMEM][0] == pytest.approx(drift)


def test_decided_pairs_are_not_compared_and_new_captions_are_embedded(audit: Audit) -> None:
    ids = audit.pairs[c.PAIR_ID]
    group = audit.membership[c.GROUP]
    trained = np.flatnonzero(group == c.SCORED)
    held_out = np.flatnonzero(group == c.HELD_OUT)
    review = open_review(audit)
    review.decide(ids[[*trained[:3], held_out[0]]].tolist(), REMOVE)
    text = "a purple zebra on a bicycle"
    review.decide(ids[[trained[5], held_out[1]]].tolist(), RECAPTION, captions=[text])
    name = train(audit, Setting({"decisions": True}, open_review(audit).changes()), members=2)
    changes = mitigated.read_changes(audit, name)
    assert np.flatnonzero(changes.removed).tolist() == trained[:3].tolist()
    assert changes.captions == {trained[5]: (text,)}
    shared = with_setting(open_shared(audit.folder), name)
    captions = shared.data.captions
    assert np.flatnonzero(captions.counts != 5).tolist() == [trained[5]]
    expected = shared.towers.text.opened.embed([text])[0]
    first = captions.start[trained[5]]
    np.testing.assert_allclose(shared.data.tokens[first : first + 1][0], expected, atol=2e-3)
    row = rows_of(mitigated.lab_table(audit, [name]), name, name).iloc[0]
    values = mitigated.read_values(audit, name, ["r0-f0", "r0-f1"])[:, 0]
    first, second = audit.membership[["r0-f0", "r0-f1"]].to_numpy().T & changes.compared
    assert row[c.CLIPMEM] == pytest.approx((values[0] - values[1])[first & ~second].mean())


# --- Interruptions and processes

TYPED = ["mitigate", "scenes", "--text-noise", "0.15"]
COUNTS = """
import os
from clipmem_core.lab import study as studies
train = studies.trained_model

def noted(run):
    with open(os.environ["CLIPMEM_DATA"] + "/trained.txt", "a") as file:
        print(run.name, file=file, flush=True)
    return train(run)

studies.trained_model = noted
"""


def test_a_killed_training_is_resumed_by_two_processes_with_the_same_table(
    typed: Path, lab_copy: Audit, tmp_path: Path, forks: Server
) -> None:
    data = tmp_path / "killed"
    audit = copy_of(typed, data)
    process = forks.start(
        *TYPED, data=data, before=KILLS, KILL_AT=f"os.rename:{NOISE}/r0-f1/measures.json"
    )
    process.communicate()
    assert process.returncode == 1
    assert "r0-f1" not in mitigated.finished_members(audit, NOISE)
    before = mitigated.finished_members(
        audit, NOISE
    )  # of another pair of members, on a busy machine
    processes = [forks.start(*TYPED, data=data, before=COUNTS) for _ in range(2)]
    for process in processes:
        errors = process.communicate()[1]
        assert (errors.count("error"), process.returncode) == (0, 0), errors
    trained = (data / "trained.txt").read_text().split()
    assert sorted([*trained, *before]) == sorted(audit.record.members)
    left = {path.name for path in mitigated.setting_folder(audit, NOISE).glob("r?-*/[!.]*")}
    assert left == {"log.jsonl", "measures.json", "pairs.npy"}
    table, undisturbed = (
        mitigated.lab_table(each, [NOISE, BASELINE]) for each in (audit, lab_copy)
    )
    assert len(table) == 8 * 3
    seconds = [mitigated.SECONDS]
    pd.testing.assert_frame_equal(table.drop(columns=seconds), undisturbed.drop(columns=seconds))


def test_the_pool_gives_free_processes_the_next_members_and_reports_faults(
    lab_copy: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[str, Future[None]]] = []
    pools = []

    def schedule(work: object, args: tuple[Any, ...]) -> Future[None]:
        if args[1:]:  # the others prepare
            begun.append((args[1].partition("/")[0], Future()))
        return begun[-1][1] if begun else Future()

    def open_pool(size: int) -> Any:
        ends = dict.fromkeys(("stop", "join"), lambda: None)
        pools.append(SimpleNamespace(schedule=schedule, active=True, **ends))
        return pools[-1]

    monkeypatch.setattr(lab_pool, "open_pool", open_pool)
    monkeypatch.setattr(lab_pool, "side_by_side", lambda config: 1)
    for setting in (NOISE, REMOVED):
        shutil.rmtree(mitigated.setting_folder(lab_copy, setting) / "r0-f1")
    pool = lab_pool.LabPool(lab_copy)
    assert pool.ask(BASELINE) == pool.ask(NOISE) == pool.ask(REMOVED) == ""
    assert [setting for setting, _ in begun] == [NOISE]  # the process is busy
    begun[0][1].set_exception(InputError("no such thing"))
    assert pool.ask(NOISE) == "no such thing"
    assert pool.ask(REMOVED) == ""
    begun[1][1].set_result(None)
    assert pool.ask(NOISE, again=True) == ""
    pools[0].active = False  # all its processes were killed
    assert pool.ask(NOISE) == ""
    assert ([setting for setting, _ in begun], len(pools)) == ([NOISE, REMOVED, NOISE, NOISE], 2)
    pool.stop()


def test_a_finished_member_pair_is_not_trained_again_and_a_removed_setting_is(
    lab_copy: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    monkeypatch.setattr(studies, "train_member_pair", lambda *how: trained.append(how[1]))
    train_members(lab_copy.folder, [f"{NOISE}/r0-f0"])
    assert trained == []
    assert list(mitigated.list_settings(lab_copy)) == [UNCHANGED, NOISE, REMOVED]
    mitigated.remove_setting(lab_copy, NOISE)
    assert list(mitigated.list_settings(lab_copy)) == [UNCHANGED, REMOVED]
    mitigated.begin(lab_copy, parse_setting("text_noise=0.15"))
    train_members(lab_copy.folder, [f"{NOISE}/r0-f0"])
    assert trained == [NOISE]


def test_an_audit_that_is_not_finished_is_refused(audit: Audit) -> None:
    (audit.folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="not finished"):
        mitigated.begin(audit, parse_setting("text_noise=0.1"))
    assert not (audit.folder / "mitigations").exists()
