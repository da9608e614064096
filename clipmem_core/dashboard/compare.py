"""The pages Compare and Detectors: how well two audits, or two detectors, agree."""

import shlex
from collections.abc import Sequence
from contextlib import suppress
from itertools import permutations
from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.config import FIELDS
from clipmem_core.dashboard.cards import draw_change_cards
from clipmem_core.dashboard.component.pairs import draw_grid
from clipmem_core.dashboard.page import choose_listed, read_audit, read_part
from clipmem_core.dashboard.plain import (
    ZOOMABLE,
    draw_figure,
    draw_table,
    explained_errors,
    format_difference,
    format_score,
    in_a_row,
    show_command,
    show_text,
)
from clipmem_core.dataset.injected_errors import ERROR_KINDS
from clipmem_core.figures import comparison_figure
from clipmem_core.lab import experiment as b
from clipmem_core.lab.lab_figures import precision_figure
from clipmem_core.review.cards import cards
from clipmem_core.review.incidents import read_incidents
from clipmem_core.review.overview import Comparison, changed_settings, count_common
from clipmem_core.review.views import Selection
from clipmem_core.scores.registry import BY_NAME, words
from clipmem_core.utils.columns import CLIPMEM
from clipmem_core.utils.io import InputError

# in the address
ONE = "one"
OTHER = "other"
PAGE_SIZE = 12
_THIS_AUDIT = "this audit"
_ERRORS = {name: kind.label for name, kind in ERROR_KINDS.items()} | {
    "miscaption": "another pair's captions",
    "vague": "vague captions",
    "duplicate": "duplicated pair",
}


def draw_choice() -> tuple[Audit, Audit, str]:
    """Draw the choice of two audits and a score, and return them; ends the page if there are no two
    to compare. The audit with the most pictures in common with the first one is the second."""
    audits = {audit.name: audit for audit in Audit.every() if audit.finished}
    usual = read_audit()
    if len(audits) < 2:
        st.info(
            "A comparison needs two finished audits of one data set. Audit it again with another "
            "seed or settings, or audit its export: pairs keep their ids."
        )
        st.page_link("pages/audits.py", label="Start an audit", query_params={"view": "start"})
        show_command("python -m clipmem_core audit SOURCE --name SECOND --seed 1")
        st.stop()
    pairs = sorted(permutations(audits.values(), 2), key=_likeness, reverse=True)
    if usual not in audits:
        usual = pairs[0][0].name
    with in_a_row("bottom"):
        one = audits[_choose("First audit", list(audits), ONE, default=usual, clears=[OTHER])]
        names = [other.name for first, other in pairs if first.name == one.name]
        other = audits[_choose("Second audit", names, OTHER)]
        column = _choose("Score", list(BY_NAME), "column", default=CLIPMEM, format_func=words)
    if not count_common(one, other):
        st.info(
            f"{one.name} and {other.name} have no pictures in common. Choose two audits of the "
            "same data."
        )
        st.stop()
    return one, other, column


def _choose(
    label: str, options: list[str], parameter: str, *, clears: Sequence[str] = (), **style: Any
) -> str:
    if len(options) == 1:
        show_text(f"{label}: {options[0]}")
        return options[0]
    return choose_listed(
        label,
        options,
        parameter=parameter,
        clears=["page", *clears],
        width=215,
        **style,
    )


def draw_numbers(comparison: Comparison) -> None:
    """Draw how many pairs two audits share, and how well their scores agree."""
    change = comparison.change
    with st.grid(3, min_column_width=150) as grid:
        difference = format_difference(change.mean if change else None)
        for label, value, about in (
            ("Common pairs", f"{comparison.n_common:,}", None),
            ("Spearman", format_score(comparison.spearman), "Rank agreement: 1 is the same order."),
            ("Mean difference", difference, "Second minus first, over pairs scored in both."),
        ):
            grid.metric(label, value, border=True, help=about)
    notes = [f"{comparison.n_scored:,} pairs have {words(comparison.column)} in both."]
    if change and change.n > 1:
        ends = f"{change.low:.3f} to {change.high:.3f}".replace("-", "−")
        notes.append(f"95 % interval of the mean difference, over pairs: {ends}.")
    notes.append(
        f"Pairs only in the first audit: {comparison.only_one:,}; only in the second: "
        f"{comparison.only_other:,}; with another caption or picture in the second: "
        f"{comparison.edited:,}; in another group in the second, and not listed below: "
        f"{comparison.regrouped:,}."
    )
    st.caption(" ".join(notes))


def draw_settings(one: Audit, other: Audit) -> None:
    """Warn if the scores cannot be compared directly, and draw every setting that differs."""
    table = changed_settings(one, other)
    incomparable = table[[bool(FIELDS[name].alike) for name in table["setting"]]]
    if len(incomparable):
        st.warning("These settings differ, so compare ranks, not scores:")
        for name, *values in incomparable.to_numpy():
            line = f"{FIELDS[name].alike}: {values[0]} in {one.name}, {values[1]} in {other.name}"
            show_text(line, limit=500)
    first, second = (len(read_incidents(audit)[0]) for audit in (one, other))
    if first or second:
        st.caption(f"Faults of the pipeline: {first} in the first audit, {second} in the second.")
    if table.empty:
        st.caption("Both have the same settings.")
        return
    with st.expander(f"Settings that differ: {len(table)}"):
        draw_table(table, alt="Settings that differ")


def _likeness(pair: tuple[Audit, Audit]) -> tuple[bool, int]:
    """Return the sort key of how well two audits compare: one data set, pictures in common."""
    with suppress(InputError):
        fingerprints = {audit.record.dataset_fingerprint for audit in pair}
        return len(fingerprints) == 1, count_common(*pair)
    return False, 0


def draw_points(one: Audit, other: Audit, comparison: Comparison) -> None:
    """Draw one audit's score against the other's, and the pair that was clicked on."""
    points = comparison.points
    if points.empty:
        st.info("No pair has this score in both audits: choose another score.")
        return
    st.caption(
        f"Shows {len(points):,} of {comparison.n_scored:,} pairs. Colours are the groups in the "
        "first audit. Click a dot to see its pair."
    )
    event: Any = st.plotly_chart(
        comparison_figure(points, column=comparison.column, names=(one.name, other.name)),
        key=f"comparison-{one.name}-{other.name}-{comparison.column}",
        on_select="rerun",
        selection_mode="points",
        config=ZOOMABLE | {"displayModeBar": "hover"},
        alt=f"{words(comparison.column)} of each pair in the first audit against that in the "
        "second",
    )
    dots = (event.get("selection") or {}).get("points") or []
    clicked = [dot["customdata"] for dot in dots[-1:]]
    pairs = points[points["row_one"].isin(clicked)]
    draw_change_cards(one, other, comparison.column, pairs, key="clicked")


def draw_changed(one: Audit, other: Audit, comparison: Comparison) -> None:
    """Draw the pairs whose score changed most, a page of them."""
    changed = comparison.changed
    if changed.empty:
        return
    shown, draw_page_numbers = read_part(changed, PAGE_SIZE)
    with in_a_row("bottom", horizontal_alignment="distribute"):
        st.header("Changed most", width="content")
        draw_page_numbers()
    draw_change_cards(one, other, comparison.column, shown, key="changed")


def draw_findings(audit: Audit) -> None:
    """Draw the accuracy of each detector on errors injected here or in a benchmark, or the command
    that measures it."""
    st.header("Detector accuracy on injected errors")
    audit_findings = b.injected_findings(audit)
    benchmarks = {f"benchmark {benchmark.name}": benchmark for benchmark in b.benchmarks_of(audit)}
    options = [*benchmarks, *([_THIS_AUDIT] if audit_findings else [])]
    if not options:
        st.info(
            "No errors were injected here, so accuracy is unknown. A benchmark injects errors of "
            "every kind into copies of the data set and measures every detector on them."
        )
        source = shlex.quote(audit.record.source)
        show_command(f"python -m clipmem_core benchmark {source} --name {audit.name}")
        return
    chosen = choose_listed("Errors injected in", options, parameter="from", width=320)
    with explained_errors("This benchmark cannot be shown.", ends=False):
        benchmark = benchmarks.get(chosen)
        findings = b.benchmark_findings(benchmark) if benchmark else audit_findings
        if findings is None:
            st.info("The first run of this benchmark is not finished yet.")
            return
        _draw_table(findings)
        _draw_curves(findings.curves)


def _draw_table(findings: b.Findings) -> None:
    if findings.note:
        st.caption(findings.note)
    measured = set(findings.table[b.MEASURE])
    measures = {name: text for name, text in b.SHORT.items() if name in measured}
    measure = choose_listed("Measure", measures, parameter="measure", width=240)
    rows = findings.table[findings.table[b.MEASURE] == measure]
    rows = rows.assign(
        detector=rows[b.DETECTOR].map(words),
        error=[_error_name(row[b.KIND], row[b.SHARE]) for row in rows.to_dict("records")],
        text=[b.cell_text(row) for row in rows.to_dict("records")],
    )
    alt = f"{b.SHORT[measure]} of each detector by kind of error, with intervals"
    draw_table(b.table_of_texts(rows, "detector", "error"), alt=alt)
    note = f"{b.SHORT[measure]}, in brackets {findings.interval}."
    if rows[b.OVER].notna().any():
        reference = words(b.REFERENCE_DETECTOR)
        note += f" ▲ ▼: better or worse than {reference}; the paired interval excludes 0."
    st.caption(note)


def _error_name(kind: Any, share: Any) -> str:
    return f"{_ERRORS.get(kind, kind)}, {share:.0%}"


def _draw_curves(curves: pd.DataFrame) -> None:
    groups = {
        _error_name(kind, share): rows
        for (kind, share), rows in curves.groupby([b.KIND, b.SHARE], sort=False)
    }
    chosen = choose_listed("Error", list(groups), parameter="mistake", width=420)
    rows = groups[chosen]
    alt = f"Precision of each detector against the number of pairs reviewed: {chosen}"
    figure = precision_figure(rows, share=rows[b.SHARE].iloc[0])
    draw_figure(figure, key="detectors-curves", alt=alt)
    st.caption("Dotted: a random order. Click a name to hide its line.")


def draw_differences(audit: Audit) -> None:
    """Draw the pairs on which two detectors of an audit differ most, either way."""
    scores = b.detector_scores(audit)
    names = [str(name) for name in scores]
    st.header("Where two detectors differ most")
    if len(scores) < 3 or len(names) < 2:
        st.caption("This audit has too few pairs with two detectors or more.")
        return
    with in_a_row("bottom"):
        style: dict[str, Any] = {"width": 215, "format_func": words}
        one = choose_listed("Detector", names, parameter=ONE, **style)
        others = [name for name in names if name != one]
        other = choose_listed("Other detector", others, parameter=OTHER, **style)
    for first, second in ((one, other), (other, one)):
        show_text(f"Suspicious by {words(first)}, not by {words(second)}")
        rows = b.differ_most(scores, first, second, limit=6)
        if rows:
            key = f"differ-{first}-{second}"
            draw_grid(audit, cards(audit, rows), selection=Selection(order=first), key=key)
        else:
            st.caption("No pair.")
