"""The overview of an audit, the cards of its pairs, and its tables as pandas frames."""

import numpy as np
import pandas as pd
import pytest

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.review.cards import cards
from clipmem_core.review.decisions import open_review
from clipmem_core.review.overview import encoder_means, member_components
from clipmem_core.review.search import Hits
from clipmem_core.review.views import Selection
from clipmem_core.scores.alignment import pair_components
from clipmem_core.scores.registry import BY_NAME
from clipmem_core.utils.columns import GROUPS
from tests.fixtures import Copy, embed, rewrite


def test_a_card_holds_the_row_of_both_tables_its_decision_and_its_match(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = copy()
    rewrite(audit.folder / "scores.parquet", audit.scores.assign(se=np.inf))
    review = open_review(audit)
    review.decide([audit.pairs["pair_id"][7]], "recaption", captions=["right"], note="see")
    result = Hits(np.array([0, 7]), np.array([0.75, 0.5], np.float32), np.array([-1, 0]))
    monkeypatch.setattr("clipmem_core.review.cards.search", lambda *args, **named: result)
    shown = cards(audit, [7, 0, 99], Selection(order="match", like="x"))
    assert [card.row for card in shown] == [7, 0, 99]
    assert [(card.match, card.matched) for card in shown] == [(0.5, 0), (0.75, -1), (None, -1)]
    for card in shown:
        pair = audit.pairs.loc[card.row]
        score = audit.scores.loc[card.row].replace([np.nan, np.inf], None)
        assert (card.pair_id, card.image, card.label) == tuple(pair[["pair_id", "image", "label"]])
        assert (card.captions, card.group) == (tuple(pair["captions"]), score["group"])
        assert card.scores == {name: score[name] for name in BY_NAME}
        assert card.decision == review.current(card.pair_id)


COMPONENTS = ["positive", "negative_text", "negative_image", "alignment", "similarity"]


@pytest.mark.parametrize("protocol", ["ensemble", "paper"])
def test_the_terms_of_one_pair_agree_with_those_of_all_pairs(copy: Copy, protocol: str) -> None:
    audit = copy(protocol)
    vectors = embed(audit)
    held_out = (audit.membership["group"] == "held-out").to_numpy()
    whole = {name: pair_components(*both, held_out) for name, both in vectors.items()}
    for row in [0, 3, 50, *np.flatnonzero(held_out)[:3]]:
        result = member_components(audit, int(row))
        assert result["member"].tolist() == list(vectors)
        expected = pd.DataFrame(
            [
                {component: whole[name][component][row] for component in COMPONENTS}
                for name in vectors
            ]
        )
        np.testing.assert_allclose(result[COMPONENTS], expected, atol=1e-6)


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
