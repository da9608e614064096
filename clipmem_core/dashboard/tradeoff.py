"""The results of a study: the chosen arm in a sentence, arms in a chart and a table, and the pairs that changed."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core import columns as c
from clipmem_core import glossary
from clipmem_core.dashboard.cards import Sides, draw_change_cards
from clipmem_core.dashboard.compare import compared, finished_audits, same_data_set
from clipmem_core.dashboard.page import choose_listed, draw_pages, read_page
from clipmem_core.dashboard.plain import show_text
from clipmem_core.dashboard.studies import PARAMETER, PLANS, shown_errors
from clipmem_core.figures.studies import MEMORIZATION, TEXT, UTILITY, tradeoff_figure
from clipmem_core.review.queries import cached
from clipmem_core.studies import results as r
from clipmem_core.studies import study_folder as s
from clipmem_core.studies.arm import NONE

MEMORIZATIONS = {
    s.CLIPMEM_CANDIDATE: "clipmem",
    r.CLIPMEM_NET: "clipmem − external",
    s.MEMBERSHIP_AUROC: "membership AUROC",
    c.ATTACK_AUROC: "attack AUROC",
    c.ATTACK_TPR: "attack TPR at 1 % FPR",
}
UTILITIES = {s.RETRIEVAL: "retrieval", "linear_probe": "linear probe", "zero_shot": "zero-shot"}
NAMES = MEMORIZATIONS | UTILITIES
PERCENT, ABSOLUTE, TIMES, VALUE = "percent", "absolute", "times", "value"
NO_VALUE = "–"
PAGE_SIZE = 12  # pairs that changed
COLUMNS = {  # measure → its head, the format of a difference, its help
    s.CLIPMEM_CANDIDATE: ("clipmem", PERCENT, "Mean clipmem of the candidates, in % of the baseline's."),
    r.CLIPMEM_NET: ("clipmem − external", ABSOLUTE, "Minus the mean over external pairs."),
    s.MEMBERSHIP_AUROC: ("AUROC", ABSOLUTE, glossary.meaning(glossary.AUROC)),
    c.ATTACK_AUROC: ("attack AUROC", ABSOLUTE, "The same by an attacker who has the members of other seeds."),
    c.ATTACK_TPR: ("attack TPR", ABSOLUTE, "Share of its pairs that this attacker detects at 1 % FPR."),
    c.CLIPMEM_IMAGE: ("image part", ABSOLUTE, "The image encoder's part of clipmem."),
    c.CLIPMEM_TEXT: ("text part", ABSOLUTE, "The text encoder's part of clipmem."),
    s.RETRIEVAL: ("retrieval", PERCENT, "Mean of six recalls on held-out pairs, in % of the baseline's."),
    "linear_probe": ("linear probe", ABSOLUTE, "Accuracy of a linear probe."),
    "zero_shot": ("zero-shot", ABSOLUTE, "Accuracy without any training on labels."),
    s.SAMPLES_SEEN: ("samples", TIMES, "Pairs seen in training, relative to the baseline."),
    s.SECONDS: ("seconds", TIMES, "Seconds of training, relative to the baseline."),
    s.PEAK_MB: ("peak MB", VALUE, "Peak memory of a member in megabytes."),
}


@cached(32, s.ARMS, s.STUDY)
def compared_of(study: s.StudyFolder) -> pd.DataFrame:
    """Return the rows of `differences`, computed once per state of the study's files."""
    return r.differences(r.rows_of(study))


def draw_chart(table: pd.DataFrame, *, over: str, key: str, chosen: str | None = None) -> None:
    """Draw the choice of two measures, and utility against memorization with intervals over seeds or splits."""
    measured = set(table["measure"])
    memorizations, utilities = ([name for name in names if name in measured] for names in (MEMORIZATIONS, UTILITIES))
    if not (memorizations and utilities):
        st.info("No arm can be compared yet.", icon=":material/hourglass:")
        return
    options: dict[str, Any] = {"width": 250, "format_func": NAMES.__getitem__}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        memorized, useful = (
            choose_listed(label, names, parameter=label.lower(), key=f"mitigation-{label.lower()}", **options)
            for label, names in (("Memorization", memorizations), ("Utility", utilities))
        )
    points, titles = points_of(table, memorized, useful), (NAMES[memorized], NAMES[useful])
    if points.empty:
        st.info("No arm has both measures: choose others.", icon=":material/info:")
        return
    best = r.front(points, MEMORIZATION, UTILITY)
    st.plotly_chart(
        tradeoff_figure(points, titles=titles, front=best, chosen=chosen),
        key=f"mitigation-chart-{key}",
        config={"displayModeBar": False},
        alt=f"{titles[1]} against {titles[0]} of {len(points)} arms. "
        f"{'; '.join(', '.join(lines) for lines in points.loc[points[s.ARM].isin([NONE, chosen]), TEXT])}. "
        f"Pareto-optimal, from the least memorized: {', '.join(best)}.",
    )
    bars = f"its bars are the 95 % interval of its difference to {NONE}, over {over}"
    st.caption(f"Each dot is the mean of an arm; {bars}. The line joins the Pareto-optimal arms.")


def points_of(table: pd.DataFrame, memorized: str, useful: str) -> pd.DataFrame:
    """Return one row per arm as `tradeoff_figure` takes them: means with the intervals of their differences."""
    points = []
    for arm, measures in table.groupby(s.ARM, sort=False):
        rows = measures.set_index("measure")
        if not {memorized, useful} <= set(rows.index):
            continue
        point: dict[str, Any] = {s.ARM: arm, TEXT: [str(arm)]}
        for axis, measure in ((MEMORIZATION, memorized), (UTILITY, useful)):
            value, difference, low, high = (float(rows[end][measure]) for end in ("value", "difference", "low", "high"))
            point |= {axis: value, f"{axis}_low": value - difference + low, f"{axis}_high": value - difference + high}
            against = f"; against {NONE} {_interval(difference, low, high)}" if arm != NONE else ""
            point[TEXT].append(f"{NAMES[measure]} {value:.3f}{against}")
        points.append(point)
    return pd.DataFrame(points)


def _interval(mean: float, low: float, high: float, *, spec: str = "+z.3f", unit: str = "") -> str:
    ends = f" [{low:{spec}}, {high:{spec}}]" if pd.notna(low) else ""
    return f"{mean:{spec}}{unit}{ends}".replace("-", "−")


def draw_table(table: pd.DataFrame, *, over: str, chosen: str | None = None) -> None:
    """Draw every arm against the reference arm in a table, the chosen one first."""
    rows = table[table[s.ARM] != NONE]
    st.subheader("Each setting against the baseline", anchor=False)
    if rows.empty:
        st.caption(f"No arm and {NONE} have a seed in common yet.")
        return
    numbers, texts = table_of(rows, chosen)
    shades = ["background-color: rgba(106,111,216,0.18)" if arm == chosen else "" for arm in numbers[s.ARM]]
    styled = numbers.style.apply(lambda column: shades)
    for row, cells in enumerate(texts.to_dict("records")):  # cells show texts, and columns sort by their numbers
        for head, text in cells.items():
            styled = styled.format(text.replace("{", "{{").replace("}", "}}"), subset=([row], [head]))
    columns: dict[str, Any] = {
        head: st.column_config.NumberColumn(head, help=help_text)
        for head, _, help_text in COLUMNS.values()
        if head in numbers
    }
    columns[s.ARM] = st.column_config.TextColumn(s.ARM, pinned=True, help=glossary.meaning(glossary.ARM))
    columns["n"] = st.column_config.NumberColumn("n", help=f"How many {over} the arm and {NONE} share.")
    alt = f"Differences of {len(numbers)} arms to {NONE}, with 95 % intervals over {over}"
    st.dataframe(styled, hide_index=True, column_config=columns, key="mitigation-differences", alt=alt)
    cell = f"the mean paired difference to {NONE} with its 95 % interval over {over}"
    st.caption(f"Each cell is {cell}; * differs from 0 after Holm's correction for all {len(numbers)} arms.")


def table_of(rows: pd.DataFrame, chosen: str | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return one row per arm, the chosen one first: the numbers that the table sorts by, and the texts it shows."""
    numbers, texts = [], []
    for arm, measures in sorted(rows.groupby(s.ARM, sort=False), key=lambda group: group[0] != chosen):
        by_measure = {str(row["measure"]): row for row in measures.to_dict("records")}
        cells = {head: _cell(by_measure.get(name), kind) for name, (head, kind, _) in COLUMNS.items()}
        numbers.append({s.ARM: arm, "n": int(measures["n"].max())} | {head: cell[0] for head, cell in cells.items()})
        texts.append({head: text for head, (_, text) in cells.items()})
    shown = pd.DataFrame(texts)
    shown = shown.loc[:, (shown != NO_VALUE).any()]
    return pd.DataFrame(numbers)[[s.ARM, "n", *shown]], shown


def _cell(row: Mapping[Any, Any] | None, kind: str) -> tuple[float, str]:
    """Return the number of a cell and its text, with * if it differs from 0 after Holm's correction."""
    if row is None or pd.isna(row["difference"]):
        return math.nan, NO_VALUE
    value, ends = row["value"], [row["difference"], row["low"], row["high"]]
    baseline = value - row["difference"]
    star = " *" if row["p_of_all"] < r.LEVEL else ""
    if kind == VALUE:
        return value, f"{value:,.0f}"
    if kind == TIMES:
        return (value / baseline, f"×{value / baseline:.2f}") if baseline else (math.nan, NO_VALUE)
    if kind == PERCENT and baseline > 0:
        ends = [100 * end / baseline for end in ends]
        return ends[0], f"{_interval(*ends, spec='+z.1f', unit=' %')}{star}"
    return ends[0], f"{_interval(*ends)}{star}"


def draw_references() -> None:
    """Draw a reference study, one of those that come with the code."""
    with shown_errors():
        studies = {study.name: study for study in r.reference_studies(tuple(PLANS))}
        if not studies:
            st.info("No study of mitigations yet. Start one above.", icon=":material/science:")
            return
        st.info("This is a reference study. Start your own under “Start a study”.", icon=":material/menu_book:")
        name = choose_listed("Study", list(studies), parameter=PARAMETER, key="mitigations-reference", width=400)
        study = studies[name]
        show_text(study.title)
        draw_chart(study.rows, over=study.over, key=study.name)
        draw_table(study.rows, over=study.over)


def draw_changed_pairs(study: s.StudyFolder, chosen: str | None) -> None:
    """Draw the candidates whose clipmem changed most from the baseline to an arm, a page of them."""
    if chosen is None or chosen == NONE:
        return
    one, other = study.audit(NONE), study.audit(chosen)
    st.subheader("Pairs that changed most", anchor=False)
    if not (one.finished and other.finished):
        st.caption("The pairs appear once both arms are finished.")
        return
    changed = compared(one, other, c.CLIPMEM).changed
    changed = changed[changed["group_one"] == c.CANDIDATE]
    split = " in the first split" if study.seeds_per_split else ""
    st.caption(f"Candidates by the change of their clipmem{split}. The largest changes are partly chance.")
    page, pages = read_page(len(changed), PAGE_SIZE)
    audit = next((audit for audit in finished_audits() if same_data_set(one, audit)), None)  # with pages for the pairs
    links = {"Open pair": audit} if audit else {}
    sides = Sides(one, other, names=("without", "with"), in_other="with it", links=links)
    records = changed.iloc[(page - 1) * PAGE_SIZE : page * PAGE_SIZE].to_dict("records")
    draw_change_cards(sides, c.CLIPMEM, records, key="mitigation")
    draw_pages(page, pages, key="mitigation-pages")
