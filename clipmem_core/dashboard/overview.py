"""The page Overview: faults of the pipeline, each with a button that repairs its pairs, the
verdict, sizes, clipmem by group, and utility."""

from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core.auditing.folder.store import PAIRS, Audit
from clipmem_core.auditing.tables.verdict import BASIS, WHOLE_HEAD, whole_rows
from clipmem_core.dashboard.cards import CAPTION_LIMIT, STRIP_SIZE, draw_card_row
from clipmem_core.dashboard.deciding import locked_session
from clipmem_core.dashboard.maps import draw_score_map
from clipmem_core.dashboard.page import (
    draw_link,
    is_on_screen,
    read_part,
)
from clipmem_core.dashboard.plain import (
    cut,
    draw_figure,
    draw_table,
    explained_errors,
    in_a_row,
    pairs_in_words,
    show_strong,
    show_text,
)
from clipmem_core.features.tower_by_language import describe_languages
from clipmem_core.figures import group_figure, mean_texts
from clipmem_core.review import overview as o
from clipmem_core.review.cards import FirstCaption, cards, percent, suspicious_captions
from clipmem_core.review.decisions import KEEP, REMOVE
from clipmem_core.review.incidents import (
    REPAIR,
    decide_incidents,
    incident_pairs,
    incident_states,
    incidents_line,
    state_words,
)
from clipmem_core.review.queries import count_pairs_of, fetch_numbered
from clipmem_core.review.views import Selection
from clipmem_core.utils import columns as c

ICONS = {
    True: ":green[:material/check_circle:]",
    False: ":orange[:material/warning:]",
    None: ":gray[:material/help:]",
}
QUARANTINE_ROWS = 1000
_ACTION_ICONS = {
    REPAIR: ":material/build:",
    REMOVE: ":material/delete:",
    KEEP: ":material/check:",
}
_DONE = {REPAIR: "Repaired", REMOVE: "Removed", KEEP: "Kept"}
_INCIDENTS = "incidents"  # the parameter of a page of incidents
_INCIDENTS_SHOWN = 4  # on a page


def draw_source(audit: Audit) -> None:
    """Draw the data set, its size and the models, and the rows that were skipped."""
    record = audit.record
    sample = f", a random sample of {record.sampled_of:,}" if record.sampled_of else ""
    sizes = f"{count_pairs_of(audit):,} pairs{sample} · {len(record.members)} members"
    languages = describe_languages(record.languages, record.config)
    st.header("This audit")
    models = f"{o.model_words(record.config)} · captions: {languages}"
    show_text(f"{record.source} · {sizes} · {models} · protocol {record.protocol}")
    quarantine = audit.quarantine.drop(columns=c.KIND)
    if rows := len(quarantine):
        with st.expander(f"Quarantine: {rows:,} input rows and why"):
            draw_table(quarantine.head(QUARANTINE_ROWS), alt="Input rows and why they are unusable")
            st.caption("quarantine.parquet in the audit's folder has all.")
    if estimates := whole_rows(audit.verdict):
        with st.expander(f"Estimates for all {record.sampled_of:,} pairs"):
            table = pd.DataFrame(estimates, columns=list(WHOLE_HEAD))
            draw_table(table, alt="Estimates with their intervals")
            show_text(BASIS)
    with st.expander("Settings"):
        st.json(record.values | {"seconds": audit.seconds})


def draw_incidents(audit: Audit, *, folded: bool = False) -> None:
    """Draw how many wrong pairs the faults of the pipeline cause, each fault that is open or was
    decided on, and its decisions; unfolded while one is open. `folded`: only open ones, folded."""
    states = incident_states(audit)
    listed = states[states["is_open"] | (states["settled"] > 0)]
    if listed.empty or (folded and not states["is_open"].any()):
        return
    shown, draw_numbers = read_part(listed, _INCIDENTS_SHOWN, parameter=_INCIDENTS)
    line = incidents_line(audit)
    icon = ":material/warning:" if line else ":material/check_circle:"
    title = line or "Faults of your pipeline: all are decided."
    with st.expander(title, expanded=bool(line) and not folded, icon=icon):
        repairable = listed.index[listed["to_repair"] > 0].tolist()
        if len(repairable) > 1:
            count = pairs_in_words(int(listed["to_repair"].sum()))
            _draw_action(audit, repairable, REPAIR, f"Repair all {count}", "primary")
        for state in shown.itertuples():
            with st.container(gap="xsmall"):
                _draw_incident(audit, state)
        draw_numbers()


def _draw_incident(audit: Audit, state: Any) -> None:
    number = int(state.Index)
    selection = Selection(incident=str(number))
    pairs = incident_pairs(audit)
    pairs = pairs[pairs["number"] == number]
    show_text(state.cause)
    if state.is_open:
        first = pairs[pairs["to_repair"] if state.to_repair else pairs["undecided"]]
        _draw_changes(audit, first[:STRIP_SIZE], selection)
    show_text(state_words(state))
    with in_a_row():
        if state.to_repair:
            label = f"Repair {pairs_in_words(state.to_repair)}"
            _draw_action(audit, [number], REPAIR, label, "primary")
        if state.undecided:
            label = f"Remove {pairs_in_words(state.undecided)}"
            kind = "secondary" if state.to_repair else "primary"
            _draw_action(audit, [number], REMOVE, label, kind)
            _draw_action(audit, [number], KEEP, "Keep: it is no fault", "secondary")
        draw_link("browse", "Browse", audit, selection)


def _draw_action(audit: Audit, numbers: list[int], action: str, label: str, kind: Any) -> None:
    """Draw the button of a decision on incidents."""
    st.button(
        label,
        icon=_ACTION_ICONS[action],
        key=f"{action}-{'-'.join(map(str, numbers))}",
        type=kind,
        on_click=_decide,
        args=(audit, numbers, action),
    )


def _draw_changes(audit: Audit, pairs: pd.DataFrame, selection: Selection) -> None:
    """Draw pictures, each with its likeliest wrong caption and the one that a repair gives it."""
    shown = cards(audit, pairs["row"].tolist())
    sources = pairs["from_row"].where(pairs["has_repair"], -1).tolist()
    captions = fetch_numbered(audit.folder / PAIRS, [c.CAPTIONS], sources)
    worst = suspicious_captions(audit, [card.pair_id for card in shown])
    firsts: dict[str, FirstCaption] = {}
    for card, source in zip(shown, sources, strict=True):
        after = f"→ {cut(captions[source][0][0], CAPTION_LIMIT)}" if source in captions else ""
        number = min(worst.get(card.pair_id, 0), len(card.current) - 1)
        firsts[card.pair_id] = number, [], after
    labels = [f"Pair {card.row + 1:,}" for card in shown]
    draw_card_row(audit, shown, labels, selection, firsts, key=f"incident-{selection.incident}")


def _decide(audit: Audit, numbers: list[int], action: str) -> None:
    """Decide on the pairs of incidents. A callback."""
    with locked_session() as session:
        session.saved(audit, _DONE[action], decide_incidents(audit, numbers, action))


def draw_verdict(verdict: dict[str, Any]) -> None:
    """Draw the audit's verdict, and each check with advice, unfolded if one failed."""
    checks = verdict["checks"]
    show_strong(verdict["sentence"])
    failed = any(check["good"] is False for check in checks)
    with st.expander("Checks", expanded=failed):
        for check in checks:
            with in_a_row(wrap=False):
                st.markdown(ICONS[check["good"]], width="content")
                with st.container(gap=None):
                    show_text(check["sentence"])
                    if check["advice"]:
                        show_text(f"→ {check['advice']}")


@st.fragment
def draw_details(audit: Audit) -> None:
    """Draw charts and tables once they are scrolled to: a browser needs seconds for charts."""
    if not is_on_screen(f"details-{audit.name}"):
        return
    with explained_errors():
        groups = o.group_table(audit)
        st.subheader("clipmem by group")
        names = groups["group"].map(c.group_words)
        means = ", ".join(map(" ".join, zip(names, mean_texts(groups), strict=True)))
        figure = group_figure(groups, o.group_bins(audit))
        draw_figure(figure, key="groups", alt=f"clipmem by group. Means: {means}.")
        kinds = filter(None, groups["kind"].unique())
        st.caption(f"Area: distribution over pairs. Dot: mean. Bar: {'; '.join(kinds)}.")
        attacks = pd.DataFrame(audit.verdict["attacks"]).replace({"measure": o.ATTACK_MEASURES})
        with st.expander("Membership attacks"):
            st.caption(
                "Each member is attacked with the help of the others. TPR: share of its training "
                "pairs detected at the stated false positive rate. Intervals: Student's t over "
                "members, which share their attackers, and a bootstrap over pairs."
            )
            draw_table(
                attacks.drop(columns="targets"),
                alt="Success of each membership attack, with intervals",
            )
        draw_exceeding(audit.verdict)
        draw_score_map(audit)
        st.subheader("Utility")
        utility = o.member_utility(audit.utility)
        if utility.empty:
            st.caption("No utility was measured.")
        else:
            draw_table(utility, alt="Utility of the members, by metric")
        draw_source(audit)


def draw_exceeding(verdict: dict[str, Any]) -> None:
    """Draw the share of pairs whose clipmem exceeds each of several sizes, corrected for noise."""
    st.subheader("Distribution of memorization")
    shares = verdict["exceeding"]
    if not shares:
        st.caption(
            "Not available: this needs 50 pairs and values of at least three times the noise of "
            "clipmem."
        )
        return
    texts = []
    for row in shares:
        share, low, high = (percent(row[name]) for name in ("share", "low", "high"))
        texts.append((f"{row['size']:.2f}", f"{share} ({low} to {high})"))
    table = pd.DataFrame(texts, columns=["clipmem above", "share of pairs"])
    draw_table(table, alt="Share of pairs above each clipmem")
    st.caption(
        "Share of the pairs that members trained on, with a 95 % interval, corrected for the noise "
        "of clipmem. It does not grow with the number of members, unlike the share of pairs with "
        "a small q."
    )
