"""Measures review mode in Chromium: a minute of keys at five a second, and two browsers at three a second each.

A key counts as lost where the page took it and the log has no event for it, or has one on another pair than was on
screen. A key that comes before its pair is painted is refused with a sign; these are counted apart.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from clipmem_core.audits.store import Audit
from clipmem_core.config import DATA_VARIABLE
from clipmem_core.review.decisions import Review, open_review
from tests.bench.report import Measure, Measures, Skipped
from tests.browser.conftest import FLAGS
from tests.browser.reviewing import WATCH, all_stored, open_review_page, press, taken
from tests.browser.server import serve
from tests.browser.test_keys import events
from tests.browser.watched import open_watched

NAME = "scenes"
SECONDS, QUICK_SECONDS = 60, 5
ALONE, TOGETHER = 5, 3  # keys a second
TRIALS = 5


def measure(quick: bool, repeats: int) -> Measures:
    """Measure one browser, then two; `repeats` changes nothing."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise Skipped("playwright is not installed") from None
    if chromium is None:
        raise Skipped("no chromium on this machine: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        os.environ[DATA_VARIABLE] = folder
        subprocess.run([sys.executable, "-m", "clipmem_core", "audit", "scenes", "--name", NAME], check=True)
        review, seconds = open_review(Audit(data / "audits" / NAME)), QUICK_SECONDS if quick else SECONDS
        with serve(data) as address, sync_playwright() as started:
            browser = started.chromium.launch(executable_path=chromium, args=FLAGS)
            pages = [open_watched(browser) for _ in range(2)]
            for page in pages:
                page.add_init_script(WATCH)
            return [
                *_alone(pages[0], address, review, seconds),
                *_together(pages, address, review, seconds),
                *_seen(pages, address),
            ]


def _alone(page: Any, address: str, review: Review, seconds: int) -> Measures:  # noqa: ANN401
    open_review_page(page, address, NAME)
    keys = ("kx" * (seconds * ALONE))[: seconds * ALONE]
    began = time.monotonic()
    press(page, keys, seconds=1 / ALONE)
    pressed = time.monotonic()
    all_stored(page)
    stored = time.monotonic()
    wanted, found = taken(page), [(pair, decision) for pair, decision, _ in events(review)]
    return [
        Measure("one browser: keys pressed a second", value=len(keys) / (pressed - began), target=f"{ALONE}"),
        Measure("one browser: decisions stored a second", value=len(found) / (stored - began)),
        Measure("one browser: keys refused, not on screen yet", value=len(keys) - len(wanted)),
        Measure("one browser: decisions lost or on another pair", value=_differing(wanted, found), target="0"),
        Measure("one browser: last key to all stored, s", value=stored - pressed),
    ]


def _differing(wanted: list[Any], found: list[Any]) -> int:
    """Return how many places differ of two lists that are to be the same."""
    pairs = zip(wanted, found, strict=False)
    return sum(one != other for one, other in pairs) + abs(len(wanted) - len(found))


def _together(pages: list[Any], address: str, review: Review, seconds: int) -> Measures:
    for page in pages:
        open_review_page(page, address, NAME)
    before, began, pace = len(events(review)), time.monotonic(), len(pages) * TOGETHER
    for place in range(seconds * pace):
        time.sleep(max(0.0, began + place / pace - time.monotonic()))
        pages[place % 2].keyboard.press("kx"[place % 2])  # one keeps, the other removes: the log tells them apart
    pressed = time.monotonic()
    for page in pages:
        all_stored(page)
    found = [(pair, decision) for pair, decision, _ in events(review)][before:]
    lost = sum(
        _differing(taken(page), [each for each in found if each[1] == decision])
        for page, decision in zip(pages, ("keep", "remove"), strict=True)
    )
    refused = seconds * pace - sum(len(taken(page)) for page in pages)
    return [
        Measure(
            "two browsers: keys pressed a second, both", value=seconds * pace / (pressed - began), target=f"{pace}"
        ),
        Measure("two browsers: keys refused, not on screen yet", value=refused),
        Measure("two browsers: decisions lost or on another pair", value=lost, target="0"),
    ]


def _seen(pages: list[Any], address: str) -> Measures:
    """Measure how long it takes until a decision shows in the other browser, which has the same pair on screen."""
    times = []
    for _ in range(TRIALS):
        for page in pages:
            open_review_page(page, address, NAME)
            page.wait_for_timeout(2000)
        pages[0].keyboard.press("k")
        began = time.monotonic()
        pages[1].get_by_text("Somebody else has just said: keep.").wait_for()
        times.append(time.monotonic() - began)
    return [Measure("two browsers: until the other sees a decision, largest of 5, s", value=max(times), target="≤ 2")]
