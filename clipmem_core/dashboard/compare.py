"""Two audits compared: the choice of both, how well they agree, and the pairs that changed most."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import pandas as pd
import streamlit as st

from clipmem_core.audits.store import PAIRS, Audit, is_name, list_audits
from clipmem_core.columns import CLIPMEM, PAIR_ID, SHA256
from clipmem_core.config import InputError, as_dict, flat
from clipmem_core.dashboard.cards import Sides, draw_change_cards
from clipmem_core.dashboard.page import AUDIT, CHOICE, PAGE, draw_pages, draw_set, read_page, write
from clipmem_core.dashboard.plain import number, pairs_in_words, show_text, signed
from clipmem_core.figures.audit_scores import comparison_figure
from clipmem_core.review.compare import Comparison, compare
from clipmem_core.review.tables import Version, fetch_arrow, version_of
from clipmem_core.scores.registry import BY_NAME, words

ONE, OTHER, COLUMN = "one", "other", "column"  # in the address
CHANGED, SIZE = 96, 12  # pairs listed, and on a page
CHART = {"displaylogo": False, "scrollZoom": True, "modeBarButtonsToRemove": ["toImage", "select2d", "lasso2d"]}


def draw_choice() -> tuple[Audit, Audit, str]:
    """Draw the choice of two audits and a score, and return them; ends the page if there are no two to compare."""
    audits = {audit.name: audit for audit in finished_audits()}
    for name in (st.query_params.get(ONE), st.query_params.get(OTHER)):
        if name and name not in audits:
            st.warning("There is no finished audit of this name.", icon=":material/search_off:")
            show_text(f"requested: {name}", limit=120)
    if len(audits) < 2:
        only = "There is one finished audit" if audits else "There is no finished audit"
        _draw_none(f"{only}; a comparison needs two of one data set.")
    one = audits.get(st.query_params.get(ONE, "")) or _usual(audits)
    partners_of_one = {audit.name: audit for audit in partners(one, list(audits.values()))}
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        _draw_select("First audit", ONE, list(audits), one.name, clears=OTHER)
        if partners_of_one:
            asked = st.query_params.get(OTHER)
            other = partners_of_one[asked if asked in partners_of_one else next(iter(partners_of_one))]
            _draw_select("Second audit", OTHER, list(partners_of_one), other.name)
            asked = st.query_params.get(COLUMN, CLIPMEM)
            column = asked if asked in BY_NAME else CLIPMEM
            _draw_select("Score", COLUMN, list(BY_NAME), column, named=words)
    if not partners_of_one:
        _draw_none("No other finished audit is of this data set.")
    if not same_data_set(one, other):
        st.caption("The second audit is of another version of the data set.")
    return one, other, column


def _usual(audits: dict[str, Audit]) -> Audit:
    """Return the audit picked on another page, else the newest; one with a partner if possible."""
    picked = st.query_params.get(AUDIT), st.session_state.get(CHOICE)
    ordered = [audits[name] for name in dict.fromkeys((*picked, *audits)) if name in audits]
    return next((audit for audit in ordered if partners(audit, ordered)), ordered[0])


def _draw_select(
    label: str, name: str, options: Sequence[str], chosen: str, *, named: Callable[[str], str] = str, clears: str = PAGE
) -> None:
    """Draw a choice that is kept in the address."""

    def take(value: str) -> None:
        write(**{PAGE: None, clears: None, name: value})

    draw_set(
        st.selectbox, label, options, key=f"compare-{name}", value=chosen, on_choose=take, format_func=named, width=215
    )


def _draw_none(sentence: str) -> NoReturn:
    """Say why there is nothing to compare and what to do; ends the page."""
    st.info(sentence, icon=":material/compare_arrows:")
    st.markdown(
        "Audit a data set twice, with other settings or another seed; or export it cleaned and audit the export. "
        "Pairs keep their ids, so that their scores can be compared."
    )
    st.page_link("pages/audits.py", label="Start an audit", icon=":material/science:", query_params={"view": "start"})
    st.caption("Command line:")
    st.code("python -m clipmem_core audit SOURCE --name SECOND --seed 1", language="bash")
    st.stop()


def draw_numbers(comparison: Comparison) -> None:
    """Draw how many pairs two audits share, and how well their scores agree."""
    found = comparison
    with st.grid(4, min_column_width=150) as grid:
        grid.metric("Common pairs", f"{found.n_common:,}", border=True)
        grid.metric("Spearman", number(found.spearman), border=True, help="Agreement of the two orders: 1 is the same.")
        grid.metric("Pearson", number(found.pearson), border=True, help="Linear agreement of the scores.")
        grid.metric(
            "Mean difference",
            signed(found.mean_difference),
            border=True,
            help="Second minus first, over the pairs that have the score in both.",
        )
    lines = [f"{found.n_scored:,} pairs have {words(found.column)} in both."]
    if found.low is not None:
        lines.append(f"Mean difference: {number(found.low)} to {number(found.high)} (95 % interval, paired by pair).")
    if found.edited or found.only_one or found.only_other:
        lines.append(
            f"Changed pairs: {found.edited:,} with another caption or picture, {found.only_one:,} in the first only, "
            f"{found.only_other:,} in the second only."
        )
    if found.regrouped:
        lines.append(f"In another group in the second: {pairs_in_words(found.regrouped)}, not listed below.")
    st.caption(" ".join(lines))


def draw_settings(one: Audit, other: Audit, comparison: Comparison) -> None:
    """Warn if the scores cannot be compared directly, and draw every setting that differs."""
    if comparison.warnings:
        st.warning("These audits ran differently: compare ranks, not scores.", icon=":material/warning:")
        for line in comparison.warnings:
            show_text(line, limit=500)
    differing = differing_fields(one, other)
    if differing.empty:
        st.caption("Both have the same settings.")
        return
    label = "1 setting differs" if len(differing) == 1 else f"{len(differing)} settings differ"
    with st.expander(label, icon=":material/tune:"):
        st.dataframe(differing, hide_index=True, placeholder="", alt="Settings that differ between the two audits")


def finished_audits() -> list[Audit]:
    """Return every finished audit, the newest first."""
    return [audit for audit in list_audits() if is_name(audit.name) and audit.finished]


def partners(one: Audit, audits: list[Audit]) -> list[Audit]:
    """Return the audits of the same data set, then those that have a pair with the same picture in common."""
    others = [audit for audit in audits if audit.name != one.name]
    same = [audit for audit in others if same_data_set(one, audit)]
    return same + [audit for audit in others if audit not in same and _share_pairs(one, audit)]


def same_data_set(one: Audit, other: Audit) -> bool:
    """Tell whether two audits are of one version of one data set."""
    first, second = fingerprint(one), fingerprint(other)
    return first is not None and first == second


def fingerprint(audit: Audit) -> str | None:
    """Return the fingerprint of an audit's data set; None if its config is broken."""
    try:
        return audit.record.dataset_fingerprint
    except InputError:
        return None


def _share_pairs(one: Audit, other: Audit) -> bool:
    try:
        return _shared(one, version_of(one), other, version_of(other))
    except InputError:
        return False


@functools.lru_cache(maxsize=256)
def _shared(one: Audit, version_one: Version, other: Audit, version_other: Version) -> bool:
    theirs = fetch_arrow(other.folder / PAIRS, f'SELECT "{PAIR_ID}", "{SHA256}" FROM parquet')
    query = f'SELECT "{PAIR_ID}" FROM parquet JOIN theirs USING ("{PAIR_ID}", "{SHA256}") LIMIT 1'
    return fetch_arrow(one.folder / PAIRS, query, theirs=theirs).num_rows > 0


def compared(one: Audit, other: Audit, column: str) -> Comparison:
    """Return how a score compares between two audits."""
    for audit in (one, other):
        settings_of(audit)
    return _compared(one, version_of(one), other, version_of(other), column)


@functools.lru_cache(maxsize=4)
def _compared(one: Audit, version_one: Version, other: Audit, version_other: Version, column: str) -> Comparison:
    return compare(one, other, column=column, limit=CHANGED)


def settings_of(audit: Audit) -> dict[str, Any]:
    """Return the settings of an audit by the names of their flags."""
    return flat(as_dict(audit.record.config))


def differing_fields(one: Audit, other: Audit) -> pd.DataFrame:
    """Return the settings that differ between two audits: setting, first, second, as text."""
    first, second = settings_of(one), settings_of(other)
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    shown = [["–" if each.get(name) in (None, "") else str(each[name]) for each in (first, second)] for name in names]
    rows = [(name, *values) for name, values in zip(names, shown, strict=True)]
    return pd.DataFrame(rows, columns=["setting", "first", "second"], dtype=str)


def draw_points(one: Audit, other: Audit, comparison: Comparison) -> None:
    """Draw one audit's score against the other's, and the pair that was clicked on."""
    points = comparison.points
    if points.empty:
        st.info("No pair has this score in both audits: choose another score.", icon=":material/info:")
        return
    scored = comparison.n_scored
    few = "" if len(points) == scored else f"{len(points):,} of {scored:,} pairs are shown, a random sample. "
    st.caption(f"{few}Colours are the groups in the first audit. Click a dot to see its pair.")
    event: Any = st.plotly_chart(
        comparison_figure(points, column=comparison.column, names=(one.name, other.name)),
        key=f"comparison-{one.name}-{other.name}-{comparison.column}",
        on_select="rerun",
        selection_mode="points",
        config=CHART,
        alt=f"{words(comparison.column)} of each pair in the first audit against that in the second",
    )
    dots = (event.get("selection") or {}).get("points") or []
    clicked = [dot["customdata"][0] for dot in dots if dot.get("customdata")]
    row = points[points["row_one"].isin(clicked[-1:])]
    if len(row):
        draw_change_cards(_sides(one, other), comparison.column, row.to_dict("records"), key="clicked")


def draw_changed(one: Audit, other: Audit, comparison: Comparison) -> None:
    """Draw the pairs whose score changed most, a page of them."""
    changed = comparison.changed
    if changed.empty:
        return
    page, pages = read_page(len(changed), SIZE)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"):
        st.subheader("Changed most", anchor=False, width="content")
        draw_pages(page, pages, key="changed-pages")
    shown = changed.iloc[(page - 1) * SIZE : page * SIZE]
    draw_change_cards(_sides(one, other), comparison.column, shown.to_dict("records"), key="changed")


def _sides(one: Audit, other: Audit) -> Sides:
    return Sides(one, other, links={"In first": one, "In second": other})
