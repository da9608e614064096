"""The page Encoders: its pairs and means, the units and paradigms or how to get them, the studies there are."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.jobs import Job
from clipmem_core.audits.paradigms import TABLE, paradigms_folder
from clipmem_core.audits.store import CONFIG, MANIFEST, MEMBERSHIP, Audit, write_json, write_table
from clipmem_core.dashboard import encoder_map, encoder_waiting, map_selection
from clipmem_core.review import encoders
from clipmem_core.review.selection import Outline
from tests.dashboard.test_every_page import said
from tests.dashboard.test_maps_pages import address, captions, charts, trace_names
from tests.dashboard.test_pages import open_page, texts
from tests.made_audit import HOSTILE
from tests.made_encoders import make_members, make_paradigms, make_study, make_units

Copy = Callable[..., Audit]
PAGE = "pages/encoders.py"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Catch what the page starts."""
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr(
        encoder_waiting, "start_encoder_job", lambda audit, kind, *, sample: calls.append((kind, sample))
    )
    return calls


def figures(app: AppTest) -> list[dict]:
    return [json.loads(element.proto.spec) for element in app.get("plotly_chart")]


def leave_job(data: Path, kind: str, *, exit_code: int | None, output: str = "") -> None:
    folder = data / "jobs" / ".encoders" / "made" / kind
    folder.mkdir(parents=True)
    write_json(folder / "job.json", {"pid": 1, "started": None, "command": ["python"]})
    (folder / "output.log").write_text(output)
    if exit_code is not None:
        (folder / "exit_code").write_text(f"{exit_code}\n")


@pytest.mark.parametrize("protocol", ["ensemble", "paper"])
def test_the_parts_are_drawn_pair_by_pair_and_as_means(copy: Copy, protocol: str) -> None:
    copy(protocol)
    app = open_page(PAGE)
    assert not app.error, said(app)
    assert len(figures(app)) == 3
    assert "it fits to 0.88" in captions(app)
    assert "On external pairs, which nobody memorized, the parts are" in captions(app)
    assert "standard errors over pairs" in captions(app)
    assert ("learned by g" in captions(app)) == (protocol == "paper")


def test_a_poor_fit_and_a_null_off_0_are_said_out_loud(copy: Copy) -> None:
    audit = copy()
    write_json(audit.folder / "verdict.json", audit.verdict | {"encoders": {"fit": 0.31}})
    scores = audit.scores
    external = scores["group"] == "external"
    scores["clipmem_text"], scores["clipmem_image"] = 0.3, 0.0
    scores.loc[external, "clipmem_text"] = 0.2
    write_table(audit.folder / "scores.parquet", scores)
    first, second = (warning.value for warning in open_page(PAGE).warning)
    assert "fits poorly: 0.31" in first
    assert "The null of the text encoder is not near 0: +0.200" in second


@pytest.mark.parametrize("encoder", [{}, {"fit": None}, {"fit": "x"}, 3])
def test_a_verdict_that_says_nothing_of_the_fit_is_told(copy: Copy, encoder: object) -> None:
    audit = copy()
    write_json(audit.folder / "verdict.json", audit.verdict | {"encoders": encoder})
    assert "does not say how well the map" in captions(open_page(PAGE))


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


def test_without_labels_and_planted_pairs_there_is_nothing_to_choose_or_divide_by(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "pairs.parquet", audit.pairs.assign(planted=None, label=None))
    app = open_page(PAGE, by="label")
    assert [control.key for control in app.segmented_control] == ["encoders-view", "encoder-by"]
    assert "No pair of this audit has a label" in app.info[0].value
    assert "No pair of this audit has a planted kind" in open_page(PAGE, by="planted").info[0].value


def test_labels_of_others_are_escaped(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "pairs.parquet", audit.pairs.assign(label=HOSTILE[0]))
    for figure in figures(open_page(PAGE, by="label", colour="label")):
        names = [str(trace.get("name")) for trace in figure["data"]]
        shown = [*names, *figure["layout"].get("yaxis", {}).get("ticktext", [])]
        assert not any("<script" in text or "<b" in text.replace("<br>", "") for text in shown)


def test_an_audit_without_contributions_says_so(copy: Copy) -> None:
    audit = copy()
    columns = ("clipmem_image", "clipmem_text", "sslmem_image", "sslmem_text")
    write_table(audit.folder / "scores.parquet", audit.scores.assign(**dict.fromkeys(columns, np.nan)))
    app = open_page(PAGE)
    messages = [info.value for info in app.info]
    assert messages[0] == "No pair has contributions of both encoders."
    assert messages[2].startswith("No pair has SSLMem")
    assert not figures(app)


def test_one_caption_a_pair_leaves_the_text_encoder_without_sslmem(copy: Copy) -> None:
    audit = copy()
    assert "with two captions or more" in captions(open_page(PAGE))
    write_table(audit.folder / "scores.parquet", audit.scores.assign(sslmem_text=np.nan))
    assert "no pair has two" in captions(open_page(PAGE))


def test_a_thinned_map_says_so(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    copy()
    monkeypatch.setattr(encoders, "LIMIT", 30)
    encoder_map._loaded.clear()
    app = open_page(PAGE)
    assert charts(app)[0]["data"][0]["type"] == "heatmap"
    assert "Drawn are 30 of 100 pairs" in captions(app)
    encoder_map._loaded.clear()


def test_a_shape_around_pairs_opens_them_in_browse(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = copy().scores

    def quarter(event: object, x: str, y: str) -> Outline:
        return Outline(x, y, ((0.0, 0.0), (9.0, 0.0), (9.0, 9.0), (0.0, 9.0)))

    monkeypatch.setattr(map_selection, "drawn_outline", quarter)
    inside = int(((scores["clipmem_image"] > 0) & (scores["clipmem_text"] > 0)).sum())
    button = open_page(PAGE).button(key="contributions-made-open")
    assert button.label == f"Open {inside} pairs in Browse"
    assert address(button.click().run())["outline"].startswith("clipmem_image:clipmem_text:0:0:9:0")


def test_without_units_and_paradigms_buttons_start_them_and_the_commands_are_shown(
    copy: Copy, started: list[tuple[str, int]]
) -> None:
    make_members(copy())
    app = open_page(PAGE, view="units")
    assert [info.value.split(".")[0] for info in app.info] == [
        "The units of this audit's encoders are not measured yet",
        "The image encoder has not been taught by captions, by labels and by itself yet",
    ]
    assert [code.value for code in app.code] == [
        "python -m clipmem_core units made --sample 1000\npython -m clipmem_core units made",
        "python -m clipmem_core paradigms made",
    ]
    app.button(key="units-1000").click().run()
    app.button(key="units-0").click().run()
    app.button(key="paradigms-0").click().run()
    assert started == [("units", 1000), ("units", 0), ("paradigms", 0)]


def test_while_something_is_measured_the_page_says_how_far_it_is(
    copy: Copy, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_units(copy())
    leave_job(data, "units", exit_code=None, output="member r0-f0: units\n")
    cancelled: list[str] = []
    monkeypatch.setattr(Job, "running", property(lambda job: True))
    monkeypatch.setattr(encoder_waiting, "cancel", lambda job: cancelled.append(job.name))
    app = open_page(PAGE, view="units")
    assert "member r0-f0: units" in texts(app)
    assert "At work. You can close this page; it goes on." in captions(app)
    app.button(key="cancel-units").click().run()
    assert cancelled == ["units"]
    monkeypatch.setattr(Job, "place", property(lambda job: 2))
    assert "Waiting for the audits" in open_page(PAGE, view="units").info[0].value


def test_a_job_that_failed_says_why_and_can_be_tried_again(copy: Copy, data: Path) -> None:
    make_units(copy(), sample=5)
    leave_job(data, "paradigms", exit_code=2, output="error: *no* labels\n")
    app = open_page(PAGE, view="units")
    assert app.error[0].value == "It stopped with exit code 2."
    assert "error: *no* labels" in texts(app)
    assert app.button(key="paradigms-0")


def test_units_are_drawn_by_layer_beside_what_they_are_read_against(copy: Copy) -> None:
    make_units(copy())
    app = open_page(PAGE, view="units")
    image, text = figures(app)
    names = ["trained members", "before training", "pairs it trained on, as many", "pairs it never saw"]
    assert [trace["name"] for trace in image["data"]] == [trace["name"] for trace in text["data"]] == names
    assert image["layout"]["yaxis"]["range"] == text["layout"]["yaxis"]["range"]
    assert "Measured on all 4 members, on all pairs" in captions(app)
    assert any("How much of it is memorization?" in element.value for element in app.markdown)


def test_a_sample_is_said_and_more_can_be_measured(copy: Copy, started: list[tuple[str, int]]) -> None:
    make_units(copy(), sample=50, references=False)
    app = open_page(PAGE, view="units", variant="median")
    assert "on a sample of 50 of the pairs" in captions(app)
    assert "The median comes from a histogram" in captions(app)
    assert not any("How much of it" in element.value for element in app.markdown)
    app.button(key="units-0").click().run()
    assert started == [("units", 0)]
    app.segmented_control(key="unit-variant").select("mean").run()
    assert address(app)["variant"] == "mean"


def test_the_list_of_units_is_chosen_and_paged_in_the_address(copy: Copy) -> None:
    audit = copy()
    units = make_units(audit)
    app = open_page(PAGE, view="units", repeated="1", page="2")
    fired = units["unitmem_mean"].dropna().sort_values(ascending=False)
    table = app.dataframe[0].value
    assert table["UnitMem"].tolist() == pytest.approx(fired[12:24].tolist())
    app.selectbox(key="units-tower").select("text").run()
    assert address(app)["tower"] == "text"
    assert "page" not in address(app)
    table = app.dataframe[0].value
    assert set(table["encoder"]) == {"text"}
    best = units[(units["tower"] == "text")].sort_values("unitmem_mean", ascending=False).iloc[0]
    assert table["UnitMem"][0] == pytest.approx(best["unitmem_mean"])
    assert f"pair={best['pair_id'].replace('/', '%2F')}" in table["open"][0]
    app.toggle(key="units-repeated").set_value(True).run()
    assert "repeated" not in address(app)


def test_a_layer_that_the_encoder_has_not_is_not_asked_for(copy: Copy) -> None:
    make_units(copy())
    app = open_page(PAGE, view="units", tower="text", layer="2", unit_member="nobody")
    assert app.selectbox(key="units-layer").value == ""
    assert app.selectbox(key="units-unit_member").value == ""


def test_paradigms_are_drawn_with_the_papers_curves_unless_they_are_put_away(copy: Copy) -> None:
    audit = copy()
    make_units(audit)
    make_paradigms(audit)
    app = open_page(PAGE, view="units")
    assert len(figures(app)[2]["data"]) == 6
    assert any("CLIP lies between the other two): so it does here." in each.value for each in app.markdown)
    assert "digitised" in captions(app)
    assert "95 % intervals over 3 seeds" in captions(app)
    app.toggle(key="paradigms-paper").set_value(False).run()
    assert address(app)["paper"] == "no"
    assert len(figures(app)[2]["data"]) == 3
    assert "digitised" not in captions(app)


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "\x00\xff"])
def test_a_table_of_paradigms_that_is_none_is_one_line(copy: Copy, content: str) -> None:
    audit = copy()
    make_units(audit)
    paradigms_folder(audit).mkdir(parents=True)
    (paradigms_folder(audit) / TABLE).write_text(content)
    assert "holds a table that is none" in texts(open_page(PAGE, view="units"))[-1]


@pytest.mark.parametrize("file", [CONFIG, MANIFEST, MEMBERSHIP])
@pytest.mark.parametrize("garbage", [b"", b"[]", b"null", b"\x00\xff"])
def test_broken_files_of_an_audit_are_told_beside_its_units(copy: Copy, file: str, garbage: bytes) -> None:
    audit = copy()
    make_units(audit)
    (audit.folder / file).write_bytes(garbage)
    app = open_page(PAGE, view="units")
    assert file in said(app)
    assert all(len(text.splitlines()) == 1 for text in texts(app))


def test_without_studies_the_commands_are_shown(copy: Copy) -> None:
    copy()
    app = open_page(PAGE, view="studies")
    assert [code.value.split()[4] for code in app.code] == ["time", "size", "views"]
    assert not figures(app)


def test_each_study_is_a_figure_and_its_answer(copy: Copy, data: Path) -> None:
    copy()
    for plan in ("time", "size", "views"):
        make_study(data, plan)
    app = open_page(PAGE, view="studies")
    assert not app.error
    assert len(figures(app)) == 3
    told = " ".join(texts(app))
    for start in (
        "Which encoder memorizes first?",
        "Does a larger image encoder flip claim 3",
        "Is the text share only",
    ):
        assert start in told
    assert "it does not flip." in told
    assert captions(app).count("95 % intervals over 3 seeds") == 3


def test_of_several_studies_of_a_question_one_is_chosen_in_the_address(copy: Copy, data: Path) -> None:
    copy()
    for name in ("a", "b"):
        make_study(data, "size", name=name, seeds=3 if name == "a" else 1)
    app = open_page(PAGE, view="studies", study_size="b")
    assert "3 or more; some have 1 so far" in captions(app)
    app.selectbox(key="encoders-study_size").select("a").run()
    assert address(app)["study_size"] == "a"
    assert "intervals over 3 seeds" in captions(app)


def test_a_study_on_its_way_says_how_far_it_is(copy: Copy, data: Path) -> None:
    copy()
    make_study(data, "size", done=1)
    make_study(data, "time", done=0)
    app = open_page(PAGE, view="studies")
    assert "not finished: 9 of 27 arms and seeds are done" in captions(app)
    assert "none is done yet" in app.info[0].value


@pytest.mark.parametrize("file", ["study.json", "arms.parquet", "times.parquet"])
@pytest.mark.parametrize("garbage", [b"", b"[]", b'{"study": "time"}', None])
def test_a_broken_study_is_told_and_the_others_are_drawn(
    copy: Copy, data: Path, file: str, garbage: bytes | None
) -> None:
    copy()
    make_study(data, "views")
    path = make_study(data, "time") / file
    path.unlink() if garbage is None else path.write_bytes(garbage)
    app = open_page(PAGE, view="studies")
    assert "Is the text share only" in " ".join(texts(app))
    assert len(app.error) <= 1
    assert len(figures(app)) == 1


@pytest.mark.parametrize("view", ["parts", "units", "studies", "<b>"])
def test_nonsense_in_the_address_is_survived(copy: Copy, data: Path, view: str) -> None:
    audit = copy()
    make_units(audit)
    make_paradigms(audit)
    make_study(data, "size", name="a")
    make_study(data, "size", name="b")
    names = ("page", "colour", "by", "variant", "tower", "layer", "unit_member", "repeated", "paper", "study_size")
    for nonsense in ("", "\0", "-1", "9" * 40, "<script>", "{}"):
        open_page(PAGE, audit="made", view=view, **dict.fromkeys(names, nonsense))
