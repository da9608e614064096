"""Which encoder memorized what: their parts of clipmem, and UnitMem by layer and paradigm."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import streamlit as st

from clipmem_core.auditing.folder.jobs import JobRequest, jobs_folder
from clipmem_core.auditing.folder.store import PAIRS, Audit
from clipmem_core.dashboard.cards import CAPTION_LIMIT, draw_cells
from clipmem_core.dashboard.maps import CLASSES, draw_scatter
from clipmem_core.dashboard.page import choose_segment, open_page
from clipmem_core.dashboard.plain import (
    cut,
    draw_figure,
    show_strong,
    show_text,
)
from clipmem_core.dashboard.running_audit import draw_job_request
from clipmem_core.figures import (
    ENCODER_COLOURS,
    Line,
    contribution_figure,
    line_figure,
    means_figure,
)
from clipmem_core.lab import encoders as t
from clipmem_core.review import overview as o
from clipmem_core.review.cards import cards
from clipmem_core.utils import columns as c

VIEWS = {"parts": ":material/call_split: Parts of clipmem", "units": ":material/blur_on: Units"}
# Colour, and the mean UnitMem of layers 1 and 12 in the paper: digitised from a figure of "Captured
# by Captions" (ICLR 2025).
PARADIGMS = {
    t.CLIP: ("#c2487a", (0.272, 0.411)),
    t.SUPERVISED: ("#1479b8", (0.265, 0.477)),
    t.SELF_SUPERVISED: ("#008f6b", (0.339, 0.376)),
}
SOURCES = {  # name and dash
    t.MEMBERS: ("trained members", "solid"),
    t.BEFORE: ("before training", "dash"),
    t.SEEN: ("as many training pairs", "dot"),
    t.UNSEEN: ("pairs never trained on", "dashdot"),
}
_TOP_UNITS = 4  # of each encoder
_BARS = "Bars: 95 % interval over pairs. Dotted: mean of held-out pairs, which no model trained on."
_MIRRORED = "Independent pairs were learned by g, which is subtracted: theirs are negative."
_SSLMEM = (
    "How much closer an encoder puts two views of a picture, or two captions of it, if it trained "
    "on them."
)
_MISSING = {  # by kind of job: why there is nothing to show yet, and its button
    "units": ("UnitMem has not been measured in this audit yet.", "Measure units"),
    "paradigms": (
        "The image encoder has not been trained with captions, labels and self-supervision yet. "
        "This trains up to nine models of the audit's size.",
        "Train three ways",
    ),
}
_UNITMEM = (
    "UnitMem is 1 for a unit that fires for one pair alone: (max − mean of the other pairs) / (max "
    "+ mean of the other pairs) of its activations. Shown is the mean over the units of a layer; "
    "bars go from the lowest to the highest member. Only what lies above the dashed lines (before "
    "training, and for pairs never trained on) can be memorization."
)


def with_encoders(audit: Audit) -> Audit:
    """Return the audit that trained encoders on pairs of an audit, if it is finished and compared;
    else the audit itself."""
    second = Audit.of(t.encoders_name(audit))
    return audit if t.read_comparison(second) is None else second


def draw_answer(audit: Audit) -> None:
    """Say which encoder memorized more, by what trained; offer to train encoders."""
    second = with_encoders(audit)
    config = audit.record.config
    if config.lock_image and config.lock_text and not (config.unlock or config.features):
        _draw_offer(audit)
    compared = [
        each for each in dict.fromkeys((second, audit)) if t.read_comparison(each) is not None
    ]
    for each in compared:
        table = t.read_comparison(each)
        assert table is not None
        show_strong(t.trained_words(each.record.config))
        for line in t.comparison_lines(table):
            show_text(line)
        st.caption(t.paper_line(table))
    if compared:
        st.caption(
            "Parts of clipmem, mean [95 % interval of the difference, over members and pairs]. A "
            "head is a linear map or two layers on an encoder that did not train."
        )


def _draw_offer(audit: Audit) -> None:
    """Draw the button that trains encoders on pairs of an audit, until they are compared."""
    task = JobRequest(
        jobs_folder() / ".encoders" / audit.name / "encoders", ["encoders", audit.name]
    )
    job = task.find()
    second = Audit.of(t.encoders_name(audit))
    if t.read_comparison(second) is not None and not (job and job.running):
        return
    pairs = min(audit.record.pairs, t.SAMPLE)
    minutes = max(2, round(7 * pairs / t.SAMPLE))
    draw_job_request(
        task,
        lambda: t.read_comparison(second) is not None,
        reason="Both encoders are pretrained and locked: the figures below are of the small heads "
        "on them, which cannot tell what an encoder memorizes.",
        label=f"Train encoders on {pairs:,} of these pairs (about {minutes} minutes)",
    )


def draw_parts(audit: Audit) -> None:
    """Draw the parts of the encoders in clipmem, by pair and as means, and SSLMem."""
    _draw_finding(audit)
    st.subheader("Text against image encoder, pair by pair")
    draw_scatter(audit, c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT, contribution_figure)
    _draw_means(audit)
    st.subheader("SSLMem: each encoder alone")
    means = o.encoder_means(audit, o.SSLMEM)
    _draw_bars(
        means,
        means[means["name"] == c.HELD_OUT],
        score="SSLMem",
        note=f"{_SSLMEM} {_BARS}",
        absent="Not available: this needs two captions of a picture, or an encoder that trains.",
    )


def _draw_finding(audit: Audit) -> None:
    """Draw which encoder memorized more and how that is measured, and warn if it is doubtful."""
    encoders = audit.verdict["encoders"]
    if missing := encoders["missing"]:
        st.warning("Encoder parts are not available in this audit; all other scores are.")
        show_text(missing, limit=500)
        return
    if t.read_comparison(audit) is None:
        heads = "Heads: " if len(o.locked_towers(audit.record.config)) == 2 else ""
        show_strong(f"{heads}{o.encoder_line(audit.verdict)}")
    if len(o.locked_towers(audit.record.config)) == 1:
        st.caption(
            "One encoder is pretrained and did not train here; its part is of the head on it."
        )
    fit = encoders["fit"]
    for doubt in o.encoder_doubts(o.encoder_means(audit), fit):
        st.warning(doubt)
    if fit is not None:
        st.caption(
            "Encoders of two models are compared after a rotation (cosine "
            f"{fit:.2f} on pairs it was not fitted on; 1 is perfect)."
        )


def _draw_means(audit: Audit) -> None:
    """Draw the mean part of each encoder by group, label or injected error."""
    st.subheader("Mean parts")
    has_value = audit.read_columns(PAIRS, c.LABEL, c.INJECTED).notna().any()
    classes = {column: name for column, name in CLASSES.items() if has_value.get(column, True)}
    by = choose_segment("By", classes, parameter="by")
    groups = c.GROUPS if by == c.GROUP else c.TARGET_GROUPS
    means = o.encoder_means(audit, by=by, groups=groups)
    means = means[: 0 if set(means["name"]) <= {o.NOT_INJECTED} else None]
    mirrored = by == c.GROUP and (means["name"] == c.INDEPENDENT).any()
    _draw_bars(
        means,
        o.encoder_means(audit, groups=[c.HELD_OUT]),
        score="part of clipmem",
        note=f"{_BARS} {_MIRRORED if mirrored else ''}",
        absent=f"No pair has both parts and a value of {CLASSES[by].lower()}.",
    )


def _draw_bars(
    means: pd.DataFrame, null: pd.DataFrame, *, score: str, note: str, absent: str
) -> None:
    if means["mean"].isna().all():
        st.info(absent)
        return
    figure = means_figure(means, null, title=f"mean {score} (cosine units)")
    draw_figure(figure, key=f"encoder-{score}", alt=f"Mean {score} of each encoder")
    st.caption(note)


def draw_units(audit: Audit) -> None:
    """Draw UnitMem by layer and under the three paradigms, or the buttons that measure them."""
    st.subheader("UnitMem by layer")
    if locked := o.locked_towers(audit.record.config):
        st.info(
            f"Not available: the {' and the '.join(locked)} encoder did not train here. Train "
            "encoders above."
        )
        return
    units = _draw_measured(audit, "units", t.read_units)
    if units is not None:
        layers = t.tower_layers(units, t.read_units(audit, t.REFERENCES))
        lines: list[Line] = []
        for tower, colour in ENCODER_COLOURS.items():
            for source, (name, dash) in SOURCES.items():
                rows = layers[(layers[t.TOWER] == tower) & (layers[t.SOURCE] == source)]
                lines.append((f"{tower}: {name}", rows, colour, dash))
        figure = line_figure(lines, t.LAYER, ("layer", "mean UnitMem"))
        figure.update_xaxes(tickvals=sorted(set(layers[t.LAYER])))
        draw_figure(figure, key="units", alt="Mean UnitMem of both encoders by layer")
        members = f"{units[c.MEMBER].nunique()} of {len(audit.record.members)} members"
        st.caption(f"{_UNITMEM} Measured on {members} and all pairs that each trained on.")
        _draw_top_units(audit, units)
    if audit.record.config.unlock:  # paradigms train whole encoders
        return
    st.subheader("Claim 1: three paradigms")
    table = _draw_measured(audit, "paradigms", t.read_paradigms)
    if table is not None:
        sentence = t.claim_1(table)
        layers = t.paradigm_layers(table)
        lines = []
        for name, (colour, paper) in PARADIGMS.items():
            means = {t.DEPTH: (0.0, 1.0), "mean": paper, "low": np.nan, "high": np.nan}
            lines.append((name, layers[layers[t.PARADIGM] == name], colour, "solid"))
            lines.append((f"{name}, paper (digitised)", pd.DataFrame(means), colour, "dash"))
        figure = line_figure(
            lines, t.DEPTH, ("relative depth: 0 first layer, 1 last layer", "mean UnitMem")
        )
        draw_figure(figure, key="paradigms", alt=f"Mean UnitMem by depth. {sentence}")
        st.markdown(sentence)
        st.caption(
            "The same image encoder on the same pictures, trained with captions (CLIP), labels and "
            "self-supervision (SimCLR); bars are 95 % intervals from three seeds on. Dashed: the "
            "paper's first and last layer (digitised), of other models on other data: compare the "
            "order of the paradigms and the rise with depth, not the height."
        )


def _draw_top_units(audit: Audit, units: pd.DataFrame) -> None:
    """Draw the units of the first member with the highest UnitMem, with the pair that each fires
    for."""
    references = t.read_units(audit, t.REFERENCES)
    if references is None:
        return
    show_text(t.where_line(references))
    st.subheader("The most memorizing units")
    first = t.risen_units(units, references)
    for tower in t.TOWERS:
        top = first[first[t.TOWER] == tower].nlargest(_TOP_UNITS, t.RISE)
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


def _draw_measured(
    audit: Audit, kind: str, read: Callable[[Audit], pd.DataFrame | None]
) -> pd.DataFrame | None:
    """Return a measurement, None if it is missing; draw its job then, and while it runs again."""
    task = JobRequest(jobs_folder() / ".encoders" / audit.name / kind, [kind, audit.name])
    reason, label = _MISSING[kind]
    job = task.find()
    table = read(audit)
    if table is None or (job is not None and job.running):
        draw_job_request(task, lambda: read(audit) is not None, reason=reason, label=label)
    return table


with open_page("Encoders") as audit:
    draw_answer(audit)
    audits = {each.name: each for each in dict.fromkeys((with_encoders(audit), audit))}
    names = {name: t.trained_words(each.record.config) for name, each in audits.items()}
    shown = audits[choose_segment("What trained", names, parameter="trained")]
    view = choose_segment("View", VIEWS, parameter="view", hidden=True)
    if view == "parts":
        draw_parts(shown)
    else:
        draw_units(shown)
