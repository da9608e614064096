"""A shape drawn with the mouse on the map of scores opens its pairs in Browse."""

from typing import Any

import pytest

from tests.browser.watched import check_pictures, settle


def drag(page: Any, *places: tuple[float, float]) -> None:
    """Draw a line through places of the map, in shares of its width and height."""
    area = page.locator(".js-plotly-plot:has(.modebar) .nsewdrag").last.bounding_box()
    (x, y), *others = [(area["x"] + a * area["width"], area["y"] + b * area["height"]) for a, b in places]
    page.mouse.move(x, y)
    page.mouse.down()
    for x, y in others:
        page.mouse.move(x, y, steps=8)
    page.mouse.up()


@pytest.mark.parametrize("tool", ["lasso", "select"])
def test_a_shape_drawn_on_the_map_opens_its_pairs_and_does_not_open_them_again(
    page: Any, address: str, tool: str
) -> None:
    page.goto(f"{address}/?audit=hostile")
    settle(page)
    check_pictures(page, at_least=12)
    plot = page.locator(".js-plotly-plot:has(.modebar)").last
    plot.locator(".nsewdrag").first.wait_for()
    plot.locator(f".modebar-btn[data-val={tool}]").click()
    corners = [(0.02, 0.02), (0.98, 0.02), (0.98, 0.5), (0.02, 0.5)]
    drag(page, *(corners if tool == "lasso" else corners[::2]))
    button = page.get_by_role("button", name="in Browse")
    button.wait_for()
    count = button.inner_text().split()[-4]
    button.click()
    page.wait_for_url("**/browse?**")
    page.get_by_text(f"{count} pairs").first.wait_for()
    settle(page)
    check_pictures(page, at_least=1)  # a picture that is asked for when its page is left is an error of the browser's
    page.go_back()
    page.get_by_text("lasso points to see their pictures").wait_for()
    settle(page)
    check_pictures(page, at_least=12)
    assert page.url.split("?")[0].rstrip("/").endswith(("overview", address))
