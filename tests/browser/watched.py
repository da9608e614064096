"""Pages of a browser that remember what went wrong in them, and what is asked of every page that has come to rest.

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
        && document.querySelector('[data-testid=stMain] h1') && !document.querySelector('[data-testid=stSkeleton]')
}"""
# What a component of ours shows is in a root of its own.
MAIN_IMAGES = """[document, ...[...document.querySelectorAll('[data-testid=stMain] *')].map(each => each.shadowRoot)]
    .flatMap(root => [...root?.querySelectorAll(root === document ? '[data-testid=stMain] img' : 'img') ?? []])"""


def open_watched(opener: Any, *, theme: str = "light", size: tuple[int, int] = (1280, 900)) -> Any:  # noqa: ANN401
    """Open a page of a context, or of a browser in a context of its own.

    Its `troubles` lists its errors, `asked` every address it asked for.
    """
    page = opener.new_page()
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.set_default_timeout(PATIENCE)
    page.troubles, page.asked = [], []
    page.on("console", lambda message: page.troubles.extend(_troubles(message)))
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    return page


def _troubles(message: Any) -> list[str]:  # noqa: ANN401
    place = message.location.get("url", "")
    return [f"{message.text} ({place})"] if message.type == "error" and not PROBES.search(place) else []


def close_watched(page: Any, address: str) -> None:  # noqa: ANN401
    """Close a page, which must have had no trouble and asked nothing of another host; it leaves nothing stored."""
    if page.url.startswith(address):
        page.evaluate("localStorage.clear()")
    page.close()
    assert not page.troubles, page.troubles
    elsewhere = [url for url in page.asked if not url.startswith((address, "data:", "blob:"))]
    assert not elsewhere, elsewhere


def settle(page: Any) -> None:  # noqa: ANN401
    """Wait until a page has a heading and its script has run; it shows no traceback."""
    page.wait_for_function(AT_REST)
    assert page.get_by_test_id("stException").count() == 0


def check_pictures(page: Any, *, at_least: int = 0) -> None:  # noqa: ANN401
    """Wait until there are so many pictures and all of them are really loaded; each has a text in its place."""
    loaded = f"() => {MAIN_IMAGES}.length >= {at_least} && {MAIN_IMAGES}.every(i => i.complete && i.naturalWidth > 0)"
    page.wait_for_function(loaded)
    assert page.evaluate(f"{MAIN_IMAGES}.filter(i => !i.alt).map(i => i.outerHTML)") == []
