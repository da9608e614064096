import numpy as np
import pandas as pd
import pytest

from clipmem_core.auditing.folder.store import PAIRS, SCORES, Audit
from clipmem_core.review.overview import compare
from clipmem_core.utils.columns import CLIPMEM
from tests.fixtures import Copy, rewrite


def rescored(audit: Audit, scores: pd.DataFrame) -> Audit:
    rewrite(audit.folder / SCORES, scores)
    return audit


def test_changed_captions_pictures_and_groups_are_counted(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = copy(name="a")
    other = copy(name="b")
    same = compare(one, other, CLIPMEM)
    assert same.change is not None
    assert (same.change.mean, same.change.low, same.change.high) == (0, 0, 0)
    assert (same.edited, same.regrouped) == (0, 0)
    pairs = other.pairs
    pairs.at[2, "captions"] = ["another"]
    pairs.at[3, "sha256"] = "another"
    rewrite(other.folder / PAIRS, pairs)
    monkeypatch.setattr("clipmem_core.review.overview.POINTS", 30)
    result = compare(one, rescored(other, other.scores.assign(group="candidate")), CLIPMEM)
    assert (result.edited, result.n_common, result.regrouped) == (1, 99, 99)
    assert result.changed.empty
    assert len(result.points) == 30
    assert result.points["row_one"].is_monotonic_increasing


def test_it_agrees_with_pandas_on_audits_of_other_order_and_size(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = copy(name="a")
    other = copy(name="b")
    rng = np.random.default_rng(1)
    rows = rng.permutation(100)[:80]
    scores = other.scores.iloc[rows].reset_index(drop=True)
    scores["clipmem"] += rng.normal(size=80)
    scores.loc[0, "pair_id"] = "new'; DROP TABLE theirs; --"
    scores.loc[3, "clipmem"] = np.nan
    rewrite(other.folder / PAIRS, other.pairs.iloc[rows].reset_index(drop=True))
    monkeypatch.setattr("clipmem_core.review.overview.CHANGED", 7)
    result = compare(one, rescored(other, scores), CLIPMEM)

    joined = one.scores.reset_index(names="row").merge(
        scores.reset_index(names="row"), on="pair_id", suffixes=("_one", "_other")
    )
    assert (result.n_common, result.only_one, result.only_other) == (len(joined), 21, 1)
    joined = joined.dropna(subset=["clipmem_one", "clipmem_other"])
    joined["difference"] = joined["clipmem_other"] - joined["clipmem_one"]
    assert result.n_scored == len(joined) == 78
    spearman = joined["clipmem_one"].corr(joined["clipmem_other"], method="spearman")
    assert result.spearman == pytest.approx(spearman)
    assert result.change is not None
    assert result.change.mean == pytest.approx(joined["difference"].mean())
    largest = joined.sort_values("difference", key=abs, ascending=False)[:7]
    for column in ("pair_id", "row_one", "row_other", "group_other"):
        assert result.changed[column].tolist() == largest[column].tolist()
    np.testing.assert_allclose(result.changed["difference"], largest["difference"])
    assert result.points["pair_id"].tolist() == joined["pair_id"].tolist()
