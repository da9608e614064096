from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import CONFIG, PAIRS, SCORES, Audit, write_json, write_table
from clipmem_core.config import InputError, as_dict
from clipmem_core.dashboard import compare as page
from clipmem_core.dashboard.compare import compared, differing_fields, finished_audits, partners, settings_of
from clipmem_core.review import compare
from tests.dashboard.test_pages import captions, metrics, open_page, texts, titles
from tests.fixtures import HOSTILE, Copy

PAGE = "pages/compare.py"


def with_config(audit: Audit, **values: object) -> Audit:
    write_json(audit.folder / CONFIG, audit.record.values | values)
    return audit


def of_other_pairs(audit: Audit, *, common: int = 0) -> Audit:
    """Make an audit one of another data set, with the same ids, that has the first few pictures in common."""
    pictures = [each if row < common else f"x{each}" for row, each in enumerate(audit.pairs["sha256"])]
    write_table(audit.folder / PAIRS, audit.pairs.assign(sha256=pictures))
    return with_config(audit, dataset_fingerprint="another")


def names(audits: list[Audit]) -> list[str]:
    return [audit.name for audit in audits]


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


def pair_links(app: AppTest) -> list[tuple[str, str]]:
    protos = [link.proto for link in app.get("page_link")]
    return [(proto.label, proto.query_string) for proto in protos if proto.label.startswith("In ")]


def changes(app: AppTest) -> list[str]:
    return [element.value for element in app.get("html") if "difference" in element.value]


def test_partners_are_of_the_same_data_set_first_and_then_have_a_picture_in_common(copy: Copy) -> None:
    one = copy(name="one")
    with_config(copy("paper", name="cleaned"), dataset_fingerprint="another")
    copy("paper", name="again")
    of_other_pairs(copy(name="nothing-common"))
    of_other_pairs(copy(name="one-common"), common=1)
    copy(name="a <b>")
    (copy(name="begun").folder / "manifest.json").unlink()
    found = names(partners(one, finished_audits()))
    assert (found[0], set(found[1:])) == ("again", {"cleaned", "one-common"})


def test_a_broken_audit_is_a_partner_only_of_its_own_data_set(copy: Copy) -> None:
    one = copy(name="one")
    for name, fingerprint in (("alike", one.record.dataset_fingerprint), ("other", "another")):
        (with_config(copy(name=name), dataset_fingerprint=fingerprint).folder / PAIRS).unlink()
    (copy(name="worse").folder / CONFIG).write_text("{")
    assert names(partners(one, finished_audits())) == ["alike", "worse"]  # `worse` still has its pairs


@pytest.mark.parametrize("config", [None, 3, {"source": "x"}])
def test_an_audit_that_does_not_say_how_it_ran_is_told(copy: Copy, config: object) -> None:
    one, other = copy(name="one"), with_config(copy(name="other"), config=config)
    with pytest.raises(InputError, match=r"other/config.json: config.* is wrong"):
        compared(one, other, "clipmem")


def test_the_settings_that_differ_are_those_of_a_dict_comparison(copy: Copy) -> None:
    one, other = copy(name="one"), copy("paper", name="other")
    config = as_dict(other.record.config)
    with_config(other, config=config | {"epochs": 3, "pretrained": "x.pt"})
    table = differing_fields(one, other).set_index("setting")
    first, second = settings_of(one), settings_of(other)
    assert set(table.index) == {name for name in first | second if first.get(name) != second.get(name)}
    assert table.loc["epochs"].tolist() == ["80", "3"]
    assert table.loc["pretrained"].tolist() == ["–", "x.pt"]
    assert differing_fields(one, one).empty


def test_without_audits_or_with_one_the_page_says_how_to_make_another(copy: Copy) -> None:
    none, _, one = open_page(PAGE), copy(name="one"), open_page(PAGE)
    for app, sentence in ((none, "There is no finished audit"), (one, "There is one finished audit")):
        assert sentence in app.info[0].value
        assert "Start an audit" in [link.proto.label for link in app.get("page_link")]
        assert "--seed 1" in app.code[0].value


def test_an_audit_without_partner_does_not_hide_those_that_have_one(copy: Copy) -> None:
    for name in ("one", "other"):
        copy(name=name)
    of_other_pairs(copy(name="unlike"))
    for before in ({}, {"audit": "unlike"}):
        app = open_page(PAGE, **before)
        assert not app.info
        assert {app.selectbox[0].value, app.selectbox[1].value} == {"one", "other"}
        assert any("unlike" in text and "other data sets" in text for text in texts(app))
    app = open_page(PAGE, one="unlike")
    assert "No other finished audit" in app.info[0].value
    assert sorted(app.selectbox[0].options) == ["one", "other", "unlike"]


def test_the_page_has_the_numbers_of_pandas_and_the_pairs_that_changed_most(two: tuple[Audit, Audit]) -> None:
    first, second = (audit.scores.set_index("pair_id")["clipmem"] for audit in two)
    app = open_pair()
    assert metrics(app) == {
        "Common pairs": "100",
        "Spearman": f"{first.corr(second, method='spearman'):.2f}",
        "Pearson": f"{first.corr(second):.2f}",
        "Mean difference": f"+{(second - first).mean():.2g}",
    }
    for said in ("100 pairs have clipmem in both", "95 % interval", "Both have the same settings."):
        assert said in captions(app)
    assert not app.warning
    cards = changes(app)
    one, other = (audit.scores["clipmem"][20] for audit in two)
    assert f"{one:.2f}".replace("-", "−") in cards[0]
    assert f"+{other - one:.2f}" in cards[0]
    assert len(cards) == page.SIZE == len(app.image)
    assert pair_links(app)[:2] == [
        ("In first", "audit=one&order=clipmem&pair=images%2F020.png"),
        ("In second", "audit=other&order=clipmem&pair=images%2F020.png"),
    ]
    assert not set(cards) & set(changes(open_pair(page="2")))
    assert len(open_pair(page="99").image) == len(open_pair(page="-1").image) == page.SIZE


def test_the_choice_is_in_the_address(two: tuple[Audit, Audit]) -> None:
    app = open_pair(column="misfit", page="2")
    assert [box.value for box in app.main.selectbox] == ["one", "other", "misfit"]
    assert "80 pairs have misfit in both" in captions(app)
    app.selectbox[2].select("similarity_out").run()
    assert app.query_params["column"] == "similarity_out"
    assert "page" not in app.query_params
    app.button[0].click().run()
    assert (app.query_params["one"], app.query_params["other"]) == ("other", "one")
    assert [box.value for box in app.main.selectbox] == ["other", "one", "similarity_out"]
    for parameters in ({"audit": "one"}, {"one": "one", "other": "one"}):
        assert [box.value for box in open_page(PAGE, **parameters).selectbox][:2] == ["one", "other"]
    app = open_page(PAGE, one="../../etc", other="[x](javascript:alert(1))", column="pair_id", page="x")
    assert [text for text in texts(app) if text.startswith("requested")] == [
        "requested: ../../etc",
        "requested: [x](javascript:alert(1))",
    ]
    assert app.selectbox[2].value == "clipmem"


def test_settings_that_forbid_a_comparison_are_warned_of_and_listed(copy: Copy) -> None:
    copy("ensemble", name="one")
    copy("paper", name="other")
    app = open_pair()
    assert "ran differently" in app.warning[0].value
    assert any(text.startswith("The protocol differs: ensemble in one, paper in other") for text in texts(app))
    assert app.expander[0].label == "3 settings differ"
    assert ["protocol", "ensemble", "paper"] in app.dataframe[0].value.to_numpy().tolist()


def test_another_version_of_the_data_says_so(two: tuple[Audit, Audit]) -> None:
    other = with_config(two[1], dataset_fingerprint="another")
    write_table(other.folder / SCORES, other.scores.iloc[:90])
    write_table(other.folder / PAIRS, other.pairs.iloc[:90])
    app = open_pair()
    assert app.selectbox[1].options == ["other (another version of the data)"]
    assert "0 with another caption or picture, 10 in the first only, 0 in the second only" in captions(app)
    of_other_pairs(two[1])
    assert "No other finished audit" in open_pair().info[0].value


@pytest.mark.parametrize(("broken", "name"), [(0, SCORES), (1, PAIRS), (1, CONFIG)])
def test_a_broken_audit_is_one_line(two: tuple[Audit, Audit], name: str, broken: int) -> None:
    path = two[broken].folder / name
    path.write_bytes(b"{ nonsense")
    app = open_pair()
    assert app.error[0].value == "This audit cannot be shown."
    assert str(path) in texts(app)[-1]


def test_captions_that_differ_are_both_shown_escaped_beside_pictures_that_are_gone(
    two: tuple[Audit, Audit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "POINTS", 30)
    one, other = with_config(two[0], root=str(tmp_path / "gone")), two[1]
    pairs, scores = other.pairs, other.scores
    pairs.at[20, "captions"] = [HOSTILE[0]]
    write_table(other.folder / PAIRS, pairs)
    scores.loc[:9, "clipmem"] += 5
    write_table(other.folder / SCORES, scores)
    app = open_pair()
    (card,) = [element.value for element in app.get("html") if "captions differ" in element.value]
    assert "&lt;script&gt;" in card
    assert one.pairs["captions"][20][0] in card
    assert "<script>" not in titles(app)
    assert "<img" not in titles(app)
    assert any(text.startswith("Picture cannot be read") for text in texts(app))
    assert "30 of 100 pairs" in captions(app)


def test_a_click_on_a_dot_shows_its_pair(two: tuple[Audit, Audit], monkeypatch: pytest.MonkeyPatch) -> None:
    for event in ({}, {"selection": {}}, {"selection": {"points": [{}]}}, {"selection": None}):
        assert page._clicked(event) is None
    clicked = {"selection": {"points": [{"customdata": [42, 42, "images/042.png"]}]}}
    monkeypatch.setattr(page.st, "plotly_chart", lambda *_, **__: clicked)
    app = open_pair()
    assert len(app.image) == page.SIZE + 1
    assert ("In second", "audit=other&order=clipmem&pair=images%2F042.png") in pair_links(app)
