from collections.abc import Callable
from pathlib import Path

import pytest

from clipmem_core.audits.preflight import Request
from tests.dashboard.audits_page import PAGE, button, found, labels, table
from tests.dashboard.test_pages import open_page, texts


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
