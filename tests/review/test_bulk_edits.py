"""Decisions of tables, in each format, also of another audit, and find and replace."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from clipmem_core import open_audit
from clipmem_core.auditing.folder.store import CONFIG, PAIRS, Audit, write_json
from clipmem_core.cli import main
from clipmem_core.export.formats import export_audit
from clipmem_core.review.bulk_edits import preview_replacement
from clipmem_core.review.cards import cards
from clipmem_core.review.decisions import KEEP, RECAPTION, REMOVE, Review, decided, open_review
from clipmem_core.review.filters import find_rows
from clipmem_core.review.log import Choice
from clipmem_core.review.views import Selection
from tests.fixtures import Copy, rewrite
from tests.review.test_key_presses import event_of, send

COLUMNS = ["pair_id", "decision", "captions", "note"]


def stored(review: Review) -> list[tuple]:
    """Return the decisions in the log, by pair."""
    table = review.table()[COLUMNS]
    rows = table.assign(captions=table["captions"].map(tuple)).itertuples(index=False, name=None)
    return sorted(rows, key=str)


def test_the_good_rows_of_a_table_are_one_event_and_the_others_are_named(
    audit: Audit, review: Review, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = audit.pairs["pair_id"].tolist()
    review.decide([ids[0]], "keep", note="first")
    rows = [
        (ids[0], "remove", None, None),
        (ids[1], "recaption", ["[a] frog", "x, y"], "=why"),
        (ids[2], "keep", None, ""),
        ("nowhere", "keep", None, ""),
        (ids[3], "burn", None, ""),
        (ids[4], "recaption", [" "], ""),
        (ids[1], "keep", None, ""),
        (ids[5], "", None, ""),
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    path = tmp_path / "table.jsonl"
    table.to_json(path, orient="records", lines=True)
    result = open_audit("made").decide(path)
    assert (result.stored, result.event) == (3, 2)
    refused = list(zip(result.refused["row"], result.refused["pair_id"], strict=True))
    assert refused == [(4, "nowhere"), (5, ids[3]), (6, ids[4]), (7, ids[1]), (8, ids[5])]
    assert stored(review) == [
        (ids[0], "remove", (), "first"),
        (ids[1], "recaption", ("[a] frog", "x, y"), "=why"),
        (ids[2], "keep", (), ""),
    ]
    assert review.history()["decision"].iloc[0] == "several"
    assert review.undo(2).pairs == 3
    assert stored(review) == [(ids[0], "keep", (), "first")]
    assert main(["decisions", "made", str(path)]) == 0
    assert "row 4, 'nowhere'" in capsys.readouterr().out
    table[3:5].to_csv(tmp_path / "bad.csv")
    assert main(["decisions", "made", str(tmp_path / "bad.csv")]) == 2


def decide_in_all_ways(audit: Audit) -> list[tuple]:
    ids = audit.pairs["pair_id"]
    table = [
        (ids[1], "keep", ["kept and edited"], None),
        (ids[2], "recaption", "a single caption", "'=why"),
        (ids[3], None, ["edited"], None),
        (ids[4], None, None, "=a note"),
    ]
    audit.decide(pd.DataFrame(table, columns=COLUMNS))
    open_review(audit).decide([ids[5]], "recaption", captions=["gone"])
    open_review(audit).decide([ids[5], ids[6]], "remove")
    return stored(open_review(audit))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_exported_decisions_are_stored_on_pairs_with_the_same_captions(
    copy: Copy, tmp_path: Path, suffix: str
) -> None:
    expected = decide_in_all_ways(open_audit(copy().name))
    path = tmp_path / f"exported{suffix}"
    export_audit(open_audit("made"), "decisions", path)
    other = copy(name="other")
    pairs = other.pairs
    ids = pairs["pair_id"].tolist()
    pairs.at[3, "captions"] = pairs.at[3, "captions"][::-1]
    pairs.at[5, "captions"] = ["corrected"]
    rewrite(other.folder / PAIRS, pairs)
    record = dataclasses.replace(other.record, dataset_fingerprint="0123456789abcdef")
    write_json(other.folder / CONFIG, record.values)
    refused = open_audit("other").decide(path).refused
    assert refused["pair_id"].tolist() == [ids[5]]
    assert stored(open_review(other)) == [row for row in expected if row[0] != ids[5]]


def new_captions(review: Review) -> dict[str, tuple[str, ...]]:
    return {pair_id: each.captions for pair_id, each in review.decisions().items() if each.captions}


def test_captions_are_not_emptied_and_removed_pairs_stay(audit: Audit, review: Review) -> None:
    first, second = audit.pairs["pair_id"][:2]
    review.decide([first, second], RECAPTION, captions=["a frog", "frog"])
    review.decide([second], REMOVE)
    assert preview_replacement(audit, [first], "FROG", "").edits == {}
    literal = preview_replacement(audit, [first], "FROG", r"\1", match_case=False)
    assert literal.captions == [(first, "a frog", r"a \1"), (first, "frog", r"\1")]
    preview = preview_replacement(audit, [first, second], "frog", "")
    assert (preview.emptied, preview.removed) == (1, 1)
    assert [edit.captions for edit in preview.edits.values()] == [("a", "frog")]
    review.decide([first], KEEP)
    assert review.decide_each(preview.edits).pairs == 0  # there is a newer decision


def test_replaced_captions_are_no_decision_and_outlast_other_decisions(
    audit: Audit, review: Review
) -> None:
    first, second, third = audit.pairs["pair_id"][:3]
    review.decide([second], KEEP)
    review.decide([third], RECAPTION, captions=["by hand"])
    entries = review.decisions()
    edits = {first: Choice(None, ("new",), entry=0)}
    edits |= {
        pair_id: Choice(None, ("new",), entry=entries[pair_id].entry) for pair_id in (second, third)
    }
    event = review.decide_each(edits).event
    assert decided(audit).codes[:3].tolist() == [0, 1, 3]
    assert 0 in find_rows(audit, Selection(decision="undecided", order="clipmem"), size=100)
    assert new_captions(review) == dict.fromkeys([first, second, third], ("new",))
    assert review.changes().recaptioned == new_captions(review)
    assert [card.current for card in cards(audit, range(3))] == [("new",)] * 3
    outdated = send(review, event_of(audit, 1, "remove", first, expected=()))[1]
    assert "just changed in another tab" in outdated[1]
    review.decide([first], KEEP)  # keeps what is on screen
    review.decide([first, second], None)
    review.undo(event)
    # the first two are of newer decisions
    expected = {first: ("new",), second: ("new",), third: ("by hand",)}
    assert new_captions(review) == expected
