"""What every page begins with: its settings, the audit picker, and the audit that was picked.

On a cold server a link into a page runs it without app.py, so each page calls `open_page` first. The choice is kept in
the address and in the session under a key that no widget owns: a widget's key is dropped when its page is left.
"""

import base64
import functools
import io
from collections.abc import Callable, Sequence

import streamlit as st
from PIL import Image, ImageDraw

from clipmem_core.audits.jobs import list_job_names
from clipmem_core.audits.store import Audit, audits_folder, is_name, list_audits
from clipmem_core.dashboard.address import write
from clipmem_core.dashboard.errors import explained_errors
from clipmem_core.dashboard.plain import show_text, show_title
from clipmem_core.dashboard.running import FIRST, draw_empty, draw_progress
from clipmem_core.figures.colours import ENCODER_COLOURS
from clipmem_core.glossary import MEANINGS

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
PARAMETER = "audit"
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
    """Set a page up and return the audit it shows; ends the page itself where there is no finished one.

    Args:
        title: the page's name, in sentence case.
        otherwise: draws what the page has to show where there is no audit at all.

    Returns:
        A finished audit. Its files may still be broken: read them within `explained_errors`.
    """
    _set_up(title)
    finished = _list_finished()
    name = _choose(list(finished))
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
    """Set up a page that needs no audit; its links keep the chosen one.

    Args:
        title: the page's name, in sentence case.
        clears: parameters of the address that picking another audit removes.

    Returns:
        The name of the chosen audit; empty without one.
    """
    _set_up(title)
    finished = _list_finished()
    chosen = st.query_params.get(PARAMETER) or st.session_state.get(CHOICE)
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
    st.warning("This address leads to no page of CLIPMem: choose one on the left.", icon=":material/link_off:")
    show_text(f"asked for: {name}", limit=120)


def _set_up(title: str) -> None:
    """Give a page its title, icon and width, the first thing a page does, and the sidebar its name."""
    st.set_page_config(page_title=f"{title} · CLIPMem", page_icon=_icon(), layout="wide")
    st.sidebar.markdown("### CLIPMem")


def _draw_links(audit: str | None) -> None:
    """Draw the links to all pages. Streamlit's own are off: they lose the audit, and their icons need a network."""
    with st.sidebar:
        for path, (title, icon) in PAGES.items():
            st.page_link(path, label=title, icon=icon, query_params={PARAMETER: audit} if audit else None)
        with st.popover("Words", icon=":material/menu_book:", width="stretch"):
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


def _choose(names: list[str]) -> str | None:
    """Return the audit of the address, else of the session, else the newest; also one whose job has just begun."""
    asked = st.query_params.get(PARAMETER) or st.session_state.get(CHOICE)
    fallback = names[0] if names else FIRST if _has_job(FIRST) else None
    if asked and (asked in names or _has_job(asked)):
        return _keep(asked)
    if asked and fallback:
        st.warning("The audit asked for does not exist; this is another one.", icon=":material/search_off:")
        show_text(f"asked for: {asked}", limit=120)
    return _keep(fallback) if fallback else None


def _pick(clears: Sequence[str]) -> None:
    write(**dict.fromkeys(clears))
    if st.session_state[PICKER]:
        _keep(st.session_state[PICKER])


def _keep(name: str) -> str:
    st.session_state[CHOICE] = name
    if st.query_params.get(PARAMETER) != name:
        st.query_params[PARAMETER] = name
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
