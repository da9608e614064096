"""What a pair's score is made of: a sentence, a figure with a dot for each member, and tables."""

import pandas as pd
import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.columns import (
    ALIGNMENT,
    CLIPMEM,
    CLIPMEM_IMAGE,
    CLIPMEM_TEXT,
    MEMBER,
    NEGATIVE_IMAGE,
    NEGATIVE_TEXT,
    POSITIVE,
)
from clipmem_core.config import InputError
from clipmem_core.dashboard.plain import show_text
from clipmem_core.figures.colours import group_colour
from clipmem_core.figures.groups import encoder_figure
from clipmem_core.figures.pair import IN, OUT, TERM_NAMES, term_figure
from clipmem_core.review import score_breakdown
from clipmem_core.review.cards import PairCard

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
        show_text(f"Members one by one cannot be shown: {' '.join(str(error).split())}", limit=1000)
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

    Args:
        means: the pair's row of the scores.

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
