"""UnitMem by hand, against the whole table in memory, and whatever the order of batches."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmem_core.scores.unit_tally import UnitTally, unitmem


def streamed(values: np.ndarray, *, batch: int = 7, order: np.ndarray | None = None, bins: int = 512) -> pd.DataFrame:
    """Count a table [n_pairs, n_units] batch by batch."""
    tally = UnitTally(values.shape[1], bins=bins)
    rows = np.arange(len(values)) if order is None else order
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        tally.add(part, values[part], np.zeros_like(values[part]))
    return tally.scores()


def slowly(values: np.ndarray) -> list[dict[str, float]]:
    """Measure each unit of a table [n_pairs, n_units] on its own, with everything in memory."""
    found = []
    for unit in values.astype(np.float64).T:
        row = int(unit.argmax())
        others = np.delete(unit, row)
        top, mean, median = unit[row], others.mean(), float(np.median(others))
        with np.errstate(invalid="ignore"):
            ratios = [np.float64(top - rest) / np.float64(top + rest) for rest in (mean, median)]
        found.append({"mean": ratios[0], "median": ratios[1], "row": row, "second": others.max(), "rest": median})
    return found


def tables() -> st.SearchStrategy[np.ndarray]:
    """Tables of activations of many sizes, with zeros, ties and one large value among small ones."""

    def table(seed: int, pairs: int, spread: float) -> np.ndarray:
        rng = np.random.default_rng(seed)
        values = np.exp(spread * rng.standard_normal((pairs, 5))) * (rng.random((pairs, 5)) < 0.8)
        values[:, 3] = rng.integers(0, 3, pairs)
        values[:, 4] = 0
        return values.astype(np.float32)

    return st.builds(table, st.integers(0, 10**6), st.integers(2, 60), st.floats(0.01, 8))


def test_two_units_by_hand() -> None:
    #                    pair 0, 1, 2, 3; the second unit's others are 1, 1, 4: mean 2, median 1
    values = np.array([[0.0, 1.0], [2.0, 1.0], [0.0, 6.0], [0.0, 4.0]], dtype=np.float32)
    scores = streamed(values, batch=3)
    np.testing.assert_allclose(scores.unitmem_mean, [1, (6 - 2) / (6 + 2)])
    assert scores.row.tolist() == [1, 2]
    assert scores["max"].tolist() == [2, 6]
    assert scores.second.tolist() == [0, 4]
    np.testing.assert_allclose(scores.rest_mean, [0, 2])
    assert scores.unitmem_median[0] == 1
    assert scores.median_error[0] == 0
    assert abs(scores.unitmem_median[1] - (6 - 1) / (6 + 1)) <= scores.median_error[1] <= 2 / 512


@given(tables(), st.integers(1, 9))
def test_streaming_is_the_table_in_memory(values: np.ndarray, batch: int) -> None:
    scores = streamed(values, batch=batch)
    for unit, slow in enumerate(slowly(values)[:4]):
        if not values[:, unit].any():
            continue
        np.testing.assert_allclose(scores.unitmem_mean[unit], slow["mean"], rtol=1e-9, atol=1e-12)
        assert scores.second[unit] == slow["second"]
        assert scores.row[unit] == slow["row"]
        assert abs(scores.unitmem_median[unit] - slow["median"]) <= scores.median_error[unit] + 1e-12
        assert 0 <= scores.median_error[unit] <= 2 / 512
    assert np.isnan(scores.unitmem_mean[4])
    assert np.isnan(scores.unitmem_median[4])
    assert scores.row[4] == -1


@given(tables(), st.integers(0, 10**6), st.integers(1, 9))
def test_neither_the_order_nor_the_size_of_batches_matters(values: np.ndarray, seed: int, batch: int) -> None:
    order = np.random.default_rng(seed).permutation(len(values))
    one, other = streamed(values, batch=100), streamed(values, batch=batch, order=order)
    exact = ["unitmem_median", "median_error", "max", "second", "rest_median", "row"]
    pd.testing.assert_frame_equal(one[exact], other[exact], check_exact=True)
    np.testing.assert_allclose(one.unitmem_mean, other.unitmem_mean, rtol=1e-12)


def test_more_bins_bring_the_median_closer() -> None:
    values = np.random.default_rng(0).gamma(2, size=(400, 30)).astype(np.float32)
    exact = np.array([slow["median"] for slow in slowly(values)])
    errors = [np.abs(streamed(values, bins=bins).unitmem_median - exact).max() for bins in (8, 64, 4096)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 2 / 4096


def test_what_is_left_out_below_zero_is_a_share() -> None:
    tally = UnitTally(3)
    values = np.array([[3, 0, 1], [0, 0, 1]], dtype=np.float32)
    tally.add(np.array([4, 9]), values, np.array([[0, 0.1, 0.5], [1, 0, 0.5]], dtype=np.float32))
    np.testing.assert_allclose(tally.scores().clipped, [0.25, 1, 1 / 3])


def test_a_scale_changes_nothing() -> None:
    values = np.random.default_rng(1).random((50, 4)).astype(np.float32)
    np.testing.assert_allclose(streamed(values).unitmem_mean, streamed(8 * values).unitmem_mean)
    np.testing.assert_array_equal(streamed(values).unitmem_median, streamed(8 * values).unitmem_median)


def test_a_silent_unit_has_no_unitmem() -> None:
    assert np.isnan(unitmem(np.zeros(1), np.zeros(1))).all()


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf])
def test_only_finite_activations_from_zero_up_are_counted(value: float) -> None:
    values = np.array([[1.0], [value]], dtype=np.float32)
    with pytest.raises(ValueError, match="values must be finite and at least 0"):
        UnitTally(1).add(np.arange(2), values, values)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"values and below must be \[2, 3\], not \(2, 1\)"):
        UnitTally(3).add(np.arange(2), np.ones((2, 1)), np.ones((2, 1)))


def test_one_pair_is_not_enough() -> None:
    with pytest.raises(ValueError, match="needs two pairs at least, not 1"):
        streamed(np.ones((1, 2), dtype=np.float32))


def test_no_pairs_change_nothing() -> None:
    tally = UnitTally(2)
    tally.add(np.array([], dtype=np.int64), np.empty((0, 2), np.float32), np.empty((0, 2), np.float32))
    assert tally.count == 0
