"""Groups and encoders → what their colours mean, on every page, said once."""

from collections.abc import Iterable

import streamlit as st

from clipmem_core.columns import CANDIDATE, EXTERNAL, GROUPS, INDEPENDENT, SCORED, SHARED
from clipmem_core.figures.colours import ENCODER_COLOURS, GROUP_COLOURS

GROUP_MEANINGS = {
    CANDIDATE: "f trained on them and g did not; clipmem is high where they are memorized.",
    INDEPENDENT: "g trained on them and f did not; clipmem is negative where they are memorized.",
    SCORED: "some members trained on them and some left them out; each gets its score.",
    SHARED: "all members trained on them, so that no difference is left to see.",
    EXTERNAL: "no member trained on them: what clipmem is without memorization.",
}
LAYOUT = "display:grid;grid-template-columns:auto 1fr;gap:.2rem 1.2rem;font-size:.875rem"
ENCODER_MEANINGS = {
    "image": "the part of clipmem that lies in how pictures are encoded.",
    "text": "the part of clipmem that lies in how captions are encoded.",
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
