"""Detectors of wrong captions: their accuracy on injected errors, and the pairs they differ on."""

import shlex
from typing import Any

import streamlit as st

from clipmem_core.dashboard.component.pairs import draw_grid
from clipmem_core.dashboard.page import choose_listed, open_page
from clipmem_core.dashboard.plain import (
    draw_figure,
    draw_table,
    explained_errors,
    in_a_row,
    show_command,
    show_text,
)
from clipmem_core.dataset.injected_errors import ERROR_KINDS
from clipmem_core.figures import LABEL_COLOURS, OTHER, precision_figure
from clipmem_core.lab import experiment as b
from clipmem_core.lab.experiment import (
    DETECTORS,
    RANDOM_DETECTOR,
    REFERENCE_DETECTOR,
    SECOND_ROUND,
    table_of_texts,
)
from clipmem_core.review.cards import cards
from clipmem_core.review.views import Selection
from clipmem_core.scores.registry import words
from clipmem_core.utils.columns import P_WRONG, SUSPICION

THIS_AUDIT = "this audit"
ERRORS = {name: kind.label for name, kind in ERROR_KINDS.items()} | {
    "miscaption": "another pair's captions",
    "vague": "vague captions",
    "duplicate": "duplicated pair",
}
FIRST_ROUND = [name for name in DETECTORS if name not in (RANDOM_DETECTOR, *SECOND_ROUND)]
COLOURS = dict(zip(FIRST_ROUND, LABEL_COLOURS, strict=False))
COLOURS[P_WRONG] = COLOURS[SUSPICION]


def error_name(kind: Any, share: Any) -> str:
    """Return the name of a kind of error with its share."""
    return f"{ERRORS.get(kind, kind)}, {share:.0%}"


def line_style(detector: str) -> dict[str, object]:
    """Return the colour of a detector's line, dashed in the second round; the reference is bold."""
    first_round = SECOND_ROUND.get(detector, detector)
    return {
        "color": COLOURS.get(first_round, OTHER),
        "width": 4 if detector == REFERENCE_DETECTOR else 1.8,
        "dash": "solid" if first_round == detector else "dash",
    }


def draw_findings(findings: b.Findings) -> None:
    """Draw a measure of each detector by kind of error, and the precision by pairs reviewed."""
    if findings.note:
        st.caption(findings.note)
    measured = set(findings.table[b.MEASURE])
    measures = {name: text for name, text in b.SHORT.items() if name in measured}
    measure = choose_listed("Measure", measures, parameter="measure", width=240)
    rows = findings.table[findings.table[b.MEASURE] == measure]
    rows = rows.assign(
        detector=rows[b.DETECTOR].map(words),
        error=[error_name(row[b.KIND], row[b.SHARE]) for row in rows.to_dict("records")],
        text=[b.cell_text(row) for row in rows.to_dict("records")],
    )
    alt = f"{b.SHORT[measure]} of each detector by kind of error, with intervals"
    draw_table(table_of_texts(rows, "detector", "error"), alt=alt)
    note = f"{b.SHORT[measure]}, in brackets {findings.interval}."
    if rows[b.OVER].notna().any():
        reference = words(REFERENCE_DETECTOR)
        note += f" ▲ ▼: better or worse than {reference}; the paired interval excludes 0."
    st.caption(note)
    groups = {
        error_name(kind, share): rows
        for (kind, share), rows in findings.curves.groupby([b.KIND, b.SHARE], sort=False)
    }
    chosen = choose_listed("Error", list(groups), parameter="mistake", width=420)
    curves = groups[chosen]
    styles = {name: line_style(name) for name in curves["detector"].unique()}
    figure = precision_figure(curves, share=curves[b.SHARE].iloc[0], styles=styles)
    alt = f"Precision of each detector against the number of pairs reviewed: {chosen}"
    draw_figure(figure, key="detectors-curves", alt=alt)
    st.caption("Dotted: a random order. Click a name to hide its line.")


with open_page("Detectors") as audit:
    st.header("Detector accuracy on injected errors")
    audit_findings = b.injected_findings(audit)
    benchmarks = {f"benchmark {benchmark.name}": benchmark for benchmark in b.benchmarks_of(audit)}
    options = [*benchmarks, *([THIS_AUDIT] if audit_findings else [])]
    if options:
        chosen = choose_listed("Errors injected in", options, parameter="from", width=320)
        with explained_errors("This benchmark cannot be shown.", ends=False):
            benchmark = benchmarks.get(chosen)
            findings = b.benchmark_findings(benchmark) if benchmark else audit_findings
            if findings is None:
                st.info("The first run of this benchmark is not finished yet.")
            else:
                draw_findings(findings)
    else:
        st.info(
            "No errors were injected here, so accuracy is unknown. A benchmark injects errors of "
            "every kind into copies of the data set and measures every detector on them."
        )
        source = shlex.quote(audit.record.source)
        show_command(f"python -m clipmem_core benchmark {source} --name {audit.name}")

    st.header("Where two detectors differ most")
    scores = b.detector_scores(audit)
    names = [str(name) for name in scores]
    if len(scores) < 3 or len(names) < 2:
        st.caption("This audit has too few pairs with two detectors or more.")
        st.stop()
    with in_a_row("bottom"):
        style: dict[str, Any] = {"width": 215, "format_func": words}
        one = choose_listed("Detector", names, parameter="one", **style)
        others = [name for name in names if name != one]
        other = choose_listed("Other detector", others, parameter="other", **style)
    for first, second in ((one, other), (other, one)):
        show_text(f"Suspicious by {words(first)}, not by {words(second)}")
        rows = b.differ_most(scores, first, second, limit=6)
        if rows:
            key = f"differ-{first}-{second}"
            draw_grid(audit, cards(audit, rows), selection=Selection(order=first), key=key)
        else:
            st.caption("No pair.")
