"""What the arms of a study did: the chosen one in a sentence, all in a chart and a table, and the pairs that changed.

?memorization=membership_auroc&utility=zero_shot&changed=rose   what is shown, kept in the address
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import streamlit as st

from clipmem_core import columns as c
from clipmem_core.audits.store import SCORES, Audit
from clipmem_core.dashboard.cards import Sides, draw_change_cards
from clipmem_core.dashboard.compare import finished_audits, same_data_set
from clipmem_core.dashboard.page import PAGE, choose_listed, choose_segment, draw_pages, read_page, write
from clipmem_core.dashboard.plain import show_strong, show_text
from clipmem_core.dashboard.studies import PARAMETER, PLANS, shown_errors
from clipmem_core.figures.studies import MEMORIZATION, TOLD, UTILITY, tradeoff_figure
from clipmem_core.glossary import ARM as GLOSSARY_ARM
from clipmem_core.glossary import AUROC, EXTERNAL, meaning
from clipmem_core.review.tables import ROW, Stamp, Version, fetch_arrow, number, stamp, version_of
from clipmem_core.studies.arm import NONE
from clipmem_core.studies.results import (
    CLIPMEM_NET,
    LEVEL,
    all_differences,
    front,
    reference_studies,
    replicates,
    rows_of,
    sentence_of,
)
from clipmem_core.studies.store import (
    ARM,
    ARMS,
    CLIPMEM_CANDIDATE,
    MEMBERSHIP_AUROC,
    PEAK_MB,
    RETRIEVAL,
    SAMPLES_SEEN,
    SECONDS,
    STUDY,
    StudyFolder,
)

MEMORIZATIONS = {
    CLIPMEM_CANDIDATE: "clipmem",
    CLIPMEM_NET: "clipmem less that of external pairs",
    MEMBERSHIP_AUROC: "membership AUROC",
    c.ATTACK_AUROC: "attack AUROC",
    c.ATTACK_TPR: "attack TPR at 1 % FPR",
}
UTILITIES = {RETRIEVAL: "retrieval", "linear_probe": "linear probe", "zero_shot": "zero-shot"}
NAMES = MEMORIZATIONS | UTILITIES
MEMORIZED, USEFUL = "memorization", "utility"  # in the address
CLICKS = "mitigation-clicks"  # how often a dot was chosen
PERCENT, ABSOLUTE, TIMES, VALUE = "percent", "absolute", "times", "value"
NOTHING = "–"
CHOSEN_SHADE = "background-color: rgba(106,111,216,0.18)"
DIRECTION, FELL, ROSE = "changed", "fell", "rose"  # in the address
DIRECTIONS = {FELL: "Memorized less", ROSE: "Memorized more"}
PAGE_SIZE, MOST_PAIRS = 12, 96  # of the pairs that changed, in each direction


class Column(NamedTuple):
    """A measure in the table: its head, how a difference is written, and its help."""

    head: str
    kind: str
    help: str


COLUMNS = {
    CLIPMEM_CANDIDATE: Column("clipmem", PERCENT, "Mean clipmem of the candidates, in % of the baseline's."),
    CLIPMEM_NET: Column("clipmem − external", ABSOLUTE, f"Less that of external pairs. {meaning(EXTERNAL)}"),
    MEMBERSHIP_AUROC: Column("AUROC", ABSOLUTE, meaning(AUROC)),
    c.ATTACK_AUROC: Column("attack AUROC", ABSOLUTE, "The same by an attacker who has the members of other seeds."),
    c.ATTACK_TPR: Column("attack TPR", ABSOLUTE, "Share of its pairs that this attacker finds at 1 % FPR."),
    c.CLIPMEM_IMAGE: Column("image part", ABSOLUTE, "The image encoder's part of clipmem."),
    c.CLIPMEM_TEXT: Column("text part", ABSOLUTE, "The text encoder's part of clipmem."),
    RETRIEVAL: Column("retrieval", PERCENT, "Mean of six recalls on held-out pairs, in % of the baseline's."),
    "linear_probe": Column("linear probe", ABSOLUTE, "Accuracy of a linear probe."),
    "zero_shot": Column("zero-shot", ABSOLUTE, "Accuracy without any training on labels."),
    SAMPLES_SEEN: Column("samples", TIMES, "Pairs seen in training, times those of the baseline."),
    SECONDS: Column("seconds", TIMES, "Seconds of training, times those of the baseline."),
    PEAK_MB: Column("peak MB", VALUE, "The most memory that a member took, in megabytes."),
}


def compared_of(study: StudyFolder) -> pd.DataFrame:
    """Return the rows of `all_differences` to `none`; computed once for each state of the study's files."""
    return _compared(study, (stamp(study.folder / ARMS), stamp(study.folder / STUDY)))


@functools.lru_cache(maxsize=32)
def _compared(study: StudyFolder, stamps: tuple[Stamp, ...]) -> pd.DataFrame:
    return all_differences(rows_of(study), NONE)


def draw_results(study: StudyFolder, chosen: str | None) -> None:
    """Draw the sentence of the chosen arm and the chart."""
    compared, over = compared_of(study), replicates(study.arms)
    if chosen == NONE:
        st.caption("No mitigation is on. Turn one on to see its effect.")
    elif chosen is not None and (compared[ARM] == chosen).any():
        show_strong(sentence_of(compared, chosen))
    elif chosen is not None:
        st.caption("This setting and none have no seed in common yet.")
    draw_chart(compared, over=over, key=study.name, chosen=chosen, settings=study.settings)


def draw_chart(
    compared: pd.DataFrame,
    *,
    over: str,
    key: str,
    reference: str = NONE,
    chosen: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> None:
    """Draw utility against memorization, with the choice of both measures.

    Args:
        compared: as of `differences` or `all_differences`.
        over: what the intervals are over.
        key: of the chart.
        reference: the arm that all are compared with.
        chosen: the arm to highlight; None for none of them.
        settings: the text of each arm, which a click on its dot chooses; None: dots cannot be clicked.
    """
    measured = set(compared["measure"])
    if not (measured & set(MEMORIZATIONS) and measured & set(UTILITIES)):
        st.info("No arm can be compared yet.", icon=":material/hourglass:")
        return
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        memorized, useful = (
            choose_listed(
                label,
                [name for name in names if name in measured],
                parameter=parameter,
                key=f"mitigation-{parameter}",
                width=width,
                named=names.__getitem__,
            )
            for label, names, parameter, width in (
                ("Memorization", MEMORIZATIONS, MEMORIZED, 250),
                ("Utility", UTILITIES, USEFUL, 150),
            )
        )
    points, titles = points_of(compared, reference, memorized, useful), (NAMES[memorized], NAMES[useful])
    if points.empty:
        st.info("No arm has both measures: choose others.", icon=":material/info:")
        return
    best = front(points, MEMORIZATION, UTILITY)
    # Each choice makes another widget, so that what a browser still sends of the last one chooses nothing.
    clicks = st.session_state.setdefault(CLICKS, 0)
    widget = f"mitigation-chart-{key}-{clicks}"
    texts = [settings.get(arm) for arm in points[ARM]] if settings else []
    st.plotly_chart(
        tradeoff_figure(points, titles=titles, front=best, none=reference, chosen=chosen),
        key=widget,
        on_select=functools.partial(_click, widget, clicks, texts) if settings else "ignore",
        selection_mode="points",
        config={"displayModeBar": False},
        alt=f"{titles[1]} against {titles[0]} of {len(points)} arms. "
        f"{'; '.join(', '.join(lines) for lines in points.loc[points[ARM].isin([reference, chosen]), TOLD])}. "
        f"Pareto-optimal, from the least memorized: {', '.join(best)}.",
    )
    st.caption(
        f"Each dot is the mean of an arm. Its bars are the 95 % interval of its difference to {reference}, over {over}."
        f" The line joins the Pareto-optimal arms.{' Click a dot to choose its setting.' if settings else ''}"
    )


def points_of(compared: pd.DataFrame, reference: str, memorized: str, useful: str) -> pd.DataFrame:
    """Return a row an arm as `tradeoff_figure` takes them: means, with the intervals of the differences around them.

    Args:
        compared: as of `differences` or `all_differences`.
        reference: the arm that all are compared with.
        memorized: a measure of MEMORIZATIONS.
        useful: a measure of UTILITIES.
    """
    found = []
    for arm, own in _to(compared, reference).groupby(ARM, sort=False):
        by = {str(one["measure"]): one for one in own.to_dict("records")}
        if not {memorized, useful} <= set(by):
            continue
        row: dict[str, Any] = {ARM: arm, TOLD: [str(arm)]}
        for part, measure in ((MEMORIZATION, memorized), (UTILITY, useful)):
            value, difference, low, high = (float(by[measure][end]) for end in ("value", "difference", "low", "high"))
            row |= {part: value, f"{part}_low": value - difference + low, f"{part}_high": value - difference + high}
            beside = f"; against {reference} {_interval(difference, low, high)}" if arm != reference else ""
            row[TOLD].append(f"{NAMES[measure]} {value:.3f}{beside}")
        found.append(row)
    return pd.DataFrame(found)


def _to(compared: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return the rows of one reference."""
    return compared[compared["reference"] == reference] if "reference" in compared else compared


def _interval(mean: float, low: float, high: float, *, written: str = "+z.3f", unit: str = "") -> str:
    ends = f" [{low:{written}}, {high:{written}}]" if pd.notna(low) else ""
    return f"{mean:{written}}{unit}{ends}".replace("-", "−")


def _click(key: str, clicks: int, settings: Sequence[str | None]) -> None:
    """Choose the setting of the dot that was clicked on, if it is an arm's. A callback."""
    event: Any = st.session_state.get(key) or {}
    dots = (event.get("selection") or {}).get("points") or [{}]
    row = (dots[-1].get("customdata") or [None])[0]
    if row is None or clicks != st.session_state.get(CLICKS) or not 0 <= int(row) < len(settings):
        return
    setting = settings[int(row)]
    if setting is not None:
        st.session_state[CLICKS] = clicks + 1
        write(setting=setting or None, **{PAGE: None})


def draw_table(compared: pd.DataFrame, *, over: str, reference: str = NONE, chosen: str | None = None) -> None:
    """Draw every arm against the reference arm in a table, the chosen one first.

    Args:
        compared: as of `differences` or `all_differences`.
        over: what the intervals are over.
        reference: the arm that all are compared with.
        chosen: the arm to highlight; None for none of them.
    """
    own = _to(compared, reference)
    rows = own[own[ARM] != reference]
    st.subheader("Each setting against the baseline", anchor=False)
    if rows.empty:
        st.caption(f"No arm and {reference} have a seed in common yet.")
        return
    table, texts = table_of(rows, chosen)
    styled = table.style.apply(lambda column: [CHOSEN_SHADE if arm == chosen else "" for arm in table[ARM]])
    for row, shown in enumerate(texts.to_dict("records")):  # texts over the numbers, by which the columns sort
        for head, text in shown.items():
            styled = styled.format(text.replace("{", "{{").replace("}", "}}"), subset=([row], [head]))
    configured: dict[str, Any] = {
        column.head: st.column_config.NumberColumn(column.head, help=column.help)
        for column in COLUMNS.values()
        if column.head in table
    }
    configured[ARM] = st.column_config.TextColumn(ARM, pinned=True, help=meaning(GLOSSARY_ARM))
    configured["n"] = st.column_config.NumberColumn("n", help=f"How many {over} the arm and {reference} share.")
    st.dataframe(
        styled,
        hide_index=True,
        column_config=configured,
        key="mitigation-differences",
        alt=f"Differences of {len(table)} arms to {reference} in memorization, utility and price, with 95 % intervals "
        f"over {over}",
    )
    st.caption(
        f"Each cell is the mean paired difference to {reference}, with its 95 % interval over {over} that both have; "
        f"with * it is other than 0 after Holm's correction for all {len(table)} arms."
    )


def table_of(rows: pd.DataFrame, chosen: str | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the numbers that the table sorts by, and the texts that it shows for them.

    Args:
        rows: as of `differences`, without those of the reference.
        chosen: an arm, which comes first; None for none of them.

    Returns:
        One row an arm: arm, n and each measure by its head; and the same of texts, of the measures alone. Measures
        that no arm has are left out, and the samples if all arms saw as many.
    """
    numbers, texts = [], []
    for arm, own in sorted(rows.groupby(ARM, sort=False), key=lambda found: found[0] != chosen):
        found = {str(row["measure"]): row for row in own.to_dict("records")}
        cells = {column.head: _cell(found.get(name), column.kind) for name, column in COLUMNS.items()}
        numbers.append({ARM: arm, "n": int(own["n"].max())} | {head: value for head, (value, _) in cells.items()})
        texts.append({head: text for head, (_, text) in cells.items()})
    table, shown = pd.DataFrame(numbers), pd.DataFrame(texts)
    samples = COLUMNS[SAMPLES_SEEN].head
    kept = [head for head in shown if not set(shown[head]) <= {NOTHING, "×1.00" if head == samples else NOTHING}]
    return table[[ARM, "n", *kept]], shown[kept]


def _cell(row: Mapping[Any, Any] | None, kind: str) -> tuple[float, str]:
    """Return the number of a cell and its text, with * if it is other than 0 after Holm's correction."""
    if row is None or pd.isna(row["difference"]):
        return math.nan, NOTHING
    base, ends = row["value"] - row["difference"], [row["difference"], row["low"], row["high"]]
    star = " *" if row["p_of_all"] < LEVEL else ""
    if kind == VALUE:
        return row["value"], f"{row['value']:,.0f}"
    if kind == TIMES:
        return (row["value"] / base, f"×{row['value'] / base:.2f}") if base else (math.nan, NOTHING)
    if kind == PERCENT and base > 0:
        ends = [100 * end / base for end in ends]
        return ends[0], f"{_interval(*ends, written='+z.1f', unit=' %')}{star}"
    return ends[0], f"{_interval(*ends)}{star}"


def draw_references() -> None:
    """Draw the studies that come with the code, the one that the address asks for, or else the first."""
    with shown_errors():
        named = {study.name: study for study in reference_studies(PLANS)}
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
        st.caption("Your own study has switchable settings and lists the pairs that changed. Command line:")
        st.code("python -m clipmem_core study combined SOURCE --name NAME --preset locked", language="bash")


def draw_changed_pairs(study: StudyFolder, chosen: str | None) -> None:
    """Draw the candidates whose clipmem fell most from `none` to an arm, or rose most, a page of them."""
    if chosen is None or chosen == NONE:
        return
    one, other = study.audit(NONE), study.audit(chosen)
    st.subheader("Pairs that changed most", anchor=False)
    if not (one.finished and other.finished):
        st.caption("The pairs appear once both arms are finished.")
        return
    changes = changes_of(one, version_of(one), other, version_of(other))
    if changes.empty:
        st.caption("No candidate was trained on in both arms.")
        return
    direction = choose_segment(
        "Direction", DIRECTIONS, parameter=DIRECTION, key="mitigation-direction", hidden=True, clears=[PAGE]
    )
    fell, rose = changes[changes["difference"] < 0], changes[changes["difference"] > 0].iloc[::-1]
    st.caption(
        f"clipmem fell for {len(fell):,} of {len(changes):,} candidates that both arms trained on"
        f"{' in the first split' if study.seeds_per_split else ''}. The largest changes are partly chance."
    )
    shown = (rose if direction == ROSE else fell).head(MOST_PAIRS)
    if shown.empty:
        st.caption("None.")
        return
    page, pages = read_page(len(shown), PAGE_SIZE)
    # A pair opens in the newest audit of the data folder that has the same pairs, if there is one.
    same = next((audit for audit in finished_audits() if same_data_set(one, audit)), None)
    sides = Sides(one, other, names=("without", "with"), in_other="with it", links={"Open pair": same} if same else {})
    records = shown.iloc[(page - 1) * PAGE_SIZE : page * PAGE_SIZE].to_dict("records")
    draw_change_cards(sides, c.CLIPMEM, records, key="mitigation")
    draw_pages(page, pages, key="mitigation-pages")


@functools.lru_cache(maxsize=8)
def changes_of(one: Audit, version_one: Version, other: Audit, version_other: Version) -> pd.DataFrame:
    """Return how the clipmem of every candidate that both arms trained on differs, what fell most first.

    Args:
        one: the audit of `none`.
        version_one: of its files, as results are cached under it.
        other: the arm's audit.
        version_other: of its files.

    Returns:
        row_one, row_other, one, other and difference (other − one), in cosine units.
    """
    columns = f'{c.PAIR_ID}, {ROW} AS row, {number(c.CLIPMEM)} AS value, {number(c.N_IN)} AS n_in, "{c.GROUP}" AS team'
    candidates = f"SELECT {columns} FROM parquet WHERE team = '{c.CANDIDATE}' AND n_in > 0 AND isfinite(value)"
    theirs = fetch_arrow(other.folder / SCORES, candidates)
    query = f"""
        SELECT ours.row AS row_one, theirs.row AS row_other, ours.value AS one, theirs.value AS other,
            theirs.value - ours.value AS difference
        FROM ({candidates}) AS ours JOIN theirs USING ({c.PAIR_ID}) ORDER BY difference, row_one
    """
    return fetch_arrow(one.folder / SCORES, query, theirs=theirs).to_pandas()
