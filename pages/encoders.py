"""Which encoder memorized what: their parts of clipmem, and UnitMem by layer."""

from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core.auditing.folder.jobs import JobRequest, jobs_folder
from clipmem_core.auditing.folder.store import PAIRS, Audit
from clipmem_core.dashboard.cards import CAPTION_LIMIT, draw_cells
from clipmem_core.dashboard.maps import CLASSES, draw_scatter
from clipmem_core.dashboard.page import choose_segment, draw_job_request, open_page
from clipmem_core.dashboard.plain import cut, draw_figure, show_strong, show_text
from clipmem_core.figures import ENCODER_COLOURS, Line, line_figure, means_figure
from clipmem_core.lab import encoders as t
from clipmem_core.review import overview as o
from clipmem_core.review.cards import cards
from clipmem_core.utils import columns as c

VIEWS = {"parts": ":material/call_split: Parts of clipmem", "units": ":material/blur_on: Units"}
SOURCES = {  # name and dash
    t.MEMBERS: ("trained members", "solid"),
    t.BEFORE: ("before training", "dash"),
    t.SEEN: ("as many training pairs", "dot"),
    t.UNSEEN: ("pairs never trained on", "dashdot"),
}
TOP_UNITS = 4  # of each encoder
BARS = "Bars: 95 % interval over pairs. Dotted: mean of held-out pairs, which no model trained on."
MIRRORED = "Independent pairs were learned by g, which is subtracted: theirs are negative."
SSLMEM = (
    "How much closer an encoder puts two views of a picture, or two captions of it, if it trained "
    "on them."
)
UNITMEM = (
    "UnitMem is 1 for a unit that fires for one pair alone: (max − mean of the other pairs) / (max "
    "+ mean of the other pairs) of its activations. Shown is the mean over the units of a layer; "
    "bars go from the lowest to the highest member. Only what lies above the dashed lines (before "
    "training, and for pairs never trained on) can be memorization."
)


def draw_missing(audit: Audit, kind: str, table: Any, reason: str, label: str) -> None:
    """Draw the button that computes a table, a job of its kind, if there is none, or the progress
    of the job."""
    request = JobRequest(jobs_folder() / ".encoders" / audit.name / kind, [kind, audit.name])
    job = request.find()
    if table is None or (job is not None and job.running):
        draw_job_request(request, reason=reason, label=label)


def draw_parts(audit: Audit) -> None:
    """Draw the parts of the encoders in clipmem, by pair and as means, and SSLMem."""
    towers = o.locked_towers(audit.record.config)
    if t.read_comparison(audit) is None:
        show_strong(f"{'Heads: ' * (len(towers) == 2)}{o.encoder_line(audit.verdict)}")
    if len(towers) == 1:
        st.caption(
            "One encoder is pretrained and did not train here; its part is of the head on it."
        )
    fit = audit.verdict["encoders"]["fit"]
    if fit is not None:
        draw = st.warning if fit < o.POOR_FIT else st.caption
        draw(
            "Encoders of two models are compared after a rotation (cosine "
            f"{fit:.2f} on pairs it was not fitted on; 1 is perfect). Below {o.POOR_FIT} do not "
            "rely on the two parts."
        )
    st.subheader("Text against image encoder, pair by pair")
    draw_scatter(audit, c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT)

    st.subheader("Mean parts")
    has_value = audit.read_columns(PAIRS, c.LABEL, c.INJECTED).notna().any()
    classes = {column: name for column, name in CLASSES.items() if has_value.get(column, True)}
    by = choose_segment("By", classes, parameter="by")
    groups = c.GROUPS if by == c.GROUP else c.TARGET_GROUPS
    means = o.encoder_means(audit, by=by, groups=groups)
    null = o.encoder_means(audit, groups=[c.HELD_OUT])
    is_mirrored = by == c.GROUP and (means["name"] == c.INDEPENDENT).any()
    absent = f"No pair has both parts and a value of {CLASSES[by].lower()}."
    draw_bars(means, null, "part of clipmem", f"{BARS} {MIRRORED if is_mirrored else ''}", absent)

    st.subheader("SSLMem: each encoder alone")
    means = o.encoder_means(audit, o.SSLMEM)
    null = means[means["name"] == c.HELD_OUT]
    absent = "Not available: this needs two captions of a picture, or an encoder that trains."
    draw_bars(means, null, "SSLMem", f"{SSLMEM} {BARS}", absent)


def draw_bars(means: pd.DataFrame, null: pd.DataFrame, score: str, note: str, absent: str) -> None:
    """Draw means of a score of both encoders."""
    if means["mean"].isna().all():
        st.info(absent)
        return
    figure = means_figure(means, null, title=f"mean {score} (cosine units)")
    draw_figure(figure, key=f"encoder-{score}", alt=f"Mean {score} of each encoder")
    st.caption(note)


def draw_units(audit: Audit) -> None:
    """Draw UnitMem by layer, or the button that measures it."""
    st.subheader("UnitMem by layer")
    if locked := o.locked_towers(audit.record.config):
        st.info(
            f"Not available: the {' and the '.join(locked)} encoder did not train here. Train "
            "encoders above."
        )
        return
    units = t.read_units(audit)
    reason = "UnitMem has not been measured in this audit yet."
    draw_missing(audit, "units", units, reason, "Measure units")
    if units is not None:
        references = t.read_units(audit, t.REFERENCES)
        layers = t.tower_layers(units, references)
        groups: Any = layers.groupby([t.TOWER, t.SOURCE], sort=False)
        lines: list[Line] = [
            (f"{tower}: {SOURCES[source][0]}", rows, ENCODER_COLOURS[tower], SOURCES[source][1])
            for (tower, source), rows in groups
        ]
        figure = line_figure(lines, t.LAYER, ("layer", "mean UnitMem"))
        draw_figure(figure, key="units", alt="Mean UnitMem of both encoders by layer")
        members = f"{units[c.MEMBER].nunique()} of {len(audit.record.members)} members"
        st.caption(f"{UNITMEM} Measured on {members} and all pairs that each trained on.")
        if references is not None:
            draw_top_units(audit, units, references)


def draw_top_units(audit: Audit, units: pd.DataFrame, references: pd.DataFrame) -> None:
    """Draw the units of the first member with the highest UnitMem, with the pair that each fires
    for."""
    show_text(t.where_line(references))
    st.subheader("The most memorizing units")
    risen = t.risen_units(units, references)
    for tower, of_tower in risen.groupby(t.TOWER, sort=False):
        top = of_tower.nlargest(TOP_UNITS, t.RISE)
        shown = cards(audit, top[t.ROW].tolist())
        cells = draw_cells(audit, shown, "auto", min_column_width=165, key=f"units-{tower}")
        for card, unit in zip(cells, top.to_dict("records"), strict=True):
            name = f"{tower} encoder, layer {unit[t.LAYER]}, unit {unit[t.UNIT]}"
            after = unit[t.UNITMEM_MEAN]
            st.caption(f"{name}: UnitMem {after - unit[t.RISE]:.2f} → {after:.2f}")
            show_text(cut(card.current[0], CAPTION_LIMIT))
    st.caption(
        f"Of member {audit.record.members[0]}: the units whose UnitMem rose most in training, and "
        "the pair that each fires for, which the member trained on."
    )


with open_page("Encoders") as audit:
    second = Audit.of(t.encoders_name(audit))
    tables: dict[Audit, Any] = {each: t.read_comparison(each) for each in (second, audit)}
    config = audit.record.config
    if config.lock_image and config.lock_text and not (config.unlock or config.features):
        pairs = min(audit.record.pairs, t.SAMPLE)
        draw_missing(
            audit,
            "encoders",
            tables[second],
            "Both encoders are pretrained and locked: the figures below are of the small heads on "
            "them, which cannot tell what an encoder memorizes.",
            f"Train encoders on {pairs:,} of these pairs (about "
            f"{max(2, round(7 * pairs / t.SAMPLE))} minutes)",
        )
    audits = {each.name: each for each, table in tables.items() if table is not None}
    for each, table in tables.items():
        if table is None:
            continue
        show_strong(o.model_words(each.record.config))
        for line in t.comparison_lines(table):
            show_text(line)
        st.caption(t.paper_line(table))
    if audits:
        st.caption(
            "Parts of clipmem, mean [95 % interval of the difference, over members and pairs]. A "
            "head is a linear map or two layers on an encoder that did not train."
        )
    audits[audit.name] = audit
    names = {name: o.model_words(each.record.config) for name, each in audits.items()}
    shown = audits[choose_segment("What trained", names, parameter="trained")]
    view = choose_segment("View", VIEWS, parameter="view", hidden=True)
    if view == "parts":
        draw_parts(shown)
    else:
        draw_units(shown)
