import math

import pandas as pd
import plotly.graph_objects as go
import pytest

from clipmem_core.figures.arms import CHOSEN_COLOUR, LARGE, PAPER_COLOUR, SIZE, add_paper, bars, customdata, sizes
from clipmem_core.figures.colours import DARK_PAGE, LIGHT_PAGE
from tests.figures.test_groups import contrast


def test_what_an_arm_tells_is_shown_as_it_is() -> None:
    rows = pd.DataFrame({"told": [["<b>a</b>", "x & y"]]}, index=[7])
    assert customdata(rows) == [[7, "&lt;b&gt;a&lt;/b&gt;<br>x &amp; y"]]


def test_an_arm_without_an_interval_has_no_bar() -> None:
    rows = pd.DataFrame({"utility": [1.0, 2.0], "utility_low": [0.5, math.nan], "utility_high": [2.0, math.nan]})
    found = bars(rows, "utility", "#123456")
    assert list(found["array"]) == [1.0, 0.0]
    assert list(found["arrayminus"]) == [0.5, 0.0]


def test_the_chosen_arm_is_larger() -> None:
    assert sizes(pd.DataFrame({"arm": ["a", "b"]}), "b") == [SIZE, LARGE]


def test_a_point_of_the_paper_is_no_arm() -> None:
    figure = go.Figure()
    add_paper(figure, pd.DataFrame({"x": [1.0], "y": [2.0], "told": [["the paper"]]}), "x", "y", PAPER_COLOUR)
    assert figure.data[0].customdata[0][0] is None


@pytest.mark.parametrize("colour", [CHOSEN_COLOUR, PAPER_COLOUR])
@pytest.mark.parametrize("page", [LIGHT_PAGE, DARK_PAGE])
def test_every_colour_stands_out_from_both_pages(colour: str, page: str) -> None:
    assert contrast(colour, page) >= 3
