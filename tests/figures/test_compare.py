import numpy as np
import pandas as pd
from clipmem_core.figures.compare import comparison_figure
from hypothesis import given
from hypothesis import strategies as st

from clipmem_core.figures.colours import OTHER, group_colour


def points(*groups: str, ids: list[str] | None = None) -> pd.DataFrame:
    n = len(groups)
    rows = np.arange(n)
    scores = {"one": rows * 0.5, "other": rows * 0.5 - 1.0}
    names = ids or [f"{row}.png" for row in rows]
    return pd.DataFrame({"pair_id": names, "row_one": rows, "row_other": rows + 100, **scores, "group_one": groups})


def dots(table: pd.DataFrame, names: tuple[str, str] = ("a", "b")) -> list:
    return [trace for trace in comparison_figure(table, column="misfit", names=names).data if trace.mode == "markers"]


@given(st.lists(st.sampled_from(["scored", "external", "new kind"]), max_size=12))
def test_every_pair_is_one_dot_that_knows_its_rows(groups: list[str]) -> None:
    table = points(*groups)
    drawn = [dot for trace in dots(table) for dot in zip(trace.x, trace.y, trace.customdata, strict=True)]
    found = {int(data[0]): (x, y, int(data[1]), data[2]) for x, y, data in drawn}
    assert len(drawn) == len(groups)
    assert found == {row: (row * 0.5, row * 0.5 - 1.0, row + 100, f"{row}.png") for row in range(len(groups))}


def test_a_group_has_its_colour_and_one_that_is_none_of_ours_is_grey() -> None:
    colours = {trace.name: trace.marker.color for trace in dots(points("scored", "external", "new"))}
    assert colours == {"scored": group_colour("scored"), "external": group_colour("external"), "new": OTHER}


def test_the_line_of_no_change_spans_both_scores() -> None:
    (line,) = [trace for trace in comparison_figure(points("scored", "scored"), column="se", names=("a", "b")).data][1:]
    assert list(line.x) == list(line.y) == [-1.0, 0.5]


def test_no_pair_draws_no_line() -> None:
    assert len(comparison_figure(points(), column="se", names=("a", "b")).data) == 0


def test_the_axes_name_the_score_and_the_audits() -> None:
    layout = comparison_figure(points("scored"), column="similarity_out", names=("<i>x</i>", "b")).layout
    assert layout.xaxis.title.text == "similarity out in &lt;i&gt;x&lt;/i&gt;"
    assert layout.yaxis.title.text == "similarity out in b"


def test_what_others_wrote_is_escaped_and_cut() -> None:
    (trace,) = dots(points("<b>g</b>", ids=["<a href='x'>" + "y" * 100]))
    assert trace.name == "&lt;b&gt;g&lt;/b&gt;"
    text = trace.customdata[0][2]
    assert text.startswith("&lt;a href='x'&gt;yyy")
    assert text.endswith("…")
