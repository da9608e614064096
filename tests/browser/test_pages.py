"""Every page in a real browser, to its end, with an audit in every state: nothing fails, pictures
load, hostile captions do nothing, and it fits the screen."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipmem_core.auditing.folder.store import Audit
from tests.audit.small import made_once
from tests.browser.server import serve
from tests.browser.states import FEW, NAMES, STATES, make_states
from tests.browser.watched import (
    check_pictures,
    close_watched,
    open_watched,
    scroll_down,
    wait_idle,
)

PICTURES = {"overview": 12, "browse": 24, "pair": 1}  # at least so many of a usual audit
USUAL = ("hostile", "paper", "locked")
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


@pytest.fixture(scope="module")
def states(
    tmp_path_factory: pytest.TempPathFactory, browser: Any, typed: Path, long: Audit
) -> Iterator[str]:
    """Where a data folder with an audit in each state is served."""
    made = made_once(tmp_path_factory, "states", lambda data: make_states(data, typed, long))
    data = shutil.copytree(made, tmp_path_factory.mktemp("states") / "data")
    with serve(Path(data)) as served:
        yield served


# As the back button goes: the scripts of the app, which take a second, run once for many pages.
GO = """address => {
    history.pushState(null, '', address)
    dispatchEvent(new PopStateEvent('popstate'))
}"""


def check_page(page: Any, address: str, name: str, audit: str) -> None:
    """Open a page, draw it to its end on a desk, and fit it to a phone."""
    page.set_viewport_size({"width": 1280, "height": 900})
    if page.url.startswith(address):
        page.evaluate(GO, f"{address}/{name}?audit={audit}")
        page.wait_for_function("title => document.title === title", arg=title_of(name))
    else:
        page.goto(f"{address}/{name}?audit={audit}")
    wait_idle(page)
    scroll_down(page)
    check_pictures(page, at_least=PICTURES.get(name, 0) if audit in USUAL else 0)
    assert page.title() == title_of(name)
    assert page.locator("h1").first.is_visible()
    assert page.locator(ACTIVE).count() == 0
    page.wait_for_function(FITS)
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_function(FITS)
    wait_idle(page)
    assert not page.troubles, (name, page.troubles)


def title_of(name: str) -> str:
    return f"{NAMES[name]} · CLIPMem"


@pytest.mark.parametrize("audit", STATES)
def test_pages_are_drawn_to_their_end_in_every_state(context: Any, states: str, audit: str) -> None:
    theme = ("light", "dark")[[*STATES].index(audit) % 2]
    page = open_watched(context, theme=theme)
    for name in STATES[audit]:
        check_page(page, states, name, audit)
    close_watched(page, states)


def test_pages_without_any_audit(context: Any, tmp_path: Path) -> None:
    with serve(tmp_path) as address:
        page = open_watched(context, theme="dark")
        for name in FEW:
            check_page(page, address, name, "")
        close_watched(page, address)
