"""Every page in a real browser: its pictures load, hostile captions do nothing, and it looks as it should."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipmem_core.dashboard.page import PAGES
from tests.browser.conftest import TRAINED
from tests.browser.watched import check_pictures, settle

NAMES = {Path(path).stem: title for path, (title, _) in PAGES.items()}
PICTURES = {"overview": 12, "browse": 24, "pair": 1}  # at least so many
SCREENS = {"desk": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 800}}
FITS = """() => {
    const [main, side] = ['stMain', 'stSidebar'].map(name => document.querySelector(`[data-testid=${name}]`))
    if (innerWidth < 600 && side && side.getBoundingClientRect().right > 1) return false  // it is still closing
    return main.scrollWidth <= main.clientWidth && document.body.scrollWidth <= innerWidth
}"""
ACTIVE = "a[href*='javascript:'], [data-testid=stMain] img[src=x], [data-testid=stMain] script, .katex"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: CLIPMEM_SCREENSHOTS, or a folder of pytest's."""
    given = os.environ.get("CLIPMEM_SCREENSHOTS")
    chosen = Path(given) if given else tmp_path_factory.mktemp("screenshots")
    chosen.mkdir(parents=True, exist_ok=True)
    return chosen


@pytest.mark.parametrize(("page", "audit"), [("light", TRAINED), ("dark", "hostile")], indirect=["page"])
@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_readable_in_either_theme_fits_a_phone_and_hostile_captions_do_nothing(
    page: Any, request: pytest.FixtureRequest, address: str, folder: Path, name: str, audit: str
) -> None:
    theme = request.node.callspec.params["page"]
    page.goto(f"{address}/{name}?audit={audit}")
    settle(page)
    check_pictures(page, at_least=PICTURES.get(name, 0))
    assert page.title() == f"{NAMES[name]} · CLIPMem"
    assert page.locator("h1").is_visible()
    assert page.locator(ACTIVE).count() == 0
    for device, size in SCREENS.items():
        page.set_viewport_size(size)
        page.wait_for_function(FITS)
        path = folder / f"{name}-{theme}-{device}.png"
        page.screenshot(path=path)
        _check_screenshot(path, dark=theme == "dark")


def _check_screenshot(path: Path, *, dark: bool) -> None:
    """The ground has the brightness of its theme, and there is something on it that stands out."""
    with Image.open(path) as image:
        grey = np.asarray(image.convert("L")).astype(float)
    ground = np.median(grey)
    assert ground < 60 if dark else ground > 200
    assert np.mean(np.abs(grey - ground) > 80) > 0.003


def test_the_app_opens_at_the_address_of_its_first_page_which_can_be_opened_again(page: Any, address: str) -> None:
    page.goto(address)
    page.wait_for_url(f"{address}/overview?audit={TRAINED}")
    settle(page)
    page.reload()
    settle(page)
    assert page.get_by_role("dialog").count() == 0


def test_an_address_that_leads_to_no_page_says_so(page: Any, address: str) -> None:
    page.goto(f"{address}/nopage?audit=paper")
    page.get_by_text("This page does not exist").wait_for()
    page.get_by_text("requested: nopage").wait_for()
    settle(page)
    assert page.title() == "No such page · CLIPMem"
    page.troubles.clear()  # Streamlit tells it to the console as well


def test_a_broken_audit_is_told(page: Any, address: str) -> None:
    page.goto(f"{address}/overview?audit=broken")
    page.get_by_text("This audit cannot be shown.").wait_for()
    page.get_by_text("scores.parquet is missing: run the audit again").wait_for()
    settle(page)
