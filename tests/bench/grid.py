"""Measures Browse and a map in Chromium, as a person uses them: milliseconds until what was asked for is on screen.

    CLIPMEM_DATA=data python -m tests.bench.grid AUDIT

Works on an audit of the data folder, whose decisions are as before when it ends; prints each interaction's median and
95th percentile, the whole rows on the first screen, and how many of the keys pressed at five a second were lost.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clipmem_core.audits.store import Audit
from clipmem_core.config import DATA_VARIABLE
from clipmem_core.review.decisions import open_review
from tests.bench.report import Measure, Measures, save, show
from tests.browser.conftest import FLAGS
from tests.browser.server import serve
from tests.browser.watched import check_pictures, open_watched, settle

RUNS = 8
KEYS, PACE = 60, 0.2  # keys, and seconds between two of them
STORED = "() => !Object.keys(localStorage).some(key => key.startsWith('clipmem-review'))"


def measure(data: Path, name: str) -> Measures:
    """Measure every interaction `RUNS` times, in a browser and on a server of its own."""
    from playwright.sync_api import sync_playwright

    os.environ[DATA_VARIABLE] = str(data)
    audit = Audit(data / "audits" / name)
    with serve(data) as address, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = open_watched(browser, size=(1440, 900))
        _open(page, address, name)
        rows = page.evaluate(_WHOLE_ROWS)
        times = {what: [_ms(act, page) for _ in range(RUNS)] for what, act in _ACTS.items()}
        _open(page, address, name)
        stored = _keys(page, audit)
        browser.close()
    lines = [Measure("whole rows of pictures on the first screen, 1440 × 900", value=rows, target="≥ 2")]
    for what, found in times.items():
        lines.append(Measure(f"{what}: p50 ms", value=float(np.median(found))))
        lines.append(Measure(f"{what}: p95 ms", value=float(np.percentile(found, 95)), target="≤ 1000"))
    return [*lines, Measure(f"keys lost of {KEYS} at {1 / PACE:.0f} a second", value=KEYS - stored, target="0")]


def _open(page: Any, address: str, name: str) -> None:
    page.goto(f"{address}/browse?audit={name}")
    page.locator(".card").first.wait_for()
    settle(page)
    check_pictures(page, at_least=24)


def _ms(act: Callable[[Any], Callable[[], None] | None], page: Any) -> float:
    began = time.perf_counter()
    back = act(page)
    took = (time.perf_counter() - began) * 1000
    if back:
        back()
    return took


def _select_range(page: Any) -> Callable[[], None]:
    page.locator(".card .check").nth(1).click()
    page.locator(".card .picture").nth(9).click(modifiers=["Shift"])
    page.get_by_text("9 selected").wait_for()
    return lambda: page.keyboard.press("Escape")


def _remove_page(page: Any) -> Callable[[], None]:
    page.get_by_role("button", name="Select page").click()
    page.get_by_role("button", name="Remove").click()
    page.locator(".badge.remove").nth(23).wait_for()

    def take_back() -> None:
        page.wait_for_function(STORED)
        page.keyboard.press("u")
        page.locator(".badge.remove").first.wait_for(state="detached")
        page.wait_for_function(STORED)

    return take_back


def _open_pair(page: Any) -> Callable[[], None]:
    page.locator(".card .picture").nth(3).click()
    page.get_by_text("id: ").first.wait_for()

    def back() -> None:
        settle(page)
        page.go_back()
        page.locator(".card.current").wait_for()
        settle(page)
        check_pictures(page, at_least=24)

    return back


def _turn(page: Any) -> Callable[[], None]:
    page.locator("[data-act=next]").click()
    page.get_by_text("2 / ").wait_for()
    check_pictures(page, at_least=24)

    def back() -> None:
        page.locator("[data-act=previous]").click()
        page.get_by_text("1 / ").wait_for()
        settle(page)

    return back


def _filter(page: Any) -> Callable[[], None]:
    page.get_by_label("Words in the caption").fill("red")
    page.keyboard.press("Enter")
    page.get_by_text("words: red").wait_for()

    def back() -> None:
        page.get_by_test_id("stBaseButton-tertiary").filter(has_text="Clear all").click()
        page.get_by_text("words: red").wait_for(state="detached")
        settle(page)

    return back


_ACTS = {
    "nine pairs selected as a range (two clicks)": _select_range,
    "a page of 24 selected and removed (two clicks)": _remove_page,
    "a picture clicked, until its pair is there": _open_pair,
    "a page turned, until its 24 pictures are there": _turn,
    "a word filtered by": _filter,
}
_WHOLE_ROWS = """() => {
    const root = document.querySelector('[data-testid=stBidiComponentIsolated]').shadowRoot
    const boxes = [...root.querySelectorAll('.card')].map(card => card.getBoundingClientRect())
    return new Set(boxes.filter(box => box.bottom <= innerHeight).map(box => box.top)).size
}"""


def _keys(page: Any, audit: Audit) -> int:
    """Press keys at a pace, take all back, and return how many were stored."""
    review = open_review(audit)
    before = review.count_events()
    page.keyboard.press("ArrowRight")
    began = time.perf_counter()
    for place in range(KEYS):
        time.sleep(max(0.0, began + place * PACE - time.perf_counter()))
        page.keyboard.press("kx"[place % 2])
        if place % 20 == 19:
            for _ in range(20):
                page.keyboard.press("ArrowLeft")
    page.wait_for_function(STORED)
    stored = review.count_events() - before
    for _ in range(KEYS):
        page.keyboard.press("u")
    page.wait_for_function(STORED)
    return stored


if __name__ == "__main__":
    found = measure(Path(os.environ.get(DATA_VARIABLE, "data")), sys.argv[1])
    show({"grid": found})
    save("grid", found, command=f"python -m tests.bench.grid {sys.argv[1]}")
