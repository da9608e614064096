import numpy as np
from clipmem_core.review.sort_index import highest_first
from hypothesis import given
from hypothesis import strategies as st

scores = st.lists(st.sampled_from([-1.0, 0.0, -0.0, 0.25, 0.5, 2.0, np.nan, np.inf, -np.inf]) | st.floats(width=32))


@given(scores)
def test_the_highest_comes_first_and_equal_ones_as_they_came(values: list[float]) -> None:
    finite = [place for place, value in enumerate(values) if np.isfinite(value)]
    wanted = sorted(finite, key=lambda place: -values[place])  # Python's sort is stable
    assert highest_first(np.array(values, float)).tolist() == wanted


def test_many_equal_scores_stay_in_their_order() -> None:
    values = np.random.default_rng(0).integers(0, 5, 10_000).astype(float)
    np.testing.assert_array_equal(highest_first(values), np.argsort(-values, kind="stable"))
