"""The decisions on the pairs of a data set, their history with undo, checks, exports and
re-audits."""

from collections.abc import Sequence
from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from clipmem_core.auditing.folder.jobs import DONE, export_request, state_of
from clipmem_core.auditing.folder.store import PAIRS, Audit
from clipmem_core.config import data_folder
from clipmem_core.dashboard.cards import draw_cells, thumbnail
from clipmem_core.dashboard.deciding import (
    BADGES,
    draw_badge,
    draw_notice,
    draw_reviewed,
    draw_undo,
    draw_wrong,
    storing_decisions,
)
from clipmem_core.dashboard.page import (
    choose_listed,
    choose_segment,
    draw_job_request,
    draw_link,
    draw_progress,
    free_name,
    link,
    open_page,
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
from clipmem_core.dataset.checks import CHECKS
from clipmem_core.export import reaudit
from clipmem_core.export.cleaned import contents_line, count_words
from clipmem_core.export.formats import FORMATS
from clipmem_core.lab.setting import DECISIONS
from clipmem_core.review.bulk_edits import word_changes
from clipmem_core.review.cards import cards, data_url
from clipmem_core.review.decisions import CHOICES, KEEP, REMOVE, count_changed, open_review
from clipmem_core.review.filters import check_counts, near_duplicate_groups
from clipmem_core.review.log import Choice
from clipmem_core.review.queries import ROW, fetch_by_id
from clipmem_core.review.views import DECIDED, Selection
from clipmem_core.utils.columns import CAPTIONS, PAIR_ID
from clipmem_core.utils.io import InputError

# parameters of the address
HISTORY_PAGE = "history"
GROUP_PAGE = "group"
SECOND = "again"
# on a page
PAIRS_SHOWN = 12
EVENTS_SHOWN = 10
GROUPS_SHOWN = 6
OF_GROUP = 12  # pictures
# pixels
SIDE = 64  # of a picture
GROUP_SIDE = 150
ROW_HEIGHT = 68
# characters
CAPTION_LIMIT = 60  # three lines; the page Pair shows the full caption
LIMIT = 1000
ID_LIMIT = 60
GROUP_LIMIT = 120
DOWNLOAD_BYTES = 200_000_000  # a download is read into memory
COLUMNS = {
    "picture": st.column_config.ImageColumn(width=SIDE + 16),
    "open": st.column_config.LinkColumn(display_text="Open"),
    "changed captions": st.column_config.TextColumn(width=330),
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
    selection = Selection(decision=choice or DECIDED)
    shown = table[table["decision"] == choice] if choice else table
    part, draw_numbers = read_part(shown, PAIRS_SHOWN)
    with in_a_row(horizontal_alignment="distribute"):
        draw_link("browse", "Browse these", audit, selection)
        draw_numbers()
    rows = fetch_by_id(audit.folder / PAIRS, ROW, part[PAIR_ID])
    here = {card.pair_id: card for card in cards(audit, list(rows.values()))}
    if len(here) < len(part):
        st.caption("Pairs without a picture are in another audit of this data set, not in this.")
    lines = []
    for entry in part.to_dict("records"):
        pair_id = entry[PAIR_ID]
        card = here.get(pair_id)
        captions = card.captions if card else ()
        lines.append(
            {
                "picture": card and data_url(thumbnail(audit.record.pictures, card.image)[0]),
                "open": card and f"pair?{urlencode(link(audit, selection, pair=pair_id))}",
                "decision": BADGES[entry["decision"]][0],
                "changed captions": in_one_line(word_changes(captions, entry[CAPTIONS]), LIMIT),
                "caption": in_one_line(" · ".join(captions), CAPTION_LIMIT),
                "note": in_one_line(entry["note"], LIMIT),
                "pair": pair_id,
                "decided (UTC)": moment(entry["time"]),
            }
        )
    st.dataframe(
        pd.DataFrame(lines),
        hide_index=True,
        row_height=ROW_HEIGHT,
        height="content",
        column_config=COLUMNS,
        placeholder="",
        alt="The decisions of this page: pair, captions, note, time",
    )


def draw_history(audit: Audit) -> None:
    """Draw the history's page that the address names."""
    history = open_review(audit).history()
    if history.empty:
        st.info("Nothing has been decided yet, so there is nothing to undo.")
        return
    shown, draw_numbers = read_part(history, EVENTS_SHOWN, parameter=HISTORY_PAGE)
    st.caption(
        "Everything you decided, newest first. Undoing an entry leaves later decisions untouched."
    )
    for event in shown.to_dict("records"):
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
                show_text(f"{cut(pair_id, ID_LIMIT)}{others}")
                show_text(" · ".join(in_one_line(fact, ID_LIMIT) for fact in facts if fact))
            draw_link("pair", "Open", audit, pair=pair_id)
            if not event["undone"]:
                draw_undo(audit, number, key=f"undo-{number}")
    draw_numbers()


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
        st.caption(f"{sentence}: {', '.join(names) or 'none'}.")
    groups = near_duplicate_groups(audit)
    st.header("Near-duplicates")
    shown, draw_numbers = read_part(groups, GROUPS_SHOWN, parameter=GROUP_PAGE)
    with in_a_row(horizontal_alignment="distribute"):
        pairs = pairs_in_words(sum(map(len, groups)))
        st.caption(f"{count_words(len(groups), 'group')}, {pairs}", width="content")
        draw_numbers()
    for rows in shown:
        draw_group(audit, rows)


def draw_group(audit: Audit, rows: Sequence[int]) -> None:
    """Draw a group of near-duplicates with the buttons that keep one of them, or all."""
    group = cards(audit, rows[:OF_GROUP])
    ids = [card.pair_id for card in group]
    hidden = len(rows) - len(group)
    with st.container(border=True):
        for card in draw_cells(audit, group, "auto", min_column_width=GROUP_SIDE, key=f"{rows[0]}"):
            show_text(cut(" · ".join(card.current), GROUP_LIMIT))
            draw_badge(card.decision.decision)
            draw_link("pair", "Open", audit, pair=card.pair_id)
            st.button(
                "Keep this one",
                key=f"keep-one-{card.row}",
                help="Remove the others of this group",
                disabled=hidden > 0,
                on_click=keep_some,
                args=(audit, ids, [card.pair_id]),
            )
        if hidden:
            st.caption(f"Not shown: {hidden:,} more. Decide on them in Browse.")
        else:
            key = f"keep-all-{rows[0]}"
            st.button("Keep all", key=key, on_click=keep_some, args=(audit, ids, ids))


def keep_some(audit: Audit, ids: Sequence[str], kept: Sequence[str]) -> None:
    """Keep some pairs of a group and remove the others; estimates of wrong captions ignore this. A
    callback."""
    with storing_decisions() as session:
        choices = {
            pair_id: Choice(KEEP if pair_id in kept else REMOVE, neutral=True) for pair_id in ids
        }
        outcome = open_review(audit).decide_each(choices, audit=audit.name)
        session.saved(audit, "Saved", outcome)


def draw_exports(audit: Audit) -> None:
    """Draw the choice of a format, the contents of the export, its progress, and the finished
    export."""
    left, right = st.columns([2, 3], gap="large")
    with left:
        format = choose_listed(
            "Format",
            {name: about.title for name, about in FORMATS.items()},
            parameter="format",
            draw=st.radio,
            captions=[about.help for about in FORMATS.values()],
        )
    about = FORMATS[format]
    name = f"{audit.name}-{format}{about.suffixes[0]}"
    path = data_folder().absolute() / "exports" / audit.name / name
    with right:
        st.caption(about.limits)
        request = export_request(audit, format, path)
        job = request.find()
        contents = contents_line(audit, open_review(audit).decisions())
        draw_job_request(request, reason=contents, label="Export")
        result = job.record.result if job and job.exit_code == 0 else None
        if not (result and path.exists()):
            return
        st.code(str(path), language=None, wrap_lines=True)
        for line in (result["line"], *result["notes"]):
            show_text(line)
        if result["command"]:
            show_command(result["command"], "Audit the result:")
        if path.is_file() and path.stat().st_size <= DOWNLOAD_BYTES:
            st.download_button(
                "Download", data=path.read_bytes, file_name=path.name, on_click="ignore"
            )


def draw_reaudits(audit: Audit) -> None:
    """Draw the chosen re-audit, and the button that starts another."""
    if names := reaudit.list_reaudits(audit):
        name = choose_listed("Re-audits", names, parameter=SECOND, width=320)
        if reaudit.is_outdated(audit, name):
            st.caption("There are newer decisions than this audit: re-audit to include them.")
        draw_second(audit, name)
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
    name = f"{audit.name}-again"
    name = free_name(name, {path.name for path in reaudit.cleaned_folder(name).parent.glob("*")})
    if st.button(
        f"Re-audit: {pairs_in_words(changed)} removed or with changed captions",
        type="primary",
        key="start-again",
        disabled=bool(obstacle),
    ):
        reaudit.reaudit_request(audit, name).start()
        write_address(**{SECOND: name})
        st.rerun()
    if obstacle:
        show_text(obstacle)
    else:
        show_command(f"python -m clipmem_core reaudit {audit.name} --name {name}")


@st.fragment(run_every=2)
def draw_second(audit: Audit, name: str) -> None:
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


VIEWS = {
    "decisions": (":material/checklist: Decisions", draw_decisions),
    "checks": (":material/rule: Checks", draw_checks),
    "history": (":material/history: History", draw_history),
    "export": (":material/output: Export", draw_exports),
    "again": (":material/autorenew: Re-audit", draw_reaudits),
}

with open_page("Decisions and export") as audit:
    draw_wrong(audit)
    draw_reviewed(audit)
    label = "See what your decisions change in training (about 30 s)"
    draw_link("mitigations", label, audit, setting=DECISIONS)
    names = {view: name for view, (name, _) in VIEWS.items()}
    view = choose_segment("View", names, parameter="view", hidden=True)
    draw_notice(audit)
    VIEWS[view][1](audit)
