import json
from collections.abc import Callable
from pathlib import Path

import pytest

from clipmem_core.audits.jobs import audit_task
from clipmem_core.audits.preflight import Request
from clipmem_core.audits.store import write_json
from tests.dashboard.audits_page import PAGE, button, found, labels, table
from tests.dashboard.test_pages import open_page, texts
from tests.fixtures import leave_job


def test_a_check_survives_a_reload_and_starts_what_it_checked(
    leave_check: Callable[..., Request], calls: list[tuple[str, object]]
) -> None:
    hostile = {"rows": 10, "reason": "<b>[x](javascript:alert(1))", "example": "$x$"}
    request = leave_check(found(exact=True, reasons=[hostile]))
    app = open_page(PAGE, view="start", check=request.key)
    assert app.number_input(key="new-tiny-epochs").value == 7
    assert [metric.value for metric in app.metric] == ["220", "1,100", "10", "3"]
    assert table(app, "reason")["reason"].tolist() == ["<b>[x](javascript:alert(1))"]
    button(app, "Start").click().run()
    assert calls == [("audit", ("mine", ["scenes", "--name=mine", "--preset=tiny", "--epochs=7"]))]
    assert app.query_params["view"] == "list"
    assert app.query_params["audit"] == "mine"
    assert "check" not in app.query_params


def test_settings_changed_since_the_check_must_be_checked_again(
    leave_check: Callable[..., Request], calls: list[tuple[str, object]]
) -> None:
    request = leave_check(found(exact=True))
    app = open_page(PAGE, view="start", check=request.key)
    app.number_input(key="new-tiny-epochs").set_value(8).run()
    assert "Start" not in labels(app)
    assert "have changed since" in app.caption[-1].value
    app.number_input(key="new-tiny-epochs").set_value(7).run()
    assert "Start" in labels(app)


def test_a_check_that_failed_says_why_and_offers_no_start(leave_check: Callable[..., Request]) -> None:
    text = "folds must be at most 170, the clusters of look-alikes to score, not 300"
    request = leave_check(found(exact=False), f"error: {text}", exit_code=2)
    app = open_page(PAGE, view="start", check=request.key)
    assert text in texts(app)
    assert "Start" not in labels(app)


def test_a_check_that_has_said_nothing_yet_is_told_and_can_be_stopped(
    leave_check: Callable[..., Request], calls: list[tuple[str, object]]
) -> None:
    app = open_page(PAGE, view="start", check=leave_check(exit_code=None).key)
    assert app.get("progress")[0].proto.text == "Reading the data set"
    assert "Start" not in labels(app)
    button(app, "Stop the check").click().run()
    assert calls[0][0] == "cancel"


@pytest.mark.parametrize("key", ["0" * 16, "../../etc/passwd", "[x](javascript:alert(1))"])
def test_a_check_that_does_not_exist_leaves_the_form_as_it_is(data: Path, key: str) -> None:
    app = open_page(PAGE, view="start", check=key)
    assert "Check" in labels(app)
    assert not app.error


def test_an_old_address_of_a_check_shows_the_audit_that_was_started_from_it(
    leave_check: Callable[..., Request],
) -> None:
    request = leave_check(found(exact=True))
    task = audit_task(request.name, request.arguments)
    leave_job(task.folder, running=True)
    job = json.loads((task.folder / "job.json").read_text())
    write_json(task.folder / "job.json", job | {"arguments": task.arguments})
    app = open_page(PAGE, view="start", check=request.key)
    assert app.query_params["view"] == "list"
    assert app.query_params["audit"] == request.name
