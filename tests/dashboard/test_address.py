from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import Audit
from clipmem_core.dashboard.page import SELECTION_PARAMETERS, link
from clipmem_core.review.selection import Range, Selection, box, to_parameters
from tests.dashboard.test_pages import address


def run(script: Callable[..., None], *given: Any, **parameters: str) -> AppTest:
    app = AppTest.from_function(script, args=given)
    for name, value in parameters.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def rewrite(selection: object, others: dict[str, int | None]) -> None:
    from clipmem_core.dashboard.page import write_selection

    write_selection(selection, **others)


def show() -> None:
    import streamlit as st

    from clipmem_core.dashboard.page import read_number, read_selection, read_view

    st.text(repr(read_selection()))
    st.text(f"{read_number('page', 1)} {read_number('size', 24, among=(12, 24))} {read_view()}")


FULL = Selection(
    order="misfit",
    ascending=True,
    group="scored",
    label="a & b=c#d",
    planted="any",
    decision="undecided",
    check="dark",
    words="<b> ü",
    ranges=(Range("clipmem", 0.5), Range("misfit", None, 1.5)),
    outline=box("similarity_out", "clipmem", (0.0, 1.0), (0.25, 0.5)),
    map="m0.image",
    meaning="a frog",
    like="images/1.png",
    by="text",
    member="m0",
)


def test_a_selection_is_read_as_it_was_written() -> None:
    app = run(show, **to_parameters(FULL))
    assert app.text[0].value == repr(FULL)
    assert not app.warning
    assert set(to_parameters(FULL)) == SELECTION_PARAMETERS


def test_writing_replaces_the_selection_and_keeps_the_rest() -> None:
    before = {"audit": "made", "size": "12", "layout": "table", "page": "7", "order": "se", "words": "old"}
    app = run(rewrite, Selection(group="scored"), {"layout": None}, **before)
    assert address(app) == {"audit": "made", "size": "12", "order": "clipmem", "group": "scored"}
    assert address(run(rewrite, Selection(), {"page": 3}, page="7")) == {"order": "clipmem", "page": "3"}


def test_what_cannot_be_understood_is_named_and_left_out() -> None:
    app = run(show, order="beauty", range="<b>", group="scored")
    assert app.text[0].value == repr(Selection(order="misfit", group="scored"))
    assert app.warning[0].value.endswith("order, range.")


def test_a_link_names_the_audit_the_selection_and_what_else_is_given(made: dict[str, Audit]) -> None:
    wanted = {"audit": "paper", "order": "misfit", "pair": "a/b.png", "page": "2"}
    assert link(made["paper"], Selection(order="misfit"), pair="a/b.png", page=2, size=None) == wanted


def chosen() -> None:
    import streamlit as st

    from clipmem_core.dashboard.page import choose_listed, choose_segment, draw_pages, read_page

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
    app = opened(three="x")
    app.selectbox(key="three-key").select("").run()
    assert "three" not in app.query_params
    app = opened()
    app.segmented_control(key="one-key").select("b").run()
    app.segmented_control(key="one-key").select("a").run()
    assert app.query_params == {"one": "a"}


def moved_on() -> None:
    import streamlit as st

    from clipmem_core.dashboard.page import asked, choose_segment

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
