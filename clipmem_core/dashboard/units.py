"""The view of UnitMem: by layer, the units that stand out most, the three paradigms; or how to get them."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from clipmem_core.audits import paradigms as p
from clipmem_core.audits import unitmem as t
from clipmem_core.audits.jobs import PARADIGMS, SAMPLE, UNITS, encoder_task
from clipmem_core.audits.store import Audit
from clipmem_core.columns import MEMBER, ONE_SPLIT
from clipmem_core.config import InputError
from clipmem_core.dashboard.cards import data_uri, start_thumbnails
from clipmem_core.dashboard.page import ALL, PAGE, choose_listed, choose_segment, draw_pages, link, read_page
from clipmem_core.dashboard.plain import cut, draw_fault, explained_errors
from clipmem_core.dashboard.running import draw_job
from clipmem_core.figures.studies import axis_span, paradigm_figure, tower_figure
from clipmem_core.review.cards import cards
from clipmem_core.review.overview import locked_towers
from clipmem_core.review.rows import audit_root
from clipmem_core.review.score_breakdown import (
    LEADS,
    MEMBERS,
    SOURCE,
    VARIANTS,
    claim_1,
    paradigm_layers,
    ranked_units,
    tower_layers,
)
from clipmem_core.review.selection import Selection
from clipmem_core.scores.seeds import MIN_REPLICATES

VARIANT, UNIT_MEMBER, UNIT_TOWER, UNIT_LAYER = "variant", "unit_member", "tower", "layer"  # in the address
FIXED = {"displayModeBar": False}
NAMES = {"mean": "against the mean (the paper)", "median": "against the median (its code)"}
# Of each kind of job, why it is wanted, and of each button the sample that it asks for.
WAITING = {
    UNITS: (
        "The units of this audit's encoders have not been measured yet.",
        {f"Measure on {SAMPLE:,} pairs": SAMPLE, "Measure on all pairs": 0},
    ),
    PARADIGMS: (
        "The image encoder has not been trained with captions, labels and self-supervision yet. This trains up to nine "
        "models of the audit's size.",
        {"Train three ways": 0},
    ),
}
NO_UNITS = (
    "UnitMem and the three paradigms need encoders that are trained on the pairs: audit the data set with another "
    "preset, such as small."
)
WHAT = (
    "UnitMem says how far the one pair that sets a unit off most stands out from all the others: "
    "(max − rest) / (max + rest), 1 is a unit that fires for one pair alone. Shown is the mean over the units of a "
    "layer; bars go from the lowest to the highest member. Activations below 0 count as 0."
)
THREE_WAYS = (
    "The same image encoder on the same pictures, trained with captions (CLIP), labels and self-supervision (SimCLR): "
    "mean UnitMem of each layer."
)
FROM_PAPER = (
    "Dashed: the paper's first and last layer (digitised), of other models on other data: compare the order of the "
    "paradigms and the rise with depth, not the height."
)
SIZE, SIDE, ROW_HEIGHT = 12, 64, 68
CAPTION_LIMIT = 85
COLUMNS = {
    "picture": st.column_config.ImageColumn(width=SIDE + 16),
    "open": st.column_config.LinkColumn(display_text="Open", width=60),
    "UnitMem": st.column_config.NumberColumn(format="%.3f", width=75),
    "max": st.column_config.NumberColumn(format="%.3f", width=70, help="Mean activation on the pair."),
    "second": st.column_config.NumberColumn(format="%.3f", width=70, help="On the pair that sets it off next most."),
    "leads": st.column_config.NumberColumn(width=60, help="Units of this member that this pair sets off most."),
    "layer": st.column_config.NumberColumn(width=55),
    "unit": st.column_config.NumberColumn(width=55),
    "caption": st.column_config.TextColumn(width=240),
}


def draw_units(audit: Audit) -> None:
    """Draw UnitMem by layer and the units that stand out most; where nothing is measured, how to get it."""
    st.subheader("UnitMem by layer", anchor=False)
    if locked := locked_towers(audit.record.config):
        which = "both towers are" if len(locked) == 2 else f"the {next(iter(locked))} tower is"
        st.info(f"{NO_UNITS} Here {which} locked.", icon=":material/lock:")
        return
    samples = t.measured_samples(audit)
    if not samples or _at_work(audit, UNITS):
        _draw_waiting(audit, UNITS, lambda: bool(t.measured_samples(audit)))
    if not samples:
        return
    sample = samples[0]
    units, references = t.read_units(audit, sample=sample), t.read_units(audit, t.REFERENCES, sample=sample)
    if units is None:
        return
    variant = choose_segment("The other pairs", NAMES, parameter=VARIANT, key="unit-variant")
    _draw_towers(units, references, variant)
    st.caption(f"{WHAT} {_measured(audit, units, sample, variant)}")
    if references is not None and units[MEMBER].isin(references[MEMBER]).any():
        st.markdown(_beside_references(units, references, column=VARIANTS[variant]))
    _draw_unit_list(audit, units, column=VARIANTS[variant])
    if sample or references is None or units[MEMBER].nunique() < len(audit.record.members):
        with st.expander("Measure more", icon=":material/add:"):
            _draw_buttons(audit, UNITS)


def _draw_towers(units: pd.DataFrame, references: pd.DataFrame | None, variant: str) -> None:
    layers = tower_layers(units, references, column=VARIANTS[variant])
    span = axis_span(pd.concat([layers["mean"], layers["low"], layers["high"]]))
    towers = [tower for tower in (t.IMAGE_TOWER, t.TEXT_TOWER) if (layers[t.TOWER] == tower).any()]
    for tower, column in zip(towers, st.columns(len(towers), gap="medium"), strict=True):
        own = layers[(layers[t.TOWER] == tower) & (layers[SOURCE] == MEMBERS)]
        told = ", ".join(f"{row['layer']}: {row['mean']:.3f}" for row in own.to_dict("records"))
        column.plotly_chart(
            tower_figure(layers, tower=tower, span=span),
            key=f"units-{tower}",
            config=FIXED,
            alt=f"Mean UnitMem of the {tower} encoder by layer. {told}",
        )
    for tower in sorted({t.IMAGE_TOWER, t.TEXT_TOWER} - set(towers)):
        st.caption(f"The {tower} encoder has no units that can be measured: it is no transformer of open_clip's own.")


def _measured(audit: Audit, units: pd.DataFrame, sample: int, variant: str) -> str:
    """Say on how many members and pairs the units were measured, and how exact a median is; the mean is exact."""
    measured, all_members = units[MEMBER].nunique(), len(audit.record.members)
    members = f"{measured} of {all_members} members" if measured < all_members else f"all {measured} members"
    pairs = f"a sample of {sample:,} of the pairs" if sample else "all pairs"
    told = f"Measured on {members}, on {pairs} that each was trained on."
    if variant == "mean":
        return told
    worst = units.loc[units[t.UNITMEM_MEDIAN].notna(), "median_error"].max()
    return f"{told} The median comes from a histogram: each unit's UnitMem is off by {worst:.4f} at most."


def _beside_references(units: pd.DataFrame, references: pd.DataFrame, *, column: str) -> str:
    """Say how much of a member's UnitMem is there without training, and how much goes with having seen the pairs."""
    own = units[units[MEMBER].isin(references[MEMBER])]
    layers = tower_layers(own, references, column=column)
    means = layers.groupby([t.TOWER, SOURCE])["mean"].mean().unstack(SOURCE)
    parts = []
    for tower, row in means.iterrows():
        said = []
        if t.BEFORE in row:
            said.append(f"{row[t.BEFORE]:.2f} before training and {row[MEMBERS]:.2f} after")
        if t.SEEN in row and t.UNSEEN in row:
            said.append(f"{row[t.SEEN] - row[t.UNSEEN]:+.3f} for having seen the pairs")
        parts.append(f"**{tower} encoder**: {', '.join(said)}")
    told = "; ".join(parts).replace("-", "−")
    return (
        f"Mean UnitMem over the layers of one member: {told}. Only UnitMem above the "
        "grey lines can be memorization: units also stand out before training, and for pairs they never saw."
    )


def _draw_unit_list(audit: Audit, units: pd.DataFrame, *, column: str) -> None:
    """Draw the units of an encoder, a layer and a member, the most memorizing first, a page of them."""
    st.subheader("Units that stand out most", anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        tower = _choose("Encoder", UNIT_TOWER, units[t.TOWER])
        within = units[units[t.TOWER] == tower] if tower else units
        layer = _choose("Layer", UNIT_LAYER, within[t.LAYER])
        member = _choose("Member", UNIT_MEMBER, units[MEMBER])
        ranked = ranked_units(units, column=column, member=member, tower=tower, layer=int(layer or 0))
        st.space("stretch")
        page, pages = read_page(len(ranked), SIZE)
        draw_pages(page, pages, key="unit-pages")
    if ranked.empty:
        st.caption("No unit of these ever fires.")
        return
    shown = ranked.iloc[(page - 1) * SIZE : page * SIZE].to_dict("records")
    _draw_table(audit, shown, column=column)
    st.caption(
        f"{len(ranked):,} pairs, each with the unit that stands out most for it. Where max and second "
        "are close, the unit responds to several pairs, and its UnitMem is not about one. Leads: how many units of the "
        "same member the same pair sets off most."
    )


def _choose(label: str, parameter: str, values: pd.Series) -> str:
    """Draw a list of what there is and return the choice, empty for all."""
    options = [ALL, *(str(value) for value in dict.fromkeys(values))]
    key = f"units-{parameter}"
    return choose_listed(
        label, options, parameter=parameter, key=key, width=130, named=lambda name: name or "all", clears=[PAGE]
    )


def _draw_table(audit: Audit, shown: list[dict[Any, Any]], *, column: str) -> None:
    found = {card.row: card for card in cards(audit, list(dict.fromkeys(int(unit[t.ROW]) for unit in shown)))}
    pictures = start_thumbnails(audit_root(audit), [card.image for card in found.values()], side=SIDE)
    jpegs = {row: data_uri(picture.result()[0]) for row, picture in zip(found, pictures, strict=True)}
    rows = []
    for unit in shown:
        card = found[int(unit[t.ROW])]
        caption = cut(" ".join(" · ".join(card.captions).split()), CAPTION_LIMIT)
        there = f"pair?{urlencode(link(audit, Selection(), pair=card.pair_id))}"
        numbers = {"UnitMem": unit[column], "max": unit["max"], "second": unit["second"], "leads": unit[LEADS]}
        place = {"encoder": unit[t.TOWER], "layer": unit[t.LAYER], "unit": unit[t.UNIT], "member": unit[MEMBER]}
        rows.append({"picture": jpegs[card.row], "open": there, "caption": caption} | numbers | place)
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        row_height=ROW_HEIGHT,
        height=len(rows) * ROW_HEIGHT + 40,
        column_config=COLUMNS,
        placeholder="",
        alt="Units of this page: the pair that sets each off, UnitMem, encoder, layer, unit and member",
    )


def draw_paradigms(audit: Audit) -> None:
    """Draw UnitMem under the three paradigms; where none was run, how to get it; nothing where a tower is locked."""
    if locked_towers(audit.record.config):
        return
    st.subheader("Claim 1: three paradigms", anchor=False)
    table = _read_paradigms(audit)
    if table is None or _at_work(audit, PARADIGMS):
        _draw_waiting(audit, PARADIGMS, lambda: p.read_paradigms(audit) is not None)
    if table is None:
        return
    column = VARIANTS.get(st.query_params.get("variant", ""), t.UNITMEM_MEAN)
    means, said = paradigm_layers(table, column=column), claim_1(table, column=column)
    st.plotly_chart(
        paradigm_figure(means),
        key="paradigms",
        config=FIXED,
        alt=f"Mean UnitMem of the image encoder by depth under {len(set(means[p.PARADIGM]))} paradigms. {said}",
    )
    st.markdown(said)
    seeds = table.groupby(p.PARADIGM)[p.SEED].nunique().min()
    bars = f"{seeds} {'seed is' if seeds == 1 else 'seeds are'} too few for intervals."
    if seeds >= MIN_REPLICATES:
        bars = f"Bars are 95 % intervals over {seeds} {ONE_SPLIT}."
    st.caption(f"{THREE_WAYS} {bars} {FROM_PAPER}")


def _read_paradigms(audit: Audit) -> pd.DataFrame | None:
    """Read the table of the paradigms."""
    try:
        table = p.read_paradigms(audit)
    except (OSError, ValueError):
        table = pd.DataFrame()
    if table is not None and not set(table.columns) >= {p.PARADIGM, p.SEED, t.LAYER, *VARIANTS.values()}:
        raise InputError(f"{p.paradigms_folder(audit)} holds a table that is none: delete it and run the command again")
    return table


def _at_work(audit: Audit, kind: str) -> bool:
    job = encoder_task(audit, kind).find()
    return job is not None and job.running


@st.fragment(run_every=2)
def _draw_waiting(audit: Audit, kind: str, done: Callable[[], bool]) -> None:
    """Draw how to get units or paradigms, or every two seconds how far they are; the whole page again once `done`."""
    with explained_errors():
        job = encoder_task(audit, kind).find()
        if job is not None and job.running:
            draw_job(job, key=f"cancel-{kind}")
            return
        if done():
            st.rerun()
        if job is not None and job.failed:
            draw_fault("It stopped early.", job.last_line)
        else:
            st.info(WAITING[kind][0], icon=":material/info:")
        _draw_buttons(audit, kind)


def _draw_buttons(audit: Audit, kind: str) -> None:
    """Draw the buttons that start it, and what to type instead."""
    buttons = WAITING[kind][1]
    tasks = [encoder_task(audit, kind, sample=sample) for sample in buttons.values()]
    with st.container(horizontal=True):
        for (label, sample), task in zip(buttons.items(), tasks, strict=True):
            if st.button(label, key=f"{kind}-{sample}", type="primary", icon=":material/play_arrow:"):
                task.start()
                st.rerun()
    st.caption("Command line:")
    st.code("\n".join(task.typed for task in tasks), language="bash")
