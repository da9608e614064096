"""The maps of scores and of embeddings: their colours, the pairs selected on them, and how a map is
built."""

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.auditing.folder.store import Audit, write_manifest
from clipmem_core.auditing.tables import maps
from clipmem_core.auditing.tables.maps import make_map
from clipmem_core.dashboard import maps as page
from clipmem_core.dashboard.maps import drawn_outline
from clipmem_core.figures import embedding_figure
from clipmem_core.review.views import Outline
from tests.dashboard.conftest import Started
from tests.dashboard.test_pages import ROOT, address, open_page, press, texts
from tests.dashboard.test_reviewing import mounted
from tests.fixtures import HOSTILE, Copy, embed, leave_job

EMBEDDINGS = "pages/embeddings.py"
SIDE = "pictures"


@pytest.fixture
def audit(copy: Copy) -> Audit:
    """A finished audit with embeddings."""
    audit = copy()
    embed(audit)
    write_manifest(audit.folder)
    return audit


@pytest.fixture
def built(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Draw the map of pictures from the first two numbers of their embeddings."""
    monkeypatch.setattr(maps, "lay_out", lambda vectors: vectors[:, :2])
    return pd.read_parquet(make_map(audit, SIDE))


@pytest.fixture
def shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw a shape around a quarter of the plane on every chart; AppTest has no mouse."""

    def quarter(event: object, x: str, y: str) -> Outline:
        return Outline(x, y, ((0.0, 0.0), (9.0, 0.0), (9.0, 9.0), (0.0, 9.0)))

    monkeypatch.setattr(page, "drawn_outline", quarter)


@pytest.mark.usefixtures("shape")
@pytest.mark.parametrize(
    ("where", "key", "columns"),
    [
        ("pages/overview.py", "clipmem-made", ("similarity_out", "clipmem")),
        ("pages/encoders.py", "clipmem_text-made", ("clipmem_image", "clipmem_text")),
        (EMBEDDINGS, f"map-made-{SIDE}", ("map_x", "map_y")),
    ],
)
def test_a_shape_opens_its_pairs_in_browse(
    audit: Audit, built: pd.DataFrame, where: str, key: str, columns: tuple[str, str]
) -> None:
    x, y = columns
    table = built if x == "map_x" else audit.scores
    inside = int(((table[x] > 0) & (table[y] > 0)).sum())
    button = open_page(where, order="clipmem").button(key=f"{key}-open")
    assert button.label == f"Open {inside} pairs in Browse"
    assert address(button.click().run())["outline"] == f"{x}:{y}:0:0:9:0:9:9:0:9"


@pytest.mark.usefixtures("built")
def test_a_click_keeps_the_pairs_under_the_pointer() -> None:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
    app.switch_page(EMBEDDINGS)
    app.session_state[f"map-made-{SIDE}-kept"] = [7, 3]
    app.run()
    assert not app.exception
    assert [card["row"] for each in mounted(app) for card in each.get("cards", [])] == [7, 3]


def test_a_missing_map_is_drawn_without_a_click_and_one_that_failed_by_a_button(
    audit: Audit, started: Started
) -> None:
    open_page(EMBEDDINGS, side="captions")
    leave_job(maps.map_request(audit, SIDE).folder, exit_code=2, said=f"{HOSTILE[2]}\n")
    app = open_page(EMBEDDINGS)
    assert app.error
    assert HOSTILE[2] in texts(app)
    press(app, "Try again")
    assert [arguments[-1] for _, arguments in started] == ["captions", SIDE]


def test_the_outline_is_the_last_lasso() -> None:
    triangles = [{"x": [5.0, 6.0, low], "y": [5.0, 5.0, 6.0]} for low in (1.0, 2.0)]
    corners = ((5.0, 5.0), (6.0, 5.0), (2.0, 6.0))
    drawn = {"selection": {"lasso": triangles}}
    assert drawn_outline(drawn, "map_x", "map_y") == Outline("map_x", "map_y", corners)
    for lasso in ([], [{"x": [1.0], "y": [1.0]}]):
        assert drawn_outline({"selection": {"lasso": lasso}}, "map_x", "map_y") is None


def test_foreign_labels_of_a_map_are_escaped_and_cut() -> None:
    label = '<img src=x> & "%{x}"\n' + "x" * 100
    points = pd.DataFrame({"map_x": [0.0, 2.0], "map_y": 1.0, "row": [7, 8], "label": label})
    figure = embedding_figure(
        points.assign(region="<b>, x", listed=[True, False]), colour_by="label"
    )
    assert [each.text for each in figure.layout.annotations] == ["&lt;b&gt;<br>x"]
    trace = figure.data[1]
    assert trace.name.startswith('&lt;img src=x&gt; &amp; "%{x}" xxx')
    assert len(trace.name) < 60
    assert "img" not in trace.hovertemplate
    assert (list(trace.x), list(trace.customdata)) == ([0.0], [7])
