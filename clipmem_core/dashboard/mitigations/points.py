"""The rows of a study of mitigations → the points of its figures: means, intervals, what each tells on hovering."""

import functools
import math
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from clipmem_core import columns as c
from clipmem_core.config import MODIFIERS, InputError
from clipmem_core.dashboard.mitigations.reference import reference_of
from clipmem_core.figures.arms import MEMORIZATION, TOLD, UTILITY
from clipmem_core.review.tables import Stamp, stamp
from clipmem_core.scores.seeds import over_seeds
from clipmem_core.studies.aim import base_of, outcome_of
from clipmem_core.studies.compare import CLIPMEM_NET, COLUMNS, differences, with_lead
from clipmem_core.studies.mitigations import NONE
from clipmem_core.studies.setting import parse_setting
from clipmem_core.studies.show import sentences
from clipmem_core.studies.store import (
    ARM,
    ARMS,
    CLIPMEM_CANDIDATE,
    MEMBERSHIP_AUROC,
    RETRIEVAL,
    SEED,
    STUDY,
    StudyFolder,
)

MEMORIZATIONS = {
    CLIPMEM_CANDIDATE: "clipmem",
    CLIPMEM_NET: "clipmem beyond external pairs",
    MEMBERSHIP_AUROC: "membership AUROC",
}
UTILITIES = {RETRIEVAL: "retrieval", "linear_probe": "linear probe", "zero_shot": "zero-shot"}
NAMES = MEMORIZATIONS | UTILITIES
NEEDED = (SEED, CLIPMEM_CANDIDATE, MEMBERSHIP_AUROC, c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT, RETRIEVAL)


def rows_of(study: StudyFolder) -> pd.DataFrame:
    """Return a row an arm and seed that is done, with clipmem beyond that of external pairs.

    Raises:
        InputError: the table is broken, or lacks what is drawn.
    """
    arms = study.arms
    if arms.empty:
        return arms
    missing = [name for name in NEEDED if name not in arms or not pd.api.types.is_numeric_dtype(arms[name])]
    if missing:
        raise InputError(
            f"{study.folder / ARMS} lacks {', '.join(missing)}: delete it and run the study again; members that are "
            "trained stay"
        )
    return with_lead(arms)


def compared_of(study: StudyFolder) -> pd.DataFrame:
    """Return every arm beside `none`, seed by seed, as `differences` does; found once for each state of the rows."""
    if rows_of(study).empty:
        return pd.DataFrame(columns=COLUMNS)
    return _compared(study, stamp(study.folder / ARMS))


@functools.lru_cache(maxsize=8)
def _compared(study: StudyFolder, moment: Stamp) -> pd.DataFrame:
    return differences(rows_of(study), NONE)


def reached_of(study: StudyFolder) -> tuple[str, ...]:
    """Return the arms that reach the aim; found once for each state of the rows."""
    return _reached(study, stamp(study.folder / ARMS)) if len(rows_of(study)) else ()


@functools.lru_cache(maxsize=8)
def _reached(study: StudyFolder, moment: Stamp) -> tuple[str, ...]:
    rows = rows_of(study)
    outcomes = {str(arm): outcome_of(rows, str(arm)) for arm in dict.fromkeys(rows[ARM]) if arm != NONE}
    return tuple(arm for arm, found in outcomes.items() if found is not None and found.reached)


def above_0(study: StudyFolder) -> frozenset[str]:
    """Return the measures whose mean of `none` is above 0, as far as the seeds show: differences are shares of it."""
    rows = rows_of(study)
    if rows.empty:
        return frozenset()
    return frozenset(name for name in (CLIPMEM_CANDIDATE, RETRIEVAL) if not math.isnan(base_of(rows, NONE, name)))


def answer_of(study: StudyFolder) -> tuple[str, ...]:
    """Return what came out of a study, in plain sentences; found once for each state of its files."""
    return _answer(study, stamp(study.folder / ARMS), stamp(study.folder / STUDY))


@functools.lru_cache(maxsize=8)
def _answer(study: StudyFolder, rows: Stamp, asked: Stamp) -> tuple[str, ...]:
    return tuple(sentences(study))


def measures_of(rows: pd.DataFrame, names: Mapping[str, str]) -> dict[str, str]:
    """Return the measures that some arm has a value of."""
    return {name: word for name, word in names.items() if name in rows and rows[name].notna().any()}


def points_of(study: StudyFolder, memorization: str, utility: str) -> pd.DataFrame:
    """Return a row an arm: means over its seeds, their intervals, what it tells, and its seeds.

    Args:
        study: with rows of `none` or not.
        memorization: a measure of MEMORIZATIONS.
        utility: a measure of UTILITIES.

    Returns:
        arm, n, memorization and utility with _low and _high, told: the lines of its hover. Arms without a value of
        either are left out.
    """
    means = over_seeds(rows_of(study), by=[ARM], measures=[memorization, utility])
    found = _wide(means, memorization, MEMORIZATION).merge(_wide(means, utility, UTILITY), on=ARM)
    compared = compared_of(study).set_index([ARM, "measure"])
    settings, dim = study.settings, reference_of(study).dim
    measures = {MEMORIZATION: memorization, UTILITY: utility}
    found[TOLD] = [
        [
            *said_of(str(row[ARM]), settings.get(row[ARM]), dim),
            *(_said(row, part, measure, compared) for part, measure in measures.items()),
            f"{row['n']} {c.ONE_SPLIT}" if row["n"] > 1 else "1 seed",
        ]
        for row in found.to_dict("records")
    ]
    return found


def _wide(means: pd.DataFrame, measure: str, part: str) -> pd.DataFrame:
    rows = means[means["measure"] == measure]
    names = {"mean": part, "low": f"{part}_low", "high": f"{part}_high"}
    counted = [ARM, "n"] if part == MEMORIZATION else [ARM]
    return rows.rename(columns=names)[[*counted, *names.values()]].reset_index(drop=True)


def said_of(arm: str, setting: str | None, dim: int) -> list[str]:
    """Return an arm's name, its setting where the name does not say it, and how long noise in it is.

    Args:
        arm: its name.
        setting: its text; empty for `none`, None where no setting can say it.
        dim: numbers in an embedding, 0 where that is not known.

    Example:
        >>> said_of("text-noise", "text_noise=0.15", 64)
        ['text-noise', 'text_noise=0.15', 'text noise: σ·√dim = 0.15 · √64 = 1.20, beside an embedding of length 1']
    """
    told = [arm] if not setting or setting == arm else [arm, setting]
    fields = parse_setting(setting).fields if setting else {}
    for name in MODIFIERS["noise_place"]:
        if dim and name in fields:
            sigma = fields[name]
            length = f"σ·√dim = {sigma:g} · √{dim} = {sigma * math.sqrt(dim):.2f}"
            told.append(f"{name.replace('_', ' ')}: {length}, beside an embedding of length 1")
    return told


def _said(row: Mapping[Hashable, Any], part: str, measure: str, compared: pd.DataFrame) -> str:
    """Return an arm's mean of a measure and its paired difference to `none`, with intervals where there are any."""
    mean, low, high = (row[f"{part}{end}"] for end in ("", "_low", "_high"))
    told = f"{NAMES[measure]} {with_interval(mean, low, high)}"
    if row[ARM] == NONE or (row[ARM], measure) not in compared.index:
        return told
    found = compared.loc[(row[ARM], measure)]
    return f"{told}; against none {with_interval(found['difference'], found['low'], found['high'], sign='+')}"


def with_interval(mean: float, low: float, high: float, *, sign: str = "", digits: int = 3, unit: str = "") -> str:
    """Return a number with its interval, where there is one.

    Example:
        >>> with_interval(-0.02, -0.03, 0.01, sign="+")
        '−0.020 [−0.030, +0.010]'
    """
    told = f"{mean:{sign}z.{digits}f}{unit}"
    if pd.notna(low):
        told += f" [{low:{sign}z.{digits}f}, {high:{sign}z.{digits}f}]"
    return told.replace("-", "−")
