"""The address keeps the view: selections, and widgets that read and write it."""

from streamlit.testing.v1 import AppTest

from tests.dashboard.test_pages import chips, open_page
from tests.fixtures import Copy


def test_invalid_parts_of_a_selection_are_named_and_the_others_count(copy: Copy) -> None:
    copy()
    app = open_page("pages/browse.py", order="beauty", range="<b>", group="scored")
    assert app.warning[0].value.endswith("order, range.")
    assert chips(app) == ["group: scored"]


def moved_on() -> None:
    import streamlit as st

    from clipmem_core.dashboard.page import choose_segment, read_choice

    view = read_choice("view", {"list": "List", "start": "Start"}, "")
    choose_segment("View", {"list": "List", "start": "Start"}, parameter="view", key=f"view-{view}")
    if view == "start" and st.button("Go"):
        st.query_params["view"] = "list"
        st.rerun()


def test_a_late_message_of_a_widget_that_is_gone_does_not_lead_back() -> None:
    app = AppTest.from_function(moved_on)
    app.query_params["view"] = "start"
    late = app.run()._tree.get_widget_states()
    app.button[0].click().run()
    for _ in range(3):
        app._run(late)
        assert app.query_params == {"view": "list"}
    app.segmented_control(key="view-list").select("start").run()
    assert app.query_params == {"view": "start"}
