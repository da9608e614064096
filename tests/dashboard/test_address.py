from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import Audit
from clipmem_core.dashboard.address import SELECTION_PARAMETERS, link
from clipmem_core.review.selection import Range, Selection, box, to_parameters


def run(script: Callable[..., None], *given: Any, **parameters: str) -> AppTest:
    app = AppTest.from_function(script, args=given)
    for name, value in parameters.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def address(app: AppTest) -> dict[str, str]:
    return {name: value if isinstance(value, str) else value[-1] for name, value in app.query_params.items()}


def rewrite(selection: object, others: dict[str, int | None]) -> None:
    from clipmem_core.dashboard.address import write_selection

    write_selection(selection, **others)


def show() -> None:
    import streamlit as st

    from clipmem_core.dashboard.address import read_number, read_selection, read_view

    st.text(repr(read_selection()))
    st.text(f"{read_number('page', 1)} {read_number('size', 24, among=(12, 24))} {read_view()}")


FULL = Selection(
    order="misfit",
    ascending=True,
    group="scored",
    label="a & b=c#d",
    planted="any",
    decision="undecided",
    words="<b> ü",
    ranges=(Range("clipmem", 0.5), Range("misfit", None, 1.5)),
    outline=box("similarity_out", "clipmem", (0.0, 1.0), (0.25, 0.5)),
    map="m0.image",
    meaning="a frog",
    like="images/1.png",
    by="text",
    member="m0",
)


def test_every_parameter_of_a_selection_is_known() -> None:
    assert set(to_parameters(FULL)) == SELECTION_PARAMETERS


def test_a_selection_is_read_as_it_was_written() -> None:
    app = run(show, **to_parameters(FULL))
    assert app.text[0].value == repr(FULL)
    assert not app.warning


def test_writing_replaces_the_selection_and_keeps_the_rest() -> None:
    before = {"audit": "made", "size": "12", "layout": "table", "page": "7", "order": "se", "words": "old"}
    app = run(rewrite, Selection(group="scored"), {"layout": None}, **before)
    assert address(app) == {"audit": "made", "size": "12", "group": "scored"}


def test_a_page_that_is_given_is_written() -> None:
    assert address(run(rewrite, Selection(), {"page": 3}, page="7")) == {"page": "3"}


def test_what_cannot_be_understood_is_named_and_left_out() -> None:
    app = run(show, order="beauty", range="<b>", group="scored")
    assert app.text[0].value == repr(Selection(group="scored"))
    assert app.warning[0].value.endswith("left out: order, range.")


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", "²", "9" * 5000, ""])
def test_a_page_that_is_no_number_is_the_first(text: str) -> None:
    assert run(show, page=text, size=text).text[1].value.startswith("1 24 ")


def test_page_size_and_layout_are_passed_on() -> None:
    app = run(show, page="2", size="12", layout="table", pair="x")
    assert app.text[1].value == "2 12 {'page': '2', 'size': '12', 'layout': 'table'}"


def test_a_link_names_the_audit_the_selection_and_what_else_is_given(made: dict[str, Audit]) -> None:
    wanted = {"audit": "paper", "order": "misfit", "pair": "a/b.png", "page": "2"}
    assert link(made["paper"], Selection(order="misfit"), pair="a/b.png", page=2, size=None) == wanted
