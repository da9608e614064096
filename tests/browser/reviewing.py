"""Review mode in a browser: keys pressed at a pace, and what was on screen at each of them."""

import time
from typing import Any

from tests.browser.conftest import TRAINED
from tests.browser.test_keys import KEYS
from tests.browser.watched import settle

# What was on screen when a key went down, seen before the page's own listener, and whether that then took the key: the
# last thing it does is to stop the event.
WATCH = """
    window.pressed = []
    addEventListener('keydown', event => {
        const shown = document.querySelector('[data-testid=stBidiComponentIsolated]')?.shadowRoot
        const pair = shown?.querySelector('.pair:not([hidden]) .id')?.textContent.replace('id: ', '') ?? ''
        const press = {key: event.key, pair, taken: false}
        window.pressed.push(press)
        event.stopPropagation = () => {
            press.taken = !shown.querySelector('.sign').classList.contains('late')
            Event.prototype.stopPropagation.call(event)
        }
    }, true)
"""


def open_review_page(page: Any, address: str, audit: str = TRAINED, **parameters: str) -> None:
    asked = "&".join(f"{name}={value}" for name, value in {"audit": audit, **parameters}.items())
    page.goto(f"{address}/review?{asked}")
    page.locator(".pair[data-pair]").wait_for()
    settle(page)


def press(page: Any, keys: str, *, seconds: float = 0.2) -> None:
    began = time.monotonic()
    for place, key in enumerate(keys):
        time.sleep(max(0.0, began + place * seconds - time.monotonic()))
        page.keyboard.press(key)


def taken(page: Any) -> list[tuple[str, str]]:
    """Pair on screen and decision of every key that the page took."""
    return [(each["pair"], KEYS[each["key"]]) for each in page.evaluate("window.pressed") if each["taken"]]


def all_stored(page: Any) -> None:
    page.locator(".stored", has_text="saved").wait_for()
