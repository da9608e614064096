"""The page Browse: which pairs it shows, in which order and how, and decisions on all pairs of a selection."""

import json
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import Audit, write_table
from clipmem_core.dashboard import browse
from clipmem_core.review.decisions import open_review
from tests.dashboard.test_pages import address, open_page, press, texts, toasts
from tests.dashboard.test_reviewing import mounted
from tests.fixtures import HOSTILE, Copy

BROWSE = "pages/browse.py"


def grid(app: AppTest) -> dict[str, Any]:
    """What the component of the page is given."""
    found = mounted(app)
    return found[0] if found else {"cards": [], "scores": []}


def ids(app: AppTest) -> list[str]:
    """The pairs of the page, in its order."""
    return [card["pair_id"] for card in grid(app)["cards"]]


def scores_of(app: AppTest, place: int) -> dict[str, str]:
    """What is said of a pair's scores, by name."""
    given = grid(app)
    return {name: text for (name, _), text in zip(given["scores"], given["cards"][place]["scores"], strict=True)}


def ranked(audit: Audit, order: str, where: str = "clipmem < inf", *, ascending: bool = False) -> list[str]:
    """The pairs that have a score, in its order."""
    table = audit.scores.merge(audit.pairs, on="pair_id").query(where).dropna(subset=[order])
    return table.sort_values(order, ascending=ascending)["pair_id"].tolist()


def legend(app: AppTest) -> Any:  # noqa: ANN401
    """The line above the pairs."""
    return next(each for each in app.caption if each.value.startswith("**"))


def chips(app: AppTest) -> list[str]:
    return app.multiselect(key="conditions").options if app.multiselect else []


def test_likely_wrong_captions_come_first_and_the_other_queue_is_one_click_away(copy: Copy) -> None:
    audit = copy()
    app = open_page(BROWSE)
    assert ids(app) == ranked(audit, "misfit")[:24]
    assert "80 pairs" in legend(app).value
    assert "20 pairs without misfit" in legend(app).value
    app.segmented_control(key="queue").select("clipmem").run()
    assert ids(app) == ids(open_page(BROWSE, order="clipmem")) == ranked(audit, "clipmem")[:24]
    assert address(app) == {"audit": "made", "order": "clipmem"}
    assert not chips(app)


def test_without_a_misfit_the_order_is_that_of_memorization(copy: Copy) -> None:
    audit = copy()
    assert "sorted by memorization: 20 pairs" in texts(open_page(BROWSE, group="external"))
    write_table(audit.folder / "scores.parquet", audit.scores.assign(misfit=float("nan")))
    assert ids(open_page(BROWSE, label="circle")) == ranked(audit, "clipmem", "label == 'circle'")[:24]
    assert address(open_page("pages/pair.py"))["pair"] == ranked(audit, "clipmem")[0]
    app = open_page(BROWSE)
    app.segmented_control(key="queue").select("misfit").run()
    assert "misfit" in app.info[0].value


def test_pages_follow_each_other_and_independent_pairs_come_with_the_lowest_first(copy: Copy) -> None:
    audit = copy("paper")
    wanted = ranked(audit, "clipmem", "group == 'independent'", ascending=True)
    app = open_page(BROWSE, order="clipmem", group="independent", size="12")
    assert ids(app) == wanted[:12]
    assert app.selectbox(key="ascending").options == ["low to high", "high to low"]
    assert "learned by g, which is subtracted" in legend(app).value
    app.pagination[0].set_value(2).run()
    assert ids(app) == ids(open_page(BROWSE, **(address(app) | {"page": "99"}))) == wanted[12:]
    assert (grid(app)["page"], grid(app)["pages"], address(app)["page"]) == (2, 2, "2")
    app.selectbox(key="label").select("circle").run()
    assert "page" not in address(app)


def test_filters_narrow_the_pairs_and_their_chips_widen_them(copy: Copy) -> None:
    rows = (audit := copy()).scores.merge(audit.pairs, on="pair_id")
    app = open_page(BROWSE, order="clipmem", size="96")
    app.text_input(key="words").set_value("CIRCLE").run()
    app.selectbox(key="planted").select("none").run()
    app.slider(key="histogram-clipmem").set_range(0.5, float(rows["clipmem"].max())).run()
    told = rows["captions"].map(lambda captions: "circle" in " ".join(captions).lower())
    kept = rows[told & rows["planted"].isna() & (rows["clipmem"] >= 0.5)]
    assert set(ids(app)) == set(kept["pair_id"])
    assert chips(app) == ["injected error: none", "words: CIRCLE", "clipmem 0.5 to …"]
    app.multiselect(key="conditions").unselect(0).run()
    assert set(ids(app)) == set(rows[told & (rows["clipmem"] >= 0.5)]["pair_id"])
    press(app, "Clear all")
    assert address(app) == {"audit": "made", "order": "clipmem", "size": "96"}
    app = open_page(BROWSE, label="circle", words="nowhere")
    assert [text for text in texts(app) if text.startswith("without “words: nowhere”: ")]
    assert not [text for text in texts(app) if text.startswith("without “label")]


def test_any_score_orders_and_is_in_bold_and_decided_pairs_wear_a_badge_and_can_be_left_out(copy: Copy) -> None:
    audit = copy()
    wanted = ranked(audit, "learned", ascending=True)[:25]
    open_review(audit).decide(wanted[:1], "remove")
    app = open_page(BROWSE)
    app.selectbox(key="order").select("learned").run()
    app.selectbox(key="ascending").select(True).run()
    assert ids(app) == wanted[:24]
    assert list(scores_of(app, 0))[0] == grid(app)["order"] == "learned"
    assert address(app) == {"audit": "made", "order": "learned", "ascending": "1"}
    assert [card["decision"] for card in grid(app)["cards"]][:2] == ["remove", None]
    app.selectbox(key="decision").select("undecided").run()
    assert ids(app) == wanted[1:]
    assert (grid(app)["decided"], grid(app)["total"]) == (1, 80)


def test_captions_and_the_address_reach_the_page_as_data_alone(copy: Copy) -> None:
    copy()
    app = open_page(BROWSE, order="clipmem", words=HOSTILE[0], label=HOSTILE[2], group=HOSTILE[1], member="$x$")
    parsed = " ".join(element.value for kind in ("markdown", "caption", "warning") for element in app.get(kind))
    assert not [value for value in (*HOSTILE[:3], "$x$") if value in parsed]
    app = open_page(BROWSE, order="clipmem", size="12")
    told = [card["captions"][0] for card in grid(app)["cards"]]
    assert told[:4] + told[5:9] == HOSTILE[:4] + HOSTILE[5:9]
    assert len(told[9]) <= 5001
    parsed = [element.value for kind in ("markdown", "caption", "error", "info", "html") for element in app.get(kind)]
    for word in ("script>document", "latex", "javascript:", "material/delete", "struck", "# heading"):
        assert not [value for value in parsed if word in value]


@pytest.mark.parametrize("given", [{"like": "x" * 9000}, {"meaning": "a frog", "member": "../.."}])
def test_a_search_that_cannot_be_made_is_one_line_and_can_be_cleared(copy: Copy, given: dict[str, str]) -> None:
    copy()
    app = open_page(BROWSE, **given)
    assert len(app.error) == 1
    press(app, "Clear all")
    assert not app.error
    assert len(ids(app)) == 24


def test_the_table_shows_the_same_page_with_all_scores(copy: Copy) -> None:
    audit = copy()
    app = open_page(BROWSE, size="12")
    shown = ids(app)
    app.segmented_control(key="layout").select("table").run()
    assert address(app)["layout"] == "table"
    assert grid(app)["table"] is True
    assert ids(app) == shown
    told = scores_of(app, 0)
    assert told["clipmem"].startswith(f"{audit.scores.set_index('pair_id')['clipmem'][shown[0]]:.2f}")
    assert set(told) == {"clipmem", "se", "clipmem_shrunk", "similarity_out", "misfit"}


def acted() -> None:
    """A page on which a click told something."""
    import streamlit as st

    from clipmem_core.audits.store import list_audits
    from clipmem_core.dashboard.pair_component import DESTINATION, _act
    from clipmem_core.review.selection import Selection

    _act(list_audits()[0], Selection(group="scored"), "told")
    st.json(st.session_state.get(DESTINATION))


PAIR = {"audit": "made", "order": "clipmem", "group": "scored", "pair": "a/b"}


@pytest.mark.parametrize(
    ("act", "way", "parameters"),
    [
        ({"open": "a/b"}, ["pages/pair.py", PAIR], {}),
        ({"like": "x", "by": "text"}, ["pages/browse.py", {"audit": "made", "like": "x", "by": "text"}], {}),
        ({"page": 3}, None, {"page": "3"}),
        ({"order": "misfit"}, None, {"order": "misfit"}),
        *((nonsense, None, {}) for nonsense in ({"order": "<b>"}, {"page": -1}, {"open": ["x"]}, {"order": "match"})),
        ({"like": "x", "by": "smell"}, None, {}),
        (None, None, {}),
    ],
)
def test_a_click_leads_to_a_pair_its_likes_a_page_or_an_order_and_nonsense_nowhere(
    copy: Copy, act: object, way: list | None, parameters: dict[str, str]
) -> None:
    copy()
    app = AppTest.from_function(acted, default_timeout=300)
    app.session_state["told"] = {"act": act}
    app.run()
    assert not app.exception
    assert json.loads(app.json[0].value) == way
    assert address(app) == parameters


def test_a_whole_selection_is_decided_after_a_yes_and_undone(copy: Copy) -> None:
    audit = copy("paper")
    app = press(open_page(BROWSE, group="candidate", order="clipmem"), "Remove")
    assert open_review(audit).counts()["remove"] == 0
    press(app, "Yes, remove: 20 pairs")
    removed = open_review(audit).decisions(audit.pairs["pair_id"].tolist())
    assert set(removed) == set(ranked(audit, "clipmem", "group == 'candidate'"))
    press(app, "Undo")
    assert open_review(audit).counts()["remove"] == 0
    assert "Undone" in toasts(app)


def test_a_question_about_many_pairs_ends_with_a_no_or_another_selection_and_is_asked_again_of_other_pairs(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit, yes = copy(), "Yes, remove: 100 pairs"
    app = open_page(BROWSE, order="clipmem")
    for end in (lambda: press(app, "No"), lambda: app.selectbox(key="label").select("circle").run()):
        assert yes in [button.label for button in press(app, "Remove").button]
        end()
        assert not [button for button in app.button if button.label.startswith("Yes")]
    app = press(open_page(BROWSE, order="clipmem"), "Remove")
    monkeypatch.setattr(browse, "pair_ids", lambda audit, selection: ["images/000.png", "images/001.png"])
    press(app, yes)
    assert open_review(audit).position() == 0
    press(app, "Yes, remove: 2 pairs")
    assert open_review(audit).counts()["remove"] == 2


def dialog(find: str, replacement: str = "", *, regular: bool = False, **given: str) -> AppTest:
    """Open the dialog and fill it in; AppTest runs whole pages, which closes dialogs, so each run opens it again."""
    app = open_page(BROWSE, audit="made", **given)
    app.button(key="bulk-edit").click().run()
    assert "bulk-edit-find" in [element.key for element in app.text_input]
    for name, value in {"find": find, "replace": replacement, "regular": regular}.items():
        app.session_state[f"bulk-edit-{name}"] = value
    app.session_state[browse.OPENED] = True
    app.run()
    assert not app.exception, app.exception[0].message
    return app


def test_find_and_replace_shows_every_change_stores_all_and_undoes_them_as_one(copy: Copy) -> None:
    audit = copy()
    having = audit.pairs["captions"].map(lambda own: any("square" in text for text in own)).sum()
    app = dialog("square", "<b>box</b>", words="square", order="clipmem")
    shown = [element.value for element in app.get("html") if 'class="change"' in element.value]
    assert len(shown) == min(browse.PREVIEWED, having)
    assert all("<del>" in html and "&lt;b&gt;box&lt;/b&gt;" in html and "<b>" not in html for html in shown)
    app.session_state[browse.OPENED] = True
    app.button(key="bulk-edit-store").click().run()
    assert open_review(audit).counts()["recaption"] == having
    press(app, "Undo")
    assert open_review(audit).counts()["recaption"] == 0
