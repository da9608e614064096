import html
import re

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.index import write_index
from clipmem_core.audits.store import Audit, write_json, write_table
from clipmem_core.review.decisions import open_review
from tests.dashboard.test_deciding import press
from tests.dashboard.test_pages import address, open_page, texts
from tests.made_audit import HOSTILE
from tests.made_fixtures import Copy

BROWSE = "pages/browse.py"


def card_texts(app: AppTest) -> list[str]:
    return [element.value for element in app.get("html") if 'class="pair-card"' in element.value]


def ids(app: AppTest) -> list[str]:
    """The pairs of the page, in its order."""
    return [html.unescape(re.search("id: <bdi>(.*?)</bdi>", text)[1]) for text in card_texts(app)]


def everything(audit: Audit) -> pd.DataFrame:
    return audit.scores.merge(audit.pairs, on="pair_id")


def chips(app: AppTest) -> list[str]:
    return app.multiselect(key="conditions").options if app.multiselect else []


def test_the_most_memorized_pairs_come_first_and_the_other_queue_is_one_click_away(copy: Copy) -> None:
    audit = copy()
    app = open_page(BROWSE)
    for order in ("clipmem", "misfit"):
        if order == "misfit":
            app.segmented_control(key="queue").select("misfit").run()
        assert ids(app) == everything(audit).sort_values(order, ascending=False)["pair_id"].tolist()[:24]
        assert len(app.image) == 24
        assert app.caption[0].value.startswith("**100 pairs.**" if order == "clipmem" else "**80 pairs.**")
        assert not chips(app)
    assert address(app) == {"audit": "made", "order": "misfit"}
    assert ids(open_page(BROWSE, order="misfit")) == ids(app)


@pytest.mark.parametrize(
    ("good", "name"), [(True, "Probably the wrong caption"), (False, "Low fit, not to be trusted here")]
)
def test_the_other_queue_is_called_what_the_verdict_allows(copy: Copy, good: bool, name: str) -> None:
    audit = copy()
    check = {"name": "the members hardly generalise", "good": good}
    write_json(audit.folder / "verdict.json", audit.verdict | {"checks": [check]})
    app = open_page(BROWSE, order="misfit")
    assert [option.content for option in app.segmented_control(key="queue").proto.options] == ["Most memorized", name]
    told = app.caption[0]
    assert ("Not to be trusted here: the members hardly generalise." in told.value) is not good
    assert "robably" not in told.proto.help
    (audit.folder / "verdict.json").write_text("{")
    assert "Read with care: this audit has no verdict." in open_page(BROWSE, order="misfit").caption[0].value


@pytest.mark.parametrize(
    ("kind", "members", "shown"),
    [("moderated", 4, True), ("sd of external", 8, False), ("welch", 7, False), ("welch", 8, True)],
)
def test_errors_of_pairs_are_shown_where_they_cover_what_they_say(
    copy: Copy, kind: str, members: int, shown: bool
) -> None:
    audit = copy()
    names = [f"r{row // 2}-f{row % 2}" for row in range(members)]
    write_json(audit.folder / "config.json", audit.record.values | {"members": names})
    write_json(audit.folder / "verdict.json", audit.verdict | {"se_kind": kind})
    app = open_page(BROWSE, order="se")
    assert (" ± 0.0" in card_texts(app)[0]) is shown
    assert (">se</span>" in card_texts(app)[0]) is shown
    app.segmented_control(key="layout").select("table").run()
    assert ("se" in app.dataframe[0].value) is shown
    assert "se" in audit.scores


def test_pages_follow_each_other_and_a_link_opens_one(copy: Copy) -> None:
    audit = copy("paper")
    rows = everything(audit).query("group == 'independent'")
    wanted = rows.sort_values("misfit", ascending=False)["pair_id"].tolist()
    app = open_page(BROWSE, order="misfit", group="independent", size="12")
    assert ids(app) == wanted[:12]
    press(app, "Next")
    assert ids(app) == wanted[12:]
    assert address(app)["page"] == "2"
    app.pagination[0].set_value(1).run()
    assert ids(app) == wanted[:12]
    assert "page" not in address(app)


def test_a_page_beyond_the_last_shows_the_last_and_another_filter_the_first(copy: Copy) -> None:
    audit = copy()
    app = open_page(BROWSE, page="99", size="12")
    assert len(ids(app)) == 4
    app.selectbox(key="label").select("circle").run()
    wanted = everything(audit).query("label == 'circle'").sort_values("clipmem", ascending=False)
    assert ids(app) == wanted["pair_id"].tolist()[:12]
    assert address(app) == {"audit": "made", "size": "12", "label": "circle"}


def test_filters_narrow_the_pairs_and_their_chips_widen_them(copy: Copy) -> None:
    audit = copy()
    rows = everything(audit)
    app = open_page(BROWSE, size="96")
    app.text_input(key="words").set_value("CIRCLE").run()
    app.selectbox(key="planted").select("none").run()
    app.number_input(key="range-low").set_value(0.2)
    press(app, "Add")
    told = rows["captions"].map(lambda captions: "circle" in " ".join(captions).lower())
    kept = rows[told & rows["planted"].isna() & (rows["clipmem"] >= 0.2)]
    assert set(ids(app)) == set(kept["pair_id"])
    assert chips(app) == ["planted: none", "words: CIRCLE", "clipmem ≥ 0.2"]
    app.multiselect(key="conditions").unselect(0).run()
    assert set(ids(app)) == set(rows[told & (rows["clipmem"] >= 0.2)]["pair_id"])
    press(app, "Clear all")
    assert address(app) == {"audit": "made", "size": "96"}
    assert len(ids(app)) == 96


def test_any_score_orders_and_is_in_bold_and_decided_pairs_wear_a_badge_and_can_be_left_out(copy: Copy) -> None:
    audit = copy()
    wanted = everything(audit).sort_values("learned")["pair_id"].tolist()[:25]
    open_review(audit).decide(wanted[:1], "remove")
    app = open_page(BROWSE)
    app.selectbox(key="order").select("learned").run()
    app.selectbox(key="ascending").select(True).run()
    assert ids(app) == wanted[:24]
    assert '<span class="name order">learned</span>' in card_texts(app)[0]
    assert address(app) == {"audit": "made", "order": "learned", "ascending": "1"}
    assert ">remove</span>" in card_texts(app)[0]
    assert "badge" not in card_texts(app)[1]
    app.selectbox(key="decision").select("undecided").run()
    assert ids(app) == wanted[1:]


def test_nothing_found_tells_which_condition_to_give_up(copy: Copy) -> None:
    audit = copy()
    app = open_page(BROWSE, label="circle", words="nowhere")
    assert app.info[0].value == "No pair fits all of these conditions."
    assert [text for text in texts(app) if text.startswith("without “words: nowhere”: ")]
    assert not [text for text in texts(app) if text.startswith("without “label")]
    write_table(audit.folder / "scores.parquet", audit.scores.assign(misfit=float("nan")))
    app = open_page(BROWSE)
    app.segmented_control(key="queue").select("misfit").run()
    assert app.info[0].value == "No pair of this audit has a score misfit."
    assert "clear them all" in open_page(BROWSE, label="<b>", words="nowhere").caption[-1].value


@pytest.mark.parametrize(
    "given",
    [
        {"words": HOSTILE[0], "label": HOSTILE[2], "group": HOSTILE[1], "planted": ":red[x]", "member": "$x$"},
        {"order": "<b>", "range": "clipmem:x:", "outline": "a:b:1", "page": "-3", "size": "7", "layout": "<b>"},
        {"order": "match", "decision": "**x**"},
    ],
)
def test_a_hostile_address_is_only_text(copy: Copy, given: dict[str, str]) -> None:
    copy()
    app = open_page(BROWSE, **given)
    parsed = " ".join(element.value for kind in ("markdown", "caption", "warning") for element in app.get(kind))
    assert not [value for value in given.values() if value in parsed and value not in ("match",)]
    assert not app.error


def test_independent_pairs_come_with_the_lowest_first(copy: Copy) -> None:
    audit = copy("paper")
    app = open_page(BROWSE)
    app.selectbox(key="group").select("independent").run()
    rows = everything(audit).query("group == 'independent'").sort_values("clipmem")
    assert ids(app) == rows["pair_id"].tolist()
    assert app.selectbox(key="ascending").options == ["lowest first", "highest first"]
    assert "learned by g, which is subtracted" in app.caption[0].value


@pytest.fixture
def searchable(copy: Copy) -> tuple[Audit, np.ndarray]:
    """An audit whose members have the same embeddings of pictures, and these."""
    audit = copy()
    vectors = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for member in audit.record.members:
        audit.member(member).mkdir(parents=True)
        write_index(audit.member(member) / "image.faiss", vectors)
    return audit, vectors


def test_more_like_a_picture_shows_the_closest_first(searchable: tuple[Audit, np.ndarray]) -> None:
    audit, vectors = searchable
    app = open_page(BROWSE, group="scored", size="12")
    pair = ids(app)[3]
    app.menu_button[3].click("image").run()
    row = audit.pairs["pair_id"].tolist().index(pair)
    wanted = audit.pairs["pair_id"].iloc[np.argsort(-vectors @ vectors[row], kind="stable")[:12]].tolist()
    assert ids(app) == wanted
    assert address(app) == {"audit": "made", "size": "12", "like": pair, "by": "image"}
    assert chips(app) == [f"pictures like that of: {pair}"]
    assert '<span class="name order">match</span><span class="value order">1.00</span>' in card_texts(app)[0]


@pytest.mark.parametrize("given", [{"like": "x" * 9000}, {"meaning": "a frog", "member": "../.."}])
def test_a_search_that_cannot_be_made_is_one_line_and_can_be_cleared(copy: Copy, given: dict[str, str]) -> None:
    copy()
    app = open_page(BROWSE, **given)
    assert app.error[0].value == "This search cannot be made."
    press(app, "Clear all")
    assert not app.error
    assert len(ids(app)) == 24


def test_the_table_shows_the_same_page(copy: Copy) -> None:
    audit = copy()
    open_review(audit).decide([ids(open_page(BROWSE))[1]], "keep")
    app = open_page(BROWSE, size="12", page="2")
    grid = ids(app)
    app.segmented_control(key="layout").select("table").run()
    assert address(app)["layout"] == "table"
    table = app.dataframe[0].value
    scores = audit.scores.set_index("pair_id").loc[grid]
    assert table["clipmem"].tolist() == pytest.approx(scores["clipmem"].tolist())
    assert table["picture"].str.startswith("data:image/jpeg;base64,").all()
    assert all(f"pair={pair.replace('/', '%2F')}" in link for pair, link in zip(grid, table["pair"], strict=True))
    assert not ids(app)
    first = open_page(BROWSE, size="12", layout="table").dataframe[0].value
    assert first["decision"].tolist() == ["", "keep", *[""] * 10]
    assert first["caption"][0].startswith("<script>document.title = 'taken'</script><b>bold")
    assert "\n" not in "".join(first["caption"])
    assert first["caption"].str.len().max() == 86


def test_ticks_stay_from_page_to_page_and_go_with_another_filter(copy: Copy) -> None:
    audit = copy()
    app = open_page(BROWSE, size="12")
    app.checkbox[1].check().run()
    ticked = ids(app)[1]
    press(app, "Next")
    app.checkbox[0].check().run()
    assert app.session_state["ticked_pairs"] == [ticked, ids(app)[0]]
    press(app, "Previous")
    assert [box.value for box in app.checkbox][:3] == [False, True, False]
    app.checkbox[1].uncheck().run()
    assert len(app.session_state["ticked_pairs"]) == 1
    app.selectbox(key="order").select("se").run()
    assert len(app.session_state["ticked_pairs"]) == 1
    app.selectbox(key="decision").select("undecided").run()
    assert app.session_state["ticked_pairs"] == []
    app = open_page(BROWSE, size="12")
    shown = ids(app)
    for _ in range(2):
        press(app, "Select page")
        assert app.session_state["ticked_pairs"] == shown
        assert all(box.value for box in app.checkbox)
        press(app, "Unselect 12")
        assert not any(box.value for box in app.checkbox)
    press(press(press(app, "Select page"), "Keep"), "Yes, keep: 12 pairs")
    assert {pair_id for pair_id, *_ in open_review(audit).entries_after(0)} == set(shown)
    assert not any(box.value for box in app.checkbox)
