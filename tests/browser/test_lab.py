"""A visitor's first minute on the page Mitigations, with the real server and its workers."""

import shutil
from pathlib import Path
from typing import Any

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.lab import mitigated
from tests.audit.test_jobs import until
from tests.browser.server import serve
from tests.browser.watched import close_watched, open_watched, wait_idle


def test_a_click_trains_the_members_again_and_says_what_changed(
    browser: Any, typed: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(typed, tmp_path / "data"))
    with serve(data) as address:
        page = open_watched(browser)
        page.goto(f"{address}/mitigations")
        wait_idle(page)
        assert page.get_by_text("memorization −").count() == 0
        page.get_by_text("Noise on text embeddings", exact=True).click()
        page.get_by_text("Noise on text embeddings 0.15: memorization").wait_for()
        audit = Audit(data / "audits" / "scenes")
        until(lambda: len(mitigated.finished_members(audit, "text_noise-0.15")) == 8, seconds=120)
        wait_idle(page)
        assert "setting=text_noise%3D0.15" in page.url
        close_watched(page, address)
