from urllib.parse import parse_qs, urlsplit

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import CONFIG, PAIRS, Audit, write_json, write_table
from clipmem_core.review.decisions import Review, open_review
from tests.dashboard.test_pages import captions, metrics, open_page, texts, titles
from tests.dashboard.test_reviewing import mounted
from tests.fixtures import HOSTILE, Copy

PAGE = "pages/decisions.py"


@pytest.fixture
def audit(copy: Copy) -> Audit:
    return copy()


@pytest.fixture
def review(audit: Audit) -> Review:
    """Two kept, one recaptioned, three removed, one with a note only: seven pairs in four events."""
    ids, review = audit.pairs["pair_id"].tolist(), open_review(audit)
    review.decide(ids[:2], "keep", audit="made")
    review.decide([ids[2]], "recaption", captions=["new one", "another"], note="wrong before", audit="made")
    review.decide(ids[3:6], "remove", audit="made")
    review.decide([ids[6]], None, note="look again")
    return review


def open_view(view: str = "decisions", **parameters: str) -> AppTest:
    return open_page(PAGE, audit="made", view=view, **parameters)


def links(app: AppTest) -> list[str]:
    return [link.proto.label for link in app.get("page_link")]


def test_without_decisions_the_page_says_so_and_leads_to_browse(audit: Audit) -> None:
    app = open_page(PAGE, audit="made")
    assert metrics(app) == {"Keep": "0", "Remove": "0", "Recaption": "0", "Undecided": "100"}
    assert "Nothing has been decided yet" in app.info[0].value
    assert "Browse the most memorized pairs and decide" in links(app)
    assert "Nothing has been decided yet" in open_view("history").info[0].value


def test_the_list_shows_what_was_decided_the_last_first_and_the_address_filters_it(
    audit: Audit, review: Review
) -> None:
    review.decide(["elsewhere.png"], "keep", audit="other")
    app = open_view()
    assert metrics(app) == {"Keep": "2", "Remove": "3", "Recaption": "1", "Undecided": "94"}
    table, ids = app.dataframe[0].value, audit.pairs["pair_id"].tolist()
    assert table["pair"].tolist() == ["elsewhere.png", ids[6], *reversed(ids[3:6]), ids[2], *reversed(ids[:2])]
    assert table["decision"].tolist() == ["keep", "note only", *["remove"] * 3, "recaption", "keep", "keep"]
    assert table["new captions"][5] == "new one · another"
    assert table["note"].tolist()[1::4] == ["look again", "wrong before"]
    assert table["picture"][1:].str.startswith("data:image/jpeg;base64,").all()
    assert parse_qs(urlsplit(table["open"][1]).query)["pair"] == [ids[6]]
    assert table.iloc[0][["picture", "open"]].isna().all()
    assert any("another audit of this data set" in caption.value for caption in app.caption)
    for decision, count in (("keep", 3), ("remove", 3), ("note only", 1)):
        app = open_view(decision=decision)
        assert app.dataframe[0].value["decision"].tolist() == [decision] * count
        assert app.segmented_control[1].value == decision


def test_a_choice_is_written_into_the_address_and_begins_at_the_first_page(review: Review) -> None:
    app = open_view(page="2")
    app.segmented_control[1].select("remove").run()
    assert app.query_params["decision"] == "remove"
    assert "page" not in app.query_params
    app.segmented_control[0].select("history").run()
    assert app.query_params["view"] == "history"
    assert open_view("nonsense", page="-3", decision="[x]").dataframe
    assert open_view("history", history="99").button
    assert open_view("export", format="../..").radio[0].value == "csv"


def test_long_lists_and_histories_have_pages(audit: Audit) -> None:
    ids = audit.pairs["pair_id"].tolist()
    for pair_id in ids[:12]:
        open_review(audit).decide([pair_id], "keep")
    assert len(keys(open_view("history"))) == 10
    assert keys(open_view("history", history="2")) == ["undo-2", "undo-1"]
    open_review(audit).decide(ids[12:30], "keep")
    pages = [open_view(page=page).dataframe[0].value["pair"].tolist() for page in ("1", "2", "3")]
    assert sum(pages, []) == ids[:30][::-1]
    assert open_view(page="99").dataframe[0].value["pair"].tolist() == pages[2]
    app = open_view(decision="remove")
    assert not app.dataframe
    assert "No pair has this decision." in [caption.value for caption in app.caption]


def test_hostile_notes_and_captions_stay_in_cells(audit: Audit) -> None:
    for text in HOSTILE[:8]:
        open_review(audit).decide([text], "recaption", captions=[text], note=text, audit=text)
    for view in ("decisions", "history", "export"):
        app = open_view(view)
        read = [element.value for element in (*app.markdown, *app.caption, *app.info, *app.warning)]
        assert not [value for value in read for text in HOSTILE[:8] if text in value]
        assert "<script>" not in titles(app)
        assert "<img" not in titles(app)
    assert open_view().dataframe[0].value["note"].tolist() == [" ".join(text.split()) for text in HOSTILE[7::-1]]


def test_the_history_undoes_one_event_and_does_it_again(audit: Audit, review: Review) -> None:
    app = press_key(open_view("history"), "undo-3")
    assert review.counts()["remove"] == 0
    assert "undo of 3" in titles(app)
    assert "undo-3" not in keys(app)
    app = press_key(app, "redo-5")
    assert review.counts()["remove"] == 3
    assert "Redone for 3 pairs" in app.toast[0].value


def test_an_undo_and_a_redo_that_others_were_faster_than_say_so(audit: Audit, review: Review) -> None:
    app = open_view("history")
    review.decide(audit.pairs["pair_id"][3:6], "keep")
    app = press_key(app, "undo-3")
    assert "newer decision" in app.toast[0].value
    assert review.counts() == {"keep": 5, "remove": 0, "recaption": 1}
    app = press_key(app, "undo-5")
    review.decide(audit.pairs["pair_id"][3:6], "keep")
    assert "newer decision" in press_key(app, "redo-6").toast[0].value


def press_key(app: AppTest, key: str) -> AppTest:
    app.button(key=key).click().run()
    assert not app.exception, app.exception[0].message
    return app


def keys(app: AppTest) -> list[str]:
    return [button.key for button in app.button if button.key and button.key.startswith(("undo-", "redo-"))]


def test_a_broken_audit_or_log_is_one_line(audit: Audit, review: Review) -> None:
    pairs = (audit.folder / "pairs.parquet").read_bytes()
    (audit.folder / "pairs.parquet").unlink()
    for view in ("decisions", "history", "export"):
        app = open_view(view)
        assert app.error[0].value == "This audit cannot be shown."
        assert any("pairs.parquet is missing" in text for text in texts(app))
    (audit.folder / "pairs.parquet").write_bytes(pairs)
    for path in review.path.parent.iterdir():
        path.unlink()
    review.path.write_text("no log of ours")
    told = " ".join(texts(open_view()))
    assert "is not a log" in told or "cannot be used" in told


ROWS = [20, 30]


@pytest.fixture
def pairs(copy: Copy) -> list[str]:
    """Ids of two pairs that audit `own` removes, and to which audit `planted` gave each other's captions."""
    own, planted = copy(name="own"), copy(name="planted")
    captions = planted.pairs["captions"].copy()
    captions[ROWS] = captions[ROWS[::-1]].tolist()
    write_table(planted.folder / PAIRS, planted.pairs.assign(captions=captions))
    config = planted.record.values
    write_json(planted.folder / CONFIG, config | {"config": config["config"] | {"plant_miscaptions": 2}})
    ids = own.pairs["pair_id"][ROWS].tolist()
    open_review(own).decide(ids, "remove", audit="own")
    return ids


def markdown(app: AppTest) -> str:
    return " ".join(element.value for element in app.markdown)


def test_browse_decisions_and_export_of_an_audit_with_other_captions_say_so(pairs: list[str]) -> None:
    for audit, decision, badge, shown in (
        ("own", "remove", "remove", 2),
        ("planted", "remove", "remove", 0),
        ("planted", "undecided", "remove for other captions", 2),
    ):
        app = open_page("pages/browse.py", audit=audit, planted="miscaption", decision=decision)
        told = [card["decision"] or card["other"] for given in mounted(app) for card in given["cards"]]
        assert told.count(badge) == shown
    app = open_page("pages/decisions.py", audit="planted")
    assert metrics(app)["Remove"] == "0"
    assert metrics(app)["Undecided"] == "100"
    listed = app.dataframe[0].value
    assert sorted(listed["pair"]) == sorted(pairs)
    assert set(listed["decision"]) == {"remove for other captions"}
    assert "It does not count here, and is not exported." in captions(app)
    assert metrics(open_page("pages/decisions.py", audit="own"))["Remove"] == "2"
    promised = markdown(open_page("pages/decisions.py", audit="planted", view="export"))
    assert "100 pairs with their own captions, not the injected errors" in promised
    assert "98 pairs kept, 2 removed" in markdown(open_page("pages/decisions.py", audit="own", view="export"))
