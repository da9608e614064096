"""The page Decisions: progress, the list, the history with undo, checks without a model, exports
and re-audits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from clipmem_core.auditing.folder.jobs import DONE, export_request, state_of
from clipmem_core.auditing.folder.store import PAIRS, Audit
from clipmem_core.config import data_folder
from clipmem_core.dashboard.audits import free_name, is_taken
from clipmem_core.dashboard.cards import draw_cells, thumbnail
from clipmem_core.dashboard.deciding import BADGES, draw_badge, locked_session, undo
from clipmem_core.dashboard.page import (
    choose_listed,
    choose_segment,
    draw_link,
    draw_pages,
    link,
    read_page,
    read_part,
    write_address,
)
from clipmem_core.dashboard.plain import (
    cut,
    explained_errors,
    in_a_row,
    in_one_line,
    moment,
    pairs_in_words,
    show_command,
    show_text,
)
from clipmem_core.dashboard.running_audit import draw_job_request, draw_progress
from clipmem_core.dataset.checks import CHECKS
from clipmem_core.export import reaudit
from clipmem_core.export.cleaned import contents_line, count_words
from clipmem_core.export.formats import FORMATS
from clipmem_core.review.bulk_edits import word_changes
from clipmem_core.review.cards import PairCard, cards, data_url
from clipmem_core.review.decisions import (
    CHOICES,
    FOR_OTHER,
    KEEP,
    REMOVE,
    Choice,
    count_changed,
    decision_words,
    open_review,
)
from clipmem_core.review.filters import check_counts, near_duplicate_groups
from clipmem_core.review.queries import ROW, fetch_pairs
from clipmem_core.review.views import DECIDED, Selection
from clipmem_core.utils.columns import CAPTIONS, PAIR_ID
from clipmem_core.utils.io import InputError

# parameters of the address
_HISTORY_PAGE = "history"
_GROUP_PAGE = "group"
# on a page
_PAIRS_SHOWN = 12
_EVENTS_SHOWN = 10
_GROUPS_SHOWN = 6
_OF_GROUP = 12  # pictures
# pixels
_SIDE = 64  # of a picture
_GROUP_SIDE = 150
_ROW_HEIGHT = 68
# characters
_CAPTION_LIMIT = 60  # three lines; the page Pair shows the full caption
_NOTE_LIMIT = 1000
_ID_LIMIT = 60
_GROUP_LIMIT = 120
_CHANGE = "changed captions"
_WIDTHS = {
    "decision": 85,
    _CHANGE: 330,
    "caption": 170,
    "note": 170,
    "pair": 170,
    "decided (UTC)": 130,
}
_COLUMNS = {
    "picture": st.column_config.ImageColumn(width=_SIDE + 16),
    "open": st.column_config.LinkColumn(display_text="Open", width=60),
    **{name: st.column_config.TextColumn(width=width) for name, width in _WIDTHS.items()},
}


def draw_decisions(audit: Audit) -> None:
    """Draw the decisions on the data set of an audit, filtered by the address."""
    with st.spinner("Reading the decisions…"):
        table = open_review(audit).table()
    if table.empty:
        st.info("Nothing has been decided yet.")
        draw_link("browse", "Browse", audit)
        return
    counts = table["decision"].value_counts()
    names = {"": f"All {len(table):,}"}
    names |= {name: f"{BADGES[name][0].capitalize()} {counts.get(name, 0):,}" for name in CHOICES}
    choice = choose_segment("Decision", names, parameter="decision", hidden=True, clears=["page"])
    shown = table[table["decision"] == choice] if choice else table
    selection = Selection(decision=choice or DECIDED)
    part, draw_numbers = read_part(shown, _PAIRS_SHOWN)
    with in_a_row(horizontal_alignment="distribute"):
        draw_link("browse", "Browse these", audit, selection)
        draw_numbers()
    _draw_page(audit, part, selection)


def _draw_page(audit: Audit, part: pd.DataFrame, selection: Selection) -> None:
    found = fetch_pairs(audit.folder / PAIRS, [ROW], part[PAIR_ID])
    here = {card.pair_id: card for card in cards(audit, found[ROW].to_pylist())}
    if len(here) < len(part):
        st.caption(
            "Pairs without a picture are in another audit of this data set, and not in this one."
        )
    lines = []
    for entry in part.to_dict("records"):
        pair_id = entry[PAIR_ID]
        captions: list[str] = []
        line = {
            "decision": decision_words(None, entry[FOR_OTHER]) or BADGES[entry["decision"]][0],
            "note": in_one_line(entry["note"], _NOTE_LIMIT),
            "pair": pair_id,
            "decided (UTC)": moment(entry["time"]),
        }
        if pair_id in here:
            card = here[pair_id]
            captions = list(card.captions)
            line["picture"] = data_url(thumbnail(audit.record.pictures, card.image, side=_SIDE)[0])
            line["open"] = f"pair?{urlencode(link(audit, selection, pair=pair_id))}"
        line["caption"] = in_one_line(" · ".join(captions), _CAPTION_LIMIT)
        line[_CHANGE] = in_one_line(word_changes(captions, entry[CAPTIONS]), _NOTE_LIMIT)
        lines.append(line)
    st.dataframe(
        pd.DataFrame(lines, columns=list(_COLUMNS)),
        hide_index=True,
        row_height=_ROW_HEIGHT,
        height=len(lines) * _ROW_HEIGHT + 40,
        column_config=_COLUMNS,
        placeholder="",
        alt="The decisions of this page: pair, captions, note, time",
    )


def draw_history(audit: Audit) -> None:
    """Draw the history's page that the address names."""
    review = open_review(audit)
    count = review.count_events()
    if count == 0:
        st.info("Nothing has been decided yet, so there is nothing to undo.")
        return
    page, pages = read_page(count, _EVENTS_SHOWN, parameter=_HISTORY_PAGE)
    st.caption(
        "Everything you decided, newest first. Undoing an entry leaves later decisions untouched."
    )
    for event in review.history(page=page, size=_EVENTS_SHOWN).to_dict("records"):
        _draw_event(audit, event)
    draw_pages(page, pages, parameter=_HISTORY_PAGE)


def _draw_event(audit: Audit, event: dict[Any, Any]) -> None:
    number = event["event"]
    pair_id = event["first_pair_id"]
    others = f" and {event['pairs'] - 1:,} more" if event["pairs"] > 1 else ""
    facts = [
        number,
        f"{moment(event['time'])} UTC",
        event["audit"] and f"audit {event['audit']}",
        event["note"],
        "" if pd.isna(event["undoes"]) else f"undo of {event['undoes']}",
        "undone" if event["undone"] else "",
    ]
    with in_a_row(border=True):
        draw_badge(event["decision"])
        with st.container(gap=None):
            show_text(f"{cut(pair_id, _ID_LIMIT)}{others}")
            show_text(" · ".join(in_one_line(fact, _ID_LIMIT) for fact in facts if fact))
        draw_link("pair", "Open", audit, pair=pair_id)
        if not event["undone"]:
            st.button(
                "Undo",
                icon=":material/undo:",
                key=f"undo-{number}",
                on_click=undo,
                args=(audit, number),
            )


def draw_checks(audit: Audit) -> None:
    """Draw the number of pairs that fail each check, and the groups of near-duplicates."""
    with st.spinner("Checking captions and pictures, once…"):
        counts = check_counts(audit)
    st.caption("Found without a model. These are hints: a short caption may be fine.")
    for name, count in counts.items():
        if count:
            check = CHECKS[name]
            left, right = st.columns([3, 5], vertical_alignment="center")
            with left:
                label = f"{check.label}: **{count:,}**"
                draw_link("browse", label, audit, Selection(check=name))
            right.caption(f"{check.help} {check.advice}")
    for sentence, value in (("Nothing found", 0), ("Not available in this audit", None)):
        names = [CHECKS[name].label.lower() for name, count in counts.items() if count == value]
        if names:
            st.caption(f"{sentence}: {', '.join(names)}.")
    groups = near_duplicate_groups(audit)
    st.header("Near-duplicates")
    if not groups:
        st.caption("No near-duplicate pictures in this audit.")
        return
    shown, draw_numbers = read_part(groups, _GROUPS_SHOWN, parameter=_GROUP_PAGE)
    with in_a_row(horizontal_alignment="distribute"):
        st.caption(
            f"{count_words(len(groups), 'group')}, {pairs_in_words(sum(map(len, groups)))}",
            width="content",
        )
        draw_numbers()
    for group in shown:
        _draw_group(audit, cards(audit, group[:_OF_GROUP]), hidden=len(group) - _OF_GROUP)


def _draw_group(audit: Audit, group: Sequence[PairCard], *, hidden: int) -> None:
    ids = [card.pair_id for card in group]
    first = str(group[0].row)
    with st.container(border=True):
        for card in draw_cells(audit, group, "auto", min_column_width=_GROUP_SIDE, key=first):
            show_text(cut(" · ".join(card.current), _GROUP_LIMIT))
            draw_badge(card.decision.decision)
            draw_link("pair", "Open", audit, pair=card.pair_id)
            others = [pair_id for pair_id in ids if pair_id != card.pair_id]
            st.button(
                "Keep this one",
                key=f"keep-one-{card.row}",
                help="Remove the others of this group",
                disabled=hidden > 0,
                on_click=_decide,
                args=(audit, [card.pair_id], others),
            )
        if hidden > 0:
            st.caption(f"Not shown: {hidden:,} more. Decide on them in Browse.")
        else:
            st.button(
                "Keep all",
                icon=":material/done_all:",
                key=f"keep-all-{first}",
                on_click=_decide,
                args=(audit, ids, []),
            )


def _decide(audit: Audit, keep: Sequence[str], remove: Sequence[str]) -> None:
    """Keep some pairs of a group and remove the others; estimates of wrong captions ignore this. A
    callback."""
    with locked_session() as session:
        for decision, pair_ids in ((KEEP, keep), (REMOVE, remove)):
            if pair_ids:
                choices = dict.fromkeys(pair_ids, Choice(decision, neutral=True))
                outcome = open_review(audit).decide_each(choices, audit=audit.name)
                session.saved(audit, f"Saved as {BADGES[decision][0]}", outcome)


# in the address
_SECOND = "again"
_DOWNLOAD_BYTES = 200_000_000  # a download is read into memory


def draw_exports(audit: Audit) -> None:
    """Draw the choice of a format, the contents of the export, its progress, and the finished
    export."""
    left, right = st.columns([2, 3], gap="large")
    with left:
        format = choose_listed(
            "Format",
            list(FORMATS),
            parameter="format",
            draw=st.radio,
            format_func=lambda name: FORMATS[name].title,
            captions=[about.help for about in FORMATS.values()],
        )
    about = FORMATS[format]
    name = f"{audit.name}-{format}{about.suffixes[0]}"
    with right:
        st.caption(about.limits)
        path = data_folder().absolute() / "exports" / audit.name / name
        task = export_request(audit, format, path)
        job = task.find()
        ran = job and job.running
        # The page shows the result once the job that it saw has ended.
        contents = contents_line(audit, open_review(audit).decisions())
        draw_job_request(task, lambda: ran, reason=contents, label="Export")
        if job and job.exit_code == 0 and job.record.result and path.exists():
            _draw_result(job.record.result, path)


def _draw_result(result: dict[str, Any], path: Path) -> None:
    with st.container(border=True):
        st.code(str(path), language=None, wrap_lines=True)
        for line in (result["line"], *result["notes"]):
            show_text(line)
        if result["command"]:
            show_command(result["command"], "Audit the result:")
        if path.is_file() and path.stat().st_size <= _DOWNLOAD_BYTES:
            st.download_button(
                "Download",
                data=path.read_bytes,
                file_name=path.name,
                key="download-export",
                on_click="ignore",
                icon=":material/download:",
            )


def draw_reaudits(audit: Audit) -> None:
    """Draw the chosen re-audit, and the button that starts another."""
    names = reaudit.list_reaudits(audit)
    if not names:
        _draw_start(audit)
        return
    name = choose_listed("Re-audits", names, parameter=_SECOND, width=320)
    if reaudit.is_outdated(audit, name):
        st.caption(
            ":material/update: There are newer decisions than this audit: re-audit to include them."
        )
    _draw_second(audit, name)
    with st.expander("Re-audit with current decisions"):
        _draw_start(audit)


def _draw_start(audit: Audit) -> None:
    """Draw the button that starts a re-audit, or why none can start."""
    st.caption(
        "This trains the same models on the cleaned set and scores it again, in about the time of "
        "the first audit. What your decisions change in training: Mitigations, My decisions."
    )
    changed = count_changed(audit)
    obstacle = "" if changed else "No pair is removed and no caption changed yet."
    try:
        reaudit.check_repeatable(audit)
    except InputError as error:
        obstacle = in_one_line(error)
    name = free_name(
        f"{audit.name}-again",
        taken=lambda each: is_taken(each) or reaudit.cleaned_folder(each).exists(),
    )
    if st.button(
        f"Re-audit: {pairs_in_words(changed)} removed or with changed captions",
        type="primary",
        icon=":material/autorenew:",
        key="start-again",
        disabled=bool(obstacle),
    ):
        reaudit.reaudit_request(audit, name).start()
        write_address(**{_SECOND: name})
        st.rerun()
    if obstacle:
        show_text(obstacle)
    else:
        show_command(f"python -m clipmem_core reaudit {audit.name} --name {name}")


@st.fragment(run_every=2)
def _draw_second(audit: Audit, name: str) -> None:
    """Draw the progress of a re-audit, or its result."""
    if state_of(name).word != DONE:
        draw_progress(name)
        return
    second = Audit(Audit.parent() / name)
    with explained_errors():
        show_text(second.verdict["sentence"])
    with in_a_row():
        draw_link("overview", "Open", second)
        draw_link("compare", "Compare pair by pair", audit, one=audit.name, other=name)
