"""The address of the page ↔ the selection, page and layout it shows, so that a link reopens what somebody saw.

The address is the only place where a view is kept: each run reads it, sets the widgets from it, and a widget's
callback writes what was changed back into it.
"""

import dataclasses
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
