"""The page Encoders: the studies there are."""

from pathlib import Path

import pytest

from tests.dashboard.test_maps_pages import address, captions
from tests.dashboard.test_pages import figures, open_page, texts
from tests.fixtures import Copy
from tests.made_encoders import make_study

PAGE = "pages/encoders.py"


def test_without_studies_those_that_come_with_the_code_are_shown_and_the_commands(copy: Copy) -> None:
    copy()
    app = open_page(PAGE, view="studies")
    assert [code.value.split()[4] for code in app.code] == ["time", "size", "views"]
    assert len(figures(app)) == 3
    assert sum(text.startswith("reference study: ") for text in texts(app)) == 3
    assert captions(app).count("no intervals") == 3
    (time, _, _) = figures(app)
    assert [trace["name"] for trace in time["data"][:2]] == ["image encoder", "text encoder"]


def test_each_study_is_a_figure_and_a_sentence_an_arm(copy: Copy, data: Path) -> None:
    copy()
    for plan in ("time", "size", "views"):
        make_study(data, plan)
    app = open_page(PAGE, view="studies")
    assert not app.error
    assert len(figures(app)) == 3
    told = " ".join(texts(app))
    assert "image-double-text-one: memorization" in told
    assert "crops-off-captions-1: memorization" in told
    assert all("95 % intervals" in chart.proto.spec for chart in app.get("plotly_chart"))
    assert captions(app).count("95 % intervals over 3 training seeds of one split") == 3


def test_of_several_studies_of_a_question_one_is_chosen_in_the_address(copy: Copy, data: Path) -> None:
    copy()
    for name in ("a", "b"):
        make_study(data, "size", name=name, seeds=3 if name == "a" else 1)
    app = open_page(PAGE, view="studies", study_size="b")
    assert "3 or more; some have 1 so far" in captions(app)
    app.selectbox(key="encoders-study_size").select("a").run()
    assert address(app)["study_size"] == "a"
    assert "intervals over 3 training seeds of one split" in captions(app)


def test_a_study_on_its_way_says_how_far_it_is(copy: Copy, data: Path) -> None:
    copy()
    make_study(data, "size", done=1)
    make_study(data, "time", done=0)
    app = open_page(PAGE, view="studies")
    assert "not finished: 9 of 27 arms and seeds are finished" in captions(app)
    assert "none is finished yet" in app.info[0].value


@pytest.mark.parametrize(
    ("file", "garbage"),
    [
        ("study.json", b"[]"),
        ("study.json", b'{"study": "time"}'),
        ("arms.parquet", b""),
        ("arms.parquet", None),
        ("times.parquet", b"[]"),
    ],
)
def test_a_broken_study_is_told_and_the_others_are_drawn(
    copy: Copy, data: Path, file: str, garbage: bytes | None
) -> None:
    copy()
    make_study(data, "views")
    path = make_study(data, "time") / file
    path.unlink() if garbage is None else path.write_bytes(garbage)
    app = open_page(PAGE, view="studies")
    assert "crops-off-captions-1: memorization" in " ".join(texts(app))
    assert len(app.error) <= 1
    own = [chart for chart in app.get("plotly_chart") if "95 % intervals" in chart.proto.spec]
    assert len(own) == 1  # those that come with the code have none
