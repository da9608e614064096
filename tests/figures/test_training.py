from itertools import combinations

import pandas as pd
import pytest
from clipmem_core.figures.training import FOLD_COLOURS, loss_figure, member_style

from clipmem_core.figures.colours import DARK_PAGE, GROUP_COLOURS, LIGHT_PAGE, OTHER
from tests.figures.test_groups import contrast


def losses(*names: str) -> pd.DataFrame:
    rows = [(name, epoch, 4.0 - epoch) for name in names for epoch in (1.0, 2.0, 3.0)]
    return pd.DataFrame(rows, columns=["member", "epoch", "loss"])


@pytest.mark.parametrize("colour", FOLD_COLOURS)
@pytest.mark.parametrize("page", [LIGHT_PAGE, DARK_PAGE])
def test_every_fold_stands_out_from_both_pages(colour: str, page: str) -> None:
    assert contrast(colour, page) >= 3


def test_folds_and_groups_have_different_colours() -> None:
    assert all(one != other for one, other in combinations([*FOLD_COLOURS, *GROUP_COLOURS.values()], 2))


def test_one_line_a_member_with_its_own_numbers() -> None:
    figure = loss_figure(losses("r0-f0", "r0-f1"))
    assert [trace.name for trace in figure.data] == ["r0-f0", "r0-f1"]
    assert list(figure.data[0].x) == [1, 2, 3]
    assert list(figure.data[0].y) == [3, 2, 1]


def test_a_side_or_fold_has_one_colour_and_its_repeats_differ_in_dash() -> None:
    assert member_style("f-0")[0] == member_style("f-2")[0] == GROUP_COLOURS["candidate"]
    assert member_style("g-1")[0] == GROUP_COLOURS["independent"]
    assert member_style("r0-f1")[0] == member_style("r1-f1")[0] != member_style("r0-f0")[0]
    assert len({member_style(f"r{repeat}-f0") for repeat in range(4)}) == 4
    assert member_style("odd")[0] == OTHER


def test_a_single_point_is_seen() -> None:
    assert loss_figure(losses("f-0").head(1)).data[0].mode == "markers"


def test_a_hostile_member_name_is_shown_as_text() -> None:
    text = loss_figure(losses("<a href='x'>m</a>")).to_json().replace("\\u003c", "<")
    assert "<a" not in text


def test_no_losses_leave_an_empty_figure() -> None:
    assert len(loss_figure(losses()).data) == 0
