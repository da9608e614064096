"""The page Pair: picture, captions, scores and their terms, suggested captions, and similar pairs."""

import dataclasses
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal, NoReturn
from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.audits.verdict import queues
from clipmem_core.columns import (
    ALIGNMENT,
    CLIPMEM,
    CLIPMEM_IMAGE,
    CLIPMEM_TEXT,
    MEMBER,
    MISFIT,
    NEGATIVE_IMAGE,
    NEGATIVE_TEXT,
    POSITIVE,
    SE,
)
from clipmem_core.config import InputError
from clipmem_core.dashboard.cards import alt_text, draw_card_picture, large_picture, thumbnail
from clipmem_core.dashboard.deciding import (
    BADGES,
    Notice,
    as_lines,
    captions_key,
    current_captions,
    go_on,
    in_turn,
    review_session,
    view_of,
)
from clipmem_core.dashboard.page import PAIR, link, peek_selection, read_view, write
from clipmem_core.dashboard.pair_component import OPENED, PAIR_KEYS, draw_keys
from clipmem_core.dashboard.plain import (
    LIMIT,
    as_html,
    cut,
    number,
    one_line,
    one_line_errors,
    read_noise,
    read_verdict,
    show_chips,
    show_text,
)
from clipmem_core.dashboard.routes import PREFIX
from clipmem_core.figures.audit_scores import IN, OUT, TERM_NAMES, encoder_figure, term_figure
from clipmem_core.figures.layout import PLANTED_COLOUR, group_colour
from clipmem_core.pairs.checks import CHECKS
from clipmem_core.review import score_breakdown
from clipmem_core.review.cards import PairCard, caption_scores, cards
from clipmem_core.review.decisions import REMOVE, Edit, open_review
from clipmem_core.review.rows import audit_root, failed_checks, find_rows, misfit_note, neighbours
from clipmem_core.review.search import nearest
from clipmem_core.review.selection import IMAGE_SIDE, TEXT_SIDE, Selection
from clipmem_core.review.tables import find_row
from clipmem_core.scores.registry import BY_NAME, scores_in, words
from clipmem_core.scores.registry import PAIR as SHOWN_HERE

BROWSE, THIS_PAGE = "pages/browse.py", "pages/pair.py"
CAPTION_LIMIT = 600
ROOM = (640, 520)  # pixels on the page
TO_THE_TOP = """<script>document.querySelector('[data-testid="stMain"]')?.scrollTo(0, 0)</script>"""
ENLARGED = 4  # times at most: the pictures of small sets are tiny


def find_pair(audit: Audit, selection: Selection) -> PairCard:
    """Return the pair of the address, else the first one of the selection; ends the page where there is none."""
    go_on()
    asked = st.query_params.get(PAIR)
    row = find_row(audit, asked) if asked else next(iter(find_rows(audit, selection, page=1, size=1)), None)
    if row is None:
        _end(audit, selection, asked)
    card = cards(audit, [row], selection)[0]
    st.query_params[PAIR] = card.pair_id  # whether asked for or not: a link from this very page leaves the old address
    return card


def _end(audit: Audit, selection: Selection, asked: str | None) -> NoReturn:
    if asked:
        st.warning("This audit has no such pair.", icon=":material/search_off:")
        show_text(f"requested: {asked}", limit=300)
        first = link(audit, selection, **read_view())
        st.page_link(THIS_PAGE, label="Open the first pair", icon=":material/image:", query_params=first)
    else:
        st.info("No pair fits this selection.", icon=":material/info:")
    _draw_way_back(audit, selection)
    st.stop()


def _draw_way_back(audit: Audit, selection: Selection) -> None:
    parameters = link(audit, selection, **read_view())
    st.page_link(BROWSE, label="Back to browse", icon=":material/grid_view:", query_params=parameters)


def draw_way(audit: Audit, selection: Selection, card: PairCard) -> None:
    """Draw the way back to Browse, where the pair stands in the selection, and the buttons to the pairs around it."""
    there = neighbours(audit, selection, card.pair_id)
    steps = [
        ("Previous", ":material/chevron_left:", "Left", there.previous),
        ("Next", ":material/chevron_right:", "Right", there.next),
        ("Next undecided", ":material/skip_next:", "N", there.next_undecided),
    ]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        _draw_way_back(audit, selection)
        for label, icon, shortcut, pair in steps:
            st.button(label, icon=icon, shortcut=shortcut, disabled=pair is None, on_click=write, kwargs={"pair": pair})
        place = "not in this selection" if there.place is None else f"{there.place:,} of {there.count:,}"
        place += f", by {words(selection.order)}" if there.place is not None else ""
        st.caption(place, width="content")


def draw_picture(audit: Audit, card: PairCard) -> None:
    """Draw the picture, as large as there is room for, and what is known of the pair besides its scores."""
    picture, size, fault = large_picture(audit_root(audit), card.image)
    caption = cut(card.captions[0], 120) if card.captions else ""
    st.html("<style>.st-key-pair-picture img { cursor: zoom-in; }</style>")
    with st.container(key="pair-picture"):
        st.image(picture, width=_width(size), alt=alt_text(caption, fault))
    asked = urlencode({"audit": audit.name, "row": card.row, "full": 1})
    enlarged = {"path": f"{PREFIX}/picture?{asked}", "alt": alt_text(caption, ""), "caption": caption}
    draw_keys(PAIR_KEYS, picture=None if fault else enlarged)
    facts = [f"Picture cannot be read: {fault}"] if fault else []
    facts += [f"{size[0]:,} × {size[1]:,} pixels"] if size else []
    facts += [f"label: {card.label}"] if card.label else []
    facts += [f"id: {card.pair_id}"]
    facts += [f"file: {card.image}"] if card.image != card.pair_id else []
    planted = [(f"planted: {card.planted}", PLANTED_COLOUR)] if card.planted else []
    with st.container(gap="xsmall"):
        show_chips([(card.group, group_colour(card.group)), *planted])
        for fact in facts:
            show_text(fact, limit=CAPTION_LIMIT)
        _scroll_up(card)


def _scroll_up(card: PairCard) -> None:
    """Show another pair from its top. Its gap is not seen here; without a key of its own it runs only once."""
    if st.session_state.get(OPENED, card.row) != card.row:
        with st.container(key=f"top-{card.row}"):
            st.html(f"{TO_THE_TOP}<!-- {card.row} -->", unsafe_allow_javascript=True)
    st.session_state[OPENED] = card.row


def _width(size: tuple[int, int] | None) -> int:
    """Return how wide a picture is drawn, so that it fills the room there is.

    Example:
        >>> _width((64, 64)), _width((2000, 1000)), _width((100, 5200))
        (256, 640, 10)
    """
    if size is None:
        return ROOM[1] // 2
    return max(1, round(size[0] * min(ENLARGED, ROOM[0] / size[0], ROOM[1] / size[1])))


def draw_scores(audit: Audit, card: PairCard) -> None:
    """Draw the pair's scores, and how far clipmem can be trusted."""
    noise = read_noise(audit)
    around = noise.around(card.scores.get(CLIPMEM), card.scores.get(SE))
    st.metric("clipmem", f"{number(card.scores.get(CLIPMEM))}{around}", help=BY_NAME[CLIPMEM].help)
    st.caption(noise.explain())
    told = {
        name: f"High: {queue.name[0].lower()}{queue.name[1:]}. {queue.sentence}"
        for name, queue in queues(read_verdict(audit)).items()
    }
    told[MISFIT] = f"{told[MISFIT]} {misfit_note(audit)}".strip()
    with st.grid(2, min_column_width=130) as grid:
        for name, score in scores_in(SHOWN_HERE).items():
            said = " ".join(filter(None, [told.get(name), score.help]))
            grid.metric(score.label, number(card.scores.get(name)), help=said or None)


FIXED = {"displayModeBar": False}
CHANGES = {
    POSITIVE: "how close picture and caption are",
    NEGATIVE_TEXT: "how far the picture keeps from other captions",
    NEGATIVE_IMAGE: "how far the caption keeps from other pictures",
}


def draw_terms(audit: Audit, card: PairCard) -> None:
    """Draw each term of the score with and without the pair in training: the means, then member by member."""
    st.subheader("Where the score comes from", anchor=False)
    means = score_breakdown.mean_terms(audit, card.row)
    st.markdown(terms_sentence(means))
    try:
        members = score_breakdown.member_terms(audit, card.row)
    except InputError as error:
        _draw_means(means)
        _draw_encoders(means)
        show_text(f"Single members cannot be shown: {one_line(error)}", limit=LIMIT)
        return
    names = side_names(members, paper=audit.record.protocol == "paper")
    figure = term_figure(members, colour=group_colour(card.group), names=names)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        st.plotly_chart(figure, config=FIXED, alt=_alt(means, names), key="terms")
    with right:
        _draw_means(means)
        _draw_encoders(means)
    with st.expander("Member by member", icon=":material/table_rows:"):
        _draw_members(members)


def terms_sentence(means: dict[str, float | None]) -> str:
    """Say which term clipmem comes from, in our own words and numbers.

    Example:
        >>> means = {"clipmem": 0.5, "positive_in": 0.9, "positive_out": 0.5, "negative_text_in": -0.1}
        >>> means |= {"negative_text_out": 0.0, "negative_image_in": 0.0, "negative_image_out": 0.0}
        >>> terms_sentence(means).split(":")[0]
        'clipmem 0.50 = 0.40 from positive + 0.10 from negative text + 0.00 from negative image'
    """
    signs = {POSITIVE: 1, NEGATIVE_TEXT: -1, NEGATIVE_IMAGE: -1}
    parts = {term: _difference(means, term, sign) for term, sign in signs.items()}
    clipmem = means.get(CLIPMEM)
    if clipmem is None or None in parts.values():
        return "This audit has no clipmem for this pair."
    known = {term: part or 0.0 for term, part in parts.items()}
    first, *others = (
        f"{'−' if part < 0 else '+'} {abs(part):.2f} from {TERM_NAMES[term]}" for term, part in known.items()
    )
    summed = " ".join([first.removeprefix("+ ").replace("− ", "−"), *others])
    largest = max(known, key=lambda term: abs(known[term]))
    return f"clipmem {clipmem:.2f} = {summed}: training on it changed mostly {CHANGES[largest]}.".replace("-", "−")


def _difference(means: dict[str, float | None], term: str, sign: int = 1) -> float | None:
    with_pair, without = means.get(f"{term}_in"), means.get(f"{term}_out")
    return None if with_pair is None or without is None else sign * (with_pair - without)


def side_names(members: pd.DataFrame, *, paper: bool) -> dict[str, str]:
    """Return what the two sides are called: who was trained with the pair, and in the paper's protocol f and g.

    Args:
        members: side, trained; one row a member.
        paper: whether the protocol is the paper's, where the side is f or g whoever was trained with the pair.

    Example:
        >>> side_names(pd.DataFrame({"side": ["in", "out"], "trained": [True, False]}), paper=True)
        {'in': 'in: f, trained with it', 'out': 'out: g, trained without it'}
    """
    names = {}
    for side, letter in ((IN, "f"), (OUT, "g")):
        trained = members.loc[members["side"] == side, "trained"].astype(bool)
        told = "trained with it" if trained.all() else "trained without it" if not trained.any() else "some with it"
        names[side] = f"{side}: {letter}, {told}" if paper else f"{side}: {told}"
    return names


def _draw_means(means: dict[str, float | None]) -> None:
    """Draw the mean of each term on either side, and the difference that adds up to clipmem."""
    sides = {side: [means.get(f"{term}_{side}") for term in TERM_NAMES] for side in (IN, OUT)}
    differences = [_difference(means, term) for term in TERM_NAMES]
    table = pd.DataFrame(sides | {"in − out": differences}, index=list(TERM_NAMES.values()), dtype=float)
    columns = {name: st.column_config.NumberColumn(format="%.3f", width=64) for name in table.columns}
    st.dataframe(table, column_config=columns, alt="Each term of the score: mean of either side, and their difference")
    st.caption("alignment = positive − negative text − negative image; its in − out is clipmem.")


def _draw_encoders(means: dict[str, float | None]) -> None:
    parts = {"image": means.get(CLIPMEM_IMAGE), "text": means.get(CLIPMEM_TEXT)}
    known = {name: value for name, value in parts.items() if value is not None}
    if known:
        told = ", ".join(f"{name} {value:.3f}" for name, value in known.items())
        alt = f"Each encoder's part of this pair's clipmem: {told}."
        st.plotly_chart(encoder_figure(known), config=FIXED, alt=alt, key="encoders")


def _alt(means: dict[str, float | None], names: dict[str, str]) -> str:
    shown = (f"{name} {means.get(f'{ALIGNMENT}_{side}') or 0:.2f}" for side, name in names.items())
    return f"Terms of the score, a dot for each member. Mean alignment: {'; '.join(shown)}."


def _draw_members(members: pd.DataFrame) -> None:
    shown = members[[MEMBER, "trained", *TERM_NAMES]]
    columns = {term: st.column_config.NumberColumn(name, format="%.3f") for term, name in TERM_NAMES.items()}
    trained = st.column_config.CheckboxColumn("trained with it")
    st.dataframe(
        shown, hide_index=True, column_config={**columns, "trained": trained}, alt="Each term of the score by member"
    )


FULL_LIMIT = 5000
EDITED = "caption_edited"  # the caption whose box is open, by the key of its button
Fate = Literal["stays", "removed", "edited", "added"]
_CHANGED = """<div style="overflow-wrap:anywhere;font-size:.875rem"><{tag} style="opacity:.65">{text}</{tag}></div>"""


@dataclasses.dataclass(frozen=True)
class Line:
    """One caption as it stands: its place among the pair's own and among those that were decided, None where none."""

    fate: Fate
    own: int | None
    now: int | None


def standing_lines(own: Sequence[str], now: Sequence[str]) -> list[Line]:
    """Return what became of each of a pair's own captions, and which came to them.

    Example:
        >>> [line.fate for line in standing_lines(["a", "b", "c"], ["a", "c!"])]
        ['stays', 'edited', 'removed']
    """
    lines: list[Line] = []
    for kind, a, b, c, d in SequenceMatcher(None, own, now, autojunk=False).get_opcodes():
        shared = min(b - a, d - c)
        fate: Fate = "stays" if kind == "equal" else "edited"
        lines += [Line(fate, a + step, c + step) for step in range(shared)]
        lines += [Line("removed", place, None) for place in range(a + shared, b)]
        lines += [Line("added", None, place) for place in range(c + shared, d)]
    return lines


def draw_captions(audit: Audit, card: PairCard) -> None:
    """Draw all captions with the scores of each where there are any, and the long ones in full below."""
    scores, now = caption_scores(audit, card.pair_id), current_captions(card)
    lines = standing_lines(card.captions, now)
    st.subheader("Caption" if len(lines) == 1 else "Captions", anchor=False)
    with st.container(gap="xsmall"):
        for line in lines:
            _draw_line(audit, card, now, line)
            if line.own in scores:
                score = scores[line.own]
                odd = ":orange[:material/warning: fits much worse than the others] · " if score.odd else ""
                st.caption(f"{odd}{score.words}")
    _draw_failed(audit, card)
    long = [caption for caption in card.captions if cut(caption, CAPTION_LIMIT) != caption]
    if long:
        with st.expander("In full", icon=":material/notes:"):
            for caption in long:
                show_text(caption if len(caption) <= FULL_LIMIT else f"{caption[:FULL_LIMIT]}…")


def _draw_failed(audit: Audit, card: PairCard) -> None:
    """Draw what the checks found; a page of a pair is of use without."""
    try:
        failed = [CHECKS[name] for name in failed_checks(audit, card.row)]
    except InputError as error:
        show_text(f"Checks cannot be shown: {one_line(error)}", limit=LIMIT)
        return
    if failed:
        with st.container(horizontal=True, gap="small"):
            for check in failed:
                st.badge(check.label, icon=":material/rule:", color="orange", help=f"{check.help} {check.advice}")


def _draw_line(audit: Audit, card: PairCard, now: tuple[str, ...], line: Line) -> None:
    """Draw a caption and, where a pair has or had several, what can be done with this one."""
    several = len(card.captions) > 1 or len(now) > 1
    with st.container(horizontal=True, vertical_alignment="center", gap="small", wrap=False):
        with st.container(gap=None):
            if line.own is not None and line.fate != "stays":
                text = as_html(card.captions[line.own], limit=CAPTION_LIMIT)
                st.html(_CHANGED.format(tag="s", text=text))
            if line.now is not None:
                show_text(now[line.now], limit=CAPTION_LIMIT)
        if several and not (card.decision is not None and card.decision.decision == REMOVE):
            _draw_buttons(audit, card, now, line)
    _draw_box(audit, card, now, line)


def _draw_buttons(audit: Audit, card: PairCard, now: tuple[str, ...], line: Line) -> None:
    key = f"{line.own}-{line.now}-{view_of(card)}"
    if line.now is None:
        back = bring_back(card.captions, now, line)
        st.button("Bring back", type="tertiary", key=f"back-{key}", on_click=_store, args=(audit, card, back))
        return
    st.button("Edit", type="tertiary", key=f"edit-{key}", on_click=st.session_state.update, args=({EDITED: key},))
    last = len(now) < 2
    st.button(
        "Remove",
        type="tertiary",
        key=f"drop-{key}",
        disabled=last,
        help="The pair's last caption: remove the pair instead." if last else "Remove this caption alone",
        on_click=_store,
        args=(audit, card, _with(now, line.now, "")),
    )


def _draw_box(audit: Audit, card: PairCard, now: tuple[str, ...], line: Line) -> None:
    """Draw the box that one caption is edited in, where its button was pressed last."""
    key = f"{line.own}-{line.now}-{view_of(card)}"
    if line.now is None or st.session_state.get(EDITED) != key:
        return
    place, box = line.now, f"edited-{key}"

    def store() -> None:
        _store(audit, card, _with(now, place, " ".join(st.session_state[box].split())))

    with st.form(f"form-{box}", border=False):
        st.text_area("This caption", " ".join(now[place].split()), key=box)
        st.form_submit_button("Save this caption", icon=BADGES["recaption"][1], key=f"store-{key}", on_click=store)


def _with(now: tuple[str, ...], place: int, text: str) -> tuple[str, ...]:
    """Return captions with another in a place; without it where that is blank."""
    return (*now[:place], *([text] if text.strip() else []), *now[place + 1 :])


def bring_back(own: Sequence[str], now: tuple[str, ...], line: Line) -> tuple[str, ...]:
    """Return captions with one that was removed among them again, after those that stood before it.

    Example:
        >>> bring_back(["a", "b", "c"], ("a", "c"), Line("removed", 1, None))
        ('a', 'b', 'c')
    """
    assert line.own is not None
    before = [other.now for other in standing_lines(own, now) if other.own is not None and other.own < line.own]
    at = max((place for place in before if place is not None), default=-1) + 1
    return (*now[:at], own[line.own], *now[at:])


def _store(audit: Audit, card: PairCard, captions: tuple[str, ...]) -> None:
    """Store what one caption became, unless somebody has decided on the pair since it was drawn. A callback."""
    box = captions_key(audit, card)
    untouched = st.session_state.get(box) == as_lines(current_captions(card))
    stored = False
    with in_turn() as session:
        session.takes(None)
        review, entry = open_review(audit), card.decision.entry if card.decision else 0
        if not captions:
            session.notice = Notice("Not saved: this is the pair's last caption. Remove the pair instead.", good=False)
        elif captions == current_captions(card):
            session.notice = Notice("Not saved: this is the caption it has.", good=False)
        else:
            if captions == card.captions:  # its own, all of them again: nothing is decided any more
                outcome = review.decide([card.pair_id], None, audit=audit.name)
            else:
                outcome = review.edit({card.pair_id: Edit(captions, entry)}, audit=audit.name)
            stored = outcome.pairs > 0
            if stored:
                session.remember(audit, review, outcome)
                session.notice = Notice("Saved: this caption.", card.pair_id, event=outcome.event)
            else:
                sentence = "Not saved: this pair was just decided in another tab. Check it, then try again."
                session.notice = Notice(sentence, card.pair_id, good=False)
    if stored and untouched:
        st.session_state.pop(box, None)  # the box with all captions is to show what stands now


NEAREST = 6
SHORT_LIMIT = 60
STYLE = (
    '<style>[class*="st-key-nearest-"] [data-testid="stImage"] img { aspect-ratio: 1; object-fit: contain; }</style>'
)
TITLES = {IMAGE_SIDE: "Nearest pictures", TEXT_SIDE: "Nearest captions"}


@st.fragment
def draw_choices(audit: Audit, card: PairCard) -> None:
    """Draw captions of other pairs to take in the place of the pair's worst, by members that never saw the pair."""
    st.subheader("Suggested by models that never saw it", anchor=False, help=score_breakdown.QUALITY)
    with one_line_errors("Suggestions"):
        with st.spinner("Searching captions…"):
            found = score_breakdown.suggested_captions(audit, card.row)
        if not found.members:
            st.caption("No suggestion: every model saw this pair.")
            return
        fit = found.own[found.worst]
        choices = [choice for choice in found.choices if not choice.cosine <= fit]
        if not choices:
            st.caption("No suggestion: none is likely enough to be right.")
            return
        replaced = "the caption" if len(found.own) == 1 else f"caption {found.worst + 1}, which fits worst"
        st.caption(f"Each can replace {replaced}; its cosine with the picture is {number(fit)}.")
        for choice in choices:
            _draw_choice(audit, card, choice, found.worst)


def _draw_choice(audit: Audit, card: PairCard, choice: score_breakdown.Suggestion, place: int) -> None:
    """Draw one suggestion with the button that puts it into the captions box."""
    captions = list(current_captions(card))
    captions[min(place, len(captions) - 1)] = choice.caption
    (other,) = cards(audit, [choice.row])
    with st.container(horizontal=True, vertical_alignment="center", gap="small", wrap=False):
        st.markdown(f"**{number(choice.cosine)}**", width=56)
        with st.container(gap=None):
            show_text(choice.caption)
        pressed = st.button(
            "Use",
            icon=":material/edit:",
            key=f"use-{card.row}-{choice.row}",
            on_click=_prefill,
            args=(captions_key(audit, card), as_lines(tuple(captions))),
            help="Puts this caption into the captions box; Change caption saves it.",
        )
        _draw_link(audit, other)
    if pressed:
        st.rerun()


def _prefill(key: str, text: str) -> None:
    st.session_state[key] = text
    review_session().notice = Notice("The caption is in the box: Change caption (E) saves it.")


@st.fragment
def draw_nearest(audit: Audit, card: PairCard) -> None:
    """Draw the pairs whose pictures, and those whose captions, a member finds most like this one's."""
    st.subheader("Similar pairs", anchor=False)
    st.html(STYLE)
    st.caption("The numbers are cosines in the space of one member's encoders.")
    member = st.selectbox("Model", audit.record.members, key="nearest_member", width=260)
    for by, title in TITLES.items():
        st.markdown(f"**{title}**")
        with one_line_errors(title):
            with st.spinner("Searching…"):
                found = nearest(audit, card.row, by=by, member=member or "", k=NEAREST)
                others = cards(audit, [row for row, _ in found])
            _draw_others(audit, others, [cosine for _, cosine in found], by=by)


def _draw_others(audit: Audit, others: Sequence[PairCard], cosines: Sequence[float], *, by: str) -> None:
    """Draw pairs side by side, small: picture, cosine, caption, link."""
    root = audit_root(audit)
    with st.grid(NEAREST, min_column_width=115, gap="small", key=f"nearest-{by}") as grid:
        for other, cosine in zip(others, cosines, strict=True):
            picture, fault = thumbnail(root, other.image)
            with grid.cell(), st.container(gap="xsmall"):
                draw_card_picture(other, picture, fault, told=False)
                with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
                    st.markdown(f"**{number(cosine)}**", width="content")
                    _draw_link(audit, other)
                show_text(" ".join(other.captions[:1]), limit=SHORT_LIMIT)


def _draw_link(audit: Audit, other: PairCard) -> None:
    parameters = link(audit, peek_selection(), **{**read_view(), PAIR: other.pair_id})
    st.page_link(THIS_PAGE, label="Open", query_params=parameters)
