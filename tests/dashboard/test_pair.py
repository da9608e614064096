"""The page Pair: which pair it shows, its scores and their parts, its note, similar pairs, and gaps
in its files."""

import pytest

from clipmem_core.auditing.folder.store import CAPTION_TABLE, Audit
from clipmem_core.review.decisions import open_review
from clipmem_core.review.filters import check_counts
from tests.dashboard.test_pages import metrics, open_page, press, texts, toasts
from tests.dashboard.test_reviewing import mounted
from tests.fixtures import Copy, caption_rows, embed, rewrite

PAIR = "pages/pair.py"
ID = "images/020.png"


@pytest.fixture
def audit(copy: Copy) -> Audit:
    """An audit with embeddings."""
    audit = copy()
    embed(audit)
    return audit


def test_without_a_pair_the_likeliest_wrong_caption_opens(audit: Audit) -> None:
    app = open_page(PAIR, audit="made")
    assert app.query_params["pair"] == audit.scores.sort_values("review_place")["pair_id"].iloc[0]
    assert len(app.image) == 2 * 6
    assert not app.error


def test_a_link_opens_its_pair_with_scores_terms_and_checks(audit: Audit) -> None:
    table = caption_rows(audit)
    table = table.assign(p_word=table["caption"] / 4, p_wrong=table["caption"] / 4)
    rewrite(audit.folder / CAPTION_TABLE, table)
    check_counts(audit)
    app = open_page(PAIR, audit="made", order="clipmem", pair=ID)
    score = audit.scores.iloc[20]
    assert "injected error: miscaption" in " ".join(texts(app))
    captions, means = (element.value for element in app.dataframe)
    assert captions.columns[:2].tolist() == ["p wrong", "audited caption"]
    # The most suspicious one first, as on the card
    assert captions["audited caption"].tolist() == audit.pairs["captions"][20][[2, 0, 1]].tolist()
    assert captions["p word"].tolist() == [0.5, 0, 0.25]
    assert means.set_index("part").loc["positive", "in"] == round(score["positive_in"], 3)
    assert metrics(app)["clipmem"].startswith(f"{score['clipmem']:.2f}")


def test_an_unknown_pair_is_one_line_and_a_way_back(copy: Copy) -> None:
    copy()
    for pair in ("[x](javascript:alert(1))", "' OR 1=1 --"):
        app = open_page(PAIR, audit="made", pair=pair)
        assert app.warning
        assert not [*mounted(app), *app.error]
    assert open_page(PAIR, audit="made", group="candidate").warning


def test_a_note_stands_with_any_decision_and_another_tab_s_is_not_overwritten(copy: Copy) -> None:
    audit = copy()
    app = open_page(PAIR, audit="made", pair=ID)
    review = open_review(audit)
    app.text_area[0].set_value("odd :smile:")
    press(app, "Save note")
    review.decide([ID], "keep")
    assert (review.current(ID).decision, review.current(ID).note) == ("keep", "odd :smile:")
    review.decide([ID], "remove", note="theirs")
    app.text_area[0].set_value("mine")
    press(app, "Save note")
    assert "changed in another tab" in toasts(app)
    assert "mine" in texts(app)
    assert (review.current(ID).decision, app.text_area[0].value) == ("remove", "theirs")
    app.text_area[0].set_value("both")
    press(app, "Save note")
    assert review.current(ID).note == "both"
    press(app, "Undo")
    assert review.current(ID).note == app.text_area[0].value == "theirs"
