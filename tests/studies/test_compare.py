import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from clipmem_core.studies.compare import front

steps = st.integers(0, 4).map(float)


@given(st.lists(st.tuples(steps, steps), max_size=8))
def test_the_front_is_what_no_arm_beats_in_both(values: list[tuple[float, float]]) -> None:
    points = pd.DataFrame(values, columns=["less", "more"]).assign(arm=[f"arm-{n}" for n in range(len(values))])
    beaten = {
        f"arm-{n}" for n, (x, y) in enumerate(values) if any(a <= x and b >= y and (a, b) != (x, y) for a, b in values)
    }
    found = front(points, "less", "more")
    assert set(found) == set(points["arm"]) - beaten
    at = points.set_index("arm").loc[found, "less"].to_numpy()
    assert (np.diff(at) >= 0).all()


def test_an_arm_without_a_value_is_on_no_front() -> None:
    points = pd.DataFrame({"arm": ["a", "b", "c"], "x": [0.0, 1.0, np.nan], "y": [np.nan, 1.0, 2.0]})
    assert front(points, "x", "y") == ["b"]
    assert front(points[:0], "x", "y") == []
