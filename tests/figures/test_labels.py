import itertools

import pandas as pd
from clipmem_core.figures.labels import LETTER, LINE, Extent, place_labels
from hypothesis import given
from hypothesis import strategies as st

EXTENTS = (Extent(0, 1, span=400), Extent(0, 1, span=300))
PLACES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12)


def box(name: str, x: float, y: float, anchor: dict) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a name in pixels."""
    start, up = 400 * x + anchor["xshift"], 300 * y + anchor["yshift"]
    left = start if anchor["xanchor"] == "left" else start - LETTER * len(name)
    bottom = up if anchor["yanchor"] == "bottom" else up - LINE
    return left, left + LETTER * len(name), bottom, bottom + LINE


@given(PLACES)
def test_no_name_covers_another_or_leaves_the_figure(places: list[tuple[float, float]]) -> None:
    dots = pd.DataFrame(places, columns=["x", "y"], index=[f"arm-{'x' * number}" for number in range(len(places))])
    found = place_labels(dots, list(dots.index), extents=EXTENTS)
    boxes = [box(name, *dots.loc[name], anchor) for name, anchor in found.items()]
    for left, right, bottom, top in boxes:
        assert left >= 0
        assert right <= 400
        assert bottom >= 0
        assert top <= 300
    for one, other in itertools.combinations(boxes, 2):
        assert one[1] <= other[0] or other[1] <= one[0] or one[3] <= other[2] or other[3] <= one[2]


def test_where_there_is_room_for_one_it_is_the_most_important() -> None:
    dots = pd.DataFrame({"x": [0.5] * 9, "y": [0.5] * 9}, index=[f"a-long-name-{number}" for number in range(9)])
    found = place_labels(dots, list(dots.index[::-1]), extents=EXTENTS)
    assert "a-long-name-8" in found
    assert len(found) <= 4


def test_what_must_be_named_is_named_without_room() -> None:
    dots = pd.DataFrame({"x": [0.5] * 9, "y": [0.5] * 9}, index=list("abcdefghi"))
    assert "i" in place_labels(dots, list(dots.index), always=["i"], extents=EXTENTS)


def test_a_dot_at_the_right_edge_is_named_to_its_left() -> None:
    dots = pd.DataFrame({"x": [1.0], "y": [1.0]}, index=["none"])
    anchor = place_labels(dots, ["none"], extents=EXTENTS)["none"]
    assert (anchor["xanchor"], anchor["yanchor"]) == ("right", "top")


def test_arms_without_a_place_have_no_name() -> None:
    dots = pd.DataFrame({"x": [float("nan"), 0.5], "y": [0.5, 0.5]}, index=["gone", "here"])
    assert list(place_labels(dots, ["gone", "here", "unknown"], extents=EXTENTS)) == ["here"]
