"""The page Encoders: its pairs and means, and an address that makes no sense."""

from pathlib import Path

import numpy as np
import pytest

from clipmem_core.audits.store import write_json, write_table
from clipmem_core.dashboard import encoders as view
from clipmem_core.dashboard import maps
from clipmem_core.review import score_breakdown
from clipmem_core.review.selection import Outline
from tests.dashboard.test_every_page import said
from tests.dashboard.test_maps_pages import address, captions, charts, trace_names
from tests.dashboard.test_pages import figures, open_page
from tests.fixtures import HOSTILE, Copy
from tests.made_encoders import make_paradigms, make_study, make_units

PAGE = "pages/encoders.py"


@pytest.mark.parametrize("protocol", ["ensemble", "paper"])
def test_the_parts_are_drawn_pair_by_pair_and_as_means(copy: Copy, protocol: str) -> None:
    copy(protocol)
    app = open_page(PAGE)
    assert not app.error, said(app)
    assert len(figures(app)) == 3
    assert "mean cosine 0.88" in captions(app)
    assert "On external pairs, which no model memorized, the parts are" in captions(app)
    assert "standard errors over pairs" in captions(app)
    assert ("learned by g" in captions(app)) == (protocol == "paper")


def test_an_audit_whose_members_cannot_be_mapped_says_so(copy: Copy) -> None:
    audit = copy()
    write_json(audit.folder / "verdict.json", audit.verdict | {"encoders": {"fit": None, "missing": HOSTILE[0]}})
    write_table(audit.folder / "scores.parquet", audit.scores.assign(clipmem_image=np.nan, clipmem_text=np.nan))
    app = open_page(PAGE)
    assert not app.error, said(app)
    assert "no parts of the encoders; every other score is there" in app.warning[0].value
    assert "No pair has contributions of both encoders" in app.info[0].value


def test_colour_and_division_are_kept_in_the_address(copy: Copy) -> None:
    copy()
    app = open_page(PAGE, colour="planted", by="label")
    assert trace_names(app) == ["not planted", "miscaption"]
    assert "by label" in captions(app)
    app.segmented_control(key="encoder-colour").select("label").run()
    app.segmented_control(key="encoder-by").select("planted").run()
    assert (address(app)["colour"], address(app)["by"]) == ("label", "planted")
    assert set(trace_names(app)) == {"circle", "square", "triangle"}
    assert "planted with a known fault" in captions(app)


def test_a_thinned_map_says_so(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    copy()
    monkeypatch.setattr(score_breakdown, "LIMIT", 30)
    view._loaded.clear()
    app = open_page(PAGE)
    assert charts(app)[0]["data"][0]["type"] == "heatmap"
    assert "Drawn are 30 of 100 pairs" in captions(app)
    view._loaded.clear()


def test_a_shape_around_pairs_opens_them_in_browse(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = copy().scores

    def quarter(event: object, x: str, y: str) -> Outline:
        return Outline(x, y, ((0.0, 0.0), (9.0, 0.0), (9.0, 9.0), (0.0, 9.0)))

    monkeypatch.setattr(maps, "drawn_outline", quarter)
    inside = int(((scores["clipmem_image"] > 0) & (scores["clipmem_text"] > 0)).sum())
    button = open_page(PAGE).button(key="contributions-made-open")
    assert button.label == f"Open {inside} pairs in Browse"
    assert address(button.click().run())["outline"].startswith("clipmem_image:clipmem_text:0:0:9:0")


@pytest.mark.parametrize("view", ["parts", "units", "studies"])
def test_nonsense_in_the_address_is_survived(copy: Copy, data: Path, view: str) -> None:
    audit = copy()
    make_units(audit)
    make_paradigms(audit)
    make_study(data, "size", name="a")
    make_study(data, "size", name="b")
    names = ("page", "colour", "by", "variant", "tower", "layer", "unit_member", "study_size")
    for nonsense in ("\0", "9" * 40, "<script>"):
        open_page(PAGE, audit="made", view=view, **dict.fromkeys(names, nonsense))
    open_page(PAGE, audit="made", view="<b>")
