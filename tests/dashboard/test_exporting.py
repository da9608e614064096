from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.jobs import Job, Task
from clipmem_core.audits.store import PAIRS, Audit, write_table
from clipmem_core.dashboard import exporting
from clipmem_core.exports import FORMATS, kept
from clipmem_core.exports.kept import KINDS, export_path
from clipmem_core.review.decisions import Review, open_review
from tests.dashboard.test_deciding import press
from tests.dashboard.test_pages import captions, open_page, texts, titles
from tests.made_fixtures import Copy
from tests.made_jobs import leave_job as leave_job_in


@pytest.fixture
def audit(copy: Copy) -> Audit:
    audit = copy()
    pairs = audit.pairs
    pairs["planted"] = None  # an export would have to take planted captions back
    write_table(audit.folder / PAIRS, pairs)
    return audit


@pytest.fixture
def review(audit: Audit) -> Review:
    """Three pairs removed, one recaptioned."""
    ids, review = audit.pairs["pair_id"].tolist(), open_review(audit)
    review.decide(ids[3:6], "remove")
    review.decide([ids[2]], "recaption", captions=["new one"])
    return review


def open_export(**parameters: str) -> AppTest:
    return open_page("pages/decisions.py", audit="made", view="export", **parameters)


@pytest.mark.parametrize("name", ["csv", "datacomp", "decisions-parquet"])
def test_an_export_is_made_and_offered(audit: Audit, review: Review, name: str) -> None:
    app = press(open_export(format=name), "Make")
    path = export_path(audit, KINDS[name])
    assert path.is_file()
    assert "made" in app.toast[0].value
    assert path.name in titles(app)
    assert [button.label for button in app.get("download_button")] == ["Download"]
    assert "97 pairs kept, 3 removed, 1 recaptioned." in [each.value for each in app.markdown]
    assert any("quarantined input rows" in text for text in texts(app)) == (not name.startswith("decisions"))
    app = press(app, "Delete")
    assert not path.exists()
    assert "Export deleted." in app.toast[0].value
    assert any("No export of this audit" in caption.value for caption in app.caption)


def test_a_folder_is_offered_by_its_path_and_one_button_leads_to_its_audit(audit: Audit, review: Review) -> None:
    app = press(open_export(format="imagefolder"), "Make")
    path = export_path(audit, KINDS["imagefolder"])
    assert (path / "metadata.jsonl").is_file()
    assert not app.get("download_button")
    assert str(path.absolute()) in [code.value for code in app.code]
    app = press(app, "Audit this")
    assert app.text_input(key="new-path").value == str(path)
    assert app.text_input(key="new-name").value == "made-clean"
    assert app.segmented_control(key="new-preset").value == "tiny"


def test_the_ending_can_be_chosen(audit: Audit) -> None:
    app = open_export()
    app.radio[0].set_value("decisions").run()
    assert app.query_params["format"] == "decisions"
    app.segmented_control[1].select(".parquet").run()
    assert app.query_params["format"] == "decisions-parquet"
    assert any("made-decisions.parquet" in code.value for code in app.code)
    radio = open_export().radio[0]
    assert radio.options == [about.title for about in FORMATS.values()]
    assert list(radio.proto.captions) == [about.sentence for about in FORMATS.values()]
    assert set(exporting.LIMITS) == set(FORMATS)


def test_an_export_without_decisions_is_made_and_tells_of_those_since(
    audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = press(open_export(), "Make")
    assert "100 pairs kept, 0 removed, 0 recaptioned." in [each.value for each in app.markdown]
    assert export_path(audit, KINDS["csv"]).is_file()
    assert "since it was made" not in captions(app)
    open_review(audit).decide(audit.pairs["pair_id"], "remove")
    monkeypatch.setattr(exporting, "DOWNLOAD_BYTES", 10)
    app = open_export()
    assert "since it was made" in captions(app)
    assert not app.get("download_button")
    assert str(export_path(audit, KINDS["csv"]).absolute()) in [code.value for code in app.code]
    press(app, "Make")
    assert app.error[0].value == "This export cannot be made."
    assert any("nothing is left to export" in text for text in texts(app))

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(kept.shutil, "rmtree", refuse)
    assert "not deleted" in press(app, "Delete").toast[0].value


def test_a_report_is_made_by_a_process(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr(Task, "start", lambda task: started.append(task.folder.name))
    press(open_export(format="html"), "Make")
    assert started == ["html"]


@pytest.mark.parametrize(
    ("exit_code", "shown"),
    [(2, "out of space"), (130, "cancelled"), (-2, "cancelled"), (None, "failed"), (0, "")],
)
def test_how_the_process_ended_is_told(audit: Audit, data: Path, exit_code: int | None, shown: str) -> None:
    leave_job(data, "out of space\n", exit_code)
    app = open_export(format="html")
    said = " ".join([captions(app), *texts(app), *(error.value for error in app.error)])
    assert shown in said
    assert bool(app.error) == (exit_code in (2, None))
    assert "Make" in [button.label for button in app.button]


def test_a_process_at_work_shows_how_far_it_is(audit: Audit, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_job(data, "25 of 100 pictures\n", None)
    monkeypatch.setattr(Job, "running", True)
    cancelled: list[str] = []
    monkeypatch.setattr(exporting, "cancel", lambda job: cancelled.append(job.name))
    app = open_export(format="html")
    assert [bar.proto.value for bar in app.get("progress")][-1] == 25
    assert "Make" not in [button.label for button in app.button]
    press(app, "Cancel")
    assert cancelled == ["html"]


def leave_job(data: Path, output: str, exit_code: int | None) -> None:
    leave_job_in(data / "jobs" / ".exports" / "made" / "html", said=output, exit_code=exit_code)
