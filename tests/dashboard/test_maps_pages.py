import json
import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.jobs import Job, Task
from clipmem_core.audits.store import Audit, write_json, write_manifest, write_table
from clipmem_core.dashboard import maps as shown_maps
from clipmem_core.dashboard.maps import as_linked, drawn_outline
from clipmem_core.review import maps, overview
from clipmem_core.review.maps import make_map, map_name, map_path
from clipmem_core.review.selection import Outline, Selection, to_parameters
from tests.dashboard.test_pages import ROOT, address, captions, open_page, texts
from tests.dashboard.test_reviewing import mounted
from tests.fixtures import HOSTILE, Copy
from tests.fixtures import leave_job as leave_job_in
from tests.review.embedded import embed

EMBEDDINGS = "pages/embeddings.py"


@pytest.fixture
def audit(copy: Copy) -> Audit:
    """A finished audit with embeddings."""
    audit = copy()
    embed(audit)
    write_manifest(audit.folder)
    return audit


@pytest.fixture
def drawn(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Draw the first member's map of pictures, its places the first two numbers of the embeddings."""
    monkeypatch.setattr(maps, "lay_out", lambda vectors, *, say: vectors[:, :2])
    make_map(audit, map_name("r0-f0", "image"))
    return []


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Catch the maps that the page starts to draw."""
    names: list[str] = []
    monkeypatch.setattr(Task, "start", lambda task: names.append(task.arguments[-1]))
    return names


@pytest.fixture
def shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw a shape around a quarter of the plane on every chart; AppTest has no mouse."""

    def quarter(event: object, x: str, y: str) -> Outline:
        return Outline(x, y, ((0.0, 0.0), (9.0, 0.0), (9.0, 9.0), (0.0, 9.0)))

    monkeypatch.setattr(shown_maps, "drawn_outline", quarter)


def leave_job(audit: Audit, name: str, *, exit_code: int | None, output: str = "") -> None:
    leave_job_in(maps.map_task(audit, name).folder, exit_code=exit_code, said=output)


def charts(app: AppTest) -> list[dict]:
    """The figures of the page that pairs can be chosen on."""
    figures = [json.loads(element.proto.spec) for element in app.get("plotly_chart")]
    return [figure for figure in figures if figure["layout"].get("dragmode") == "lasso"]


def trace_names(app: AppTest) -> list[str]:
    return [trace["name"] for trace in charts(app)[0]["data"] if "name" in trace]


def test_the_overview_has_the_map_of_scores_and_keeps_its_colour_in_the_address(copy: Copy) -> None:
    copy()
    app = open_page(colour="planted")
    assert trace_names(app) == ["not planted", "miscaption"]
    assert "one in twenty above the horizontal one" in captions(app)
    assert "Independent" not in captions(app)
    app.segmented_control(key="map-colour").select("group").run()
    assert address(app)["colour"] == "group"
    assert trace_names(app) == ["external", "scored"]


def test_a_thinned_map_says_so_and_has_no_choice_of_colours_where_nothing_was_planted(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = copy()
    write_table(audit.folder / "pairs.parquet", audit.pairs.assign(planted=None))
    monkeypatch.setattr(overview, "LIMIT", 30)
    shown_maps._loaded.clear()
    app = open_page(colour="planted")
    assert charts(app)[0]["data"][0]["type"] == "heatmap"
    assert "Points are 30 of 100 pairs, drawn at random" in captions(app)
    assert "planted" not in " ".join(trace_names(app))
    assert not app.segmented_control
    shown_maps._loaded.clear()


@pytest.mark.usefixtures("shape")
def test_a_shape_on_the_map_of_scores_opens_its_pairs_in_browse(copy: Copy) -> None:
    scores = copy().scores
    inside = int(((scores["similarity_out"] > 0) & (scores["clipmem"] > 0)).sum())
    app = open_page()
    button = app.button(key="score-map-made-open")
    assert button.label == f"Open {inside} pairs in Browse"
    button.click().run()
    assert address(app)["outline"] == "similarity_out:clipmem:0:0:9:0:9:9:0:9"
    assert address(app)["audit"] == "made"


def test_without_a_map_a_button_builds_it_and_nothing_is_said_of_how_long_it_takes(
    audit: Audit, started: list[str]
) -> None:
    app = open_page(EMBEDDINGS, member="r1-f0", side="text")
    assert app.info[0].value.startswith("No map yet.")
    assert app.button[0].label == "Build the map"
    app.button[0].click().run()
    assert started == ["r1-f0.text"]


def test_while_a_map_is_built_the_page_says_at_which_stage_and_for_how_long(
    audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_job(audit, "r0-f0.image", exit_code=None, output="loading UMAP\nplacing 100 pairs\n")
    monkeypatch.setattr(Job, "running", property(lambda job: True))
    monkeypatch.setattr(Job, "age", 83.2)
    app = open_page(EMBEDDINGS)
    (told,) = [text for text in texts(app) if "placing 100 pairs" in text]
    assert "1 min 23 s" in told
    assert not app.button


def test_a_map_that_failed_says_why_and_can_be_tried_again(audit: Audit, started: list[str]) -> None:
    leave_job(audit, "r0-f0.image", exit_code=2, output=f"{HOSTILE[2]}\n")
    app = open_page(EMBEDDINGS)
    assert app.error
    assert HOSTILE[2] in texts(app)
    app.button[0].click().run()
    assert started == ["r0-f0.image"]


@pytest.mark.usefixtures("drawn")
def test_member_side_and_colour_are_kept_in_the_address_and_odd_ones_passed_over(
    audit: Audit, drawn: list[int]
) -> None:
    for odd in ("../../x", "<b>", ""):
        assert trace_names(open_page(EMBEDDINGS, member=odd, side=odd, colour=odd)) == ["clipmem"]
    app = open_page(EMBEDDINGS, colour="label")
    assert sorted(trace_names(app)) == ["circle", "square", "triangle"]
    app.selectbox(key="map-colour").select("misfit").run()
    assert address(app)["colour"] == "misfit"
    assert trace_names(app) == ["no misfit", "misfit"]
    app.selectbox(key="map-member").select("r1-f1").run()
    app.selectbox(key="map-side").select("text").run()
    assert (address(app)["member"], address(app)["side"]) == ("r1-f1", "text")
    assert not charts(app)
    write_table(audit.folder / "pairs.parquet", audit.pairs.assign(label=HOSTILE[0]))
    (name,) = trace_names(open_page(EMBEDDINGS, colour="label"))
    assert "<" not in name


@pytest.mark.usefixtures("drawn", "shape")
def test_a_shape_on_a_map_of_embeddings_opens_its_pairs_in_browse(audit: Audit) -> None:
    table = pd.read_parquet(map_path(audit, "r0-f0.image"))
    inside = int(((table["map_x"] > 0) & (table["map_y"] > 0)).sum())
    app = open_page(EMBEDDINGS)
    button = app.button(key="embeddings-r0-f0.image-open")
    assert button.label == f"Open {inside} pairs in Browse"
    strip = next(given for given in mounted(app) if "cards" in given)
    assert len(strip["cards"]) == min(inside, 24)
    button.click().run()
    assert address(app)["map"] == "r0-f0.image"
    assert address(app)["outline"] == "map_x:map_y:0:0:9:0:9:9:0:9"


@pytest.mark.usefixtures("drawn")
def test_a_clicked_point_shows_its_pair_and_those_around_it(audit: Audit) -> None:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
    app.switch_page(EMBEDDINGS)
    app.session_state["embeddings-r0-f0.image-clicked"] = (7, None)
    app.run()
    assert not app.exception
    rows = [card["row"] for card in next(given for given in mounted(app) if "cards" in given)["cards"]]
    table = pd.read_parquet(map_path(audit, "r0-f0.image"))
    places = table[["map_x", "map_y"]] / (table[["map_x", "map_y"]].max() - table[["map_x", "map_y"]].min())
    distances = ((places - places.loc[7]) ** 2).sum(axis=1)
    assert rows[0] == 7
    assert set(rows) == set(distances.nsmallest(12).index)


@pytest.mark.usefixtures("drawn")
def test_what_is_missing_or_does_not_fit_is_one_line(audit: Audit) -> None:
    write_table(audit.folder / "pairs.parquet", audit.pairs.iloc[:50])
    assert "list other pairs" in texts(open_page(EMBEDDINGS, colour="label"))[-1]
    (audit.member("r1-f0") / "image.npy").unlink()
    app = open_page(EMBEDDINGS, member="r1-f0")
    assert app.error[0].value == "This audit cannot be shown."
    assert "image.npy is missing" in texts(app)[-1]
    write_json(audit.folder / "config.json", audit.record.values | {"members": None})
    assert "config.json: members is wrong" in texts(open_page(EMBEDDINGS))[-1]


SQUARE = {"x": [0.0, 1.0, 1.0, 0.0], "y": [0.0, 0.0, 1.0, 1.0]}


def event(*, box: list | None = None, lasso: list | None = None) -> dict:
    return {"selection": {"points": [], "point_indices": [], "box": box or [], "lasso": lasso or []}}


def test_the_outline_is_the_last_lasso_or_box_and_a_click_is_none() -> None:
    corners = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
    other = {"x": [5.0, 6.0, 6.0], "y": [5.0, 5.0, 6.0]}
    assert drawn_outline(event(lasso=[other, SQUARE]), "map_x", "map_y") == Outline("map_x", "map_y", corners)
    drawn = drawn_outline(event(box=[{"x": [0.5, 0.1], "y": [0.2, 0.9]}]), "se", "clipmem")
    assert drawn == Outline("se", "clipmem", ((0.1, 0.2), (0.5, 0.2), (0.5, 0.9), (0.1, 0.9)))
    for nothing in (event(), {}, event(lasso=[{"x": [1.0], "y": [1.0]}])):
        assert drawn_outline(nothing, "similarity_out", "clipmem") is None


@settings(max_examples=20)
@given(st.integers(3, 400), st.floats(1e-3, 1e3))
def test_what_is_counted_is_what_the_address_says(corners: int, scale: float) -> None:
    angles = [2 * math.pi * place / corners for place in range(corners)]
    outline = Outline("map_x", "map_y", tuple((scale * math.cos(a), scale * math.sin(a)) for a in angles))
    linked = as_linked(Selection(outline=outline, map="m0.image"))
    assert linked.outline is not None
    assert to_parameters(as_linked(linked)) == to_parameters(linked)
    assert as_linked(linked) == linked
