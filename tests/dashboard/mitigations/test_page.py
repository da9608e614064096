"""The page Mitigations: what a setting did, or what it takes to run it."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import write_table
from clipmem_core.review.decisions import open_review
from clipmem_core.studies.plan import read_own
from clipmem_core.studies.store import StudyFolder
from tests.dashboard.mitigations.made_mitigations import SETTINGS, made_rows
from tests.dashboard.mitigations.mitigations_page import PAGE, labels, press
from tests.dashboard.test_every_page import said
from tests.dashboard.test_maps_pages import address, captions
from tests.dashboard.test_pages import figures, open_page, texts, titles
from tests.fixtures import Copy


def bold(app: AppTest) -> str:
    return " ".join(element.value for element in app.markdown)


def test_without_a_study_the_page_shows_those_that_come_with_the_code(data: Path) -> None:
    app = open_page(PAGE)
    assert "No study of your own yet" in app.info[0].value
    assert any(text.startswith("reference study: ") and text.endswith("5 splits") for text in texts(app))
    (chart,) = figures(app)
    assert {"none", "Pareto-optimal"} <= {trace.get("name") for trace in chart["data"]}
    table = app.dataframe[0].value
    assert len(table) == 8
    assert "Your own study has" in captions(app)
    app = open_page(PAGE, study="combined-scenes-locked", memorization="membership_auroc")
    assert address(app)["memorization"] == "membership_auroc"


def test_without_a_study_one_can_be_started(data: Path) -> None:
    app = open_page(PAGE, view="start")
    assert "Start" in labels(app)
    assert app.code[0].value.startswith("python -m clipmem_core study combined scenes --name=scenes-combined")


def test_a_link_opens_a_setting_as_somebody_types_it_and_says_what_it_did(lab: StudyFolder) -> None:
    app = open_page(PAGE, study="lab", setting="noise_place=before  text_mask=.30")
    assert address(app)["setting"] == "text_mask=0.3"
    assert app.selectbox(key="mitigations-listed").value == "text_mask=0.3"
    assert "text-mask-strong: 30 % less memorization, retrieval unchanged." in titles(app)
    assert "Run it" not in labels(app)


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ("nonsense", "does not know 'nonsense'"),
        ("removal=[x](javascript:alert(1)):5", "removal must name a ranking"),
    ],
)
def test_a_setting_that_cannot_be_used_is_told_and_none_shown(lab: StudyFolder, setting: str, fault: str) -> None:
    app = open_page(PAGE, setting=setting)
    assert "cannot be used" in app.warning[0].value
    assert any(fault in text and "\n" not in text for text in texts(app))
    assert not any(toggle.value for toggle in app.toggle)
    assert "No mitigation is on" in said(app)


@pytest.mark.parametrize(
    ("file", "garbage"),
    [("pairs.parquet", b"garbage"), ("membership.parquet", None), (".prepared.npz", b"garbage"), ("config.json", None)],
)
def test_a_broken_audit_of_none_breaks_one_part_of_the_page(lab: StudyFolder, file: str, garbage: bytes | None) -> None:
    path = lab.audit("none").folder / file
    path.unlink() if garbage is None else path.write_bytes(garbage)
    app = open_page(PAGE, setting="text_mask=0.35")
    assert len(texts(app)) > 0
    assert all("\n" not in text for text in texts(app))


def test_a_setting_nobody_ran_is_queued(lab: StudyFolder, went_on: list[tuple[str, str]]) -> None:
    app = open_page(PAGE, setting="text_mask=0.35 text_noise=0.1")
    assert "Not run" in bold(app)
    app = press(app, "Run it")
    assert went_on == [("resume", "lab")]
    (own,) = read_own(lab)
    assert own.text == "text_noise=0.1 text_mask=0.35"
    assert "15 of 18 arms × seeds finished" in said(app)
    assert labels(app) == ["Resume"]


def test_a_setting_that_cannot_run_is_one_line_and_nothing_is_lost(
    lab: StudyFolder, went_on: list[tuple[str, str]]
) -> None:
    app = press(open_page(PAGE, setting="lookalikes"), "Run it")
    assert "cannot run" in app.error[0].value
    assert any("no two of the pictures that members train on look alike" in text for text in texts(app))
    assert address(app)["setting"] == "lookalikes"
    assert (went_on, read_own(lab)) == ([], [])


def test_an_arm_with_some_of_its_seeds_says_so(data: Path, lab: StudyFolder) -> None:
    rows = made_rows(3)
    write_table(lab.folder / "arms.parquet", rows[~((rows["arm"] == "text-mask") & (rows["seed"] == 2))])
    app = open_page(PAGE, setting=SETTINGS["text-mask"])
    assert app.info[0].value == "2 of 3 seeds of this setting finished. Resume the study to run the rest."
    assert "text-mask: fewer than 3 replicates" in titles(app)


def test_decisions_are_counted_and_those_of_later_are_another_arm(
    copy: Copy, lab: StudyFolder, went_on: list[tuple[str, str]]
) -> None:
    audit = copy("paper")
    ids = lab.audit("none").pairs["pair_id"].tolist()
    app = open_page(PAGE)
    assert app.toggle(key="mitigation-on-decisions").disabled
    open_review(audit).decide(ids[45:47], "remove", audit=audit.name)
    app = open_page(PAGE, setting="decisions")
    assert app.toggle(key="mitigation-on-decisions").label == "My decisions: 2 removed, 0 with changed captions"
    press(app, "Run it")
    (own,) = read_own(lab)
    rows = made_rows(3)
    write_table(lab.folder / "arms.parquet", rows.replace({"arm": {"text-mask": own.name}}))
    app = open_page(PAGE, setting="decisions")
    assert f"{own.name}: 10 % less memorization" in titles(app)
    assert "Run it" not in labels(app)
    open_review(audit).decide(ids[47:48], "remove", audit=audit.name)
    app = open_page(PAGE, setting="decisions")
    assert f"{own.name}: 10 % less memorization" in titles(app)
    assert "Ran with older decisions" in bold(app)
    press(app, "Run it")
    assert len(read_own(lab)) == 2
