"""The overview of an audit, the cards of its pairs, and its tables as pandas frames."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import clipmem_core
from clipmem_core.audit.store import Audit, write_table
from clipmem_core.review.cards import cards
from clipmem_core.review.decisions import REMOVE, open_review
from clipmem_core.review.overview import (
    attack_rows,
    group_table,
    load_score_map,
    memorization_line,
)
from clipmem_core.review.search import Hits
from clipmem_core.review.selection import Selection
from clipmem_core.scores.registry import BY_NAME
from tests.fixtures import HOSTILE, Copy


def test_groups_agree_with_pandas_and_carry_the_intervals_of_the_verdict(
    made: dict[str, Audit],
) -> None:
    groups = group_table(made["paper"])
    expected = {row["group"]: row for row in made["paper"].verdict["groups"]}
    assert groups["group"].tolist() == ["candidate", "independent", "shared", "external"]
    assert groups["low"].tolist() == [expected[group]["low"] for group in groups["group"]]
    assert set(groups["kind"]) == {"SD over pairs"}
    computed = (
        made["paper"]
        .scores.groupby("group")["clipmem"]
        .agg(["size", "mean", "std"])
        .loc[groups["group"]]
    )
    np.testing.assert_allclose(
        groups[["n", "mean", "sd"]].to_numpy(float), computed.to_numpy(float)
    )


def test_attacks_are_shown_with_both_intervals_and_absent_ones_with_their_reason() -> None:
    ends = {"members_low": 0.8, "members_high": 0.9, "pairs_low": None, "pairs_high": None}
    auroc = {"attack": "bavaria", "measure": "auroc", "value": 0.85, "missing": ""} | ends
    tpr = auroc | {"measure": "TPR@0.001", "value": None, "missing": "needs 1,000 pairs"}
    shown, missing = attack_rows([auroc, tpr])
    assert shown.to_numpy().tolist() == [["bavaria", "AUROC", 0.85, "0.800 to 0.900", ""]]
    assert missing == ["TPR at .1 % FPR of bavaria: needs 1,000 pairs"]
    assert attack_rows([])[0].empty


@pytest.mark.parametrize("protocol", ["ensemble", "paper"])
def test_corners_are_quantiles_of_the_external_pairs(made: dict[str, Audit], protocol: str) -> None:
    external = made[protocol].scores.query("group == 'external'")
    corners = load_score_map(made[protocol])[-1]
    assert corners is not None
    assert corners.fits == pytest.approx(np.quantile(external["similarity_out"], 0.25))
    assert corners.high == pytest.approx(np.quantile(external["clipmem"], 0.95))
    assert (corners.low is None) == (protocol == "ensemble")
    assert corners.low is None or corners.low == pytest.approx(
        np.quantile(external["clipmem"], 0.05)
    )


def test_a_card_holds_the_row_of_both_tables(made: dict[str, Audit]) -> None:
    audit = made["ensemble"]
    shown = cards(audit, [7, 0, 99])
    assert [card.row for card in shown] == [7, 0, 99]
    for card in shown:
        pair = audit.pairs.loc[card.row]
        score = audit.scores.loc[card.row].replace(np.nan, None)
        assert (card.pair_id, card.image, card.label) == tuple(pair[["pair_id", "image", "label"]])
        assert (card.captions, card.group) == (tuple(pair["captions"]), score["group"])
        assert card.scores == {name: score[name] for name in BY_NAME}
    assert [card.captions[0] for card in cards(audit, range(10))] == HOSTILE


def test_a_card_has_the_decision_of_its_pair_and_the_match_of_the_search(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = copy()
    result = Hits(np.array([5, 3]), np.array([0.75, 0.5], np.float32), np.array([-1, 0]))
    monkeypatch.setattr("clipmem_core.review.cards.search", lambda *args, **named: result)
    write_table(audit.folder / "scores.parquet", audit.scores.assign(se=np.inf))
    open_review(audit).decide(
        [audit.pairs["pair_id"][3]], "recaption", captions=["right"], note="see"
    )
    shown = cards(audit, [3, 5, 9], Selection(order="match", like="x"))
    assert shown[0].scores["se"] is None
    assert [(card.match, card.matched) for card in shown] == [(0.5, 0), (0.75, None), (None, None)]
    assert shown[0].decision == open_review(audit).current(shown[0].pair_id)
    assert shown[1].decision.decision is None


def test_an_audit_opens_as_frames_of_one_order_with_what_was_decided(
    copy: Callable[..., Audit],
) -> None:
    audit = copy(name="mine")
    pairs = audit.pairs
    third = pairs.pair_id[2]
    open_review(audit).decide([third], REMOVE, note="a blur")
    opened = clipmem_core.open_audit("mine")
    table = opened.table()
    assert list(table.pair_id) == list(pairs.pair_id) == list(opened.scores.pair_id)
    assert list(table.clipmem.dropna()) == list(opened.scores.clipmem.dropna())
    assert (
        list(table.pair_id[table.decision == REMOVE]) == [third] == list(opened.decisions.pair_id)
    )
    assert table.note[2] == "a blur"
    assert Path(table.filepath[0]).is_file()
    captions = opened.captions
    assert list(captions.caption) == [
        caption for captions in pairs.captions for caption in captions
    ]
    assert captions.number.eq(0).sum() == len(pairs)


def test_a_line_says_how_much_is_memorized_where_and_whether_it_matters() -> None:
    shares = [{"size": 0.45, "share": 0.14}, {"size": 0.5, "share": 0.065}]
    verdict = {"exceeding": shares, "membership_auroc": 0.6, "encoders": {"image": 1, "text": 0.1}}
    quiet = memorization_line(verdict)
    assert quiet.startswith("6.5 % of the pairs")
    assert "image encoder" in quiet
    assert "unlikely to matter" in quiet
    revealing = memorization_line(
        verdict | {"attacks": [{"value": 0.9}], "encoders": {"image": None, "text": None}}
    )
    assert "0.90" in revealing
    assert "encoder" not in revealing
    assert memorization_line(verdict | {"exceeding": shares[:1]}).startswith("0.0 %")
    assert memorization_line({}) == ""
