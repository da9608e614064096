"""A study of mitigations → a table of every arm against `none`: paired differences, their price, who meets the aim."""

import functools
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from pandas.io.formats.style import Styler

from clipmem_core import columns as c
from clipmem_core.dashboard.mitigations.points import NAMES, above_0, compared_of, reached_of, rows_of, with_interval
from clipmem_core.scores.uncertainty import MIN_REPLICATES
from clipmem_core.studies.aim import AIM, JUDGED, all_differences
from clipmem_core.studies.compare import CLIPMEM_NET
from clipmem_core.studies.mitigations import NONE
from clipmem_core.studies.store import (
    ARM,
    CLIPMEM_CANDIDATE,
    MEMBERSHIP_AUROC,
    PEAK_MB,
    RETRIEVAL,
    SAMPLES_SEEN,
    SECONDS,
    StudyFolder,
)

PERCENT, ABSOLUTE, TIMES, VALUE = "percent", "absolute", "times", "value"
MEETS, SEEDS = "aim", "seeds"
REACHED = "✓"
CHOSEN_SHADE = "background-color: rgba(106,111,216,0.18)"


@dataclass(frozen=True)
class Column:
    """A measure as the table shows it: its head, how a difference is written, and what the number is."""

    head: str
    kind: str
    help: str


COLUMNS = {
    CLIPMEM_CANDIDATE: Column("clipmem", PERCENT, "Mean clipmem of the candidates; a % is of that of none."),
    CLIPMEM_NET: Column("beyond external", ABSOLUTE, "The same minus that of external pairs, which nobody memorized."),
    MEMBERSHIP_AUROC: Column("AUROC", ABSOLUTE, "How well alignment tells who was trained on: no scale moves it."),
    c.CLIPMEM_IMAGE: Column("image part", ABSOLUTE, "The image encoder's part of clipmem."),
    c.CLIPMEM_TEXT: Column("text part", ABSOLUTE, "The text encoder's part of clipmem."),
    RETRIEVAL: Column("retrieval", PERCENT, "The mean of six recalls on external pairs; a % is of that of none."),
    "linear_probe": Column("linear probe", ABSOLUTE, "Accuracy of a linear probe."),
    "zero_shot": Column("zero-shot", ABSOLUTE, "Accuracy without any training on labels."),
    SAMPLES_SEEN: Column("samples", TIMES, "Pairs seen in training, times those of none."),
    SECONDS: Column("seconds", TIMES, "Seconds of training, times those of none: on a busy machine they say little."),
    PEAK_MB: Column("peak MB", VALUE, "The most memory that a member took, in megabytes."),
}


def draw_differences(study: StudyFolder, chosen: str | None) -> None:
    """Draw every arm against `none`, the chosen one first, then those that reach the aim; and the table as a file.

    Args:
        study: of mitigations.
        chosen: an arm that has rows, or None.

    Raises:
        InputError: a file of the study is broken or lacks what is drawn.
    """
    compared = compared_of(study)
    rows = compared[compared[ARM] != NONE]
    st.subheader("Every arm against none", anchor=False)
    if rows.empty:
        st.caption("No arm and none have a seed in common yet.")
        return
    shares = above_0(study)
    table, texts = table_of(rows, chosen, reached=reached_of(study), shares=shares)
    st.dataframe(
        _styled(table, texts, chosen),
        hide_index=True,
        column_config=_configured(table),
        key="mitigation-differences",
        alt=f"Differences of {len(table)} arms to none in memorization, utility and price, with 95 % intervals over "
        f"{c.ONE_SPLIT}",
    )
    told = [_none_in_words(compared), _read(), _reached(table), detectable(rows, shares=shares)]
    st.caption(" ".join(filter(None, told)))
    st.download_button(
        "Download as CSV",
        data=functools.partial(as_csv, study),
        file_name=f"{study.name}-differences.csv",
        mime="text/csv",
        key="mitigation-csv",
        on_click="ignore",
        icon=":material/download:",
    )


def table_of(
    rows: pd.DataFrame, chosen: str | None, *, reached: Collection[str], shares: Collection[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the numbers that the table sorts by, and the texts that it shows for them.

    Args:
        rows: as `differences`, without those of `none`.
        chosen: an arm, which comes first; None for none of them.
        reached: the arms that reach the aim, which come next.
        shares: of the measures that are told in percent of none, those of which none has a mean above 0.

    Returns:
        One row an arm: arm, aim, seeds and each measure by its head; and the same of texts, of the measures alone.
    """
    numbers, texts = [], []
    for arm, own in rows.groupby(ARM, sort=False):
        found = {str(row["measure"]): row for row in own.to_dict("records")}
        kinds = {name: _kind(name, shares) for name in COLUMNS}
        written = {name: _cell(found.get(name), kind) for name, kind in kinds.items()}
        row = {ARM: arm, MEETS: REACHED if arm in reached else "", SEEDS: int(own["n"].max())}
        numbers.append(row | {COLUMNS[name].head: number for name, (number, _) in written.items()})
        texts.append({COLUMNS[name].head: text for name, (_, text) in written.items()})
    table, shown = pd.DataFrame(numbers), pd.DataFrame(texts)
    kept = [name for name in table if name not in shown or not _says_nothing(str(name), shown[name])]
    order = np.lexsort([table[MEETS] != REACHED, table[ARM] != chosen])
    table = table[kept].iloc[order].reset_index(drop=True)
    return table, shown[[name for name in kept if name in shown]].iloc[order].reset_index(drop=True)


def _kind(name: str, shares: Collection[str]) -> str:
    kind = COLUMNS[name].kind
    return ABSOLUTE if kind == PERCENT and name not in shares else kind


def _says_nothing(head: str, texts: pd.Series) -> bool:
    """Tell whether no arm has the measure, or all saw as much as `none`."""
    return set(texts) <= ({"–", "×1.00"} if head == COLUMNS[SAMPLES_SEEN].head else {"–"})


def _cell(row: Mapping[Hashable, Any] | None, kind: str) -> tuple[float, str]:
    """Return the number of a cell and what is written there."""
    if row is None or pd.isna(row["difference"]):
        return float("nan"), "–"
    none = row["value"] - row["difference"]
    if kind == VALUE:
        return row["value"], f"{row['value']:,.0f}"
    if kind == TIMES:
        return (row["value"] / none, f"×{row['value'] / none:.2f}") if none else (float("nan"), "–")
    ends = [row["difference"], row["low"], row["high"]]
    if kind == ABSOLUTE:
        return ends[0], with_interval(*ends, sign="+")
    if not none:
        return float("nan"), "–"
    ends = [100 * end / abs(none) for end in ends]
    return ends[0], with_interval(*ends, sign="+", digits=1, unit=" %")


def _styled(table: pd.DataFrame, texts: pd.DataFrame, chosen: str | None) -> Styler:
    """Write the texts over the numbers, by which the columns sort, and shade the chosen arm."""
    styled = table.style
    for head in texts:
        for row, text in enumerate(texts[head]):
            styled = styled.format(_writes(text), subset=([row], [head]))
    shades = [CHOSEN_SHADE if arm == chosen else "" for arm in table[ARM]]
    return styled.apply(lambda values: shades, axis="index")


def _writes(text: str) -> Callable[[Any], str]:
    return lambda number: text


def _configured(table: pd.DataFrame) -> dict[str, Any]:
    heads = {column.head: column.help for column in COLUMNS.values()}
    configured: dict[str, Any] = {
        head: st.column_config.NumberColumn(head, help=text) for head, text in heads.items() if head in table
    }
    configured[ARM] = st.column_config.TextColumn(ARM, pinned=True)
    configured[MEETS] = st.column_config.TextColumn(MEETS, help=f"{AIM[0].upper()}{AIM[1:]}.")
    return configured


def _none_in_words(compared: pd.DataFrame) -> str:
    """Say what differences are taken to."""
    own = compared[compared[ARM] == NONE].set_index("measure")["value"]
    told = [f"{NAMES[name]} {own[name]:.3f}" for name in NAMES if name in own]
    return f"none has {', '.join(told)}.".replace("-", "−") if told else ""


def _read() -> str:
    return f"Each cell is the mean paired difference to none, with its 95 % interval over {c.ONE_SPLIT} that both have."


def _reached(table: pd.DataFrame) -> str:
    reached = int((table[MEETS] == REACHED).sum())
    few = "" if (table[SEEDS] >= MIN_REPLICATES).all() else f"; arms with fewer than {MIN_REPLICATES} seeds cannot"
    counted = "No arm reaches" if not reached else f"{reached} arm{'s reach' if reached > 1 else ' reaches'}"
    return f"{counted} the aim ({AIM}){few}."


def detectable(rows: pd.DataFrame, *, shares: Collection[str]) -> str:
    """Say how small a difference the study could have seen, of the arm in the middle.

    Args:
        rows: as `differences`, without those of `none`.
        shares: as of `table_of`.
    """
    told = []
    for name in JUDGED:
        own = rows[(rows["measure"] == name) & rows["detectable"].notna()]
        none = (own["value"] - own["difference"]).abs()
        percent = _kind(name, shares) == PERCENT
        middle = (100 * own["detectable"] / none if percent else own["detectable"]).median()
        if len(own):
            told.append(f"{f'{middle:.2g} %' if percent else f'{middle:.3f}'} in {COLUMNS[name].head}")
    return f"A study like this finds a true change four times of five from about {', '.join(told)} on." if told else ""


def as_csv(study: StudyFolder) -> bytes:
    """Return every arm and measure with its paired differences, intervals and smallest detectable differences."""
    compared = all_differences(rows_of(study), NONE)
    settings = study.settings
    found = compared.assign(setting=[settings.get(arm, "") for arm in compared[ARM]])
    return found.to_csv(index=False).encode()
