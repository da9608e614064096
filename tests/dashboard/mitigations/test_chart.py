"""The chart of the page Mitigations."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import Audit, write_json, write_table
from clipmem_core.dashboard.mitigations import chart
from clipmem_core.dashboard.mitigations.chart import Against, against_of, lines_of, paper_of
from clipmem_core.dashboard.mitigations.study_data import points_of
from clipmem_core.studies.store import ARMS, STUDY, StudyFolder
from tests.dashboard.test_maps_pages import address, captions
from tests.dashboard.test_pages import figures, open_page, texts
from tests.made_arms import make_arms

PAGE = "pages/mitigations.py"
Copy = Callable[..., Audit]


def open_study(study: StudyFolder, **parameters: str) -> AppTest:
    app = open_page(PAGE, study=study.name, **parameters)
    assert not app.error, [text for text in texts(app) if "/" in text]
    return app


def drawn(app: AppTest) -> dict[str, Any]:
    return figures(app)[0]


def names(app: AppTest) -> list[str]:
    return [trace["name"] for trace in drawn(app)["data"] if "name" in trace]


def test_every_arm_is_in_the_chart_and_the_study_has_its_say(data: Path) -> None:
    study = make_arms(data)
    app, arms = open_study(study), study.arms["arm"].nunique()
    dots = [trace for trace in drawn(app)["data"] if trace.get("customdata")]
    assert sum(len(trace["customdata"]) for trace in dots) == arms
    assert "95 % interval over 3 training seeds of one split" in captions(app)
    assert any(text.startswith("The aim (at least 25\u00a0% less") for text in texts(app))
    spoken = app.get("plotly_chart")[0].proto.alt
    assert spoken.startswith(f"retrieval against clipmem of {arms} arms. none: clipmem 0.3")
    assert "Arms that no other beats, from the least memorized: adaptive-rest" in spoken


def test_the_measures_are_in_the_address(data: Path) -> None:
    app = open_study(make_arms(data), memorization="membership_auroc", utility="zero_shot")
    layout = drawn(app)["layout"]
    assert layout["xaxis"]["title"]["text"] == "← less memorized · membership AUROC"
    assert layout["yaxis"]["title"]["text"] == "zero-shot · more useful →"
    app.selectbox(key="mitigation-utility").select("linear_probe").run()
    assert address(app)["utility"] == "linear_probe"
    assert "linear probe" in drawn(app)["layout"]["yaxis"]["title"]["text"]


def test_measures_without_a_value_and_nonsense_are_passed_over(data: Path) -> None:
    study = make_arms(data)
    write_table(study.folder / ARMS, study.arms.drop(columns=["zero_shot", "linear_probe"]))
    app = open_study(study, utility="zero_shot", memorization="<b>", figure="none", paper="yes")
    assert app.selectbox(key="mitigation-utility").options == ["retrieval"]
    assert "retrieval" in drawn(app)["layout"]["yaxis"]["title"]["text"]


def test_the_chosen_arm_has_its_arrow(data: Path) -> None:
    app = open_study(make_arms(data), setting="text_mask=0.3")
    arrows = [note for note in drawn(app)["layout"]["annotations"] if note["showarrow"]]
    assert len(arrows) == 1
    assert "text-mask-strong: clipmem" in app.get("plotly_chart")[0].proto.alt


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
    assert "2 so far: too few for an interval" in captions(open_study(make_arms(data, seeds=2)))
    mixed = make_arms(data, name="mixed", seeds={"none": 4, "text-mask": 3, "early-stop": 1})
    assert "over 3 to 4 training seeds of one split; those with fewer than 3 have none" in captions(open_study(mixed))


def test_a_bar_that_is_cut_is_said_to_be(data: Path) -> None:
    study = make_arms(data)
    assert "is cut at the edge" not in captions(open_study(study))
    rows = study.arms
    rows.loc[(rows["arm"] == "text-mask") & (rows["seed"] == 1), "clipmem_candidate"] = 3.0
    write_table(study.folder / ARMS, rows)
    assert "is cut at the edge" in captions(open_study(study))


def test_before_none_is_done_the_arms_are_drawn_all_the_same(data: Path) -> None:
    app = open_study(make_arms(data, seeds={"text-mask": 3, "early-stop": 3}))
    assert "none" not in names(app)
    assert "arm that no other beats" in names(app)


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


def test_a_click_on_a_dot_chooses_its_setting_once(written: dict[str, str | int | None]) -> None:
    chart._click("chart", 4, ["", "text_mask=0.3"])
    assert written == {"setting": "text_mask=0.3", "page": None}
    written.clear()
    chart._click("chart", 4, ["", "text_mask=0.3"])  # the browser says it again
    assert not written


def test_a_click_on_none_takes_the_setting_away(written: dict[str, str | int | None]) -> None:
    chart._click("chart", 4, ["text_mask=0.3", ""])
    assert written == {"setting": None, "page": None}


def test_an_arm_that_no_setting_says_cannot_be_chosen(written: dict[str, str | int | None]) -> None:
    chart._click("chart", 4, ["", None])
    chart._click("chart", 4, [""])
    assert not written


@pytest.mark.parametrize(
    "event",
    [None, {}, {"selection": None}, {"selection": {"points": [{}]}}, {"selection": {"points": []}}]
    + [{"selection": {"points": [{"customdata": [None, "the paper"]}]}}],
)
def test_no_arm_no_choice(event: dict[str, Any] | None) -> None:
    assert chart._clicked(event) is None


def against(study: StudyFolder) -> Against:
    found = against_of(study, list(dict.fromkeys(study.arms["arm"])))
    assert found is not None
    return found


def places(found: Against, line: str = "") -> dict[str, float]:
    rows = found.places[found.places["line"] == line]
    return dict(zip(rows["arm"], rows["place"], strict=True))


def test_captions_go_from_one_to_all(data: Path) -> None:
    found = against(make_arms(data, "captions", captions=7))
    assert places(found) == {"none": 1, "captions-2": 2, "captions-3": 3, "captions-4": 4, "captions-5": 5} | {
        "captions-all": 6
    }
    assert found.ticks == {1: "1", 2: "2", 3: "3", 4: "4", 5: "5", 6: "all"}


def test_noise_begins_at_none(data: Path) -> None:
    found = against(make_arms(data, "text-noise"))
    assert places(found)["none"] == 0
    assert places(found)["text-noise-0.15"] == 0.15
    assert "σ" in found.title


def test_each_ranking_is_a_line_that_begins_at_none(data: Path) -> None:
    study = make_arms(data, "removal")
    found = against(study)
    assert set(found.places["line"]) == {"clipmem", "similarity_in", "random"}
    assert places(found, "random") == {
        "none": 0,
        "random-50": pytest.approx(50**0.5),
        "random-100": 10,
        "random-200": pytest.approx(200**0.5),
        "random-400": 20,
        "random-800": pytest.approx(800**0.5),
    }
    assert found.ticks[10] == "100"
    lines = lines_of(found, points_of(study, "clipmem_candidate", "retrieval"))
    assert sorted(set(lines["line"])) == ["at random", "highest clipmem", "lowest similarity, models trained on them"]
    assert (lines["arm"] == "none").sum() == 3


def test_arms_that_change_more_than_the_setting_are_left_out(data: Path) -> None:
    found = against(make_arms(data, captions=1))
    assert found.field == "text_mask"
    assert places(found) == {"none": 0, "text-mask": 0.15, "text-mask-strong": 0.3}


@pytest.mark.parametrize("seeds", [{"none": 3, "text-mask": 3}, {"text-mask": 3, "text-mask-strong": 3}])
def test_with_too_few_arms_or_without_none_there_is_no_line(data: Path, seeds: dict[str, int]) -> None:
    study = make_arms(data, captions=1, seeds=seeds)
    assert against_of(study, list(seeds)) is None


def ours(memorization: float, utility: float) -> pd.DataFrame:
    return pd.DataFrame({"arm": ["none"], "memorization": [memorization], "utility": [utility]})


def test_the_paper_is_taken_relative_to_its_own_none(data: Path) -> None:
    paper = paper_of(make_arms(data, "captions"), ours(0.3, 0.5), "clipmem_candidate")
    assert paper is not None
    assert paper["place"].tolist() == [1, 2, 3, 4, 5]
    first, last = paper.iloc[0], paper.iloc[-1]
    assert (first["memorization"], first["utility"]) == (pytest.approx(0.3), pytest.approx(0.5))
    assert last["memorization"] == pytest.approx(0.3 * 0.422 / 0.438)
    assert last["utility"] == pytest.approx(0.5 * 64.88 / 63.11)
    assert last["band"] == pytest.approx(0.5 * 0.85 / 63.11)
    assert last["told"] == [
        "the paper",
        "captions a pair that are trained on: 5",
        "CLIPMem 0.422, over its run's range",
        "linear probe on ImageNet 64.88 % ± 0.85",
    ]


def test_of_removal_the_paper_shows_utility_alone(data: Path) -> None:
    paper = paper_of(make_arms(data, "removal"), ours(0.3, 0.5), "clipmem_candidate")
    assert paper is not None
    assert paper["memorization"].isna().all()
    best = paper[(paper["line"] == "highest clipmem") & (paper["value"] == "100")].iloc[0]
    assert best["place"] == 10
    assert best["utility"] == pytest.approx(0.5 * 66.4 / 63.1)
    assert (paper["place"] == 0).sum() == 3


def test_the_paper_knows_no_auroc_and_nothing_of_own_studies(data: Path) -> None:
    study = make_arms(data, "captions")
    paper = paper_of(study, ours(0.3, 0.5), "membership_auroc")
    assert paper is not None
    assert paper["memorization"].isna().all()
    assert paper_of(make_arms(data, "combined"), ours(0.3, 0.5), "clipmem_candidate") is None
    assert paper_of(study, ours(0.3, 0.5).iloc[:0], "clipmem_candidate") is None
    assert math.isfinite(paper["utility"].sum())
