"""The page Review and the links that lead to it, as the server draws them."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import Audit, write_table
from clipmem_core.review.decisions import open_review
from tests.dashboard.test_pages import links, open_page, texts

REVIEW = "pages/review.py"


def mounted(app: AppTest) -> list[dict[str, Any]]:
    """What the component of the page is given, leaving out the help on its keys."""
    given = [json.loads(element.proto.json) for element in app.get("bidi_component")]
    return [each for each in given if "keys" not in each]


def start(app: AppTest) -> dict[str, list[str]]:
    """Where "Start review" leads."""
    (there,) = (parse_qs(query) for label, query in links(app) if label == "Start review")
    return there


def test_the_pairs_that_are_probably_wrong_come_first_and_the_address_changes_that(copy: Callable[..., Audit]) -> None:
    audit = copy()
    (given,) = mounted(open_page(REVIEW))
    assert given["selection"] == {"order": "review_place", "ascending": "1"}
    assert given["undecided"] is True
    assert (given["audit"], given["dataset"]) == ("made", audit.record.dataset_fingerprint)
    (given,) = mounted(open_page(REVIEW, order="clipmem", group="scored", decision="undecided"))
    assert (given["selection"], given["undecided"]) == ({"order": "clipmem", "group": "scored"}, True)
    open_review(audit).decide(audit.pairs["pair_id"][:3], "keep", audit="made")
    (given,) = mounted(open_page(REVIEW, order="clipmem", decision="keep"))
    assert (given["selection"], given["undecided"]) == ({"order": "clipmem", "decision": "keep"}, False)


def test_an_audit_without_misfit_is_reviewed_by_clipmem(copy: Callable[..., Audit]) -> None:
    audit = copy()
    unplaced = audit.scores.assign(review_place=float("nan"))
    write_table(audit.folder / "scores.parquet", unplaced)
    assert mounted(open_page(REVIEW))[0]["selection"] == {"order": "misfit"}
    write_table(audit.folder / "scores.parquet", unplaced.assign(misfit=float("nan")))
    (given,) = mounted(open_page(REVIEW))
    assert given["selection"] == {"order": "clipmem"}
    assert start(open_page("pages/browse.py", order="clipmem"))["order"] == ["clipmem"]


def test_an_empty_selection_is_told_with_the_way_to_another(copy: Callable[..., Audit]) -> None:
    copy()
    app = open_page(REVIEW, words="<b>no such word</b>")
    assert mounted(app) == []
    assert app.info[0].value == "No pair fits this selection."
    assert "words: <b>no such word</b>" in texts(app)
    assert [label for label, _ in links(app)] == ["Filter in Browse"]


def test_overview_and_browse_lead_to_a_review_of_what_they_show(copy: Callable[..., Audit]) -> None:
    copy()
    there = dict(links(open_page("pages/overview.py")))
    assert "order=review_place" in str(there["Review next (includes 10 % random spot checks)"])
    assert "order=random" in str(there["Check 50 at random"])
    there = start(open_page("pages/browse.py", group="scored", words="circle"))
    assert there == {"audit": ["made"], "group": ["scored"], "words": ["circle"], "order": ["misfit"]}
