"""The page Mitigations: settings turned on and off, what they change, and how they train."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.config import FIELDS, SETTING_FIELDS
from clipmem_core.dashboard.controls import GROUPS
from clipmem_core.lab import lab_pool, mitigated
from clipmem_core.review.decisions import open_review
from tests.dashboard.conftest import Started
from tests.dashboard.test_every_page import said
from tests.dashboard.test_pages import address, figures, labels, open_page, press, texts
from tests.dashboard.test_pages import titles as written
from tests.fixtures import Copy, leave_job
from tests.made_settings import MEMORIZED, add_setting, make_lab, make_study

PAGE = "pages/mitigations.py"
STRONG = "text_mask=0.3"
NAME = "text_mask-0.3"
NOISE = "text_noise=0.15"
VALUES: dict[str, Any] = {
    **{"train_captions": 2, "noise_place": "before", "stop_epoch": 33},
    **{"min_logit_scale": 18, "max_logit_scale": 20, "adaptive_quantile": 0.8, "adaptive_every": 4},
}


@pytest.fixture
def audit(copy: Copy) -> Audit:
    """An audit of trained encoders with the baseline of its lab."""
    return make_lab(copy())


asked: list[str] = []  # settings that a page asks for
faults: dict[str, str] = {}  # by setting


@pytest.fixture
def heads(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """An audit with locked towers, for which no process starts."""
    asked.clear()
    pool = SimpleNamespace(
        ask=lambda setting, again=False: asked.append(setting) or faults.get(setting, "")
    )
    monkeypatch.setattr(lab_pool, "LabPool", lambda audit: pool)
    return make_lab(copy(), heads=True)


def turn(app: AppTest, name: str, on: bool = True) -> str:
    """Turn a toggle, and return the setting in the address."""
    app.toggle(key=f"mitigation-on-{name}").set_value(on).run()
    assert not app.exception, app.exception[0].message
    return address(app).get("setting", "")


# --- Settings


def test_the_address_sets_every_widget_and_every_field_has_one(audit: Audit) -> None:
    open_review(audit).decide(audit.pairs["pair_id"][:1].tolist(), "remove", audit=audit.name)
    values = {
        name: VALUES.get(name, own.slider and own.slider.usual)
        for name, own in FIELDS.items()
        if own.part
    }
    setting = " ".join(f"{name}={values[name]}".removesuffix(".0") for name in SETTING_FIELDS)
    setting += " removal=p_wrong:7 near_duplicates decisions"
    app = open_page(PAGE, setting=setting)
    assert not [*app.warning, *app.error], said(app)
    assert address(app)["setting"] == setting
    toggles = [each for each in app.toggle if each.key.startswith("mitigation-on-")]
    assert {each.value for each in toggles} == {True}
    shown = {name: app.session_state[f"mitigation-{name}"] for name in SETTING_FIELDS}
    assert shown == {name: values[name] for name in SETTING_FIELDS}
    assert app.number_input(key="mitigation-removal-percent").value == 7
    assert app.selectbox(key="mitigation-removal-by").value == "p_wrong"
    (name,) = mitigated.list_settings(audit)
    assert mitigated.read_setting(audit, name).text == setting


@pytest.mark.usefixtures("audit")
@pytest.mark.parametrize("group", GROUPS)
def test_a_toggle_writes_its_first_value_and_removes_it(group: str) -> None:
    app = open_page(PAGE)
    names = [name for name in GROUPS[group] if name != "decisions"]  # there are none
    for name in names:
        assert turn(app, name).split("=")[0].split(" ")[0] in names
        assert turn(app, name, on=False) == ""


def test_switches_that_cannot_act_are_listed_with_the_reason(heads: Audit) -> None:
    app = open_page(PAGE)
    shown = {each.key.removeprefix("mitigation-on-") for each in app.toggle}
    off = {"text_mask", "adaptive_mask", "text_min_df", "crop_scale", "colour"}
    off |= {"train_captions", "near_duplicates", "decisions"}
    assert {name for names in GROUPS.values() for name in names} - shown == off
    reasons = next(each for each in app.expander if each.label.startswith("Not available"))
    assert len(reasons.caption) == len(off)
    app = open_page(PAGE, setting=STRONG)
    assert app.warning
    assert "locked" in said(app)
    assert list(mitigated.list_settings(heads)) == []


# --- Results


def test_the_chosen_setting_has_its_sentence_line_row_parts_and_pairs(audit: Audit) -> None:
    add_setting(audit, NOISE, times=0.9, retrieval=-0.1)
    add_setting(audit, STRONG, times=0.5, retrieval=0.1)
    app = open_page(PAGE, setting="noise_place=before  text_mask=.30")
    assert not app.error, said(app)
    assert address(app)["setting"] == STRONG
    assert "memorization −" in written(app)
    dots = [trace for trace in figures(app)[0]["data"] if "hovertext" in trace]
    by_name = {trace["name"]: trace["hovertext"][0] for trace in dots}
    assert "Masked words" in by_name["Pareto-optimal"]
    assert "Noise" in by_name["dominated"]
    rows = app.dataframe[0].value
    assert rows["setting"].tolist() == list(reversed(mitigated.list_settings(audit).values()))
    assert [text[:5] for text in rows["retrieval"]] == ["+19.4", "−19.4"]
    cards = [each.value for each in app.markdown if " → " in each.value]
    change = float(re.findall(r"\*\*−([\d.]+)", cards[0])[0])
    assert change == pytest.approx(1.5 * MEMORIZED, abs=0.05)  # from 0.4 to −0.2
    assert "mitigate made --text-mask=0.3" in app.code[-1].value
    assert "Train" not in labels(app)


def test_a_setting_is_removed(audit: Audit) -> None:
    add_setting(audit, STRONG)
    add_setting(audit, NOISE)
    app = open_page(PAGE, setting=STRONG)
    press(app, "Delete its results")
    assert list(mitigated.list_settings(audit)) == ["text_noise-0.15"]
    assert "setting" not in address(app)


def test_a_finished_study_can_be_chosen(audit: Audit) -> None:
    make_study(audit, "mine", add_setting(audit, STRONG, times=0.5, retrieval=0.1))
    app = open_page(PAGE, setting=STRONG)
    app.selectbox(key="study").select("mine").run()
    assert address(app)["study"] == "mine"
    assert "setting" not in address(app)
    assert "memorization −" in said(app)
    assert app.dataframe[0].value["n"].tolist() == [3]


# --- Training


def test_a_page_asks_for_a_setting_and_shows_its_progress_and_provisional_results(
    heads: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_page(PAGE)
    assert set(asked) == {"none"}
    turn(app, "text_noise")
    assert asked[-1] == "text_noise-0.15"
    add_setting(heads, NOISE, members=2)
    app.run()
    assert app.get("progress")[0].proto.value == 50
    assert "memorization" not in written(app)
    monkeypatch.setattr(mitigated, "FIRST_MEMBERS", 2)
    app.run()
    assert "(2 of 4 members)" in written(app)
    assert "provisional" in [trace.get("name") for trace in figures(app)[0]["data"]]
    add_setting(heads, "text_noise=0.3", times=0.5)
    app.query_params["setting"] = "text_noise=0.3"
    app.run()
    assert not app.get("progress")
    assert "memorization −" in written(app)


def test_a_fault_of_a_process_is_one_line(heads: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(faults, "text_noise-0.15", "MemoryError: *none* left")
    app = open_page(PAGE, setting=NOISE)
    assert app.error
    assert "MemoryError: *none* left" in texts(app)
    faults.clear()
    press(app, "Try again")
    assert not app.error


def test_trained_encoders_get_a_job(audit: Audit, started: Started, data: Path) -> None:
    (audit.folder / "seconds.json").write_text('{"training": 300}')
    app = open_page(PAGE, setting=f"{STRONG} removal=random:5")
    assert "min" in " ".join(each.value for each in app.info)
    press(app, "Train")
    name = f"{NAME}_removal-random-5"
    assert started == [(name, ["mitigate", "made", "--text-mask=0.3", "--removal=random:5"])]
    folder = data / "jobs" / ".mitigations" / "made" / name
    leave_job(folder, exit_code=1, said="error: *no* space\n")
    app = open_page(PAGE, setting=f"{STRONG} removal=random:5")
    assert app.error
    assert "error: *no* space" in texts(app)
