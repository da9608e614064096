"""The results of an audit: probably wrong captions and what to do about them, then what is
memorized."""

from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.dashboard.cards import draw_strip
from clipmem_core.dashboard.deciding import draw_incidents, draw_notice, draw_reviewed, draw_wrong
from clipmem_core.dashboard.maps import draw_scatter
from clipmem_core.dashboard.page import is_on_screen, open_page
from clipmem_core.dashboard.plain import (
    draw_figure,
    draw_table,
    explained_errors,
    in_a_row,
    show_strong,
    show_text,
)
from clipmem_core.features.tower_by_language import describe_languages
from clipmem_core.figures import group_figure, mean_texts
from clipmem_core.review import overview as o
from clipmem_core.review.cards import percent
from clipmem_core.utils import columns as c

ICONS = {
    True: ":green[:material/check_circle:]",
    False: ":orange[:material/warning:]",
    None: ":gray[:material/help:]",
}
QUARANTINE_ROWS = 1000


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
        verdict = audit.verdict
        groups = o.group_table(audit)
        st.subheader("clipmem by group")
        names = groups["group"].map(c.group_words)
        means = ", ".join(map(" ".join, zip(names, mean_texts(groups), strict=True)))
        figure = group_figure(groups, o.group_bins(audit))
        draw_figure(figure, key="groups", alt=f"clipmem by group. Means: {means}.")
        kinds = filter(None, groups["kind"].unique())
        st.caption(f"Area: distribution over pairs. Dot: mean. Bar: {'; '.join(kinds)}.")
        attacks = pd.DataFrame(verdict["attacks"]).replace({"measure": o.ATTACK_MEASURES})
        with st.expander("Membership attacks"):
            st.caption(
                "Each member is attacked with the help of the others. TPR: share of its training "
                "pairs detected at the stated false positive rate. Intervals: Student's t over "
                "members, which share their attackers, and a bootstrap over pairs."
            )
            alt = "Success of each membership attack, with intervals"
            draw_table(attacks.drop(columns="targets"), alt=alt)
        draw_exceeding(verdict["exceeding"])
        st.subheader("Learned and memorized")
        draw_scatter(audit, c.SIMILARITY_OUT, c.CLIPMEM)
        st.subheader("Utility")
        draw_table(o.member_utility(audit.utility), alt="Utility of the members, by metric")
        draw_source(audit)


def draw_exceeding(shares: list[dict[str, Any]]) -> None:
    """Draw the share of pairs whose clipmem exceeds each of several sizes, corrected for noise."""
    st.subheader("Distribution of memorization")
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


def draw_source(audit: Audit) -> None:
    """Draw the data set, its size and the models, and the rows that were skipped."""
    record = audit.record
    st.header("This audit")
    sample = f", a random sample of {record.sampled_of:,}" if record.sampled_of else ""
    sizes = f"{audit.record.pairs:,} pairs{sample} · {len(record.members)} members"
    languages = describe_languages(record.languages, record.config)
    models = f"{o.model_words(record.config)} · captions: {languages}"
    show_text(f"{record.source} · {sizes} · {models} · protocol {record.protocol}")
    quarantine = audit.quarantine.drop(columns=c.KIND)
    with st.expander(f"Quarantine: {len(quarantine):,} input rows and why"):
        draw_table(quarantine.head(QUARANTINE_ROWS), alt="Input rows and why they are unusable")
        st.caption("quarantine.parquet in the audit's folder has all.")
    with st.expander("Settings"):
        st.json(record.values | {"seconds": audit.seconds})


with open_page("Overview") as audit:
    draw_notice(audit)
    draw_wrong(audit)
    draw_incidents(audit)
    draw_strip(audit, c.SUSPICION)
    draw_reviewed(audit)
    st.header("Memorization")
    show_text(o.memorization_line(audit.verdict))
    draw_strip(audit, c.CLIPMEM)
    draw_verdict(audit.verdict)
    draw_details(audit)
