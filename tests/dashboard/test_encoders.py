"""The page Encoders: parts of clipmem, units and paradigms, and how to get each."""

from pathlib import Path

import pytest

from clipmem_core.auditing.jobs import JobRequest
from tests.dashboard.test_every_page import said
from tests.dashboard.test_pages import address, captions, figures, open_page, texts
from tests.fixtures import Copy, leave_job
from tests.made_encoders import make_members

PAGE = "pages/encoders.py"


@pytest.mark.parametrize("protocol", ["ensemble", "paper"])
def test_the_parts_are_drawn_pair_by_pair_and_as_means(copy: Copy, protocol: str) -> None:
    copy(protocol)
    app = open_page(PAGE, colour="injected", by="label")
    assert not app.error, said(app)
    pairs, means, _ = figures(app)
    assert [trace["name"] for trace in pairs["data"]] == ["no error injected", "miscaption"]
    assert {name.split("<")[0] for name in means["layout"]["yaxis"]["ticktext"]} == {
        "circle",
        "square",
        "triangle",
    }
    assert "cosine 0.88" in captions(app)
    app.segmented_control(key="colour").select("label").run()
    app.segmented_control(key="by").select("injected").run()
    assert (address(app)["colour"], address(app)["by"]) == ("label", "injected")


def test_without_units_and_paradigms_buttons_start_them(
    copy: Copy, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(JobRequest, "start", lambda task: started.append(list(task.arguments)))
    make_members(copy())
    leave_job(
        data / "jobs" / ".encoders" / "made" / "paradigms", exit_code=2, said="error: *no* labels\n"
    )
    app = open_page(PAGE, view="units")
    assert app.error
    assert "error: *no* labels" in texts(app)
    for label in ("Measure units", "Train three ways"):
        next(button for button in app.button if button.label == label).click().run()
    assert started == [["units", "made"], ["paradigms", "made"]]
