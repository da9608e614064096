"""The page Encoders: parts of clipmem, units and paradigms, and studies; and how to get each."""

from pathlib import Path

import pytest

from clipmem_core.audit.jobs import Task
from tests.dashboard.test_every_page import said
from tests.dashboard.test_pages import address, captions, figures, open_page, texts
from tests.fixtures import Copy, leave_job
from tests.made_encoders import make_members, make_paradigms, make_study, make_units

PAGE = "pages/encoders.py"


@pytest.mark.parametrize("protocol", ["ensemble", "paper"])
def test_the_parts_are_drawn_pair_by_pair_and_as_means(copy: Copy, protocol: str) -> None:
    copy(protocol)
    app = open_page(PAGE, colour="injected", by="label")
    assert not app.error, said(app)
    pairs, means, _ = figures(app)
    assert [trace["name"] for trace in pairs["data"]] == ["no error injected", "miscaption"]
    assert {name.split("<")[0] for name in means["layout"]["yaxis"]["ticktext"]} == {"circle", "square", "triangle"}
    assert "mean cosine 0.88" in captions(app)
    app.segmented_control(key="encoder-colour").select("label").run()
    app.segmented_control(key="encoder-by").select("injected").run()
    assert (address(app)["colour"], address(app)["by"]) == ("label", "injected")


def test_without_units_and_paradigms_buttons_start_them(
    copy: Copy, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(Task, "start", lambda task: started.append(list(task.arguments)))
    make_members(copy())
    leave_job(data / "jobs" / ".encoders" / "made" / "paradigms", exit_code=2, said="error: *no* labels\n")
    app = open_page(PAGE, view="units")
    assert app.error
    assert "error: *no* labels" in texts(app)
    for label in ("Measure units", "Train three ways"):
        next(button for button in app.button if button.label == label).click().run()
    assert started == [["units", "made"], ["paradigms", "made"]]


def test_units_and_paradigms_are_drawn(copy: Copy) -> None:
    audit = copy()
    make_units(audit)
    make_paradigms(audit)
    app = open_page(PAGE, view="units")
    layers, paradigms = figures(app)
    assert [trace["name"].split(": ")[0] for trace in layers["data"]] == ["image"] * 4 + ["text"] * 4
    assert len(paradigms["data"]) == 6  # three, and the paper's
    assert any("CLIP lies between the other two): so it does here." in each.value for each in app.markdown)


def test_without_own_studies_reference_studies_and_commands_are_shown(copy: Copy) -> None:
    copy()
    app = open_page(PAGE, view="studies")
    assert [code.value.split()[4] for code in app.code] == ["time", "size", "views"]
    assert sum(text.startswith("reference study: ") for text in texts(app)) == 3
    drawn = [[trace["name"] for trace in figure["data"]] for figure in figures(app)]
    assert drawn[0] == ["image encoder", "text encoder"]
    assert drawn[1] == ["text encoder: half", "text encoder: one", "text encoder: double"]
    assert "image encoder, one caption" in drawn[2]


def test_each_own_study_is_a_figure_and_a_sentence_an_arm(copy: Copy, data: Path) -> None:
    copy()
    make_study(data, "time")
    make_study(data, "size", name="other")
    make_study(data, "size", name="part", done=1)
    make_study(data, "views", done=0)
    app = open_page(PAGE, view="studies", study_size="part")
    assert not app.error
    assert len(figures(app)) == 2
    assert "9 of 27 arms × seeds are finished" in captions(app)
    assert "is finished yet" in app.info[0].value
    app.selectbox(key="encoders-study_size").select("other").run()
    assert address(app)["study_size"] == "other"
    assert "image-double-text-one: memorization" in " ".join(texts(app))


@pytest.mark.parametrize(("file", "garbage"), [("study.json", b"[]"), ("arms.parquet", b""), ("times.parquet", None)])
def test_a_broken_study_leaves_the_others(copy: Copy, data: Path, file: str, garbage: bytes | None) -> None:
    copy()
    make_study(data, "views")
    path = make_study(data, "time") / file
    path.unlink() if garbage is None else path.write_bytes(garbage)
    app = open_page(PAGE, view="studies")
    assert "crops-off-captions-1: memorization" in " ".join(texts(app))
    assert len(app.error) == (file != "study.json")
