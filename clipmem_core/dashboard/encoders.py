"""The page Encoders: their parts of clipmem, and UnitMem by layer and paradigm."""

from collections.abc import Callable

import pandas as pd
import streamlit as st

from clipmem_core import columns as c
from clipmem_core.auditing.jobs import JobRequest, jobs_folder
from clipmem_core.auditing.store import PAIRS, Audit
from clipmem_core.dashboard.maps import CLASSES, draw_scatter
from clipmem_core.dashboard.page import choose_segment
from clipmem_core.dashboard.plain import draw_figure, explained_errors, show_strong, show_text
from clipmem_core.dashboard.running_audit import draw_job_request
from clipmem_core.figures import contribution_figure, means_figure
from clipmem_core.lab import unit_tables as t
from clipmem_core.lab.lab_figures import paradigm_figure, unitmem_figure
from clipmem_core.review import overview as o

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


def draw_parts(audit: Audit) -> None:
    """Draw the parts of the encoders in clipmem, by pair and as means, and SSLMem."""
    _draw_finding(audit)
    _draw_map(audit)
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
    show_strong(o.encoder_line(audit.verdict))
    if locked := list(o.locked_towers(audit.record.config)):
        which = "Both encoders are" if len(locked) == 2 else f"The {locked[0]} encoder is"
        st.caption(
            f"{which} pretrained and did not train here; these figures are of the small heads on "
            f"{'them' if len(locked) == 2 else 'it'}. To compare whole encoders, audit with the "
            "preset small."
        )
    fit = encoders["fit"]
    for doubt in o.encoder_doubts(o.encoder_means(audit), fit):
        st.warning(doubt)
    if fit is not None:
        st.caption(
            "Encoders of two models are compared after a rotation (cosine "
            f"{fit:.2f} on pairs it was not fitted on; 1 is perfect)."
        )


@st.fragment
def _draw_map(audit: Audit) -> None:
    """Draw the pairs; only this fragment reruns when the colours change or a shape is drawn."""
    st.subheader("Text against image encoder, pair by pair")
    with explained_errors():
        draw_scatter(audit, c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT, contribution_figure)


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
            f"Not available: the {' and the '.join(locked)} encoder did not train here. For "
            "UnitMem, audit the data set with --preset small."
        )
        return
    units = _draw_measured(audit, "units", t.read_units)
    if units is not None:
        layers = t.tower_layers(units, t.read_units(audit, t.REFERENCES))
        alt = "Mean UnitMem of both encoders by layer"
        draw_figure(unitmem_figure(layers), key="units", alt=alt)
        members = f"{units[c.MEMBER].nunique()} of {len(audit.record.members)} members"
        st.caption(f"{_UNITMEM} Measured on {members} and all pairs that each trained on.")
    st.subheader("Claim 1: three paradigms")
    table = _draw_measured(audit, "paradigms", t.read_paradigms)
    if table is not None:
        sentence = t.claim_1(table)
        figure = paradigm_figure(t.paradigm_layers(table))
        draw_figure(figure, key="paradigms", alt=f"Mean UnitMem by depth. {sentence}")
        st.markdown(sentence)
        st.caption(
            "The same image encoder on the same pictures, trained with captions (CLIP), labels and "
            "self-supervision (SimCLR); bars are 95 % intervals from three seeds on. Dashed: the "
            "paper's first and last layer (digitised), of other models on other data: compare the "
            "order of the paradigms and the rise with depth, not the height."
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
