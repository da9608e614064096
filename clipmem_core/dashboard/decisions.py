"""The page Decisions: progress, the list, the history with undo, checks without a model, and the
re-audit."""

from base64 import b64encode
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import streamlit as st

from clipmem_core.audit.status import DONE, state_of
from clipmem_core.audit.store import PAIRS, Audit, audits_folder
from clipmem_core.columns import CAPTIONS, PAIR_ID
from clipmem_core.dashboard import plain
from clipmem_core.dashboard.cards import draw_card_picture, start_thumbnails
from clipmem_core.dashboard.deciding import BADGES, locked_session, undo
from clipmem_core.dashboard.new_audit import free_name, is_taken
from clipmem_core.dashboard.page import (
    ALL,
    BROWSE,
    PAGE,
    PAIR_PAGE,
    choose_listed,
    choose_segment,
    draw_pages,
    link,
    read_page,
    write,
)
from clipmem_core.dashboard.running import draw_progress, draw_task
from clipmem_core.dataset.checks import CHECKS
from clipmem_core.export import reaudit
from clipmem_core.io import InputError
from clipmem_core.review.cards import PairCard, cards
from clipmem_core.review.decisions import (
    CHOICES,
    CODES,
    FOR_OTHER,
    KEEP,
    REMOVE,
    count_changed,
    decided,
    decision_words,
    open_review,
)
from clipmem_core.review.find_replace import word_changes
from clipmem_core.review.queries import ROW, fetch_rows
from clipmem_core.review.rows import check_counts, near_duplicate_groups
from clipmem_core.review.selection import DECIDED, UNDECIDED, Selection

# parameters of the address
DECISION = "decision"
HISTORY_PAGE = "history"
GROUP_PAGE = "group"
_SECOND = "again"
# on a page
SIZE = 12
HISTORY_SIZE = 10
_GROUPS = 6
SHOWN = 12  # pictures of a group
# pixels of a picture
SIDE = 64
GROUP_SIDE = 150
ROW_HEIGHT = 68
CAPTION_LIMIT = 60  # three lines; the page Pair shows the full caption
CHANGE = "changed captions"
NOTE_LIMIT = 1000
ID_LIMIT = 60
GROUP_LIMIT = 120
OTHER = "other"  # undecided: a note, replaced captions, or a decision on other captions
_COLUMNS = {
    "picture": st.column_config.ImageColumn(width=SIDE + 16),
    "open": st.column_config.LinkColumn(display_text="Open", width=60),
    "audit": st.column_config.TextColumn(help="The audit on screen at the time of the decision."),
}
WIDTHS = {
    "decision": 85,
    CHANGE: 330,
    "caption": 170,
    "note": 170,
    "pair": 170,
    "decided (UTC)": 130,
}
_COLUMNS |= {name: st.column_config.TextColumn(width=width) for name, width in WIDTHS.items()}
AGAIN = (
    "Writes the data set without the pairs you removed and with the captions you changed, audits "
    "it with the same "
    "settings, seeds and members, and compares both audits on the pairs they share, in about the "
    "time of the first."
)


def count_decisions(audit: Audit) -> dict[str, int]:
    """Return the number of an audit's pairs of each decision, and of the undecided."""
    counts = np.bincount(decided(audit).codes, minlength=len(CODES))
    return {choice or UNDECIDED: int(counts[code]) for choice, code in CODES.items()}


def draw_reviewed(audit: Audit) -> None:
    """Draw the number of pairs of each decision."""
    counts = count_decisions(audit)
    total = sum(counts.values())
    undecided = counts[UNDECIDED]
    with st.grid(4, min_column_width=130) as grid:
        for choice in (*CHOICES, UNDECIDED):
            label, icon, _ = BADGES[None if choice == UNDECIDED else choice]
            grid.metric(label.capitalize(), f"{counts[choice]:,}", icon=icon, border=True)
    share = (total - undecided) / total if total else 0.0
    st.progress(
        share,
        text=f"{total - undecided:,} of {total:,} pairs of this audit are decided ({share:.0%})",
    )


def draw_decisions(audit: Audit) -> None:
    """Draw the decisions on the data set of an audit, filtered by the address."""
    with st.spinner("Reading the decisions…"):
        table = open_review(audit).table()
    if table.empty:
        st.info("Nothing has been decided yet.", icon=":material/checklist:")
        st.page_link(
            BROWSE, label="Browse", icon=":material/grid_view:", query_params={"audit": audit.name}
        )
        return
    choices = table["decision"].fillna(OTHER)
    counts = choices.value_counts()
    names = {ALL: f"All {len(table):,}"}
    names |= {name: f"{BADGES[name][0].capitalize()} {counts.get(name, 0):,}" for name in CHOICES}
    names[OTHER] = f"Other {counts.get(OTHER, 0):,}"
    choice = choose_segment(
        "Decision", names, parameter=DECISION, key="decision-list", hidden=True, clears=[PAGE]
    )
    shown = table if choice == ALL else table[choices == choice]
    selection = Selection(decision={ALL: DECIDED, OTHER: UNDECIDED}.get(choice, choice))
    page, pages = read_page(len(shown), SIZE)
    with st.container(
        horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"
    ):
        if choice != OTHER:  # Browse cannot filter by these
            label = "Browse these"
            parameters = link(audit, selection)
            st.page_link(BROWSE, label=label, icon=":material/grid_view:", query_params=parameters)
        draw_pages(page, pages, key="decision-pages")
    if shown.empty:
        st.caption("No pair has this decision.")
        return
    _draw_page(audit, shown.iloc[(page - 1) * SIZE : page * SIZE], selection)


def _draw_page(audit: Audit, part: pd.DataFrame, selection: Selection) -> None:
    query = (
        f'SELECT "{PAIR_ID}", {ROW} FROM parquet WHERE "{PAIR_ID}" IN '
        f"({', '.join('?' * len(part))})"
    )
    rows = [row for _, row in fetch_rows(audit.folder / PAIRS, query, part[PAIR_ID].tolist())]
    by_id = {card.pair_id: card for card in cards(audit, rows)}
    pictures = start_thumbnails(
        audit.record.pictures, [card.image for card in by_id.values()], side=SIDE
    )
    jpegs = {
        pair_id: b64encode(picture.result()[0]).decode()
        for pair_id, picture in zip(by_id, pictures, strict=True)
    }
    if len(by_id) < len(part):
        st.caption(
            "Pairs without a picture are in another audit of this data set, and not in this one."
        )
    lines = []
    for entry in part.to_dict("records"):
        pair_id = entry[PAIR_ID]
        card = by_id.get(pair_id)
        label = BADGES[entry["decision"]][0] if entry["decision"] else ""
        changes = word_changes(list(card.captions) if card else [], entry[CAPTIONS])
        lines.append(
            {
                "picture": f"data:image/jpeg;base64,{jpegs[pair_id]}" if card else None,
                "open": f"pair?{urlencode(link(audit, selection, pair=pair_id))}" if card else None,
                "decision": label or decision_words(None, entry[FOR_OTHER]) or "undecided",
                CHANGE: plain.cut(plain.one_line(changes), NOTE_LIMIT),
                "caption": plain.cut(
                    plain.one_line(" · ".join(card.captions if card else ())), CAPTION_LIMIT
                ),
                "note": plain.cut(plain.one_line(entry["note"]), NOTE_LIMIT),
                "pair": pair_id,
                "decided (UTC)": plain.moment(entry["time"]),
                "audit": entry["audit"],
            }
        )
    st.dataframe(
        pd.DataFrame(lines),
        hide_index=True,
        row_height=ROW_HEIGHT,
        height=len(lines) * ROW_HEIGHT + 40,
        column_config=_COLUMNS,
        placeholder="",
        alt="The decisions of this page: pair, captions, note, time",
    )


def draw_history(audit: Audit) -> None:
    """Draw the history's page that the address names."""
    review = open_review(audit)
    count = review.count_events()
    if count == 0:
        st.info(
            "Nothing has been decided yet, so there is nothing to undo.", icon=":material/history:"
        )
        return
    page, pages = read_page(count, HISTORY_SIZE, parameter=HISTORY_PAGE)
    st.caption("Full history; undo is recorded too. Newer decisions are kept.")
    for event in review.history(page=page, size=HISTORY_SIZE).to_dict("records"):
        _draw_event(audit, event)
    draw_pages(page, pages, key="history-pages", parameter=HISTORY_PAGE)


def _draw_event(audit: Audit, event: dict[Any, Any]) -> None:
    number = int(event["event"])
    pair_id = event["first_pair_id"]
    label, icon, colour = BADGES[event["decision"]]
    others = f" and {event['pairs'] - 1:,} more" if event["pairs"] > 1 else ""
    facts = [str(number), f"{plain.moment(event['time'])} UTC"]
    facts += [f"audit {plain.cut(event['audit'], ID_LIMIT)}"] if event["audit"] else []
    facts += [f"undo of {int(event['undoes'])}"] if not pd.isna(event["undoes"]) else []
    facts += ["undone"] if event["undone"] else []
    with st.container(horizontal=True, vertical_alignment="center", border=True):
        st.badge(label, icon=icon, color=colour)
        with st.container(gap=None):
            plain.show_text(f"{plain.cut(pair_id, ID_LIMIT)}{others}")
            plain.show_text(" · ".join(facts))
        parameters = link(audit, Selection(), pair=pair_id)
        st.page_link(PAIR_PAGE, label="Open", query_params=parameters)
        if not event["undone"]:
            undoing = event["kind"] == "decide"
            button: dict[str, Any] = {
                "key": f"undo-{number}",
                "on_click": undo,
                "args": (audit, number),
                "kwargs": {"done": "Undone" if undoing else "Redone"},
            }
            st.button("Undo" if undoing else "Redo", icon=":material/undo:", **button)


def draw_reaudits(audit: Audit) -> None:
    """Draw the chosen re-audit, and the button that starts another."""
    names = reaudit.list_reaudits(audit)
    if not names:
        _draw_start(audit)
        return
    name = choose_listed("Re-audits", names, parameter=_SECOND, key="again-second", width=320)
    if reaudit.is_outdated(audit, name):
        st.caption(
            ":material/update: There are newer decisions than this audit: re-audit to include them."
        )
    _draw_second(audit, name)
    with st.expander("Re-audit with current decisions", icon=":material/autorenew:"):
        _draw_start(audit)


def _draw_start(audit: Audit) -> None:
    counts = count_decisions(audit)
    fault = ""
    changed = sum(count_changed(audit))
    try:
        reaudit.check_repeatable(audit)
    except InputError as error:
        fault = plain.one_line(error)
    if not changed:
        fault = fault or "No pair is removed and no caption changed yet, so nothing would change."
    if counts[REMOVE] == sum(counts.values()):
        fault = fault or "Every pair is removed: nothing is left to audit."
    st.caption(AGAIN)
    name = free_name(
        f"{audit.name}-again",
        taken=lambda each: is_taken(each) or reaudit.cleaned_folder(each).exists(),
    )
    label = f"Re-audit: {plain.pairs_in_words(changed)} removed or with changed captions"
    if st.button(
        label, type="primary", icon=":material/autorenew:", key="start-again", disabled=bool(fault)
    ):
        try:
            reaudit.reaudit_task(audit, name).start()
        except InputError as error:
            plain.draw_fault("The re-audit did not start.", error)
            return
        write(**{_SECOND: name})
        st.rerun()
    if fault:
        plain.show_text(fault, limit=plain.LIMIT)
    else:
        plain.show_command(f"python -m clipmem_core reaudit {audit.name} --name {name}")


@st.fragment(run_every=2)
def _draw_second(audit: Audit, name: str) -> None:
    """Draw the progress of a re-audit and of its comparison, or its result."""
    if state_of(name).word != DONE:
        draw_progress(name)
        return
    second = Audit(audits_folder() / name)
    with plain.explained_errors():
        result, compared = reaudit.read_comparison(second)
    if compared:
        first, *others = reaudit.comparison_lines(result)
        plain.show_strong(first)
        for sentence in others:
            plain.show_text(sentence)
        both = {"one": audit.name, "other": name}
        icon = ":material/compare_arrows:"
        with st.container(horizontal=True):
            st.page_link(
                "pages/overview.py",
                label="Open",
                icon=":material/open_in_new:",
                query_params={"audit": name},
            )
            st.page_link(
                "pages/compare.py", label="Compare pair by pair", icon=icon, query_params=both
            )
        return
    task = reaudit.reaudit_task(audit, name)
    reason = "The second audit is finished but not compared yet."
    draw_task(
        task,
        lambda: reaudit.read_comparison(second)[1],
        key="compare-again",
        reason=reason,
        label="Compare",
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
            icon = ":material/image:" if check.of == "pictures" else ":material/notes:"
            parameters = link(audit, Selection(check=name))
            left.page_link(
                BROWSE, label=f"{check.label}: **{count:,}**", icon=icon, query_params=parameters
            )
            right.caption(f"{check.help} {check.advice}")
    for sentence, value in (("Nothing found", 0), ("Not available in this audit", None)):
        if names := [
            CHECKS[name].label.lower() for name, count in counts.items() if count == value
        ]:
            st.caption(f"{sentence}: {', '.join(names)}.")
    groups = near_duplicate_groups(audit)
    st.subheader("Near-duplicates", anchor=False)
    if not groups:
        st.caption("No near-duplicate pictures in this audit.")
        return
    page, pages = read_page(len(groups), _GROUPS, parameter=GROUP_PAGE)
    with st.container(
        horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"
    ):
        count_text = f"{len(groups):,} {'group' if len(groups) == 1 else 'groups'}"
        st.caption(f"{count_text}, {plain.pairs_in_words(sum(map(len, groups)))}", width="content")
        draw_pages(page, pages, key="near_duplicate-pages", parameter=GROUP_PAGE)
    for group in groups[(page - 1) * _GROUPS : page * _GROUPS]:
        _draw_group(audit, cards(audit, group[:SHOWN]), hidden=len(group) - SHOWN)


def _draw_group(audit: Audit, group: Sequence[PairCard], *, hidden: int) -> None:
    ids = [card.pair_id for card in group]
    pictures = start_thumbnails(
        audit.record.pictures, [card.image for card in group], side=GROUP_SIDE
    )
    with st.container(border=True):
        with st.container(horizontal=True, gap="medium"):
            for card, picture in zip(group, pictures, strict=True):
                with st.container(width=GROUP_SIDE + 20, gap="xsmall"):
                    draw_card_picture(card, *picture.result())
                    plain.show_text(plain.cut(" · ".join(card.current), GROUP_LIMIT))
                    label, icon, colour = BADGES[card.decision.decision if card.decision else None]
                    st.badge(label, icon=icon, color=colour)
                    parameters = link(audit, Selection(), pair=card.pair_id)
                    st.page_link(PAIR_PAGE, label="Open", query_params=parameters)
                    st.button(
                        "Keep this one",
                        key=f"keep-one-{card.row}",
                        help="Remove the others of this group",
                        disabled=hidden > 0,
                        on_click=_decide,
                        args=(
                            audit,
                            [card.pair_id],
                            [pair_id for pair_id in ids if pair_id != card.pair_id],
                        ),
                    )
        if hidden > 0:
            st.caption(f"{hidden:,} more are not shown: decide on them in Browse.")
        else:
            key = f"keep-all-{group[0].row}"
            st.button(
                "Keep all",
                icon=":material/done_all:",
                key=key,
                on_click=_decide,
                args=(audit, ids, []),
            )


def _decide(audit: Audit, keep: Sequence[str], remove: Sequence[str]) -> None:
    """Keep some pairs of a group and remove the others; estimates of wrong captions ignore this. A
    callback."""
    with locked_session() as session:
        for decision, pair_ids in ((KEEP, keep), (REMOVE, remove)):
            if pair_ids:
                outcome = open_review(audit).decide(
                    pair_ids, decision, audit=audit.name, neutral=True
                )
                sentence = (
                    f"Saved: {BADGES[decision][0]}, for {plain.pairs_in_words(outcome.pairs)}."
                )
                session.saved(audit, sentence, outcome.event)
