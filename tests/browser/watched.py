"""Pages of a browser that record errors and requests, and checks of an idle page.

Waits are for conditions, with a long limit: a slow machine makes the tests slow, not wrong.
"""

import re
from typing import Any

PATIENCE = 60_000  # milliseconds
PROBES = re.compile(
    r"/[^/]+/_stcore/(health|host-config)$"
)  # Streamlit asks below a page's path first: 404, then goes on
AT_REST = """() => {
    const app = document.querySelector('[data-testid=stApp]')
    return app && app.dataset.testScriptState === 'notRunning'
        && app.dataset.testConnectionState === 'CONNECTED'
        && document.querySelector('[data-testid=stMain] h1')
        && !document.querySelector('[data-testid=stSkeleton]')
}"""
# Parts that a page draws once they are scrolled to are drawn.
LATE_DRAWN = """() => [...document.querySelectorAll('[class*=st-key-details-]')]
    .every(each => each.nextElementSibling)"""
AT_END = "main => main.scrollTop + main.clientHeight >= main.scrollHeight - 2"
# Our components have their own shadow root.
MAIN_IMAGES = """[document, ...[...document.querySelectorAll('[data-testid=stMain] *')].map(each =>
each.shadowRoot)]
    .flatMap(root => [...root?.querySelectorAll(root === document ? '[data-testid=stMain] img'
    : 'img') ?? []])"""


def open_watched(opener: Any, *, theme: str = "light", size: tuple[int, int] = (1280, 900)) -> Any:
    """Open a page of a context, or of a browser in a new context; `troubles` lists its errors,
    `requests` its URLs."""
    page = opener.new_page()
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.set_default_timeout(PATIENCE)
    page.troubles = []
    page.requests = []
    page.on("console", lambda message: page.troubles.extend(_troubles(message)))
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    return page


def _troubles(message: Any) -> list[str]:
    place = message.location.get("url", "")
    return (
        [f"{message.text} ({place})"]
        if message.type == "error" and not PROBES.search(place)
        else []
    )


def close_watched(page: Any, address: str) -> None:
    """Close a page and clear its storage; it must have no errors and no requests to other hosts."""
    if page.url.startswith(address):
        page.evaluate("localStorage.clear()")
    page.close()
    assert not page.troubles, page.troubles
    foreign = [url for url in page.requests if not url.startswith((address, "data:", "blob:"))]
    assert not foreign, foreign


def wait_idle(page: Any) -> None:
    """Wait until a page has a heading and its script has run; it shows no traceback."""
    page.wait_for_function(AT_REST)
    faults = page.get_by_test_id("stException").all_inner_texts()
    assert not faults, (page.url, faults)


def scroll_down(page: Any) -> None:
    """Scroll a page to its end step by step, until it has drawn all late parts."""
    main = page.get_by_test_id("stMain")
    at_end = False
    while not at_end:
        main.evaluate("main => main.scrollBy(0, main.clientHeight)")
        if main.evaluate(AT_END):
            page.wait_for_function(LATE_DRAWN)
            wait_idle(page)
            at_end = main.evaluate(AT_END)


def check_pictures(page: Any, *, at_least: int = 0) -> None:
    """Wait until at least so many pictures are shown and all are loaded; each has an alternative
    text."""
    loaded = (
        f"() => {MAIN_IMAGES}.length >= {at_least} && {MAIN_IMAGES}.every(i => i.complete "
        "&& i.naturalWidth > 0)"
    )
    page.wait_for_function(loaded)
    assert page.evaluate(f"{MAIN_IMAGES}.filter(i => !i.alt).map(i => i.outerHTML)") == []
