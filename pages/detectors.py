"""Detectors of wrong captions and their accuracy on injected errors."""

import shlex
from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core.dashboard.page import choose_listed, open_page
from clipmem_core.dashboard.plain import draw_figure, draw_table, explained_errors, show_command
from clipmem_core.dataset.injected_errors import ERROR_KINDS
from clipmem_core.figures import precision_figure
from clipmem_core.lab import experiment as b
from clipmem_core.scores.metrics import METRICS, interval_text
from clipmem_core.scores.registry import words

ERRORS = {name: kind.label for name, kind in ERROR_KINDS.items()} | {
    "miscaption": "another pair's captions",
    "vague": "vague captions",
    "duplicate": "duplicated pair",
}
REFERENCE = words(b.REFERENCE_DETECTOR)


def error_name(kind: Any, share: Any) -> str:
    """Return the name of a kind of error with its share."""
    return f"{ERRORS.get(kind, kind)}, {share:.0%}"


with open_page("Detectors") as audit:
    st.header("Detector accuracy on injected errors")
    detection = pd.DataFrame(audit.verdict["detection"])
    if len(detection):
        st.subheader("Errors injected in this audit")
        accuracy = pd.DataFrame({"detector": detection["score"].map(words)})
        for name in METRICS:
            values = detection[[name, f"{name}_low", f"{name}_high"]].to_numpy()
            accuracy[b.SHORT[name]] = [interval_text(*row) for row in values]
        draw_table(accuracy, alt="Accuracy of each detector on the errors of this audit")
        st.caption("In brackets: 95 % bootstrap over the pairs of this one injection.")
    benchmarks = {benchmark.name: benchmark for benchmark in b.benchmarks_of(audit)}
    if not benchmarks:
        st.info(
            "A benchmark injects errors of every kind into copies of the data set and measures "
            "every detector on them. There is none of this data set."
        )
        source = shlex.quote(audit.record.source)
        show_command(f"python -m clipmem_core benchmark {source} --name {audit.name}")
        st.stop()
    chosen = choose_listed("Benchmark", list(benchmarks), parameter="from", width=320)
    with explained_errors("This benchmark cannot be shown."):
        results = benchmarks[chosen].rows.dropna(subset=b.DETECTOR)
    if results.empty:
        st.info("The first run of this benchmark is not finished yet.")
        st.stop()

    # A measure of each detector by kind of error
    table = b.benchmark_table(results)
    measures = {name: text for name, text in b.SHORT.items() if (table[b.MEASURE] == name).any()}
    measure = choose_listed("Measure", measures, parameter="measure", width=240)
    rows = table[table[b.MEASURE] == measure]
    rows = rows.assign(
        detector=rows[b.DETECTOR].map(words),
        error=list(map(error_name, rows[b.KIND], rows[b.SHARE])),
        text=list(map(b.cell_text, rows.to_dict("records"))),
    )
    alt = f"{measures[measure]} of each detector by kind of error, with intervals"
    draw_table(b.table_of_texts(rows, "detector", "error"), alt=alt)
    note = f"{measures[measure]}, in brackets {b.OF_INJECTIONS}."
    if rows[b.OVER].notna().any():
        note += f" ▲ ▼: better or worse than {REFERENCE}; the paired interval excludes 0."
    st.caption(note)

    # The precision by the number of pairs reviewed
    groups = {
        error_name(*key): curves
        for key, curves in b.mean_curves(results).groupby([b.KIND, b.SHARE], sort=False)
    }
    error = choose_listed("Error", list(groups), parameter="mistake", width=420)
    curves = groups[error]
    share = curves[b.SHARE].iloc[0]
    figure = precision_figure(curves, share=share, bold=b.REFERENCE_DETECTOR, dashed=b.SECOND_ROUND)
    alt = f"Precision of each detector against the number of pairs reviewed: {error}"
    draw_figure(figure, key="detectors-curves", alt=alt)
    st.caption("Dotted: a random order. Dashed: after a second round of training.")
