"""The pairs that changed most on the page Mitigations."""

from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import MANIFEST, PAIRS, SCORES, Audit, write_table
from clipmem_core.dashboard.tradeoff import PAGE_SIZE, changes_of
from clipmem_core.review.tables import version_of
from clipmem_core.studies.store import StudyFolder
from tests.dashboard.mitigations.test_tradeoff import open_study
from tests.dashboard.test_maps_pages import captions
from tests.dashboard.test_pages import open_page, texts
from tests.fixtures import HOSTILE, Copy
from tests.made_arms import give_audit, make_arms


@pytest.fixture
def study(made: dict[str, Audit], data: Path) -> StudyFolder:
    """A study in which the strong mask takes half of every candidate's clipmem away."""
    study = make_arms(data)
    give_audit(study, "none", made["paper"])
    give_audit(study, "text-mask-strong", made["paper"], scale=0.5)
    return study


def change(audit: Audit, pair_id: str, column: str, value: float) -> None:
    scores = audit.scores
    scores.loc[scores["pair_id"] == pair_id, column] = value
    write_table(audit.folder / SCORES, scores)


def found(study: StudyFolder) -> pd.DataFrame:
    one, other = study.audit("none"), study.audit("text-mask-strong")
    return changes_of(one, version_of(one), other, version_of(other))


def cards(app: AppTest) -> list[str]:
    return [element.value for element in app.get("html") if "difference" in element.value]


def open_strong(study: StudyFolder, **parameters: str) -> AppTest:
    return open_study(study, setting="text_mask=0.3", **parameters)


def test_changes_are_those_of_pandas(study: StudyFolder) -> None:
    one, other = (study.audit(arm).scores.set_index("pair_id") for arm in ("none", "text-mask-strong"))
    candidates = one.index[one["group"] == "candidate"]
    expected = (other["clipmem"] - one["clipmem"]).loc[candidates].sort_values()
    changes = found(study)
    assert changes["difference"].tolist() == pytest.approx(expected.tolist())
    assert study.audit("none").pairs["pair_id"][changes["row_one"].tolist()].tolist() == expected.index.tolist()


def test_the_pair_that_fell_most_comes_first_with_both_values_and_the_rest_on_further_pages(
    study: StudyFolder,
) -> None:
    other = study.audit("text-mask-strong")
    change(other, "images/015.png", "clipmem", -4.0)
    pairs = other.pairs
    pairs.at[0, "captions"] = ["<b>another</b>"]
    write_table(other.folder / PAIRS, pairs)
    app = open_strong(study)
    one = study.audit("none").scores.set_index("pair_id")["clipmem"]["images/015.png"]
    first = cards(app)[0]
    assert '<span class="name">without</span>' in first
    assert f"{one:.2f}" in first
    assert "−4.00" in first
    assert f"−{4 + one:.2f}" in first
    assert len(cards(app)) == PAGE_SIZE == len(app.image)
    assert "of 20 candidates that both arms trained on" in captions(app)
    second = open_strong(study, page="2")
    assert not set(cards(app)) & set(cards(second))
    assert len(open_strong(study, page="99").image) == len(second.image)
    shown = " ".join([*cards(app), *cards(second)])  # what others wrote is text
    assert "captions differ; with it:" in shown
    assert "&lt;b&gt;another" in shown
    assert "&lt;script&gt;document.title" in shown
    assert HOSTILE[0] not in shown


def test_a_pair_opens_in_an_audit_of_the_same_data_if_there_is_one(study: StudyFolder, copy: Copy) -> None:
    def ways(app: AppTest) -> list[str]:
        return [link.proto.query_string for link in app.get("page_link") if link.proto.label == "Open pair"]

    assert not ways(open_strong(study))
    copy("paper", name="audit")
    assert ways(open_strong(study))[0].startswith("audit=audit&order=clipmem&pair=images%2F")


def test_without_an_arm_beside_none_or_before_it_is_trained_there_are_no_pairs(study: StudyFolder) -> None:
    assert "Pairs that changed most" not in [head.value for head in open_study(study).subheader]
    (study.audit("text-mask-strong").folder / MANIFEST).unlink()
    app = open_strong(study)
    assert "appear once both arms are finished" in captions(app)
    assert not cards(app)


@pytest.mark.parametrize("name", [SCORES, PAIRS])
def test_a_broken_file_is_one_line(study: StudyFolder, name: str) -> None:
    path = study.audit("text-mask-strong").folder / name
    path.write_bytes(b"{ nonsense")
    app = open_page("pages/mitigations.py", study=study.name, setting="text_mask=0.3")
    assert app.error[0].value == "This part of the study cannot be shown."
    assert any(str(path) in text for text in texts(app))
