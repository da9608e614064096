from itertools import combinations

import pandas as pd
import pytest
from clipmem_core.figures.groups import encoder_figure, group_figure

from clipmem_core.audits.store import Audit
from clipmem_core.columns import GROUPS
from clipmem_core.figures.colours import DARK_PAGE, ENCODER_COLOURS, GROUP_COLOURS, LIGHT_PAGE, OTHER, group_colour
from clipmem_core.review.overview import load_overview


def luminance(colour: str) -> float:
    """Relative luminance by the Web Content Accessibility Guidelines."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colour", [*GROUP_COLOURS.values(), *ENCODER_COLOURS.values()])
@pytest.mark.parametrize("page", [LIGHT_PAGE, DARK_PAGE])
def test_every_colour_stands_out_from_both_pages(colour: str, page: str) -> None:
    assert contrast(colour, page) >= 3


def test_every_group_and_encoder_has_its_own_colour() -> None:
    colours = [*GROUP_COLOURS.values(), *ENCODER_COLOURS.values()]
    assert set(GROUP_COLOURS) == set(GROUPS)
    assert all(one != other for one, other in combinations(colours, 2))
    assert group_colour("odd") == OTHER


def test_means_lie_in_their_group_with_its_colour_and_interval(made: dict[str, Audit]) -> None:
    overview = load_overview(made["paper"])
    figure = group_figure(overview.groups, overview.bins)
    dots = [trace for trace in figure.data if trace.mode == "markers"]
    assert [trace.x[0] for trace in dots] == overview.groups["mean"].tolist()
    assert [trace.marker.color for trace in dots] == [GROUP_COLOURS[group] for group in overview.groups["group"]]
    assert dots[0].x[0] + dots[0].error_x.array[0] == pytest.approx(overview.groups["high"][0])
    assert list(figure.layout.yaxis.tickvals) == [3, 2, 1, 0]


def test_a_group_without_an_interval_has_no_bar() -> None:
    groups = pd.DataFrame({"group": ["scored"], "n": [3], "mean": [0.1], "low": [None], "high": [None]}, dtype=object)
    bins = pd.DataFrame({"group": ["scored"], "low": [0.0], "width": [0.2], "share": [1.0]})
    figure = group_figure(groups, bins)
    assert figure.data[1].error_x.array is None


def test_a_ridge_stays_below_the_next_group(made: dict[str, Audit]) -> None:
    overview = load_overview(made["paper"])
    areas = [trace for trace in group_figure(overview.groups, overview.bins).data if trace.fill == "toself"]
    for place, area in zip((3, 2, 1, 0), areas, strict=True):
        assert place == min(area.y) < max(area.y) < place + 0.8


def test_a_hostile_group_name_is_shown_as_text() -> None:
    groups = pd.DataFrame({"group": ["<a href='x'>g</a>"], "n": [3], "mean": [0.1], "low": [0.0], "high": [0.2]})
    figure = group_figure(groups, pd.DataFrame({"group": [], "low": [], "width": [], "share": []}))
    assert "<a" not in figure.to_json().replace("\\u003c", "<")


def test_encoders_have_their_colours() -> None:
    bar = encoder_figure({"text": 0.1, "image": 0.3}).data[0]
    assert list(bar.x) == [0.3, 0.1]
    assert list(bar.marker.color) == [ENCODER_COLOURS["image"], ENCODER_COLOURS["text"]]
