"""The parts of the page Detectors: which finds planted mistakes best, how far they agree, and where two differ."""

import shlex
from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.dashboard.page import choose_listed, choose_segment
from clipmem_core.dashboard.pair_component import draw_grid
from clipmem_core.dashboard.plain import one_line_errors, show_text
from clipmem_core.figures.studies import agreement_figure, precision_figure
from clipmem_core.pairs.errors import ERROR_KINDS
from clipmem_core.review.cards import cards
from clipmem_core.review.compare import (
    Findings,
    agreement,
    benchmark_findings,
    benchmarks_of,
    detector_scores,
    differ_most,
    names_in,
    planted_findings,
)
from clipmem_core.review.selection import Selection
from clipmem_core.scores.registry import words
from clipmem_core.studies.benchmark.results import DETECTOR, KIND, MEASURE, OVER, SHARE, SHORT

FROM, PLANTED_KIND, SHOWN, ONE, OTHER = "from", "mistake", "measure", "one", "other"  # in the address
OWN = "this audit"  # what was planted in it
FEW = 6  # pairs shown on which two detectors differ
CHART = {"displaylogo": False, "displayModeBar": False}
PLANTED_WORDS = {"miscaption": "another pair's captions", "vague": "vague captions", "duplicate": "there twice"}


def draw_findings(audit: Audit) -> None:
    """Draw how well each detector finds what was planted, here or in a benchmark, or how to make one."""
    st.subheader("Detector accuracy on injected errors", anchor=False)
    own = planted_findings(audit)
    benchmarks = {benchmark.name: benchmark for benchmark in benchmarks_of(audit)}
    options = [*(f"benchmark {name}" for name in benchmarks), *([OWN] if own else [])]
    if not options:
        _draw_none(audit)
        return
    chosen = options[0]
    if len(options) > 1:
        chosen = choose_listed("Errors injected in", options, parameter=FROM, key="detectors-from", width=320)
    with one_line_errors("This benchmark"):
        found = own if chosen == OWN else benchmark_findings(benchmarks[chosen.removeprefix("benchmark ")])
        if found is None:
            st.info("Its first run is not finished yet.", icon=":material/hourglass_empty:")
            return
        _draw_table(found)
        _draw_curves(found)


def _draw_none(audit: Audit) -> None:
    st.info(
        "No errors were injected in this audit, and there is no benchmark of its data set. Without known errors, "
        "detectors can only be compared with each other.",
        icon=":material/quiz:",
    )
    st.caption(
        "This injects six kinds of errors into copies of the data set and measures every detector; it can be resumed:"
    )
    source = shlex.quote(audit.record.source)
    st.code(f"python -m clipmem_core benchmark {source} --name {audit.name}", language="bash")


def _draw_table(found: Findings) -> None:
    if found.note:
        st.caption(found.note)
    measures = {name: short for name, short in SHORT.items() if (found.table[MEASURE] == name).any()}
    measure = choose_segment("Measure", measures, parameter=SHOWN, key="detectors-measure", hidden=True)
    rows = found.table[found.table[MEASURE] == measure]
    cells = [(_cell_name(kind, share), kind, share) for kind, share in _cells(rows)]
    shown = pd.DataFrame({DETECTOR: [words(name) for name in dict.fromkeys(rows[DETECTOR])]})
    for name, kind, share in cells:
        own = rows[(rows[KIND] == kind) & (rows[SHARE] == share)].set_index(DETECTOR)
        told = {words(str(detector)): _told(row) for detector, row in own.to_dict("index").items()}
        shown[name] = shown[DETECTOR].map(told).fillna("–")
    st.dataframe(
        shown,
        hide_index=True,
        height="content",
        alt=f"{SHORT[measure]} of each detector by kind of error, with intervals",
    )
    against = (
        " ▲ and ▼: better or worse than misfit, its paired interval leaves 0 out." if rows[OVER].notna().any() else ""
    )
    st.caption(f"{SHORT[measure]}, in brackets {found.interval}.{against}")


def _cells(rows: pd.DataFrame) -> list[tuple[str, float]]:
    return list(dict.fromkeys(zip(rows[KIND], rows[SHARE], strict=True)))


def _cell_name(kind: str, share: float) -> str:
    return f"{ERROR_KINDS[kind].label if kind in ERROR_KINDS else PLANTED_WORDS.get(kind, kind)}, {share:.0%}"


def _told(row: dict[Any, Any]) -> str:
    """Return a mean with its interval, and whether it is told from that of the reference."""
    told = f"{row['mean']:.3f}"
    if pd.notna(row["low"]):
        told += f" [{row['low']:.3f}, {row['high']:.3f}]"
    if row[f"{OVER}_low"] > 0 or row[f"{OVER}_high"] < 0:  # neither of NaN, where there is no interval
        told += " ▲" if row[f"{OVER}_low"] > 0 else " ▼"
    return told


def _draw_curves(found: Findings) -> None:
    cells = {f"{kind}-{share:g}": (kind, share) for kind, share in _cells(found.curves)}
    chosen = next(iter(cells))
    if len(cells) > 1:
        chosen = choose_listed(
            "Error",
            list(cells),
            parameter=PLANTED_KIND,
            key="detectors-kind",
            width=420,
            named=lambda cell: _cell_name(*cells[cell]),
        )
    kind, share = cells[chosen]
    curves = found.curves[(found.curves[KIND] == kind) & (found.curves[SHARE] == share)]
    st.plotly_chart(
        precision_figure(curves, share=share),
        config=CHART,
        alt=f"Precision of each detector against the number of pairs reviewed: {_cell_name(kind, share)}",
    )
    st.caption("Dotted: what a random order finds. Click a name to hide its line.")


def draw_agreement(audit: Audit) -> None:
    """Draw how far the detectors of an audit agree on which pairs are suspicious."""
    scores = detector_scores(audit)
    st.subheader("How far they agree", anchor=False)
    if len(scores) < 3 or len(names_in(scores)) < 2:
        st.caption("This audit has too few pairs with two detectors or more.")
        return
    st.plotly_chart(agreement_figure(agreement(scores)), config=CHART, alt="Rank correlation of every two detectors")
    st.caption(f"Rank correlation over {len(scores):,} pairs: 1 is the same order, 0 is unrelated.")


def draw_differences(audit: Audit) -> None:
    """Draw the pairs on which two detectors differ most, either way."""
    scores = detector_scores(audit)
    names = names_in(scores)
    if len(scores) < 3 or len(names) < 2:
        return
    st.subheader("Where two detectors differ most", anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        one = choose_listed("Detector", names, parameter=ONE, key="detectors-one", width=215, named=words)
        others = [name for name in names if name != one]
        other = choose_listed("Another", others, parameter=OTHER, key="detectors-other", width=215, named=words)
    for first, second in ((one, other), (other, one)):
        show_text(f"{words(first)} suspects them, {words(second)} does not")
        found = differ_most(scores, first, second, limit=FEW)
        if found.empty:
            st.caption("No pair.")
            continue
        shown = cards(audit, found["row"].tolist(), Selection())
        draw_grid(audit, shown, selection=Selection(order=first), key=f"differ-{first}-{second}")
        places = ", ".join(f"{a:.0%} and {b:.0%}" for a, b in zip(found["one"], found["other"], strict=True))
        st.caption(f"Of all pairs, these are above: {places} ({words(first)} and {words(second)}).")
