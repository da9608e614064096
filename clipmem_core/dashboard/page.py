"""The frame of every page: sidebar, audit picker, the address that keeps the view, and the progress
of an unfinished audit or a job.

Only the address stores a view: each run sets the widgets from it, and a widget's callback writes
the change back. Streamlit's own binding would write labels in place of values. On a cold server a
link into a page runs it without app.py, so each page calls `open_page` first.
"""

import dataclasses
import itertools
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import streamlit as st

from clipmem_core.auditing.folder.jobs import (
    BROKEN,
    DONE,
    OUTSIDE,
    STEPS,
    STOPPED,
    Job,
    JobRequest,
    audit_request,
    cancel,
    list_job_names,
    state_of,
)
from clipmem_core.auditing.folder.settings import resume_arguments
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.config import FIELDS
from clipmem_core.dashboard.plain import (
    draw_fault,
    duration,
    explained_errors,
    show_command,
    show_strong,
    show_text,
    show_title,
)
from clipmem_core.figures import ENCODER_COLOURS
from clipmem_core.review.views import Selection, from_parameters, to_parameters
from clipmem_core.utils.columns import DRAWN, MEANINGS, meaning
from clipmem_core.utils.io import read_json

SELECTION_PARAMETERS = ("range", *(field.name for field in dataclasses.fields(Selection)))
# file → title, icon and heading, in the order of the sidebar; without an icon: opened by pictures
PAGES: dict[str, list[str]] = read_json(Path(__file__).with_name("pages.json"))
FIRST = "scenes"
_LABELS = {field.flag: field.label for field in FIELDS.values()} | {"--name": "Name"}
# Icons by name would be fetched from the network.
ICON = "data:image/svg+xml," + quote(
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">'
    f'<rect x="2" y="2" width="42" height="42" rx="9" fill="{ENCODER_COLOURS["image"]}"/>'
    f'<rect x="20" y="20" width="42" height="42" rx="9" fill="{ENCODER_COLOURS["text"]}"/></svg>'
)
_STYLE = """<style>
[data-testid="stMainBlockContainer"] { padding: 2rem 2rem 1rem; }
[data-testid="stMainBlockContainer"] > [data-testid="stVerticalBlock"] { gap: .6rem; }
@media (max-width: 600px) {
  [data-testid="stMainBlockContainer"] { padding: 3.75rem 1rem .5rem; }
  .modebar-container { display: none; }  /* it would cover the legend */
}
[data-testid="stMainBlockContainer"] h1 { font-size: 1.4rem; }
[data-testid="stMainBlockContainer"] :is(h2, h3) { font-size: 1.1rem; padding: .5rem 0 0; }
[data-testid="stHeaderActionElements"] { display: none; }
[data-testid="stHeading"] div[data-testid="stMarkdownContainer"] { margin: 0; }
[data-testid="stMain"] [data-testid="stPageLink"] { margin: 0 -.5rem; }
div[data-testid="stCaptionContainer"] { opacity: .8; }
button[data-testid="stBaseButton-primary"] { color: light-dark(#fff, #08140f); }
[data-testid="stSidebarHeader"] { height: 2rem; margin: 0; padding-top: 0; }
[data-testid="stSidebarContent"] [data-testid="stVerticalBlock"] { gap: .5rem; }
</style>"""

# Streamlit keeps the state of this component as long as the page draws it.
_SCREEN_SCRIPT = """
export default ({parentElement, setStateValue}) => {
    const observer = new IntersectionObserver(([place]) =>
        place.isIntersecting && setStateValue('reached', true))
    observer.observe(parentElement)
    return () => observer.disconnect()
}
"""
_screen = st.components.v2.component("clipmem_screen", js=_SCREEN_SCRIPT, isolate_styles=False)


def is_on_screen(key: str) -> bool:
    """Tell whether a person has scrolled to this place of the page; the fragment reruns then."""
    default = {"reached": False}
    mounted = _screen(key=key, default=default, height=1, on_reached_change=lambda: None)
    return bool(mounted.reached)


def read_selection() -> Selection:
    """Return the selection of the address; a warning names parts that are not valid, which are
    ignored."""
    selection, invalid = from_parameters(st.query_params.to_dict())
    if invalid:
        names = ", ".join(invalid)
        st.warning(f"Part of this address is not valid and is ignored: {names}.")
    return selection


def peek_selection() -> Selection:
    """Return the selection of the address without a warning: for callbacks, which draw nothing."""
    return from_parameters(st.query_params.to_dict())[0]


def write_selection(selection: Selection) -> None:
    """Replace the selection in the address and begin at its first page."""
    cleared = dict.fromkeys(("page", *SELECTION_PARAMETERS))
    write_address(**cleared | to_parameters(selection))


def write_address(**parameters: str | int | None) -> None:
    """Set parameters of the address; None removes one."""
    st.query_params.from_dict(_as_text(st.query_params.to_dict() | parameters))


def link(
    audit: Audit, selection: Selection | None = None, **others: str | int | None
) -> dict[str, str]:
    """Return the parameters of a link into a page: `query_params` of st.page_link and
    st.switch_page."""
    conditions = to_parameters(selection) if selection else {}
    return {"audit": audit.name} | conditions | _as_text(others)


def draw_link(
    page: str, label: str, audit: Audit, selection: Selection | None = None, /, **others: Any
) -> None:
    """Draw a link into a page that shows a selection; `others` are parameters of the address."""
    path = f"pages/{page}.py"
    parameters = link(audit, selection, **others)
    st.page_link(path, label=label, icon=PAGES[path][1] or None, query_params=parameters)


def _as_text(parameters: Mapping[str, str | int | None]) -> dict[str, str]:
    return {name: str(value) for name, value in parameters.items() if value is not None}


def read_view() -> dict[str, str]:
    """Return page, size and layout of the address, for links that pass them on."""
    return {
        name: st.query_params[name]
        for name in ("page", "size", "layout")
        if name in st.query_params
    }


def read_choice(parameter: str, options: Collection[str], default: str) -> str:
    """Return the option that the address names, else the default, else the first."""
    chosen = st.query_params.get(parameter, default)
    return chosen if chosen in options else default or next(iter(options))


def draw_set(
    draw: Callable[..., Any],
    *args: Any,
    key: str,
    value: Any,
    on_choose: Callable[[Any], None],
    **options: Any,
) -> None:
    """Draw a widget that shows a value, and call a function with another value that a person
    chooses."""
    # The session has the last value that a widget showed or sent.
    st.session_state[key] = st.session_state[f"{key}-shown"] = value
    draw(
        *args,
        key=key,
        on_change=lambda: on_choose(st.session_state[key]) if _is_new(key) else None,
        **options,
    )


def _is_new(key: str) -> bool:
    """Tell whether a value is new: a browser may send that of a widget that is gone, and Streamlit
    calls it changed."""
    before = st.session_state.get(f"{key}-shown")
    now = st.session_state[key]
    st.session_state[f"{key}-shown"] = now
    return bool(before != now)


def choose_listed(
    label: str,
    options: Sequence[str] | Mapping[str, str],
    *,
    parameter: str,
    key: str = "",
    default: str = "",
    clears: Sequence[str] = (),
    draw: Callable[..., Any] = st.selectbox,
    **style: Any,
) -> str:
    """Draw options, which may have names, as a list, or by another widget, and return the chosen
    one; a list shows any text as it is. The widget's key is the parameter of the address, unless
    another is passed."""
    if isinstance(options, Mapping):
        style["format_func"] = options.__getitem__

    def on_choose(value: str | None) -> None:
        write_address(**{parameter: value or None, **dict.fromkeys(clears)})

    chosen = read_choice(parameter, options, default)
    draw_set(
        draw, label, list(options), key=key or parameter, value=chosen, on_choose=on_choose, **style
    )
    return chosen


def choose_segment(
    label: str, names: Mapping[str, str], *, hidden: bool = False, **options: Any
) -> str:
    """Draw options side by side as `choose_listed` does, and return the chosen one; a single
    option is not drawn."""
    if len(names) == 1:
        return next(iter(names))
    return choose_listed(
        label,
        names,
        draw=st.segmented_control,
        required=True,
        label_visibility="collapsed" if hidden else "visible",
        **options,
    )


def read_page(count: int, size: int, *, parameter: str = "page") -> tuple[int, int]:
    """Return the page of the address, clipped to the existing pages, and the number of pages."""
    pages = max(1, -(-count // size))
    text = st.query_params.get(parameter, "")
    page = int(text) if text.isdecimal() else 1
    return min(max(page, 1), pages), pages


def draw_pages(page: int, pages: int, *, parameter: str = "page") -> None:
    """Draw the numbers of several pages; their key changes with the page, since their value may not
    be set."""
    if pages > 1:
        page_key = f"{parameter}-{pages}-{page}"
        st.session_state[f"{page_key}-shown"] = page

        def turn() -> None:
            if _is_new(page_key):
                write_address(**{parameter: st.session_state[page_key]})

        st.pagination(pages, default=page, max_visible_pages=5, key=page_key, on_change=turn)


def read_part(listed: Any, size: int, *, parameter: str = "page") -> tuple[Any, Callable[[], None]]:
    """Return the page of a list or a table that the address names, and a function that draws the
    numbers of its pages."""
    page, pages = read_page(len(listed), size, parameter=parameter)
    part = listed[(page - 1) * size : page * size]
    return part, partial(draw_pages, page, pages, parameter=parameter)


@contextmanager
def open_page(title: str) -> Iterator[Audit]:
    """Set a page up and yield the audit it shows, whose errors are explained; the page ends here if
    none is finished."""
    finished = _set_up(title)
    name = _choose_audit(list(finished))
    _draw_sidebar(finished, name)
    if name is None:
        draw_empty()
        st.stop()
    show_title(title, subject=name)
    if not finished.get(name):
        draw_progress(name)
        st.stop()
    audit = Audit(Audit.parent() / name)
    with explained_errors():
        audit.record  # noqa: B018  refuses another version
        yield audit


@contextmanager
def open_bare_page(title: str, *, clears: Sequence[str] = ()) -> Iterator[None]:
    """Set up a page that needs no audit; its links keep the chosen one."""
    _draw_sidebar(_set_up(title), read_audit(), clears)
    show_title(title)
    with explained_errors():
        yield


def _set_up(title: str) -> dict[str, bool]:
    """Set title, icon and width, which a page does first, and return all audits and whether each is
    finished."""
    st.set_page_config(page_title=f"{title} · CLIPMem", page_icon=ICON, layout="wide")
    st.html(_STYLE)
    return {audit.name: audit.finished for audit in Audit.every()}


def _choose_audit(names: list[str]) -> str | None:
    """Return the audit of the address, else the newest; also one whose job has just begun."""
    requested = read_audit()
    jobs = list_job_names()
    name = names[0] if names else FIRST if FIRST in jobs else None
    if requested in names or requested in jobs:
        name = requested
    elif requested and name:
        st.warning("That audit does not exist; showing another one.")
    if requested != name:
        write_address(audit=name)
    return name


def read_audit() -> str:
    """Return the name of the audit of the address; empty without one."""
    return st.query_params.get("audit", "")


def _draw_sidebar(finished: dict[str, bool], audit: str | None, clears: Sequence[str] = ()) -> None:
    """Draw links (Streamlit's own lose the audit and need a network), the glossary, and the audit
    picker."""
    with st.sidebar:
        st.markdown("**CLIPMem**")
        parameters = {"audit": audit} if audit else None
        last = ""
        for path, (title, icon, heading) in PAGES.items():
            if heading != last:
                st.caption(heading)
                last = heading
            if icon:
                st.page_link(path, label=title, icon=icon, query_params=parameters)
        with st.popover("Glossary", icon=":material/menu_book:", width="stretch"):
            for term, (definition, decision) in MEANINGS.items():
                st.markdown(f"**{term.replace('_', ' ')}**: {definition} *{decision}*")
        names = list(dict.fromkeys([*finished, *list_job_names()]))
        if names:
            draw_set(
                st.selectbox,
                "Audit",
                names,
                key="audit_picker",
                index=None,
                value=audit if audit in names else None,
                on_choose=lambda name: write_address(**dict.fromkeys(clears), audit=name),
                placeholder="Choose an audit",
                format_func=lambda name: name if finished.get(name) else f"{name} (not finished)",
            )


def on_page(message: object) -> str:
    """Return a message with the fields of the form in place of flags."""
    return re.sub(
        "(with )?(--[a-z0-9-]+)",
        lambda found: f"{'under ' * bool(found[1])}Settings → {_LABELS.get(found[2], found[2])}",
        str(message),
    )


def free_name(name: str, sets: Collection[str] = ()) -> str:
    """Return a name for an audit, with a number behind it if an audit, a job or one of `sets` has
    it."""
    taken = {*sets, *list_job_names(), *(audit.name for audit in Audit.every())}
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(each for each in itertools.chain([name], numbered) if each not in taken)


def draw_empty() -> None:
    """Draw the page without any audit: the ways to start one."""
    show_title("CLIPMem")
    show_text("Find captions that are probably wrong, and pairs that CLIP models memorize.")
    demo, own = st.columns(2, border=True)
    with demo:
        show_strong("Demo")
        st.markdown("1,100 drawn scenes; 44 have the captions of another one.")
        if st.button("Run the demo (about a minute)", type="primary", help=meaning(DRAWN)):
            audit_request(FIRST, [FIRST, "--name", FIRST]).start()
            st.rerun()
    with own:
        show_strong("Your own file or folder")
        st.markdown(
            "A CSV, TSV, JSONL, Parquet or COCO file with the paths of the pictures, pictures with "
            "a .txt file each, folders named by class, or WebDataset shards."
        )
        if st.button("Choose a file or folder"):
            st.switch_page("pages/audits.py", query_params={"view": "start"})
    st.caption(
        "On two cores, 8,000 pictures with five short captions each take about three minutes. You "
        "can close the page meanwhile."
    )


@st.fragment(run_every=2)
def draw_progress(name: str) -> None:
    """Draw the progress of an audit every two seconds; rerun the page once it is finished or
    gone."""
    state = state_of(name)
    audit = state.audit
    job = state.job
    record = state.record
    if state.word == DONE or not (audit.begun or job):
        st.rerun()
    if state.word == BROKEN:
        draw_fault("This audit is broken.", state.fault)
        return
    if state.at_work and job is not None:
        draw_job(job)
    elif state.word == OUTSIDE:
        st.caption("Another process is running it, perhaps in a terminal.")
    else:
        if state.word == STOPPED and job is not None:
            reason = "it was killed" if job.exit_code is None else f"exit code {job.exit_code}"
            draw_fault(f"The audit stopped: {reason}.", on_page(job.last_line))
        else:
            st.info("This audit is not finished and not running.")
        label = "Resume" if audit.begun else "Try again"
        if st.button(label, type="primary"):
            if record:
                audit_request(name, resume_arguments(name, record.source, record.config)).start()
            elif job is not None:
                JobRequest(job.folder, job.arguments).start()
            st.rerun()


def draw_job_request(request: JobRequest, *, reason: str, label: str) -> None:
    """Draw the button that starts a job, or every two seconds its progress; rerun the page once it
    has ended."""
    with explained_errors():
        job = request.find()
        was_running = job is not None and job.running

        @st.fragment(run_every=2)
        def draw() -> None:
            job = request.find()
            if job is not None and job.running:
                draw_job(job)
                return
            if was_running:
                st.rerun()
            if job is not None and job.failed:
                draw_fault("The job failed.", job.last_line)
            else:
                st.info(reason)
            if st.button(label, type="primary"):
                request.start()
                st.rerun()
            show_command(request.command)

        draw()


def draw_job(job: Job) -> None:
    """Draw the progress of a running job with the time left, of an audit over all its steps, and a
    button that cancels it."""
    if job.cancelling:
        st.info("Cancelling…")
        return
    record = job.record
    if record.waits:
        st.info("Queued: one training job runs at a time.")
    share = min(1.0, record.done / max(1, record.total))
    parts = [f"{record.done:,} of {record.total:,} {record.noun}"] if record.total else []
    # The pace since this page first drew this count
    key = f"pace-{job.pid}-{record.stage}-{record.noun}"
    began, first = st.session_state.setdefault(key, (time.monotonic(), share))
    if share > first:
        left = (time.monotonic() - began) / (share - first) * (1 - share)
        parts.append(f"{duration(left)} left{' in this step' * bool(record.step)}")
    if record.step in STEPS:
        number = STEPS.index(record.step)
        parts.insert(0, f"Step {number + 1} of {len(STEPS)}: {record.step}")
        share = (number + share) / len(STEPS)
    else:
        show_text(record.stage or job.last_line or "Starting…", limit=300)
    if parts:
        st.progress(share, text=" · ".join(parts))
    st.caption("You can close this page; it continues.")
    key = f"cancel-{job.folder.name}"
    st.button("Cancel", key=key, on_click=cancel, args=(job,))
