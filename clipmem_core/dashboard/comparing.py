"""The audits there are → the two to compare and a score; and how the two agree, in numbers and in how they ran."""

from collections.abc import Callable, Sequence
from typing import NoReturn

import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.columns import CLIPMEM
from clipmem_core.dashboard.address import AUDIT, PAGE, write
from clipmem_core.dashboard.comparable import differing_fields, finished_audits, partners, same_data_set
from clipmem_core.dashboard.frame import CHOICE
from clipmem_core.dashboard.numbers import number
from clipmem_core.dashboard.plain import show_text
from clipmem_core.review.compare import Comparison
from clipmem_core.scores.table import BY_NAME, words

ONE, OTHER, COLUMN = "one", "other", "column"  # in the address


def draw_choice() -> tuple[Audit, Audit, str]:
    """Draw the two audits and the score to choose, and return them; ends the page where there are no two."""
    audits = {audit.name: audit for audit in finished_audits()}
    _warn_of_unknown(audits)
    if len(audits) < 2:
        only = "There is one finished audit" if audits else "There is no finished audit"
        _draw_none(f"{only}; a comparison needs two of one data set.")
    one = _first(audits)
    others = _others(one, audits)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        _draw_select("First audit", ONE, list(audits), one.name, clears=OTHER)
        rest = _draw_rest(one, others) if others else None
    if rest is None:
        _draw_none("No other finished audit has pairs of this one in it.")
    return one, *rest


def _first(audits: dict[str, Audit]) -> Audit:
    """Return the audit asked for here, else the first with a partner: the one at work with before, then the newest."""
    if (asked := st.query_params.get(ONE)) in audits:
        return audits[asked]
    before = [st.query_params.get(AUDIT), st.session_state.get(CHOICE)]
    ordered = [audits[name] for name in dict.fromkeys((*before, *audits)) if name in audits]
    return next((audit for audit in ordered if partners(audit, list(audits.values()))), ordered[0])


def _draw_rest(one: Audit, others: dict[str, Audit]) -> tuple[Audit, str]:
    """Draw the second audit and the score to choose, and return them."""
    asked, column = (st.query_params.get(name, "") for name in (OTHER, COLUMN))
    other = others[asked if asked in others else next(iter(others))]
    alike = {name for name, audit in others.items() if same_data_set(one, audit)}
    _draw_select("Second audit", OTHER, list(others), other.name, named=lambda name: _told(name, name in alike))
    st.button("Swap", icon=":material/swap_horiz:", on_click=write, kwargs=_swapped(one, other))
    column = column if column in BY_NAME else CLIPMEM
    _draw_select("Score", COLUMN, list(BY_NAME), column, named=words)
    return other, column


def _others(one: Audit, audits: dict[str, Audit]) -> dict[str, Audit]:
    """Return what an audit can be compared with, and what the address asks for: then it is told why it cannot be."""
    others = {audit.name: audit for audit in partners(one, list(audits.values()))}
    asked = st.query_params.get(OTHER, "")
    return others | ({asked: audits[asked]} if asked in audits and asked not in (one.name, *others) else {})


def _warn_of_unknown(audits: dict[str, Audit]) -> None:
    for name in (st.query_params.get(ONE), st.query_params.get(OTHER)):
        if name and name not in audits:
            st.warning("There is no finished audit of the name asked for.", icon=":material/search_off:")
            show_text(f"asked for: {name}", limit=120)


def _told(name: str, alike: bool) -> str:
    return name if alike else f"{name} (another version of the data)"


def _swapped(one: Audit, other: Audit) -> dict[str, str | None]:
    return {ONE: other.name, OTHER: one.name, PAGE: None}


def _draw_select(
    label: str,
    name: str,
    options: Sequence[str],
    chosen: str,
    *,
    named: Callable[[str], str] = str,
    clears: str = "",
) -> None:
    """Draw a choice that is kept in the address; a new one clears another parameter, and the page."""
    key = f"compare-{name}"
    st.session_state[key] = chosen

    def take() -> None:
        write(**({PAGE: None} | ({clears: None} if clears else {}) | {name: st.session_state[key]}))

    st.selectbox(label, options, key=key, format_func=named, on_change=take, width=215)


def _draw_none(sentence: str) -> NoReturn:
    """Say why there is nothing to compare and how to come by it; ends the page."""
    st.info(sentence, icon=":material/compare_arrows:")
    st.markdown(
        "Audit a data set twice, with other settings or another seed; or export it cleaned and audit the export. "
        "Pairs keep their ids, so that their scores can be compared."
    )
    st.page_link("pages/audits.py", label="Start an audit", icon=":material/science:", query_params={"view": "start"})
    st.caption("From a terminal:")
    st.code("python -m clipmem_core audit SOURCE --name SECOND --seed 1", language="bash")
    st.stop()


def draw_numbers(comparison: Comparison) -> None:
    """Draw how many pairs two audits share, and how well their scores agree."""
    found = comparison
    interval = None if found.low is None else f"{number(found.low)} to {number(found.high)}"
    with st.grid(4, min_column_width=150) as grid:
        grid.metric("Common pairs", f"{found.n_common:,}", border=True)
        grid.metric("Spearman", number(found.spearman), border=True, help="Agreement of the two orders: 1 is the same.")
        grid.metric("Pearson", number(found.pearson), border=True, help="Linear agreement of the scores.")
        grid.metric(
            "Mean difference",
            _signed(found.mean_difference),
            border=True,
            help="Second minus first, over the pairs that have the score in both.",
        )
    lines = [
        f"{found.n_scored:,} pairs have {words(found.column)} in both.",
        f"Mean difference: {interval} (95 % interval, paired by pair)." if interval else "",
        f"{found.only_one:,} pairs are in the first only, {found.only_other:,} in the second only."
        if found.only_one or found.only_other
        else "",
    ]
    st.caption(" ".join(filter(None, lines)))


def _signed(value: float | None) -> str:
    return f"+{number(value)}" if value is not None and value > 0 else number(value)


def draw_settings(one: Audit, other: Audit, comparison: Comparison) -> None:
    """Draw what forbids to compare the scores as they are, and every setting that differs."""
    if comparison.warnings:
        st.warning(
            "These audits ran differently: compare the order of their pairs, not the scores.", icon=":material/warning:"
        )
        for line in comparison.warnings:
            show_text(line, limit=500)
    differing = differing_fields(one, other)
    if differing.empty:
        st.caption("Both ran with the same settings.")
        return
    label = "1 setting differs" if len(differing) == 1 else f"{len(differing)} settings differ"
    with st.expander(label, icon=":material/tune:"):
        st.dataframe(differing, hide_index=True, placeholder="", alt="Settings that differ between the two audits")
