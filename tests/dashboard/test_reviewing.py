"""The page Review, how many captions are wrong, and the links that lead to a review."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.auditing.folder.store import VERDICT, Audit, write_json
from clipmem_core.review.decisions import open_review
from tests.dashboard.test_pages import links, open_page, texts, titles
from tests.fixtures import HOSTILE

REVIEW = "pages/review.py"
TOLD: dict[str, Any] = {
    "all": {"estimate": 40.2, "low": 25.0, "high": 60.0},
    "of": 80,
    "parts": [0.0, 38.0, 1.2, 1.0],
    "injected": 0,
    "injected_vague": 0,
}
TOLD |= {"missing": None, "several": True, "kinds": [], "counted": ["pairs"]}


@pytest.fixture
def audit(copy: Callable[..., Audit]) -> Audit:
    return copy()


def mounted(app: AppTest) -> list[dict[str, Any]]:
    """Data of the pair components of the page, without the list of keys."""
    data = [json.loads(element.proto.json) for element in app.get("bidi_component")]
    return [each for each in data if "keys" not in each]


def test_the_pairs_that_are_probably_wrong_come_first_and_the_address_changes_that(
    audit: Audit,
) -> None:
    (data,) = mounted(open_page(REVIEW))
    assert (data["selection"], data["undecided"]) == ({"order": "review_place"}, True)
    assert (data["audit"], data["dataset"]) == ("made", audit.record.dataset_fingerprint)
    (data,) = mounted(open_page(REVIEW, order="clipmem", group="scored", decision="undecided"))
    assert (data["selection"], data["undecided"]) == ({"order": "clipmem", "group": "scored"}, True)
    open_review(audit).decide(audit.pairs["pair_id"][:3], "keep", audit="made")
    (data,) = mounted(open_page(REVIEW, order="clipmem", decision="keep"))
    assert (data["selection"], data["undecided"]) == (
        {"order": "clipmem", "decision": "keep"},
        False,
    )


@pytest.mark.usefixtures("audit")
def test_an_empty_selection_is_told_with_the_way_to_another() -> None:
    app = open_page(REVIEW, words="<b>no such word</b>")
    assert mounted(app) == []
    assert app.info[0].value == "No pair fits this selection."
    assert "words: <b>no such word</b>" in texts(app)
    assert [label for label, _ in links(app)] == ["Filter in Browse"]


def test_the_number_of_wrong_captions_is_plain_text(audit: Audit) -> None:
    assert "wrong captions" not in titles(open_page(audit="made"))
    ids = audit.pairs["pair_id"].tolist()
    review = open_review(audit)
    review.decide(ids[:3], "remove")
    review.decide(ids[3:5], "keep")
    assert "5 checked, 3 wrong" in titles(open_page("pages/decisions.py", audit="made"))
    review.decide(ids[:5], None)
    write_json(audit.folder / VERDICT, audit.verdict | {"wrong_captions": {"missing": HOSTILE[0]}})
    assert "&lt;script&gt;" in titles(open_page(audit="made"))
    write_json(audit.folder / VERDICT, audit.verdict | {"wrong_captions": TOLD})
    app = open_page(audit="made")
    assert "(95 % sure: 25 to 60)" in titles(app)
    assert any("ingle wrong captions" in text for text in texts(app))
