"""The chart of the page Mitigations."""

import json
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import write_json, write_table
from clipmem_core.dashboard.mitigations import chart
from clipmem_core.studies.store import ARMS, STUDY, StudyFolder
from tests.dashboard.test_maps_pages import address, captions
from tests.dashboard.test_pages import figures, open_page, texts
from tests.made_arms import make_arms

PAGE = "pages/mitigations.py"


def open_study(study: StudyFolder, **parameters: str) -> AppTest:
    app = open_page(PAGE, study=study.name, **parameters)
    assert not app.error, [text for text in texts(app) if "/" in text]
    return app


def drawn(app: AppTest) -> dict[str, Any]:
    return figures(app)[0]


def names(app: AppTest) -> list[str]:
    return [trace["name"] for trace in drawn(app)["data"] if "name" in trace]


def test_every_arm_is_in_the_chart_the_chosen_one_has_its_arrow_and_the_study_has_its_say(data: Path) -> None:
    study = make_arms(data)
    app, arms = open_study(study, setting="text_mask=0.3"), study.arms["arm"].nunique()
    dots = [trace for trace in drawn(app)["data"] if trace.get("customdata")]
    assert sum(len(trace["customdata"]) for trace in dots) == arms
    assert len([note for note in drawn(app)["layout"]["annotations"] if note["showarrow"]]) == 1
    assert "95 % interval over 3 training seeds of one split" in captions(app)
    assert "is cut at the edge" not in captions(app)
    assert any(text.startswith("The aim (at least 25\u00a0% less") for text in texts(app))
    spoken = app.get("plotly_chart")[0].proto.alt
    assert spoken.startswith(f"retrieval against clipmem of {arms} arms. none: clipmem 0.3")
    assert "text-mask-strong: clipmem" in spoken
    assert "Pareto-optimal, from the least memorized: adaptive-rest" in spoken
    rows = study.arms
    rows.loc[(rows["arm"] == "text-mask") & (rows["seed"] == 1), "clipmem_candidate"] = 3.0
    write_table(study.folder / ARMS, rows)
    assert "is cut at the edge" in captions(open_study(study))


def test_the_measures_are_in_the_address(data: Path) -> None:
    app = open_study(make_arms(data), memorization="membership_auroc", utility="zero_shot")
    layout = drawn(app)["layout"]
    assert layout["xaxis"]["title"]["text"] == "← less memorized · membership AUROC"
    assert layout["yaxis"]["title"]["text"] == "zero-shot · more useful →"
    app.selectbox(key="mitigation-utility").select("linear_probe").run()
    assert address(app)["utility"] == "linear_probe"
    assert "linear probe" in drawn(app)["layout"]["yaxis"]["title"]["text"]
    study = make_arms(data)
    write_table(study.folder / ARMS, study.arms.drop(columns=["zero_shot", "linear_probe"]))
    app = open_study(study, utility="zero_shot", memorization="<b>", figure="none", paper="yes")
    assert app.selectbox(key="mitigation-utility").options == ["retrieval"]
    assert "retrieval" in drawn(app)["layout"]["yaxis"]["title"]["text"]


def test_the_papers_curve_is_laid_over_and_said_to_be_rescaled(data: Path) -> None:
    study = make_arms(data, "captions")
    app = open_study(study)
    assert "the paper, rescaled" not in names(app)
    app.toggle(key="mitigation-paper").set_value(True).run()
    assert address(app)["paper"] == "1"
    assert "the paper, rescaled" in names(app)
    assert "multiplied by ours: only shapes compare" in captions(app)


@pytest.mark.parametrize(("plan", "memorization"), [("removal", "clipmem_candidate"), ("captions", "membership_auroc")])
def test_what_the_paper_does_not_show_cannot_be_laid_over(data: Path, plan: str, memorization: str) -> None:
    app = open_study(make_arms(data, plan), memorization=memorization, paper="1")
    assert "the paper, rescaled" not in names(app)
    assert "mitigation-paper" not in [toggle.key for toggle in app.toggle]


@pytest.mark.parametrize("plan", ["captions", "text-noise", "removal"])
def test_a_study_of_one_setting_is_drawn_against_it(data: Path, plan: str) -> None:
    app = open_study(make_arms(data, plan), figure="setting", paper="1")
    layout = drawn(app)["layout"]
    assert {"xaxis2", "yaxis2"} <= set(layout)
    assert "the paper, rescaled" in names(app)
    assert ("standard deviation there" in captions(app)) == (plan != "removal")
    ticks = layout["xaxis2"]["ticktext"]
    assert ticks[-1] == {"captions": "5", "text-noise": "0.3", "removal": "3200"}[plan]


def test_with_few_seeds_no_interval_is_claimed(data: Path) -> None:
    assert "over 2 seeds so far: too few for an interval" in captions(open_study(make_arms(data, seeds=2)))
    mixed = make_arms(data, name="mixed", seeds={"none": 4, "text-mask": 3, "early-stop": 1})
    assert "over 3 to 4 training seeds of one split; those with fewer than 3 have none" in captions(open_study(mixed))
    app = open_study(make_arms(data, seeds={"text-mask": 3, "early-stop": 3}))
    assert "none" not in names(app)
    assert "Pareto-optimal" in names(app)


def test_names_that_others_wrote_are_shown_as_they_are(data: Path) -> None:
    study, bad = make_arms(data), "<img src=x>[x](//evil.test)"
    arms = study.arms.replace({"arm": {"text-mask": bad}})
    write_table(study.folder / ARMS, arms)
    write_json(study.folder / STUDY, study.asked | {"arms": {arm: {} for arm in dict.fromkeys(arms["arm"])}})
    app = open_study(study)
    assert "<img" not in json.dumps(drawn(app))
    parsed = [element.value for kind in ("markdown", "caption") for element in app.get(kind)]
    assert not [value for value in parsed if "evil.test" in value]


CLICK = {"selection": {"points": [{"customdata": [1, "text"]}]}}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | int | None]:
    """What clicks write into the address; the session is a dict."""
    found: dict[str, str | int | None] = {}
    monkeypatch.setattr(chart, "write", lambda **others: found.update(others))
    monkeypatch.setattr(chart.st, "session_state", {"chart": CLICK, chart.CLICKS: 4})
    return found


def test_a_click_on_a_dot_chooses_its_setting_once_and_one_on_none_takes_it_away(
    written: dict[str, str | int | None],
) -> None:
    chart._click("chart", 4, ["", "text_mask=0.3"])
    assert written == {"setting": "text_mask=0.3", "page": None}
    written.clear()
    chart._click("chart", 4, ["", "text_mask=0.3"])  # the browser says it again
    assert not written
    chart._click("chart", 5, ["text_mask=0.3", ""])
    assert written == {"setting": None, "page": None}


def test_what_is_no_arm_or_no_setting_says_cannot_be_chosen(
    written: dict[str, str | int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    chart._click("chart", 4, ["", None])
    chart._click("chart", 4, [""])
    dots: list[object] = [None, [], [{}], [{"customdata": [None, "the paper"]}]]
    for event in (None, {}, {"selection": None}, *({"selection": {"points": found}} for found in dots)):
        monkeypatch.setitem(chart.st.session_state, "chart", event)
        chart._click("chart", 4, ["", "text_mask=0.3"])
    assert not written
