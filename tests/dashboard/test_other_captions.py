"""What was decided on other captions of a pair: every page says so, and counts the pair as undecided."""

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import CONFIG, PAIRS, Audit, open_audit, write_json, write_table
from clipmem_core.review.decisions import open_review
from tests.dashboard.test_deciding import badges, press
from tests.dashboard.test_decisions_page import metrics
from tests.dashboard.test_pages import open_page, titles

Copy = Callable[..., Audit]
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


def test_the_page_of_a_pair_says_so_and_what_is_decided_here_stays_here(pairs: list[str]) -> None:
    app = open_page("pages/pair.py", audit="planted", pair=pairs[0])
    assert "undecided" in badges(app)
    assert "remove for other captions" in badges(app)
    assert "somebody else" not in badges(app)
    app.toggle[0].set_value(False).run()
    press(app, "Keep")
    assert "keep" in badges(app)
    assert "for other captions" not in badges(app)
    here, there = (open_review(open_audit(name)).current(pairs[0]) for name in ("planted", "own"))
    assert (here.decision, there.decision) == ("keep", "remove")


def captions(app: AppTest) -> str:
    return " ".join(caption.value for caption in app.caption)


def markdown(app: AppTest) -> str:
    return " ".join(element.value for element in app.markdown)


@pytest.mark.parametrize(
    ("audit", "decision", "badge", "shown"),
    [
        ("own", "remove", ">remove<", 2),
        ("own", "undecided", ">remove", 0),
        ("planted", "remove", ">remove", 0),
        ("planted", "undecided", ">remove for other captions<", 2),
        ("planted", "", ">remove for other captions<", 2),
    ],
)
def test_browse_says_so_and_shows_them_among_the_undecided(
    pairs: list[str], audit: str, decision: str, badge: str, shown: int
) -> None:
    app = open_page(
        "pages/browse.py", audit=audit, planted="miscaption", **({"decision": decision} if decision else {})
    )
    assert titles(app).count(badge) == shown


def test_the_decisions_of_an_audit_with_other_captions_count_none_and_list_them(pairs: list[str]) -> None:
    app = open_page("pages/decisions.py", audit="planted")
    assert metrics(app)["Remove"] == "0"
    assert metrics(app)["Undecided"] == "100"
    listed = app.dataframe[0].value
    assert sorted(listed["pair"]) == sorted(pairs)
    assert set(listed["decision"]) == {"remove for other captions"}
    assert "It does not count here, and is not exported." in captions(app)
    assert metrics(open_page("pages/decisions.py", audit="own"))["Remove"] == "2"


def test_the_export_of_planted_captions_promises_the_own_ones(pairs: list[str]) -> None:
    promised = markdown(open_page("pages/decisions.py", audit="planted", view="export"))
    assert "100 pairs with their own captions, not the planted ones" in promised
    assert "98 pairs kept, 2 removed" in markdown(open_page("pages/decisions.py", audit="own", view="export"))
