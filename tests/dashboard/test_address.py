"""The address keeps the view: selections, their conditions, and widgets that read and write it."""

import math
from collections.abc import Callable
from typing import Any

from streamlit.testing.v1 import AppTest

from clipmem_core.review.views import MATCH, Range, Selection, box, to_parameters

FULL = Selection(
    order=MATCH,
    group="scored",
    label="a & b=c#d",
    injected="any",
    decision="undecided",
    check="dark",
    words="<b> ü",
    ranges=(Range("clipmem", 0.5), Range("misfit", -math.inf, 1.5)),
    outline=box("similarity_out", "clipmem", (0.0, 1.0), (0.25, 0.5)),
    meaning="a frog",
    like="images/1.png",
    by="picture",
)


def run(script: Callable[..., None], *args: Any, **parameters: str) -> AppTest:
    app = AppTest.from_function(script, args=args)
    app.query_params.update(parameters)
    app.run()
    assert not app.exception
    return app


def show() -> None:
    import streamlit as st

    from clipmem_core.dashboard.page import read_selection

    st.text(repr(read_selection()))


def test_a_selection_is_read_as_it_was_written_and_invalid_parts_are_named() -> None:
    app = run(show, **to_parameters(FULL))
    assert app.text[0].value == repr(FULL)
    assert not app.warning
    app = run(show, order="beauty", range="<b>", group="scored")
    assert app.text[0].value == repr(Selection(order="review_place", group="scored"))
    assert app.warning[0].value.endswith("order, range.")


def moved_on() -> None:
    import streamlit as st

    from clipmem_core.dashboard.page import choose_segment, read_choice

    view = read_choice("view", {"list": "List", "start": "Start"})
    choose_segment("View", {"list": "List", "start": "Start"}, parameter="view", key=f"view-{view}")
    if view == "start" and st.button("Go"):
        st.query_params["view"] = "list"
        st.rerun()


def test_a_late_message_of_a_widget_that_is_gone_does_not_lead_back() -> None:
    app = run(moved_on, view="start")
    late = app._tree.get_widget_states()
    app.button[0].click().run()
    for _ in range(3):
        app._run(late)
        assert app.query_params == {"view": "list"}
    app.segmented_control(key="view-list").select("start").run()
    assert app.query_params == {"view": "start"}
