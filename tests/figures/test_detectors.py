"""The figures of detectors: a line a detector, and a square for every two of them."""

import pandas as pd

from clipmem_core.figures.studies import COLOURS, precision_figure
from clipmem_core.scores.detection import DETECTORS, SECOND_ROUND


def test_each_detector_has_a_line_of_its_own_colour_and_the_reference_the_widest() -> None:
    rows = [(name, number, 1 / number) for name in DETECTORS for number in (10, 100)]
    figure = precision_figure(pd.DataFrame(rows, columns=["detector", "number", "precision"]), share=0.05)
    widths = {line.name: line.line.width for line in figure.data}
    assert list(widths) == [name.replace("_", " ") for name in DETECTORS]
    assert [name for name, width in widths.items() if width == max(widths.values())] == ["misfit"]
    looks = {(line.line.color, line.line.dash) for line in figure.data}
    assert len(looks) == len(DETECTORS) == len(COLOURS) + len(SECOND_ROUND)
    assert {line.name for line in figure.data if line.line.dash == "dash"} == {
        "misfit second",
        "log probability second",
    }
    assert figure.layout.shapes[0].y0 == 0.05
