from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import Audit
from clipmem_core.review.decisions import Decision, open_review
from tests.dashboard.test_pages import open_page, texts
from tests.fixtures import Copy

PAIR = "pages/pair.py"


def ids(audit: Audit) -> list[str]:
    """The pairs of the audit, the most memorized first."""
    return audit.scores.sort_values("clipmem", ascending=False)["pair_id"].tolist()


def press(app: AppTest, label: str) -> AppTest:
    next(button for button in app.button if button.label == label).click()
    app.run()
    assert not app.exception, app.exception[0].message
    return app


def current(audit: Audit, pair_id: str) -> Decision | None:
    return open_review(audit).current(pair_id)


def decided(audit: Audit, pair_id: str) -> str | None:
    entry = current(audit, pair_id)
    return entry.decision if entry else None


def toasts(app: AppTest) -> str:
    return " ".join(toast.value for toast in app.toast)


def badges(app: AppTest) -> str:
    return " ".join(element.value for element in app.markdown if "-badge[" in element.value)


@pytest.mark.parametrize(("label", "decision"), [("Keep", "keep"), ("Remove", "remove")])
def test_a_press_is_stored_at_once_and_the_next_undecided_pair_comes_unless_it_is_to_stay(
    copy: Copy, label: str, decision: str
) -> None:
    audit = copy()
    first, second, third = ids(audit)[:3]
    open_review(audit).decide([second], "keep")
    app = open_page(PAIR, audit="made", order="clipmem", pair=first)
    assert "undecided" in badges(app)
    press(app, label)
    assert decided(audit, first) == decision
    assert app.query_params["pair"] == third
    assert f"Saved: {decision}." in toasts(app)
    assert first in texts(app)
    app.toggle[0].set_value(False).run()
    press(app, label)
    assert app.query_params["pair"] == third
    assert decision in badges(app)
    assert "undecided" not in badges(app)


def test_undo_takes_back_one_after_the_other_and_shows_the_pair(copy: Copy) -> None:
    audit = copy()
    first, second, other = ids(audit)[:3]
    app = press(press(open_page(PAIR, audit="made", order="clipmem", pair=first), "Keep"), "Remove")
    open_review(audit).decide([other], "remove")  # by somebody else
    press(app, "Undo")
    assert [decided(audit, each) for each in (first, second, other)] == ["keep", None, "remove"]
    assert app.query_params["pair"] == second
    press(app, "Undo")
    assert decided(audit, first) is None
    assert app.query_params["pair"] == first
    assert "Undone" in toasts(app)


def test_who_was_overtaken_is_warned_and_undo_brings_theirs_back(copy: Copy) -> None:
    audit = copy()
    first = ids(audit)[0]
    app = open_page(PAIR, audit="made", pair=first)
    open_review(audit).decide([first], "remove")
    press(app, "Keep")
    assert "marked remove in another tab" in toasts(app)
    assert decided(audit, first) == "keep"
    press(app, "Undo")
    assert decided(audit, first) == "remove"
    open_review(audit).decide([first], "recaption", captions=["a crow"], note="not a boat")
    app.run()
    assert "recaption" in badges(app)
    assert {"note: not a boat", "→ a crow"} <= set(texts(app))
    press(app, "Keep")
    assert "another tab" not in toasts(app)


def test_a_log_that_cannot_be_written_is_told(copy: Copy, data: Path) -> None:
    copy()
    app = open_page(PAIR, audit="made")
    (data / "review").write_text("not a folder")
    press(app, "Keep")
    assert "could not be saved" in toasts(app)


def one_view() -> None:
    """A page that is drawn anew and whose button is still of the first time, as a browser may show it."""
    import streamlit as st

    from clipmem_core.audits.store import list_audits
    from clipmem_core.dashboard.deciding import decide, draw_notice
    from clipmem_core.review.cards import cards

    audit = list_audits()[0]
    for decision in ("keep", "remove"):
        st.button(decision, on_click=decide, args=(audit, cards(audit, [0])[0], decision), kwargs={"press": 0})
    draw_notice(audit, key="one")


def test_a_second_press_on_what_was_drawn_before_the_first_is_not_stored_and_says_so(copy: Copy) -> None:
    audit = copy()
    app = press(AppTest.from_function(one_view, default_timeout=300).run(), "keep")
    assert "Saved: keep." in toasts(app)
    press(app, "remove")
    assert "not saved" in toasts(app)
    assert decided(audit, audit.pairs["pair_id"][0]) == "keep"
    assert open_review(audit).count_events() == 1


def caption_box(app: AppTest, text: str | None = None) -> str:
    if text is not None:
        app.text_area[0].set_value(text)
    return app.text_area[0].value


def test_the_box_holds_the_captions_stores_other_ones_and_brings_them_back(copy: Copy) -> None:
    audit = copy()
    pair_id = audit.pairs["pair_id"][50]
    app = open_page(PAIR, audit="made", pair=pair_id)
    assert caption_box(app).splitlines() == audit.pairs["captions"][50].tolist()
    for text, said in ((" \n ", "at least one caption"), (None, "these are the captions it has")):
        caption_box(app, text if text else "\n".join(audit.pairs["captions"][50]))
        press(app, "Change caption")
        assert said in toasts(app)
        assert current(audit, pair_id) is None
        assert app.query_params["pair"] == pair_id
    caption_box(app, "  a   boat \n\n <b>two</b>\n")
    press(app, "Change caption")
    stored = current(audit, pair_id)
    assert stored is not None
    assert (stored.decision, stored.captions) == ("recaption", ("a boat", "<b>two</b>"))
    app = open_page(PAIR, audit="made", pair=pair_id)
    assert caption_box(app) == "a boat\n<b>two</b>"
    assert {"→ a boat", "→ <b>two</b>"} <= set(texts(app))


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
    assert "changed in another tab" in toasts(app)
    assert "mine" in texts(app)
    assert (current(audit, first).note, note(app).value) == ("theirs", "theirs")
    note(app).set_value("theirs and mine").run()
    assert (current(audit, first).decision, current(audit, first).note) == ("keep", "theirs and mine")


def note(app: AppTest) -> AppTest:
    return next(field for field in app.text_input if field.label == "Note")
