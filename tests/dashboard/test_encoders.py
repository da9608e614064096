"""The page Encoders: parts of clipmem and units, and how to get each."""

from pathlib import Path

import pandas as pd
import pytest

from clipmem_core.auditing.folder.store import write_table
from clipmem_core.lab import encoders as t
from tests.dashboard.conftest import Started
from tests.dashboard.test_every_page import said
from tests.dashboard.test_pages import address, captions, figures, open_page, press, texts
from tests.fixtures import Copy, leave_job
from tests.made_encoders import make_members, with_config

PAGE = "pages/encoders.py"


@pytest.mark.parametrize("protocol", ["ensemble", "paper"])
def test_the_parts_are_drawn_pair_by_pair_and_as_means(copy: Copy, protocol: str) -> None:
    copy(protocol)
    app = open_page(PAGE, colour="injected", by="label")
    assert not app.error, said(app)
    pairs, means, _ = figures(app)
    assert [trace["name"] for trace in pairs["data"]] == ["no error injected", "miscaption"]
    assert {name.split("<")[0] for name in means["layout"]["yaxis"]["ticktext"]} == {
        "circle",
        "square",
        "triangle",
    }
    assert "cosine 0.88" in captions(app)
    app.segmented_control(key="colour").select("label").run()
    app.segmented_control(key="by").select("injected").run()
    assert (address(app)["colour"], address(app)["by"]) == ("label", "injected")


def test_without_units_a_button_measures_them(copy: Copy, data: Path, started: Started) -> None:
    make_members(copy())
    leave_job(
        data / "jobs" / ".encoders" / "made" / "units", exit_code=2, said="error: *no* units\n"
    )
    app = open_page(PAGE, view="units")
    assert app.error
    assert "error: *no* units" in texts(app)
    press(app, "Measure units")
    assert started == [("units", ["units", "made"])]


def test_the_page_offers_to_train_encoders_and_then_says_which_holds_more(
    copy: Copy, data: Path, started: Started
) -> None:
    locked = {"lock_image": True, "lock_text": True, "image_tower": "a", "text_tower": "b"}
    audit = with_config(copy(), **locked)
    app = open_page(PAGE)
    button = next(button for button in app.button if button.label.startswith("Train encoders on"))
    button.click().run()
    assert started == [("encoders", ["encoders", "made"])]
    second = with_config(copy(name=t.encoders_name(audit)), unlock=1, **locked)
    groups = {t.TYPICAL: (300, 0.1, 0.2, 0.1, 0.05, 0.15)}
    names = ["n", "image", "text", "difference", "low", "high"]
    table = pd.DataFrame.from_dict(groups, "index", columns=names).rename_axis("group")
    path = t.comparison_file(second)
    path.parent.mkdir(parents=True)
    write_table(path, table.reset_index())
    app = open_page(PAGE)
    assert not app.exception, said(app)
    lines = " ".join(texts(app))
    assert "Typical pairs (300): the text encoder holds more" in lines
    assert "typical pairs here agree" in captions(app)
    assert not [button for button in app.button if button.label.startswith("Train encoders on")]
