import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import Audit
from clipmem_core.dashboard.bulk_edit import OPENED, SIZE
from clipmem_core.review.decisions import open_review
from tests.dashboard.test_pages import open_page, texts
from tests.made_fixtures import Copy

WORDS = "square"


@pytest.fixture
def audit(copy: Copy) -> Audit:
    return copy()


def dialog(find: str, replace: str = "", *, regular: bool = False, **address: str) -> AppTest:
    """Open the dialog and fill it in; AppTest runs whole pages, which closes dialogs, so each run opens it again."""
    app = open_page("pages/browse.py", audit="made", **address)
    app.button(key="bulk-edit").click().run()
    assert "bulk-edit-find" in [element.key for element in app.text_input]
    typed = {"find": find, "replace": replace, "regular": regular}
    for name, value in typed.items():
        app.session_state[f"bulk-edit-{name}"] = value
    app.session_state[OPENED] = True
    app.run()
    assert not app.exception, app.exception[0].message
    return app


def changes(app: AppTest) -> list[str]:
    return [element.value for element in app.get("html") if 'class="change"' in element.value]


def test_every_change_is_shown_stored_at_one_press_and_undone_at_another(audit: Audit) -> None:
    pairs = audit.pairs
    having = pairs[pairs["captions"].map(lambda own: any(WORDS in text for text in own))]
    app = dialog(WORDS, "<b>box</b>", words=WORDS, order="clipmem")
    shown = changes(app)
    assert len(shown) == min(SIZE, len(having))
    assert all(f"<del>{WORDS}" in html or "<del>" in html for html in shown)
    assert all("&lt;b&gt;box&lt;/b&gt;" in html and "<b>" not in html for html in shown)
    app.session_state[OPENED] = True
    app.button(key="bulk-edit-store").click().run()
    assert open_review(audit).counts()["recaption"] == len(having)
    assert f"captions of {len(having)} pairs changed" in " ".join(element.value for element in app.markdown)
    next(button for button in app.button if button.label == "Undo").click().run()
    assert open_review(audit).counts()["recaption"] == 0


@pytest.mark.parametrize(
    ("find", "said"), [("(a", "the pattern cannot be read"), ("(?=.)", "a caption would become longer than")]
)
def test_a_bad_pattern_is_said_in_a_line_and_nothing_is_stored(audit: Audit, find: str, said: str) -> None:
    app = dialog(find, "x" * 400, regular=True)
    assert any(said in text for text in texts(app))
    assert "bulk-edit-store" not in [button.key for button in app.button]
    assert open_review(audit).count_events() == 0


def test_without_a_change_there_is_nothing_to_press(audit: Audit) -> None:
    app = dialog("no caption says this")
    assert app.button(key="bulk-edit-store").disabled
    assert "No caption changes." in [element.value for element in app.info]
