import numpy as np
import pandas as pd
import pytest

from clipmem_core.audit.store import Audit
from clipmem_core.columns import GROUPS
from clipmem_core.review.overview import (
    encoder_means,
    member_terms,
)
from clipmem_core.scores.alignment import pair_terms
from tests.fixtures import Copy, embed

TERMS = ["positive", "negative_text", "negative_image", "alignment", "similarity"]


@pytest.fixture(params=["ensemble", "paper"])
def audit(copy: Copy, request: pytest.FixtureRequest) -> Audit:
    return copy(request.param)


def test_the_terms_of_one_pair_agree_with_those_of_all_pairs(audit: Audit) -> None:
    vectors = embed(audit)
    external = (audit.membership["group"] == "external").to_numpy()
    whole = {name: pair_terms(*both, external) for name, both in vectors.items()}
    for row in [0, 3, 50, *np.flatnonzero(external)[:3]]:
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
