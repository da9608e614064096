"""What a study of mitigations says: its config without mitigation, its rows, differences, and points of figures."""

import functools
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.store import MEMBERSHIP, PAIRS, Audit
from clipmem_core.config import MODIFIERS, AuditConfig, InputError
from clipmem_core.figures.mitigations import MEMORIZATION, TOLD, UTILITY
from clipmem_core.review.tables import Stamp, stamp
from clipmem_core.scores.seeds import over_seeds
from clipmem_core.studies.arm import NONE, parse_setting, reference_config
from clipmem_core.studies.effects import CLIPMEM_NET, COLUMNS, differences, with_lead
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
from clipmem_core.training.names import model_config

MEMORIZATIONS = {
    CLIPMEM_CANDIDATE: "clipmem",
    CLIPMEM_NET: "clipmem beyond external pairs",
    MEMBERSHIP_AUROC: "membership AUROC",
}
UTILITIES = {RETRIEVAL: "retrieval", "linear_probe": "linear probe", "zero_shot": "zero-shot"}
NAMES = MEMORIZATIONS | UTILITIES
NEEDED = (SEED, CLIPMEM_CANDIDATE, MEMBERSHIP_AUROC, c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT, RETRIEVAL)
Found = TypeVar("Found")


@dataclass(frozen=True)
class Reference:
    """What settings start from: the config of `none`, the most captions of a pair, how many pairs f and g share.

    Captions and pairs are 0 until `none` has begun to train.
    """

    config: AuditConfig
    captions: int = 0
    shared: int = 0

    @property
    def dim(self) -> int:
        """Numbers in an embedding; 0 where the model's config does not say."""
        try:
            return int(model_config(self.config.model)["embed_dim"])
        except (InputError, KeyError, TypeError, ValueError):
            return 0


def reference_of(study: StudyFolder) -> Reference:
    """Return what a study's settings start from.

    Raises:
        InputError: a file of the study does not say it.
    """
    try:
        config = reference_config(study)
    except (AttributeError, KeyError, TypeError):
        fix = f"delete {study.folder} and run the study again"
        raise InputError(f"{study.folder / STUDY} does not say what none ran with: {fix}") from None
    audit = study.audit(NONE)
    files = [audit.folder / name for name in (PAIRS, MEMBERSHIP)]
    if not all(path.is_file() for path in files):
        return Reference(config)
    return Reference(config, *_kept(_counts, audit, tuple(map(stamp, files))))


def _counts(audit: Audit) -> tuple[int, int]:
    """Return the most captions of a pair, and the shared pairs."""
    pairs, membership = audit.pairs, audit.membership
    if c.CAPTIONS not in pairs or c.GROUP not in membership or pairs.empty:
        raise InputError(f"{audit.folder} lacks captions or groups: delete it and run the study again")
    return int(pairs[c.CAPTIONS].map(len).max()), int((membership[c.GROUP] == c.SHARED).sum())


def rows_of(study: StudyFolder) -> pd.DataFrame:
    """Return a row an arm and seed that is done, with clipmem beyond that of external pairs.

    Raises:
        InputError: the table is broken, or lacks what is drawn.
    """
    arms = study.arms
    if arms.empty:
        return arms
    if missing := no_numbers(arms, NEEDED):
        raise InputError(
            f"{study.folder / ARMS} lacks {', '.join(missing)}: delete it and run the study again; members that are "
            "trained stay"
        )
    return with_lead(arms)


def no_numbers(rows: pd.DataFrame, names: Collection[str]) -> list[str]:
    """Return which of these columns a table lacks, or has as anything but numbers."""
    return [name for name in names if name not in rows or not pd.api.types.is_numeric_dtype(rows[name])]


def compared_of(study: StudyFolder) -> pd.DataFrame:
    """Return every arm beside `none`, seed by seed, as `differences` does; found once for each state of the rows."""
    return found_once(study, _compared) if len(rows_of(study)) else pd.DataFrame(columns=COLUMNS)


def _compared(study: StudyFolder) -> pd.DataFrame:
    return differences(rows_of(study), NONE)


def found_once(study: StudyFolder, find: Callable[[StudyFolder], Found]) -> Found:
    """Return what a function finds in a study that has rows; it is called once for each state of its files."""
    return _kept(find, study, (stamp(study.folder / ARMS), stamp(study.folder / STUDY)))


@functools.lru_cache(maxsize=32)
def _kept(find: Callable[[Any], Any], place: object, moments: tuple[Stamp, ...]) -> Any:
    return find(place)


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
    measures = {MEMORIZATION: memorization, UTILITY: utility}
    means = over_seeds(rows_of(study), by=[ARM], measures=list(measures.values()))
    ours, theirs = (
        means[means["measure"] == measure].rename(columns={"mean": part, "low": f"{part}_low", "high": f"{part}_high"})
        for part, measure in measures.items()
    )
    ends = [f"{UTILITY}{end}" for end in ("", "_low", "_high")]
    found = ours.drop(columns="measure").merge(theirs[[ARM, *ends]], on=ARM)
    compared = compared_of(study).set_index([ARM, "measure"])[["difference", "low", "high"]].to_dict("index")
    settings, dim = study.settings, reference_of(study).dim
    found[TOLD] = [
        [
            *described(str(row[ARM]), settings.get(row[ARM]), dim),
            *(_told(row, part, name, compared.get((row[ARM], name))) for part, name in measures.items()),
            f"{row['n']} {c.ONE_SPLIT}" if row["n"] > 1 else "1 seed",
        ]
        for row in found.to_dict("records")
    ]
    return found


def described(arm: str, setting: str | None, dim: int) -> list[str]:
    """Return an arm's name, its setting where the name does not say it, and how long noise in it is.

    Args:
        arm: its name.
        setting: its text; empty for `none`, None where no setting can say it.
        dim: numbers in an embedding, 0 where that is not known.

    Example:
        >>> described("text-noise", "text_noise=0.15", 64)
        ['text-noise', 'text_noise=0.15', 'text noise: σ·√dim = 0.15 · √64 = 1.20, beside an embedding of length 1']
    """
    told = [arm] if not setting or setting == arm else [arm, setting]
    fields = parse_setting(setting).fields if setting else {}
    for name in MODIFIERS["noise_place"]:
        if dim and name in fields:
            length = f"σ·√dim = {fields[name]:g} · √{dim} = {fields[name] * math.sqrt(dim):.2f}"
            told.append(f"{name.replace('_', ' ')}: {length}, beside an embedding of length 1")
    return told


def _told(row: Mapping[Any, Any], part: str, measure: str, compared: Mapping[Any, float] | None) -> str:
    """Return an arm's mean of a measure and its paired difference to `none`, with intervals where there are any."""
    told = f"{NAMES[measure]} {with_interval(row[part], row[f'{part}_low'], row[f'{part}_high'])}"
    if row[ARM] == NONE or compared is None:
        return told
    return f"{told}; against none {with_interval(*compared.values(), written='+z.3f')}"


def with_interval(
    mean: float, low: float, high: float, *, written: str | Callable[[float], str] = "z.3f", unit: str = ""
) -> str:
    """Return a number with its interval, where there is one.

    Args:
        mean: the number.
        low: the lower end, NaN where there is none.
        high: the upper end.
        written: the format of all three, or a function that writes one.
        unit: follows the number.

    Example:
        >>> with_interval(-0.02, -0.03, 0.01, written="+z.3f")
        '−0.020 [−0.030, +0.010]'
    """
    said = [written(value) if callable(written) else format(value, written) for value in (mean, low, high)]
    return (f"{said[0]}{unit}" + (f" [{said[1]}, {said[2]}]" if pd.notna(low) else "")).replace("-", "−")
