from collections.abc import Callable

import pandas as pd
import pytest

from clipmem_core.audits.store import CAPTION_TABLE, VERDICT, Audit, write_json, write_table
from clipmem_core.review.decisions import open_review
from tests.dashboard.test_pages import captions, links, open_page, texts, titles
from tests.made_audit import HOSTILE

Copy = Callable[..., Audit]
TOLD = {"estimate": 40.2, "low": 25.0, "high": 60.0, "planted": 0, "missing": None, "assumptions": HOSTILE[0]}


@pytest.fixture
def audit(copy: Copy) -> Audit:
    return copy()


def test_the_overview_says_how_many_and_what_that_rests_on_as_plain_text(audit: Audit) -> None:
    write_json(audit.folder / VERDICT, audit.verdict | {"wrong_captions": TOLD})
    app = open_page(audit="made")
    assert "About 40 captions probably belong to another picture (25–60)" in titles(app)
    assert any(text.startswith(HOSTILE[0]) for text in texts(app))


def test_the_overview_says_why_there_is_no_count_and_nothing_of_an_audit_from_before(audit: Audit) -> None:
    assert "wrong captions" not in titles(open_page(audit="made"))
    write_json(audit.folder / VERDICT, audit.verdict | {"wrong_captions": {"missing": "a count needs 100 pairs"}})
    assert "The number of wrong captions is not known: a count needs 100 pairs." in texts(open_page(audit="made"))


def test_decisions_say_what_was_wrong_so_far_and_lead_to_the_next_pairs(audit: Audit) -> None:
    ids, review = audit.pairs["pair_id"].tolist(), open_review(audit)
    review.decide(ids[:3], "remove")
    review.decide(ids[3:5], "keep")
    app = open_page("pages/decisions.py", audit="made")
    assert "3 of 5" in titles(app)
    there = dict(links(app))["Review next (includes 10 % random spot checks)"]
    assert "review_place" in str(there)


def test_each_caption_of_a_pair_has_its_scores_and_the_odd_one_is_marked(audit: Audit) -> None:
    row = {"pair_id": audit.pairs["pair_id"][20], "similarity_out": 0.25, "misfit": 1.5}
    table = pd.DataFrame([row | {"caption": place, "odd": place == 1} for place in range(3)])
    write_table(audit.folder / CAPTION_TABLE, table)
    shown = captions(open_page("pages/pair.py", audit="made", pair=row["pair_id"]))
    assert shown.count("similarity out 0.25 · misfit 1.50") == 3
    assert shown.count("fits much worse than the others") == 1
