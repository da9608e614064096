import pandas as pd
import pytest
from clipmem_core.figures.pair import TERM_NAMES, term_figure

NAMES = {"in": "trained <with> it", "out": "trained without it"}


def members(*, sides: tuple[str, ...] = ("in", "in", "out")) -> pd.DataFrame:
    terms = {term: [place + 0.1 * row for row in range(len(sides))] for place, term in enumerate(TERM_NAMES)}
    return pd.DataFrame({"member": [f"<m{row}>" for row in range(len(sides))], "side": sides, **terms})


def dots(table: pd.DataFrame) -> list:
    """The traces of the members, without the bars at the means."""
    return [trace for trace in term_figure(table, colour="#123456", names=NAMES).data if trace.customdata is not None]


def test_every_member_has_a_dot_on_every_term() -> None:
    traces = dots(members())
    assert len(traces) == 2 * len(TERM_NAMES)
    full = [trace for trace in traces if trace.marker.symbol == "circle"]
    assert [list(trace.x) for trace in full] == [pytest.approx([place, place + 0.1]) for place in range(5)]
    rings = [trace for trace in traces if trace.marker.symbol == "circle-open"]
    assert [list(trace.x) for trace in rings] == [pytest.approx([place + 0.2]) for place in range(5)]


def test_the_two_sides_lie_above_and_below_their_term() -> None:
    for trace in dots(members()):
        place = round(trace.y[0])
        assert (trace.y[0] < place) == (trace.marker.symbol == "circle")  # the axis runs downwards


def test_a_bar_stands_at_the_mean_of_each_side() -> None:
    figure = term_figure(members(), colour="#123456", names=NAMES)
    bars = [trace.x[0] for trace in figure.data if trace.marker.symbol == "line-ns"]
    assert bars == pytest.approx([0.05, 1.05, 2.05, 3.05, 4.05, 0.2, 1.2, 2.2, 3.2, 4.2])


def test_the_legend_names_each_side_once_and_what_others_wrote_is_escaped() -> None:
    shown = [trace for trace in dots(members()) if trace.showlegend]
    assert [trace.name for trace in shown] == ["trained &lt;with&gt; it", "trained without it"]
    assert list(shown[0].customdata) == ["&lt;m0&gt;", "&lt;m1&gt;"]


def test_a_side_without_members_is_left_out() -> None:
    assert len(dots(members(sides=("out", "out")))) == len(TERM_NAMES)
