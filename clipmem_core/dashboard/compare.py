"""Two audits compared: the choice of both, how well they agree, and the pairs that changed most."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import pandas as pd
import streamlit as st

from clipmem_core.audit.store import PAIRS, SCORES, Audit, is_name, list_audits
from clipmem_core.columns import CLIPMEM, PAIR_ID, SHA256
from clipmem_core.config import InputError, as_dict, flat
from clipmem_core.dashboard.cards import ComparedAudits, draw_change_cards
from clipmem_core.dashboard.page import AUDIT, CHOICE, PAGE, choose_listed, draw_pages, read_page
from clipmem_core.dashboard.plain import number, pairs_in_words, show_command, show_text, signed
from clipmem_core.figures.audit_scores import comparison_figure
from clipmem_core.review.compare import Comparison, compare
from clipmem_core.review.queries import cached, fetch_arrow
from clipmem_core.scores.registry import BY_NAME, words

# in the address
ONE = "one"
OTHER = "other"
COLUMN = "column"
# pairs that changed most
_LISTED = 96
PAGE_SIZE = 12
CHART = {
    "displaylogo": False,
    "scrollZoom": True,
    "modeBarButtonsToRemove": ["toImage", "select2d", "lasso2d"],
}


def draw_choice() -> tuple[Audit, Audit, str]:
    """Draw the choice of two audits and a score, and return them; ends the page if there are no two
    to compare."""
    audits = {audit.name: audit for audit in finished_audits()}
    names = [st.query_params.get(ONE, ""), st.query_params.get(OTHER, "")]
    for name in names:
        if name and name not in audits:
            st.warning("There is no finished audit of this name.", icon=":material/search_off:")
            show_text(f"requested: {name}", limit=120)
    if len(audits) < 2:
        _draw_none("A comparison needs two finished audits of one data set.")
    one = audits.get(names[0]) or _default_audit(audits)
    others = {audit.name: audit for audit in partners(one, list(audits.values()))}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        _choose("First audit", list(audits), ONE, default=one.name, clears=[OTHER])
        if others:
            other = others[_choose("Second audit", list(others), OTHER)]
            column = _choose("Score", list(BY_NAME), COLUMN, default=CLIPMEM, format_func=words)
    if not others:
        _draw_none("This data set has no second finished audit.")
    if not same_data_set(one, other):
        st.caption("The second audit is of another version of the data set.")
    return one, other, column


def _default_audit(audits: dict[str, Audit]) -> Audit:
    """Return the audit chosen on another page, else the newest; if possible one with a partner."""
    chosen = st.query_params.get(AUDIT), st.session_state.get(CHOICE)
    ordered = [audits[name] for name in dict.fromkeys((*chosen, *audits)) if name in audits]
    return next((audit for audit in ordered if partners(audit, ordered)), ordered[0])


def _choose(
    label: str, options: list[str], parameter: str, *, clears: Sequence[str] = (), **style: Any
) -> str:
    style |= {"key": f"compare-{parameter}", "width": 215}
    return choose_listed(label, options, parameter=parameter, clears=[PAGE, *clears], **style)


def _draw_none(sentence: str) -> NoReturn:
    """Say why there is nothing to compare and what to do; ends the page."""
    st.info(sentence, icon=":material/compare_arrows:")
    st.markdown(
        "Audit a data set again with another seed or settings, or audit its export: pairs keep "
        "their ids."
    )
    st.page_link(
        "pages/audits.py",
        label="Start an audit",
        icon=":material/science:",
        query_params={"view": "start"},
    )
    show_command("python -m clipmem_core audit SOURCE --name SECOND --seed 1")
    st.stop()


def draw_numbers(comparison: Comparison) -> None:
    """Draw how many pairs two audits share, and how well their scores agree."""
    difference = signed(comparison.mean_difference)
    with st.grid(3, min_column_width=150) as grid:
        grid.metric("Common pairs", f"{comparison.n_common:,}", border=True)
        grid.metric(
            "Spearman",
            number(comparison.spearman),
            border=True,
            help="Rank agreement: 1 is the same order.",
        )
        grid.metric(
            "Mean difference",
            difference,
            border=True,
            help="Second minus first, over pairs scored in both.",
        )
    notes = [f"{comparison.n_scored:,} pairs have {words(comparison.column)} in both."]
    if comparison.low is not None:
        interval = f"{number(comparison.low)} to {number(comparison.high)}"
        notes.append(f"Mean difference: {interval} (95 % interval, paired by pair).")
    if comparison.edited or comparison.only_one or comparison.only_other:
        notes.append(
            f"Changed pairs: {comparison.edited:,} with another caption or picture, "
            f"{comparison.only_one:,} in the "
            f"first only, {comparison.only_other:,} in the second only."
        )
    if comparison.regrouped:
        notes.append(
            f"In another group in the second: {pairs_in_words(comparison.regrouped)}, not listed "
            "below."
        )
    st.caption(" ".join(notes))


def draw_settings(one: Audit, other: Audit, comparison: Comparison) -> None:
    """Warn if the scores cannot be compared directly, and draw every setting that differs."""
    if comparison.warnings:
        st.warning(
            "These audits ran with different settings: compare ranks, not scores.",
            icon=":material/warning:",
        )
        for line in comparison.warnings:
            show_text(line, limit=500)
    table = differing_fields(one, other)
    if table.empty:
        st.caption("Both have the same settings.")
        return
    label = "1 setting differs" if len(table) == 1 else f"{len(table)} settings differ"
    with st.expander(label, icon=":material/tune:"):
        st.dataframe(
            table,
            hide_index=True,
            placeholder="",
            alt="Settings that differ between the two audits",
        )


def finished_audits() -> list[Audit]:
    """Return every finished audit, the newest first."""
    return [audit for audit in list_audits() if is_name(audit.name) and audit.finished]


def partners(one: Audit, audits: list[Audit]) -> list[Audit]:
    """Return the audits of the same data set, then those that have a pair with the same picture in
    common."""
    others = [audit for audit in audits if audit.name != one.name]
    same = [audit for audit in others if same_data_set(one, audit)]
    for other in others:
        with suppress(InputError):  # a broken audit
            if other not in same and _share_pairs(one, other):
                same.append(other)
    return same


def same_data_set(one: Audit, other: Audit) -> bool:
    """Tell whether two audits are of one version of one data set."""
    first = fingerprint(one)
    second = fingerprint(other)
    return first is not None and first == second


def fingerprint(audit: Audit) -> str | None:
    """Return the fingerprint of an audit's data set; None if its config is broken."""
    try:
        return audit.record.dataset_fingerprint
    except InputError:
        return None


@cached(256, PAIRS, paths=lambda one, other: [other.folder / PAIRS])
def _share_pairs(one: Audit, other: Audit) -> bool:
    second = fetch_arrow(other.folder / PAIRS, f'SELECT "{PAIR_ID}", "{SHA256}" FROM parquet')
    query = f'SELECT "{PAIR_ID}" FROM parquet JOIN second USING ("{PAIR_ID}", "{SHA256}") LIMIT 1'
    return fetch_arrow(one.folder / PAIRS, query, second=second).num_rows > 0


@cached(
    4, SCORES, PAIRS, paths=lambda one, other, column: [other.folder / SCORES, other.folder / PAIRS]
)
def compared(one: Audit, other: Audit, column: str) -> Comparison:
    """Return how a score compares between two audits, computed once per version of their files."""
    return compare(one, other, column=column, limit=_LISTED)


def differing_fields(one: Audit, other: Audit) -> pd.DataFrame:
    """Return the settings that differ between two audits: setting, first, second, as text."""
    configs = {
        name: flat(as_dict(audit.record.config))
        for name, audit in (("first", one), ("second", other))
    }
    table = pd.DataFrame(configs, dtype=object)
    table = table[table["first"] != table["second"]]
    return table.where(table.notna() & (table != ""), "–").astype(str).reset_index(names="setting")


def draw_points(one: Audit, other: Audit, comparison: Comparison) -> None:
    """Draw one audit's score against the other's, and the pair that was clicked on."""
    points = comparison.points
    if points.empty:
        st.info(
            "No pair has this score in both audits: choose another score.", icon=":material/info:"
        )
        return
    scored = comparison.n_scored
    sample = (
        "" if len(points) == scored else f"A random sample of {len(points):,} of {scored:,} pairs. "
    )
    st.caption(f"{sample}Colours are the groups in the first audit. Click a dot to see its pair.")
    event: Any = st.plotly_chart(
        comparison_figure(points, column=comparison.column, names=(one.name, other.name)),
        key=f"comparison-{one.name}-{other.name}-{comparison.column}",
        on_select="rerun",
        selection_mode="points",
        config=CHART,
        alt=f"{words(comparison.column)} of each pair in the first audit against that in the "
        "second",
    )
    dots = (event.get("selection") or {}).get("points") or []
    clicked = [dot["customdata"][0] for dot in dots if dot.get("customdata")]
    _draw_cards(one, other, comparison, points[points["row_one"].isin(clicked[-1:])], key="clicked")


def draw_changed(one: Audit, other: Audit, comparison: Comparison) -> None:
    """Draw the pairs whose score changed most, a page of them."""
    changed = comparison.changed
    if changed.empty:
        return
    page, pages = read_page(len(changed), PAGE_SIZE)
    with st.container(
        horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"
    ):
        st.subheader("Changed most", anchor=False, width="content")
        draw_pages(page, pages, key="changed-pages")
    _draw_cards(
        one,
        other,
        comparison,
        changed.iloc[(page - 1) * PAGE_SIZE : page * PAGE_SIZE],
        key="changed",
    )


def _draw_cards(
    one: Audit, other: Audit, comparison: Comparison, pairs: pd.DataFrame, *, key: str
) -> None:
    sides = ComparedAudits(one, other, links={"In first": one, "In second": other})
    if len(pairs):
        draw_change_cards(sides, comparison.column, pairs.to_dict("records"), key=key)
