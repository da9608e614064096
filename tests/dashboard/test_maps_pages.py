"""The maps of scores and of embeddings: their colours, the pairs selected on them, and how a map is
built."""

from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audit.status import Task
from clipmem_core.audit.store import Audit, write_manifest
from clipmem_core.dashboard import maps as page
from clipmem_core.dashboard.maps import drawn_outline
from clipmem_core.review import maps
from clipmem_core.review.maps import make_map, map_path
from clipmem_core.review.selection import Outline
from tests.dashboard.test_pages import ROOT, address, open_page, texts
from tests.dashboard.test_reviewing import mounted
from tests.fixtures import HOSTILE, Copy, embed, leave_job

EMBEDDINGS = "pages/embeddings.py"
NAME = "r0-f0.image"


@pytest.fixture
def audit(copy: Copy) -> Audit:
    """A finished audit with embeddings."""
    audit = copy()
    embed(audit)
    write_manifest(audit.folder)
    return audit


@pytest.fixture
def built(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Build the first member's map of pictures from the first two numbers of its embeddings."""
    monkeypatch.setattr(maps, "lay_out", lambda vectors: vectors[:, :2])
    make_map(audit, "r0-f0.image")
    return pd.read_parquet(map_path(audit, NAME))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The maps that the page starts to build."""
    names: list[str] = []
    monkeypatch.setattr(Task, "start", lambda task: names.append(task.arguments[-1]))
    return names


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
        ("pages/overview.py", "score-map-made", ("similarity_out", "clipmem")),
        ("pages/encoders.py", "contributions-made", ("clipmem_image", "clipmem_text")),
        (EMBEDDINGS, f"embeddings-{NAME}", ("map_x", "map_y")),
    ],
)
def test_a_shape_opens_its_pairs_in_browse(
    audit: Audit, built: pd.DataFrame, where: str, key: str, columns: tuple[str, str]
) -> None:
    x, y = columns
    table = built if x == "map_x" else audit.scores
    inside = int(((table[x] > 0) & (table[y] > 0)).sum())
    button = open_page(where).button(key=f"{key}-open")
    assert button.label == f"Open {inside} pairs in Browse"
    assert address(button.click().run())["outline"] == f"{x}:{y}:0:0:9:0:9:9:0:9"


@pytest.mark.usefixtures("built")
def test_a_clicked_point_shows_its_pair() -> None:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
    app.switch_page(EMBEDDINGS)
    app.session_state[f"embeddings-{NAME}-clicked"] = (7, None)
    app.run()
    assert not app.exception
    assert [card["row"] for each in mounted(app) for card in each.get("cards", [])] == [7]


def test_a_map_that_is_missing_or_failed_is_built_by_a_button(
    audit: Audit, started: list[str]
) -> None:
    app = open_page(EMBEDDINGS, member="r1-f0", side="text")
    assert app.info
    app.button[0].click().run()
    leave_job(maps.map_task(audit, NAME).folder, exit_code=2, said=f"{HOSTILE[2]}\n")
    app = open_page(EMBEDDINGS)
    assert app.error
    assert HOSTILE[2] in texts(app)
    app.button[0].click().run()
    assert started == ["r1-f0.text", NAME]


def test_the_outline_is_the_last_lasso_or_box() -> None:
    square = {"x": [0.0, 1.0, 1.0, 0.0], "y": [0.0, 0.0, 1.0, 1.0]}
    triangle = {"x": [5.0, 6.0, 6.0], "y": [5.0, 5.0, 6.0]}

    def drawn(**shapes: Any) -> Outline | None:
        return drawn_outline({"selection": {"box": [], "lasso": []} | shapes}, "map_x", "map_y")

    corners = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
    assert drawn(lasso=[triangle, square]) == Outline("map_x", "map_y", corners)
    rectangle = drawn(box=[{"x": [0.5, 0.1], "y": [0.2, 0.9]}])
    assert rectangle == Outline("map_x", "map_y", ((0.1, 0.2), (0.5, 0.2), (0.5, 0.9), (0.1, 0.9)))
    assert drawn() is drawn(lasso=[{"x": [1.0], "y": [1.0]}]) is None
