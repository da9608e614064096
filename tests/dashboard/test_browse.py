"""The page Browse: which pairs it shows, in which order and how, and decisions on all pairs of a
selection."""

from typing import Any

import numpy as np
from streamlit.testing.v1 import AppTest

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.dashboard.pair_component import REPLACES
from clipmem_core.review.decisions import open_review
from tests.dashboard.test_pages import address, captions, chips, open_page, press
from tests.dashboard.test_reviewing import mounted
from tests.fixtures import HOSTILE, Copy, rewrite

BROWSE = "pages/browse.py"


def grid(app: AppTest) -> dict[str, Any]:
    """Data of the page's grid."""
    components = mounted(app)
    return components[0] if components else {"cards": [], "scores": []}


def ids(app: AppTest) -> list[str]:
    """The pairs of the page, in its order."""
    return [card["pair_id"] for card in grid(app)["cards"]]


def ranked(
    audit: Audit, order: str, where: str = "clipmem < inf", *, ascending: bool = False
) -> list[str]:
    """The pairs that have a score, in its order."""
    table = audit.scores.merge(audit.pairs, on="pair_id").query(where).dropna(subset=[order])
    return table.sort_values(order, ascending=ascending)["pair_id"].tolist()


def test_queues(copy: Copy) -> None:
    audit = copy()
    table = audit.scores.assign(review_place=audit.scores["suspicion"])  # with random spot checks
    rewrite(audit.folder / "scores.parquet", table)
    app = open_page(BROWSE)
    assert ids(app) == ids(open_page(BROWSE, order="review_place"))
    assert ids(app) == ranked(audit, "suspicion")[:24]
    assert "**80 pairs" in captions(app)
    app.selectbox(key="order").select_index(1).run()
    assert ids(app) == ids(open_page(BROWSE, order="clipmem")) == ranked(audit, "clipmem")[:24]
    assert address(app) == {"audit": "made", "order": "clipmem"}


def test_pages_and_independent_pairs_lowest_first(copy: Copy) -> None:
    audit = copy("paper")
    expected = ranked(audit, "clipmem", "group == 'independent'", ascending=True)
    app = open_page(BROWSE, order="clipmem", group="independent", size="12")
    assert ids(app) == expected[:12]
    app.pagination[0].set_value(2).run()
    assert ids(app) == expected[12:]
    assert (grid(app)["page"], grid(app)["pages"], address(app)["page"]) == (2, 2, "2")
    app.selectbox(key="label").select("circle").run()
    assert "page" not in address(app)


def test_filters_and_their_chips(copy: Copy) -> None:
    rows = (audit := copy()).scores.merge(audit.pairs, on="pair_id")
    app = open_page(BROWSE, order="clipmem", size="96")
    app.text_input(key="words").set_value("CIRCLE").run()
    app.selectbox(key="injected").select("none").run()
    app.slider(key="range-clipmem").set_range(0.5, float(rows["clipmem"].max())).run()
    matches = rows["captions"].map(lambda captions: "circle" in " ".join(captions).lower())
    selected = rows[matches & rows["injected"].isna() & (rows["clipmem"] >= 0.5)]
    assert set(ids(app)) == set(selected["pair_id"])
    assert chips(app) == ["injected: none", "words: CIRCLE", "clipmem 0.5 to …"]
    app.multiselect(key="conditions").unselect(0).run()
    assert set(ids(app)) == set(rows[matches & (rows["clipmem"] >= 0.5)]["pair_id"])
    app.multiselect(key="conditions").set_value([]).run()
    assert address(app) == {"audit": "made", "order": "clipmem", "size": "96"}
    assert open_page(BROWSE, label="circle", words="nowhere").info


def test_a_handle_at_its_end_sets_no_bound(copy: Copy) -> None:
    audit = copy()
    scores = audit.scores.assign(clipmem=np.linspace(0.1000004, 0.9785864, 100))
    rewrite(audit.folder / "scores.parquet", scores)
    app = open_page(BROWSE, order="clipmem", size="96")
    # A browser rounds the end of a handle.
    app.slider(key="range-clipmem").set_range(0.9, 0.978586).run()
    assert address(app)["range"] == "clipmem:0.9:"
    assert ids(app) == ranked(audit, "clipmem", "clipmem >= 0.9")


def test_foreign_text_is_never_parsed(copy: Copy) -> None:
    copy()
    app = open_page(BROWSE, order="clipmem", words=HOSTILE[0], label=HOSTILE[2], group=HOSTILE[1])
    parsed = " ".join(
        element.value for kind in ("markdown", "caption", "warning") for element in app.get(kind)
    )
    assert not [value for value in (*HOSTILE[:3], "$x$") if value in parsed]
    app = open_page(BROWSE, order="clipmem", size="12")
    shown = [card["captions"][0] for card in grid(app)["cards"]]
    assert shown[:4] + shown[5:9] == HOSTILE[:4] + HOSTILE[5:9]
    assert len(shown[9]) <= 5001
    parsed = [
        element.value for kind in ("markdown", "caption", "html") for element in app.get(kind)
    ]
    for word in ("script>document", "latex", "javascript:", "material/delete"):
        assert not [value for value in parsed if word in value]


def dialog(find: str, replacement: str, **parameters: str) -> AppTest:
    """Open the dialog and fill it in; AppTest runs whole pages, which closes dialogs, so each run
    opens it again."""
    app = open_page(BROWSE, audit="made", **parameters)
    for name, value in {"find": find, "replace": replacement}.items():
        app.session_state[f"bulk-edit-{name}"] = value
    app.session_state[REPLACES] = True
    app.run()
    assert not app.exception, app.exception[0].message
    return app


def test_find_and_replace_and_undo(copy: Copy) -> None:
    audit = copy()
    having = (
        audit.pairs["captions"].map(lambda texts: any("square" in text for text in texts)).sum()
    )
    app = dialog("square", "<b>box</b>", words="square", order="clipmem")
    table = app.dataframe[0].value
    assert table["pair"].nunique() == having
    assert (table["before"].str.replace("square", "<b>box</b>") == table["after"]).all()
    assert app.button(key="bulk-edit-store").label.endswith(f"captions of {having} pairs")
    app.session_state[REPLACES] = True
    app.button(key="bulk-edit-store").click().run()
    table = open_review(audit).table()
    assert (len(table), set(table["decision"])) == (having, {None})
    assert grid(app)["events"] == [[1, False]]
    press(app, "Undo")
    assert open_review(audit).table().empty
    assert grid(app)["events"] == [[1, True]]
