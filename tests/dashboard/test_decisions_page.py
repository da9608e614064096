from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import Audit
from clipmem_core.dashboard import decision_list
from clipmem_core.review.decisions import Review, open_review
from tests.dashboard.test_pages import open_page, texts, titles
from tests.made_audit import HOSTILE

Copy = Callable[..., Audit]
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


def metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def links(app: AppTest) -> list[str]:
    return [link.proto.label for link in app.get("page_link")]


def test_without_decisions_the_page_says_so_and_leads_to_browse(audit: Audit) -> None:
    app = open_page(PAGE, audit="made")
    assert metrics(app) == {"Keep": "0", "Remove": "0", "Recaption": "0", "Undecided": "100"}
    assert "Nothing has been decided yet" in app.info[0].value
    assert "Browse the most memorized pairs and decide" in links(app)
    assert "Nothing has been decided yet" in open_view("history").info[0].value


def test_the_pairs_of_this_audit_are_counted(audit: Audit, review: Review) -> None:
    review.decide(["of another audit"], "keep")
    assert metrics(open_view()) == {"Keep": "2", "Remove": "3", "Recaption": "1", "Undecided": "94"}


def test_the_list_shows_what_was_decided_the_last_first(audit: Audit, review: Review) -> None:
    table = open_view().dataframe[0].value
    ids = audit.pairs["pair_id"].tolist()
    assert table["pair"].tolist() == [ids[6], *reversed(ids[3:6]), ids[2], *reversed(ids[:2])]
    assert table["decision"].tolist() == ["note only", *["remove"] * 3, "recaption", "keep", "keep"]
    assert table["new captions"][4] == "new one · another"
    assert table["note"].tolist()[::4] == ["look again", "wrong before"]
    assert table["picture"].str.startswith("data:image/jpeg;base64,").all()
    assert parse_qs(urlsplit(table["open"][0]).query)["pair"] == [ids[6]]


@pytest.mark.parametrize(("decision", "count"), [("keep", 2), ("remove", 3), ("recaption", 1), ("note only", 1)])
def test_the_address_filters_by_decision(review: Review, decision: str, count: int) -> None:
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


def test_a_decision_that_nobody_took_says_so(audit: Audit) -> None:
    open_review(audit).decide(audit.pairs["pair_id"][:1], "keep")
    app = open_view(decision="remove")
    assert not app.dataframe
    assert "No pair is decided so." in [caption.value for caption in app.caption]


def test_long_lists_have_pages(audit: Audit) -> None:
    ids = audit.pairs["pair_id"].tolist()
    open_review(audit).decide(ids[:30], "keep")
    pages = [open_view(page=page).dataframe[0].value["pair"].tolist() for page in ("1", "2", "3")]
    assert sum(pages, []) == ids[:30][::-1]
    assert open_view(page="99").dataframe[0].value["pair"].tolist() == pages[2]


def test_a_pair_of_another_audit_is_listed_without_picture_and_link(audit: Audit, review: Review) -> None:
    review.decide(["elsewhere.png"], "keep", audit="other")
    app = open_view()
    first = app.dataframe[0].value.iloc[0]
    assert first["pair"] == "elsewhere.png"
    assert first[["picture", "open"]].isna().all()
    assert any("another audit of this data set" in caption.value for caption in app.caption)


@pytest.mark.parametrize("text", HOSTILE[:8])
def test_hostile_notes_and_captions_stay_in_cells(audit: Audit, text: str) -> None:
    open_review(audit).decide([text], "recaption", captions=[text], note=text, audit=text)
    for view in ("decisions", "history", "export"):
        app = open_view(view)
        read = [*app.markdown, *app.caption, *app.info, *app.warning]
        assert not [element.value for element in read if text in element.value]
        assert "<script>" not in titles(app)
        assert "<img" not in titles(app)
    assert open_view().dataframe[0].value["note"][0] == " ".join(text.split())


def test_an_odd_view_or_page_in_the_address_is_passed_over(review: Review) -> None:
    assert open_view("nonsense", page="-3", decision="[x]").dataframe
    assert open_view("history", history="99").button
    assert open_view("export", format="../..").radio[0].value == "csv"


def test_the_history_undoes_one_event_and_does_it_again(audit: Audit, review: Review) -> None:
    app = press_key(open_view("history"), "undo-3")
    assert review.counts()["remove"] == 0
    assert "undo of 3" in titles(app)
    assert "undo-3" not in keys(app)
    app = press_key(app, "redo-5")
    assert review.counts()["remove"] == 3
    assert "Done again, for 3 pairs." in app.toast[0].value


def test_an_undo_that_others_were_faster_than_says_so(audit: Audit, review: Review) -> None:
    app = open_view("history")
    review.decide(audit.pairs["pair_id"][3:6], "keep")
    app = press_key(app, "undo-3")
    assert "somebody has decided anew since" in app.toast[0].value
    assert review.counts() == {"keep": 5, "remove": 0, "recaption": 1}


def test_a_redo_that_others_were_faster_than_says_so(audit: Audit, review: Review) -> None:
    app = press_key(open_view("history"), "undo-3")
    review.decide(audit.pairs["pair_id"][3:6], "keep")
    assert "somebody has decided anew since" in press_key(app, "redo-5").toast[0].value


def test_the_history_has_pages_of_ten(audit: Audit) -> None:
    ids = audit.pairs["pair_id"].tolist()
    for pair_id in ids[:12]:
        open_review(audit).decide([pair_id], "keep")
    assert len(keys(open_view("history"))) == 10
    assert keys(open_view("history", history="2")) == ["undo-2", "undo-1"]


def press_key(app: AppTest, key: str) -> AppTest:
    app.button(key=key).click().run()
    assert not app.exception, app.exception[0].message
    return app


def keys(app: AppTest) -> list[str]:
    return [button.key for button in app.button if button.key and button.key.startswith(("undo-", "redo-"))]


@pytest.mark.parametrize("view", ["decisions", "history", "export"])
def test_a_broken_audit_is_one_line(audit: Audit, review: Review, view: str) -> None:
    (audit.folder / "pairs.parquet").unlink()
    app = open_view(view)
    assert app.error[0].value == "This audit cannot be shown."
    assert any("pairs.parquet is missing" in text for text in texts(app))


def test_a_broken_log_is_one_line(audit: Audit, review: Review) -> None:
    for path in review.path.parent.iterdir():
        path.unlink()
    review.path.write_text("no log of ours")
    app = open_view()
    assert "is not a log" in " ".join(texts(app)) or "cannot be used" in " ".join(texts(app))


def test_without_an_audit_the_page_offers_one(data: Path) -> None:
    assert open_page(PAGE).title[0].value == "CLIPMem"


def test_all_decisions_are_read_once_for_each_state_of_the_log(
    audit: Audit, review: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Review] = []
    whole = Review.table
    monkeypatch.setattr(Review, "table", lambda self: calls.append(self) or whole(self))
    decision_list._table(audit)
    decision_list._table(audit)
    review.undo()
    assert len(decision_list._table(audit)) == 6
    assert len(calls) == 2
