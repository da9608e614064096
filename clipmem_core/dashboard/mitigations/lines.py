"""The arms of a study that differ from `none` in one setting alone → lines against it, and the paper's beside them."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pandas as pd

from clipmem_core.config import FIELDS, MODIFIERS
from clipmem_core.dashboard.mitigations.knobs import RANKED_BY
from clipmem_core.dashboard.mitigations.reference import reference_of
from clipmem_core.figures.arms import BAND, LINE, MEMORIZATION, PLACE, TOLD, UTILITY
from clipmem_core.studies.compare import CLIPMEM_NET
from clipmem_core.studies.mitigations import NONE
from clipmem_core.studies.plans import find_study
from clipmem_core.studies.published import Published
from clipmem_core.studies.setting import REMOVAL, Setting, parse_setting
from clipmem_core.studies.store import ARM, CLIPMEM_CANDIDATE, StudyFolder

CAPTIONS = "train_captions"
ALL = "all"
VALUE = "value"  # of the setting, as text
OWN_FIELDS = {"captions": CAPTIONS, "text-noise": "text_noise", "removal": REMOVAL}  # what a plan is about
TITLES = {
    CAPTIONS: "captions a pair that are trained on",
    "text_noise": "σ of the noise on the text embedding",
    REMOVAL: "pairs taken out",
}
FEWEST = 2  # arms beside `none` that a line is worth


@dataclass(frozen=True)
class Against:
    """What a study's figure against a setting is drawn on: the field, its title, its ticks, and where each arm is.

    `places` has arm, line (empty where there is only one) and place; `none` is a row of each line.
    """

    field: str
    title: str
    ticks: dict[float, str]
    places: pd.DataFrame


def against_of(study: StudyFolder, arms: list[str]) -> Against | None:
    """Return the setting that most arms vary alone, that of the study's plan before others; None where too few do.

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
    return _laid_out(field, pd.DataFrame(rows, columns=[ARM, LINE, PLACE]))


def _alone(text: str) -> tuple[str, str, float] | None:
    """Return the only field that a setting changes, the line it lies on and its value; None where there are more."""
    setting = parse_setting(text)
    if setting == Setting({}, setting.removal) and setting.removal:
        return REMOVAL, setting.removal.by, float(setting.removal.n)
    ((name, value),) = setting.fields.items() if len(setting.fields) == 1 else [("", "")]
    if setting != Setting(setting.fields) or isinstance(value, str) or name in MODIFIERS:
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


def _laid_out(field: str, places: pd.DataFrame) -> Against:
    """Put the values on the axis: all captions one step after the most, pairs taken out by their square root."""
    values = sorted(set(places[PLACE]))
    finite = [value for value in values if math.isfinite(value)]
    spots = {value: place_of(field, value) for value in finite} | {math.inf: max(finite) + 1}
    ticks = {spots[value]: f"{value:g}" if math.isfinite(value) else ALL for value in values}
    title = TITLES.get(field) or FIELDS[field].label.lower()
    return Against(field, title, ticks, places.assign(**{PLACE: places[PLACE].map(spots)}))


def place_of(field: str, value: float) -> float:
    """Return where a value lies on the axis."""
    return math.sqrt(value) if field == REMOVAL else value


def lines_of(against: Against, points: pd.DataFrame) -> pd.DataFrame:
    """Return the points of the figure against a setting: those of `points_of`, with their lines and places."""
    found = against.places.merge(points, on=ARM)
    return found.assign(**{LINE: [RANKED_BY.get(line, line) for line in found[LINE]]})


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
    field = OWN_FIELDS[name]
    own = ours.iloc[0]
    with_none = [(line, one) for line, ones in _by_line(published, field).items() for one in ones]
    rows = [_row(line, one, with_none[0][1], own, field) for line, one in with_none]
    found = pd.DataFrame(rows)
    if memorization in (CLIPMEM_CANDIDATE, CLIPMEM_NET):
        return found
    return found.assign(**{MEMORIZATION: math.nan})


def _by_line(published: tuple[Published, ...], field: str) -> dict[str, list[Published]]:
    """Sort the paper's points by the rankings of a removal; any other setting is one line."""
    lines: dict[str, list[Published]] = {}
    for one in published:
        if one.arm != NONE:
            lines.setdefault(one.arm.rsplit("-", 1)[0] if field == REMOVAL else "", []).append(one)
    none = next(one for one in published if one.arm == NONE)
    return {RANKED_BY.get(line, line): [none, *ones] for line, ones in lines.items()}


def _row(line: str, one: Published, none: Published, ours: Any, field: str) -> dict[str, Any]:  # noqa: ANN401  a row
    per_point = ours[UTILITY] / none.linear_probe
    told = ["the paper", f"{TITLES[field]}: {one.setting:g}"]
    told += [] if math.isnan(one.clipmem) else [f"CLIPMem {one.clipmem:.3f}, over its run's range"]
    return {
        LINE: line,
        PLACE: place_of(field, one.setting),
        VALUE: f"{one.setting:g}",
        MEMORIZATION: ours[MEMORIZATION] * one.clipmem / none.clipmem,
        UTILITY: per_point * one.linear_probe,
        BAND: per_point * one.deviation,
        TOLD: [*told, f"linear probe on ImageNet {one.linear_probe:.2f} % ± {one.deviation:g}"],
    }
