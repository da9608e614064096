"""Faults of a pipeline: one decision each, in Python and by command, and its effects."""

from collections.abc import Sequence

import numpy as np
import pytest

from clipmem_core import open_audit
from clipmem_core.auditing.folder.store import CAPTION_TABLE, SCORES, VERDICT, Audit, write_json
from clipmem_core.cli import main
from clipmem_core.review.decisions import (
    KEEP,
    RECAPTION,
    REMOVE,
    Review,
    count_decisions,
    open_review,
)
from clipmem_core.review.progress_and_repair import (
    decide_incidents,
    incidents_line,
    review_progress,
    wrong_lines,
)
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
    assert len(review.history()) == 2
    assert main(["incidents", "made", "--repair", "1", "2"]) == 0
    assert capsys.readouterr().out.startswith("repair: 8 pairs")
    label = review.history()["note"].iloc[0]
    assert "incident 1: shift" in label
    assert "incident 2: " in label
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


def write_estimate(audit: Audit, wrong: Sequence[int]) -> None:
    """Give some rows a high probability of a wrong caption, and the verdict their number."""
    p_wrong = np.full(100, 0.02)
    p_wrong[wrong] = 0.98
    rewrite(audit.folder / SCORES, audit.scores.assign(p_wrong=p_wrong, suspicion=p_wrong))
    found = {"missing": None, "all": {"estimate": 14.0, "low": 9.0, "high": 20.0}, "of": 100}
    found |= {"parts": [0.0, 14.0, 0.0, 0.0], "counted": ["pairs"], "kinds": [], "several": False}
    found |= {"injected": 0, "injected_vague": 0}
    write_json(audit.folder / VERDICT, audit.verdict | {"wrong_captions": found})


def test_repaired_pairs_no_longer_count_as_wrong(audit: Audit) -> None:
    write_estimate(audit, [*range(20, 30), 60, 61])
    write_incidents(audit)
    before = review_progress(audit)
    assert f"about 10 of the {before.remaining:.0f} " in incidents_line(audit)
    main(["incidents", "made", "--repair", "1"])
    after = review_progress(audit)
    assert before.remaining - after.remaining == pytest.approx(9, abs=0.7)
    assert (after.decided, after.repaired, after.certificate.checks) == (0, 9, [])
    assert wrong_lines(audit)[0] == after.sentence != ""


def test_a_pair_that_lost_a_caption_is_as_likely_wrong_as_its_others(audit: Audit) -> None:
    write_estimate(audit, [40, 50, 60])
    write_incidents(audit)
    rows = caption_rows(audit)
    of_pair = rows["pair_id"] == audit.pairs["pair_id"][40]
    rows.loc[of_pair, "check"] = ["file_name", "", ""]
    remaining = []
    for p_wrong in (0.98, 0.0):
        rows.loc[of_pair, "p_wrong"] = [0.98, p_wrong, 0.0]
        rewrite(audit.folder / CAPTION_TABLE, rows)
        event = decide_incidents(audit, [2], REMOVE).event
        progress = review_progress(audit)
        assert progress.repaired == 2
        remaining.append(progress.remaining)
        open_review(audit).undo(event)
    assert remaining[0] - remaining[1] == pytest.approx(1, abs=0.1)
