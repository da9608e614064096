"""What the keys of a page do, in a dialog that the key ? opens."""

from collections.abc import Mapping
from pathlib import Path

import streamlit as st

STYLES, SCRIPTS = ("dialogs.css", "keys_help.css"), ("dialogs.js", "keys_help.js")
DECISIONS = {"K": "Keep", "X": "Remove", "U": "Undo"}
BROWSE_KEYS = {
    "← → ↑ ↓": "Mark another pair",
    "Enter": "Picture at full size; Enter again opens the pair",
    "Space": "Select the marked pair",
    "Shift →": "Select a range; so does Shift and a click",
    "Ctrl A": "Select the page",
    "Esc": "Unselect",
    "T": "Tag",
} | DECISIONS
REVIEW_KEYS = DECISIONS | {
    "E": "Change caption",
    "1 2 3": "Take a suggested caption",
    "← →": "Previous, next pair",
    "Ctrl Enter": "Save the caption that is being changed",
    "Esc": "Cancel",
}
PAIR_KEYS = DECISIONS | {
    "E": "Save the captions in the box",
    "N": "Next undecided pair",
    "← →": "Previous, next pair",
    "Ctrl Enter": "Save, in the box",
}


def _read(names: tuple[str, ...]) -> str:
    return "\n".join(Path(__file__).with_name(name).read_text("utf-8") for name in names)


_component = st.components.v2.component(
    "clipmem_keys",
    html='<button type="button"><kbd>?</kbd> Keys</button>',
    css=_read(STYLES),
    js=_read(SCRIPTS),
)


def draw_keys(keys: Mapping[str, str], *, picture: Mapping[str, str] | None = None) -> None:
    """Draw the button that opens the dialog; the key does too.

    Args:
        keys: key → what it does.
        picture: path, alt and caption of the picture that a click enlarges, in the container `pair-picture`.
    """
    _component(key="keys-help", data={"keys": dict(keys), "picture": picture}, width="content")
