from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audits.store import Audit, write_table
from clipmem_core.columns import GROUPS
from clipmem_core.config import InputError
from clipmem_core.review import contributions
from clipmem_core.review.contributions import (
    MEMORIZED,
    SSLMEM,
    doubts,
    encoder_means,
    load_contributions,
    map_fit,
)

Copy = Callable[..., Audit]


def slow_means(audit: Audit, column: str, names: pd.Series) -> dict[str, tuple[int, float, float]]:
    """The number, mean and standard error of a score by name, by pandas."""
    values = audit.scores[column].groupby(names)
    return {
        str(name): (int(own.count()), own.mean(), own.std() / np.sqrt(own.count()))
        for name, own in values
        if own.count()
    }


@pytest.mark.parametrize("protocol", ["ensemble", "paper"])
@pytest.mark.parametrize("by", ["group", "label", "planted"])
def test_means_are_those_of_a_slow_loop(made: dict[str, Audit], protocol: str, by: str) -> None:
    audit = made[protocol]
    groups = GROUPS if by == "group" else MEMORIZED
    inside = audit.scores["group"].isin(groups)
    names = audit.scores["group"] if by == "group" else audit.pairs[by]
    names = (names.fillna("not planted") if by == "planted" else names).where(inside)
    found = encoder_means(audit, by=by, groups=groups)
    for encoder in ("image", "text"):
        own = found[found["encoder"] == encoder].set_index("name")
        expected = slow_means(audit, f"clipmem_{encoder}", names)
        assert set(own.index) == set(expected)
        for name, (n, mean, error) in expected.items():
            row = own.loc[name]
            assert (row["n"], row["mean"]) == (n, pytest.approx(mean))
            assert (row["high"] - row["low"]) / 2 == pytest.approx(1.96 * error)


def test_groups_come_in_their_order_and_planted_kinds_before_the_others(copy: Copy) -> None:
    audit = copy("paper")
    order = encoder_means(audit, by="group")["name"].drop_duplicates().tolist()
    assert order == [group for group in GROUPS if group in order]
    assert encoder_means(audit, by="planted")["name"].drop_duplicates().tolist() == ["miscaption", "not planted"]


def test_only_the_most_frequent_labels_are_taken(copy: Copy) -> None:
    audit = copy()
    labels = [f"label {number % 20}" if number < 90 else "label 3" for number in range(100)]
    write_table(audit.folder / "pairs.parquet", audit.pairs.assign(label=labels))
    found = encoder_means(audit, by="label", limit=12)
    assert found["name"].nunique() == 12
    assert found["name"][0] == "label 3"


def test_an_encoder_without_a_value_has_no_mean(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "scores.parquet", audit.scores.assign(sslmem_text=np.nan))
    found = encoder_means(audit, SSLMEM, by="group").set_index(["encoder", "name"])
    assert found.loc["text", "n"].eq(0).all()
    assert found.loc["text", "mean"].isna().all()
    assert found.loc["image", "mean"].notna().all()


def test_a_single_pair_has_no_interval(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "pairs.parquet", audit.pairs.assign(label=["rare"] + [None] * 99))
    found = encoder_means(audit, by="label")
    assert found["n"].tolist() == [1, 1]
    assert found["low"].isna().all()


def test_labels_of_others_are_names_as_they_are(copy: Copy) -> None:
    audit, hostile = copy(), "'; DROP TABLE named; --"
    write_table(audit.folder / "pairs.parquet", audit.pairs.assign(label=hostile))
    assert set(encoder_means(audit, by="label")["name"]) == {hostile}


def test_tables_of_other_pairs_are_told(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "pairs.parquet", audit.pairs.head(7))
    with pytest.raises(InputError, match="list other pairs"):
        encoder_means(audit, by="group")


def test_a_map_of_many_pairs_is_thinned_and_its_density_counts_all(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = copy()
    for limit in (101, 100):
        monkeypatch.setattr(contributions, "LIMIT", limit)
        assert [len(table) for table in load_contributions(audit)] == [100, 0]
    monkeypatch.setattr(contributions, "LIMIT", 30)
    points, density = load_contributions(audit)
    assert (len(points), density["n"].sum()) == (30, 100)
    assert points["clipmem_image"].tolist() == audit.scores.loc[points["row"], "clipmem_image"].tolist()
    assert density["x"].between(*audit.scores["clipmem_image"].agg(["min", "max"])).all()
    assert density["y"].between(*audit.scores["clipmem_text"].agg(["min", "max"])).all()


def groups(null_image: float, *, error: float = 0.001) -> pd.DataFrame:
    """Candidates with .05 and .35, external pairs with a null of the image encoder."""
    rows = [("candidate", "image", 0.05), ("candidate", "text", 0.35), ("external", "image", null_image)]
    rows.append(("external", "text", 0.0))
    table = pd.DataFrame(rows, columns=["name", "encoder", "mean"])
    return table.assign(n=100, low=table["mean"] - 1.96 * error, high=table["mean"] + 1.96 * error)


@pytest.mark.parametrize(
    ("null", "error", "fit", "words"),
    [
        (0.0, 0.001, 0.9, []),
        (0.039, 0.001, 0.5, []),  # within a tenth of .40
        (0.041, 0.02, 0.9, []),  # within three standard errors
        (0.0, 0.001, None, []),
        (0.0, 0.001, 0.49, ["fits poorly: 0.49"]),
        (-0.041, 0.001, 0.9, ["null of the image encoder is not near 0: −0.041"]),
        (0.2, 0.001, 0.1, ["fits poorly: 0.10", "null of the image encoder"]),
    ],
)
def test_a_poor_fit_and_a_null_off_0_are_said(null: float, error: float, fit: float | None, words: list[str]) -> None:
    found = doubts(groups(null, error=error), fit)
    assert len(found) == len(words)
    assert all(word in doubt for word, doubt in zip(words, found, strict=True))


@pytest.mark.parametrize("verdict", [{}, {"encoders": {"fit": "x"}}, {"encoders": {"fit": None}}, {"encoders": {}}])
def test_a_verdict_that_does_not_say_has_no_fit(verdict: dict[str, dict[str, object]]) -> None:
    assert map_fit(verdict) is None
    assert map_fit({"encoders": {"fit": 0.7}}) == 0.7
