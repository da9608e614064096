"""The studies in the data folder → for each question about the encoders its figure and what came out, in words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core.columns import CLIPMEM_IMAGE, CLIPMEM_TEXT, ONE_SPLIT
from clipmem_core.config import InputError
from clipmem_core.dashboard.choices import choose_listed
from clipmem_core.dashboard.plain import show_text
from clipmem_core.dashboard.trouble import draw_fault
from clipmem_core.figures.encoder_studies import MEASURES, size_figure, time_figure, views_figure
from clipmem_core.scores.seeds import over_seeds
from clipmem_core.scores.uncertainty import MIN_REPLICATES
from clipmem_core.studies.answers import beyond_external
from clipmem_core.studies.compare import TEXT_LEAD, with_lead
from clipmem_core.studies.plans import NO_CROPS, STRONG_CROPS, STUDIES
from clipmem_core.studies.show import sentences
from clipmem_core.studies.sizes import FACTORS
from clipmem_core.studies.store import (
    ARM,
    EPOCH,
    IMAGE_EXTERNAL,
    SEED,
    TEXT_EXTERNAL,
    StudyFolder,
    list_studies,
)

FIXED = {"displayModeBar": False}
CROPS = {NO_CROPS: "off", STRONG_CROPS: "strong"}
CROP_ORDER = ("off", "normal", "strong")
Draw = Callable[[StudyFolder], Any]
COLUMNS = {ARM, SEED, CLIPMEM_IMAGE, CLIPMEM_TEXT}


@dataclass(frozen=True)
class Shown:
    """How a plan's results are drawn: its heading, what the figure shows, the figure, and the columns it reads."""

    title: str
    meaning: str
    figure: Draw
    columns: frozenset[str] = frozenset()


def time_of(study: StudyFolder) -> Any:  # noqa: ANN401  a Plotly figure
    """Return the figure of contributions by epoch."""
    return time_figure(over_seeds(beyond_external(study.times), by=[EPOCH], measures=list(MEASURES)))


def size_of(study: StudyFolder) -> Any:  # noqa: ANN401
    """Return the figure of the text encoder's lead by the widths of both encoders."""
    means = over_seeds(with_lead(study.arms), by=["image_encoder", "text_encoder"], measures=[TEXT_LEAD])
    known = means[means["image_encoder"].isin(FACTORS) & means["text_encoder"].isin(FACTORS)]
    return size_figure(known, widths=tuple(FACTORS))


def views_of(study: StudyFolder) -> Any:  # noqa: ANN401
    """Return the figure of contributions by image augmentation and captions."""
    arms = study.arms
    crop = arms["crop_scale"].map(lambda scale: CROPS.get(scale, "normal"))
    arms = arms.assign(crop=crop, captions=arms["captions"].astype(str))
    return views_figure(over_seeds(arms, by=["crop", "captions"], measures=list(MEASURES)), crops=CROP_ORDER)


SHOWN = {
    "time": Shown(
        "Time: which encoder memorizes first?",
        "Each encoder's mean contribution to clipmem of candidates as training goes on, less that of external pairs, "
        "which nobody memorized: f and g drift apart as a whole, and that is no memorization.",
        time_of,
    ),
    "size": Shown(
        "Size: does a larger image encoder flip claim 3?",
        "How far the text encoder's contribution leads the image encoder's, with either at half, its own and double "
        "width; below 0 the image encoder would lead.",
        size_of,
        frozenset({"image_encoder", "text_encoder"}),
    ),
    "views": Shown(
        "Views: is the text share only the missing caption augmentation?",
        "Each encoder's contribution with image crops off, as usual and strong, and with one caption a pair or all.",
        views_of,
        frozenset({"crop_scale", "captions"}),
    ),
}


def draw_studies() -> None:
    """Draw the study of each question, the one that the address asks for where there are several."""
    st.caption("Studies train their own members over several seeds; they are about a data set, not about one audit.")
    by_plan: dict[str, list[StudyFolder]] = {plan: [] for plan in SHOWN}
    for study in list_studies():
        by_plan.get(_plan_of(study), []).append(study)
    for plan, shown in SHOWN.items():
        st.subheader(shown.title, anchor=False)
        if by_plan[plan]:
            _draw_study(_choose(plan, by_plan[plan]), shown)
        else:
            _draw_missing(plan)


def _plan_of(study: StudyFolder) -> str:
    """Return the plan of a study, empty where its file does not say."""
    try:
        asked = study.asked
    except InputError:
        return ""
    return str(asked.get("study")) if isinstance(asked, dict) else ""


def _draw_missing(plan: str) -> None:
    st.info(f"No study of this question yet: {STUDIES[plan].question}", icon=":material/science:")
    st.code(f"python -m clipmem_core study {plan} SOURCE --name {plan} --preset small", language="bash")


def _choose(plan: str, studies: Sequence[StudyFolder]) -> StudyFolder:
    """Return the only study of a plan, or the one that is chosen."""
    named = {study.name: study for study in studies}
    if len(named) == 1:
        return studies[0]
    parameter = f"study_{plan}"
    return named[choose_listed("Study", list(named), parameter=parameter, key=f"encoders-{parameter}", width=260)]


def _draw_study(study: StudyFolder, shown: Shown) -> None:
    """Draw a study's figure and its sentences; a broken one is told, and the others are drawn."""
    try:
        total, arms = _check(study, shown)
        if arms.empty:
            st.info(f"Study of {total} arms and seeds: none is done yet.", icon=":material/hourglass:")
            return
        figure, told = shown.figure(study), sentences(study)
    except InputError as error:
        draw_fault("This study cannot be shown.", error)
        return
    show_text(f"{study.name}: {study.asked.get('source')}", limit=200)
    st.plotly_chart(figure, key=f"study-{study.name}", config=FIXED, alt=" ".join(told) or shown.meaning)
    for sentence in told:
        show_text(sentence)
    st.caption(" ".join([shown.meaning, _seeds(arms), *_progress(total, len(arms))]))


def _check(study: StudyFolder, shown: Shown) -> tuple[int, pd.DataFrame]:
    """Return how many arms and seeds a study has, and the rows of those that are done.

    Raises:
        InputError: a file is broken or lacks what is drawn.
    """
    asked, arms, times = study.asked, study.arms, study.times
    remedy = f"delete {study.folder} and run the study again"
    try:
        total = len(asked["arms"]) * int(asked["config"]["seeds"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{study.folder} does not say what was asked for: {remedy}") from None
    missing = [name for name in (*COLUMNS, *shown.columns) if len(arms) and name not in arms]
    if shown.figure is time_of and len(arms):
        missing += [name for name in (EPOCH, SEED, *MEASURES, IMAGE_EXTERNAL, TEXT_EXTERNAL) if name not in times]
    if missing:
        raise InputError(f"{study.folder} lacks {', '.join(sorted(missing))}: {remedy}")
    return total, arms


def _seeds(arms: pd.DataFrame) -> str:
    seeds = arms.groupby(ARM)[SEED].nunique()
    fewest, most = seeds.min(), seeds.max()
    if fewest >= MIN_REPLICATES:
        return f"Bars are 95 % intervals over {fewest if fewest == most else f'{fewest} to {most}'} {ONE_SPLIT}."
    few = f"where an arm has {MIN_REPLICATES} or more; some have {fewest} so far"
    return f"Bars are 95 % intervals over {ONE_SPLIT}, {few}."


def _progress(total: int, done: int) -> list[str]:
    return [f"The study is not finished: {done} of {total} arms and seeds are done."] if done < total else []
