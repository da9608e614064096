"""Review mode in a browser: keys pressed at a pace, changed answers of the server, and what was
stored."""

import sqlite3
import time
from typing import Any

from clipmem_core.review.decisions import Review
from tests.browser.conftest import TRAINED
from tests.browser.watched import wait_idle

KEYS = {"k": "keep", "x": "recaption", "1": "recaption"}  # x removes one caption of several
STORED = "() => !Object.keys(localStorage).some(key => key.startsWith('clipmem-review'))"
# Change the cards of pairs that the server sends.
EDIT = """
    const ask = window.fetch
    window.fetch = async (...request) => {
        const answer = await ask(...request)
        if (!answer.ok || !String(request[0]).includes('/api/review/pairs?')) return answer
        const cards = await answer.json()
        cards.forEach(card => Object.assign(card, CHANGES))
        return Response.json(cards)
    }
"""


def open_review_page(
    page: Any, address: str, audit: str = TRAINED, name: str = "review", **parameters: str
) -> list[int]:
    """Open a page that reviews pairs, and return the rows of its pairs in their order."""
    query = "&".join(f"{name}={value}" for name, value in {"audit": audit, **parameters}.items())
    with page.expect_response("**/api/review/queue?**") as queue:
        page.goto(f"{address}/{name}?{query}")
    page.locator(".pair[data-pair]").wait_for()
    wait_idle(page)
    return queue.value.json()["rows"]


def press(page: Any, keys: str, *, seconds: float = 0.2, ahead: int | None = None) -> None:
    """Press keys at a pace, or that of a slow machine: at most `ahead` more than were decisions."""
    decided = page.evaluate("clipmemOutbox.number")
    began = time.monotonic()
    for place, key in enumerate(keys):
        time.sleep(max(0.0, began + place * seconds - time.monotonic()))
        if ahead is not None:
            page.wait_for_function(
                "least => clipmemOutbox.number >= least", arg=decided + place - ahead
            )
        page.keyboard.press(key)


def edit_cards(page: Any, changes: str) -> None:
    """Give all cards of pairs some fields, those of a JavaScript object."""
    page.add_init_script(EDIT.replace("CHANGES", changes))


def kinds(keys: str) -> list[str]:
    return [KEYS[key] for key in keys]


def shown_pair(page: Any) -> str:
    return page.locator(".id").inner_text().removeprefix("id: ")


def next_pair(page: Any, pair: str) -> str:
    """Wait until another pair than this one is on screen, and return it."""
    page.locator(f".pair[data-pair]:not([data-pair='{pair}'])").wait_for()
    return shown_pair(page)


def all_stored(page: Any) -> None:
    page.locator(".stored", has_text="saved").wait_for()


def events(review: Review) -> list[tuple[str, str, str | None]]:
    """Pair, decision and note of every event, the first one first."""
    if not review.path.exists():
        return []
    with sqlite3.connect(review.path) as log:
        query = (
            "SELECT pair_id, decision, note FROM event JOIN entry ON entry.id = first_entry "
            "ORDER BY event.id"
        )
        return log.execute(query).fetchall()
