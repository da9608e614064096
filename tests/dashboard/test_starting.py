from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.preflight import Request
from clipmem_core.audits.store import write_json
from clipmem_core.config import preset_config
from tests.dashboard.audits_page import PAGE, button, labels
from tests.dashboard.test_pages import open_page, texts
from tests.fixtures import Copy, leave_job


def tiny(app: AppTest) -> AppTest:
    app.segmented_control(key="new-preset").select("tiny").run()
    return app


def of_scenes() -> AppTest:
    app = open_page(PAGE, view="start")
    app.text_input(key="new-path").set_value("scenes").run()
    return app


def test_without_an_audit_the_page_offers_to_start_one(calls: list[tuple[str, object]]) -> None:
    app = tiny(of_scenes())
    assert app.segmented_control(key="view-start").value == "start"
    assert app.text_input(key="new-name").placeholder == "scenes"
    button(app, "Check").click().run()
    ((kind, request),) = calls
    assert kind == "check"
    assert request == Request("scenes", "scenes", preset_config("tiny"))
    assert app.query_params["check"] == request.key


def test_what_is_typed_is_what_is_asked_for(calls: list[tuple[str, object]], tmp_path: Path) -> None:
    path = tmp_path / "my pairs.csv"
    path.touch()
    app = tiny(open_page(PAGE))
    app.text_input(key="new-path").set_value(f" {path} ").run()
    app.segmented_control(key="new-protocol").select("paper").run()
    assert app.text_input(key="new-name").placeholder == "my-pairs-paper"
    app.number_input(key="new-seeds").set_value(3)
    app.number_input(key="new-tiny-epochs").set_value(7)
    app.toggle(key="new-tiny-drop_lookalikes").set_value(True)
    app.selectbox(key="new-tiny-loss").set_value("siglip")
    app.text_input(key="new-source-csv_caption_key").set_value("title")
    app.text_input(key="new-name").set_value("mine").run()
    button(app, "Check").click().run()
    request = calls[-1][1]
    assert request.arguments == [
        str(path),
        "--name=mine",
        "--preset=tiny",
        "--protocol=paper",
        "--seeds=3",
        "--drop-lookalikes",
        "--loss=siglip",
        "--epochs=7",
        "--csv-caption-key=title",
    ]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("new-tiny-epochs", 0, "--epochs must be at least 1, not 0"),
        ("new-repeats", -1, "--members must be at least 0, not -2"),
        ("new-name", "[x](javascript:alert(1))", "name '[x](javascript:alert(1))' must be letters, digits"),
        ("new-tiny-model", "<b>no</b>", "model '<b>no</b>' is unknown"),
    ],
)
def test_a_wrong_setting_is_one_line_and_nothing_starts(
    calls: list[tuple[str, object]], key: str, value: object, message: str
) -> None:
    app = tiny(of_scenes())
    kind = "text_input" if isinstance(value, str) else "number_input"
    getattr(app, kind)(key=key).set_value(value).run()
    button(app, "Check").click().run()
    assert not app.exception
    assert calls == []
    assert app.error[0].value == "This audit cannot start."
    assert [text for text in texts(app) if text.startswith(message)]


def test_no_source_is_one_line(calls: list[tuple[str, object]]) -> None:
    app = open_page(PAGE)
    button(app, "Check").click().run()
    assert [text for text in texts(app) if text.startswith("no data set is given")]
    assert calls == []


@pytest.mark.parametrize("path", ["/no/such/folder", "<b>x</b>.csv", "~nobody/pairs.csv"])
def test_an_unknown_path_is_one_line_before_anything_starts(calls: list[tuple[str, object]], path: str) -> None:
    app = open_page(PAGE)
    app.text_input(key="new-path").set_value(path).run()
    assert len(app.error) == 1
    button(app, "Check").click().run()
    assert len([text for text in texts(app) if text.startswith(f"there is no {path!r}")]) == 1
    assert calls == []


def test_class_folders_without_captions_offer_their_names(calls: list[tuple[str, object]], tmp_path: Path) -> None:
    for place in ("classes/cat/1.jpg", "classes/dog/2.jpg", "captioned/cat/1.jpg", "captioned/cat/1.txt"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    app = open_page(PAGE)
    for path, offered in ((tmp_path / "captioned", 0), (tmp_path / "classes", 1)):
        app.text_input(key="new-path").set_value(str(path)).run()
        assert len([toggle for toggle in app.toggle if toggle.key == "new-folder-names"]) == offered
    app.toggle(key="new-folder-names").set_value(True).run()
    button(app, "Check").click().run()
    request = calls[-1][1]
    assert (request.source, request.config.source.caption_template) == (str(path), "a photo of a {label}")


def test_a_name_of_another_audit_is_one_line_and_the_proposed_one_is_free(
    copy: Copy, calls: list[tuple[str, object]]
) -> None:
    audit = copy(name="scenes")
    write_json(audit.folder / "config.json", audit.record.values | {"source": "elsewhere.csv"})
    app = tiny(of_scenes())
    assert app.text_input(key="new-name").placeholder == "scenes-2"
    app.text_input(key="new-name").set_value("scenes").run()
    button(app, "Check").click().run()
    assert [text for text in texts(app) if text.startswith("audit 'scenes' exists with another config: the source is")]
    assert calls == []


def test_sets_that_are_there_are_offered_and_others_can_be_fetched(data: Path, calls: list[tuple[str, object]]) -> None:
    for name in ("tuxpaint", "scenes-220-0", ".openclipart.partial-x"):
        (data / "sets" / name).mkdir(parents=True)
        (data / "sets" / name / "captions.jsonl").write_text("")
    app = open_page(PAGE)
    assert app.button_group(key="new-path-offered").options == ["scenes", "tuxpaint"]
    app.button_group(key="new-path-offered").select("tuxpaint").run()
    assert app.text_input(key="new-path").value == str(data / "sets" / "tuxpaint")
    assert "fetch-tuxpaint" not in [each.key for each in app.button]
    app.button(key="fetch-openclipart").click().run()
    assert calls == [("fetch", "openclipart")]


def test_a_download_shows_its_last_line_and_can_be_tried_again(data: Path, calls: list[tuple[str, object]]) -> None:
    leave_job(data / "jobs" / ".sets/tuxpaint", running=True, said="unpacking tuxpaint\n")
    leave_job(data / "jobs" / ".sets/openclipart", exit_code=2, said="error: no network\n")
    app = open_page(PAGE)
    assert {"unpacking tuxpaint", "error: no network"} <= set(texts(app))
    assert "Fetch openclipart again" in labels(app)


def widgets(app: AppTest) -> dict[str, Any]:
    return {widget.key: widget for widget in (*app.number_input, *app.selectbox, *app.text_input, *app.toggle)}


def test_locked_towers_are_where_an_audit_begins_and_what_means_nothing_with_them_is_left_out(
    calls: list[tuple[str, object]],
) -> None:
    app = of_scenes()
    keys = widgets(app)
    towers = {
        name: keys[f"new-locked-{name}"].value for name in ("lock_image", "image_tower", "lock_text", "text_tower")
    }
    assert list(towers.values()) == [True, "efficientnet-lite2", True, "all-MiniLM-L6-v2"]
    assert not {"new-locked-text_mask", "new-locked-text_min_df", "new-locked-colour", "new-locked-crop_scale"} & set(
        keys
    )
    said = " ".join(caption.value for caption in app.caption)
    assert "as the text tower is locked and reads captions whole and as they are: Text mask" in said
    assert "as the image tower is locked" in said
    button(app, "Check").click().run()
    assert calls[-1][1] == Request("scenes", "scenes", preset_config("locked"))
    app = of_scenes()
    app.toggle(key="new-locked-lock_text").set_value(False).run()
    assert {"new-locked-text_mask", "new-locked-lock_text"} <= set(widgets(app))
    button(app, "Check").click().run()
    trained = ["--model=small", "--no-lock-text", "--text-tower="]
    assert calls[-1][1].arguments == ["scenes", "--name=scenes", "--preset=locked", *trained]
    app.toggle(key="new-locked-lock_text").set_value(True).run()
    button(app, "Check").click().run()
    assert calls[-1][1].arguments == ["scenes", "--name=scenes", "--preset=locked"]
