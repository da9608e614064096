from collections.abc import Callable

import numpy as np
import pytest

from clipmem_core.audits.store import Audit, write_table
from clipmem_core.config import InputError
from clipmem_core.review import search
from clipmem_core.review.cards import SHOWN, cards
from clipmem_core.review.decisions import open_review
from clipmem_core.review.selection import Selection
from tests.made_audit import HOSTILE

Copy = Callable[..., Audit]


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


def test_no_rows_are_no_cards(made: dict[str, Audit]) -> None:
    assert cards(made["ensemble"], []) == []


def test_the_score_that_orders_is_among_them(made: dict[str, Audit]) -> None:
    (card,) = cards(made["ensemble"], [5], Selection(order="positive_in"))
    assert card.scores["positive_in"] == made["ensemble"].scores.loc[5, "positive_in"]


def test_scores_that_are_no_numbers_are_none(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "scores.parquet", audit.scores.assign(se=np.inf, misfit=None))
    (card,) = cards(audit, [5])
    assert (card.scores["se"], card.scores["misfit"]) == (None, None)


def test_a_card_has_the_decision_of_its_pair(copy: Copy) -> None:
    audit = copy()
    open_review(audit).decide([audit.pairs["pair_id"][3]], "recaption", captions=["right"], note="see")
    first, second = cards(audit, [3, 4])
    assert first.decision is not None
    assert (first.decision.decision, first.decision.captions, first.decision.note) == ("recaption", ("right",), "see")
    assert second.decision is None


def test_a_card_has_the_match_of_the_search(made: dict[str, Audit], monkeypatch: pytest.MonkeyPatch) -> None:
    found = np.array([5, 2]), np.array([0.75, 0.5], np.float32)
    monkeypatch.setattr(search, "hits", lambda audit, selection: found)
    shown = cards(made["ensemble"], [2, 5, 9], Selection(order="match", like="x"))
    assert [card.match for card in shown] == [0.5, 0.75, None]


def test_tables_of_other_pairs_are_refused(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "pairs.parquet", audit.pairs.iloc[::-1])
    with pytest.raises(InputError, match=r"pairs\.parquet and scores\.parquet list other pairs"):
        cards(audit, [3])


@pytest.mark.parametrize("row", [-1, 100])
def test_a_row_that_there_is_not_is_told(made: dict[str, Audit], row: int) -> None:
    with pytest.raises(InputError, match=f"audit 'ensemble' has no row {row}"):
        cards(made["ensemble"], [row])


def test_a_corrupt_file_is_named(copy: Copy) -> None:
    audit = copy()
    (audit.folder / "pairs.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(InputError, match=r"pairs\.parquet cannot be read \(.*\): delete"):
        cards(audit, [3])


def test_a_file_that_is_damaged_in_its_middle_is_named(copy: Copy) -> None:
    audit = copy()
    path = audit.folder / "pairs.parquet"
    content = bytearray(path.read_bytes())
    content[20:2000] = b"\xff" * 1980
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"pairs\.parquet cannot be read \(.*\): delete"):
        cards(audit, [3])
