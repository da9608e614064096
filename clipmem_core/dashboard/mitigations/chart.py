"""The chart of a study of mitigations: utility against memorization of every arm, or both against one setting.

?figure=setting&memorization=membership_auroc&utility=zero_shot&paper=1   what is shown, kept in the address
"""

import functools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from clipmem_core.columns import ONE_SPLIT
from clipmem_core.config import FIELDS, MODIFIERS
from clipmem_core.dashboard.address import PAGE, choose_listed, choose_segment, write
from clipmem_core.dashboard.mitigations.knobs import RANKED_BY
from clipmem_core.dashboard.mitigations.study_data import (
    MEMORIZATIONS,
    NAMES,
    UTILITIES,
    found_once,
    measures_of,
    points_of,
    reference_of,
    rows_of,
    with_interval,
)
from clipmem_core.dashboard.plain import show_text
from clipmem_core.figures.mitigations import (
    BAND,
    LINE,
    MEMORIZATION,
    PLACE,
    TOLD,
    UTILITY,
    against_figure,
    tradeoff_figure,
)
from clipmem_core.scores.uncertainty import MIN_REPLICATES
from clipmem_core.studies.arm import NONE, REMOVAL, Arm, parse_setting
from clipmem_core.studies.effects import CLIPMEM_NET, front
from clipmem_core.studies.plans import Published, find_study
from clipmem_core.studies.results import sentences
from clipmem_core.studies.store import ARM, CLIPMEM_CANDIDATE, StudyFolder

FIGURE, MEMORIZED, USEFUL, PAPER = "figure", "memorization", "utility", "paper"  # in the address
TRADEOFF, SETTING = "tradeoff", "setting"
CLICKS = "mitigation-clicks"  # how often a dot was chosen
FIXED = {"displayModeBar": False}
RESCALED = (
    "Dashed: the paper (ViT-Base on COCO; its utility is a linear probe on ImageNet). It divides its clipmem by the "
    "range of its run, so each value is divided by that of its own none and multiplied by ours: only shapes compare."
)
DEVIATION = "The band is its standard deviation there."
CAPTIONS = "train_captions"
VALUE = "value"  # of the setting, as text
OWN_FIELDS = {"captions": CAPTIONS, "text-noise": "text_noise", "removal": REMOVAL}  # what a plan is about
TITLES = {
    CAPTIONS: "captions a pair that are trained on",
    "text_noise": "σ of the noise on the text embedding",
    REMOVAL: "pairs taken out",
}
FEWEST = 2  # arms beside `none` that a line is worth


class Against(NamedTuple):
    """What a study's figure against a setting is drawn on: the field, its title, its ticks, and where each arm is.

    `places` has arm, line (empty where there is only one) and place; `none` is a row of each line.
    """

    field: str
    title: str
    ticks: dict[float, str]
    places: pd.DataFrame


def draw_chart(study: StudyFolder, chosen: str | None) -> None:
    """Draw a study's chart with the choices of what it shows, and what came out of the study in words.

    Args:
        study: of mitigations; its reference arm is `none`.
        chosen: an arm that has rows, to stand out; None for none of them.

    Raises:
        InputError: a file of the study is broken or lacks what is drawn.
    """
    rows = rows_of(study)
    if rows.empty:
        return
    against = against_of(study, rows[ARM].unique().tolist())
    shown = {TRADEOFF: "Trade-off"} | ({} if against is None else {SETTING: "Against the setting"})
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        memorized = _choose_measure("Memorization", measures_of(rows, MEMORIZATIONS), parameter=MEMORIZED, width=250)
        useful = _choose_measure("Utility", measures_of(rows, UTILITIES), parameter=USEFUL, width=150)
        figure = choose_segment("Figure", shown, parameter=FIGURE, key=f"mitigation-figure-{len(shown)}", hidden=True)
    points = points_of(study, memorized, useful)
    if points.empty:
        st.info("No arm has both measures: choose others.", icon=":material/info:")
        return
    paper, titles = paper_of(study, points, memorized), (NAMES[memorized], NAMES[useful])
    if against is not None and figure == SETTING:
        _draw_against(against, points, paper, titles, chosen)
    else:
        _draw_tradeoff(study, points, paper, titles, chosen)
    for sentence in found_once(study, sentences):
        show_text(sentence)


def _choose_measure(label: str, names: dict[str, str], *, parameter: str, width: int) -> str:
    key = f"mitigation-{parameter}"
    return choose_listed(label, list(names), parameter=parameter, key=key, width=width, named=names.__getitem__)


def _draw_tradeoff(
    study: StudyFolder, points: pd.DataFrame, paper: pd.DataFrame | None, titles: tuple[str, str], chosen: str | None
) -> None:
    paper = _overlaid(None if paper is None else paper.dropna(subset=[MEMORIZATION]))
    best, settings = front(points, MEMORIZATION, UTILITY), study.settings
    figure = tradeoff_figure(points, titles=titles, front=best, none=NONE, chosen=chosen, paper=paper)
    # Each choice makes another widget, so that what a browser still sends of the last one chooses nothing.
    clicks = st.session_state.setdefault(CLICKS, 0)
    key = f"mitigation-chart-{study.name}-{clicks}"
    st.plotly_chart(
        figure,
        key=key,
        on_select=functools.partial(_click, key, clicks, [settings.get(arm) for arm in points[ARM]]),
        selection_mode="points",
        config=FIXED,
        alt=f"{titles[1]} against {titles[0]} of {len(points)} arms. "
        f"{_values(points[points[ARM].isin([NONE, chosen])], titles)} "
        f"Arms that no other beats, from the least memorized: {', '.join(best)}.",
    )
    st.caption(
        f"Each dot is the mean of an arm{_over_seeds(points)}.{_cut(figure, points)} The line is the front, of arms "
        "that no other beats in both. Click a dot to choose its setting. What a seed does to all arms alike is in "
        "these intervals; the differences in the table are paired, and free of it. "
        f"{RESCALED if paper is not None else ''}".strip()
    )


def _cut(figure: go.Figure, points: pd.DataFrame) -> str:
    """Say so where a bar is longer than the figure shows."""
    axes = ((figure.layout.xaxis.range, MEMORIZATION), (figure.layout.yaxis.range, UTILITY))
    cut = any(
        (points[f"{name}_low"] < low).any() or (points[f"{name}_high"] > high).any() for (low, high), name in axes
    )
    return " A bar far longer than most is cut at the edge." if cut else ""


def _click(key: str, clicks: int, settings: Sequence[str | None]) -> None:
    """Choose the setting of the dot that was clicked on. A callback.

    Args:
        key: of the chart.
        clicks: how many choices there were when it was drawn.
        settings: the text of each arm, None where no setting can say it.
    """
    row = _clicked(st.session_state.get(key))
    if row is None or clicks != st.session_state.get(CLICKS) or not 0 <= row < len(settings):
        return
    setting = settings[row]
    if setting is not None:
        st.session_state[CLICKS] = clicks + 1
        write(setting=setting or None, **{PAGE: None})


def _clicked(event: Any) -> int | None:  # noqa: ANN401  what Streamlit gives back
    """Return the row of the dot that was clicked on; None where there is none, or where it is no arm's."""
    points = ((event or {}).get("selection") or {}).get("points") or []
    data = points[-1].get("customdata") if points else None
    return int(data[0]) if data and data[0] is not None else None


def _draw_against(
    against: Against, points: pd.DataFrame, paper: pd.DataFrame | None, measures: tuple[str, str], chosen: str | None
) -> None:
    paper = _overlaid(paper)
    lines, titles = lines_of(against, points), (against.title, *measures)
    ticks = against.ticks | ({} if paper is None else dict(zip(paper[PLACE], paper[VALUE], strict=True)))
    st.plotly_chart(
        against_figure(lines, titles=titles, ticks=ticks, chosen=chosen, paper=paper),
        key="mitigation-against",
        config=FIXED,
        alt=f"{titles[1]} and {titles[2]} against {titles[0]}. {_values(lines, measures)}",
    )
    rescaled = "" if paper is None else RESCALED if paper[LINE].nunique() > 1 else f"{RESCALED} {DEVIATION}"
    bars = f"Each dot is the mean of an arm{_over_seeds(points)}."
    st.caption(f"{bars} Arms that change something else too are left out. {rescaled}".strip())


def _overlaid(paper: pd.DataFrame | None) -> pd.DataFrame | None:
    """Draw the toggle of the paper's curve where there is one, and return it where it is on."""
    if paper is None or paper.empty:
        return None
    st.session_state["mitigation-paper"] = on = st.query_params.get(PAPER) == "1"
    st.toggle("The paper's own curve, rescaled", key="mitigation-paper", on_change=_keep_paper)
    return paper if on else None


def _keep_paper() -> None:
    write(**{PAPER: "1" if st.session_state["mitigation-paper"] else None})


def _over_seeds(points: pd.DataFrame) -> str:
    """Say how many seeds the intervals are over, and who has none."""
    fewest, most = int(points["n"].min()), int(points["n"].max())
    if most < MIN_REPLICATES:
        return f" over its seeds, {most} so far: too few for an interval"
    least = max(fewest, MIN_REPLICATES)
    seeds = f"{most}" if least == most else f"{least} to {most}"
    few = f"; those with fewer than {MIN_REPLICATES} have none" if fewest < MIN_REPLICATES else ""
    return f" with its 95 % interval over {seeds} {ONE_SPLIT}{few}"


def _values(points: pd.DataFrame, titles: tuple[str, str]) -> str:
    """Say what the chart shows of arms to those who cannot see it."""
    parts = [
        f"{row[ARM]}: "
        + ", ".join(
            f"{title} {with_interval(row[part], row[f'{part}_low'], row[f'{part}_high'])}"
            for part, title in zip((MEMORIZATION, UTILITY), titles, strict=True)
        )
        for row in points.to_dict("records")
    ]
    return f"{'; '.join(parts)}." if parts else ""


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
    places = {value: place_of(field, value) for value in values if math.isfinite(value)}
    places |= {math.inf: max(value for value in values if math.isfinite(value)) + 1}
    ticks = {places[value]: f"{value:g}" if math.isfinite(value) else "all" for value in values}
    placed = pd.DataFrame([(arm, line, places[value]) for arm, line, value in rows], columns=[ARM, LINE, PLACE])
    return Against(field, TITLES.get(field) or FIELDS[field].label.lower(), ticks, placed)


def _alone(text: str) -> tuple[str, str, float] | None:
    """Return the only field that a setting changes, the line it lies on and its value; None where there are more."""
    setting = parse_setting(text)
    if setting == Arm(removal=setting.removal) and setting.removal:
        return REMOVAL, setting.removal.by, float(setting.removal.n)
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
    field, none = OWN_FIELDS[name], next(one for one in published if one.arm == NONE)
    # The paper's rankings of a removal are a line each; any other setting is one line.
    lines = {one: one.arm.rsplit("-", 1)[0] if field == REMOVAL else "" for one in published if one.arm != NONE}
    found = pd.DataFrame(
        [
            {LINE: RANKED_BY.get(line, line)} | _rescaled(one, none, ours.iloc[0], field)
            for line in dict.fromkeys(lines.values())
            for one in (none, *(one for one in lines if lines[one] == line))
        ]
    )
    return found if memorization in (CLIPMEM_CANDIDATE, CLIPMEM_NET) else found.assign(**{MEMORIZATION: math.nan})


def _rescaled(one: Published, none: Published, ours: pd.Series, field: str) -> dict[str, Any]:
    per_point = ours[UTILITY] / none.linear_probe
    told = ["the paper", f"{TITLES[field]}: {one.setting:g}"]
    told += [] if math.isnan(one.clipmem) else [f"CLIPMem {one.clipmem:.3f}, over its run's range"]
    return {
        PLACE: place_of(field, one.setting),
        VALUE: f"{one.setting:g}",
        MEMORIZATION: ours[MEMORIZATION] * one.clipmem / none.clipmem,
        UTILITY: per_point * one.linear_probe,
        BAND: per_point * one.deviation,
        TOLD: [*told, f"linear probe on ImageNet {one.linear_probe:.2f} % ± {one.deviation:g}"],
    }
