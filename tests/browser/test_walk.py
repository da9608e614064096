"""One session: search, open a pair, change its caption, export, read the export."""

import shlex
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from clipmem_core.auditing.folder.prepare import load_data_set
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.cli import parse_command
from tests.browser.conftest import PAIRS, TRAINED
from tests.browser.reviewing import all_stored, next_pair, open_review_page
from tests.browser.server import serve
from tests.browser.watched import (
    check_pictures,
    close_watched,
    open_watched,
    scroll_down,
    wait_idle,
)


def parameters(page: Any) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def pair_ids(data: Path) -> list[str]:
    return Audit(data / "audits" / TRAINED).pairs["pair_id"].tolist()


def recaption(page: Any, address: str, pair: str, text: str) -> None:
    """Type another caption for a pair, and store it with the keyboard."""
    open_review_page(page, address, name="pair", pair=pair)
    page.keyboard.press("e")
    page.get_by_label("Captions, one a line").fill(text)
    page.keyboard.press("Control+Enter")
    next_pair(page, pair)
    all_stored(page)


def test_the_app_opens_with_the_newest_audit_and_a_search_by_meaning_leads_to_a_pair(
    page: Any, address: str
) -> None:
    page.goto(address)
    wait_idle(page)
    assert TRAINED in page.locator("h1").inner_text()
    assert page.title() == "Overview · CLIPMem"
    page.get_by_test_id("stSidebar").get_by_role("link", name="Browse").click()
    page.wait_for_url("**/browse?**")
    page.locator(".card").nth(23).wait_for()
    wait_idle(page)
    page.get_by_label("Search by meaning").fill("a red house")
    page.keyboard.press("Enter")
    page.get_by_text("close to: a red house").wait_for()
    wait_idle(page)
    check_pictures(page, at_least=24)
    assert parameters(page) == {"audit": TRAINED, "meaning": "a red house"}
    page.locator(".card .caption").first.click()
    page.wait_for_url("**/pair?**")
    wait_idle(page)
    scroll_down(page)
    check_pictures(page, at_least=13)
    assert parameters(page)["meaning"] == "a red house"


def test_a_link_to_a_pair_opens_on_a_server_that_nobody_has_asked_anything_yet(
    browser: Any, data: Path
) -> None:
    pair = pair_ids(data)[7]
    with serve(data) as cold:
        page = open_watched(browser)
        page.goto(f"{cold}/pair?audit={TRAINED}&pair={pair}")
        page.locator(f".pair[data-pair='{pair}']").wait_for()
        wait_idle(page)
        scroll_down(page)
        check_pictures(page, at_least=13)
        assert page.title() == "Pair · CLIPMem"
        close_watched(page, cold)


def test_what_was_decided_is_exported_and_the_printed_command_reads_it_back(
    page: Any, address: str, data: Path, tmp_path: Path
) -> None:
    pair = pair_ids(data)[23]
    text = 'a caption, with a comma and "quotes"'
    recaption(page, address, pair, text)
    page.goto(f"{address}/decisions?audit={TRAINED}&view=export&format=csv")
    page.get_by_role("button", name="Export", exact=True).click()
    with page.expect_download() as started:
        page.get_by_role("button", name="Download").click()
    started.value.save_as(tmp_path / "downloaded.csv")
    assert '"a caption, with a comma and ""quotes"""' in (tmp_path / "downloaded.csv").read_text()
    printed = page.get_by_test_id("stCode").filter(has_text="clipmem_core audit").inner_text()
    command = shlex.split(printed)
    assert command[:4] == ["python", "-m", "clipmem_core", "audit"]
    typed = parse_command(command[3:])
    reread = load_data_set(typed.source, typed.config).pairs.set_index("pair_id")
    assert list(reread.loc[pair, "captions"]) == [text]
    assert len(reread) == PAIRS
