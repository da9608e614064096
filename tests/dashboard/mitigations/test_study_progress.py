"""The page Mitigations: which study it is about, and how far that is."""

from pathlib import Path
from typing import Any

import pytest

from clipmem_core.audits.store import Audit, acquire_lock, write_json, write_table
from clipmem_core.config import InputError
from clipmem_core.dashboard.studies import know
from clipmem_core.studies.store import StudyFolder
from tests.dashboard.mitigations.made_mitigations import SETTINGS, made_rows, make_mitigations
from tests.dashboard.mitigations.mitigations_page import PAGE, labels, leave_study_job, press
from tests.dashboard.test_every_page import said
from tests.dashboard.test_maps_pages import address
from tests.dashboard.test_pages import open_page, texts
from tests.fixtures import Copy
from tests.made_encoders import make_study

Made = dict[str, Audit]


def test_an_unknown_study_is_told_in_plain_text_and_another_shown(lab: StudyFolder) -> None:
    app = open_page(PAGE, study="[x](javascript:alert(1))")
    assert "no study of mitigations" in app.warning[0].value
    assert "requested: [x](javascript:alert(1))" in texts(app)
    assert app.selectbox(key="mitigations-study").value == "lab"


def test_studies_of_other_questions_are_not_offered_and_the_fullest_comes_first(
    data: Path, lab: StudyFolder, made: Made
) -> None:
    make_study(data, "time")
    make_study(data, "size")
    make_mitigations(data, made["paper"], name="another", done=1)
    app = open_page(PAGE)
    assert not app.error, said(app)
    assert app.selectbox(key="mitigations-study").options == ["lab", "another"]
    app.selectbox(key="mitigations-study").select("another").run()
    assert address(app)["study"] == "another"
    assert "5 of 15 arms × seeds finished" in said(app)


def test_the_study_of_the_picked_audits_data_set_opens_and_of_another_one_only_when_it_is_asked_for(
    data: Path, lab: StudyFolder, copy: Copy
) -> None:
    picked = copy(name="picked")
    own = {"dataset_fingerprint": "another", "source": "own"}
    write_json(picked.folder / "config.json", picked.record.values | own)
    app = open_page(PAGE, audit="picked")
    assert "No study of this data set yet" in app.info[0].value
    assert app.selectbox(key="mitigations-study").options == ["None chosen", "lab"]
    assert "study" not in address(app)
    assert not app.get("plotly_chart")
    app.selectbox(key="mitigations-study").select("lab").run()
    assert app.get("plotly_chart")
    assert open_page(PAGE, audit="picked", view="start").text_input(key="study-path").value == "own"
    make_mitigations(data, picked, name="own-study", done=1)
    app = open_page(PAGE, audit="picked")
    assert app.selectbox(key="mitigations-study").options == ["own-study", "lab"]
    assert app.selectbox(key="mitigations-study").value == "own-study"


def test_a_broken_file_of_a_study_is_named(lab: StudyFolder) -> None:
    wrong: list[dict[str, Any]] = [{"config": None}, {"arms": 3}, {"settings": {"a": 1}}, {"study": 5}]
    for asked in wrong:
        write_json(lab.folder / "broken.json", lab.asked | asked)
        with pytest.raises(InputError, match="study.json"):
            know_with(lab, "study.json", (lab.folder / "broken.json").read_bytes())
    for file in ("study.json", "arms.parquet", "own.json"):
        for garbage in (b"", b"[]", b'{"study": "combined"}', b'{"arms": [5]}', b"\x00\xff"):
            with pytest.raises(InputError, match=file):
                know_with(lab, file, garbage)


def know_with(study: StudyFolder, file: str, content: bytes) -> None:
    """Read a study of which a file has another content, and put that file back."""
    path = study.folder / file
    kept = path.read_bytes() if path.is_file() else None
    path.write_bytes(content)
    try:
        know(study)
    finally:
        path.unlink() if kept is None else path.write_bytes(kept)


@pytest.mark.parametrize("garbage", [b"[]", None])
def test_a_broken_study_is_one_line_and_the_others_are_shown(
    data: Path, lab: StudyFolder, made: Made, garbage: bytes | None
) -> None:
    path = make_mitigations(data, made["paper"], name="broken").folder / "study.json"
    path.unlink() if garbage is None else path.write_bytes(garbage)
    app = open_page(PAGE)
    assert app.selectbox(key="mitigations-study").options == ["lab"]
    told = [text for text in texts(app) if text.startswith("broken: ")]
    assert len(app.error) == len(told) == (garbage is not None)
    assert all("study.json" in text and "\n" not in text for text in told)


def test_while_the_job_runs_the_page_says_how_far_it_is(data: Path, made: Made, went_on: list[tuple[str, str]]) -> None:
    make_mitigations(data, made["paper"], done=1)
    said_so = "arm none, seed 1: 2 of 10, time left: about 7 min\n"
    leave_study_job(data, "lab", running=True, output=f"reading scenes\n{said_so}training 2 members\n")
    app = open_page(PAGE, setting=SETTINGS["captions"])
    assert app.get("progress")[0].proto.text == "5 of 15 arms × seeds finished"
    assert app.get("progress")[0].proto.value == 33
    assert {said_so.strip(), "training 2 members"} <= set(texts(app))
    assert "1 of 3 seeds of this setting finished" in app.info[0].value
    assert "Resume" not in labels(app)
    press(app, "Cancel")
    assert went_on == [("cancel", "lab")]


def test_while_another_process_works_on_it_the_page_offers_no_second_one(data: Path, made: Made) -> None:
    study = make_mitigations(data, made["paper"], done=1)
    with acquire_lock(study.folder, what="study"):
        app = open_page(PAGE, setting=SETTINGS["captions"])
        assert app.get("progress")[0].proto.text == "5 of 15 arms × seeds finished"
        assert "Another process is running it" in said(app)
        assert "It runs when its turn comes" in app.info[0].value
        assert labels(app) == []
    assert labels(app.run()) == ["Resume"]


def test_the_page_is_drawn_again_when_a_row_is_there(data: Path, made: Made) -> None:
    study = make_mitigations(data, made["paper"], done=1)
    app = open_page(PAGE)
    assert "5 of 15" in said(app)
    write_table(study.folder / "arms.parquet", made_rows(2))
    assert "10 of 15" in said(app.run())


def test_a_study_that_stopped_says_why_and_goes_on(data: Path, made: Made, went_on: list[tuple[str, str]]) -> None:
    make_mitigations(data, made["paper"], done=1)
    leave_study_job(data, "lab", running=False, exit_code=1, output="error: *no* space\n")
    app = open_page(PAGE)
    assert app.error
    assert "error: *no* space" in texts(app)
    press(app, "Resume")
    assert went_on == [("resume", "lab")]


def test_a_study_that_is_only_a_job_yet_shows_what_it_says(data: Path, went_on: list[tuple[str, str]]) -> None:
    leave_study_job(data, "new", running=False, exit_code=2, output="error: no such file\n")
    app = open_page(PAGE, study="new")
    assert app.error
    assert "error: no such file" in texts(app)
    press(app, "Try again")
    assert went_on == [("again", "new")]
