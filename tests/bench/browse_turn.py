"""One turn of the dashboard's benchmark, in a process of its own: a page opened cold, or Browse
used for a while.

    python tests/bench/browse_turn.py open PAGE | imports | browse REPEATS [KIND…]

Works on the data folder that CLIPMEM_DATA names, on its newest audit; prints what it measured as
JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()
# run as a script: the package imports too much
APP = str(Path(__file__).resolve().parents[2] / "app.py")
Address = dict[str, str]


def imports() -> dict[str, Any]:
    """Import the libraries that no page can do without: what a cold page has as its floor."""
    import duckdb  # noqa: F401
    import pandas as pd  # noqa: F401
    import plotly.graph_objects as go  # noqa: F401
    import streamlit.testing.v1  # noqa: F401

    return {"seconds": time.perf_counter() - BEGAN}


def open_cold(page: str) -> dict[str, Any]:
    """Open a page in a process that has done nothing yet."""
    _run(_page(page), {})
    return {"seconds": time.perf_counter() - BEGAN}


def browse(repeats: int, kinds: list[str]) -> dict[str, Any]:
    """Run the script of Browse for every kind of change, or some, each as often; the first run of
    each is not counted.

    Returns:
        kind → milliseconds of each run; `plain`: of a query that counts and takes the first page;
        memory_mb.
    """
    import numpy as np

    from clipmem_core.audit.store import list_audits

    audit = list_audits()[0]
    app = _page("browse")
    rng = np.random.default_rng(0)
    times: dict[str, Any] = {"plain": [_plain(audit.folder) for _ in range(repeats + 1)][1:]}
    for kind, draw in _changes(rng).items():
        if not kinds or kind in kinds:
            times[kind] = [_run(app, draw()) for _ in range(repeats + 1)][1:]
    pages = Path("/proc/self/statm").read_text().split()
    return times | {"memory_mb": int(pages[1]) * 4096 / 1e6}


def _changes(rng: Any) -> dict[str, Callable[[], Address]]:
    """Return, for each kind of change, what draws an address that was not asked for before."""
    shapes = ["circle", "square", "triangle"]
    colours = ["crimson", "teal", "goldenrod", "slateblue", "olivedrab"]
    syllables = [a + b for a in "bdgklmnprst" for b in "aeiou"]
    orders = ["clipmem", "misfit", "similarity_out", "clipmem_text", "se", "learned"]
    return {
        "open": lambda: {},
        "page": lambda: {"page": str(rng.integers(2, 400))},
        "deep page": lambda: {"page": str(rng.integers(10_000, 40_000))},
        "order": lambda: {"order": str(rng.choice(orders)), "ascending": str(rng.integers(2))},
        "group": lambda: {
            "group": str(rng.choice(["scored", "external"])),
            "order": str(rng.choice(orders)),
        },
        "score range": lambda: {"range": f"clipmem:{rng.normal() * 0.1:.4f}:"},
        "words": lambda: {"words": " ".join(map(rng.choice, (shapes, colours, syllables)))},
        "lasso": lambda: {"outline": _lasso(rng)},
        "decision": lambda: {"decision": "undecided", "order": str(rng.choice(orders))},
        "table": lambda: {"layout": "table", "page": str(rng.integers(2, 400))},
    }


def _lasso(rng: Any) -> str:
    """Return the address's outline of a wobbly shape of 40 corners on the Overview's map."""
    import numpy as np

    turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x = 0.3 + rng.normal() * 0.05 + 0.2 * np.cos(turns)
    y = 0.3 + 0.2 * np.sin(turns) + 0.03 * np.cos(7 * turns)
    corners = ":".join(f"{a:.4g}:{b:.4g}" for a, b in zip(x, y, strict=True))
    return f"similarity_out:clipmem:{corners}"


def _page(name: str) -> Any:
    from streamlit.testing.v1 import AppTest

    app = AppTest.from_file(APP, default_timeout=120)
    app.switch_page(f"pages/{name}.py")
    return app


def _run(app: Any, address: Address) -> float:
    """Run the page's script at an address; return its milliseconds."""
    app.query_params.clear()
    app.query_params.update(address)
    began = time.perf_counter()
    app.run()
    took = (time.perf_counter() - began) * 1000
    if app.exception or not app.get("bidi_component"):
        raise RuntimeError(
            f"the page failed at {address}: {[error.message for error in app.exception]}"
        )
    return took


def _plain(folder: Path) -> float:
    """Count the scored pairs and take the first page, as a single query without a cache: what the
    ratio is to."""
    import duckdb

    began = time.perf_counter()
    path = str(folder / "scores.parquet")
    with duckdb.connect() as database:
        database.execute(
            "SELECT count(*) FROM read_parquet(?) WHERE isfinite(clipmem)", [path]
        ).fetchall()
        query = (
            "SELECT pair_id, clipmem FROM read_parquet(?) WHERE isfinite(clipmem) ORDER BY "
            "clipmem DESC LIMIT 24"
        )
        database.execute(query, [path]).fetchall()
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    turns: dict[str, Callable[[], dict[str, Any]]] = {
        "open": lambda: open_cold(sys.argv[2]),
        "imports": imports,
        "browse": lambda: browse(int(sys.argv[2]), sys.argv[3:]),
    }
    print(json.dumps(turns[sys.argv[1]]()))
