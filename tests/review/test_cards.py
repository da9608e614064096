from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import clipmem_core
from clipmem_core.audit.store import Audit, write_table
from clipmem_core.review.cards import SHOWN, cards
from clipmem_core.review.decisions import REMOVE, open_review
from clipmem_core.review.selection import Selection
from tests.fixtures import HOSTILE, Copy


def test_a_card_holds_the_row_of_both_tables(made: dict[str, Audit]) -> None:
    audit = made["ensemble"]
    for card in cards(audit, [7, 0, 99]):
        pair, score = audit.pairs.loc[card.row], audit.scores.loc[card.row]
        assert (card.pair_id, card.image, card.label) == (pair["pair_id"], pair["image"], pair["label"])
        assert (card.captions, card.group) == (tuple(pair["captions"]), score["group"])
        assert card.scores == {name: None if np.isnan(score[name]) else score[name] for name in SHOWN}
        assert (card.match, card.decision) == (None, None)
    assert [card.row for card in cards(audit, [7, 0, 99])] == [7, 0, 99]
    assert [card.captions[0] for card in cards(audit, range(10))] == HOSTILE


def test_a_card_has_the_decision_of_its_pair_and_the_match_of_the_search(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit, result = copy(), (np.array([5, 3]), np.array([0.75, 0.5], np.float32))
    monkeypatch.setattr("clipmem_core.review.cards.hits", lambda audit, selection: result)
    write_table(audit.folder / "scores.parquet", audit.scores.assign(se=np.inf))
    open_review(audit).decide([audit.pairs["pair_id"][3]], "recaption", captions=["right"], note="see")
    shown = cards(audit, [3, 5, 9], Selection(order="match", like="x"))
    assert shown[0].scores["se"] is None
    assert [card.match for card in shown] == [0.5, 0.75, None]
    decision = shown[0].decision
    assert (decision.decision, decision.captions, decision.note) == ("recaption", ("right",), "see")
    assert shown[1].decision is None


def test_an_audit_opens_as_frames_of_one_order_with_what_was_decided(copy: Callable[..., Audit]) -> None:
    audit = copy(name="mine")
    pairs = audit.pairs
    third = pairs.pair_id[2]
    open_review(audit).decide([third], REMOVE, note="a blur")
    opened = clipmem_core.open_audit("mine")
    table = opened.table()
    assert list(table.pair_id) == list(pairs.pair_id) == list(opened.scores.pair_id)
    assert list(table.clipmem.dropna()) == list(opened.scores.clipmem.dropna())
    assert list(table.pair_id[table.decision == REMOVE]) == [third] == list(opened.decisions.pair_id)
    assert table.note[2] == "a blur"
    assert Path(table.filepath[0]).is_file()
    captions = opened.captions
    assert list(captions.caption) == [caption for captions in pairs.captions for caption in captions]
    assert (captions.groupby("pair_id", sort=False).number.max() + 1).tolist() == pairs.captions.map(len).tolist()
