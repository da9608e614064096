from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest


def chosen() -> None:
    import streamlit as st

    from clipmem_core.dashboard.address import choose_listed, choose_segment, draw_pages, read_page

    first = choose_segment("One", {"a": "A", "b": "B"}, parameter="one", key="one-key", clears=["page"])
    usual = choose_segment("Two", {"a": "A", "b": "B"}, parameter="two", key="two-key", usual="b", hidden=True)
    listed = choose_listed("Three", ["", "x"], parameter="three", key="three-key", width=100, clears=["page"])
    page, pages = read_page(25, 12)
    draw_pages(page, pages, key="pages")
    st.session_state["found"] = (first, usual, listed, page, pages)


@pytest.fixture
def opened() -> Callable[..., AppTest]:
    def open_at(**parameters: str) -> AppTest:
        app = AppTest.from_function(chosen)
        app.query_params.update(parameters)
        return app.run()

    return open_at


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ({}, ("a", "b", "", 1, 3)),
        ({"one": "b", "two": "a", "three": "x", "page": "2"}, ("b", "a", "x", 2, 3)),
        ({"one": "c", "two": "<b>", "three": "y", "page": "9"}, ("a", "b", "", 3, 3)),
        ({"page": "0"}, ("a", "b", "", 1, 3)),
        ({"page": "-1"}, ("a", "b", "", 1, 3)),
    ],
)
def test_the_address_sets_each_widget_and_what_is_no_option_is_the_usual_one(
    opened: Callable[..., AppTest], address: dict[str, str], found: tuple[str, str, str, int, int]
) -> None:
    assert opened(**address).session_state["found"] == found


def test_a_choice_is_written_into_the_address_and_begins_at_the_first_page(opened: Callable[..., AppTest]) -> None:
    app = opened(page="2", other="stays")
    app.segmented_control(key="one-key").select("b").run()
    assert app.query_params == {"one": "b", "other": "stays"}
    assert app.session_state["found"] == ("b", "b", "", 1, 3)


def test_the_option_that_says_nothing_leaves_the_address(opened: Callable[..., AppTest]) -> None:
    app = opened(three="x")
    app.selectbox(key="three-key").select("").run()
    assert "three" not in app.query_params


def test_the_page_is_kept_in_the_address_but_for_the_first() -> None:
    from clipmem_core.dashboard import choices

    said: list[dict[str, object]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choices, "write", lambda **others: said.append(others))
        choices.write_page(3)
        choices.write_page(1, parameter="history")
    assert said == [{"page": 3}, {"history": None}]


def moved_on() -> None:
    import streamlit as st

    from clipmem_core.dashboard.address import asked, choose_segment

    view = asked("view", {"list": "List", "start": "Start"})
    choose_segment("View", {"list": "List", "start": "Start"}, parameter="view", key=f"view-{view}")
    if view == "start" and st.button("Go"):
        st.query_params["view"] = "list"
        st.rerun()


def test_what_a_browser_still_sends_of_a_widget_that_is_gone_does_not_lead_back() -> None:
    app = AppTest.from_function(moved_on)
    app.query_params["view"] = "start"
    app.run()
    late = app._tree.get_widget_states()
    app.button[0].click().run()
    for _ in range(3):
        app._run(late)
        assert app.query_params == {"view": "list"}
    app.segmented_control(key="view-list").select("start").run()
    assert app.query_params == {"view": "start"}


def test_a_choice_that_is_taken_back_at_once_is_taken_back(opened: Callable[..., AppTest]) -> None:
    app = opened()
    app.segmented_control(key="one-key").select("b").run()
    app.segmented_control(key="one-key").select("a").run()
    assert app.query_params == {"one": "a"}
