from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import Audit, write_json, write_table
from tests.dashboard.test_pages import open_page, titles
from tests.made_audit import HOSTILE

Copy = Callable[..., Audit]


def links(app: AppTest) -> list[tuple[str, str]]:
    sidebar = {id(element) for element in app.sidebar.get("page_link")}
    return [
        (element.proto.label, element.proto.query_string)
        for element in app.get("page_link")
        if id(element) not in sidebar
    ]


def test_the_first_pairs_of_either_queue_are_shown_with_their_scores(copy: Copy) -> None:
    audit = copy()
    shown = [label for label, _ in links(open_page()) if label.startswith(("clipmem", "misfit"))]
    for order in ("clipmem", "misfit"):
        best = audit.scores[order].dropna().nlargest(6)
        assert [label for label in shown if label.startswith(order)] == [f"{order} {value:.2f}" for value in best]
    assert len(shown) == 12


@pytest.mark.parametrize("good", [True, False])
def test_the_overview_calls_captions_wrong_only_where_the_checks_hold(copy: Copy, good: bool) -> None:
    audit = copy()
    check = {"name": "the members hardly generalise", "good": good}
    write_json(audit.folder / "verdict.json", audit.verdict | {"checks": [check]})
    app = open_page()
    headings = {element.value for element in app.subheader}
    assert {"Most memorized", "Probably the wrong caption" if good else "Low fit, not to be trusted here"} <= headings
    told = [element.value for kind in ("caption", "text") for element in app.get(kind)]
    doubted = [text for text in told if "ot to be trusted here: the members hardly generalise" in text]
    assert len(doubted) == (0 if good else 5)  # the map, both queues, and what misfit and similarity_out are for
    assert any("probably wrong" in text for text in told) is good


def test_each_leads_to_its_pair_and_to_its_queue(copy: Copy) -> None:
    audit = copy()
    found = links(open_page())
    first = audit.scores.nlargest(1, "misfit")["pair_id"].item()
    assert next(there for label, there in found if label.startswith("misfit")) == (
        f"audit=made&order=misfit&pair={first.replace('/', '%2F')}"
    )
    assert [there for label, there in found if label.startswith("Browse")] == ["audit=made", "audit=made&order=misfit"]


def test_captions_of_others_are_cut_and_escaped(copy: Copy) -> None:
    copy()
    written = [element.value for element in open_page().get("html") if "strip-caption" in element.value]
    assert any("&lt;script&gt;" in value for value in written)
    assert not [value for value in written if "<script" in value or HOSTILE[0] in value]


def test_a_queue_without_a_score_is_left_out(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "scores.parquet", audit.scores.assign(misfit=float("nan")))
    labels = [label for label, _ in links(open_page())]
    assert labels.count("Browse in this order") == 1


def test_pictures_that_are_gone_leave_a_placeholder(copy: Copy, tmp_path: Path) -> None:
    audit = copy()
    write_json(audit.folder / "config.json", audit.record.values | {"root": str(tmp_path / "gone")})
    app = open_page()
    assert len(app.image) == 12
    assert "made" in titles(app)
