"""The page Encoders: units and paradigms, or how to get them."""

from pathlib import Path

import pytest

from clipmem_core.audits.jobs import Job, Task
from clipmem_core.audits.paradigms import TABLE, paradigms_folder
from clipmem_core.dashboard import running
from tests.dashboard.test_maps_pages import address, captions
from tests.dashboard.test_pages import figures, open_page, texts
from tests.fixtures import Copy
from tests.fixtures import leave_job as leave_job_in
from tests.made_encoders import make_members, make_paradigms, make_units

PAGE = "pages/encoders.py"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Catch what the page starts."""
    calls: list[list[str]] = []
    monkeypatch.setattr(Task, "start", lambda task: calls.append(list(task.arguments)))
    return calls


def leave_job(data: Path, kind: str, *, exit_code: int | None, output: str = "") -> None:
    leave_job_in(data / "jobs" / ".encoders" / "made" / kind, exit_code=exit_code, said=output)


def test_without_units_and_paradigms_buttons_start_them_and_the_commands_are_shown(
    copy: Copy, started: list[list[str]]
) -> None:
    make_members(copy())
    app = open_page(PAGE, view="units")
    assert [info.value.split(".")[0] for info in app.info] == [
        "The units of this audit's encoders have not been measured yet",
        "The image encoder has not been trained with captions, labels and self-supervision yet",
    ]
    assert [code.value for code in app.code] == [
        "python -m clipmem_core units made --sample 1000\npython -m clipmem_core units made",
        "python -m clipmem_core paradigms made",
    ]
    app.button(key="units-1000").click().run()
    app.button(key="units-0").click().run()
    app.button(key="paradigms-0").click().run()
    assert started == [["units", "made", "--sample", "1000"], ["units", "made"], ["paradigms", "made"]]


def test_while_something_is_measured_the_page_says_how_far_it_is(
    copy: Copy, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_units(copy())
    leave_job(data, "units", exit_code=None, output="member r0-f0: units\n")
    cancelled: list[str] = []
    monkeypatch.setattr(Job, "running", property(lambda job: True))
    monkeypatch.setattr(running, "cancel", lambda job: cancelled.append(job.name))
    app = open_page(PAGE, view="units")
    assert "member r0-f0: units" in texts(app)
    app.button(key="cancel-units").click().run()
    assert cancelled == ["units"]
    monkeypatch.setattr(Job, "waiting", property(lambda job: True))
    assert "Queued" in open_page(PAGE, view="units").info[0].value


def test_a_job_that_failed_says_why_and_can_be_tried_again(copy: Copy, data: Path) -> None:
    make_units(copy(), sample=5)
    leave_job(data, "paradigms", exit_code=2, output="error: *no* labels\n")
    app = open_page(PAGE, view="units")
    assert app.error
    assert "error: *no* labels" in texts(app)
    assert app.button(key="paradigms-0")


def test_units_are_drawn_by_layer_beside_what_they_are_read_against(copy: Copy) -> None:
    make_units(copy())
    app = open_page(PAGE, view="units")
    image, text = figures(app)
    names = ["trained members", "before training", "pairs it trained on, as many", "pairs it never saw"]
    assert [trace["name"] for trace in image["data"]] == [trace["name"] for trace in text["data"]] == names
    assert image["layout"]["yaxis"]["range"] == text["layout"]["yaxis"]["range"]
    assert "Measured on all 4 members, on all pairs" in captions(app)
    assert any("Mean UnitMem over the layers" in element.value for element in app.markdown)


def test_the_list_of_units_is_chosen_and_paged_in_the_address(copy: Copy) -> None:
    audit = copy()
    units = make_units(audit)
    app = open_page(PAGE, view="units", page="2")
    fired = units.dropna(subset=["unitmem_mean"]).sort_values("unitmem_mean", ascending=False)
    fired = fired.drop_duplicates("row")["unitmem_mean"]
    table = app.dataframe[0].value
    assert table["UnitMem"].tolist() == pytest.approx(fired[12:24].tolist())
    app.selectbox(key="units-tower").select("text").run()
    assert address(app)["tower"] == "text"
    assert "page" not in address(app)
    table = app.dataframe[0].value
    assert set(table["encoder"]) == {"text"}
    best = units[(units["tower"] == "text")].sort_values("unitmem_mean", ascending=False).iloc[0]
    assert table["UnitMem"][0] == pytest.approx(best["unitmem_mean"])
    assert f"pair={best['pair_id'].replace('/', '%2F')}" in table["open"][0]
    app = open_page(PAGE, view="units", tower="text", layer="2", unit_member="nobody")
    assert app.selectbox(key="units-layer").value == ""
    assert app.selectbox(key="units-unit_member").value == ""


def test_paradigms_are_drawn_with_the_papers_curves(copy: Copy) -> None:
    audit = copy()
    make_units(audit)
    make_paradigms(audit)
    app = open_page(PAGE, view="units")
    assert len(figures(app)[2]["data"]) == 6
    assert any("CLIP lies between the other two): so it does here." in each.value for each in app.markdown)
    assert "digitised" in captions(app)
    assert "95 % intervals over 3 training seeds of one split" in captions(app)


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "\x00\xff"])
def test_a_table_of_paradigms_that_is_none_is_one_line(copy: Copy, content: str) -> None:
    audit = copy()
    make_units(audit)
    paradigms_folder(audit).mkdir(parents=True)
    (paradigms_folder(audit) / TABLE).write_text(content)
    assert "holds a table that is none" in texts(open_page(PAGE, view="units"))[-1]
