"""The pages Compare and Detectors: what can be compared, the numbers, and the pairs whose scores
changed most."""

from pathlib import Path

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from clipmem_core.auditing.folder.store import CONFIG, PAIRS, SCORES, VERDICT, Audit, write_json
from tests.dashboard.test_pages import metrics, open_page, texts, titles
from tests.fixtures import HOSTILE, Copy, make_benchmark, rewrite

PAGE = "pages/compare.py"
DETECTORS = "pages/detectors.py"


def with_config(audit: Audit, **values: object) -> Audit:
    write_json(audit.folder / CONFIG, audit.record.values | values)
    return audit


@pytest.fixture
def two(copy: Copy) -> tuple[Audit, Audit]:
    """Two audits of one data set; in the second, clipmem has noise, and is far higher for the pair
    of row 20."""
    one = copy(name="one")
    other = copy(name="other")
    scores = other.scores
    scores["clipmem"] += np.random.default_rng(0).normal(size=100) * 0.1
    scores.loc[20, "clipmem"] += 2
    rewrite(other.folder / SCORES, scores)
    return one, other


def open_pair(**parameters: str) -> AppTest:
    return open_page(PAGE, one="one", other="other", **parameters)


def changes(app: AppTest) -> list[str]:
    return [element.value for element in app.markdown if " → " in element.value]


def test_without_two_audits_of_one_data_set_the_page_says_how_to_make_another(copy: Copy) -> None:
    unlike = with_config(copy(name="unlike"), dataset_fingerprint="another")
    app = open_page(PAGE)
    assert app.info
    assert "--seed 1" in app.code[0].value
    rewrite(unlike.folder / PAIRS, unlike.pairs.assign(sha256="another"))
    copy(name="one")
    assert open_page(PAGE, audit="unlike").info
    copy(name="other")
    with_config(copy(name="edited"), dataset_fingerprint="third")
    app = open_page(PAGE)
    assert {app.selectbox[place].value for place in (0, 1)} == {"one", "other"}
    app = open_page(PAGE, audit="edited")
    assert app.selectbox[0].value == "edited"
    assert app.selectbox[1].options[-1] == "unlike"
    assert metrics(app)["Common pairs"] == "100"


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
    assert f"+{other - one:.2f}" in cards[0]
    assert len(cards) == 12
    protos = [link.proto for link in app.get("page_link") if link.proto.label.startswith("In ")]
    assert [(proto.label, proto.query_string) for proto in protos[:2]] == [
        ("In first", "audit=one&pair=images%2F020.png"),
        ("In second", "audit=other&pair=images%2F020.png"),
    ]


def test_foreign_captions_are_escaped_and_a_click_shows_its_pair(
    two: tuple[Audit, Audit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = with_config(two[0], root=str(tmp_path / "gone"))
    other = two[1]
    pairs = other.pairs
    pairs.at[42, "captions"] = [HOSTILE[0]]
    rewrite(other.folder / PAIRS, pairs)
    clicked = {"selection": {"points": [{"customdata": 42}]}}
    monkeypatch.setattr(st, "plotly_chart", lambda *_, **__: clicked)
    app = open_pair()
    shown = "\n".join(texts(app))
    assert HOSTILE[0][:50] in shown
    assert one.pairs["captions"][42][0] in shown
    assert "<script>" not in titles(app)


def test_detectors_are_measured_on_injected_errors_and_on_a_benchmark_of_the_data_set(
    copy: Copy,
) -> None:
    audit = copy()
    benchmark = make_benchmark("mine", root=audit.record.root)
    app = open_page(DETECTORS)
    verdict, table = app.dataframe
    assert len(verdict.value) == len(audit.verdict["detection"])
    assert [name.split(",")[0] for name in table.value.columns[1:4]] == [
        "captions swapped at random"
    ] * 3
    assert "▼" in " ".join(table.value.iloc[-1])  # a random order is worse than the reference
    benchmark.rows_files[0].write_text("{")
    assert open_page(DETECTORS).error


def test_without_known_errors_the_command_is_shown(copy: Copy) -> None:
    audit = copy()
    write_json(audit.folder / VERDICT, audit.verdict | {"detection": []})
    with_config(audit, source="my set; rm -rf $HOME")
    app = open_page(DETECTORS)
    assert [code.value for code in app.code] == [
        "python -m clipmem_core benchmark 'my set; rm -rf $HOME' --name made"
    ]
    assert not app.dataframe
