"""Faults of the pipeline on the pages Overview and Compare, and in the report."""

from clipmem_core.auditing.folder.store import CAPTION_TABLE
from clipmem_core.review.decisions import count_decisions
from tests.dashboard.test_pages import captions, labels, links, open_page, press, texts, titles
from tests.fixtures import HOSTILE, Copy, caption_rows, rewrite, write_incidents


def test_a_fault_is_shown_repaired_and_undone(copy: Copy) -> None:
    audit = copy()
    copy(name="other")
    write_incidents(audit)
    rows = caption_rows(audit)
    rows.loc[rows["caption"] == 0, ["p_caption", "p_wrong"]] = 0.9
    rows.loc[rows["caption"] == 2, ["check", "p_wrong"]] = ["file_name", 0.99]
    rewrite(audit.folder / CAPTION_TABLE, rows)
    app = open_page(audit="made")
    assert {"Captions are one row late.", HOSTILE[0]} <= set(texts(app))
    assert app.expander[0].proto.expanded
    there = [query for label, query in links(app) if label == "Browse"]
    assert [query.split("incident=")[1][0] for query in there] == ["1", "2"]
    own = audit.pairs["captions"]
    assert f"→ {own[21][0]}" in titles(app)
    assert own[40][2] in titles(app)
    press(app, "Repair 9 pairs")
    assert count_decisions(audit)["recaption"] == 9
    assert "Repair 9 pairs" not in labels(app)
    view = open_page("pages/decisions.py", audit="made", view="history")
    assert any("incident 1: shift" in text for text in texts(view))
    press(view, "Undo")
    assert count_decisions(audit)["recaption"] == 0
    assert "Repair 9 pairs" in labels(open_page(audit="made"))
    compared = open_page("pages/compare.py", one="made", other="other")
    assert "2 in the first audit, 0 in the second" in captions(compared)
    app = open_page(audit="made")
    for action, decision in (("keep", "keep"), ("remove", "recaption")):
        app.button(key=f"{action}-2").click().run()
        assert count_decisions(audit)[decision] == 2
        press(app, "Undo")
        assert count_decisions(audit)[decision] == 0
