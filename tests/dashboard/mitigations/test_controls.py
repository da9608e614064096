"""The page Mitigations: toggles and sliders write the address, and the address sets them."""

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import write_table
from clipmem_core.config import ARM_FIELDS, FIELDS
from clipmem_core.dashboard.controls import WORDS
from clipmem_core.studies.store import StudyFolder
from tests.dashboard.mitigations.made_mitigations import SETTINGS
from tests.dashboard.mitigations.mitigations_page import PAGE
from tests.dashboard.test_maps_pages import address, captions
from tests.dashboard.test_pages import open_page

VALUES = {
    **{"train_captions": 2, "text_noise": 0.07, "image_noise": 0.2, "noise_place": "before", "text_mask": 0.25},
    **{
        "text_min_df": 4,
        "text_forget_df": 6,
        "text_forget_as": "deleted",
        "crop_scale": 0.3,
        "colour": 0.5,
        "weight_decay": 0.4,
        "stop_epoch": 33,
    },
    **{"min_logit_scale": 18, "max_logit_scale": 20, "adaptive_noise": 0.11, "adaptive_mask": 0.65},
    **{"adaptive_rest": 0.9, "adaptive_quantile": 0.8, "adaptive_every": 4},
}
SAID = {name: VALUES.get(name, own.slider and own.slider.usual) for name, own in FIELDS.items() if own.part}
CHOSEN = {name for name, value in SAID.items() if isinstance(value, str)}
ALL_ON = " ".join(f"{name}={SAID[name]}" if name in CHOSEN else f"{name}={SAID[name]:g}" for name in ARM_FIELDS)
ALL_ON += " removal=misfit:7 lookalikes decisions"


pytestmark = pytest.mark.usefixtures("lab")


def turn(app: AppTest, name: str, on: bool = True) -> AppTest:
    app.toggle(key=f"mitigation-on-{name}").set_value(on).run()
    assert not app.exception, app.exception[0].message
    return app


def asked(app: AppTest) -> str:
    return address(app).get("setting", "")


def test_the_address_sets_every_widget_and_every_field_that_a_setting_can_change_has_one() -> None:
    app = open_page(PAGE, setting=ALL_ON)
    assert not app.warning
    assert asked(app) == ALL_ON
    toggles = [toggle for toggle in app.toggle if toggle.key.startswith("mitigation-on-")]
    assert all(toggle.value and toggle.help for toggle in toggles)
    values = dict(part.split("=") for part in ALL_ON.split() if "=" in part and not part.startswith("removal"))
    shown = {name: app.session_state[f"mitigation-{name}"] for name in ARM_FIELDS}
    assert {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in shown.items()} == values
    assert app.number_input(key="mitigation-removal-n").value == 7
    assert app.selectbox(key="mitigation-removal-by").value == "misfit"
    assert {widget.key.removeprefix("mitigation-") for widget in (*app.slider, *app.select_slider)} >= {
        name for name in ARM_FIELDS if name not in CHOSEN
    }


def test_a_toggle_writes_what_is_usual_and_takes_it_back() -> None:
    app, brings = open_page(PAGE), {"adaptive_rest", "text_noise"}  # these have tests of their own
    for name in (name for words in WORDS.values() for name in words if FIELDS[name].slider and name not in brings):
        usual = FIELDS[name].slider.usual
        turn(app, name)
        assert asked(app) == f"{name}={usual:g}"
        assert app.slider(key=f"mitigation-{name}").value == usual
        assert asked(turn(app, name, on=False)) == ""
        assert not app.slider


def test_a_slider_writes_its_value_without_the_noise_of_floats() -> None:
    app = turn(open_page(PAGE, page="3"), "text_mask")
    assert "page" not in address(app)
    app.slider(key="mitigation-text_mask").set_value(0.1 + 0.2).run()
    assert asked(app) == "text_mask=0.3"
    app = turn(open_page(PAGE), "adaptive_rest")
    assert asked(app) == "adaptive_rest=1 adaptive_quantile=0.95"
    app.slider(key="mitigation-adaptive_every").set_value(5).run()
    assert asked(app) == "adaptive_rest=1 adaptive_quantile=0.95 adaptive_every=5"
    assert asked(turn(app, "adaptive_rest", on=False)) == ""
    assert asked(turn(app, "stop_epoch")) == "stop_epoch=53"  # of 80


def test_captions_are_offered_up_to_all_of_the_source_but_not_as_in_none(lab: StudyFolder) -> None:
    app = turn(open_page(PAGE), "train_captions")
    assert asked(app) == "train_captions=0"
    assert app.select_slider(key="mitigation-train_captions").options == ["2", "3", "all"]
    app.select_slider(key="mitigation-train_captions").set_value("2").run()
    assert asked(app) == "train_captions=2"
    pairs = lab.audit("none").pairs
    pairs["captions"] = pairs["captions"].map(lambda texts: list(texts[:1]))
    write_table(lab.audit("none").folder / "pairs.parquet", pairs)
    assert "Every pair has one caption" in captions(open_page(PAGE))


def test_pairs_are_taken_out_by_a_ranking_and_what_is_no_field_is_a_word_of_its_own() -> None:
    app = turn(open_page(PAGE), "removal")
    assert asked(app) == "removal=clipmem:20"  # half of the 40 that f and g share
    app.number_input(key="mitigation-removal-n").set_value(12).run()
    app.selectbox(key="mitigation-removal-by").select("random").run()
    assert asked(turn(app, "lookalikes")) == "removal=random:12 lookalikes"
    assert asked(turn(turn(app, "lookalikes", on=False), "removal", on=False)) == ""


def test_a_setting_of_the_study_can_be_jumped_to() -> None:
    app = open_page(PAGE)
    listed = app.selectbox(key="mitigations-listed")
    assert (listed.value, listed.options) == ("", list(SETTINGS))
    listed.select("adaptive-rest").run()
    assert asked(app) == "adaptive_rest=1 adaptive_quantile=0.95"
    assert app.toggle(key="mitigation-on-adaptive_rest").value
    assert not app.toggle(key="mitigation-on-text_mask").value
    turn(app, "colour")
    assert app.selectbox(key="mitigations-listed").options == ["another one", *SETTINGS]
    app.selectbox(key="mitigations-listed").select("none").run()
    assert asked(app) == ""
