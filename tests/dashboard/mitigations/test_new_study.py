"""The page Mitigations: what is chosen in the form is the study that starts."""

import shlex
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.jobs import Task
from clipmem_core.audits.store import Audit, write_json
from clipmem_core.commands import parse
from clipmem_core.config import preset_config
from clipmem_core.dashboard.studies import PLANS
from clipmem_core.studies.plan import STUDIES
from tests.dashboard.mitigations.made_mitigations import make_mitigations
from tests.dashboard.mitigations.mitigations_page import PAGE, leave_study_job
from tests.dashboard.test_every_page import said
from tests.dashboard.test_maps_pages import address
from tests.dashboard.test_pages import open_page, texts
from tests.fixtures import Copy


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Every study that the form starts, instead of starting it."""
    calls: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(Task, "start", lambda task: calls.append((task.folder.name, list(task.arguments[1:]))))
    return calls


def form(**parameters: str) -> AppTest:
    return open_page(PAGE, view="start", **parameters)


def start_it(app: AppTest) -> AppTest:
    app = app.button(key="study-start").click().run()
    assert not app.exception, app.exception[0].message
    return app


@pytest.mark.parametrize("plan", PLANS)
def test_a_study_is_offered_with_its_question_and_the_command_that_is_typed(plan: str, started: list) -> None:  # type: ignore[type-arg]
    app = form()
    app.selectbox(key="study-plan").select(plan).run()
    assert STUDIES[plan].question in said(app)
    start_it(app)
    ((name, arguments),) = started
    assert name == f"scenes-{plan}"
    assert app.session_state["study-plan"] == plan
    typed = parse(["study", *arguments])
    assert (typed.study, typed.source, typed.name, typed.config.seeds) == (plan, "scenes", name, 5)
    assert address(app)["study"] == name


def test_what_is_chosen_is_what_is_asked_for(started: list, tmp_path: Path) -> None:  # type: ignore[type-arg]
    path = tmp_path / "my pairs.csv"
    path.touch()
    app = form()
    app.text_input(key="study-path").set_value("").run()
    assert "no data set is given" in " ".join(texts(app))
    assert app.button(key="study-start").disabled
    app.text_input(key="study-path").set_value(str(path)).run()
    app.segmented_control(key="study-preset").select("tiny").run()
    app.number_input(key="study-seeds").set_value(4)
    app.number_input(key="study-tiny-epochs").set_value(7)
    app.toggle(key="study-lookalikes").set_value(True)
    app.text_input(key="study-name").set_value("mine").run()
    command = app.code[0].value
    start_it(app)
    expected = ["combined", str(path), "--name=mine", "--preset=tiny", "--seeds=4", "--drop-lookalikes"]
    assert started == [("mine", [*expected, "--epochs=7"])]
    assert shlex.split(command)[4:] == started[0][1]
    config = parse(shlex.split(command)[3:]).config
    usual = preset_config("tiny")
    assert (config.epochs, config.seeds, config.protocol, config.lr) == (7, 4, "paper", usual.lr)
    assert config.eval_captions == 1


def test_data_sets_of_audits_come_first_and_are_read_as_they_were(copy: Copy, started: list, tmp_path: Path) -> None:  # type: ignore[type-arg]
    audit, path = copy(), str(tmp_path / "sets" / "cats.csv")
    Path(path).parent.mkdir()
    Path(path).touch()
    config = audit.record.values
    config["config"]["source"]["csv_caption_key"] = "title"
    write_json(audit.folder / "config.json", config | {"source": path})
    copy(name="broken").folder.joinpath("config.json").write_text('{"source": 5, "config": {"source": {"x": 1}}}')
    app = form()
    assert app.text_input(key="study-path").value == path
    assert app.button_group(key="study-path-offered").options == ["cats.csv", "scenes"]
    start_it(app)
    ((name, arguments),) = started
    assert name == "cats-combined"
    assert "--csv-caption-key=title" in arguments


def test_a_name_that_is_taken_is_refused_and_a_free_one_proposed(data: Path, made: dict[str, Audit]) -> None:
    make_mitigations(data, made["paper"], name="scenes-combined")
    leave_study_job(data, "scenes-combined-2", running=True)
    app = form()
    assert app.text_input(key="study-name").placeholder == "scenes-combined-3"
    for name in ("scenes-combined", "scenes-combined-2"):
        app.text_input(key="study-name").set_value(name).run()
        assert f"there is a study {name!r} already: take another name" in texts(app)
        assert app.button(key="study-start").disabled


def test_a_name_that_cannot_be_one_is_refused() -> None:
    app = form()
    for name, fault in (("a b", "must be letters"), ("../x", "must be letters")):
        app.text_input(key="study-name").set_value(name).run()
        assert any(fault in text and "\n" not in text for text in texts(app))
        assert not app.code


def test_a_study_without_a_meaning_where_towers_are_locked_is_not_started() -> None:
    app = form()
    app.selectbox(key="study-plan").select("forgetting").run()
    assert not app.button(key="study-start").disabled
    app.segmented_control(key="study-preset").select("locked").run()
    assert "study forgetting is about the words of a trained text encoder: take --no-lock-text" in texts(app)
    assert app.button(key="study-start").disabled


def test_a_number_out_of_range_is_refused_at_once() -> None:
    app = form()
    for field, value in (("seeds", 0), ("small-epochs", -1)):
        app.number_input(key=f"study-{field}").set_value(value).run()
        assert any("must be at least 1" in text for text in texts(app))
        assert app.button(key="study-start").disabled
        app.number_input(key=f"study-{field}").set_value(3).run()
