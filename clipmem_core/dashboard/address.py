"""The address of the page: the selection, page and layout in it, and the widgets whose choice it keeps.

The address is the only place where a view is kept: each run reads it, sets the widgets from it, and a widget's
callback writes what was changed back into it. Streamlit's own binding would write labels in place of the values.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.review.selection import Selection, from_parameters, to_parameters

AUDIT, PAGE, SIZE, LAYOUT, PAIR = "audit", "page", "size", "layout", "pair"
SELECTION_PARAMETERS = frozenset(
    "range" if field.name == "ranges" else field.name for field in dataclasses.fields(Selection)
)


def read_selection() -> Selection:
    """Return the selection of the address; what cannot be understood is left out, and a line says so."""
    selection, wrong = from_parameters(st.query_params.to_dict())
    if wrong:
        st.warning(
            f"Part of this address cannot be understood and is left out: {', '.join(wrong)}.",
            icon=":material/link_off:",
        )
    return selection


def peek_selection() -> Selection:
    """Return the selection of the address and say nothing: for callbacks, which draw nothing."""
    return from_parameters(st.query_params.to_dict())[0]


def write_selection(selection: Selection, **others: str | int | None) -> None:
    """Replace the selection in the address. Another selection begins at its first page, unless `page` is given.

    Args:
        selection: what the address is to say.
        **others: further parameters; None removes one. Those not named, such as the audit, stay as they are.
    """
    kept = {name: value for name, value in st.query_params.to_dict().items() if name not in SELECTION_PARAMETERS}
    given = {PAGE: None, **others}
    kept = {name: value for name, value in kept.items() if name not in given}
    st.query_params.from_dict(kept | to_parameters(selection) | _told(given))


def write(**others: str | int | None) -> None:
    """Set parameters that are not the selection's, and leave all else as it is; None removes one."""
    kept = {name: value for name, value in st.query_params.to_dict().items() if name not in others}
    st.query_params.from_dict(kept | _told(others))


def link(audit: Audit, selection: Selection, **others: str | int | None) -> dict[str, str]:
    """Return the parameters of a link into a page: `query_params` of st.page_link and st.switch_page.

    Args:
        audit: the audit to open.
        selection: the pairs to show, or to walk through.
        **others: further parameters, such as `pair`, `page`, `size` and `layout`; None leaves one out.
    """
    return {AUDIT: audit.name} | to_parameters(selection) | _told(others)


def read_view() -> dict[str, str]:
    """Return page, size and layout as the address has them: to be handed to `link` by pages that only pass them on."""
    return {name: st.query_params[name] for name in (PAGE, SIZE, LAYOUT) if name in st.query_params}


def read_number(name: str, default: int, *, among: tuple[int, ...] = ()) -> int:
    """Return a whole number of at least 1 from the address, the default where it is none, or none of those offered."""
    text = st.query_params.get(name, "")
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    return number if number >= 1 and (not among or number in among) else default


def unknown_page() -> str:
    """Return what the address names in the place of a page; empty at the app's own address. For the default page."""
    path = unquote(urlsplit(st.context.url or "").path).strip("/")
    return path.removeprefix(st.get_option("server.baseUrlPath").strip("/")).strip("/")


def _told(others: dict[str, str | int | None]) -> dict[str, str]:
    return {name: str(value) for name, value in others.items() if value is not None}


ALL = ""  # the option that says nothing
TOLD = "{}-told"  # key in the session of what a widget last showed or was told


def asked(parameter: str, options: Collection[str], usual: str = "") -> str:
    """Return what the address asks for; where that is no option, the usual one, else the first."""
    chosen = st.query_params.get(parameter)
    return chosen if chosen is not None and chosen in options else usual or next(iter(options))


def draw_set(
    draw: Callable[..., Any], *given: Any, key: str, value: Any, take: Callable[[Any], None], **look: Any
) -> None:
    """Draw a widget that shows a value, and calls a function with the other one that a person chooses.

    Args:
        draw: the widget, such as `st.selectbox`.
        *given: its label and options.
        key: of the widget.
        value: what it shows.
        take: writes what was chosen into the address.
        **look: all else that the widget is given.
    """
    st.session_state[key] = value
    draw(*given, key=key, on_change=lambda: take(st.session_state[key]), **look)


def choose_segment(
    label: str,
    names: Mapping[str, str],
    *,
    parameter: str,
    key: str,
    usual: str = "",
    hidden: bool = False,
    clears: Sequence[str] = (),
) -> str:
    """Draw options side by side and return the chosen one.

    Args:
        label: of the widget.
        names: option → what it is called, read as Markdown: of our own words alone.
        parameter: of the address.
        key: of the widget.
        usual: what is chosen where the address asks for nothing; empty for the first.
        hidden: whether the label is only for those who cannot see it.
        clears: further parameters, which another choice removes.
    """
    look: dict[str, Any] = {"format_func": names.__getitem__, "required": True}
    look["label_visibility"] = "collapsed" if hidden else "visible"
    return _choose(st.segmented_control, label, list(names), usual, parameter, key, clears, **look)


def choose_listed(
    label: str,
    options: Sequence[str],
    *,
    parameter: str,
    key: str,
    width: int,
    named: Callable[[str], str] = str,
    clears: Sequence[str] = (),
) -> str:
    """Draw options as a list to choose from, as `choose_segment` does; a list shows any text as it is."""
    return _choose(st.selectbox, label, options, "", parameter, key, clears, format_func=named, width=width)


def _choose(
    draw: Callable[..., Any],
    label: str,
    options: Sequence[str],
    usual: str,
    parameter: str,
    key: str,
    clears: Sequence[str],
    **look: Any,
) -> str:
    chosen = st.session_state[TOLD.format(key)] = asked(parameter, options, usual)

    def take(value: str | None) -> None:
        if _is_new(key):
            write(**{parameter: value or None, **dict.fromkeys(clears)})

    draw_set(draw, label, options, key=key, value=chosen, take=take, **look)
    return chosen


def read_page(count: int, size: int, *, parameter: str = PAGE) -> tuple[int, int]:
    """Return the page that the address asks for, the last at most, and how many there are; one where nothing is."""
    pages = max(1, -(-count // size))
    return min(read_number(parameter, 1), pages), pages


def draw_pages(page: int, pages: int, *, key: str, parameter: str = PAGE) -> None:
    """Draw the numbers of the pages, if there are several.

    Pagination always has a default, so its value may not be set: its key changes with the page instead.

    Args:
        page: the one that is shown.
        pages: how many there are.
        key: what the widget's key begins with.
        parameter: of the address.
    """
    if pages > 1:
        own = f"{key}-{pages}-{page}"
        st.session_state[TOLD.format(own)] = page

        def turn() -> None:
            if _is_new(own):
                write_page(st.session_state[own], parameter=parameter)

        st.pagination(pages, default=page, max_visible_pages=5, key=own, on_change=turn)


def write_page(page: int, *, parameter: str = PAGE) -> None:
    """Write a page into the address; the first needs no word."""
    write(**{parameter: None if page == 1 else page})


def _is_new(key: str) -> bool:
    """Tell whether a widget was changed since it last showed or told something, and remember what it tells now.

    A browser may still send what a widget showed when that widget is gone already, and Streamlit calls that a change.
    """
    told, now = st.session_state.get(TOLD.format(key)), st.session_state[key]
    st.session_state[TOLD.format(key)] = now
    return bool(told != now)
