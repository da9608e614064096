from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import CONFIG, PAIRS, SCORES, Audit, write_json, write_table
from clipmem_core.dashboard import changed_pairs
from clipmem_core.dashboard.comparable import finished_audits
from clipmem_core.review import compare
from tests.dashboard.test_pages import open_page, texts, titles
from tests.made_audit import HOSTILE

Copy = Callable[..., Audit]
PAGE = "pages/compare.py"


@pytest.fixture
def two(copy: Copy) -> tuple[Audit, Audit]:
    """Two audits of one data set; in the second, clipmem has noise, and is far higher for the pair of row 20."""
    one, other = copy(name="one"), copy(name="other")
    scores = other.scores
    scores["clipmem"] += np.random.default_rng(0).normal(size=100) * 0.1
    scores.loc[20, "clipmem"] += 2
    write_table(other.folder / SCORES, scores)
    return one, other


def open_pair(**parameters: str) -> AppTest:
    return open_page(PAGE, one="one", other="other", **parameters)


def metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def pair_links(app: AppTest) -> list[tuple[str, str]]:
    protos = [link.proto for link in app.get("page_link")]
    return [(proto.label, proto.query_string) for proto in protos if proto.label.startswith("In ")]


def captions(app: AppTest) -> str:
    return " ".join(caption.value for caption in app.caption)


def test_without_audits_or_with_one_the_page_says_how_to_make_another(copy: Copy) -> None:
    none, _, one = open_page(PAGE), copy(name="one"), open_page(PAGE)
    for app, sentence in ((none, "There is no finished audit"), (one, "There is one finished audit")):
        assert sentence in app.info[0].value
        assert "Start an audit" in [link.proto.label for link in app.get("page_link")]
        assert "--seed 1" in app.code[0].value


def test_an_audit_without_partner_can_still_be_changed_for_another(copy: Copy) -> None:
    copy(name="one")
    other = copy(name="other")
    write_json(other.folder / CONFIG, other.record.values | {"dataset_fingerprint": "another"})
    write_table(other.folder / SCORES, other.scores.assign(pair_id=[f"x{row}" for row in range(100)]))
    app = open_page(PAGE, one="one")
    assert "No other finished audit" in app.info[0].value
    assert sorted(app.selectbox[0].options) == ["one", "other"]


@pytest.mark.parametrize("before", [{}, {"audit": "stranger"}])
def test_an_audit_without_partner_does_not_hide_those_that_have_one(copy: Copy, before: dict[str, str]) -> None:
    for name in ("one", "other"):
        copy(name=name)
    stranger = copy(name="stranger")
    write_json(stranger.folder / CONFIG, stranger.record.values | {"dataset_fingerprint": "another"})
    write_table(stranger.folder / SCORES, stranger.scores.assign(pair_id=[f"x{row}" for row in range(100)]))
    assert finished_audits()[0].name == "stranger"
    app = open_page(PAGE, **before)
    assert not app.info
    assert {app.selectbox[0].value, app.selectbox[1].value} == {"one", "other"}
    assert "No other finished audit" in open_page(PAGE, one="stranger", **before).info[0].value


def test_the_numbers_are_those_of_pandas(two: tuple[Audit, Audit]) -> None:
    first, second = (audit.scores.set_index("pair_id")["clipmem"] for audit in two)
    app = open_pair()
    difference = (second - first).mean()
    assert metrics(app) == {
        "Common pairs": "100",
        "Spearman": f"{first.corr(second, method='spearman'):.2f}",
        "Pearson": f"{first.corr(second):.2f}",
        "Mean difference": f"+{difference:.2g}",
    }
    assert "100 pairs have clipmem in both" in captions(app)
    assert "95 % interval" in captions(app)
    assert "Both ran with the same settings." in captions(app)
    assert not app.warning


def test_the_pair_that_changed_most_comes_first_with_both_scores(two: tuple[Audit, Audit]) -> None:
    app = open_pair()
    cards = [element.value for element in app.get("html") if "difference" in element.value]
    one, other = (audit.scores["clipmem"][20] for audit in two)
    assert f"{one:.2f}".replace("-", "−") in cards[0]
    assert f"+{other - one:.2f}" in cards[0]
    assert len(cards) == changed_pairs.SIZE == len(app.image)
    assert pair_links(app)[:2] == [
        ("In first", "audit=one&pair=images%2F020.png"),
        ("In second", "audit=other&pair=images%2F020.png"),
    ]


def test_further_changes_are_on_further_pages(two: tuple[Audit, Audit]) -> None:
    first, second = (
        [element.value for element in open_pair(page=page).get("html") if "difference" in element.value]
        for page in ("1", "2")
    )
    assert not set(first) & set(second)
    assert len(open_pair(page="99").image) == len(open_pair(page="-1").image) == changed_pairs.SIZE


def test_the_choice_is_in_the_address(two: tuple[Audit, Audit]) -> None:
    app = open_pair(column="misfit", page="2")
    assert [box.value for box in app.selectbox] == ["one", "other", "misfit"]
    assert "80 pairs have misfit in both" in captions(app)
    app.selectbox[2].select("similarity_out").run()
    assert app.query_params["column"] == "similarity_out"
    assert "page" not in app.query_params
    app.button[0].click().run()
    assert (app.query_params["one"], app.query_params["other"]) == ("other", "one")
    assert [box.value for box in app.selectbox] == ["other", "one", "similarity_out"]


def test_without_an_address_the_chosen_audit_is_the_first(two: tuple[Audit, Audit]) -> None:
    for name, partner in (("one", "other"), ("other", "one")):
        assert [box.value for box in open_page(PAGE, audit=name).selectbox][:2] == [name, partner]


def test_nonsense_in_the_address_is_passed_over_or_told(two: tuple[Audit, Audit]) -> None:
    app = open_page(PAGE, one="../../etc", other="[x](javascript:alert(1))", column="pair_id", page="x")
    assert [text for text in texts(app) if text.startswith("asked for")] == [
        "asked for: ../../etc",
        "asked for: [x](javascript:alert(1))",
    ]
    assert app.selectbox[2].value == "clipmem"


def test_an_audit_is_not_compared_with_itself(two: tuple[Audit, Audit]) -> None:
    assert [box.value for box in open_page(PAGE, one="one", other="one").selectbox][:2] == ["one", "other"]


def test_settings_that_forbid_a_comparison_are_warned_of_and_listed(copy: Copy) -> None:
    copy("ensemble", name="one")
    copy("paper", name="other")
    app = open_pair()
    assert "ran differently" in app.warning[0].value
    assert any(text.startswith("The protocol differs: ensemble in one, paper in other") for text in texts(app))
    assert app.expander[0].label == "1 setting differs"
    assert app.dataframe[0].value.to_numpy().tolist() == [["protocol", "ensemble", "paper"]]


def test_another_version_of_the_data_says_so(two: tuple[Audit, Audit]) -> None:
    _, other = two
    write_json(other.folder / CONFIG, other.record.values | {"dataset_fingerprint": "another"})
    for name in (SCORES, PAIRS):
        table = other.scores if name == SCORES else other.pairs
        write_table(other.folder / name, table.iloc[:90])
    app = open_pair()
    assert app.selectbox[1].options == ["other (another version of the data)"]
    assert "10 pairs are in the first only, 0 in the second only" in captions(app)


def test_audits_that_share_no_pair_are_told(two: tuple[Audit, Audit]) -> None:
    _, other = two
    write_json(other.folder / CONFIG, other.record.values | {"dataset_fingerprint": "another"})
    write_table(other.folder / SCORES, other.scores.assign(pair_id=[f"x{row}" for row in range(100)]))
    assert any("share no pair_id" in text for text in texts(open_pair()))


@pytest.mark.parametrize("name", [SCORES, PAIRS, CONFIG])
@pytest.mark.parametrize("content", [None, b"{ nonsense"])
@pytest.mark.parametrize("broken", [0, 1])
def test_a_broken_audit_is_one_line(two: tuple[Audit, Audit], name: str, content: bytes | None, broken: int) -> None:
    path = two[broken].folder / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    app = open_pair()
    if name == CONFIG and content is None:  # then it is no audit any more
        assert "There is one finished audit" in app.info[0].value
        return
    assert app.error[0].value == "This audit cannot be shown."
    assert str(path) in texts(app)[-1]


def test_a_score_that_no_pair_has_says_so(two: tuple[Audit, Audit]) -> None:
    one, _ = two
    write_table(one.folder / SCORES, one.scores.assign(misfit=np.nan))
    app = open_pair(column="misfit")
    assert "No pair has this score in both audits" in app.info[0].value
    assert metrics(app)["Spearman"] == "–"
    assert not app.image


def test_thinned_points_are_told(two: tuple[Audit, Audit], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "POINTS", 30)
    assert "30 of 100 pairs are drawn, chosen at random" in captions(open_pair())


def test_captions_that_differ_are_both_shown_as_they_are(two: tuple[Audit, Audit]) -> None:
    _, other = two
    pairs = other.pairs
    pairs.at[20, "captions"] = [HOSTILE[0]]
    write_table(other.folder / PAIRS, pairs)
    app = open_pair()
    (card,) = [element.value for element in app.get("html") if "captions differ" in element.value]
    assert "&lt;script&gt;" in card
    assert two[0].pairs["captions"][20][0] in card


def test_hostile_captions_reach_the_page_escaped(two: tuple[Audit, Audit]) -> None:
    _, other = two
    scores = other.scores
    scores.loc[:9, "clipmem"] += 5
    write_table(other.folder / SCORES, scores)
    shown = titles(open_pair())
    assert "&lt;script&gt;document.title" in shown
    assert "<script>" not in shown
    assert "<img" not in shown


def test_a_click_on_a_dot_shows_its_pair(two: tuple[Audit, Audit], monkeypatch: pytest.MonkeyPatch) -> None:
    clicked = {"selection": {"points": [{"customdata": [42, 42, "images/042.png"]}]}}
    monkeypatch.setattr(changed_pairs.st, "plotly_chart", lambda *_, **__: clicked)
    app = open_pair()
    assert len(app.image) == changed_pairs.SIZE + 1
    assert ("In second", "audit=other&pair=images%2F042.png") in pair_links(app)


def test_a_picture_that_is_gone_says_so(two: tuple[Audit, Audit], tmp_path: Path) -> None:
    one, _ = two
    write_json(one.folder / CONFIG, one.record.values | {"root": str(tmp_path / "gone")})
    assert any(text.startswith("Picture cannot be read") for text in texts(open_pair()))


@pytest.mark.parametrize("event", [{}, {"selection": {}}, {"selection": {"points": [{}]}}, {"selection": None}])
def test_no_click_shows_nothing(event: dict[str, object]) -> None:
    assert changed_pairs._clicked(event) is None


def test_equal_scores_have_no_agreement(two: tuple[Audit, Audit]) -> None:
    one, _ = two
    write_table(one.folder / SCORES, one.scores.assign(clipmem=0.5))
    assert metrics(open_pair())["Pearson"] == "–"
