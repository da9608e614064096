"""The figures of the page Encoders."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipmem_core.figures.layout import ENCODER_COLOURS, OTHER, in_words
from clipmem_core.figures.studies import (
    MEASURES,
    axis_span,
    means_figure,
    time_figure,
    tower_figure,
)
from clipmem_core.scores.seeds import over_seeds
from clipmem_core.studies.results import beyond_external
from clipmem_core.studies.store import StudyFolder
from tests.made_encoders import make_study


def means() -> pd.DataFrame:
    rows = [
        ("candidate", "image", 500, 0.02, 0.01, 0.03),
        ("candidate", "text", 500, 0.3, 0.28, 0.33),
        ("external", "image", 50, -0.001, np.nan, np.nan),
        ("external", "text", 0, np.nan, np.nan, np.nan),
    ]
    return pd.DataFrame(rows, columns=["name", "encoder", "n", "mean", "low", "high"])


def test_a_dot_lies_at_the_mean_with_its_interval_beside_the_null_and_names_are_text() -> None:
    figure = means_figure(means(), means()[:0], title="t")
    image, text = figure.data
    assert (list(image.x), list(text.x)) == ([0.02, -0.001], [0.3])
    assert image.marker.color == ENCODER_COLOURS["image"]
    assert (text.error_x.array[0], text.error_x.arrayminus[0]) == pytest.approx((0.03, 0.02))
    assert image.error_x.array[1] == 0
    assert list(text.customdata) == ["0.300 (0.280 to 0.330)"]
    assert figure.layout.yaxis.ticktext == ("candidate<br>500 pairs", "external<br>50 pairs")
    null = means()[means()["name"] == "external"]
    lines = means_figure(means(), null, title="t").layout.shapes
    assert [(line.x0, line.line.color) for line in lines] == [(-0.001, ENCODER_COLOURS["image"])]
    assert in_words(means()[:3]) == ["0.020 (0.010 to 0.030)", "0.300 (0.280 to 0.330)", "−0.001"]
    hostile = means().assign(name="<i>" + "x" * 99)
    label = means_figure(hostile, means()[:0], title="t").layout.yaxis.ticktext[0]
    assert label.startswith("&lt;i&gt;xxx")
    assert len(label) < 60


def layers() -> pd.DataFrame:
    rows = [("image", "members", layer, 0.6, 0.5, 0.65) for layer in (1, 2)]
    rows += [("text", "members", 1, 0.7, 0.7, 0.7)]
    rows += [("image", name, layer, 0.55, np.nan, np.nan) for name in ("before training", "unseen") for layer in (1, 2)]
    return pd.DataFrame(rows, columns=["tower", "source", "layer", "mean", "low", "high"])


def test_members_have_the_colour_of_their_encoder_and_references_are_grey() -> None:
    figure = tower_figure(layers(), tower="image", span=(0.4, 0.8))
    assert [(trace.name, trace.line.color) for trace in figure.data] == [
        ("trained members", ENCODER_COLOURS["image"]),
        ("before training", OTHER),
        ("pairs it never saw", OTHER),
    ]
    assert figure.data[0].error_y.arrayminus[0] == pytest.approx(0.1)
    assert figure.data[1].error_y.array is None
    assert figure.layout.yaxis.range == (0.4, 0.8)
    assert list(figure.layout.xaxis.tickvals) == [1, 2]
    assert [trace.name for trace in tower_figure(layers(), tower="text", span=(0, 1)).data] == ["trained members"]
    assert axis_span(pd.Series([0.01, 0.99])) == (0.0, 1.0)
    assert axis_span(pd.Series([0.5, np.nan, 0.6])) == pytest.approx((0.47, 0.63))


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
