"""Which encoder memorized what: their parts of clipmem, and UnitMem by layer and paradigm."""

from collections.abc import Callable

import streamlit as st

from clipmem_core import columns as c
from clipmem_core.audit import unit_tables as t
from clipmem_core.audit.jobs import PARADIGMS, UNITS, Task, jobs_folder
from clipmem_core.audit.store import Audit
from clipmem_core.dashboard.maps import draw_selectable, sample_note
from clipmem_core.dashboard.page import choose_segment, open_page
from clipmem_core.dashboard.plain import explained_errors, show_text
from clipmem_core.dashboard.running import draw_task
from clipmem_core.figures import studies as f
from clipmem_core.figures.audit_scores import contribution_figure
from clipmem_core.review import score_breakdown as b
from clipmem_core.review.overview import locked_towers, points_and_density
from clipmem_core.review.selection import Selection

_LABELS_SHOWN = 12
_CHART = {"displayModeBar": False}
CLASSES = {c.GROUP: "Group", c.LABEL: "Label", c.INJECTED: "Injected error"}
BARS = (
    "Bars: mean ± 1.96 standard errors over pairs. Dotted: the same over external pairs, "
    "which no model memorized."
)
_MIRRORED = "Independent pairs were learned by g, which is subtracted: theirs are negative."
SSLMEM = (
    "How much closer an encoder puts the views of one picture (text: the captions of one pair) "
    "if it trained on the "
    "pair. It needs two captions, or two views of the picture, which a locked tower does not have."
)
MISSING = {  # by kind of job: why there is nothing to show yet, and its button
    UNITS: ("UnitMem has not been measured in this audit yet.", "Measure units"),
    PARADIGMS: (
        "The image encoder has not been trained with captions, labels and self-supervision yet. "
        "This trains up to nine "
        "models of the audit's size.",
        "Train three ways",
    ),
}
UNITMEM_MEANING = (
    "UnitMem of a unit: (max − mean of the other pairs) / (max + mean of the other pairs) over "
    "its activations; 1 is a "
    "unit that fires for one pair alone. Shown is the mean over the units of a layer; bars go "
    "from the lowest to the "
    "highest member. Only the part above the dashed lines, before training and for pairs never "
    "trained on, can be "
    "memorization."
)
PARADIGMS_MEANING = (
    "The same image encoder on the same pictures, trained with captions (CLIP), labels and "
    "self-supervision (SimCLR); "
    "bars are 95 % intervals from three seeds on. Dashed: the paper's first and last layer "
    "(digitised), of other "
    "models on other data: compare the order of the paradigms and the rise with depth, not the "
    "height."
)


def draw_doubts(audit: Audit) -> None:
    """Draw how well the members' spaces map onto each other, and warn if the split is doubtful."""
    encoders = audit.verdict.get("encoders", {})
    if missing := encoders.get("missing"):
        st.warning(
            "Encoder parts are not available in this audit; all other scores are.",
            icon=":material/warning:",
        )
        show_text(missing, limit=500)
        return
    if locked := locked_towers(audit.record.config):
        st.caption(
            f"Locked: {' and '.join(locked)}. The part of a locked tower is what the head on it "
            "memorized."
        )
    fit = encoders.get("fit")
    for doubt in b.encoder_doubts(b.encoder_means(audit), fit):
        st.warning(doubt, icon=":material/warning:")
    if fit is not None:
        st.caption(
            "The embedding spaces of two models differ: one is rotated onto the other before "
            "encoders are exchanged. "
            f"On pairs that the rotation was not fitted on: mean cosine {fit:.2f}; 1 is perfect."
        )


@st.fragment
def draw_contribution_map(audit: Audit) -> None:
    """Draw the pairs; only this fragment reruns when the colours change or a shape is drawn."""
    st.subheader("Text against image encoder, pair by pair", anchor=False)
    with explained_errors():
        points, density, count = points_and_density(
            audit, *b.PARTS.values(), colour_by=tuple(CLASSES)
        )
        if points.empty:
            st.info("No pair has contributions of both encoders.", icon=":material/info:")
            return
        classes = {name: label for name, label in CLASSES.items() if points[name].notna().any()}
        colour_by = choose_segment(
            "Colour", classes, parameter="colour", key="encoder-colour", default=c.GROUP
        )
        draw_selectable(
            audit,
            contribution_figure(points, colour_by=colour_by, density=density),
            selection=Selection(),
            columns=(c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT),
            key=f"contributions-{audit.name}",
            alt=f"{count:,} pairs: the text encoder's part of clipmem against the image encoder's.",
        )
    if note := sample_note(len(points), count):
        st.caption(note)


def draw_means(audit: Audit) -> None:
    """Draw the mean part of each encoder by group, label or injected error."""
    st.subheader("Mean parts", anchor=False)
    by = choose_segment("By", CLASSES, parameter="by", key="encoder-by")
    means = b.encoder_means(
        audit, by=by, limit=_LABELS_SHOWN, groups=c.GROUPS if by == c.GROUP else c.TARGET_GROUPS
    )
    if means["mean"].isna().all() or set(means["name"]) <= {b.NOT_INJECTED}:
        st.info(
            f"No pair has contributions and a value of {CLASSES[by].lower()}.",
            icon=":material/info:",
        )
        return
    null = b.encoder_means(audit, groups=[c.EXTERNAL])
    st.plotly_chart(
        f.means_figure(means, null, title="mean part of clipmem (cosine units)"),
        key=f"encoder-means-{by}",
        config=_CHART,
        alt=f"Mean part of each encoder by {by}",
    )
    mirrored = by == c.GROUP and (means["name"] == c.INDEPENDENT).any()
    st.caption(f"{BARS} {_MIRRORED if mirrored else ''}".strip())


def draw_sslmem(audit: Audit) -> None:
    """Draw the mean SSLMem of each encoder."""
    st.subheader("SSLMem: each encoder alone", anchor=False)
    means = b.encoder_means(audit, b.SSLMEM)
    if means["mean"].isna().all():
        st.info(
            "No pair has SSLMem: it needs two views of a picture, or two captions.",
            icon=":material/info:",
        )
        return
    st.plotly_chart(
        f.means_figure(
            means, means[means["name"] == c.EXTERNAL], title="mean SSLMem (cosine units)"
        ),
        key="encoder-sslmem",
        config=_CHART,
        alt="Mean SSLMem of each encoder by group",
    )
    st.caption(f"{SSLMEM} {BARS}")


def draw_units(audit: Audit) -> None:
    """Draw UnitMem by layer, or the button that measures it."""
    st.subheader("UnitMem by layer", anchor=False)
    if locked := locked_towers(audit.record.config):
        st.info(
            "UnitMem and the three paradigms need encoders that are trained on the pairs: audit "
            "the data set with "
            f"another preset, such as small. Locked here: {' and '.join(locked)}.",
            icon=":material/lock:",
        )
        return
    _draw_task(audit, UNITS, lambda: t.read_units(audit) is not None)
    units = t.read_units(audit)
    if units is None:
        return
    references = t.read_units(audit, t.REFERENCES)
    layers = b.tower_layers(units, references)
    st.plotly_chart(
        f.unitmem_figure(layers),
        key="units",
        config=_CHART,
        alt="Mean UnitMem of both encoders by layer",
    )
    members = f"{units[c.MEMBER].nunique()} of {len(audit.record.members)} members"
    st.caption(f"{UNITMEM_MEANING} Measured on {members} and all pairs that each trained on.")


def draw_paradigms(audit: Audit) -> None:
    """Draw UnitMem under the three paradigms, or the button that trains them; nothing if a tower is
    locked."""
    if locked_towers(audit.record.config):
        return
    st.subheader("Claim 1: three paradigms", anchor=False)
    _draw_task(audit, PARADIGMS, lambda: t.read_paradigms(audit) is not None)
    table = t.read_paradigms(audit)
    if table is not None:
        figure = f.paradigm_figure(b.paradigm_layers(table))
        sentence = b.claim_1(table)
        st.plotly_chart(
            figure, key="paradigms", config=_CHART, alt=f"Mean UnitMem by depth. {sentence}"
        )
        st.markdown(sentence)
        st.caption(PARADIGMS_MEANING)


def _draw_task(audit: Audit, kind: str, is_done: Callable[[], bool]) -> None:
    """Draw the job of a measurement that is missing or is running again."""
    task = Task(jobs_folder() / ".encoders" / audit.name / kind, [kind, audit.name])
    (reason, label) = MISSING[kind]
    job = task.find()
    if not is_done() or (job is not None and job.running):
        draw_task(task, is_done, key=kind, reason=reason, label=label)


_VIEWS = {
    "parts": (
        ":material/call_split: Parts of clipmem",
        [draw_doubts, draw_contribution_map, draw_means, draw_sslmem],
    ),
    "units": (":material/blur_on: Units", [draw_units, draw_paradigms]),
}
_VIEW = "view"  # in the address

audit = open_page("Encoders")
with explained_errors():
    names = {view: name for view, (name, _) in _VIEWS.items()}
    view = choose_segment("View", names, parameter=_VIEW, key="encoders-view", hidden=True)
    for draw in _VIEWS[view][1]:
        draw(audit)
