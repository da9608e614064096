import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clipmem_core.audits.store import CONFIG, PAIRS, SCORES, Audit, write_json, write_table
from clipmem_core.config import InputError
from clipmem_core.review.compare import POINTS, compare, differing_settings, mean_difference
from tests.fixtures import Copy


def rescored(audit: Audit, scores: pd.DataFrame) -> Audit:
    write_table(audit.folder / SCORES, scores)
    return audit


def with_config(audit: Audit, **fields: object) -> Audit:
    config = audit.record.values
    write_json(audit.folder / CONFIG, config | {"config": config["config"] | fields})
    return audit


def test_an_audit_agrees_with_itself_but_for_changed_captions_and_is_sampled_alike(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = copy(name="a"), copy(name="b")
    same = compare(one, other, limit=5)
    assert (same.n_common, same.n_scored, same.only_one, same.only_other) == (100, 100, 0, 0)
    assert same.spearman == pytest.approx(1)
    assert same.pearson == pytest.approx(1)
    assert (same.mean_difference, same.low, same.high) == (0, 0, 0)
    assert same.changed["difference"].tolist() == [0] * 5
    assert not same.changed["captions_changed"].any()
    assert same.changed["row_one"].tolist() == [0, 1, 2, 3, 4]
    assert same.warnings == ()
    json.dumps({key: value for key, value in asdict(same).items() if key not in ("changed", "points")})
    monkeypatch.setattr("clipmem_core.review.compare.POINTS", 30)
    first, again = compare(one, other, limit=1).points, compare(one, other, limit=1).points
    assert POINTS == 5_000
    assert len(first) == 30
    assert first.equals(again)
    assert first["row_one"].is_monotonic_increasing
    pairs = other.pairs
    pairs.at[2, "captions"] = ["another"]
    write_table(other.folder / PAIRS, pairs)
    pairs.at[3, "sha256"] = "another"
    write_table(other.folder / PAIRS, pairs)
    result = compare(one, rescored(other, other.scores.assign(group="candidate")), limit=100)
    assert (same.edited, same.regrouped) == (0, 0)
    assert (result.edited, result.regrouped) == (2, 100)
    assert result.changed.empty
    changed = compare(one, rescored(other, one.scores), limit=100).changed.set_index("row_one")["captions_changed"]
    assert changed[changed].index.tolist() == [2]


def test_it_agrees_with_pandas_on_audits_of_other_order_and_size(copy: Copy) -> None:
    one, other = copy(name="a"), copy(name="b")
    rng = np.random.default_rng(1)
    rows = rng.permutation(100)[:80]
    scores = other.scores.iloc[rows].reset_index(drop=True)
    scores["clipmem"] += rng.normal(size=80)
    scores.loc[0, "pair_id"] = "new'; DROP TABLE theirs; --"
    scores.loc[3, "clipmem"] = np.nan
    write_table(other.folder / PAIRS, other.pairs.iloc[rows].reset_index(drop=True))
    result = compare(one, rescored(other, scores), limit=7)

    expected = one.scores.reset_index().merge(scores.reset_index(), on="pair_id", suffixes=("_one", "_other"))
    assert (result.n_common, result.only_one, result.only_other) == (79, 21, 1)
    expected = expected.dropna(subset=["clipmem_one", "clipmem_other"])
    difference = expected["clipmem_other"] - expected["clipmem_one"]
    assert result.n_scored == len(expected) == 78
    assert result.spearman == pytest.approx(expected["clipmem_one"].corr(expected["clipmem_other"], method="spearman"))
    assert result.pearson == pytest.approx(expected["clipmem_one"].corr(expected["clipmem_other"]))
    assert result.mean_difference == pytest.approx(difference.mean())
    top = expected.loc[difference.abs().sort_values(ascending=False).index[:7]]
    assert result.changed["pair_id"].tolist() == top["pair_id"].tolist()
    assert result.changed["row_one"].tolist() == top["index_one"].tolist()
    assert result.changed["row_other"].tolist() == top["index_other"].tolist()
    assert result.changed["difference"].tolist() == pytest.approx(difference[top.index].tolist())
    assert result.changed["group_other"].tolist() == top["group_other"].tolist()
    assert result.points["pair_id"].tolist() == expected.sort_values("index_one")["pair_id"].tolist()


def test_what_cannot_be_compared_is_named(copy: Copy) -> None:
    one, other = copy(name="a"), copy(name="b")
    with pytest.raises(InputError, match="score 'pair_id' is unknown: choose one of n_in"):
        compare(one, other, column="pair_id", limit=5)
    rescored(other, other.scores.assign(pair_id=other.scores["pair_id"] + "!"))
    with pytest.raises(InputError, match="audits 'a' and 'b' share no pair_id"):
        compare(one, other, limit=5)
    (other.folder / SCORES).unlink()
    with pytest.raises(InputError, match=r"b/scores.parquet is missing"):
        compare(one, other, limit=5)


def test_a_score_that_no_pair_has_in_both_has_no_numbers(copy: Copy) -> None:
    one, other = copy("paper", name="a"), copy("ensemble", name="b")
    scores = one.scores.assign(misfit=np.nan)
    result = compare(rescored(one, scores), other, column="misfit", limit=5)
    assert (result.n_common, result.n_scored) == (100, 0)
    assert (result.spearman, result.pearson, result.mean_difference, result.low) == (None, None, None, None)
    assert result.changed.empty
    assert result.points.empty
    flat = compare(rescored(one, scores.assign(clipmem=0.5)), other, limit=1)  # no correlation
    assert (flat.spearman, flat.pearson) == (None, None)
    assert flat.mean_difference is not None


def test_settings_that_forbid_a_comparison_are_named(copy: Copy) -> None:
    one = copy("paper", name="a")
    other = with_config(copy("ensemble", name="b"), loss="siglip", model="ViT-B-32", max_logit_scale=20.0, epochs=7)
    warnings = differing_settings(one, other)
    assert [text.split()[1] for text in warnings] == ["protocol", "model", "loss", "cap"]
    assert "paper in a, ensemble in b (--protocol)" in warnings[0]
    assert compare(one, other, limit=1).warnings == warnings


def test_a_misfit_of_another_formula_is_named(copy: Copy) -> None:
    one, other = copy("paper", name="one"), copy("paper", name="other")
    write_table(other.folder / SCORES, other.scores.assign(log_probability_second=-1.0))
    (warning,) = compare(one, other, column="misfit", limit=1).warnings
    assert warning.startswith("The formula of misfit differs: in other, misfit is −(z(learned) + 4 z(")
    assert not compare(one, other, column="clipmem", limit=1).warnings
    assert not compare(other, other, column="misfit", limit=1).warnings


def test_the_interval_is_that_of_a_worked_example() -> None:
    # differences 1, 2, 3: mean 2, sd 1, t(2, .975) = 4.302653 → half 4.302653 / √3 = 2.484138
    mean, low, high = mean_difference(np.zeros(3), np.array([1.0, 2.0, 3.0]))
    assert mean == 2
    assert (low, high) == (pytest.approx(-0.484138, abs=1e-6), pytest.approx(4.484138, abs=1e-6))
    assert mean_difference(np.zeros(1), np.ones(1)) == (1, None, None)


@given(arrays(float, st.integers(2, 20), elements=st.floats(-5, 5)), st.floats(-3, 3))
def test_swapping_the_audits_turns_the_interval_round(one: np.ndarray, shift: float) -> None:
    other = np.sin(one) + shift
    mean, low, high = (number or 0 for number in mean_difference(one, other))
    assert low <= mean <= high
    assert mean_difference(other, one) == (pytest.approx(-mean), pytest.approx(-high), pytest.approx(-low))
