"""The page Encoders: each encoder's part of clipmem, and the studies of the encoders."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.columns import CLIPMEM_IMAGE, CLIPMEM_TEXT, EXTERNAL, GROUP, GROUPS, INDEPENDENT, LABEL, PLANTED
from clipmem_core.config import InputError
from clipmem_core.dashboard.maps import draw_selectable
from clipmem_core.dashboard.page import choose_listed, choose_segment
from clipmem_core.dashboard.plain import draw_fault, explained_errors, show_text
from clipmem_core.figures.clouds import contribution_figure
from clipmem_core.figures.layout import in_words
from clipmem_core.figures.studies import MEASURES, means_figure, size_figure, time_figure, views_figure
from clipmem_core.review.overview import locked_towers
from clipmem_core.review.score_breakdown import (
    MEMORIZED,
    NOT_PLANTED,
    SSLMEM,
    doubts,
    encoder_means,
    load_contributions,
    map_fit,
    why_no_parts,
)
from clipmem_core.review.selection import Selection
from clipmem_core.review.tables import Version, version_of
from clipmem_core.scores.seeds import MIN_REPLICATES, over_seeds
from clipmem_core.studies.plan import FACTORS, NO_CROPS, STRONG_CROPS, STUDIES
from clipmem_core.studies.results import (
    TEXT_LEAD,
    beyond_external,
    by_split,
    reference_studies,
    replicates,
    sentences,
    with_lead,
)
from clipmem_core.studies.store import (
    ARM,
    EPOCH,
    IMAGE_EXTERNAL,
    SEED,
    SPLIT,
    TEXT_EXTERNAL,
    StudyFolder,
    list_studies,
)

COLOUR, BY = "colour", "by"  # in the address
COLOUR_KEY, BY_KEY = "encoder-colour", "encoder-by"
LABELS_SHOWN = 12
FIXED = {"displayModeBar": False}
WHAT = {GROUP: "Group", LABEL: "Label", PLANTED: "Injected error"}
DIVIDED = {
    GROUP: "The mean part of clipmem that lies in each encoder, by group.",
    LABEL: f"The mean part that lies in each encoder, by label: the {LABELS_SHOWN} most frequent ones of the scored or "
    "candidate pairs.",
    PLANTED: "The mean part that lies in each encoder, for the pairs that were planted with a known fault and for the "
    "others they were planted among.",
}
MEANING = (
    "Each dot is a pair: how much of its clipmem lies in the text encoder (up) and how much in the image encoder "
    "(right); on a dotted line both add up to the same clipmem."
)
BARS = (
    "Bars are mean ± 1.96 standard errors over pairs: they say how far other pairs would move the mean, and nothing of "
    "other members."
)
NULL = "Dotted lines: the same over external pairs, which no model memorized."
MIRRORED = "Independent pairs were learned by g, which is subtracted: theirs are negative."
ONE_CAPTION = (
    "The text encoder has none here: SSLMem compares the captions of a pair with each other, and no pair has two."
)
ONE_VIEW = "The image encoder has none here: its tower is locked and sees one view of a picture."
SEVERAL_CAPTIONS = "The text encoder's counts the pairs with two captions or more."


def draw_doubts(audit: Audit) -> None:
    """Draw how well the members' spaces map onto each other, and say aloud what speaks against the split."""
    verdict = audit.verdict
    if missing := why_no_parts(verdict):
        st.warning("This audit has no parts of the encoders; every other score is there.", icon=":material/warning:")
        show_text(missing, limit=500)
        return
    groups, fit = encoder_means(audit, by=GROUP), map_fit(verdict)
    if locked := locked_towers(audit.record.config):
        which = "Both towers are" if len(locked) == 2 else f"The {next(iter(locked))} tower is"
        st.caption(f"{which} locked: its part of clipmem is what the head on it memorized.")
    for doubt in doubts(groups, fit):
        st.warning(doubt, icon=":material/warning:")
    told = "This audit does not say how well the map between the members' spaces fits."
    if fit is not None:
        told = (
            "The embedding spaces of two models differ, so one is rotated onto the other before their encoders are "
            "exchanged. The fit is measured on pairs that the rotation was not fitted on: mean cosine "
            f"{fit:.2f}; 1 is perfect."
        )
    null = groups[(groups["name"] == EXTERNAL) & groups["mean"].notna()]
    parts = " and ".join(f"{row['mean']:+.3f} {row['encoder']}" for row in null.to_dict("records")).replace("-", "−")
    st.caption(f"{told} On external pairs, which no model memorized, the parts are {parts}." if parts else told)


@st.fragment
def draw_contribution_map(audit: Audit) -> None:
    """Draw the pairs; only this runs again when the colours change or a shape is drawn."""
    st.subheader("Text against image encoder, pair by pair", anchor=False)
    with explained_errors():
        points, density = _loaded(audit.folder, version_of(audit))
        if points.empty:
            st.info("No pair has contributions of both encoders.", icon=":material/info:")
            return
        offered = {name: WHAT[name] for name in (GROUP, PLANTED, LABEL) if points[name].notna().any()}
        colour_by = GROUP
        if len(offered) > 1:
            colour_by = choose_segment("Colour", offered, parameter=COLOUR, key=COLOUR_KEY, usual=GROUP)
        count = len(points) if density.empty else density["n"].sum()
        draw_selectable(
            audit,
            contribution_figure(points, colour_by=colour_by, density=density),
            selection=Selection(),
            columns=(CLIPMEM_IMAGE, CLIPMEM_TEXT),
            key=f"contributions-{audit.name}",
            alt=f"{count:,} pairs: the text encoder's part of clipmem against the image encoder's.",
        )
    thinned = (
        f" Drawn are {len(points):,} of {count:,} pairs, at random; the grey behind them counts all pairs, and a shape "
        "selects among all of them."
    )
    st.caption(MEANING if density.empty else MEANING + thinned)


@st.cache_data(max_entries=4, show_spinner=False)
def _loaded(folder: Path, version: Version) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep the points of a few audits: a lasso runs this again. A changed file is read anew."""
    return load_contributions(Audit(folder))


def draw_means(audit: Audit) -> None:
    """Draw the mean part of each encoder over groups, labels or planted kinds."""
    st.subheader("How the parts divide", anchor=False)
    by = choose_segment("By", WHAT, parameter=BY, key=BY_KEY)
    means = encoder_means(audit, by=by, limit=LABELS_SHOWN, groups=GROUPS if by == GROUP else MEMORIZED)
    if means["mean"].isna().all() or set(means["name"]) <= {NOT_PLANTED}:
        st.info(f"No pair of this audit has contributions and a value of {WHAT[by].lower()}.", icon=":material/info:")
        return
    null = encoder_means(audit, by=GROUP, groups=[EXTERNAL])
    st.plotly_chart(
        means_figure(means, null, title="mean part of clipmem (cosine units)"),
        key=f"encoder-means-{by}",
        config=FIXED,
        alt=f"Mean part of each encoder. {_spoken(means)}",
    )
    mirrored = by == GROUP and (means["name"] == INDEPENDENT).any()
    st.caption(" ".join([DIVIDED[by], NULL, BARS, *([MIRRORED] if mirrored else [])]))


def _spoken(means: pd.DataFrame) -> str:
    """Return a figure's means for those who cannot see it."""
    known = means[means["mean"].notna()]
    rows = zip(known["name"], known["encoder"], in_words(known), strict=True)
    return "; ".join(f"{name}, {encoder}: {told}" for name, encoder, told in rows)


def draw_sslmem(audit: Audit) -> None:
    """Draw how much closer each encoder alone holds the views, or the captions, of a pair that it trained on."""
    st.subheader("SSLMem: each encoder alone", anchor=False)
    means = encoder_means(audit, SSLMEM, by=GROUP)
    if means["mean"].isna().all():
        st.info("No pair has SSLMem: it needs two views of a picture, or two captions.", icon=":material/info:")
        return
    st.plotly_chart(
        means_figure(means, means[means["name"] == EXTERNAL], title="mean SSLMem (cosine units)"),
        key="encoder-sslmem",
        config=FIXED,
        alt=f"Mean SSLMem of each encoder by group. {_spoken(means)}",
    )
    unknown = {encoder for encoder, own in means.groupby("encoder") if own["mean"].isna().all()}
    missing = ONE_CAPTION if "text" in unknown else SEVERAL_CAPTIONS
    missing += f" {ONE_VIEW}" if "image" in unknown else ""
    st.caption(
        "How much closer an encoder holds the views of one picture (text: the captions of one pair) where it trained "
        f"on the pair than where it did not. {missing} {NULL} {BARS}"
    )


CROPS = {NO_CROPS: "off", STRONG_CROPS: "strong"}
CROP_ORDER = ("off", "normal", "strong")
COLUMNS = {ARM, SEED, CLIPMEM_IMAGE, CLIPMEM_TEXT}


@dataclass(frozen=True)
class Shown:
    """How a plan's results are drawn: its heading, what the figure shows, the figure, and the columns it reads."""

    title: str
    meaning: str
    figure: Callable[[StudyFolder], go.Figure]
    from_table: Callable[[pd.DataFrame], go.Figure]  # the same of the means that a table of results has
    columns: frozenset[str] = frozenset()


def _over(table: pd.DataFrame, *, by: list[str], measures: list[str]) -> pd.DataFrame:
    """Return means over splits, each over its seeds first, with their intervals."""
    return over_seeds(by_split(table, by, measures), by=by, measures=measures)


def time_of(study: StudyFolder) -> go.Figure:
    """Return the figure of contributions by epoch."""
    return time_figure(_over(beyond_external(study.times), by=[EPOCH], measures=list(MEASURES)))


def size_of(study: StudyFolder) -> go.Figure:
    """Return the figure of the text encoder's lead by the widths of both encoders."""
    means = _over(with_lead(study.arms), by=["image_encoder", "text_encoder"], measures=[TEXT_LEAD])
    known = means[means["image_encoder"].isin(FACTORS) & means["text_encoder"].isin(FACTORS)]
    return size_figure(known, widths=tuple(FACTORS))


def views_of(study: StudyFolder) -> go.Figure:
    """Return the figure of contributions by image augmentation and captions."""
    arms = study.arms
    crop = arms["crop_scale"].map(lambda scale: CROPS.get(scale, "normal"))
    arms = arms.assign(crop=crop, captions=arms["captions"].astype(str))
    return views_figure(_over(arms, by=["crop", "captions"], measures=list(MEASURES)), crops=CROP_ORDER)


def _means(rows: pd.DataFrame, names: list[str], pattern: str) -> pd.DataFrame:
    """Return the means of some measures in a table of results, with what the arms' names say; intervals it has none of
    these means."""
    own = rows[rows["measure"].isin(names) & rows.get(EPOCH, pd.Series(index=rows.index)).isna()]
    return (
        own[["measure", "value"]]
        .rename(columns={"value": "mean"})
        .assign(low=math.nan, high=math.nan, **own[ARM].str.extract(pattern))
    )


def time_from(rows: pd.DataFrame) -> go.Figure:
    """Return the figure of contributions by epoch, of a table of results."""
    means = rows[rows[EPOCH].notna()].pivot_table(index=EPOCH, columns="measure", values="value").reset_index()
    parts = beyond_external(means)[[EPOCH, *MEASURES]]
    long = parts.melt(id_vars=[EPOCH], var_name="measure", value_name="mean")
    return time_figure(long.assign(low=math.nan, high=math.nan))


def size_from(rows: pd.DataFrame) -> go.Figure:
    """Return the figure of the text encoder's lead by width, of a table of results."""
    pattern = r"image-(?P<image_encoder>\w+)-text-(?P<text_encoder>\w+)"
    return size_figure(_means(rows, [TEXT_LEAD], pattern), widths=tuple(FACTORS))


def views_from(rows: pd.DataFrame) -> go.Figure:
    """Return the figure of contributions by crops and captions, of a table of results."""
    pattern = r"crops-(?P<crop>\w+)-captions-(?P<captions>\w+)"
    return views_figure(_means(rows, list(MEASURES), pattern), crops=CROP_ORDER)


SHOWN = {
    "time": Shown(
        "Time: which encoder memorizes first?",
        "Each encoder's mean contribution to clipmem of candidates as training goes on, less that of external pairs, "
        "which no model memorized: two models drift apart as a whole, and that is no memorization.",
        time_of,
        time_from,
    ),
    "size": Shown(
        "Size: does the text encoder lead beside a larger image encoder too?",
        "How far the text encoder's contribution leads the image encoder's, with either at half, its own and double "
        "width; below 0 the image encoder would lead.",
        size_of,
        size_from,
        frozenset({"image_encoder", "text_encoder"}),
    ),
    "views": Shown(
        "Views: does text lead only because captions are not varied as pictures are?",
        "Each encoder's contribution with image crops off, as usual and strong, and with one caption a pair or all.",
        views_of,
        views_from,
        frozenset({"crop_scale", "captions"}),
    ),
}


def draw_studies() -> None:
    """Draw the study of each question, the one that the address asks for where there are several."""
    st.caption("Studies train their own members over several seeds; they are about a data set, not about one audit.")
    by_plan: dict[str, dict[str, StudyFolder]] = {plan: {} for plan in SHOWN}
    for study in list_studies():
        with contextlib.suppress(InputError):  # a file that does not say its plan
            by_plan.get(study.asked["study"], {})[study.name] = study
    for plan, shown in SHOWN.items():
        st.subheader(shown.title, anchor=False)
        if named := by_plan[plan]:
            parameter, name = f"study_{plan}", next(iter(named))
            if len(named) > 1:
                key = f"encoders-{parameter}"
                name = choose_listed("Study", list(named), parameter=parameter, key=key, width=260)
            _draw_study(named[name], shown)
        else:
            _draw_reference(plan, shown)
            st.caption(f"No study of your own yet: {STUDIES[plan].question} Command line:")
            st.code(f"python -m clipmem_core study {plan} SOURCE --name {plan} --preset small", language="bash")


def _draw_reference(plan: str, shown: Shown) -> None:
    """Draw the figure of a study that comes with the code, from its table."""
    try:
        named = {study.name: study for study in reference_studies((plan,))}
    except InputError as error:
        draw_fault("A reference study cannot be shown.", error)
        return
    if not named:
        return
    name = next(iter(named))
    if len(named) > 1:
        name = choose_listed("Study", list(named), parameter=f"study_{plan}", key=f"encoders-study_{plan}", width=260)
    study = named[name]
    st.badge("Reference", icon=":material/menu_book:", color="grey")
    show_text(study.title)
    figure = shown.from_table(study.rows).update_layout(legend_title_text="")  # which tells of intervals
    st.plotly_chart(figure, key=f"reference-{name}", config=FIXED, alt=shown.meaning)
    st.caption(f"{shown.meaning} The table that it is drawn from has means over {study.seeds} seeds and no intervals.")


def _draw_study(study: StudyFolder, shown: Shown) -> None:
    """Draw a study's figure and its sentences; a broken one is told, and the others are drawn."""
    try:
        total, arms = _check(study, shown)
        if arms.empty:
            st.info(f"Study of {total} arms and seeds: none is finished yet.", icon=":material/hourglass:")
            return
        figure, told = shown.figure(study), sentences(study)
    except InputError as error:
        draw_fault("This study cannot be shown.", error)
        return
    show_text(f"{study.name}: {study.asked.get('source')}", limit=200)
    st.plotly_chart(figure, key=f"study-{study.name}", config=FIXED, alt=" ".join(told) or shown.meaning)
    for sentence in told:
        show_text(sentence)
    progress = f" The study is not finished: {len(arms)} of {total} arms and seeds are finished." * (len(arms) < total)
    st.caption(f"{shown.meaning} {_seeds(arms)}{progress}")


def _check(study: StudyFolder, shown: Shown) -> tuple[int, pd.DataFrame]:
    """Return how many arms and seeds a study has, and the rows of those that are done."""
    asked, arms, times = study.asked, study.arms, study.times
    missing = [name for name in (*COLUMNS, *shown.columns) if len(arms) and name not in arms]
    if shown.figure is time_of and len(arms):
        missing += [name for name in (EPOCH, SEED, *MEASURES, IMAGE_EXTERNAL, TEXT_EXTERNAL) if name not in times]
    if missing:
        lacks = ", ".join(sorted(missing))
        raise InputError(f"{study.folder} lacks {lacks}: delete it and run the study again")
    return len(asked["arms"]) * asked["config"]["seeds"], arms


def _seeds(arms: pd.DataFrame) -> str:
    seeds, over = arms.groupby(ARM)[SPLIT if SPLIT in arms else SEED].nunique(), replicates(arms)
    fewest, most = seeds.min(), seeds.max()
    if fewest >= MIN_REPLICATES:
        return f"Bars are 95 % intervals over {fewest if fewest == most else f'{fewest} to {most}'} {over}."
    few = f"where an arm has {MIN_REPLICATES} or more; some have {fewest} so far"
    return f"Bars are 95 % intervals over {over}, {few}."
