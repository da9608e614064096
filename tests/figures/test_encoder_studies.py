from pathlib import Path

import pytest
from clipmem_core.figures.encoder_studies import MEASURES, WIDTH_COLOURS, size_figure, time_figure, views_figure

from clipmem_core.figures.colours import DARK_PAGE, ENCODER_COLOURS, LIGHT_PAGE
from clipmem_core.scores.seeds import over_seeds
from clipmem_core.studies.answers import beyond_external
from clipmem_core.studies.compare import with_lead
from clipmem_core.studies.store import StudyFolder
from tests.figures.test_groups import contrast
from tests.made_encoders import make_study


def test_contributions_go_by_epoch_beyond_those_of_external_pairs(tmp_path: Path) -> None:
    times = StudyFolder(make_study(tmp_path, "time")).times
    figure = time_figure(over_seeds(beyond_external(times), by=["epoch"], measures=list(MEASURES)))
    lines = {trace.name: trace for trace in figure.data}
    assert list(lines) == ["image encoder", "text encoder"]
    assert list(lines["text encoder"].x) == [1, 2, 5, 10]
    fifth = times[times["epoch"] == 5]
    expected = fifth["clipmem_text"].mean() - fifth["clipmem_text_external"].mean()
    assert lines["text encoder"].y[2] == pytest.approx(expected)
    assert lines["text encoder"].line.color == ENCODER_COLOURS["text"]
    assert lines["text encoder"].error_y.array[0] > 0


def test_sizes_stand_side_by_side_in_their_order(tmp_path: Path) -> None:
    arms = with_lead(StudyFolder(make_study(tmp_path, "size")).arms)
    means = over_seeds(arms[::-1], by=["image_encoder", "text_encoder"], measures=["text_minus_image"])
    figure = size_figure(means, widths=("half", "one", "double"))
    assert [trace.name for trace in figure.data] == [f"text encoder: {width}" for width in ("half", "one", "double")]
    assert list(figure.layout.xaxis.ticktext) == ["half", "one", "double"]
    for trace in figure.data:
        assert [round(place) for place in trace.x] == [0, 1, 2]
    double = arms[(arms["image_encoder"] == "double") & (arms["text_encoder"] == "half")]
    assert figure.data[0].y[2] == pytest.approx(double["text_minus_image"].mean())
    assert len({trace.x[0] for trace in figure.data}) == 3
    assert [line.y0 for line in figure.layout.shapes] == [0]


def test_views_tell_encoders_by_colour_and_captions_by_symbol(tmp_path: Path) -> None:
    arms = StudyFolder(make_study(tmp_path, "views")).arms
    arms["crop"] = arms["crop_scale"].map({0.2: "strong", 1.0: "off", 0.5: "normal"})
    means = over_seeds(arms, by=["crop", "captions"], measures=list(MEASURES))
    figure = views_figure(means, crops=("off", "normal", "strong"))
    assert {(trace.name, trace.marker.symbol, trace.line.color) for trace in figure.data} == {
        (f"{encoder} encoder, {words}", symbol, ENCODER_COLOURS[encoder])
        for encoder in ("image", "text")
        for words, symbol in (("one caption", "circle"), ("all captions", "diamond"))
    }
    off = arms[(arms["crop"] == "off") & (arms["captions"] == "1")]["clipmem_image"].mean()
    first = next(trace for trace in figure.data if trace.name == "image encoder, one caption")
    assert first.y[0] == pytest.approx(off)
    one = views_figure(means[means["captions"] == "1"], crops=("off", "normal", "strong"))
    assert [trace.name for trace in one.data] == ["image encoder", "text encoder"]


@pytest.mark.parametrize("colour", WIDTH_COLOURS)
@pytest.mark.parametrize("page", [LIGHT_PAGE, DARK_PAGE])
def test_every_width_stands_out_from_both_pages(colour: str, page: str) -> None:
    assert contrast(colour, page) >= 3
