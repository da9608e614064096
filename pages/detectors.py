"""Detectors of wrong captions: their accuracy on injected errors, and the pairs they differ on."""

import shlex
from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core.audit.store import Audit
from clipmem_core.dashboard.page import choose_listed, open_page
from clipmem_core.dashboard.pair_component import draw_grid
from clipmem_core.dashboard.plain import explained_errors, one_line_errors, show_text
from clipmem_core.dataset.injected_errors import ERROR_KINDS
from clipmem_core.figures.studies import precision_figure
from clipmem_core.review import compare as r
from clipmem_core.review.cards import cards
from clipmem_core.review.selection import Selection
from clipmem_core.scores.registry import words
from clipmem_core.studies.benchmark_results import (
    DETECTOR,
    DIGITS,
    KIND,
    MEASURE,
    OVER,
    REFERENCE_DETECTOR,
    SHARE,
    SHORT,
)

THIS_AUDIT = "this audit"
_CHART = {"displaylogo": False, "displayModeBar": False}
INJECTED_WORDS = {
    "miscaption": "another pair's captions",
    "vague": "vague captions",
    "duplicate": "duplicated pair",
}


def draw_findings(audit: Audit) -> None:
    """Draw the accuracy of each detector on errors injected here or in a benchmark, or the command
    that measures it."""
    st.subheader("Detector accuracy on injected errors", anchor=False)
    audit_findings = r.injected_findings(audit)
    benchmarks = {f"benchmark {benchmark.name}": benchmark for benchmark in r.benchmarks_of(audit)}
    options = [*benchmarks, *([THIS_AUDIT] if audit_findings else [])]
    if not options:
        st.info(
            "No injected error, no benchmark: compare detectors with each other.",
            icon=":material/quiz:",
        )
        st.caption(
            "To inject errors of every kind into copies of the data set and measure every "
            "detector, run:"
        )
        source = shlex.quote(audit.record.source)
        st.code(f"python -m clipmem_core benchmark {source} --name {audit.name}", language="bash")
        return
    chosen = options[0]
    if len(options) > 1:
        chosen = choose_listed(
            "Errors injected in", options, parameter="from", key="detectors-from", width=320
        )
    with one_line_errors("This benchmark"):
        findings = (
            audit_findings if chosen == THIS_AUDIT else r.benchmark_findings(benchmarks[chosen])
        )
        if findings is None:
            st.info(
                "The first run of this benchmark is not finished yet.",
                icon=":material/hourglass_empty:",
            )
            return
        _draw_table(findings)
        _draw_curves(findings.curves)


def _draw_table(findings: r.Findings) -> None:
    if findings.note:
        st.caption(findings.note)
    measures = {
        name: short for name, short in SHORT.items() if (findings.table[MEASURE] == name).any()
    }
    options: dict[str, Any] = {"width": 240, "format_func": measures.__getitem__}
    measure = choose_listed(
        "Measure", list(measures), parameter="measure", key="detectors-measure", **options
    )
    rows = findings.table[findings.table[MEASURE] == measure]
    cells = pd.DataFrame(
        {
            DETECTOR: rows[DETECTOR].map(words),
            KIND: [
                _error_name(kind, share)
                for kind, share in zip(rows[KIND], rows[SHARE], strict=True)
            ],
            "text": [_cell_text(row) for row in rows.to_dict("records")],
        }
    )
    table = cells.pivot(index=DETECTOR, columns=KIND, values="text")
    table = (
        table.reindex(index=cells[DETECTOR].unique(), columns=cells[KIND].unique())
        .fillna("–")
        .reset_index()
    )
    alt = f"{SHORT[measure]} of each detector by kind of error, with intervals"
    st.dataframe(table, hide_index=True, height="content", alt=alt)
    better = (
        f" ▲ ▼: better or worse than {words(REFERENCE_DETECTOR)}; the paired interval excludes 0."
    )
    paired = better if rows[OVER].notna().any() else ""
    st.caption(f"{SHORT[measure]}, in brackets {findings.interval}.{paired}")


def _error_name(kind: str, share: float) -> str:
    known = ERROR_KINDS.get(kind)
    return f"{known.label if known else INJECTED_WORDS.get(kind, kind)}, {share:.0%}"


def _cell_text(row: dict[Any, Any]) -> str:
    """Return a mean with its interval, and whether it differs from that of the reference."""
    style = f".{DIGITS[row[MEASURE]]}f"
    interval = f" [{row['low']:{style}}, {row['high']:{style}}]" if pd.notna(row["low"]) else ""
    mark = (
        " ▲" if row[f"{OVER}_low"] > 0 else " ▼" if row[f"{OVER}_high"] < 0 else ""
    )  # none for NaN
    return f"{row['mean']:{style}}{interval}{mark}"


def _draw_curves(curves: pd.DataFrame) -> None:
    pieces = dict.fromkeys(zip(curves[KIND], curves[SHARE], strict=True))
    errors = {f"{kind}-{share:g}": (kind, share) for kind, share in pieces}
    names = {error: _error_name(kind, share) for error, (kind, share) in errors.items()}
    options: dict[str, Any] = {"width": 420, "format_func": names.__getitem__}
    chosen = choose_listed(
        "Error", list(errors), parameter="mistake", key="detectors-kind", **options
    )
    kind, share = errors[chosen]
    st.plotly_chart(
        precision_figure(curves[(curves[KIND] == kind) & (curves[SHARE] == share)], share=share),
        config=_CHART,
        alt=f"Precision of each detector against the number of pairs reviewed: {names[chosen]}",
    )
    st.caption("Dotted: a random order. Click a name to hide its line.")


def draw_differences(audit: Audit) -> None:
    """Draw the pairs on which two detectors of an audit differ most, either way."""
    scores = r.detector_scores(audit)
    names = r.names_in(scores)
    st.subheader("Where two detectors differ most", anchor=False)
    if len(scores) < 3 or len(names) < 2:
        st.caption("This audit has too few pairs with two detectors or more.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        options: dict[str, Any] = {"width": 215, "format_func": words}
        one = choose_listed("Detector", names, parameter="one", key="detectors-one", **options)
        others = [name for name in names if name != one]
        other = choose_listed(
            "Other detector", others, parameter="other", key="detectors-other", **options
        )
    for first, second in ((one, other), (other, one)):
        show_text(f"Suspicious by {words(first)}, not by {words(second)}")
        rows = r.differ_most(scores, first, second, limit=6)
        if rows:
            pairs = cards(audit, rows)
            draw_grid(
                audit, pairs, selection=Selection(order=first), key=f"differ-{first}-{second}"
            )
        else:
            st.caption("No pair.")


audit = open_page("Detectors")
with explained_errors():
    draw_findings(audit)
    draw_differences(audit)
