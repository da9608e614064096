import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import CAPTION_TABLE, PAIRS, Audit, write_table
from clipmem_core.dashboard.pair import Line, bring_back, standing_lines
from clipmem_core.review.decisions import KEEP, REMOVE, open_review
from clipmem_core.review.rows import check_counts
from tests.dashboard.test_deciding import current, press
from tests.dashboard.test_pages import open_page, texts
from tests.fixtures import HOSTILE, Copy

PAIR_ID = "images/020.png"
OWN = ["a frog", HOSTILE[0], "a toad on a pad"]


@pytest.fixture
def audit(copy: Copy) -> Audit:
    made = copy()
    pairs = made.pairs
    row = pairs.index[pairs["pair_id"] == PAIR_ID][0]
    pairs.at[row, "captions"] = OWN
    write_table(made.folder / PAIRS, pairs)
    return made


def opened(audit: Audit) -> AppTest:
    return open_page("pages/pair.py", audit=audit.name, pair=PAIR_ID)


def captions(audit: Audit) -> tuple[str, ...] | None:
    found = current(audit, PAIR_ID)
    return found.captions if found and found.decision else None


def pressed(app: AppTest, label: str, place: int) -> AppTest:
    buttons = [button for button in app.button if button.label == label and not button.key.startswith("remove-")]
    buttons[place].click()
    app.run()
    assert not app.exception, app.exception[0].message
    return app


def test_one_caption_of_several_is_removed_brought_back_and_undone(audit: Audit) -> None:
    app = pressed(opened(audit), "Remove", 1)
    assert captions(audit) == (OWN[0], OWN[2])
    assert app.text_area[0].value == "\n".join((OWN[0], OWN[2]))  # the box of all captions has followed
    app = pressed(app, "Remove", 0)
    assert captions(audit) == (OWN[2],)
    last = [button for button in app.button if button.label == "Remove" and button.key.startswith("drop-")]
    assert [button.disabled for button in last] == [True]
    assert len([button for button in app.button if button.label == "Bring back"]) == 2
    app = pressed(app, "Bring back", 1)
    assert captions(audit) == (OWN[1], OWN[2])
    press(app, "Undo")
    assert captions(audit) == (OWN[2],)


def test_all_own_captions_again_are_no_decision(audit: Audit) -> None:
    app = pressed(opened(audit), "Remove", 1)
    pressed(app, "Bring back", 0)
    assert captions(audit) is None


def test_one_caption_is_edited_and_the_others_stay(audit: Audit) -> None:
    app = press(opened(audit), "Edit")
    app.text_area[0].set_value("  a newt \n in a pond ")
    press(app, "Save this caption")
    assert captions(audit) == ("a newt in a pond", *OWN[1:])


def test_nothing_is_stored_where_somebody_else_decided_or_nothing_changes(audit: Audit) -> None:
    app = opened(audit)
    open_review(audit).decide([PAIR_ID], KEEP)
    app = pressed(app, "Remove", 0)
    assert any("just decided in another tab" in element.value for element in app.markdown)
    found = current(audit, PAIR_ID)
    assert found is not None
    assert found.decision == KEEP
    app = press(app, "Edit")
    press(app, "Save this caption")
    assert captions(audit) == ()


def test_a_pair_to_be_removed_and_one_of_one_caption_have_no_such_buttons(audit: Audit) -> None:
    open_review(audit).decide([PAIR_ID], REMOVE)
    assert not [button for button in opened(audit).button if button.label == "Edit"]
    other = audit.pairs.loc[audit.pairs["captions"].map(len) == 1, "pair_id"]
    if len(other):
        app = open_page("pages/pair.py", audit=audit.name, pair=other.iloc[0])
        assert not [button for button in app.button if button.label == "Edit"]


def test_scores_stay_beside_their_captions_and_checks_are_shown(audit: Audit) -> None:
    table = pd.DataFrame({"pair_id": PAIR_ID, "caption": [0, 1, 2], "similarity_out": [0.5, -0.25, 0.75]})
    write_table(audit.folder / CAPTION_TABLE, table.assign(misfit=[0.0, 2.5, 0.0], odd=[False, True, False]))
    check_counts(audit)
    app = pressed(opened(audit), "Remove", 1)
    shown = [element.value for element in app.caption if "similarity out" in element.value]
    assert [line.split("similarity out ")[1].split()[0] for line in shown] == ["0.50", "−0.25", "0.75"]
    assert "fits much worse" in shown[1]
    assert OWN[0] in texts(app)
    struck = [element.value for element in app.get("html") if "<s " in element.value]
    assert len(struck) == 1
    assert "&lt;script&gt;" in struck[0]
    assert "<script>" not in struck[0]


@pytest.mark.parametrize("gone", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_what_was_removed_comes_back_to_its_place(gone: tuple[int, ...]) -> None:
    own = ("a", "b", "c")
    now = tuple(text for place, text in enumerate(own) if place not in gone)
    for place in gone:
        assert Line("removed", place, None) in standing_lines(own, now)
        now = bring_back(own, now, Line("removed", place, None))
    assert now == own
