"""A field of the config → the widget that sets it, with the comment beside the field as its help."""

import dataclasses
import functools
import inspect
import re
from typing import Any

import streamlit as st

from clipmem_core.audits.settings import CHOICES
from clipmem_core.config import AuditConfig, SourceOptions

_FIELD = re.compile(r"^    (\w+): [^#]*(?:# (.*))?$", re.MULTILINE)
LABELS = {
    "plant_miscaptions": "Planted mis-captions",
    "drop_lookalikes": "Drop look-alikes",
    "captions": "Captions per pair (0: all)",
    "lr": "Learning rate",
    "csv_img_key": "Picture column",
    "csv_caption_key": "Caption column",
    "csv_label_key": "Label column",
    "csv_id_key": "Id column",
    "csv_separator": "Separator",
    "scenes_pairs": "Pairs to draw",
    "cache_gb": "Picture store (GB)",
    "eps": "Adam's epsilon",
}


@functools.cache
def comments() -> dict[str, str]:
    """Return what is written beside each field of the config and of its source options."""
    sources = [inspect.getsource(kind) for kind in (SourceOptions, AuditConfig)]
    return {name: comment for source in sources for name, comment in _FIELD.findall(source) if comment}


def field_names(kind: type) -> list[str]:
    """Return the names of a config class's fields that a widget can set, in their order."""
    return [field.name for field in dataclasses.fields(kind) if isinstance(field.default, (bool, int, float, str))]


def label_of(name: str) -> str:
    """Return the label of a field's widget.

    Example:
        >>> label_of("weight_decay")
        'Weight decay'
    """
    return LABELS.get(name, name.replace("_", " ").capitalize())


def draw_field(name: str, default: Any, *, key: str) -> Any:
    """Draw the widget of a field and return its value, of the field's type.

    What is typed stays while the page is left; a value that the session has under the key wins over the default.
    """
    shared: dict[str, Any] = {"key": key, "help": comments().get(name), "persist_state": "session"}
    st.session_state.setdefault(key, default)
    if name in CHOICES:
        return st.selectbox(label_of(name), CHOICES[name], **shared)
    if isinstance(default, bool):
        return st.toggle(label_of(name), **shared)
    if isinstance(default, int):
        return int(st.number_input(label_of(name), step=1, **shared) or 0)
    if isinstance(default, float):
        return float(st.number_input(label_of(name), step=default / 10 or 0.1, format="%.6g", **shared) or 0.0)
    return st.text_input(label_of(name), **shared).strip()
