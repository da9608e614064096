import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.checks import Request
from clipmem_core.audits.detached import process_start
from clipmem_core.audits.jobs import cancel, start_job
from clipmem_core.audits.queue import Ticket
from clipmem_core.audits.store import Audit, broken_files, write_json
from clipmem_core.config import AuditConfig, SourceOptions, as_dict, preset_config
from clipmem_core.dashboard import checking, running, starting
from clipmem_core.dashboard.fields import comments, field_names
from tests.dashboard.test_pages import open_page, texts, titles

Copy = Callable[..., Audit]
PAGE = "pages/audits.py"
FOUND = {"rows": 230, "lookalikes": 3, "pairs": 220, "captions": 1100, "quarantined": 10}
FOUND |= {"groups": {"scored": 170, "external": 50}}
TIME = {"seconds": {"preparing": 0.2, "starting": 6.0, "training": 120.0, "embedding": 4.0, "scoring": 0.1}}
TIME |= {"busy": 2.0, "step": 0.25, "steps": 480, "members": 4, "side_by_side": 2, "trained": 85}


def button(app: AppTest, label: str) -> Any:
    return next(each for each in app.button if each.label == label)


def labels(app: AppTest) -> list[str]:
    return [each.label for each in app.button]


def table(app: AppTest, column: str) -> Any:
    """The table that has a column."""
    return next(each.value for each in app.dataframe if column in each.value.columns)


def leave_job(data: Path, name: str, *, running: bool = False, exit_code: int | None = None, said: str = "") -> None:
    folder = data / "jobs" / name
    folder.mkdir(parents=True)
    started = process_start(os.getppid()) if running else "1"
    write_json(folder / "job.json", {"pid": os.getppid(), "started": started, "command": ["python", "again"]})
    (folder / "output.log").write_text(said)
    if exit_code is not None:
        (folder / "exit_code").write_text(f"{exit_code}\n")


def unfinish(audit: Audit) -> Audit:
    (audit.folder / "manifest.json").unlink()
    for name, step in (("r0-f0", 50), ("r0-f1", 25)):
        folder = audit.folder / "members" / name
        folder.mkdir(parents=True)
        line = {"step": step, "steps": 100, "epoch": step / 10, "loss": 2.0, "log_probability": -1.0, "seconds": 10.0}
        (folder / "log.jsonl").write_text(json.dumps(line | {"samples_per_second": 900.0}) + "\n")
    for path in audit.folder.rglob("*"):
        os.utime(path, (time.time() - 1000, time.time() - 1000))
    return audit


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """Every process that the page starts or cancels, instead of doing it."""
    made: list[tuple[str, object]] = []
    monkeypatch.setattr(checking, "start_check", lambda request: made.append(("check", request)))
    for module in (checking, running):
        monkeypatch.setattr(
            module, "start_audit", lambda arguments, *, name: made.append(("audit", (name, list(arguments))))
        )
        monkeypatch.setattr(module, "cancel", lambda job: made.append(("cancel", job.name)))
    monkeypatch.setattr(running, "start_job", lambda command, *, name: made.append(("job", (name, list(command)))))
    monkeypatch.setattr(starting, "start_fetch", lambda name: made.append(("fetch", name)))
    return made


# Starting one


def tiny(app: AppTest) -> AppTest:
    app.segmented_control(key="new-preset").select("tiny").run()
    return app


def test_without_an_audit_the_page_offers_to_start_one(calls: list[tuple[str, object]]) -> None:
    app = tiny(open_page(PAGE))
    assert app.segmented_control(key="view-start").value == "start"
    assert app.text_input(key="new-name").placeholder == "scenes"
    button(app, "Check").click().run()
    ((kind, request),) = calls
    assert kind == "check"
    assert request == Request("scenes", "scenes", preset_config("tiny"))
    assert app.query_params["check"] == request.key


def test_what_is_typed_is_what_is_asked_for(calls: list[tuple[str, object]]) -> None:
    app = tiny(open_page(PAGE))
    app.selectbox(key="new-source").select(starting.OTHER_SOURCE).run()
    app.text_input(key="new-path").set_value("/some/my pairs.csv").run()
    app.segmented_control(key="new-protocol").select("paper").run()
    assert app.text_input(key="new-name").placeholder == "my-pairs-paper"
    app.number_input(key="new-seeds").set_value(3)
    app.number_input(key="new-tiny-epochs").set_value(7)
    app.toggle(key="new-tiny-drop_lookalikes").set_value(True)
    app.selectbox(key="new-tiny-loss").set_value("siglip")
    app.text_input(key="new-source-csv_caption_key").set_value("title")
    app.text_input(key="new-name").set_value("mine").run()
    button(app, "Check").click().run()
    request = calls[-1][1]
    assert request.arguments == [
        "/some/my pairs.csv",
        "--name=mine",
        "--preset=tiny",
        "--protocol=paper",
        "--seeds=3",
        "--drop-lookalikes",
        "--loss=siglip",
        "--epochs=7",
        "--csv-caption-key=title",
    ]


def test_more_repeats_are_more_members(calls: list[tuple[str, object]]) -> None:
    app = tiny(open_page(PAGE))
    app.number_input(key="new-repeats").set_value(3)
    app.number_input(key="new-tiny-folds").set_value(4).run()
    button(app, "Check").click().run()
    assert calls[-1][1].config.members == 12


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("new-tiny-epochs", 0, "--epochs must be at least 1, not 0"),
        ("new-tiny-batch_size", 1, "--batch-size must be at least 2, not 1"),
        ("new-tiny-folds", 1, "--folds must be at least 2, not 1"),
        ("new-tiny-lr", -1.0, "--lr must be a number above 0, not -1.0"),
        ("new-repeats", -1, "--members must be at least 0, not -2"),
        ("new-name", "a/b", "name 'a/b' must be letters, digits"),
        ("new-name", "[x](javascript:alert(1))", "name '[x](javascript:alert(1))' must be letters, digits"),
        ("new-tiny-model", "<b>no</b>", "model '<b>no</b>' is unknown"),
    ],
)
def test_a_wrong_setting_is_one_line_and_nothing_starts(
    calls: list[tuple[str, object]], key: str, value: object, message: str
) -> None:
    app = tiny(open_page(PAGE))
    kind = "text_input" if isinstance(value, str) else "number_input"
    getattr(app, kind)(key=key).set_value(value).run()
    button(app, "Check").click().run()
    assert not app.exception
    assert calls == []
    assert app.error[0].value == "This audit cannot start."
    assert [text for text in texts(app) if text.startswith(message)]


def test_no_source_is_one_line(calls: list[tuple[str, object]]) -> None:
    app = open_page(PAGE)
    app.selectbox(key="new-source").select(starting.OTHER_SOURCE).run()
    button(app, "Check").click().run()
    assert "no data set is given: choose one, or type its path" in texts(app)
    assert calls == []


def test_a_name_of_another_audit_is_one_line_and_the_proposed_one_is_free(
    copy: Copy, calls: list[tuple[str, object]]
) -> None:
    audit = copy(name="scenes")
    write_json(audit.folder / "config.json", audit.config | {"source": "elsewhere.csv"})
    app = tiny(open_page(PAGE, view="start"))
    assert app.text_input(key="new-name").placeholder == "scenes-2"
    app.text_input(key="new-name").set_value("scenes").run()
    button(app, "Check").click().run()
    assert [text for text in texts(app) if text.startswith("audit 'scenes' exists with another config: the source is")]
    assert calls == []


def test_sets_that_are_there_are_offered_and_others_can_be_fetched(data: Path, calls: list[tuple[str, object]]) -> None:
    for name in ("tuxpaint", "scenes-220-0", ".openclipart.partial-x"):
        (data / "sets" / name).mkdir(parents=True)
        (data / "sets" / name / "captions.jsonl").write_text("")
    app = open_page(PAGE)
    options = app.selectbox(key="new-source").options
    assert options == ["scenes", str(data / "sets" / "tuxpaint"), starting.OTHER_SOURCE]
    assert "fetch-tuxpaint" not in [each.key for each in app.button]
    app.button(key="fetch-openclipart").click().run()
    assert calls == [("fetch", "openclipart")]


def test_a_download_shows_its_last_line_and_can_be_tried_again(data: Path, calls: list[tuple[str, object]]) -> None:
    leave_job(data, ".sets/tuxpaint", running=True, said="unpacking tuxpaint\n")
    leave_job(data, ".sets/openclipart", exit_code=2, said="error: no network\n")
    app = open_page(PAGE)
    assert {"unpacking tuxpaint", "error: no network"} <= set(texts(app))
    assert "Fetch openclipart again" in labels(app)


def test_further_settings_are_every_field_with_its_comment(data: Path) -> None:
    app = open_page(PAGE)
    widgets = [*app.number_input, *app.selectbox, *app.text_input, *app.toggle]
    keys = {widget.key: widget for widget in widgets}
    fields = [name for name in field_names(AuditConfig) if name not in ("preset", "protocol", "members", "seeds")]
    assert all(f"new-small-{name}" in keys for name in fields)
    assert all(f"new-source-{name}" in keys for name in field_names(SourceOptions))
    assert keys["new-small-cache_size"].help == "pixels a picture is stored at; crops are cut from these"
    assert comments()["csv_separator"] == "one character"


# The check


@pytest.fixture
def leave_check(data: Path) -> Callable[..., Request]:
    """Leaves a check of the drawn set with what it has said."""

    def leave(*lines: dict[str, object], exit_code: int | None = 0, request: Request | None = None) -> Request:
        config = as_dict(preset_config("tiny")) | {"epochs": 7}
        if request is None:
            source = SourceOptions(**config.pop("source"))
            request = Request("scenes", "mine", AuditConfig(**config, source=source))
        name = f".checks/{request.key}"
        said = "".join(json.dumps(line) + "\n" for line in lines)
        leave_job(data, name, running=exit_code is None, exit_code=exit_code, said=said)
        stored = {"source": request.source, "name": request.name, "config": as_dict(request.config)}
        write_json(data / "jobs" / name / "request.json", stored)
        return request

    return leave


def found(*, exact: bool, reasons: list[dict[str, object]] | None = None) -> dict[str, object]:
    return {"stage": "found", "exact": exact, "reasons": reasons or [], **FOUND}


def test_a_check_survives_a_reload_and_starts_what_it_checked(
    leave_check: Callable[..., Request], calls: list[tuple[str, object]]
) -> None:
    hostile = {"rows": 10, "reason": "<b>[x](javascript:alert(1))", "example": "$x$"}
    request = leave_check(found(exact=True, reasons=[hostile]), {"stage": "time", **TIME})
    app = open_page(PAGE, view="start", check=request.key)
    assert app.number_input(key="new-tiny-epochs").value == 7
    assert [metric.value for metric in app.metric] == ["220", "1,100", "10", "3"]
    assert table(app, "reason")["reason"].tolist() == ["<b>[x](javascript:alert(1))"]
    assert any("About 2 min 10 s" in each.value for each in app.markdown)
    assert any("As busy as it is now: 4 min 21 s" in each.value for each in app.markdown)
    assert any("480 steps of 0.25 s on 85 pairs each" in each.value for each in app.caption)
    button(app, "Start").click().run()
    assert calls == [("audit", ("mine", ["scenes", "--name=mine", "--preset=tiny", "--epochs=7"]))]
    assert app.query_params["view"] == "list"
    assert app.query_params["audit"] == "mine"
    assert "check" not in app.query_params


def test_settings_changed_since_the_check_must_be_checked_again(
    leave_check: Callable[..., Request], calls: list[tuple[str, object]]
) -> None:
    request = leave_check(found(exact=True), {"stage": "time", **TIME})
    app = open_page(PAGE, view="start", check=request.key)
    app.number_input(key="new-tiny-epochs").set_value(8).run()
    assert "Start" not in labels(app)
    assert "have changed since" in app.caption[-1].value
    app.number_input(key="new-tiny-epochs").set_value(7).run()
    assert "Start" in labels(app)


def test_a_check_that_failed_says_why_and_offers_no_start(leave_check: Callable[..., Request]) -> None:
    text = "folds must be at most 170, the clusters of look-alikes to score, not 300"
    request = leave_check(found(exact=False), {"stage": "error", "text": text}, exit_code=2)
    app = open_page(PAGE, view="start", check=request.key)
    assert text in texts(app)
    assert "Start" not in labels(app)


def test_a_long_check_lets_one_start_before_every_picture_is_open(leave_check: Callable[..., Request]) -> None:
    lines = [found(exact=False), {"stage": "time", **TIME}, {"stage": "pictures", "done": 5, "total": 220}]
    request = leave_check(*lines, exit_code=None)
    app = open_page(PAGE, view="start", check=request.key)
    assert app.metric[3].value == "…"
    assert "Start" in labels(app)
    assert "not every picture has been opened yet" in " ".join(each.value for each in app.caption)


def test_a_check_that_has_said_nothing_yet_is_told_and_can_be_stopped(
    leave_check: Callable[..., Request], calls: list[tuple[str, object]]
) -> None:
    app = open_page(PAGE, view="start", check=leave_check(exit_code=None).key)
    assert app.get("progress")[0].proto.text == "Reading the data set"
    assert "Start" not in labels(app)
    button(app, "Stop the check").click().run()
    assert calls[0][0] == "cancel"


def test_a_request_of_a_fetched_set_and_more_repeats_fills_the_widgets(
    data: Path, leave_check: Callable[..., Request]
) -> None:
    config = AuditConfig(folds=3, members=9, source=SourceOptions(csv_caption_key="title"))
    request = leave_check(request=Request("/else/where.csv", "w", config), exit_code=None)
    app = open_page(PAGE, view="start", check=request.key)
    assert app.text_input(key="new-path").value == "/else/where.csv"
    assert app.number_input(key="new-repeats").value == 3
    assert app.text_input(key="new-source-csv_caption_key").value == "title"


@pytest.mark.parametrize("key", ["0" * 16, "../../etc/passwd", "[x](javascript:alert(1))"])
def test_a_check_that_does_not_exist_leaves_the_form_as_it_is(data: Path, key: str) -> None:
    app = open_page(PAGE, view="start", check=key)
    assert "Check" in labels(app)
    assert not app.error


# All audits


def test_all_audits_are_in_the_table_and_the_address_chooses_one(copy: Copy) -> None:
    copy("ensemble", name="one")
    copy("paper", name="two")
    app = open_page(PAGE, audit="two")
    rows = table(app, "size").set_index("name")
    assert rows.loc["one", "protocol"] == "ensemble"
    assert rows.loc["two", "members"] == 6
    assert rows["state"].tolist() == ["done", "done"]
    assert rows.loc["two", "size"] > 10_000
    assert "two" in titles(app)
    assert app.main.get("page_link")


def test_an_audit_is_chosen_nowhere_until_one_is(copy: Copy) -> None:
    copy()
    app = open_page(PAGE)
    assert "Choose a row" in app.caption[-1].value
    assert "Delete for good" not in labels(app)


def test_a_renamed_audit_is_shown_under_its_new_name(copy: Copy, data: Path) -> None:
    copy()
    app = open_page(PAGE, audit="made")
    assert button(app, "Rename").disabled
    app.text_input(key="new-name-of-made").set_value("better").run()
    app.button(key="rename-now-made").click().run()
    assert not app.exception
    assert app.query_params["audit"] == "better"
    assert "The audit has its new name." in app.success[0].value
    assert table(app, "size")["name"].tolist() == ["better"]
    renamed = Audit(data / "audits" / "better")
    assert renamed.finished
    assert broken_files(renamed.folder) == []


@pytest.mark.parametrize("name", ["a/b", "other", "[x](javascript:alert(1))"])
def test_a_name_that_cannot_be_had_is_one_line(copy: Copy, name: str) -> None:
    copy()
    copy(name="other")
    app = open_page(PAGE, audit="made")
    app.text_input(key="new-name-of-made").set_value(name).run()
    app.button(key="rename-now-made").click().run()
    assert app.error[0].value == "It keeps its name."
    assert [text for text in texts(app) if repr(name) in text]


def test_deleting_is_asked_twice(copy: Copy, data: Path) -> None:
    copy()
    copy(name="other")
    app = open_page(PAGE, audit="made")
    for typed in ("", "mad", "other"):
        app.text_input(key="confirm-made").set_value(typed).run()
        assert button(app, "Delete for good").disabled
    app.text_input(key="confirm-made").set_value("made").run()
    button(app, "Delete for good").click().run()
    assert not app.exception
    assert app.success[0].value.startswith("Deleted; ")
    assert table(app, "size")["name"].tolist() == ["other"]
    assert not (data / "audits" / "made").exists()
    assert "audit" not in app.query_params


def test_the_last_audit_deleted_leaves_the_start_view(copy: Copy) -> None:
    copy()
    app = open_page(PAGE, audit="made")
    app.text_input(key="confirm-made").set_value("made").run()
    button(app, "Delete for good").click().run()
    assert app.segmented_control(key="view-start").value == "start"


def test_folders_with_odd_names_are_named_as_text_and_not_listed(copy: Copy) -> None:
    copy()
    copy(name="[x](javascript:alert(1))")
    app = open_page(PAGE)
    assert table(app, "size")["name"].tolist() == ["made"]
    assert "not shown, since no audit can have such a name: '[x](javascript:alert(1))'" in texts(app)


@pytest.mark.parametrize("content", ["{", "[]", "null"])
def test_a_broken_audit_is_told_and_can_be_deleted(copy: Copy, data: Path, content: str) -> None:
    audit = copy()
    (audit.folder / "manifest.json").unlink()
    (audit.folder / "config.json").write_text(content)
    os.utime(audit.folder / "config.json", (1, 1))
    app = open_page(PAGE, audit="made")
    assert table(app, "size")["state"].tolist() == ["broken"]
    assert [text for text in texts(app) if str(audit.folder / "config.json") in text]
    assert "Delete for good" in labels(app)


def test_an_odd_config_is_listed_as_far_as_it_goes(copy: Copy) -> None:
    audit = copy()
    write_json(audit.folder / "config.json", {"config": None, "members": 3, "pairs": "x", "source": ["<b>"]})
    app = open_page(PAGE, audit="made")
    assert table(app, "size")["data set"].tolist() == ["['<b>']"]


# At work


def test_a_running_audit_shows_members_losses_and_output_and_can_be_cancelled(
    copy: Copy, data: Path, calls: list[tuple[str, object]]
) -> None:
    unfinish(copy())
    leave_job(data, "made", running=True, said="member r0-f0: training\n")
    app = open_page(PAGE, audit="made")
    work = table(app, "at work")
    assert work["state"].tolist() == ["training"]
    assert work["progress"].tolist() == [pytest.approx((0.5 + 0.25) / 4)]
    assert work["training left"].tolist() == [
        "1 min 0 s"
    ]  # r0-f1 has 30 s to go, and the two that wait take 30 s each, two at a time
    assert table(app, "member")["stage"].tolist() == ["training", "training", "waiting", "waiting"]
    assert app.get("plotly_chart")
    assert "member r0-f0: training" in texts(app)
    assert not app.main.get("page_link")
    assert "Delete for good" not in labels(app)
    button(app, "Cancel").click().run()
    assert calls == [("cancel", "made")]


def test_one_that_waits_says_how_many_are_before_it(copy: Copy, data: Path) -> None:
    unfinish(copy())
    leave_job(data, "made", running=True)
    for number, pid in ((1, os.getpid()), (2, os.getppid())):
        ticket = Ticket(number, "x", pid, process_start(pid) or "")
        ticket.path.parent.mkdir(parents=True, exist_ok=True)
        ticket.path.write_text(json.dumps(vars(ticket)))
    app = open_page(PAGE, audit="made")
    assert table(app, "at work")["state"].tolist() == ["waiting, 1 before it"]
    assert "Waiting: next in the queue" in app.info[0].value
    assert "Cancel" in labels(app)


def test_a_cancelled_audit_can_be_resumed(copy: Copy, data: Path, calls: list[tuple[str, object]]) -> None:
    unfinish(copy())
    leave_job(data, "made", exit_code=130, said="interrupted\n")
    app = open_page(PAGE, audit="made")
    assert "was cancelled" in app.info[0].value
    assert not any("samples/s" in bar.proto.text for bar in app.get("progress"))
    button(app, "Resume").click().run()
    assert calls == [("audit", ("made", ["scenes", "--name=made", "--preset=tiny"]))]


@pytest.mark.parametrize(
    ("exit_code", "words"), [(2, "with exit code 2"), (-9, "by signal 9"), (None, "the machine went down")]
)
def test_a_stopped_audit_says_how_and_with_what_words(
    data: Path, calls: list[tuple[str, object]], exit_code: int | None, words: str
) -> None:
    leave_job(data, "refused", exit_code=exit_code, said="error: <b>nothing</b> is left\n")
    app = open_page(PAGE, audit="refused")
    assert words in app.error[0].value
    assert "error: <b>nothing</b> is left" in texts(app)
    assert table(app, "size")["state"].tolist() == ["stopped"]
    button(app, "Try again").click().run()
    assert calls == [("job", ("refused", ["python", "again"]))]


def test_an_audit_that_ends_brings_the_page_up_to_date(copy: Copy, data: Path) -> None:
    audit = unfinish(copy())
    leave_job(data, "made", running=True)
    app = open_page(PAGE, audit="made")
    write_json(audit.folder / "manifest.json", {"files": {}})
    app.run()
    assert table(app, "size")["state"].tolist() == ["done"]
    assert app.main.get("page_link")


def test_a_view_that_does_not_exist_is_the_usual_one(copy: Copy) -> None:
    copy()
    assert open_page(PAGE, view="<b>").segmented_control(key="view-list").value == "list"


def test_the_chosen_view_is_in_the_address(copy: Copy) -> None:
    copy()
    app = open_page(PAGE)
    app.segmented_control(key="view-list").select("start").run()
    assert app.query_params["view"] == "start"


def test_an_old_address_of_a_check_shows_the_audit_that_was_started_from_it(
    leave_check: Callable[..., Request],
) -> None:
    request = leave_check(found(exact=True), {"stage": "time", **TIME})
    command = (sys.executable, "-m", "clipmem_core", "audit", *request.arguments)
    job = start_job([sys.executable, "-c", "import time; time.sleep(600)", *command], name=request.name)
    try:
        app = open_page(PAGE, view="start", check=request.key)
        assert app.query_params["view"] == "list"
        assert app.query_params["audit"] == request.name
    finally:
        cancel(job)
