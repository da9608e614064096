"""Faults of a pipeline: one decision each, in Python and by command, and its effects."""

import numpy as np
import pytest

from clipmem_core import open_audit
from clipmem_core.audit.store import (
    CAPTION_TABLE,
    SCORES,
    VERDICT,
    Audit,
    write_json,
)
from clipmem_core.cli import main
from clipmem_core.review.decisions import KEEP, RECAPTION, REMOVE, Review, count_decisions
from clipmem_core.review.incidents import incidents_line
from clipmem_core.review.rows import find_rows
from clipmem_core.review.selection import Selection, from_parameters, to_parameters
from clipmem_core.review.wrong_captions import review_progress, wrong_lines
from tests.fixtures import caption_rows, rewrite, write_incidents

Captured = pytest.CaptureFixture[str]


def test_a_repair_is_one_event_that_spares_decisions_and_is_undone(
    audit: Audit, review: Review, capsys: Captured
) -> None:
    write_incidents(audit)
    frames = open_audit("made")
    assert frames.incidents()["repairs"].to_dict() == {1: 9, 2: 0}
    ids = audit.pairs["pair_id"].tolist()
    repairs = frames.repairs(1)
    assert repairs["pair_id"].tolist() == ids[20:29]
    assert repairs["from_pair_id"].tolist() == ids[21:30]
    review.decide([ids[20]], KEEP)
    review.decide([ids[21]], None, note="mine")
    for wrong in ("7", "2"):  # unknown, without a repair
        assert main(["incidents", "made", "--repair", wrong]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert review.count_events() == 2
    assert main(["incidents", "made", "--repair", "1", "2"]) == 0
    assert capsys.readouterr().out.startswith("repair: 8 pairs")
    assert "incident 1: shift" in review.history(page=1, size=1)["note"].item()
    made = review.decisions(ids)
    assert made[ids[20]].decision == KEEP
    for row in range(21, 29):
        assert made[ids[row]].captions == tuple(audit.pairs["captions"][row + 1])
    assert [made[ids[row]].note for row in (21, 22)] == ["mine", "incident 1: shift"]
    assert made[ids[29]].entry == 0
    assert main(["incidents", "made", "--repair", "1"]) == 2
    assert review.undo(made[ids[22]].event).pairs == 8
    left = {each.pair_id: each.decision or each.note for each in review.decisions(ids).values()}
    assert {pair_id: made for pair_id, made in left.items() if made} == {
        ids[20]: KEEP,
        ids[21]: "mine",
    }


def test_a_fault_without_repair_is_removed_or_kept_in_one_event(
    audit: Audit, review: Review
) -> None:
    write_incidents(audit)
    ids = audit.pairs["pair_id"].tolist()
    captions = audit.pairs["captions"].tolist()
    rows = caption_rows(audit)
    first = rows["pair_id"].eq(ids[40]) & rows["caption"].eq(0)
    rewrite(audit.folder / CAPTION_TABLE, rows.assign(check=np.where(first, "file_name", "")))
    assert main(["incidents", "made", "--remove", "2"]) == 0
    made = review.decisions([ids[40], ids[50]])
    assert (made[ids[40]].decision, made[ids[40]].captions) == (RECAPTION, tuple(captions[40][1:]))
    assert made[ids[50]].decision == REMOVE
    assert review.undo(made[ids[50]].event).pairs == 2
    assert main(["incidents", "made", "--keep", "2"]) == 0
    assert count_decisions(audit)[KEEP] == 2
    assert main(["incidents", "made", "--remove", "2"]) == 2  # nothing is left to decide


def test_repaired_pairs_no_longer_count_as_wrong(audit: Audit) -> None:
    p_wrong = np.full(100, 0.02)
    p_wrong[[*range(20, 30), 60, 61]] = 0.98
    scores = audit.scores.assign(p_wrong=p_wrong, suspicion=p_wrong)
    rewrite(audit.folder / SCORES, scores)
    wrong = {"missing": None, "all": {"estimate": 14.0, "low": 9.0, "high": 20.0}, "of": 100}
    wrong |= {"parts": [0.0, 14.0, 0.0, 0.0], "counted": ["pairs"], "kinds": [], "several": False}
    wrong |= {"injected": 0, "injected_vague": 0}
    verdict = audit.verdict | {"wrong_captions": wrong}
    write_json(audit.folder / VERDICT, verdict)
    write_incidents(audit)
    before = review_progress(audit)
    assert [int(word) for word in incidents_line(audit).split() if word.isdigit()] == [
        2,
        10,
        round(before.remaining),
    ]
    main(["incidents", "made", "--repair", "1"])
    after = review_progress(audit)
    assert before.remaining - after.remaining == pytest.approx(9, abs=0.7)
    assert (after.decided, after.repaired, after.certificate.checks) == (0, 9, [])
    assert wrong_lines(audit)[0] == after.sentence != ""


def test_pairs_of_an_incident_are_selected(audit: Audit) -> None:
    write_incidents(audit)
    selection = Selection(incident="2")
    assert from_parameters(to_parameters(selection)) == (selection, [])
    assert sorted(find_rows(audit, selection, size=9)) == [40, 50]
    assert not find_rows(audit, Selection(incident="x"), size=9)
