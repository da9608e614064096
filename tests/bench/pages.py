"""The dashboard: Browse over a million pairs in Streamlit's test driver, and Browse and Review in
Chromium.

The million pairs have random scores, real thumbnails and 200,000 decisions. The floor of a page is
the same count and first page as plain DuckDB queries; the floor of a cold start is the import of
its libraries. In Chromium, a key is lost if the page took it and the log has no event for it, or
has one on another pair; a key pressed before its pair is painted is refused with a sign.
"""

import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil

from clipmem_core.audit.store import Audit
from clipmem_core.config import DATA_VARIABLE
from clipmem_core.lab.mitigated import seconds_needed
from clipmem_core.review.decisions import KEEP, Review, open_review
from clipmem_core.review.rows import pair_ids
from clipmem_core.review.selection import Selection
from tests.bench import ROOT, Measure, Measures, Skipped, console
from tests.browser.conftest import FLAGS
from tests.browser.reviewing import (
    STORED,
    WATCH,
    accepted,
    all_stored,
    events,
    open_review_page,
    press,
)
from tests.browser.server import serve
from tests.browser.watched import check_pictures, open_watched, wait_idle
from tests.fixtures import make_audit
from tests.large_fixtures import make_large_audit

RUNS = 8  # of each interaction in Chromium
NAME = "scenes"
WIDE = (1440, 900)


def measure_browse(quick: bool) -> Measures:
    """Measure the cold start of a small audit, and each kind of change over many pairs."""
    pairs, runs = (20_000, 4) if quick else (1_000_000, 40)
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small"
        large = Path(folder) / "large"
        make_audit(small, "small")
        cold, overview, imported = (
            statistics.median(turn(small, *what.split())["seconds"] for _ in range(3))
            for what in ("open browse", "open overview", "imports")
        )
        console.print(f"making an audit of {pairs:,} pairs")
        audit = make_large_audit(large, "million", pairs=pairs)
        with patch.dict(os.environ, {DATA_VARIABLE: str(large)}):
            open_review(audit).decide(
                pair_ids(audit, Selection())[: pairs // 5], KEEP, audit=audit.name
            )
        times_by_kind = turn(large, "browse", str(runs))
    plain = statistics.median(times_by_kind.pop("plain"))
    memory = times_by_kind.pop("memory_mb")
    what = "100 pairs, first page in a fresh process"
    lines = [
        Measure(f"Browse, {what}", cold, "s", floor=imported),
        Measure(f"Overview, {what}", overview, "s", floor=imported, target="≤ 2"),
    ]
    for kind, times in times_by_kind.items():
        lines += _percentiles(f"Browse, {pairs:,} pairs, {kind}", times, 300, floor=plain)
    return [*lines, Measure(f"Browse, {pairs:,} pairs: memory", memory, "MB", target="< 2000")]


def turn(data: Path, *arguments: str) -> dict[str, Any]:
    """Run a turn of Browse in a process of its own and return what it measured."""
    command = [sys.executable, str(Path(__file__).with_name("browse_turn.py")), *arguments]
    environment = {**os.environ, DATA_VARIABLE: str(data), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _percentiles(what: str, times: list[float], limit: int, floor: float | None = None) -> Measures:
    half, most = np.percentile(times, (50, 95)).tolist()
    return [
        Measure(f"{what}: p50", half, "ms", floor),
        Measure(f"{what}: p95", most, "ms", floor, target=f"≤ {limit}"),
    ]


def measure_review(quick: bool) -> Measures:
    """Measure Browse and Review in Chromium on an audit of the synthetic set."""
    with _served_audit(1_100) as (browser, address, audit):
        pages = [open_watched(browser) for _ in range(2)]
        for page in pages:
            page.add_init_script(WATCH)
        return [
            *_visits(browser, address, 2 if quick else RUNS),
            *_interactions(open_watched(browser, size=WIDE), address, 2 if quick else RUNS),
            *_tours(open_watched(browser), address, 2 if quick else 6),
            *_keys(pages[0], address, open_review(audit), 5 if quick else 60),
            _until_shared(pages, address),
        ]


def measure_lab(quick: bool) -> Measures:
    """Measure a switch of the page Mitigations in Chromium: the first point, and all members."""
    lines = []
    sizes = {1_100: ("≤ 3", "≤ 12"), 8_000: ("≤ 12", "≤ 45")}
    for pairs in list(sizes)[: 1 if quick else None]:
        with _served_audit(pairs) as (browser, address, audit):
            first, every = _switch(open_watched(browser, size=WIDE), address)
            floor = seconds_needed(audit, len(audit.record.members))
        what = f"Mitigations, {pairs:,} pairs × 5, a switch"
        lines += [
            Measure(f"{what}: four members", first, "s", floor / 4, target=sizes[pairs][0]),
            Measure(f"{what}: all 16", every, "s", floor, target=sizes[pairs][1]),
        ]
    return lines


@contextmanager
def _served_audit(pairs: int) -> Iterator[tuple[Any, str, Audit]]:
    """Yield a browser, the address of a served data folder, and its audit of the synthetic set."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise Skipped("playwright is not installed") from None
    if chromium is None:
        raise Skipped("no chromium on this machine: apt-get install chromium")
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ, {DATA_VARIABLE: folder}),
        sync_playwright() as started,
    ):
        flags = ["--name", NAME, "--scenes-pairs", str(pairs)]
        subprocess.run(
            [sys.executable, "-m", "clipmem_core", "audit", "scenes", *flags], check=True
        )
        with serve(Path(folder)) as address:
            browser = started.chromium.launch(executable_path=chromium, args=FLAGS)
            yield browser, address, Audit(Path(folder) / "audits" / NAME)


def _switch(page: Any, address: str) -> tuple[float, float]:
    """Switch noise on, and return the seconds until its effect is on the page, with four members
    and with all."""
    page.goto(f"{address}/mitigations?audit={NAME}")
    page.get_by_text("Bars: 95 % interval").wait_for(timeout=120_000)
    time.sleep(10)  # the page stands open: it measures the rest of the baseline
    began = time.monotonic()
    page.get_by_text("Noise on text embeddings", exact=True).first.click()
    page.get_by_text("The intervals cover").wait_for(timeout=300_000)
    first = time.monotonic() - began
    page.get_by_text("16 of 16 members").wait_for(timeout=300_000)
    return first, time.monotonic() - began


def _visits(browser: Any, address: str, runs: int) -> Measures:
    """Open the Overview without a browser's cache until its pictures are there, a fresh server
    first."""
    times = []
    for _ in range(runs + 1):
        page = open_watched(browser, size=(1440, 900))
        began = time.perf_counter()
        page.goto(f"{address}/overview?audit={NAME}")
        check_pictures(page, at_least=12)
        wait_idle(page)
        times.append((time.perf_counter() - began) * 1000)
        page.close()
    what = "Overview in Chromium, until its pictures are there"
    first = Measure(f"{what}: first visit to a fresh server", times[0], "ms", target="≤ 2000")
    return [first, *_percentiles(what, times[1:], 2000)]


def _interactions(page: Any, address: str, runs: int) -> Measures:
    """Measure Browse as a person uses it, until what was asked for is on screen."""
    page.goto(f"{address}/browse?audit={NAME}")
    page.locator(".card").first.wait_for()
    wait_idle(page)
    check_pictures(page, at_least=24)
    lines: Measures = []
    for what, act in _ACTS.items():
        act(page)()  # the first search loads torch
        times = []
        for _ in range(runs):
            began = time.perf_counter()
            back = act(page)
            times.append((time.perf_counter() - began) * 1000)
            back()
        lines += _percentiles(f"Browse in Chromium, {what}", times, 1000)
    return lines


def _tours(page: Any, address: str, tours: int) -> Measures:
    """Visit every page again and again; measure the server's memory after the first tour, and how
    much it grows."""
    server = next(child for child in psutil.Process().children() if "streamlit" in child.cmdline())
    memory = []
    for _ in range(tours):
        for path in sorted((ROOT / "pages").glob("*.py")):
            page.goto(f"{address}/{path.stem}?audit={NAME}")
            wait_idle(page)
        memory.append(server.memory_info().rss / 1e6)
    page.close()
    what = "Memory of the server after a tour of all pages"
    grown = Measure(
        f"{what}: growth in {tours - 1} more", memory[-1] - memory[0], "MB", target="≤ 20"
    )
    return [Measure(what, memory[0], "MB"), grown]


def _keys(page: Any, address: str, review: Review, seconds: int) -> Measures:
    """Press five keys a second, and count what was stored."""
    open_review_page(page, address, NAME, order="misfit")
    before = len(events(review))
    n = 5 * seconds
    press(page, ("kx" * n)[:n])
    all_stored(page)
    stored = [(pair, decision) for pair, decision, _ in events(review)][before:]
    pressed = accepted(page)
    lost = sum(key != event for key, event in itertools.zip_longest(pressed, stored))
    what = f"Review, {n} keys at 5 a second"
    return [
        Measure(f"{what}: lost or on another pair", lost, "keys", target="0"),
        Measure(f"{what}: refused", n - len(pressed), "keys"),
    ]


def _until_shared(pages: list[Any], address: str) -> Measure:
    """Measure the time until another browser shows a decision."""
    times = []
    for _ in range(5):
        for page in pages:
            open_review_page(page, address, NAME)
            page.wait_for_timeout(2000)
        pages[0].keyboard.press("k")
        began = time.monotonic()
        pages[1].get_by_text("Just marked Keep in another tab.").wait_for()
        times.append(time.monotonic() - began)
    what = "Review: until another browser shows a decision, largest of 5"
    return Measure(what, max(times), "s", target="≤ 2")


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
    page.locator(".card .caption").nth(3).click()
    page.locator(".pair[data-pair]").first.wait_for()
    page.wait_for_url("**/pair?*")  # Streamlit changes the address after it draws the page

    def back() -> None:
        wait_idle(page)
        page.go_back()
        page.locator(".card.current").wait_for()
        wait_idle(page)
        check_pictures(page, at_least=24)

    return back


def _turn(page: Any) -> Callable[[], None]:
    page.locator("[data-act=next]").click()
    page.get_by_text("2 / ").wait_for()
    check_pictures(page, at_least=24)

    def back() -> None:
        page.locator("[data-act=previous]").click()
        page.get_by_text("1 / ").wait_for()
        wait_idle(page)

    return back


def _typed(label: str, chip: str, texts: Iterator[str]) -> Callable[[Any], Callable[[], None]]:
    def act(page: Any) -> Callable[[], None]:
        text = next(texts)
        field = page.get_by_label(label)
        if not field.is_visible():  # it is in the drawer
            page.get_by_role("button", name="Filter").first.click()
        field.fill(text)
        page.keyboard.press("Enter")
        page.get_by_text(f"{chip}: {text}").wait_for()

        def back() -> None:
            wait_idle(page)
            page.get_by_test_id("stBaseButton-tertiary").filter(has_text="Clear all").click()
            page.get_by_text(f"{chip}: {text}").wait_for(state="detached")
            wait_idle(page)

        return back

    return act


_ACTS: dict[str, Callable[[Any], Callable[[], object]]] = {
    "nine pairs selected as a range (two clicks)": _select_range,
    "a page of 24 selected and removed (two clicks)": _remove_page,
    "a picture clicked, until its pair is there": _open_pair,
    "a page turned, until its 24 pictures are there": _turn,
    "a word filtered by": _typed("Words in the caption", "words", itertools.repeat("red")),
    "a search by meaning": _typed(
        "Search by meaning", "captions close to", map("{} cats".format, itertools.count())
    ),
}
