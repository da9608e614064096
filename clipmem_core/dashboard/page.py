"""The frame of every page: sidebar, audit picker, and the address that keeps the view.

The address is the only place where a view is kept: each run reads it, sets the widgets from it, and a widget's
callback writes the change back. Streamlit's own binding would write labels in place of values.
On a cold server a link into a page runs it without app.py, so each page calls `open_page` first. The chosen audit is
kept in the address and in the session under a key that no widget owns: a widget's key is dropped with its page.
"""

import base64
import dataclasses
import functools
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import streamlit as st
from PIL import Image, ImageDraw

from clipmem_core.audits.jobs import list_job_names
from clipmem_core.audits.store import Audit, audits_folder, is_name, list_audits
from clipmem_core.dashboard.plain import explained_errors, show_text, show_title
from clipmem_core.dashboard.running import FIRST, draw_empty, draw_progress
from clipmem_core.figures.layout import ENCODER_COLOURS
from clipmem_core.glossary import MEANINGS
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
            f"Part of this address is not valid and is ignored: {', '.join(wrong)}.",
            icon=":material/link_off:",
        )
    return selection


def peek_selection() -> Selection:
    """Return the selection of the address and say nothing: for callbacks, which draw nothing."""
    return from_parameters(st.query_params.to_dict())[0]


def write_selection(selection: Selection, **others: str | int | None) -> None:
    """Replace the selection in the address. Another selection begins at its first page, unless `page` is given."""
    kept = {name: value for name, value in st.query_params.to_dict().items() if name not in SELECTION_PARAMETERS}
    given = {PAGE: None, **others}
    kept = {name: value for name, value in kept.items() if name not in given}
    st.query_params.from_dict(kept | to_parameters(selection) | _told(given))


def write(**others: str | int | None) -> None:
    """Set parameters that are not the selection's, and leave all else as it is; None removes one."""
    kept = {name: value for name, value in st.query_params.to_dict().items() if name not in others}
    st.query_params.from_dict(kept | _told(others))


def link(audit: Audit, selection: Selection, **others: str | int | None) -> dict[str, str]:
    """Return the parameters of a link into a page: `query_params` of st.page_link and st.switch_page."""
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
    """Draw a widget that shows a value, and calls a function with the other one that a person chooses."""
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
    """Draw options side by side and return the chosen one."""
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


PAGES = {  # file → title and icon, in the order of the sidebar
    "pages/overview.py": ("Overview", ":material/dashboard:"),
    "pages/review.py": ("Review", ":material/rate_review:"),
    "pages/browse.py": ("Browse", ":material/grid_view:"),
    "pages/pair.py": ("Pair", ":material/image:"),
    "pages/embeddings.py": ("Map of embeddings", ":material/bubble_chart:"),
    "pages/detectors.py": ("Detectors", ":material/troubleshoot:"),
    "pages/encoders.py": ("Encoders", ":material/call_split:"),
    "pages/mitigations.py": ("Mitigations", ":material/tune:"),
    "pages/decisions.py": ("Decisions and export", ":material/checklist:"),
    "pages/compare.py": ("Compare audits", ":material/compare_arrows:"),
    "pages/audits.py": ("Audits", ":material/science:"),
}
CHOICE = "chosen_audit"
PICKER = "audit_picker"
# Of pages whose content is to have the screen.
TIGHT_STYLE = """<style>
[data-testid="stMainBlockContainer"] { padding: 2rem 2rem 1rem; }
[data-testid="stMainBlockContainer"] > [data-testid="stVerticalBlock"] { gap: .6rem; }
@media (max-width: 600px) { [data-testid="stMainBlockContainer"] { padding: 3.75rem 1rem .5rem; } }
[data-testid="stMainBlockContainer"] h1 { font-size: 1.4rem; }
</style>"""


def open_page(title: str, *, otherwise: Callable[[], None] = lambda: None) -> Audit:
    """Set a page up and return the audit it shows; ends the page itself where there is no finished one."""
    _set_up(title)
    finished = _list_finished()
    name = _choose_audit(list(finished))
    if name is None:
        _draw_links(None)
        draw_empty()
        otherwise()
        st.stop()
    _draw_links(name)
    _draw_picker(finished, name)
    show_title(title, of=name)
    if not finished.get(name):
        draw_progress(name)
        st.stop()
    audit = Audit(audits_folder() / name)
    with explained_errors():
        audit.check_version()
    return audit


def open_bare_page(title: str, *, clears: Sequence[str] = ()) -> str:
    """Set up a page that needs no audit; its links keep the chosen one."""
    _set_up(title)
    finished = _list_finished()
    chosen = st.query_params.get(AUDIT) or st.session_state.get(CHOICE)
    _draw_links(chosen)
    if finished:
        _draw_picker(finished, chosen if chosen in finished or _has_job(chosen) else None, clears)
    show_title(title)
    return chosen or ""


def _list_finished() -> dict[str, bool]:
    """Return the audits there are, and whether each is finished."""
    return {audit.name: audit.finished for audit in list_audits() if is_name(audit.name)}


def draw_no_page(name: str) -> None:
    """Draw the page of an address that leads to none."""
    open_bare_page("No such page")
    st.warning("This page does not exist: choose one on the left.", icon=":material/link_off:")
    show_text(f"requested: {name}", limit=120)


def _set_up(title: str) -> None:
    """Give a page its title, icon and width, the first thing a page does, and the sidebar its name."""
    st.set_page_config(page_title=f"{title} · CLIPMem", page_icon=_icon(), layout="wide")
    st.sidebar.markdown("### CLIPMem")


def _draw_links(audit: str | None) -> None:
    """Draw the links to all pages. Streamlit's own are off: they lose the audit, and their icons need a network."""
    with st.sidebar:
        for path, (title, icon) in PAGES.items():
            st.page_link(path, label=title, icon=icon, query_params={AUDIT: audit} if audit else None)
        with st.popover("Glossary", icon=":material/menu_book:", width="stretch"):
            for term, (what, decision) in MEANINGS.items():
                st.markdown(f"**{term}**: {what} *{decision}*")


@functools.cache
def _icon() -> str:
    """Draw the page's icon, as a data URL: a picture and its caption overlap. Icons by name would be fetched from the
    network, and a file of the server's is gone once a page is left quickly."""
    icon = Image.new("RGBA", (64, 64))
    draw = ImageDraw.Draw(icon)
    draw.rounded_rectangle((2, 2, 44, 44), radius=9, fill=ENCODER_COLOURS["image"])
    draw.rounded_rectangle((20, 20, 62, 62), radius=9, fill=ENCODER_COLOURS["text"])
    stream = io.BytesIO()
    icon.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _has_job(name: str | None) -> bool:
    return name in list_job_names()


def _choose_audit(names: list[str]) -> str | None:
    """Return the audit of the address, else of the session, else the newest; also one whose job has just begun."""
    asked = st.query_params.get(AUDIT) or st.session_state.get(CHOICE)
    fallback = names[0] if names else FIRST if _has_job(FIRST) else None
    if asked and (asked in names or _has_job(asked)):
        return _keep(asked)
    if asked and fallback:
        st.warning("That audit does not exist; showing another one.", icon=":material/search_off:")
        show_text(f"requested: {asked}", limit=120)
    return _keep(fallback) if fallback else None


def _pick(clears: Sequence[str]) -> None:
    write(**dict.fromkeys(clears))
    if st.session_state[PICKER]:
        _keep(st.session_state[PICKER])


def _keep(name: str) -> str:
    st.session_state[CHOICE] = name
    if st.query_params.get(AUDIT) != name:
        st.query_params[AUDIT] = name
    return name


def _draw_picker(finished: dict[str, bool], name: str | None, clears: Sequence[str] = ()) -> None:
    names = [name, *finished] if name and name not in finished else list(finished)
    st.session_state[PICKER] = name
    with st.sidebar:
        st.selectbox(
            "Audit",
            names,
            index=None if name is None else 0,
            key=PICKER,
            placeholder="Choose an audit",
            format_func=lambda each: each if finished.get(each) else f"{each} (not finished)",
            on_change=_pick,
            args=(clears,),
        )
