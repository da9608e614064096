"""The overview of an audit, the cards of its pairs, and its tables as pandas frames."""

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audit.store import Audit
from clipmem_core.columns import GROUPS
from clipmem_core.review.cards import cards
from clipmem_core.review.decisions import open_review
from clipmem_core.review.overview import (
    encoder_line,
    encoder_means,
    group_table,
    member_terms,
    memorization_line,
    score_corners,
)
from clipmem_core.review.search import Hits
from clipmem_core.review.selection import Selection
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.registry import BY_NAME
from tests.fixtures import HOSTILE, Copy, embed, rewrite


def test_groups_agree_with_pandas_and_carry_the_intervals_of_the_verdict(
    made: dict[str, Audit],
) -> None:
    groups = group_table(made["paper"])
    expected = {row["group"]: row for row in made["paper"].verdict["groups"]}
    assert groups["group"].tolist() == ["candidate", "independent", "shared", "held-out"]
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


@pytest.mark.parametrize("protocol", ["ensemble", "paper"])
def test_corners_are_quantiles_of_the_held_out_pairs(made: dict[str, Audit], protocol: str) -> None:
    held_out = made[protocol].scores.query("group == 'held-out'")
    corners = score_corners(made[protocol])
    assert corners is not None
    assert corners.fits == pytest.approx(np.quantile(held_out["similarity_out"], 0.25))
    assert corners.high == pytest.approx(np.quantile(held_out["clipmem"], 0.95))
    assert (corners.low is None) == (protocol == "ensemble")
    assert corners.low is None or corners.low == pytest.approx(
        np.quantile(held_out["clipmem"], 0.05)
    )


@pytest.mark.parametrize(
    ("image", "text", "said"),
    [(0.02, 0.028, "text encoder holds 1.4 times"), (0.02, 0.021, "same"), (None, None, "")],
)
def test_the_encoder_that_memorized_more_is_named(
    image: float | None, text: float | None, said: str
) -> None:
    line = encoder_line({"encoders": {"image": image, "text": text}})
    assert bool(line) == bool(said)
    assert said in line


def test_a_share_below_one_in_a_thousand_is_no_percentage(made: dict[str, Audit]) -> None:
    shares = {0.0: "1 in 1,000", 0.0004: "1 in 1,000", 0.032: "3.2 %"}
    for share, said in shares.items():
        exceeding = [{"size": 0.5, "share": share, "low": 0.0, "high": 0.1}]
        line = memorization_line(made["ensemble"].verdict | {"exceeding": exceeding})
        assert said in line
        assert "0.0 %" not in line


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
    rewrite(audit.folder / "scores.parquet", audit.scores.assign(se=np.inf))
    open_review(audit).decide(
        [audit.pairs["pair_id"][3]], "recaption", captions=["right"], note="see"
    )
    shown = cards(audit, [3, 5, 9], Selection(order="match", like="x"))
    assert shown[0].scores["se"] is None
    assert [(card.match, card.matched) for card in shown] == [(0.5, 0), (0.75, None), (None, None)]
    assert shown[0].decision == open_review(audit).current(shown[0].pair_id)
    assert shown[1].decision.decision is None


TERMS = ["positive", "negative_text", "negative_image", "alignment", "similarity"]


@pytest.fixture(params=["ensemble", "paper"])
def embedded(copy: Copy, request: pytest.FixtureRequest) -> Audit:
    return copy(request.param)


def test_the_terms_of_one_pair_agree_with_those_of_all_pairs(embedded: Audit) -> None:
    audit = embedded
    vectors = embed(audit)
    held_out = (audit.membership["group"] == "held-out").to_numpy()
    whole = {name: pair_terms(*both, held_out) for name, both in vectors.items()}
    for row in [0, 3, 50, *np.flatnonzero(held_out)[:3]]:
        result = member_terms(audit, int(row))
        assert result["member"].tolist() == list(vectors)
        expected = pd.DataFrame(
            [{term: whole[name][term][row] for term in TERMS} for name in vectors]
        )
        np.testing.assert_allclose(result[TERMS], expected, atol=1e-6)


@pytest.mark.parametrize("protocol", ["ensemble", "paper"])
@pytest.mark.parametrize("by", ["group", "label", "injected"])
def test_encoder_means_are_those_of_pandas(made: dict[str, Audit], protocol: str, by: str) -> None:
    audit = made[protocol]
    groups = GROUPS if by == "group" else ["candidate", "scored"]
    table = audit.scores.assign(name=(audit.scores if by == "group" else audit.pairs)[by])
    table = table[table["group"].isin(groups)]
    if by == "injected":
        table["name"] = table["name"].fillna("not injected")
    result = encoder_means(audit, by=by, groups=groups).set_index(["encoder", "name"])
    for encoder in ("image", "text"):
        values = table.groupby("name")[f"clipmem_{encoder}"].agg(["count", "mean", "sem"])
        means = result.loc[encoder].loc[values.index]
        np.testing.assert_allclose(means[["n", "mean"]], values[["count", "mean"]])
        np.testing.assert_allclose(means["high"] - means["mean"], 1.96 * values["sem"])
        assert len(means) == len(result.loc[encoder])
