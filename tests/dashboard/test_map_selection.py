import math

from hypothesis import given
from hypothesis import strategies as st

from clipmem_core.dashboard.maps import as_linked, drawn_outline
from clipmem_core.review.selection import Outline, Selection, to_parameters

SQUARE = {"x": [0.0, 1.0, 1.0, 0.0], "y": [0.0, 0.0, 1.0, 1.0]}


def event(*, box: list | None = None, lasso: list | None = None) -> dict:
    return {"selection": {"points": [], "point_indices": [], "box": box or [], "lasso": lasso or []}}


def test_nothing_drawn_is_no_outline() -> None:
    assert drawn_outline(event(), "similarity_out", "clipmem") is None
    assert drawn_outline({}, "similarity_out", "clipmem") is None


def test_a_lasso_is_its_corners() -> None:
    assert drawn_outline(event(lasso=[SQUARE]), "map_x", "map_y") == Outline(
        "map_x", "map_y", ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
    )


def test_a_box_drawn_from_any_corner_is_a_rectangle() -> None:
    outline = drawn_outline(event(box=[{"x": [0.5, 0.1], "y": [0.2, 0.9]}]), "similarity_out", "clipmem")
    assert outline == Outline("similarity_out", "clipmem", ((0.1, 0.2), (0.5, 0.2), (0.5, 0.9), (0.1, 0.9)))


def test_of_several_shapes_the_last_counts() -> None:
    shapes = [SQUARE, {"x": [5.0, 6.0, 6.0], "y": [5.0, 5.0, 6.0]}]
    outline = drawn_outline(event(lasso=shapes), "map_x", "map_y")
    assert outline is not None
    assert outline.corners[0] == (5.0, 5.0)


def test_a_click_is_no_lasso() -> None:
    assert drawn_outline(event(lasso=[{"x": [1.0], "y": [1.0]}]), "map_x", "map_y") is None


@given(st.integers(3, 400), st.floats(1e-3, 1e3))
def test_what_is_counted_is_what_the_address_says(corners: int, scale: float) -> None:
    angles = [2 * math.pi * place / corners for place in range(corners)]
    outline = Outline("map_x", "map_y", tuple((scale * math.cos(a), scale * math.sin(a)) for a in angles))
    linked = as_linked(Selection(outline=outline, map="m0.image"))
    assert linked.outline is not None
    assert to_parameters(as_linked(linked)) == to_parameters(linked)
    assert as_linked(linked) == linked
