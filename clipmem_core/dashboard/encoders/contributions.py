"""The view of the encoders' parts of clipmem: pair by pair, as means, SSLMem, and what there is to doubt."""

from pathlib import Path

import pandas as pd
import streamlit as st

from clipmem_core.audits.store import Audit
from clipmem_core.columns import CLIPMEM_IMAGE, CLIPMEM_TEXT, EXTERNAL, GROUP, GROUPS, INDEPENDENT, LABEL, PLANTED
from clipmem_core.dashboard.address import choose_segment
from clipmem_core.dashboard.errors import explained_errors
from clipmem_core.dashboard.maps import draw_selectable
from clipmem_core.dashboard.plain import show_text
from clipmem_core.figures.clouds import contribution_figure
from clipmem_core.figures.encoder_page import means_figure
from clipmem_core.figures.layout import in_words
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

COLOUR, BY = "colour", "by"  # in the address
COLOUR_KEY, BY_KEY = "encoder-colour", "encoder-by"
LABELS_SHOWN = 12
FIXED = {"displayModeBar": False}
WHAT = {GROUP: "Group", LABEL: "Label", PLANTED: "Planted kind"}
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
NULL = "Dotted lines: the same over external pairs, which nobody memorized."
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
        st.caption(f"{which} locked: its part of clipmem is what the head on it learned by heart.")
    for doubt in doubts(groups, fit):
        st.warning(doubt, icon=":material/warning:")
    told = "This audit does not say how well the map between the members' spaces fits."
    if fit is not None:
        told = (
            "Two members put the same picture at different places, so one's embeddings are turned into the other's "
            "space before their encoders are exchanged. How well that works is tried on pairs that the turn was not "
            f"fitted on: embeddings come to lie where they belong to a mean cosine of {fit:.2f}, 1 is perfect."
        )
    null = groups[(groups["name"] == EXTERNAL) & groups["mean"].notna()]
    parts = " and ".join(f"{row['mean']:+.3f} {row['encoder']}" for row in null.to_dict("records")).replace("-", "−")
    st.caption(f"{told} On external pairs, which nobody memorized, the parts are {parts}." if parts else told)


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
        st.info(f"No pair of this audit has a {WHAT[by].lower()} and contributions.", icon=":material/info:")
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
