from collections.abc import Callable

from clipmem_core.audits.store import Audit
from clipmem_core.review.decisions import open_review
from tests.dashboard.test_browse import BROWSE, ids
from tests.dashboard.test_deciding import press
from tests.dashboard.test_pages import open_page

Copy = Callable[..., Audit]


def test_ticks_stay_from_page_to_page_and_go_with_another_filter(copy: Copy) -> None:
    copy()
    app = open_page(BROWSE, size="12")
    app.checkbox[1].check().run()
    ticked = ids(app)[1]
    next(button for button in app.button if button.label == "Next").click().run()
    app.checkbox[0].check().run()
    assert app.session_state["ticked_pairs"] == [ticked, ids(app)[0]]
    next(button for button in app.button if button.label == "Previous").click().run()
    assert [box.value for box in app.checkbox][:3] == [False, True, False]
    app.checkbox[1].uncheck().run()
    assert len(app.session_state["ticked_pairs"]) == 1
    app.selectbox(key="order").select("se").run()
    assert len(app.session_state["ticked_pairs"]) == 1
    app.selectbox(key="decision").select("undecided").run()
    assert app.session_state["ticked_pairs"] == []


def test_a_whole_page_is_ticked_at_once(copy: Copy) -> None:
    copy()
    app = open_page(BROWSE, size="12")
    next(button for button in app.button if button.label == "Select page").click().run()
    assert app.session_state["ticked_pairs"] == ids(app)
    assert all(box.value for box in app.checkbox)
    next(button for button in app.button if button.label == "Unselect 12").click().run()
    assert not any(box.value for box in app.checkbox)


def test_ticks_are_gone_once_their_pairs_are_decided_on(copy: Copy) -> None:
    audit = copy()
    app = open_page(BROWSE, size="12")
    shown = ids(app)
    press(app, "Select page")
    press(press(app, "Keep"), "Yes, keep: 12 pairs")
    assert {pair_id for pair_id, *_ in open_review(audit).entries_after(0)} == set(shown)
    assert not any(box.value for box in app.checkbox)
