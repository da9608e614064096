"""Measures the dashboard: Browse over a million pairs, kind of change by kind, and the first page of a small audit.

Each turn is a process of its own. The million has random scores, real thumbnails and 200,000 decisions; runs of the
page's script are timed inside the test driver of Streamlit, whose own work is counted in.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from clipmem_core.audits.store import Audit
from clipmem_core.config import DATA_VARIABLE
from clipmem_core.review.decisions import KEEP, open_review
from clipmem_core.review.rows import pair_ids
from clipmem_core.review.selection import Selection
from tests.bench.report import Measure, Measures, console
from tests.made_audit import make_audit
from tests.million import make_large_audit

ROOT = Path(__file__).resolve().parents[2]
PAIRS, QUICK_PAIRS = 1_000_000, 20_000
RUNS, QUICK_RUNS = 40, 4
BUDGET_MS = 300
MEMORY_MB = 2000
COLD_STARTS = 3


def measure(quick: bool, repeats: int) -> Measures:
    """Measure both; `repeats` changes nothing, each kind of change is run often enough."""
    with tempfile.TemporaryDirectory() as folder:
        return _cold(Path(folder) / "small") + _million(Path(folder) / "million", quick)


def _cold(data: Path) -> Measures:
    make_audit(data, "small")
    opened = [turn(data, "open")["seconds"] for _ in range(COLD_STARTS)]
    imported = [turn(data, "imports")["seconds"] for _ in range(COLD_STARTS)]
    ratio = statistics.median(opened) / statistics.median(imported)
    return [
        Measure("cold open of Browse, 100 pairs, s", value=statistics.median(opened)),
        Measure("cold open ÷ importing streamlit, pandas, plotly, duckdb", ratio=ratio),
    ]


def _million(data: Path, quick: bool) -> Measures:
    pairs = QUICK_PAIRS if quick else PAIRS
    console.print(f"making an audit of {pairs:,} pairs")
    _decide(data, make_large_audit(data, "million", pairs=pairs), pairs // 5)
    found = turn(data, "browse", str(QUICK_RUNS if quick else RUNS))
    plain, memory = statistics.median(found.pop("plain")), found.pop("memory_mb")
    lines = [Measure(f"plain count and first page in DuckDB, {pairs:,} pairs, p50 ms", value=plain)]
    for kind, times in found.items():
        slow = float(np.percentile(times, 95))
        lines.append(Measure(f"Browse, {kind}: p50 ms", value=statistics.median(times)))
        lines.append(
            Measure(f"Browse, {kind}: p95 ms; ratio to the plain query", slow, slow / plain, f"≤ {BUDGET_MS} ms")
        )
    return [*lines, Measure("memory of the process, MB", value=memory, target=f"< {MEMORY_MB}")]


def _decide(data: Path, audit: Audit, count: int) -> None:
    """Decide on the most memorized pairs, so that the log has something to say."""
    before = os.environ.get(DATA_VARIABLE)
    os.environ[DATA_VARIABLE] = str(data)
    try:
        open_review(audit).decide(pair_ids(audit, Selection())[:count], KEEP, audit=audit.name)
    finally:
        os.environ.pop(DATA_VARIABLE)
        if before is not None:
            os.environ[DATA_VARIABLE] = before


def turn(data: Path, *arguments: str) -> dict[str, Any]:
    """Run a turn and return what it printed."""
    command = [sys.executable, "-m", "tests.bench.browse_turn", *arguments]
    environment = {**os.environ, DATA_VARIABLE: str(data)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])
