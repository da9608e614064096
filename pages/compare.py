"""Two audits of one data set: how well their scores agree, and the pairs whose scores changed
most."""

from collections import Counter
from typing import Any

import streamlit as st

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.config import FIELDS
from clipmem_core.dashboard.cards import draw_change_cards
from clipmem_core.dashboard.page import choose_listed, open_bare_page, read_audit, read_part
from clipmem_core.dashboard.plain import (
    ZOOMABLE,
    draw_table,
    format_difference,
    format_score,
    in_a_row,
    show_command,
    show_text,
)
from clipmem_core.figures import comparison_figure
from clipmem_core.review.overview import changed_settings, compare
from clipmem_core.review.progress_and_repair import read_incidents
from clipmem_core.scores.registry import BY_NAME, words
from clipmem_core.utils.columns import CLIPMEM

# in the address
ONE = "one"
OTHER = "other"
PAGE_SIZE = 12


with open_bare_page("Compare", clears=(ONE, OTHER)):
    finished = [audit for audit in Audit.every() if audit.finished]
    counts = Counter(audit.record.dataset_fingerprint for audit in finished)
    finished.sort(key=lambda audit: -counts[audit.record.dataset_fingerprint])
    audits = {audit.name: audit for audit in finished}
    if len(audits) < 2:
        st.info(
            "A comparison needs two finished audits of one data set. Audit it again with another "
            "seed or settings, or audit its export: pairs keep their ids."
        )
        st.page_link("pages/audits.py", label="Start an audit", query_params={"view": "start"})
        show_command("python -m clipmem_core audit SOURCE --name SECOND --seed 1")
        st.stop()
    usual = read_audit()
    with in_a_row("bottom"):
        style: dict[str, Any] = {"width": 215, "clears": ["page", OTHER]}
        default = usual if usual in audits else ""
        name = choose_listed("First audit", list(audits), parameter=ONE, default=default, **style)
        one = audits.pop(name)
        data_set = one.record.dataset_fingerprint
        names = sorted(audits, key=lambda name: audits[name].record.dataset_fingerprint != data_set)
        style["clears"] = ["page"]
        other = audits[choose_listed("Second audit", names, parameter=OTHER, **style)]
        scores = {name: words(name) for name in BY_NAME}
        column = choose_listed("Score", scores, parameter="column", default=CLIPMEM, **style)
    with st.spinner("Comparing…"):
        comparison = compare(one, other, column)
    if not comparison.n_common:
        st.info(
            f"{one.name} and {other.name} have no pair in common. Choose two audits of the same "
            "data."
        )
        st.stop()

    change = comparison.change
    with st.grid(3, min_column_width=150) as grid:
        grid.metric("Common pairs", f"{comparison.n_common:,}", border=True)
        about = "Rank agreement: 1 is the same order."
        grid.metric("Spearman", format_score(comparison.spearman), border=True, help=about)
        about = "Second minus first, over pairs scored in both."
        difference = format_difference(change.mean if change else None)
        grid.metric("Mean difference", difference, border=True, help=about)
    notes = [f"{comparison.n_scored:,} pairs have {words(column)} in both."]
    if change and change.n > 1:
        ends = f"{change.low:.3f} to {change.high:.3f}".replace("-", "−")
        notes.append(f"95 % interval of the mean difference, over pairs: {ends}.")
    notes.append(
        f"Pairs only in the first audit: {comparison.only_one:,}; only in the second: "
        f"{comparison.only_other:,}; with another caption in the second: "
        f"{comparison.edited:,}; in another group in the second, and not listed below: "
        f"{comparison.regrouped:,}."
    )
    st.caption(" ".join(notes))

    # Settings that differ; a warning if scores cannot be compared directly
    table = changed_settings(one, other)
    incomparable = table[[bool(FIELDS[name].must_match) for name in table["setting"]]]
    if len(incomparable):
        st.warning("These settings differ, so compare ranks, not scores:")
        for name, *values in incomparable.to_numpy():
            line = (
                f"{FIELDS[name].must_match}: {values[0]} in {one.name}, {values[1]} in {other.name}"
            )
            show_text(line, limit=500)
    first, second = (len(read_incidents(audit)[0]) for audit in (one, other))
    if first or second:
        st.caption(f"Faults of the pipeline: {first} in the first audit, {second} in the second.")
    with st.expander(f"Settings that differ: {len(table)}"):
        draw_table(table, alt="Settings that differ")

    points = comparison.points
    if points.empty:
        st.info("No pair has this score in both audits: choose another score.")
        st.stop()
    st.caption(
        f"Shows {len(points):,} of {comparison.n_scored:,} pairs. Colours are the groups in the "
        "first audit. Click a dot to see its pair."
    )
    event: Any = st.plotly_chart(
        comparison_figure(points, column=column, names=(one.name, other.name)),
        key=f"comparison-{one.name}-{other.name}-{column}",
        on_select="rerun",
        selection_mode="points",
        config=ZOOMABLE | {"displayModeBar": "hover"},
        alt=f"{words(column)} of each pair in the first audit against that in the second",
    )
    dots = [dot["customdata"] for dot in event["selection"]["points"]]
    clicked = points[points["row_one"].isin(dots[-1:])]
    draw_change_cards(one, other, column, clicked, key="clicked")

    shown, draw_page_numbers = read_part(comparison.changed, PAGE_SIZE)
    with in_a_row("bottom", horizontal_alignment="distribute"):
        st.header("Changed most", width="content")
        draw_page_numbers()
    draw_change_cards(one, other, column, shown, key="changed")
