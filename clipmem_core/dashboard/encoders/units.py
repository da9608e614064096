"""An audit → UnitMem of both encoders by layer, beside what it is read against; the list of units; or how to get it."""

import pandas as pd
import streamlit as st

from clipmem_core.audits.jobs import SAMPLE, UNITS
from clipmem_core.audits.store import Audit
from clipmem_core.audits.units import (
    BEFORE,
    IMAGE_TOWER,
    SEEN,
    TEXT_TOWER,
    TOWER,
    UNITMEM_MEDIAN,
    UNSEEN,
    listed_members,
    measured_samples,
    read_references,
    read_units,
)
from clipmem_core.columns import MEMBER
from clipmem_core.dashboard.choices import choose_segment
from clipmem_core.dashboard.encoders.unit_list import draw_unit_list
from clipmem_core.dashboard.encoders.waiting import at_work, draw_buttons, draw_waiting
from clipmem_core.figures.units import axis_span, tower_figure
from clipmem_core.review.unit_ranks import MEMBERS, SOURCE, VARIANTS, tower_layers

VARIANT = "variant"  # in the address
KEY = "unit-variant"
FIXED = {"displayModeBar": False}
BUTTONS = {f"Measure on {SAMPLE:,} pairs": SAMPLE, "Measure on all pairs": 0}
NAMES = {"mean": "against the mean (the paper)", "median": "against the median (its code)"}
WHAT = (
    "UnitMem says how far the one pair that sets a unit off most stands out from all the others: "
    "(max − rest) / (max + rest), 1 is a unit that fires for one pair alone. Shown is the mean over the units of a "
    "layer; bars go from the lowest to the highest member. Activations below 0 count as 0."
)


def draw_units(audit: Audit) -> None:
    """Draw UnitMem by layer and the units that stand out most; where nothing is measured, how to get it."""
    st.subheader("UnitMem by layer", anchor=False)
    samples = measured_samples(audit)
    if not samples or at_work(audit, UNITS):
        why = "The units of this audit's encoders are not measured yet. It takes about as long as embedding its pairs."
        draw_waiting(audit, UNITS, buttons=BUTTONS, why=why, done=lambda one: bool(measured_samples(one)))
    if not samples:
        return
    sample = samples[0]
    units, references = read_units(audit, sample=sample), read_references(audit, sample=sample)
    if units is None:
        return
    variant = draw_variant()
    _draw_towers(units, references, variant)
    st.caption(f"{WHAT} {measured_sentence(audit, units, sample)} {median_sentence(units, variant)}".strip())
    if references is not None and units[MEMBER].isin(references[MEMBER]).any():
        st.markdown(reference_sentence(units, references, column=VARIANTS[variant]))
    draw_unit_list(audit, units, column=VARIANTS[variant])
    if sample or references is None or units[MEMBER].nunique() < len(listed_members(audit)):
        with st.expander("Measure more", icon=":material/add:"):
            draw_buttons(audit, UNITS, BUTTONS)


def draw_variant() -> str:
    """Draw the choice of what the largest activation is held against, and return it."""
    return choose_segment("The other pairs", NAMES, parameter=VARIANT, key=KEY)


def _draw_towers(units: pd.DataFrame, references: pd.DataFrame | None, variant: str) -> None:
    layers = tower_layers(units, references, column=VARIANTS[variant])
    span = axis_span(pd.concat([layers["mean"], layers["low"], layers["high"]]))
    towers = [tower for tower in (IMAGE_TOWER, TEXT_TOWER) if (layers[TOWER] == tower).any()]
    for tower, column in zip(towers, st.columns(len(towers), gap="medium"), strict=True):
        own = layers[(layers[TOWER] == tower) & (layers[SOURCE] == MEMBERS)]
        told = ", ".join(f"{row['layer']}: {row['mean']:.3f}" for row in own.to_dict("records"))
        column.plotly_chart(
            tower_figure(layers, tower=tower, span=span),
            key=f"units-{tower}",
            config=FIXED,
            alt=f"Mean UnitMem of the {tower} encoder by layer. {told}",
        )
    for tower in sorted({IMAGE_TOWER, TEXT_TOWER} - set(towers)):
        st.caption(f"The {tower} encoder has no units that can be measured: it is no transformer of open_clip's own.")


def measured_sentence(audit: Audit, units: pd.DataFrame, sample: int) -> str:
    """Say on how many members and pairs the units were measured."""
    measured, all_members = units[MEMBER].nunique(), len(listed_members(audit))
    members = f"{measured} of {all_members} members" if measured < all_members else f"all {measured} members"
    pairs = f"a sample of {sample:,} of the pairs" if sample else "all pairs"
    return f"Measured on {members}, on {pairs} that each was trained on."


def median_sentence(units: pd.DataFrame, variant: str) -> str:
    """Say how exact the median is; empty for the mean, which is."""
    if variant == "mean":
        return ""
    worst = units.loc[units[UNITMEM_MEDIAN].notna(), "median_error"].max()
    return f"The median comes from a histogram: each unit's UnitMem is off by {worst:.4f} at most."


def reference_sentence(units: pd.DataFrame, references: pd.DataFrame, *, column: str) -> str:
    """Say how much of a member's UnitMem is there without training, and how much goes with having seen the pairs.

    Args:
        units: as `read_units`.
        references: as `read_references`, of one member.
        column: unitmem_mean or unitmem_median.
    """
    own = units[units[MEMBER].isin(references[MEMBER])]
    layers = tower_layers(own, references, column=column)
    means = layers.groupby([TOWER, SOURCE])["mean"].mean().unstack(SOURCE)
    parts = []
    for tower, row in means.iterrows():
        untrained = f"{row[BEFORE]:.2f} before training and {row[MEMBERS]:.2f} after" if BEFORE in row else ""
        seen = f"{row[SEEN] - row[UNSEEN]:+.3f} for having seen the pairs" if {SEEN, UNSEEN} <= set(row.index) else ""
        parts.append(f"**{tower} encoder**: {', '.join(filter(None, (untrained, seen)))}")
    told = "; ".join(parts).replace("-", "−")
    return (
        f"How much of it is memorization? Mean UnitMem over the layers of one member: {told}. A unit stands out for "
        "some pair without any training, and for pairs that it never saw: only what lies above the grey lines can be "
        "memorization."
    )
