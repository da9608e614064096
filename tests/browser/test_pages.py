"""Every page in a real browser: its pictures load, hostile captions do nothing, and it fits the
screen."""

from pathlib import Path
from typing import Any

import pytest

from clipmem_core.dashboard.page import PAGES
from tests.browser.conftest import TRAINED
from tests.browser.watched import check_pictures, wait_idle

NAMES = {Path(path).stem: title for path, (title, _) in PAGES.items()}
PICTURES = {"overview": 12, "browse": 24, "pair": 1}  # at least so many
FITS = """() => {
    const [main, side] = ['stMain', 'stSidebar'].map(name =>
    document.querySelector(`[data-testid=${name}]`))
    // The sidebar may still be closing
    if (innerWidth < 600 && side && side.getBoundingClientRect().right > 1) return false
    return main.scrollWidth <= main.clientWidth && document.body.scrollWidth <= innerWidth
}"""
ACTIVE = (
    "a[href*='javascript:'], [data-testid=stMain] img[src=x], [data-testid=stMain] script, .katex"
)


@pytest.mark.parametrize(
    ("page", "audit"), [("light", TRAINED), ("dark", "hostile")], indirect=["page"]
)
@pytest.mark.parametrize("name", NAMES)
def test_a_page_fits_desk_and_phone_and_hostile_captions_do_nothing(
    page: Any, address: str, name: str, audit: str
) -> None:
    page.goto(f"{address}/{name}?audit={audit}")
    wait_idle(page)
    check_pictures(page, at_least=PICTURES.get(name, 0))
    assert page.title() == f"{NAMES[name]} · CLIPMem"
    assert page.locator("h1").is_visible()
    assert page.locator(ACTIVE).count() == 0
    for width, height in ((1280, 900), (390, 800)):  # desk, phone
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_function(FITS)
