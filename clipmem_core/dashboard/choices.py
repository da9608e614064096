"""Widgets for choices that the address keeps: segments, lists and pages."""

from collections.abc import Callable, Collection, Mapping, Sequence

import streamlit as st

from clipmem_core.dashboard.address import PAGE, read_number, write

ALL = ""  # the option that says nothing
TOLD = "{}-told"  # key in the session of what a widget last showed or was told


def asked(parameter: str, options: Collection[str], usual: str = "") -> str:
    """Return what the address asks for; where that is no option, the usual one, else the first."""
    chosen = st.query_params.get(parameter)
    return chosen if chosen is not None and chosen in options else usual or next(iter(options))


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
    chosen = asked(parameter, names, usual)
    _show(key, chosen)
    st.segmented_control(
        label,
        list(names),
        key=key,
        format_func=names.__getitem__,
        required=True,
        on_change=_keep,
        args=(parameter, key, clears),
        label_visibility="collapsed" if hidden else "visible",
    )
    return chosen


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
    chosen = asked(parameter, options)
    _show(key, chosen)
    st.selectbox(
        label, options, key=key, format_func=named, on_change=_keep, args=(parameter, key, clears), width=width
    )
    return chosen


def read_page(count: int, size: int, *, parameter: str = PAGE) -> tuple[int, int]:
    """Return the page that the address asks for, the last at most, and how many there are; one where nothing is."""
    pages = max(1, -(-count // size))
    return min(read_number(parameter, 1), pages), pages


def draw_pages(
    page: int, pages: int, *, key: str, parameter: str = PAGE, turned: Callable[[], None] | None = None
) -> None:
    """Draw the numbers of the pages, if there are several.

    Pagination always has a default, so its value may not be set: its key changes with the page instead.

    Args:
        page: the one that is shown.
        pages: how many there are.
        key: what the widget's key begins with.
        parameter: of the address.
        turned: called when another page is chosen.
    """
    if pages > 1:
        own = f"{key}-{pages}-{page}"
        kept = (parameter, own, turned)
        st.session_state[TOLD.format(own)] = page
        st.pagination(pages, default=page, max_visible_pages=5, key=own, on_change=_turn, args=kept)


def write_page(page: int, *, parameter: str = PAGE) -> None:
    """Write a page into the address; the first needs no word."""
    write(**{parameter: None if page == 1 else page})


def _show(key: str, chosen: str) -> None:
    st.session_state[key] = st.session_state[TOLD.format(key)] = chosen


def _is_new(key: str) -> bool:
    """Tell whether a widget was changed since it last showed or told something, and remember what it tells now.

    A browser may still send what a widget showed when that widget is gone already, and Streamlit calls that a change.
    """
    told, now = st.session_state.get(TOLD.format(key)), st.session_state[key]
    st.session_state[TOLD.format(key)] = now
    return bool(told != now)


def _keep(parameter: str, key: str, clears: Sequence[str]) -> None:
    if _is_new(key):
        write(**{parameter: st.session_state[key] or None, **dict.fromkeys(clears)})


def _turn(parameter: str, key: str, turned: Callable[[], None] | None) -> None:
    if not _is_new(key):
        return
    write_page(st.session_state[key], parameter=parameter)
    if turned is not None:
        turned()
