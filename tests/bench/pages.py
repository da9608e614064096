"""The dashboard: Browse over a million pairs in Streamlit's test driver, and a switch of the page
Mitigations in Chromium.

The million pairs have random scores, real thumbnails and 200,000 decisions. The floor of Browse is
the same count and first page as plain DuckDB queries.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import duckdb
import numpy as np
from streamlit.testing.v1 import AppTest

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.config import DATA_VARIABLE
from clipmem_core.lab.mitigated import seconds_needed
from clipmem_core.review.decisions import KEEP, open_review
from clipmem_core.review.filters import pair_ids
from clipmem_core.review.views import Selection
from tests.bench import ROOT, Measure, Measures, Skipped, console
from tests.browser.conftest import FLAGS
from tests.browser.server import serve
from tests.browser.watched import open_watched
from tests.large_fixtures import make_large_audit

NAME = "scenes"
PLAIN = (
    "SELECT count(*) FROM read_parquet(?) WHERE isfinite(clipmem)",
    "SELECT pair_id, clipmem FROM read_parquet(?) WHERE isfinite(clipmem) ORDER BY clipmem DESC "
    "LIMIT 24",
)


def measure_browse(quick: bool) -> Measures:
    """Measure each kind of change of Browse over many pairs."""
    pairs, runs = (20_000, 4) if quick else (1_000_000, 40)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {DATA_VARIABLE: folder}):
        console.print(f"making an audit of {pairs:,} pairs")
        audit = make_large_audit(Path(folder), "million", pairs=pairs)
        decided = pair_ids(audit, Selection())[: pairs // 5]
        open_review(audit).decide(decided, KEEP, audit=audit.name)
        plain = statistics.median(_milliseconds_of_queries(audit) for _ in range(runs))
        app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
        app.switch_page("pages/browse.py")
        lines = []
        for kind in _draw_changes(rng):
            times = [_milliseconds_of_page(app, _draw_changes(rng)[kind]) for _ in range(runs + 1)]
            half, most = np.percentile(times[1:], (50, 95)).tolist()
            what = f"Browse, {pairs:,} pairs, {kind}"
            lines.append(Measure(f"{what}: p50", half, "ms", plain))
            lines.append(Measure(f"{what}: p95", most, "ms", plain, target="≤ 300"))
    return lines


def _milliseconds_of_queries(audit: Audit) -> float:
    began = time.perf_counter()
    with duckdb.connect() as database:
        for query in PLAIN:
            database.execute(query, [str(audit.folder / "scores.parquet")]).fetchall()
    return (time.perf_counter() - began) * 1000


def _milliseconds_of_page(app: AppTest, address: dict[str, str]) -> float:
    app.query_params.clear()
    app.query_params.update(address)
    began = time.perf_counter()
    app.run()
    if app.exception:
        raise RuntimeError(f"the page failed at {address}: {app.exception[0].message}")
    return (time.perf_counter() - began) * 1000


def _draw_changes(rng: np.random.Generator) -> dict[str, dict[str, str]]:
    """Draw an address of each kind of change that was not asked for before."""
    page = str(rng.integers(2, 400))
    order = str(rng.choice(["clipmem", "misfit", "similarity_out", "clipmem_text", "learned"]))
    turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x = 0.3 + rng.normal() * 0.05 + 0.2 * np.cos(turns)
    y = 0.3 + 0.2 * np.sin(turns) + 0.03 * np.cos(7 * turns)
    corners = ":".join(f"{a:.4g}:{b:.4g}" for a, b in zip(x, y, strict=True))
    shape = rng.choice(["circle", "square", "triangle"])
    colour = rng.choice(["crimson", "teal", "goldenrod", "slateblue", "olivedrab"])
    return {
        "open": {},
        "page": {"page": page},
        "order": {"order": order, "ascending": str(rng.integers(2))},
        "score range": {"range": f"clipmem:{rng.normal() * 0.1:.4f}:"},
        "words": {"words": f"{shape} {colour}", "page": page},
        "lasso": {"outline": f"similarity_out:clipmem:{corners}"},
        "decision": {"decision": "undecided", "order": order, "page": page},
        "table": {"layout": "table", "page": page},
    }


def measure_lab(quick: bool) -> Measures:
    """Measure a switch of the page Mitigations in Chromium: the first point, and all members."""
    lines = []
    sizes = {1_100: ("≤ 3", "≤ 12"), 8_000: ("≤ 12", "≤ 45")}
    for pairs in list(sizes)[: 1 if quick else None]:
        with _served_audit(pairs) as (browser, address, audit):
            first, every = _switch(open_watched(browser, size=(1440, 900)), address)
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
