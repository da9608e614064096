"""What the checks that need no model found, with the way to their pairs, and look-alikes side by side to judge."""

from collections.abc import Sequence

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.dashboard.address import draw_pages, link, read_page
from clipmem_core.dashboard.deciding import BADGES, Notice, draw_badge, in_turn
from clipmem_core.dashboard.numbers import pairs_in_words
from clipmem_core.dashboard.plain import cut, show_text
from clipmem_core.dashboard.thumbnails import alt_text, start_thumbnails
from clipmem_core.pairs.checks import CHECKS
from clipmem_core.review.cards import PairCard, cards
from clipmem_core.review.decisions import KEEP, REMOVE, open_review
from clipmem_core.review.rows import audit_root, check_counts, lookalike_groups
from clipmem_core.review.selection import Selection

GROUP_PAGE = "group"  # in the address
GROUPS = 6  # on a page
SHOWN = 12  # pictures of a group
SIDE = 150
CAPTION_LIMIT = 120
BROWSE = "pages/browse.py"
ICONS = {"captions": ":material/notes:", "pictures": ":material/image:"}


def draw_checks(audit: Audit) -> None:
    """Draw how many pairs each check finds, and the groups of look-alikes."""
    with st.spinner("Looking at captions and pictures, once…"):
        counts = check_counts(audit)
    st.caption("Found without any model. Each is a reason to look, not a verdict: a short caption may be a good one.")
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
    st.subheader("Look-alikes side by side", anchor=False)
    if not groups:
        st.caption("No picture of this audit looks like another.")
        return
    page, pages = read_page(len(groups), GROUPS, parameter=GROUP_PAGE)
    shown = groups[(page - 1) * GROUPS : page * GROUPS]
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.caption(f"{len(groups):,} groups of {pairs_in_words(sum(map(len, groups)))}", width="content")
        draw_pages(page, pages, key="lookalike-pages", parameter=GROUP_PAGE)
    found = {card.row: card for card in cards(audit, [row for group in shown for row in group[:SHOWN]])}
    for group in shown:
        _draw_group(audit, [found[row] for row in group[:SHOWN]], len(group) - SHOWN)


def _draw_group(audit: Audit, group: Sequence[PairCard], more: int) -> None:
    """Draw the pairs of a group beside each other, with what can be said of all of them."""
    ids = [card.pair_id for card in group]
    pictures = start_thumbnails(audit_root(audit), [card.image for card in group], side=SIDE)
    with st.container(border=True):
        with st.container(horizontal=True, gap="medium"):
            for card, picture in zip(group, pictures, strict=True):
                data, fault = picture.result()
                with st.container(width=SIDE + 20, gap="xsmall"):
                    caption = cut(" · ".join(card.captions), CAPTION_LIMIT)
                    st.image(data, width=SIDE, alt=alt_text(caption, fault))
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
        sentence = f"Stored: {BADGES[decision][0]}, for {pairs_in_words(outcome.pairs)}."
        session.notice = Notice(sentence, event=outcome.event)
        session.presses += 1
