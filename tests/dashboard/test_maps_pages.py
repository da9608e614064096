import json
from collections.abc import Callable

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.jobs import Job, Task
from clipmem_core.audits.store import Audit, write_json, write_manifest, write_table
from clipmem_core.dashboard import map_of_embeddings, map_of_scores, map_selection
from clipmem_core.review import map_jobs, maps, score_map
from clipmem_core.review.maps import make_map, map_name, map_path
from clipmem_core.review.selection import Outline
from tests.dashboard.test_pages import open_page, texts
from tests.made_audit import HOSTILE
from tests.review.embedded import embed

Copy = Callable[..., Audit]
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
    monkeypatch.setattr(Task, "start", lambda task: names.append(task.command[-1]))
    return names


@pytest.fixture
def shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw a shape around a quarter of the plane on every chart; AppTest has no mouse."""

    def quarter(event: object, x: str, y: str) -> Outline:
        return Outline(x, y, ((0.0, 0.0), (9.0, 0.0), (9.0, 9.0), (0.0, 9.0)))

    monkeypatch.setattr(map_selection, "drawn_outline", quarter)


def leave_job(audit: Audit, name: str, *, exit_code: int | None, output: str = "") -> None:
    folder = map_jobs.map_task(audit, name).folder
    folder.mkdir(parents=True)
    write_json(folder / "job.json", {"pid": 1, "started": None, "command": ["python"]})
    (folder / "output.log").write_text(output)
    if exit_code is not None:
        (folder / "exit_code").write_text(f"{exit_code}\n")


def charts(app: AppTest) -> list[dict]:
    """The figures of the page that pairs can be chosen on."""
    figures = [json.loads(element.proto.spec) for element in app.get("plotly_chart")]
    return [figure for figure in figures if figure["layout"].get("dragmode") == "lasso"]


def trace_names(app: AppTest) -> list[str]:
    return [trace["name"] for trace in charts(app)[0]["data"] if "name" in trace]


def address(app: AppTest) -> dict[str, str]:
    return {name: value if isinstance(value, str) else value[-1] for name, value in app.query_params.items()}


def captions(app: AppTest) -> str:
    return "\n".join(element.value for element in app.caption)


def test_the_overview_has_the_map_of_scores(copy: Copy) -> None:
    copy()
    app = open_page()
    assert trace_names(app) == ["external", "scored"]
    assert "one in twenty above the horizontal one" in captions(app)
    assert "Independent" not in captions(app)


def test_in_the_papers_protocol_the_lower_corners_are_explained(copy: Copy) -> None:
    copy("paper")
    app = open_page()
    assert trace_names(app) == ["external", "shared", "independent", "candidate"]
    assert "Independent pairs were learned by g, which is subtracted" in captions(app)


def test_the_colour_of_the_map_is_kept_in_the_address(copy: Copy) -> None:
    copy()
    app = open_page(colour="planted")
    assert trace_names(app) == ["not planted", "miscaption"]
    app.segmented_control(key="map-colour").select("group").run()
    assert address(app)["colour"] == "group"
    assert trace_names(app) == ["external", "scored"]


def test_without_planted_pairs_there_is_no_choice_of_colours(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "pairs.parquet", audit.pairs.assign(planted=None))
    app = open_page(colour="planted")
    assert trace_names(app) == ["external", "scored"]
    assert not app.segmented_control


def test_a_thinned_map_says_so_and_counts_all_pairs_behind_it(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    copy()
    monkeypatch.setattr(score_map, "LIMIT", 30)
    map_of_scores._loaded.clear()
    app = open_page()
    assert charts(app)[0]["data"][0]["type"] == "heatmap"
    assert "Points are 30 of 100 pairs, drawn at random" in captions(app)
    map_of_scores._loaded.clear()


def test_a_map_without_a_pair_is_told(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "scores.parquet", audit.scores.assign(similarity_out=float("nan")))
    app = open_page()
    assert app.info[0].value == "No pair has both similarity out and clipmem."
    assert not charts(app)


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


def test_a_shape_around_nothing_is_told(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    copy()
    far = Outline("similarity_out", "clipmem", ((90.0, 90.0), (91.0, 90.0), (91.0, 91.0)))
    monkeypatch.setattr(map_selection, "drawn_outline", lambda event, x, y: far)
    assert "No pair lies inside." in captions(open_page())


def test_without_a_map_a_button_says_how_long_it_takes_and_starts_it(audit: Audit, started: list[str]) -> None:
    app = open_page(EMBEDDINGS, member="r1-f0", side="text")
    assert app.info[0].value.startswith("These embeddings have no map yet.")
    assert app.button[0].label == "Draw the map (about 11 s)"
    app.button[0].click().run()
    assert started == ["r1-f0.text"]


def test_while_a_map_is_drawn_the_page_says_how_far_it_is(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_job(audit, "r0-f0.image", exit_code=None, output="loading UMAP\nfinding neighbours\n")
    monkeypatch.setattr(Job, "running", property(lambda job: True))
    app = open_page(EMBEDDINGS)
    assert "finding neighbours" in texts(app)
    assert "s of about 11 s" in app.get("progress")[0].proto.text
    assert not app.button


def test_a_map_that_takes_longer_than_usual_does_not_say_that_it_is_83_s_of_11(
    audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_job(audit, "r0-f0.image", exit_code=None, output="finding neighbours\n")
    monkeypatch.setattr(Job, "running", property(lambda job: True))
    monkeypatch.setattr(map_of_embeddings, "seconds_running", lambda job: 83.2)
    assert open_page(EMBEDDINGS).get("progress")[0].proto.text == "83 s so far; it usually takes about 11 s"


def test_a_map_that_failed_says_why_and_can_be_tried_again(audit: Audit, started: list[str]) -> None:
    leave_job(audit, "r0-f0.image", exit_code=2, output=f"{HOSTILE[2]}\n")
    app = open_page(EMBEDDINGS)
    assert "exit code 2" in app.error[0].value
    assert HOSTILE[2] in texts(app)
    app.button[0].click().run()
    assert started == ["r0-f0.image"]


@pytest.mark.usefixtures("drawn")
def test_a_map_is_coloured_by_what_the_address_asks_for(audit: Audit) -> None:
    app = open_page(EMBEDDINGS)
    assert trace_names(app) == ["clipmem"]
    app = open_page(EMBEDDINGS, colour="label")
    assert sorted(trace_names(app)) == ["circle", "square", "triangle"]
    app.selectbox(key="map-colour").select("misfit").run()
    assert address(app)["colour"] == "misfit"
    assert trace_names(app) == ["no misfit", "misfit"]


@pytest.mark.usefixtures("drawn")
def test_member_and_side_are_kept_in_the_address(audit: Audit) -> None:
    app = open_page(EMBEDDINGS)
    app.selectbox(key="map-member").select("r1-f1").run()
    app.selectbox(key="map-side").select("text").run()
    assert address(app)["member"] == "r1-f1"
    assert address(app)["side"] == "text"
    assert not charts(app)


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("odd", ["absent", "../../x", "<b>", ""])
def test_odd_parameters_are_passed_over(audit: Audit, odd: str) -> None:
    app = open_page(EMBEDDINGS, member=odd, side=odd, colour=odd)
    assert trace_names(app) == ["clipmem"]


@pytest.mark.usefixtures("drawn", "shape")
def test_a_shape_on_a_map_of_embeddings_opens_its_pairs_in_browse(audit: Audit) -> None:
    table = pd.read_parquet(map_path(audit, "r0-f0.image"))
    inside = int(((table["map_x"] > 0) & (table["map_y"] > 0)).sum())
    app = open_page(EMBEDDINGS)
    button = app.button(key="embeddings-r0-f0.image-open")
    assert button.label == f"Open {inside} pairs in Browse"
    button.click().run()
    assert address(app)["map"] == "r0-f0.image"
    assert address(app)["outline"] == "map_x:map_y:0:0:9:0:9:9:0:9"


def test_pairs_that_are_not_on_the_map_are_told(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "LIMIT", 40)
    monkeypatch.setattr(maps, "lay_out", lambda vectors, *, say: vectors[:, :2])
    make_map(audit, "r0-f0.image")
    assert "40 of the 100 pairs were drawn at random" in captions(open_page(EMBEDDINGS))


def test_labels_of_others_are_escaped_on_the_map(audit: Audit, drawn: list[int]) -> None:
    write_table(audit.folder / "pairs.parquet", audit.pairs.assign(label=HOSTILE[0]))
    (name,) = trace_names(open_page(EMBEDDINGS, colour="label"))
    assert "<" not in name


def test_missing_embeddings_are_one_line(audit: Audit) -> None:
    (audit.member("r0-f0") / "image.faiss").unlink()
    app = open_page(EMBEDDINGS)
    assert app.error[0].value == "This audit cannot be shown."
    assert "image.faiss is missing" in texts(app)[-1]


@pytest.mark.usefixtures("drawn")
def test_tables_that_do_not_fit_a_map_are_told(audit: Audit) -> None:
    write_table(audit.folder / "pairs.parquet", audit.pairs.iloc[:50])
    app = open_page(EMBEDDINGS, colour="label")
    assert "list other pairs" in texts(app)[-1]


def test_an_audit_that_names_no_members_says_so(audit: Audit) -> None:
    write_json(audit.folder / "config.json", audit.record.values | {"members": None})
    assert "config.json: members is wrong" in texts(open_page(EMBEDDINGS))[-1]
