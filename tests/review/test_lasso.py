import math

import numpy as np
import pytest
from clipmem_core.review.lasso import inside
from hypothesis import given
from hypothesis import strategies as st

from clipmem_core.review.selection import Outline
from tests.review.slow_selection import is_in

places = st.integers(-6, 6).map(float)
corners = st.lists(st.tuples(places, places), min_size=3, max_size=60)


@given(corners, st.integers(0, 2**32 - 1))
def test_any_shape_holds_the_points_that_a_walk_along_its_edges_finds(
    shape: list[tuple[float, float]], seed: int
) -> None:
    x, y = np.random.default_rng(seed).uniform(-7, 7, (2, 60))
    assert inside(x, y, shape).tolist() == [is_in(Outline("", "", tuple(shape)), *at) for at in zip(x, y, strict=True)]


def test_a_circle_holds_the_points_within_its_radius() -> None:
    circle = [(math.cos(turn / 30 * math.pi), math.sin(turn / 30 * math.pi)) for turn in range(60)]
    x, y = np.random.default_rng(0).uniform(-1.2, 1.2, (2, 20_000))
    distance = np.hypot(x, y)
    clear = (distance < 0.99) | (distance > 1)
    np.testing.assert_array_equal(inside(x, y, circle)[clear], distance[clear] < 1)


def test_a_shape_that_crosses_itself_is_inside_where_it_winds_once() -> None:
    bow_tie = [(0.0, 0.0), (2.0, 2.0), (2.0, 0.0), (0.0, 2.0)]
    x, y = np.array([0.5, 1.5, 1.0, 1.0]), np.array([1.0, 1.0, 0.25, 1.75])
    assert inside(x, y, bow_tie).tolist() == [True, True, False, False]


def test_squares_side_by_side_share_no_point() -> None:
    left, right = ([(at, 0.0), (at + 1, 0.0), (at + 1, 1.0), (at, 1.0)] for at in (0.0, 1.0))
    edge = np.array([1.0]), np.array([0.5])
    assert (inside(*edge, left)[0], inside(*edge, right)[0]) == (False, True)


@pytest.mark.parametrize("shape", [[(0.0, 0.0)] * 3, [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0)]])
def test_a_shape_without_an_inside_holds_nothing(shape: list[tuple[float, float]]) -> None:
    assert not inside(np.array([0.0, 1.0]), np.array([0.0, 1.0]), shape).any()
    assert inside(np.array([]), np.array([]), shape).tolist() == []
