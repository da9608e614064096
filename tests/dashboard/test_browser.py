"""The dashboard in a real browser: what AppTest cannot see."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.made_audit import HOSTILE, make_audit

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve a finished audit of each protocol and a broken one on a free port."""
    data = tmp_path_factory.mktemp("served")
    make_audit(data, "ensemble")
    make_audit(data, "paper", protocol="paper")
    (make_audit(data, "broken").folder / "scores.parquet").unlink()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", f"--server.port={port}", "--server.headless=true"]
    environment = {**os.environ, "CLIPMEM_DATA": str(data)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    server = subprocess.Popen(command, cwd=ROOT, env=environment, **quiet)
    try:
        _await(f"http://localhost:{port}/_stcore/health")
        yield f"http://localhost:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=20)


def _await(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.2)


@pytest.fixture
def page(request: pytest.FixtureRequest, browser: Any) -> Iterator[Any]:
    """A page that remembers what went wrong in it, and every address it asked for."""
    opened = browser.new_page(color_scheme=getattr(request, "param", "light"), viewport={"width": 1280, "height": 900})
    opened.troubles, opened.asked = [], []
    opened.on("console", lambda message: opened.troubles.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: opened.troubles.append(str(error)))
    opened.on("request", lambda request: opened.asked.append(request.url))
    yield opened
    opened.close()


def test_a_deep_link_to_the_page_works_and_a_broken_audit_is_told(page: Any, address: str) -> None:
    """Comes first: the server is still cold, so app.py has not run."""
    page.goto(f"{address}/overview?audit=broken")
    page.get_by_text("This audit cannot be shown.").wait_for()
    page.get_by_text("scores.parquet is missing: run the audit again").wait_for()
    assert page.get_by_test_id("stException").count() == 0


@pytest.mark.parametrize("page", ["light", "dark"], indirect=True)
def test_pictures_load_and_hostile_captions_do_nothing(page: Any, address: str) -> None:
    page.goto(f"{address}/?audit=ensemble")
    page.wait_for_function("() => document.images.length === 24 && [...document.images].every(i => i.naturalWidth > 0)")
    page.get_by_text(HOSTILE[0]).wait_for()
    page.get_by_text(HOSTILE[2]).wait_for()
    assert page.title() == "Overview · CLIPMem"
    assert page.locator("a[href*='javascript:'], [data-testid=stMain] img[src=x], .katex").count() == 0
    assert all(image.get_attribute("alt") for image in page.locator("[data-testid=stMain] img").all())
    assert page.troubles == []


def test_nothing_is_asked_of_other_machines(page: Any, address: str) -> None:
    page.goto(f"{address}/?audit=paper&order=Probably+the+wrong+caption")
    page.wait_for_function("() => document.images.length === 24")
    page.get_by_text("clipmem by group").wait_for()
    assert [url for url in page.asked if not url.startswith((address, "data:", "blob:"))] == []
    assert page.troubles == []


def test_a_group_of_another_protocol_in_the_address_is_passed_over(page: Any, address: str) -> None:
    page.goto(f"{address}/?audit=paper&group=scored&order=nonsense")
    page.wait_for_function("() => document.images.length === 24")
    assert page.get_by_test_id("stException").count() == 0
