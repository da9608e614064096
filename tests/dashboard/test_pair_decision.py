from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import Audit
from clipmem_core.review.decisions import open_review
from tests.dashboard.test_deciding import PAIR, current, ids, press, toasts
from tests.dashboard.test_pages import open_page, texts

Copy = Callable[..., Audit]


def captions_box(app: AppTest, text: str | None = None) -> str:
    if text is not None:
        app.text_area[0].set_value(text)
    return app.text_area[0].value


def test_the_box_holds_the_captions_and_stores_other_ones(copy: Copy) -> None:
    audit = copy()
    pair_id = audit.pairs["pair_id"][50]
    app = open_page(PAIR, audit="made", pair=pair_id)
    assert captions_box(app).splitlines() == audit.pairs["captions"][50].tolist()
    captions_box(app, "  a   boat \n\n <b>two</b>\n")
    press(app, "Recaption")
    stored = current(audit, pair_id)
    assert stored is not None
    assert (stored.decision, stored.captions) == ("recaption", ("a boat", "<b>two</b>"))


@pytest.mark.parametrize(("text", "said"), [(" \n ", "at least one caption"), (None, "these are the captions it has")])
def test_no_captions_and_the_same_captions_are_refused(copy: Copy, text: str | None, said: str) -> None:
    audit = copy()
    pair_id = audit.pairs["pair_id"][50]
    app = open_page(PAIR, audit="made", pair=pair_id)
    captions_box(app, text)
    press(app, "Recaption")
    assert said in toasts(app)
    assert current(audit, pair_id) is None
    assert app.query_params["pair"] == pair_id


def test_captions_that_were_given_before_come_back_into_the_box(copy: Copy) -> None:
    audit = copy()
    pair_id = audit.pairs["pair_id"][50]
    open_review(audit).decide([pair_id], "recaption", captions=["one", "two"])
    app = open_page(PAIR, audit="made", pair=pair_id)
    assert captions_box(app) == "one\ntwo"
    assert {"→ one", "→ two"} <= set(texts(app))


def test_a_note_stands_with_and_without_a_decision(copy: Copy) -> None:
    audit = copy()
    first = ids(audit)[0]
    app = open_page(PAIR, audit="made", pair=first)
    note(app).set_value("odd :smile:").run()
    stored = current(audit, first)
    assert stored is not None
    assert (stored.decision, stored.note) == (None, "odd :smile:")
    assert app.query_params["pair"] == first
    app.toggle[0].set_value(False).run()
    press(app, "Keep")
    assert (current(audit, first).decision, current(audit, first).note) == ("keep", "odd :smile:")
    assert note(app).value == "odd :smile:"
    assert "note: odd :smile:" in texts(app)
    press(app, "Undo")
    press(app, "Undo")
    assert note(app).value == ""


def test_a_note_that_somebody_else_has_changed_since_is_not_overwritten(copy: Copy) -> None:
    audit = copy()
    first = ids(audit)[0]
    app = open_page(PAIR, audit="made", pair=first)
    open_review(audit).decide([first], "keep", note="theirs")
    note(app).set_value("mine").run()
    assert "somebody else has changed the note" in toasts(app)
    assert "mine" in texts(app)
    assert (current(audit, first).note, note(app).value) == ("theirs", "theirs")
    note(app).set_value("theirs and mine").run()
    assert (current(audit, first).decision, current(audit, first).note) == ("keep", "theirs and mine")


def note(app: AppTest) -> AppTest:
    return next(field for field in app.text_input if field.label == "Note")
