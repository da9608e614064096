"""The results of a study: the chosen arm in a sentence, all arms in a chart and a table, and the pairs that changed.

?memorization=membership_auroc&utility=zero_shot   what is shown, kept in the address
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core import columns as c
from clipmem_core.dashboard.cards import Sides, draw_change_cards
from clipmem_core.dashboard.compare import compared, finished_audits, same_data_set
from clipmem_core.dashboard.page import choose_listed, draw_pages, read_page
from clipmem_core.dashboard.plain import show_strong, show_text
from clipmem_core.dashboard.studies import PARAMETER, PLANS, shown_errors
from clipmem_core.figures.studies import MEMORIZATION, TEXT, UTILITY, tradeoff_figure
from clipmem_core.glossary import ARM as GLOSSARY_ARM
from clipmem_core.glossary import AUROC, EXTERNAL, meaning
from clipmem_core.review.tables import Stamp, stamp
from clipmem_core.studies import results as r
from clipmem_core.studies import store as s
from clipmem_core.studies.arm import NONE

MEMORIZATIONS = {
    s.CLIPMEM_CANDIDATE: "clipmem",
    r.CLIPMEM_NET: "clipmem less that of external pairs",
    s.MEMBERSHIP_AUROC: "membership AUROC",
    c.ATTACK_AUROC: "attack AUROC",
    c.ATTACK_TPR: "attack TPR at 1 % FPR",
}
UTILITIES = {s.RETRIEVAL: "retrieval", "linear_probe": "linear probe", "zero_shot": "zero-shot"}
NAMES = MEMORIZATIONS | UTILITIES
PERCENT, ABSOLUTE, TIMES, VALUE = "percent", "absolute", "times", "value"
ENDS = ("value", "difference", "low", "high")
NOTHING = "–"
CHOSEN_SHADE = "background-color: rgba(106,111,216,0.18)"
PAGE_SIZE = 12  # pairs that changed
COLUMNS = {  # measure → its head, how a difference is written, its help
    s.CLIPMEM_CANDIDATE: ("clipmem", PERCENT, "Mean clipmem of the candidates, in % of the baseline's."),
    r.CLIPMEM_NET: ("clipmem − external", ABSOLUTE, f"Less that of external pairs. {meaning(EXTERNAL)}"),
    s.MEMBERSHIP_AUROC: ("AUROC", ABSOLUTE, meaning(AUROC)),
    c.ATTACK_AUROC: ("attack AUROC", ABSOLUTE, "The same by an attacker who has the members of other seeds."),
    c.ATTACK_TPR: ("attack TPR", ABSOLUTE, "Share of its pairs that this attacker finds at 1 % FPR."),
    c.CLIPMEM_IMAGE: ("image part", ABSOLUTE, "The image encoder's part of clipmem."),
    c.CLIPMEM_TEXT: ("text part", ABSOLUTE, "The text encoder's part of clipmem."),
    s.RETRIEVAL: ("retrieval", PERCENT, "Mean of six recalls on held-out pairs, in % of the baseline's."),
    "linear_probe": ("linear probe", ABSOLUTE, "Accuracy of a linear probe."),
    "zero_shot": ("zero-shot", ABSOLUTE, "Accuracy without any training on labels."),
    s.SAMPLES_SEEN: ("samples", TIMES, "Pairs seen in training, times those of the baseline."),
    s.SECONDS: ("seconds", TIMES, "Seconds of training, times those of the baseline."),
    s.PEAK_MB: ("peak MB", VALUE, "The most memory that a member took, in megabytes."),
}


def compared_of(study: s.StudyFolder) -> pd.DataFrame:
    """Return the rows of `all_differences` to the baseline, computed once for each state of the study's files."""
    return _compared(study, (stamp(study.folder / s.ARMS), stamp(study.folder / s.STUDY)))


@functools.lru_cache(maxsize=32)
def _compared(study: s.StudyFolder, stamps: tuple[Stamp, ...]) -> pd.DataFrame:
    return r.all_differences(r.rows_of(study), NONE)


def draw_results(study: s.StudyFolder, chosen: str | None) -> None:
    """Draw the sentence of the chosen arm and the chart."""
    table = compared_of(study)
    if chosen == NONE:
        st.caption("No mitigation is on. Turn one on to see its effect.")
    elif chosen is not None and (table[s.ARM] == chosen).any():
        show_strong(r.sentence_of(table, chosen))
    elif chosen is not None:
        st.caption("This setting and the baseline have no seed in common yet.")
    draw_chart(table, over=r.replicates(study.arms), key=study.name, chosen=chosen)


def draw_chart(table: pd.DataFrame, *, over: str, key: str, reference: str = NONE, chosen: str | None = None) -> None:
    """Draw utility against memorization, with the choice of both measures.

    Args:
        table: as of `differences` or `all_differences`.
        over: what the intervals are over.
        key: of the chart.
        reference: the arm that all are compared with.
        chosen: the arm to highlight; None for none of them.
    """
    measured = set(table["measure"])
    memorizations, utilities = ([name for name in names if name in measured] for names in (MEMORIZATIONS, UTILITIES))
    if not (memorizations and utilities):
        st.info("No arm can be compared yet.", icon=":material/hourglass:")
        return
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        memorized, useful = (
            choose_listed(
                label,
                names,
                parameter=parameter,
                key=f"mitigation-{parameter}",
                width=250,
                format_func=NAMES.__getitem__,
            )
            for label, names, parameter in (
                ("Memorization", memorizations, "memorization"),
                ("Utility", utilities, "utility"),
            )
        )
    points, titles = points_of(table, reference, memorized, useful), (NAMES[memorized], NAMES[useful])
    if points.empty:
        st.info("No arm has both measures: choose others.", icon=":material/info:")
        return
    best = r.front(points, MEMORIZATION, UTILITY)
    st.plotly_chart(
        tradeoff_figure(points, titles=titles, front=best, none=reference, chosen=chosen),
        key=f"mitigation-chart-{key}",
        config={"displayModeBar": False},
        alt=f"{titles[1]} against {titles[0]} of {len(points)} arms. "
        f"{'; '.join(', '.join(lines) for lines in points.loc[points[s.ARM].isin([reference, chosen]), TEXT])}. "
        f"Pareto-optimal, from the least memorized: {', '.join(best)}.",
    )
    st.caption(
        f"Each dot is the mean of an arm. Its bars are the 95 % interval of its difference to {reference}, over {over}."
        " The line joins the Pareto-optimal arms."
    )


def points_of(table: pd.DataFrame, reference: str, memorized: str, useful: str) -> pd.DataFrame:
    """Return a row an arm as `tradeoff_figure` takes them: means, with the intervals of the differences around them."""
    found = []
    for arm, own in _against(table, reference).groupby(s.ARM, sort=False):
        rows = own.set_index("measure")
        if not {memorized, useful} <= set(rows.index):
            continue
        point: dict[str, Any] = {s.ARM: arm, TEXT: [str(arm)]}
        for part, measure in ((MEMORIZATION, memorized), (UTILITY, useful)):
            value, difference, low, high = (float(rows[end][measure]) for end in ENDS)
            point |= {part: value, f"{part}_low": value - difference + low, f"{part}_high": value - difference + high}
            beside = f"; against {reference} {_interval(difference, low, high)}" if arm != reference else ""
            point[TEXT].append(f"{NAMES[measure]} {value:.3f}{beside}")
        found.append(point)
    return pd.DataFrame(found)


def _against(table: pd.DataFrame, reference: str) -> pd.DataFrame:
    return table[table["reference"] == reference] if "reference" in table else table


def _interval(mean: float, low: float, high: float, *, written: str = "+z.3f", unit: str = "") -> str:
    ends = f" [{low:{written}}, {high:{written}}]" if pd.notna(low) else ""
    return f"{mean:{written}}{unit}{ends}".replace("-", "−")


def draw_table(table: pd.DataFrame, *, over: str, reference: str = NONE, chosen: str | None = None) -> None:
    """Draw every arm against the reference arm in a table, the chosen one first."""
    rows = _against(table, reference)
    rows = rows[rows[s.ARM] != reference]
    st.subheader("Each setting against the baseline", anchor=False)
    if rows.empty:
        st.caption(f"No arm and {reference} have a seed in common yet.")
        return
    table, texts = table_of(rows, chosen)
    styled = table.style.apply(lambda column: [CHOSEN_SHADE if arm == chosen else "" for arm in table[s.ARM]])
    for row, shown in enumerate(texts.to_dict("records")):  # texts are shown, and columns sort by their numbers
        for head, text in shown.items():
            styled = styled.format(text.replace("{", "{{").replace("}", "}}"), subset=([row], [head]))
    configured: dict[str, Any] = {
        head: st.column_config.NumberColumn(head, help=told) for head, _, told in COLUMNS.values() if head in table
    }
    configured[s.ARM] = st.column_config.TextColumn(s.ARM, pinned=True, help=meaning(GLOSSARY_ARM))
    configured["n"] = st.column_config.NumberColumn("n", help=f"How many {over} the arm and {reference} share.")
    alt = f"Differences of {len(table)} arms to {reference}, with 95 % intervals over {over}"
    st.dataframe(styled, hide_index=True, column_config=configured, key="mitigation-differences", alt=alt)
    st.caption(
        f"Each cell is the mean paired difference to {reference} with its 95 % interval over {over}; * differs from 0 "
        f"after Holm's correction for all {len(table)} arms."
    )


def table_of(rows: pd.DataFrame, chosen: str | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the numbers that the table sorts by, and the texts that it shows for them.

    Args:
        rows: as of `differences`, without those of the reference.
        chosen: the arm that comes first; None for none of them.

    Returns:
        One row an arm: arm, n and each measure by its head; and the same of texts, of the measures alone. Measures
        that no arm has are left out, and the samples if all arms saw as many.
    """
    numbers, texts = [], []
    for arm, own in sorted(rows.groupby(s.ARM, sort=False), key=lambda group: group[0] != chosen):
        by_measure = {str(row["measure"]): row for row in own.to_dict("records")}
        cells = {head: _cell(by_measure.get(name), kind) for name, (head, kind, _) in COLUMNS.items()}
        numbers.append({s.ARM: arm, "n": int(own["n"].max())} | {head: value for head, (value, _) in cells.items()})
        texts.append({head: text for head, (_, text) in cells.items()})
    table, shown = pd.DataFrame(numbers), pd.DataFrame(texts)
    samples = COLUMNS[s.SAMPLES_SEEN][0]
    kept = [head for head in shown if not set(shown[head]) <= {NOTHING, "×1.00" if head == samples else NOTHING}]
    return table[[s.ARM, "n", *kept]], shown[kept]


def _cell(row: Mapping[Any, Any] | None, kind: str) -> tuple[float, str]:
    """Return the number of a cell and its text, with * if it differs from 0 after Holm's correction."""
    if row is None or pd.isna(row["difference"]):
        return math.nan, NOTHING
    base, ends = row["value"] - row["difference"], [row["difference"], row["low"], row["high"]]
    star = " *" if row["p_of_all"] < r.LEVEL else ""
    if kind == VALUE:
        return row["value"], f"{row['value']:,.0f}"
    if kind == TIMES:
        return (row["value"] / base, f"×{row['value'] / base:.2f}") if base else (math.nan, NOTHING)
    if kind == PERCENT and base > 0:
        ends = [100 * end / base for end in ends]
        return ends[0], f"{_interval(*ends, written='+z.1f', unit=' %')}{star}"
    return ends[0], f"{_interval(*ends)}{star}"


def draw_references() -> None:
    """Draw a reference study, one of those that come with the code."""
    with shown_errors():
        named = {study.name: study for study in r.reference_studies(tuple(PLANS))}
        if not named:
            st.info("There is no study of mitigations yet: start one.", icon=":material/science:")
            return
        st.info(
            "No study of your own yet. This is a reference study; start your own under “Start a study”.",
            icon=":material/menu_book:",
        )
        study = named[choose_listed("Study", list(named), parameter=PARAMETER, key="mitigations-reference", width=400)]
        show_text(study.title)
        draw_chart(study.rows, over=study.over, key=study.name, reference=study.reference)
        draw_table(study.rows, over=study.over, reference=study.reference)


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
    st.caption(
        f"Candidates by the change of their clipmem{' in the first split' if study.seeds_per_split else ''}. The "
        "largest changes are partly chance."
    )
    page, pages = read_page(len(changed), PAGE_SIZE)
    # A pair opens in the newest audit of the same pairs, if there is one.
    same = next((audit for audit in finished_audits() if same_data_set(one, audit)), None)
    sides = Sides(one, other, names=("without", "with"), in_other="with it", links={"Open pair": same} if same else {})
    records = changed.iloc[(page - 1) * PAGE_SIZE : page * PAGE_SIZE].to_dict("records")
    draw_change_cards(sides, c.CLIPMEM, records, key="mitigation")
    draw_pages(page, pages, key="mitigation-pages")
