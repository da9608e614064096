"""The page Decisions: progress, the list, the history with undo, checks without a model, and the re-audit."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import streamlit as st

from clipmem_core.audits.jobs import Job, audit_task
from clipmem_core.audits.status import DONE, state_of
from clipmem_core.audits.store import PAIRS, Audit, audits_folder
from clipmem_core.columns import CAPTIONS, PAIR_ID
from clipmem_core.config import InputError
from clipmem_core.dashboard.cards import DECISION_COLOURS, alt_text, data_uri, start_thumbnails
from clipmem_core.dashboard.deciding import BADGES, Notice, draw_badge, in_turn, undo
from clipmem_core.dashboard.new_audit import free_name, is_taken
from clipmem_core.dashboard.page import ALL, PAGE, choose_listed, choose_segment, draw_pages, link, read_page, write
from clipmem_core.dashboard.plain import (
    LIMIT,
    as_html,
    cut,
    draw_fault,
    moment,
    one_line,
    pairs_in_words,
    show_strong,
    show_text,
)
from clipmem_core.dashboard.running import draw_progress
from clipmem_core.exports.reaudit import (
    check_repeatable,
    cleaned_folder,
    comparison_lines,
    default_name,
    is_outdated,
    list_reaudits,
    read_comparison,
    reaudit_task,
)
from clipmem_core.pairs.checks import CHECKS
from clipmem_core.review.cards import PairCard, cards
from clipmem_core.review.decisions import CHOICES, CODES, FOR_OTHER, KEEP, REMOVE, decided, decision_words, open_review
from clipmem_core.review.rows import audit_root, check_counts, lookalike_groups
from clipmem_core.review.selection import DECIDED, UNDECIDED, Selection
from clipmem_core.review.tables import ROW, fetch_rows

DECISION = "decision"  # in the address
SIZE = 12
SIDE = 64
ROW_HEIGHT = 68
CAPTION_LIMIT = 85  # three lines; the pair's own page has the rest
NOTE_LIMIT = 1000
NOTE_ONLY = "note only"
OTHERS = "for other captions"
WITHOUT_SELECTION = (NOTE_ONLY, OTHERS)  # Browse cannot tell which pairs these are
COLUMNS = {
    "picture": st.column_config.ImageColumn(width=SIDE + 16),
    "open": st.column_config.LinkColumn(display_text="Open", width=60),
    "decision": st.column_config.TextColumn(width=85),
    "caption": st.column_config.TextColumn(width=210),
    "new captions": st.column_config.TextColumn(width=210),
    "note": st.column_config.TextColumn(width=170),
    "pair": st.column_config.TextColumn(width=170),
    "decided (UTC)": st.column_config.TextColumn(width=130),
    "audit": st.column_config.TextColumn(help="The audit that was looked at when it was decided."),
}


def count_decisions(audit: Audit) -> dict[str, int]:
    """Return the number of an audit's pairs of each decision, and of those that are undecided."""
    counts = np.bincount(decided(audit).codes, minlength=len(CODES))
    return {choice or UNDECIDED: int(counts[code]) for choice, code in CODES.items()}


def draw_reviewed(audit: Audit) -> None:
    """Draw how many pairs of the audit have been decided on, and how."""
    counts = count_decisions(audit)
    total, left = sum(counts.values()), counts[UNDECIDED]
    with st.grid(4, min_column_width=130) as grid:
        for choice in (*CHOICES, UNDECIDED):
            icon = BADGES[None if choice == UNDECIDED else choice][1]
            grid.metric(choice.capitalize(), f"{counts[choice]:,}", icon=icon, border=True)
    share = (total - left) / total if total else 0.0
    st.progress(share, text=f"{total - left:,} of {total:,} pairs of this audit are decided ({share:.0%})")


def draw_decisions(audit: Audit) -> None:
    """Draw the decisions on the data set of an audit, those that the address asks for."""
    table = _table(audit)
    if table.empty:
        st.info("Nothing has been decided yet.", icon=":material/checklist:")
        st.page_link(
            "pages/browse.py",
            label="Browse the most memorized pairs and decide",
            icon=":material/grid_view:",
            query_params=link(audit, Selection()),
        )
        st.caption("Exports can be made all the same: the report, and the data set as it is.")
        return
    choice = _draw_filter(table)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        shown = table if choice == ALL else table[_names(table) == choice]
        page, pages = read_page(len(shown), SIZE)
        _draw_way_to_browse(audit, choice)
        draw_pages(page, pages, key="decision-pages")
    if shown.empty:
        st.caption("No pair has this decision.")
        return
    if OTHERS in set(_names(shown)):
        st.caption(
            "“For other captions”: decided in another audit, where the pair has other captions, as where mistakes "
            "are planted. It does not count here, and is not exported."
        )
    _draw_page(audit, shown.iloc[(page - 1) * SIZE : page * SIZE], choice)


def _table(audit: Audit) -> pd.DataFrame:
    review = open_review(audit)
    with st.spinner("Reading the decisions…"):
        inode = review.path.stat().st_ino if review.path.exists() else 0
        return _kept_table(review.path, inode, review.position(), audit)


@functools.lru_cache(maxsize=2)
def _kept_table(path: Path, inode: int, position: int, audit: Audit) -> pd.DataFrame:
    """Read all decisions once for every state of the log: a million take seconds."""
    return open_review(audit).table()


def _names(table: pd.DataFrame) -> pd.Series:
    return table["decision"].fillna(table[FOR_OTHER].map({choice: OTHERS for choice in CHOICES})).fillna(NOTE_ONLY)


def _draw_filter(table: pd.DataFrame) -> str:
    """Draw the decisions to choose from, each with its number, and return the chosen one."""
    counts = _names(table).value_counts()
    names = {ALL: f"All {len(table):,}"}
    for name in (*CHOICES, *(name for name in WITHOUT_SELECTION if name in counts)):
        names[name] = f"{name.capitalize()} {counts.get(name, 0):,}"
    key = f"decision-list-{DECISION}"
    return choose_segment("Decision", names, parameter=DECISION, key=key, hidden=True, clears=[PAGE])


def _draw_way_to_browse(audit: Audit, choice: str) -> None:
    """Draw the link to the same pairs in Browse, where it can show them."""
    there = link(audit, _selection(choice))
    if choice not in WITHOUT_SELECTION:
        st.page_link("pages/browse.py", label="Browse these", icon=":material/grid_view:", query_params=there)


def _selection(choice: str) -> Selection:
    return Selection(decision={ALL: DECIDED, NOTE_ONLY: UNDECIDED, OTHERS: UNDECIDED}.get(choice, choice))


def _draw_page(audit: Audit, part: pd.DataFrame, choice: str) -> None:
    rows = rows_of(audit, part[PAIR_ID].tolist())
    found = {card.pair_id: card for card in cards(audit, list(rows.values()))}
    pictures = start_thumbnails(audit_root(audit), [card.image for card in found.values()], side=SIDE)
    jpegs = {pair_id: picture.result()[0] for pair_id, picture in zip(found, pictures, strict=True)}
    table = pd.DataFrame([_row(audit, said, found, jpegs, _selection(choice)) for said in part.to_dict("records")])
    if len(found) < len(part):
        st.caption("Pairs without a picture are in another audit of this data set, and not in this one.")
    st.dataframe(
        table,
        hide_index=True,
        row_height=ROW_HEIGHT,
        height=len(table) * ROW_HEIGHT + 40,
        column_config=COLUMNS,
        placeholder="",
        alt="The decisions of this page: pair, captions, note, time",
    )


def _row(
    audit: Audit, said: dict[Any, Any], found: dict[str, PairCard], jpegs: dict[str, bytes], selection: Selection
) -> dict[str, Any]:
    pair_id = said[PAIR_ID]
    card = found.get(pair_id)
    return {
        "picture": data_uri(jpegs[pair_id]) if card else None,
        "open": f"pair?{urlencode(link(audit, selection, pair=pair_id))}" if card else None,
        "decision": decision_words(said["decision"], said[FOR_OTHER]) or NOTE_ONLY,
        "caption": _joined(card.captions if card else ()),
        "new captions": _joined(said[CAPTIONS]),
        "note": cut(" ".join(said["note"].split()), NOTE_LIMIT),
        "pair": pair_id,
        "decided (UTC)": moment(said["time"]),
        "audit": said["audit"],
    }


def _joined(captions: Sequence[str]) -> str:
    return cut(" ".join(" · ".join(captions).split()), CAPTION_LIMIT)


def rows_of(audit: Audit, pair_ids: Sequence[str]) -> dict[str, int]:
    """Return the row of each of some pairs that the audit has, in the order given."""
    ids = list(dict.fromkeys(pair_ids))
    if not ids:
        return {}
    query = f'SELECT "{PAIR_ID}", {ROW} FROM parquet WHERE "{PAIR_ID}" IN ({", ".join("?" * len(ids))})'
    found = dict(fetch_rows(audit.folder / PAIRS, query, ids))
    return {pair_id: found[pair_id] for pair_id in ids if pair_id in found}


HISTORY_PAGE = "history"  # in the address
HISTORY_SIZE = 10
ID_LIMIT = 60
STYLE = """<style>
.event { font-size: .875rem; line-height: 1.5; overflow-wrap: anywhere; }
.event .badge { color: #fff; border-radius: .3rem; padding: 0 .4rem; background: #6b6b6b; }
.event .about { opacity: .75; font-size: .8rem; }
.event.undone { opacity: .75; }
.event.undone .what { text-decoration: line-through; }
</style>"""


def draw_history(audit: Audit) -> None:
    """Draw the page of the history that the address asks for."""
    review = open_review(audit)
    count = review.count_events()
    if count == 0:
        st.info("Nothing has been decided yet, so there is nothing to undo.", icon=":material/history:")
        return
    page, pages = read_page(count, HISTORY_SIZE, parameter=HISTORY_PAGE)
    events = review.history(page=page, size=HISTORY_SIZE)
    st.caption("Full history; undo is recorded too. Newer decisions are kept.")
    st.html(STYLE)
    known = rows_of(audit, events["first_pair_id"].tolist())
    for event in events.to_dict("records"):
        _draw_event(audit, event, has_pair=event["first_pair_id"] in known)
    draw_pages(page, pages, key="history-pages", parameter=HISTORY_PAGE)


def _draw_event(audit: Audit, event: dict[Any, Any], *, has_pair: bool) -> None:
    number = int(event["event"])
    with st.container(horizontal=True, vertical_alignment="center", gap="small", wrap=False, border=True):
        st.html(event_html(event))
        if has_pair:
            there = link(audit, Selection(), pair=event["first_pair_id"])
            st.page_link("pages/pair.py", label="Open", query_params=there, width="content")
        if event["undone"]:
            return
        if event["kind"] == "decide":
            st.button("Undo", icon=":material/undo:", key=f"undo-{number}", on_click=undo, args=(audit, number))
        else:
            st.button("Redo", icon=":material/redo:", key=f"redo-{number}", on_click=_redo, args=(audit, number))


def _redo(audit: Audit, event: int) -> None:
    """Take an undo back. A callback."""
    with in_turn() as session:
        outcome = open_review(audit).undo(event)
        if outcome is None or outcome.pairs == 0:
            session.notice = Notice("Nothing redone: there is a newer decision.", good=False)
            return
        left = f" {pairs_in_words(outcome.left)}, with newer decisions, unchanged." if outcome.left else ""
        session.notice = Notice(f"Redone for {pairs_in_words(outcome.pairs)}.{left}")


def event_html(event: dict[Any, Any]) -> str:
    """Return what an event of the history says, as HTML in which all that others wrote is escaped."""
    word = BADGES.get(event["decision"], ("?",))[0]
    colour = DECISION_COLOURS.get(event["decision"], "")
    style = f' style="background:{colour}"' if colour else ""
    badge = f'<span class="badge"{style}>{word}</span>'
    undoes = "" if pd.isna(event["undoes"]) else f"undo of {int(event['undoes'])}: "
    pair = as_html(event["first_pair_id"], limit=ID_LIMIT)
    others = f" and {event['pairs'] - 1:,} more" if event["pairs"] > 1 else ""
    undone = " · undone" if event["undone"] else ""
    audit = f" · audit {as_html(event['audit'], limit=ID_LIMIT)}" if event["audit"] else ""
    about = f"{int(event['event'])} · {as_html(moment(event['time']))} UTC{audit}{undone}"
    what = f'<span class="what">{undoes}{badge} {pair}{others}</span>'
    return f'<div class="event{" undone" if event["undone"] else ""}">{what}<div class="about">{about}</div></div>'


SECOND = "again"  # in the address
WHAT = (
    "Writes the data set without the pairs you removed and with the captions you changed, audits it with the same "
    "settings, seeds and members, each on the same pairs less those that are gone, and compares both audits on the "
    "pairs they share. It takes about as long as the first audit did."
)


def draw_again(audit: Audit) -> None:
    """Draw the audits of what an audit cleaned, the one the address asks for, and the button that starts another."""
    names = list_reaudits(audit)
    if not names:
        _draw_start(audit)
        return
    name = choose_listed("Audited again", names, parameter=SECOND, key="again-second", width=320)
    if is_outdated(audit, name):
        st.caption(":material/update: There are newer decisions than this audit: re-audit to include them.")
    _draw_second(audit, name)
    with st.expander("Re-audit with current decisions", icon=":material/autorenew:", expanded=False):
        _draw_start(audit)


def _draw_start(audit: Audit) -> None:
    """Draw the button that audits the cleaned data set; beside it, when it is disabled, the reason."""
    counts, fault = count_decisions(audit), ""
    changed = sum(count for choice, count in counts.items() if choice not in (KEEP, UNDECIDED))
    try:
        check_repeatable(audit)
    except InputError as error:
        fault = one_line(error)
    if not fault and not changed:
        fault = "No pair is removed and no caption changed yet, so nothing would change."
    if not fault and counts[REMOVE] == sum(counts.values()):
        fault = "Every pair is removed: nothing is left to audit."
    st.caption(WHAT)
    name = free_name(default_name(audit), taken=lambda each: is_taken(each) or cleaned_folder(each).exists())
    label = f"Audit again, {pairs_in_words(changed)} removed or with changed captions" if changed else "Audit again"
    if st.button(label, type="primary", icon=":material/autorenew:", key="start-again", disabled=bool(fault)):
        _start(audit, name)
    if fault:
        show_text(fault, limit=LIMIT)
        return
    st.caption("Command line:")
    st.code(f"python -m clipmem_core again {audit.name} --name {name}", language="bash", wrap_lines=True)


def _start(audit: Audit, name: str) -> None:
    try:
        reaudit_task(audit, name).start()
    except InputError as error:
        draw_fault("It could not be started.", error)
        return
    write(**{SECOND: name})
    st.rerun()


def _draw_second(audit: Audit, name: str) -> None:
    """Draw how far a second audit is, or what came out."""
    second = Audit(audits_folder() / name)
    if state_of(name).word != DONE:
        draw_progress(name)
        return
    found, compared = read_comparison(second)
    if not compared:
        _draw_comparing(audit, name)
        return
    first, *rest = comparison_lines(found)
    show_strong(first)
    for sentence in rest:
        show_text(sentence)
    with st.container(horizontal=True):
        st.page_link("pages/overview.py", label="Open it", icon=":material/open_in_new:", query_params={"audit": name})
        both = {"one": audit.name, "other": name}
        st.page_link(
            "pages/compare.py", label="Compare pair by pair", icon=":material/compare_arrows:", query_params=both
        )


@st.fragment(run_every=1)
def _draw_comparing(audit: Audit, name: str) -> None:
    """Draw that both are being compared, and the whole page again once they are; a button where nobody does it."""
    job = audit_task(name).find()
    if read_comparison(Audit(audits_folder() / name))[1]:
        st.rerun()
    if job is not None and job.running:
        st.caption("The second audit is finished; comparing it with the first.")
        show_text(job.last_line, limit=200)
        return
    _draw_end(job)
    if st.button("Compare", type="primary", icon=":material/compare_arrows:", key="compare-again"):
        reaudit_task(audit, name).start()
        st.rerun()


def _draw_end(job: Job | None) -> None:
    if job is not None and job.failed:
        draw_fault("The comparison failed.", job.last_line)
    else:
        st.caption("The second audit is finished but not compared yet.")


GROUP_PAGE = "group"  # in the address
GROUPS = 6  # on a page
SHOWN = 12  # pictures of a group
LOOKALIKE_SIDE = 150
LOOKALIKE_CAPTION = 120
BROWSE = "pages/browse.py"
ICONS = {"captions": ":material/notes:", "pictures": ":material/image:"}


def draw_checks(audit: Audit) -> None:
    """Draw how many pairs each check finds, and the groups of look-alikes."""
    with st.spinner("Checking captions and pictures, once…"):
        counts = check_counts(audit)
    st.caption("Found without a model. Each is a hint, not a verdict: a short caption may be fine.")
    found = {name: count for name, count in counts.items() if count}
    for name, count in found.items():
        check = CHECKS[name]
        left, right = st.columns([2, 5], vertical_alignment="center", gap="small")
        label = f"{check.label}: **{count:,}**"
        left.page_link(BROWSE, label=label, icon=ICONS[check.of], query_params=link(audit, Selection(check=name)))
        right.caption(f"{check.help} {check.advice}")
    for sentence, of in (("Nothing found", 0), ("Not known for this audit", None)):
        names = [CHECKS[name].label.lower() for name, count in counts.items() if count == of and name not in found]
        if names:
            st.caption(f"{sentence}: {', '.join(names)}.")
    _draw_groups(audit)


def _draw_groups(audit: Audit) -> None:
    groups = lookalike_groups(audit)
    st.subheader("Near-duplicates", anchor=False)
    if not groups:
        st.caption("No near-duplicate pictures in this audit.")
        return
    page, pages = read_page(len(groups), GROUPS, parameter=GROUP_PAGE)
    shown = groups[(page - 1) * GROUPS : page * GROUPS]
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.caption(
            f"{len(groups):,} {'group' if len(groups) == 1 else 'groups'}, {pairs_in_words(sum(map(len, groups)))}",
            width="content",
        )
        draw_pages(page, pages, key="lookalike-pages", parameter=GROUP_PAGE)
    found = {card.row: card for card in cards(audit, [row for group in shown for row in group[:SHOWN]])}
    for group in shown:
        _draw_group(audit, [found[row] for row in group[:SHOWN]], len(group) - SHOWN)


def _draw_group(audit: Audit, group: Sequence[PairCard], more: int) -> None:
    """Draw the pairs of a group beside each other, with what can be said of all of them."""
    ids = [card.pair_id for card in group]
    pictures = start_thumbnails(audit_root(audit), [card.image for card in group], side=LOOKALIKE_SIDE)
    with st.container(border=True):
        with st.container(horizontal=True, gap="medium"):
            for card, picture in zip(group, pictures, strict=True):
                data, fault = picture.result()
                with st.container(width=LOOKALIKE_SIDE + 20, gap="xsmall"):
                    caption = cut(" · ".join(card.captions), LOOKALIKE_CAPTION)
                    st.image(data, width=LOOKALIKE_SIDE, alt=alt_text(caption, fault))
                    show_text(caption)
                    draw_badge(card.decision)
                    st.page_link(
                        "pages/pair.py", label="Open", query_params=link(audit, Selection(), pair=card.pair_id)
                    )
                    others = [pair_id for pair_id in ids if pair_id != card.pair_id]
                    st.button(
                        "Keep this one",
                        key=f"keep-one-{card.row}",
                        help="Remove the others of this group",
                        disabled=more > 0,
                        on_click=_keep_one,
                        args=(audit, card.pair_id, others),
                    )
        if more > 0:
            st.caption(f"{more:,} more are not shown: decide for them in Browse.")
        else:
            key = f"keep-all-{group[0].row}"
            st.button("Keep all", icon=":material/done_all:", key=key, on_click=_decide, args=(audit, ids, KEEP))


def _keep_one(audit: Audit, kept: str, others: Sequence[str]) -> None:
    """Keep one pair of a group and remove the others. A callback."""
    _decide(audit, [kept], KEEP)
    _decide(audit, others, REMOVE)


def _decide(audit: Audit, pair_ids: Sequence[str], decision: str) -> None:
    """Store a decision on pairs of a group, in one event. A callback."""
    with in_turn() as session:
        review = open_review(audit)
        outcome = review.decide(pair_ids, decision, audit=audit.name, apart=True)  # says nothing of captions
        session.remember(audit, review, outcome)
        sentence = f"Saved: {BADGES[decision][0]}, for {pairs_in_words(outcome.pairs)}."
        session.notice = Notice(sentence, event=outcome.event)
        session.presses += 1
