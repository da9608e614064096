"""The widget that sets a field of the config, with the field's label and help."""

import dataclasses
from typing import Any

import streamlit as st

from clipmem_core.config import FIELDS


def field_names(kind: type) -> list[str]:
    """Return the names of a config class's fields that a widget can set, in their order."""
    return [field.name for field in dataclasses.fields(kind) if isinstance(field.default, (bool, int, float, str))]


def draw_field(name: str, default: Any, *, key: str) -> Any:
    """Draw the widget of a field and return its value, of the field's type.

    What is typed stays while the page is left; a value that the session has under the key wins over the default.
    """
    own = FIELDS[name]
    shared: dict[str, Any] = {"key": key, "help": own.help or None, "persist_state": "session"}
    st.session_state.setdefault(key, default)
    if own.choices:
        return st.selectbox(own.label, own.choices, **shared)
    if isinstance(default, bool):
        return st.toggle(own.label, **shared)
    if isinstance(default, int):
        return int(st.number_input(own.label, step=1, **shared) or 0)
    if isinstance(default, float):
        return float(st.number_input(own.label, step=default / 10 or 0.1, format="%.6g", **shared) or 0.0)
    return st.text_input(own.label, **shared).strip()
