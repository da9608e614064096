"""What a study of mitigations says: the config of `none`, its rows, differences, and the points of its figures."""

import functools
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.store import MEMBERSHIP, PAIRS, Audit
from clipmem_core.config import FIELDS, MODIFIERS, AuditConfig, InputError
from clipmem_core.figures.tradeoff import BAND, LINE, MEMORIZATION, PLACE, TOLD, UTILITY
from clipmem_core.review.tables import Stamp, stamp
from clipmem_core.scores.registry import REMOVAL as RANKINGS
from clipmem_core.scores.registry import scores_in
from clipmem_core.scores.seeds import over_seeds
from clipmem_core.studies.arm import NONE, RANDOM, REMOVAL, Arm, parse_setting, reference_config
from clipmem_core.studies.custom_arms import find_arm
from clipmem_core.studies.effects import (
    CLIPMEM_NET,
    COLUMNS,
    by_split,
    counted,
    differences,
    replicates,
    with_lead,
)
from clipmem_core.studies.plans import find_study
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
    CLIPMEM_NET: "clipmem less that of external pairs",
    MEMBERSHIP_AUROC: "membership AUROC",
    c.ATTACK_AUROC: "attack AUROC",
    c.ATTACK_TPR: "attack TPR at 1 % FPR",
}
UTILITIES = {RETRIEVAL: "retrieval", "linear_probe": "linear probe", "zero_shot": "zero-shot"}
NAMES = MEMORIZATIONS | UTILITIES
NEEDED = (SEED, CLIPMEM_CANDIDATE, MEMBERSHIP_AUROC, c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT, RETRIEVAL)
RANKED_BY = {name: score.removal for name, score in scores_in(RANKINGS).items()} | {RANDOM: "at random"}
CAPTIONS = "train_captions"
VALUE = "value"  # of the setting, as text
OWN_FIELDS = {"captions": CAPTIONS, "text-noise": "text_noise", "removal": REMOVAL}  # what a plan is about
TITLES = {
    CAPTIONS: "captions a pair that are trained on",
    "text_noise": "σ of the noise on the text embedding",
    REMOVAL: "pairs taken out",
}
FEWEST = 2  # arms beside `none` that a line is worth
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


def arm_of(study: StudyFolder, setting: Arm) -> str | None:
    """Return the arm of a study that has a setting, run or not, or None; of several with decisions the newest."""
    return find_arm(study, setting) if setting.text else NONE


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
    """Return a row an arm: means over its splits (of one split, seeds), their intervals, what it tells, and how many.

    Args:
        study: with rows of `none` or not.
        memorization: a measure of MEMORIZATIONS.
        utility: a measure of UTILITIES.

    Returns:
        arm, n, memorization and utility with _low and _high, told: the lines of its hover. Arms without a value of
        either are left out.
    """
    measures = {MEMORIZATION: memorization, UTILITY: utility}
    rows = rows_of(study)
    means = over_seeds(by_split(rows, [ARM], list(measures.values())), by=[ARM], measures=list(measures.values()))
    ours, theirs = (
        means[means["measure"] == measure].rename(columns={"mean": part, "low": f"{part}_low", "high": f"{part}_high"})
        for part, measure in measures.items()
    )
    found = ours.drop(columns="measure").merge(theirs.drop(columns=["measure", "n"]), on=ARM)
    compared = compared_of(study).set_index([ARM, "measure"])[["difference", "low", "high"]].to_dict("index")
    settings, dim = study.settings, reference_of(study).dim
    told = []
    for row in found.to_dict("records"):
        lines = described(str(row[ARM]), settings.get(row[ARM]), dim)
        for part, measure in measures.items():
            mean = f"{NAMES[measure]} {with_interval(*(row[f'{part}{end}'] for end in ('', '_low', '_high')))}"
            beside = compared.get((row[ARM], measure)) if row[ARM] != NONE else None
            lines.append(f"{mean}; against none {with_interval(*beside.values(), written='+z.3f')}" if beside else mean)
        told.append([*lines, f"{row['n']} {replicates(rows)}" if row["n"] > 1 else counted(1, rows)])
    found[TOLD] = told
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


class Against(NamedTuple):
    """What a study's figure against a setting is drawn on: the field, its title, its ticks, and where each arm is.

    `places` has arm, line (empty where there is only one) and place; `none` is a row of each line.
    """

    field: str
    title: str
    ticks: dict[float, str]
    places: pd.DataFrame


def against_of(study: StudyFolder, arms: Sequence[str]) -> Against | None:
    """Return the setting that most arms vary alone, that of the study's plan before others; None where too few do.

    All captions lie one step after the most, and pairs taken out by their square root.

    Args:
        study: its settings say what an arm does.
        arms: the ones that have a point.
    """
    known = {arm: _alone(text) for arm, text in study.settings.items() if arm in arms and arm != NONE}
    varied = {arm: found for arm, found in known.items() if found is not None}
    counts = Counter(field for field, _, _ in varied.values())
    field = OWN_FIELDS.get(study.asked["study"])
    if field not in counts:
        field = counts.most_common(1)[0][0] if counts else None
    if field is None or counts[field] < FEWEST or NONE not in arms:
        return None
    rows = [(arm, line, value) for arm, (name, line, value) in varied.items() if name == field]
    rows += [(NONE, line, _without(study, field)) for line in dict.fromkeys(line for _, line, _ in rows)]
    values = sorted({value for _, _, value in rows})
    places = {value: _place_of(field, value) for value in values if math.isfinite(value)}
    places |= {math.inf: max(value for value in values if math.isfinite(value)) + 1}
    ticks = {places[value]: f"{value:g}" if math.isfinite(value) else "all" for value in values}
    placed = pd.DataFrame([(arm, line, places[value]) for arm, line, value in rows], columns=[ARM, LINE, PLACE])
    return Against(field, TITLES.get(field) or FIELDS[field].label.lower(), ticks, placed)


def _alone(text: str) -> tuple[str, str, float] | None:
    """Return the only field that a setting changes, the line it lies on and its value; None where there are more."""
    setting = parse_setting(text)
    if setting == Arm(removal=setting.removal) and setting.removal:
        return REMOVAL, RANKED_BY[setting.removal.by], float(setting.removal.n)
    ((name, value),) = setting.fields.items() if len(setting.fields) == 1 else [("", "")]
    if setting != Arm(fields=setting.fields) or isinstance(value, str) or name in MODIFIERS:
        return None
    return name, "", math.inf if name == CAPTIONS and value == 0 else float(value)


def _without(study: StudyFolder, field: str) -> float:
    """Return the value that `none` has."""
    if field == REMOVAL:
        return 0.0
    config = reference_of(study).config
    # A study of captions has fewer in `none` than in its other arms; none of them has 0, which means all.
    value = (config.train_captions or 1) if field == CAPTIONS else getattr(config, field)
    return float(config.epochs if field == "stop_epoch" and not value else value)


def _place_of(field: str, value: float) -> float:
    return math.sqrt(value) if field == REMOVAL else value


def paper_of(study: StudyFolder, points: pd.DataFrame, memorization: str) -> pd.DataFrame | None:
    """Return the paper's own curve of a study, each value relative to the paper's `none` and times ours.

    Args:
        study: built in; others have none.
        points: those of ours, as `points_of` returns them.
        memorization: the measure that is shown; what the paper has is clipmem alone.

    Returns:
        line, place, value, memorization (NaN where the paper does not show it), utility, band (its deviation) and
        told, a row a setting and line; None where the paper has no such curve, or where we have no `none` yet.
    """
    name = study.asked["study"]
    published, ours = find_study(name).published, points[points[ARM] == NONE]
    if not published or ours.empty:
        return None
    field, none, own = OWN_FIELDS[name], next(one for one in published if one.arm == NONE), ours.iloc[0]
    # The paper's rankings of a removal are a line each; any other setting is one line.
    lines = {one: one.arm.rsplit("-", 1)[0] if field == REMOVAL else "" for one in published if one.arm != NONE}
    per_point, shown = own[UTILITY] / none.linear_probe, memorization in (CLIPMEM_CANDIDATE, CLIPMEM_NET)
    rows = []
    for line in dict.fromkeys(lines.values()):
        for one in (none, *(one for one in lines if lines[one] == line)):
            told = ["the paper", f"{TITLES[field]}: {one.setting:g}"]
            told += [] if math.isnan(one.clipmem) else [f"CLIPMem {one.clipmem:.3f}, over its run's range"]
            told += [f"linear probe on ImageNet {one.linear_probe:.2f} % ± {one.deviation:g}"]
            place = {LINE: RANKED_BY.get(line, line), PLACE: _place_of(field, one.setting), VALUE: f"{one.setting:g}"}
            relative = own[MEMORIZATION] * one.clipmem / none.clipmem if shown else math.nan
            useful = {UTILITY: per_point * one.linear_probe, BAND: per_point * one.deviation}
            rows.append(place | {MEMORIZATION: relative} | useful | {TOLD: told})
    return pd.DataFrame(rows)
