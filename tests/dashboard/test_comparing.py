"""The pages Compare audits and Detectors: what can be compared, the numbers, and the pairs that
differ most."""

from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audit.store import CONFIG, PAIRS, SCORES, Audit, write_json, write_table
from clipmem_core.config import as_dict
from clipmem_core.dashboard import compare as page
from clipmem_core.dashboard.compare import differing_fields, finished_audits, partners
from tests.dashboard.test_pages import metrics, open_page, texts, titles
from tests.dashboard.test_reviewing import mounted
from tests.fixtures import HOSTILE, Copy, make_benchmark

PAGE = "pages/compare.py"
DETECTORS = "pages/detectors.py"


def with_config(audit: Audit, **values: object) -> Audit:
    write_json(audit.folder / CONFIG, audit.record.values | values)
    return audit


def of_other_pairs(audit: Audit, *, common: int = 0) -> Audit:
    """Make an audit one of another data set, with the same ids, that has the first few pictures in
    common."""
    pictures = [
        each if row < common else f"x{each}" for row, each in enumerate(audit.pairs["sha256"])
    ]
    write_table(audit.folder / PAIRS, audit.pairs.assign(sha256=pictures))
    return with_config(audit, dataset_fingerprint="another")


@pytest.fixture
def two(copy: Copy) -> tuple[Audit, Audit]:
    """Two audits of one data set; in the second, clipmem has noise, and is far higher for the pair
    of row 20."""
    one = copy(name="one")
    other = copy(name="other")
    scores = other.scores
    scores["clipmem"] += np.random.default_rng(0).normal(size=100) * 0.1
    scores.loc[20, "clipmem"] += 2
    write_table(other.folder / SCORES, scores)
    return one, other


def open_pair(**parameters: str) -> AppTest:
    return open_page(PAGE, one="one", other="other", **parameters)


def changes(app: AppTest) -> list[str]:
    return [element.value for element in app.get("html") if "difference" in element.value]


def test_partners_are_of_the_same_data_set_first_and_then_have_a_picture_in_common(
    copy: Copy,
) -> None:
    one = copy(name="one")
    copy("paper", name="again")
    of_other_pairs(copy(name="nothing-common"))
    of_other_pairs(copy(name="one-common"), common=1)
    (with_config(copy(name="broken"), dataset_fingerprint="another").folder / PAIRS).unlink()
    (copy(name="begun").folder / "manifest.json").unlink()
    assert [audit.name for audit in partners(one, finished_audits())] == ["again", "one-common"]


def test_the_settings_that_differ_are_listed(copy: Copy) -> None:
    one = copy(name="one")
    other = copy(name="other")
    with_config(other, config=as_dict(other.record.config) | {"epochs": 3, "pretrained": "x.pt"})
    table = differing_fields(one, other).set_index("setting")
    assert {name: row.tolist() for name, row in table.iterrows()} == {
        "epochs": ["80", "3"],
        "pretrained": ["–", "x.pt"],
    }
    copy("paper", name="paper")
    app = open_page(PAGE, one="one", other="paper")
    assert len(app.warning) == 1
    assert ["protocol", "ensemble", "paper"] in app.dataframe[0].value.to_numpy().tolist()


def test_without_two_audits_of_one_data_set_the_page_says_how_to_make_another(copy: Copy) -> None:
    none = open_page(PAGE)
    _ = copy(name="one")
    one = open_page(PAGE)
    of_other_pairs(copy(name="unlike"))
    for app in (none, one, open_page(PAGE, one="unlike")):
        assert app.info
        assert "--seed 1" in app.code[0].value
    copy(name="other")
    app = open_page(PAGE, audit="unlike")  # has no partner, but others have
    assert {app.selectbox[0].value, app.selectbox[1].value} == {"one", "other"}


def test_the_page_has_the_numbers_of_pandas_and_the_pairs_that_changed_most(
    two: tuple[Audit, Audit],
) -> None:
    first, second = (audit.scores.set_index("pair_id")["clipmem"] for audit in two)
    app = open_pair()
    assert metrics(app) == {
        "Common pairs": "100",
        "Spearman": f"{first.corr(second, method='spearman'):.2f}",
        "Mean difference": f"+{(second - first).mean():.2g}",
    }
    cards = changes(app)
    one, other = (audit.scores["clipmem"][20] for audit in two)
    assert f"{one:.2f}".replace("-", "−") in cards[0]
    assert f"+{other - one:.2f}" in cards[0]
    assert len(cards) == page.PAGE_SIZE
    protos = [link.proto for link in app.get("page_link") if link.proto.label.startswith("In ")]
    assert [(proto.label, proto.query_string) for proto in protos[:2]] == [
        ("In first", "audit=one&order=clipmem&pair=images%2F020.png"),
        ("In second", "audit=other&order=clipmem&pair=images%2F020.png"),
    ]
    assert not set(cards) & set(changes(open_pair(page="2")))


def test_the_choice_is_in_the_address(two: tuple[Audit, Audit]) -> None:
    app = open_pair(column="misfit", page="2")
    assert [box.value for box in app.main.selectbox] == ["one", "other", "misfit"]
    app.selectbox[2].select("similarity_out").run()
    assert app.query_params["column"] == "similarity_out"
    assert "page" not in app.query_params
    app = open_page(
        PAGE, one="../../etc", other="[x](javascript:alert(1))", column="pair_id", page="x"
    )
    wrong = [text for text in texts(app) if text.startswith("requested")]
    assert wrong == ["requested: ../../etc", "requested: [x](javascript:alert(1))"]
    assert app.selectbox[2].value == "clipmem"


def test_foreign_captions_are_escaped_and_a_click_shows_its_pair(
    two: tuple[Audit, Audit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = with_config(two[0], root=str(tmp_path / "gone"))
    other = two[1]
    pairs = other.pairs
    pairs.at[42, "captions"] = [HOSTILE[0]]
    write_table(other.folder / PAIRS, pairs)
    clicked = {"selection": {"points": [{"customdata": [42, "images/042.png"]}]}}
    monkeypatch.setattr(page.st, "plotly_chart", lambda *_, **__: clicked)
    app = open_pair()
    card = changes(app)[0]
    assert "&lt;script&gt;" in card
    assert one.pairs["captions"][42][0] in card
    assert "<script>" not in titles(app)


def differences(audit: Audit) -> list[str]:
    shown = mounted(open_page(DETECTORS, audit=audit.name, one="clipmem", other="learned"))
    assert [len(given["cards"]) for given in shown] == [6, 6]
    return [given["order"] for given in shown]


def test_a_benchmark_of_the_data_set_is_shown_first_and_injected_errors_can_be_chosen(
    copy: Copy,
) -> None:
    audit = copy()
    make_benchmark("mine", root=audit.record.root)
    app = open_page(DETECTORS, audit="made")
    (table,) = app.dataframe
    assert [name.split(",")[0] for name in table.value.columns[1:4]] == [
        "captions swapped at random"
    ] * 3
    assert "▼" in " ".join(table.value.iloc[-1])  # a random order is worse than the reference
    app.selectbox(key="detectors-measure").select("found_100").run()
    assert app.dataframe[0].value.iloc[0, 1].startswith("40.0 [40.0, 40.0]")
    app.selectbox(key="detectors-from").select("this audit").run()
    assert app.query_params["from"] == "this audit"
    assert "another pair's captions" in " ".join(app.dataframe[0].value.columns)
    assert differences(audit) == ["clipmem", "learned"]


def test_without_known_errors_the_command_is_shown_and_detectors_are_compared(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / PAIRS, audit.pairs.assign(injected=None))
    write_json(
        audit.folder / "config.json", audit.record.values | {"source": "my set; rm -rf $HOME"}
    )
    app = open_page(DETECTORS, audit="made")
    assert [code.value for code in app.code] == [
        "python -m clipmem_core benchmark 'my set; rm -rf $HOME' --name made"
    ]
    assert not app.dataframe
    assert differences(audit) == ["clipmem", "learned"]


def test_a_broken_result_leaves_the_rest_of_the_page(copy: Copy) -> None:
    audit = copy()
    benchmark = make_benchmark("mine", root=audit.record.root)
    benchmark.result_files[0].write_text("{")
    assert any(
        "This benchmark cannot be shown" in text
        for text in texts(open_page(DETECTORS, audit="made"))
    )
    assert differences(audit) == ["clipmem", "learned"]
