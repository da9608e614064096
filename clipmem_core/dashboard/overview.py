"""The parts of the page Overview: header, verdict, groups and their colours, utility and detection."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core import glossary
from clipmem_core.audits.verdict import BASIS, RELIABILITY, WHOLE_HEAD, uses, whole_rows
from clipmem_core.columns import ATTACK_AUROC, CANDIDATE, EXTERNAL, GROUP, GROUPS, INDEPENDENT, SCORED, SHARED
from clipmem_core.dashboard.plain import explained_errors, show_strong, show_text
from clipmem_core.figures.audit_scores import encoder_figure, group_figure
from clipmem_core.figures.layout import ENCODER_COLOURS, GROUP_COLOURS
from clipmem_core.files import is_number, mapping
from clipmem_core.review.overview import (
    Overview,
    attack_auroc,
    attack_rows,
    detection_table,
    exceeding,
    explain_null,
    model_words,
    quarantine_page,
    rows,
    table,
)
from clipmem_core.scores.registry import CARD, scores_in

PROTOCOLS = {
    "ensemble": "Every member leaves out one part of the pairs. clipmem is the alignment of a pair under the members "
    "trained with it, minus that under the members trained without it.",
    "paper": "f is trained on shared and candidate pairs, g on shared and independent pairs. clipmem is the alignment "
    "of a pair under f, minus that under g.",
}
GOOD_ICONS = {
    True: ":green[:material/check_circle:]",
    False: ":orange[:material/warning:]",
    None: ":gray[:material/help:]",
}
QUARANTINE_PAGE = 50
ATTACKS_HELP = (
    "Each member is attacked by the others. TPR: the share of its training pairs found at the given false positive "
    "rate. Intervals: Student's t over members, which share their attackers, and a bootstrap "
    "over pairs."
)
PLANTED_COLUMNS = ["planted", "n", *scores_in(CARD)]
MEASURES = [
    (
        "membership_auroc",
        "Membership AUROC",
        glossary.meaning(glossary.AUROC),
    ),
    (
        ATTACK_AUROC,
        "Attack AUROC",
        "The same for an attacker who has the other members and compares a pair's alignment under members that trained "
        "on it and under members that did not.",
    ),
    (
        RELIABILITY,
        "Ranking reliability",
        "Expected rank agreement of clipmem with a second audit of this size, from two halves of this one "
        "(Spearman–Brown): 1 is the same order, 0 is chance.",
    ),
]


SHARES_HELP = (
    "Of the scored (or candidate) pairs, with a 95 % interval: the share of true values, from the clipmem of all pairs "
    "and its errors. Unlike the share of pairs with a small q, it does not grow with the number of members: q only "
    "says whether training on a pair had any effect at all."
)
NO_SHARES = "Not available: this needs 50 pairs and sizes of at least three times the noise of clipmem."


def draw_header(overview: Overview) -> None:
    """Draw in a line what the audit is."""
    record, config = overview.record, overview.record.config
    of = f", a random sample of {record.sampled_of:,}" if record.sampled_of else ""
    sizes = f"{overview.pairs:,} pairs{of} · {len(record.members)} members"
    show_text(f"{record.source} · {sizes} · {model_words(config)} · preset {config.preset}")


def draw_sizes(overview: Overview) -> None:
    """Draw which score is for what, the audit's sizes and protocol, and the rows that could not be used."""
    with st.expander("Which score to use", icon=":material/help_center:"):
        for score, use in uses(overview.verdict).items():
            show_text(f"{score}: {use}")
    record = overview.record
    with st.grid(4, min_column_width=150) as grid:
        grid.metric("Pairs", f"{overview.pairs:,}", border=True)
        grid.metric("Members", str(len(record.members)), border=True, help=glossary.meaning(glossary.MEMBER))
        protocol = f"{glossary.meaning(glossary.PROTOCOL)} Here: {PROTOCOLS[record.protocol]}"
        grid.metric("Protocol", record.protocol, border=True, help=protocol)
        grid.metric("Quarantined", f"{overview.quarantined:,}", border=True, help="Input rows that could not be used.")
    if overview.quarantined:
        _draw_quarantine(overview)
    if whole := whole_rows(overview.verdict):
        with st.expander(f"Counts of all {record.sampled_of:,} pairs", icon=":material/query_stats:"):
            _draw_table(
                pd.DataFrame(whole, columns=list(WHOLE_HEAD)), alt="Counts of the whole set with their intervals"
            )
            show_text(BASIS)


@st.fragment
def _draw_quarantine(overview: Overview) -> None:
    with st.expander(f"Quarantine: {overview.quarantined:,} input rows and why", icon=":material/inventory_2:"):
        pages = -(-overview.quarantined // QUARANTINE_PAGE)
        slot = st.empty()
        page = st.pagination(pages, key="quarantine-page") if pages > 1 else 1
        with explained_errors():
            shown = quarantine_page(overview.audit, page=page, size=QUARANTINE_PAGE)
        slot.dataframe(shown, hide_index=True, alt="Quarantined input rows with their source, id and reason")


def draw_verdict(overview: Overview) -> None:
    """Draw the audit's verdict on itself: a sentence, and each check with what to try, open where one failed."""
    verdict = overview.verdict
    checks = rows(verdict, "checks")
    show_strong(str(verdict.get("sentence", "This audit has no verdict.")))
    failed = any(check.get("good") is False for check in checks)
    with st.expander("Checks", icon=":material/fact_check:", expanded=failed or not verdict.get("sentence")):
        for check in checks:
            _draw_check(check)


def _draw_check(check: dict[str, Any]) -> None:
    good = check.get("good") if isinstance(check.get("good"), bool) else None
    with st.container(horizontal=True, gap="small", wrap=False):
        st.markdown(GOOD_ICONS[good], width="content")
        with st.container(gap=None):
            show_text(str(check.get("sentence") or check.get("name") or ""))
            if check.get("advice") and good is not True:
                show_text(f"→ {check['advice']}")


def draw_groups(overview: Overview) -> None:
    """Draw clipmem by group, its table, and the encoders' parts."""
    left, right = st.columns([3, 2], gap="medium")
    with left:
        st.subheader("clipmem by group", anchor=False)
        figure = group_figure(overview.groups, overview.bins)
        means = ", ".join(f"{row.group} {row.mean:.3f}" for row in overview.groups.itertuples())
        st.plotly_chart(
            figure,
            config={"displaylogo": False, "displayModeBar": False},
            alt=f"Distribution and mean of clipmem by group. Means: {means}.",
        )
        st.caption("Area: distribution over pairs. Dot: mean. Bar: the interval named in the table.")
        st.caption(explain_null(overview.groups, overview.verdict))
    with right:
        st.subheader("Means", anchor=False)
        shown = overview.groups[["group", "n", "mean", "low", "high"]].dropna(axis=1, how="all")
        _draw_table(shown, alt="Mean clipmem of each group with its interval")
        kinds = list(dict.fromkeys(filter(None, overview.groups["kind"])))
        if kinds:
            show_text(
                "low to high: " + "; ".join(f"mean ± 1 {kind}" if kind.startswith("SD") else kind for kind in kinds)
            )
        _draw_measures(overview.verdict)
        _draw_encoders(mapping(overview.verdict.get("encoders")))
    draw_legend(overview.groups[GROUP])


def draw_exceeding(overview: Overview) -> None:
    """Draw the share of pairs whose clipmem exceeds a size that a person chooses, corrected for noise."""
    st.subheader("Distribution of memorization", anchor=False)
    shares = exceeding(overview.verdict)
    if not shares:
        st.caption(NO_SHARES)
        return
    sizes = list(shares)
    left, right = st.columns(2, gap="medium", vertical_alignment="center")
    with left:
        size = sizes[0]
        if len(sizes) > 1:
            middle = min(sizes, key=lambda other: abs(shares[other][0] - 0.1))
            size = st.select_slider("clipmem above", sizes, middle, format_func="{:.2f}".format, key="exceeding")
    share, low, high = shares[size]
    with right:
        shown = f"{share:.1%} ({low:.1%} to {high:.1%})"
        st.metric(f"Pairs whose clipmem exceeds {size:.2f}", shown, help=SHARES_HELP)


def _draw_measures(verdict: dict[str, Any]) -> None:
    attacks = table(verdict, "attacks")
    values = verdict | {ATTACK_AUROC: attack_auroc(attacks)}
    with st.grid(2, min_column_width=140) as grid:
        for key, label, meaning in MEASURES:
            if is_number(values.get(key)):
                grid.metric(label, f"{values[key]:.2f}", help=meaning)
    shown, missing = attack_rows(attacks)
    if shown.empty and not missing:
        return
    with st.expander("Attacks on membership", icon=":material/policy:"):
        st.caption(ATTACKS_HELP)
        if not shown.empty:
            _draw_table(shown, alt="How well each attack tells what a member was trained on, with intervals")
        for reason in missing:
            show_text(reason, limit=300)


def _draw_encoders(encoders: dict[str, Any]) -> None:
    parts = {name: float(value) for name, value in encoders.items() if name in ENCODER_COLOURS and is_number(value)}
    if not parts:
        return
    words = ", ".join(f"{name} {value:.3f}" for name, value in parts.items())
    st.plotly_chart(
        encoder_figure(parts), config={"displayModeBar": False}, alt=f"Each encoder's part of clipmem: {words}."
    )
    if is_number(encoders.get("fit")):
        st.caption(f"Fit of the map between the members' embedding spaces: {encoders['fit']:.2f}")


def draw_tables(overview: Overview) -> None:
    """Draw utility and, where pairs were planted, how well each score finds them."""
    planted = table(overview.verdict, "planted").filter(items=PLANTED_COLUMNS)
    detection = detection_table(table(overview.verdict, "detection"))
    left, right = st.columns(2, gap="medium")
    with left:
        st.subheader("Utility", anchor=False)
        if overview.utility.empty:
            st.caption("No utility was measured.")
        else:
            _draw_table(overview.utility, alt="Utility of the members, by metric")
    with right:
        if not planted.empty or not detection.empty:
            st.subheader("Injected errors", anchor=False)
        if not planted.empty:
            _draw_table(planted, alt="Mean scores of pairs with injected errors and of others")
        if not detection.empty:
            st.caption("How well each score finds injected wrong captions")
            _draw_table(detection, alt="Detection of injected wrong captions by each score")
    with st.expander("How this audit was made", icon=":material/settings:"):
        _draw_table(
            _flat(overview.record.values | {"seconds": mapping(overview.verdict.get("seconds"))}),
            alt="Settings of the audit",
        )


def _draw_table(values: pd.DataFrame, *, alt: str) -> None:
    """Draw a table: floats with three decimals, names with spaces for underscores."""
    floats = values.select_dtypes("float").columns
    columns: dict[str, Any] = {name: name.replace("_", " ") for name in map(str, values.columns)}
    columns |= {name: st.column_config.NumberColumn(columns[name], format="%.3f") for name in floats}
    st.dataframe(values, hide_index=True, column_config=columns, alt=alt)


def _flat(values: Mapping[str, Any], prefix: str = "") -> pd.DataFrame:
    """Return nested settings as two columns of text."""
    flat: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            flat += list(_flat(value, f"{prefix}{key}.").itertuples(index=False, name=None))
        else:
            flat.append((f"{prefix}{key}", str(value)))
    return pd.DataFrame(flat, columns=["setting", "value"])


GROUP_MEANINGS = {
    CANDIDATE: "f trained on them and g did not; clipmem is high where they are memorized.",
    INDEPENDENT: "g trained on them and f did not; clipmem is negative where they are memorized.",
    SCORED: "some members trained on them and some did not; each has a score.",
    SHARED: "all members trained on them, so they show no difference.",
    EXTERNAL: "no member trained on them: clipmem without memorization.",
}
LAYOUT = "display:grid;grid-template-columns:auto 1fr;gap:.2rem 1.2rem;font-size:.875rem"
ENCODER_MEANINGS = {
    "image": "the part of clipmem from the image encoder.",
    "text": "the part of clipmem from the text encoder.",
}


def draw_legend(groups: Iterable[str]) -> None:
    """Draw what the colours of the groups an audit has and of the encoders stand for."""
    present = set(groups)
    lines = [(f"{name} pairs", GROUP_COLOURS[name], GROUP_MEANINGS[name]) for name in GROUPS if name in present]
    lines += [(f"{name} encoder", ENCODER_COLOURS[name], meaning) for name, meaning in ENCODER_MEANINGS.items()]
    rows = (
        f'<div><span aria-hidden="true" style="color:{colour}">●</span> {name}</div><div>{meaning}</div>'
        for name, colour, meaning in lines
    )
    with st.container(border=True):
        st.html(f'<div style="{LAYOUT}">{"".join(rows)}</div>')
