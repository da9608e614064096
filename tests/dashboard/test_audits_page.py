"""The page Audits: the list with its actions, running and stopped audits, and the form that starts
one."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.auditing.folder.jobs import TRAINING, JobRequest
from clipmem_core.auditing.folder.store import write_json
from clipmem_core.cli import main, parse_command
from clipmem_core.config import preset_config
from clipmem_core.dashboard import page
from tests.dashboard.test_pages import labels, open_page, press, texts, titles, unfinished
from tests.fixtures import Copy, leave_job

PAGE = "pages/audits.py"
TINY = preset_config("tiny")
Calls = list[tuple[str, Any]]


def table(app: AppTest, column: str) -> Any:
    """The table that has a column."""
    return next(each.value for each in app.dataframe if column in each.value.columns)


@pytest.fixture
def calls(started: Calls, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Every process that the page starts or cancels, instead of doing it."""
    monkeypatch.setattr(page, "cancel", lambda job: started.append(("cancel", job.folder.name)))
    return started


def requested(calls: Calls) -> Any:
    """The audit that was started last, as the command line parses it."""
    return parse_command(["audit", *calls[-1][1][1:]])


def form(source: str = "scenes") -> AppTest:
    app = open_page(PAGE, view="start")
    app.text_input(key="new-path").set_value(source)
    app.segmented_control(key="new-preset").select("tiny").run()
    return app


def test_all_audits_are_in_the_table_and_the_address_chooses_one(copy: Copy) -> None:
    copy("ensemble", name="one")
    copy("paper", name="two")
    app = open_page(PAGE, audit="two")
    rows = table(app, "state").set_index("name")
    assert (rows.loc["one", "protocol"], rows.loc["two", "members"]) == ("ensemble", 6)
    assert rows["state"].tolist() == ["finished", "finished"]
    assert "two" in titles(app)
    assert "Delete for good" not in labels(open_page(PAGE))


def test_an_audit_is_deleted_once_its_name_was_typed(copy: Copy, data: Path) -> None:
    copy()
    copy(name="other")
    app = open_page(PAGE, audit="made")
    assert app.button(key="delete-now-made").disabled
    app.text_input(key="confirm-made").set_value("made").run()
    press(app, "Delete for good")
    assert table(app, "state")["name"].tolist() == ["other"]
    assert not (data / "audits" / "made").exists()
    assert "audit" not in app.query_params


def test_a_broken_audit_is_named_and_can_be_deleted(copy: Copy) -> None:
    audit = copy()
    (audit.folder / "manifest.json").unlink()
    (audit.folder / "config.json").write_text("{")
    app = open_page(PAGE, audit="made")
    assert table(app, "state")["state"].tolist() == ["broken"]
    assert [text for text in texts(app) if str(audit.folder / "config.json") in text]
    assert "Delete for good" in labels(app)


def test_a_running_audit_shows_its_step_and_the_time_left_and_can_be_cancelled(
    copy: Copy, data: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinished(copy())
    folder = data / "jobs" / "made"
    counts = {"step": TRAINING, "stage": "training", "total": 100, "noun": "% trained"}
    leave_job(folder, running=True, done=30, **counts)
    clock = SimpleNamespace(monotonic=lambda: 0)
    monkeypatch.setattr(page, "time", clock)
    app = open_page(PAGE, audit="made")
    assert table(app, "state")["state"].tolist() == ["training"]
    step = "Step 4 of 8: training · 30 of 100 % trained"
    assert app.get("progress")[0].proto.text == step
    clock.monotonic = lambda: 10
    write_json(folder / "record.json", counts | {"done": 40})
    app.run()
    text = app.get("progress")[0].proto.text
    assert text == step.replace("30", "40") + " · 1 min left in this step"
    press(app, "Cancel")
    assert calls == [("cancel", "made")]


def test_a_stopped_audit_says_why_and_can_be_tried_again(data: Path, calls: Calls) -> None:
    leave_job(data / "jobs" / "refused", exit_code=2, said="error: <b>nothing</b> is left\n")
    app = open_page(PAGE, audit="refused")
    assert app.error
    assert "error: <b>nothing</b> is left" in texts(app)
    assert table(app, "state")["state"].tolist() == ["stopped"]
    press(app, "Try again")
    assert calls == [("refused", ["once", "more"])]


def test_what_is_typed_is_what_is_started(calls: Calls, tmp_path: Path) -> None:
    path = tmp_path / "my pairs.csv"
    path.touch()
    app = form(f" {path} ")
    app.segmented_control(key="new-protocol").select("paper").run()
    assert app.text_input(key="new-name").placeholder == "my-pairs-paper"
    app.number_input(key="new-seeds-1").set_value(3)
    app.number_input(key=f"new-epochs-{TINY.epochs}").set_value(7)
    app.toggle(key="new-drop_near_duplicates-False").set_value(True)
    app.selectbox(key=f"new-loss-{TINY.loss}").set_value("siglip")
    app.text_input(key="new-csv_caption_key-").set_value("title")
    app.text_input(key="new-name").set_value("mine").run()
    press(app, "Start")
    fields = [
        "--protocol=paper",
        "--seeds=3",
        "--drop-near-duplicates",
        "--loss=siglip",
        "--epochs=7",
    ]
    assert calls[-1][1][1:] == [
        str(path),
        "--name=mine",
        "--preset=tiny",
        *fields,
        "--csv-caption-key=title",
    ]


def test_a_csv_without_captions_names_the_field_in_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (path := tmp_path / "bad.csv").write_text("filepath,odd\na.png,--seed\n")

    def check(task: JobRequest) -> None:
        code = main(list(task.arguments))
        leave_job(task.folder, exit_code=code, said=capsys.readouterr().err)

    monkeypatch.setattr(JobRequest, "start", check)
    app = press(form(str(path)), "Start")
    (message,) = [text for text in texts(app) if "bad.csv" in text]
    assert "Settings → Caption column" in message
    assert "--" not in message


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("new-members-0", -1, "Settings → Members"),
        ("new-name", "[x](javascript:alert(1))", "name '[x](javascript:alert(1))'"),
        ("new-path", "<b>x</b>.csv", "there is no '<b>x</b>.csv'"),
    ],
)
def test_a_wrong_setting_is_one_line_and_nothing_starts(
    calls: Calls, key: str, value: object, field: str
) -> None:
    app = form()
    getattr(app, "text_input" if isinstance(value, str) else "number_input")(key=key).set_value(
        value
    ).run()
    press(app, "Start")
    assert calls == []
    assert app.error
    assert [text for text in texts(app) if text.startswith(field)]


def test_locked_towers_are_the_default_and_hide_fields_without_effect(calls: Calls) -> None:
    app = open_page(PAGE, view="start")
    app.text_input(key="new-path").set_value("scenes").run()
    assert "new-text_mask-0.0" not in {slot.key for slot in app.number_input}
    press(app, "Start")
    assert requested(calls).config == preset_config("locked")
    app = open_page(PAGE, view="start")
    app.text_input(key="new-path").set_value("scenes").run()
    app.toggle(key="new-lock_text-True").set_value(False).run()
    assert "new-text_mask-0.0" in {slot.key for slot in app.number_input}
    press(app, "Start")
    assert requested(calls).config == dataclasses.replace(
        preset_config("locked"), model="small", lock_text=False, text_tower=""
    )
