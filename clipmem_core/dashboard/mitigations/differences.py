"""The arms of a study beside `none`: what the chosen one did in a sentence, and all of them in a table."""

import functools
import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import streamlit as st
from pandas.io.formats.style import Styler

from clipmem_core import columns as c
from clipmem_core.dashboard.mitigations.study_data import NAMES, compared_of, found_once, rows_of, with_interval
from clipmem_core.dashboard.plain import show_strong, show_text
from clipmem_core.glossary import ARM as GLOSSARY_ARM
from clipmem_core.glossary import AUROC, EXTERNAL, meaning
from clipmem_core.scores.seeds import MIN_REPLICATES
from clipmem_core.studies.arm import NONE
from clipmem_core.studies.effects import (
    AIM,
    CLIPMEM_NET,
    JUDGED,
    LESS,
    LOSS,
    all_differences,
    base_of,
    counted,
    difference_of,
    judged_against,
    leaving_out,
    outcome_of,
    percent,
    replicates,
)
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
SIGNED, UNBROKEN = "+z.3f", "\u00a0%"
MEETS, SEEDS = "aim", "n"
REACHED, NOTHING = "✓", "–"
HOLDS = 0.05  # Holm's p
CHOSEN_SHADE = "background-color: rgba(106,111,216,0.18)"
MEASURED_ONCE = (
    "none reads tokens that it never trained on as the random vectors they began as. On OpenClipart (611 queries of "
    "one split, preset tiny, members of half of the data) 36 to 38 % of unseen captions have one, and leaving out only "
    "those changes retrieval by +0.007 ± 0.009. Against that, forgetting tokens of fewer than 2 pairs costs 2.4 % of "
    "retrieval, of fewer than 3 pairs 6.6 %, and 30 % on captions with a word of one or two trained pairs; members of "
    "most of the data lose 0 to 1 %."
)
KEPT = (
    "checkpoint.pt is the same as without forgetting: read with every token, it shows all that was memorized (of these "
    "members a membership AUROC of 0.82). Forgetting mitigates only once the rows of these tokens are deleted from "
    "the token embedding: python -m clipmem_core forget AUDIT MEMBER FILE writes such a checkpoint."
)


class Column(NamedTuple):
    """A measure as the table shows it: its head, how a difference is written, and what the number is."""

    head: str
    kind: str
    help: str


COLUMNS = {
    CLIPMEM_CANDIDATE: Column("clipmem", PERCENT, "Mean clipmem of the candidates; a % is of that of none."),
    CLIPMEM_NET: Column("clipmem − external", ABSOLUTE, f"Less that of external pairs. {meaning(EXTERNAL)}"),
    MEMBERSHIP_AUROC: Column("AUROC", ABSOLUTE, meaning(AUROC)),
    c.ATTACK_AUROC: Column("attack AUROC", ABSOLUTE, "The same by an attacker who has the members of other seeds."),
    c.ATTACK_TPR: Column("attack TPR", ABSOLUTE, "Share of its pairs that this attacker finds at 1 % FPR."),
    c.CLIPMEM_IMAGE: Column("image part", ABSOLUTE, "The image encoder's part of clipmem."),
    c.CLIPMEM_TEXT: Column("text part", ABSOLUTE, "The text encoder's part of clipmem."),
    RETRIEVAL: Column(
        "retrieval", PERCENT, "The mean of six recalls on pairs that nobody trains on; a % is of that of none."
    ),
    "linear_probe": Column("linear probe", ABSOLUTE, "Accuracy of a linear probe."),
    "zero_shot": Column("zero-shot", ABSOLUTE, "Accuracy without any training on labels."),
    SAMPLES_SEEN: Column("samples", TIMES, "Pairs seen in training, times those of none."),
    SECONDS: Column("seconds", TIMES, "Seconds of training, times those of none: on a busy machine they say little."),
    PEAK_MB: Column("peak MB", VALUE, "The most memory that a member took, in megabytes."),
}


def draw_effect(arms: pd.DataFrame, arm: str, called: str) -> None:
    """Draw what an arm did, and whether it meets the aim.

    Args:
        arms: the rows of a study.
        arm: the chosen one.
        called: the text of its setting.
    """
    if arm == NONE:
        st.caption("Nothing is done against memorization: turn something on to see what it changes.")
        return
    for reference in dict.fromkeys([NONE, judged_against(arms, arm)]):
        if told := effect(arms, arm, reference):
            show_strong(f"{called.replace(' ', ', ').replace('=', ' ')} against {reference}: {told}")
        else:
            st.caption(f"This setting and {reference} have no seed in common yet.")
    if judged := verdict(arms, arm):
        show_text(judged)
    st.caption(f"In brackets: 95 % intervals over {replicates(arms)}.")
    if arm in leaving_out(arms):
        st.caption(f"{MEASURED_ONCE} {KEPT if 'text_forget_df' in called else ''}".strip())


def effect(arms: pd.DataFrame, arm: str, reference: str = NONE) -> str:
    """Return the paired differences of an arm to a reference in a sentence; empty where they share no seed."""
    found = {name: difference_of(arms, arm, reference, name) for name in (*JUDGED, SECONDS)}
    parts = []
    for name, difference in found.items():
        if difference is None:
            return ""
        of = base_of(arms, arm, name, reference)
        ends = difference.mean, difference.low, difference.high
        if name == SECONDS:
            times = 1 + difference.mean / of
            price = f"; ×{times:.2f} seconds" if math.isfinite(times) else ""
        elif COLUMNS[name].kind == PERCENT and not math.isnan(of):
            shares = [100 * end / of for end in ends]
            parts.append(f"{COLUMNS[name].head} {with_interval(*shares, written=_few_digits, unit=UNBROKEN)}")
        else:
            parts.append(f"{COLUMNS[name].head} {with_interval(*ends, written=SIGNED)}")
    return f"{', '.join(parts)}{price}.".replace("-", "−")


def _few_digits(percent: float) -> str:
    """Return a change in percent, of a small one a digit more.

    Example:
        >>> _few_digits(-17.6), _few_digits(0.84)
        ('-18', '+0.8')
    """
    return f"{percent:+z.0f}" if abs(percent) >= 9.5 else f"{percent:+z.1f}"


def verdict(arms: pd.DataFrame, arm: str) -> str:
    """Return whether an arm meets the aim, and what it misses; few seeds say nothing."""
    found, reference = outcome_of(arms, arm), judged_against(arms, arm)
    if found is None:
        return ""
    aim = "the aim" if reference == NONE else f"the aim against {reference}"
    if found.n < MIN_REPLICATES:
        few = f"{counted(found.n, arms)} {'are' if found.n > 1 else 'is'}"
        return f"{few} too few to say whether it meets {aim}: {AIM}."
    if math.isnan(found.less):
        return f"The seeds leave open whether mean clipmem of {reference} is above 0: there may be nothing to lower."
    if math.isnan(found.loss):
        return f"The seeds leave open whether retrieval of {reference} is above 0: there may be nothing to lose."
    falls = f"may fall by only {percent(found.less)}" if found.less > 0 else "may not fall"
    misses = {
        f"clipmem {falls}": found.less < LESS,
        "AUROC may not fall": not found.auroc < 0,
        f"retrieval may lose {percent(found.loss)}": found.loss > LOSS,
    }
    missed = ", ".join(told for told, misses_it in misses.items() if misses_it)
    if missed:
        return f"It misses {aim} ({AIM}): {missed}."
    of_all, many = outcome_of(arms, arm, of_all=True), arms[ARM].nunique() - 1
    if many < 2:
        return f"It meets {aim}: {AIM}."
    holds = "It still does" if of_all is not None and of_all.reached else "It does not"
    return f"It meets {aim}: {AIM}. {holds} with intervals that hold for all {many} arms at once."


def draw_differences(study: StudyFolder, chosen: str | None) -> None:
    """Draw every arm against `none`, the chosen one first, then those that reach the aim; and the table as a file.

    Args:
        study: of mitigations.
        chosen: an arm that has rows, or None.

    Raises:
        InputError: a file of the study is broken or lacks what is drawn.
    """
    compared = compared_of(study)
    if (compared[ARM] == NONE).all():
        st.subheader("Each setting against the baseline", anchor=False)
        st.caption("No arm and none have a seed in common yet.")
        return
    reached, shares = found_once(study, _judged)
    draw_table(compared, chosen=chosen, reached=reached, shares=shares, over=replicates(study.arms))
    st.download_button(
        "Download as CSV",
        data=functools.partial(as_csv, study),
        file_name=f"{study.name}-differences.csv",
        mime="text/csv",
        key="mitigation-csv",
        on_click="ignore",
        icon=":material/download:",
    )


def draw_table(
    compared: pd.DataFrame,
    *,
    over: str,
    reached: Collection[str],
    shares: Collection[str] = (CLIPMEM_CANDIDATE, RETRIEVAL),
    reference: str = NONE,
    chosen: str | None = None,
) -> None:
    """Draw every arm against the reference arm: the differences in a table, and below it how to read them.

    Args:
        compared: as `differences`.
        over: what the intervals are over.
        reached: the arms that reach the aim.
        shares: as of `table_of`.
        reference: the arm that all are compared with.
        chosen: an arm to stand out, or None.
    """
    rows = compared[compared[ARM] != reference]
    st.subheader("Each setting against the baseline", anchor=False)
    table, texts = table_of(rows, chosen, reached=reached, shares=shares)
    configured: dict[str, Any] = {
        column.head: st.column_config.NumberColumn(column.head, help=column.help)
        for column in COLUMNS.values()
        if column.head in table
    }
    configured[ARM] = st.column_config.TextColumn(ARM, pinned=True, help=meaning(GLOSSARY_ARM))
    configured[SEEDS] = st.column_config.NumberColumn(SEEDS, help=f"How many {over} the arm and {reference} share.")
    configured[MEETS] = st.column_config.TextColumn(MEETS, help=f"{AIM[0].upper()}{AIM[1:]}.")
    st.dataframe(
        _styled(table, texts, chosen),
        hide_index=True,
        column_config=configured,
        key="mitigation-differences",
        alt=f"Differences of {len(table)} arms to {reference} in memorization, utility and price, with 95 % intervals "
        f"over {over}",
    )
    read = (
        f"Each cell is the mean paired difference to {reference}, with its 95 % interval over {over} that both have; "
        f"with * it is other than 0 after Holm's correction for all {len(table)} arms."
    )
    none = compared[compared[ARM] == reference].set_index("measure")["value"]
    values = ", ".join(f"{word} {none[name]:.3f}" for name, word in NAMES.items() if name in none).replace("-", "−")
    told = [f"{reference} has {values}." if values else "", read, _reached(table), detectable(rows, shares=shares)]
    st.caption(" ".join(filter(None, told)))


def _judged(study: StudyFolder) -> tuple[list[str], list[str]]:
    """Return the arms that reach the aim, and the measures whose mean of `none` is above 0, as far as the seeds show:
    differences are shares of it."""
    rows = rows_of(study)
    outcomes = {str(arm): outcome_of(rows, str(arm)) for arm in rows[ARM].unique() if arm != NONE}
    reached = [arm for arm, found in outcomes.items() if found is not None and found.reached]
    return reached, [name for name in (CLIPMEM_CANDIDATE, RETRIEVAL) if not math.isnan(base_of(rows, NONE, name))]


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
        cells = {column.head: _starred(found.get(name), _kind(name, shares)) for name, column in COLUMNS.items()}
        row = {ARM: arm, MEETS: REACHED if arm in reached else "", SEEDS: int(own["n"].max())}
        numbers.append(row | {head: number for head, (number, _) in cells.items()})
        texts.append({head: text for head, (_, text) in cells.items()})
    table, shown = pd.DataFrame(numbers), pd.DataFrame(texts)
    # Left out is what no arm has, and the samples where all saw as many as none.
    idle = {NOTHING}, {NOTHING, "×1.00"}
    kept = [head for head in shown if not set(shown[head]) <= idle[head == COLUMNS[SAMPLES_SEEN].head]]
    order = np.lexsort([table[MEETS] != REACHED, table[ARM] != chosen])
    table, shown = table[[ARM, MEETS, SEEDS, *kept]], shown[kept]
    return table.iloc[order].reset_index(drop=True), shown.iloc[order].reset_index(drop=True)


def _kind(name: str, shares: Collection[str]) -> str:
    kind = COLUMNS[name].kind
    return ABSOLUTE if kind == PERCENT and name not in shares else kind


def _starred(row: Mapping[Any, Any] | None, kind: str) -> tuple[float, str]:
    """Return the number of a cell and what is written there, with * where it holds beside all other arms."""
    number, text = _cell(row, kind)
    holds = row is not None and kind in (PERCENT, ABSOLUTE) and row["p_of_all"] < HOLDS
    return number, f"{text} *" if holds else text


def _cell(row: Mapping[Any, Any] | None, kind: str) -> tuple[float, str]:
    """Return the number of a cell and what is written there."""
    if row is None or pd.isna(row["difference"]):
        return math.nan, NOTHING
    none = row["value"] - row["difference"]
    ends = [row["difference"], row["low"], row["high"]]
    if kind == VALUE:
        return row["value"], f"{row['value']:,.0f}"
    if kind == ABSOLUTE:
        return ends[0], with_interval(*ends, written=SIGNED)
    if not none:
        return math.nan, NOTHING
    if kind == TIMES:
        return row["value"] / none, f"×{row['value'] / none:.2f}"
    ends = [100 * end / abs(none) for end in ends]
    return ends[0], with_interval(*ends, written="+z.1f", unit=" %")


def _instead(text: str, number: float) -> str:
    return text


def _styled(table: pd.DataFrame, texts: pd.DataFrame, chosen: str | None) -> Styler:
    """Write the texts over the numbers, by which the columns sort, and shade the chosen arm."""
    styled = table.style
    for row, shown in enumerate(texts.to_dict("records")):
        written: dict[Any, Any] = {head: functools.partial(_instead, text) for head, text in shown.items()}
        styled = styled.format(written, subset=([row], [*written]))
    shades = [CHOSEN_SHADE if arm == chosen else "" for arm in table[ARM]]
    return styled.apply(lambda values: shades, axis="index")


def _reached(table: pd.DataFrame) -> str:
    reached = int((table[MEETS] == REACHED).sum())
    few = "" if (table[SEEDS] >= MIN_REPLICATES).all() else f"; arms with n below {MIN_REPLICATES} cannot"
    told = "No arm reaches" if not reached else f"{reached} arm{'s reach' if reached > 1 else ' reaches'}"
    return f"{told} the aim ({AIM}){few}."


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
