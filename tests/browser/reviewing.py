"""Review mode in a browser: keys pressed at a pace, what was on screen at each of them, and what
was stored."""

import sqlite3
import time
from typing import Any

from clipmem_core.review.decisions import Review
from tests.browser.conftest import TRAINED
from tests.browser.watched import wait_idle

KEYS = {"k": "keep", "x": "recaption"}  # x removes one caption of several
STORED = "() => !Object.keys(localStorage).some(key => key.startsWith('clipmem-review'))"
# Record the pair on screen at each key press, before the listener of the page runs, and whether
# that accepts the key: it then stops the event.
WATCH = """
    window.pressed = []
    addEventListener('keydown', event => {
        const components = [...document.querySelectorAll('[data-testid=stBidiComponentIsolated]')]
        const shown = components.map(each => each.shadowRoot).find(root =>
        root?.querySelector('.pair'))
        const pair = shown?.querySelector('.pair:not([hidden]) .id')?.textContent.replace('id: ',
        '') ?? ''
        const press = {key: event.key, pair, accepted: false}
        window.pressed.push(press)
        event.stopPropagation = () => {
            press.accepted = !shown.querySelector('.sign').classList.contains('late')
            Event.prototype.stopPropagation.call(event)
        }
    }, true)
"""


def open_review_page(
    page: Any, address: str, audit: str = TRAINED, name: str = "review", **parameters: str
) -> None:
    query = "&".join(f"{name}={value}" for name, value in {"audit": audit, **parameters}.items())
    page.goto(f"{address}/{name}?{query}")
    page.locator(".pair[data-pair]").wait_for()
    wait_idle(page)


def press(page: Any, keys: str, *, seconds: float = 0.2) -> None:
    began = time.monotonic()
    for place, key in enumerate(keys):
        time.sleep(max(0.0, began + place * seconds - time.monotonic()))
        page.keyboard.press(key)


def accepted(page: Any) -> list[tuple[str, str]]:
    """Pair on screen and decision of every key that the page took."""
    return [
        (each["pair"], KEYS[each["key"]])
        for each in page.evaluate("window.pressed")
        if each["accepted"]
    ]


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
