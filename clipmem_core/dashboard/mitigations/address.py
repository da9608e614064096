"""The address ↔ the setting it asks for: read before a widget is drawn, and written by the widget's callback.

?setting=text_mask=0.3 removal=clipmem:100   the text form of a Setting; none where the address says nothing
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import streamlit as st

from clipmem_core import columns as c
from clipmem_core.audits.settings import check_config
from clipmem_core.config import InputError
from clipmem_core.dashboard.address import PAGE, write
from clipmem_core.dashboard.mitigations.knobs import REMOVED
from clipmem_core.dashboard.mitigations.reference import Reference
from clipmem_core.dashboard.plain import show_text
from clipmem_core.studies.rankings import Removal
from clipmem_core.studies.setting import Setting, normal, parse_setting

PARAMETER = "setting"
MOST = 1_000_000  # of any field: more is a slip, and no slider goes there


def read_setting(reference: Reference) -> Setting:
    """Return the setting of the address; one that cannot be understood, or is out of range, is told, and none taken.

    Args:
        reference: what it is a setting beside.
    """
    try:
        setting = _understood(reference)
    except InputError as error:
        st.warning("The setting of this address cannot be used; this is none.", icon=":material/link_off:")
        show_text(" ".join(str(error).split()), limit=300)
        return Setting()
    if st.query_params.get(PARAMETER, "") != setting.text:
        write(**{PARAMETER: setting.text or None})  # a list of settings knows each by its one text
    return setting


def _understood(reference: Reference) -> Setting:
    """Return what the address says, without what does nothing.

    Raises:
        InputError: it cannot be understood, or is out of range.
    """
    setting = parse_setting(st.query_params.get(PARAMETER, ""))
    beyond = [name for name, value in setting.fields.items() if not isinstance(value, str) and abs(value) > MOST]
    if beyond:
        raise InputError(f"{beyond[0]} must be at most {MOST:,}")
    check_config(dataclasses.replace(reference.config, **setting.fields))
    return normal(setting, reference.config)


def keep(name: str, value: Any) -> str:
    """Give a widget its value before it is drawn, and return its key."""
    key = f"mitigation-{name}"
    st.session_state[key] = value
    return key


def turn(name: str, first: Mapping[str, Any], reference: Reference) -> None:
    """Write what a toggle says: a field as it is at first, with what that brings, or none of it."""
    setting = _now(reference)
    others = {other: value for other, value in setting.fields.items() if other != name}
    _write(dataclasses.replace(setting, fields=others | (dict(first) if _said(f"on-{name}") else {})), reference)


def slide(name: str, reference: Reference) -> None:
    """Write the value of a field that a widget says."""
    setting, value = _now(reference), _said(name)
    given = round(value, 6) if isinstance(value, float) else value
    _write(dataclasses.replace(setting, fields={**setting.fields, name: given}), reference)


def flag(name: str, reference: Reference) -> None:
    """Write what a toggle says that is no field of the config."""
    changes: dict[str, Any] = {name: _said(f"on-{name}")}
    _write(dataclasses.replace(_now(reference), **changes), reference)


def turn_removal(reference: Reference) -> None:
    """Write whether pairs are taken out, at first as many as in the paper, or half of them."""
    count = max(1, min(REMOVED, reference.shared // 2 or REMOVED))
    removal = Removal(c.CLIPMEM, count) if _said("on-removal") else None
    _write(dataclasses.replace(_now(reference), removal=removal), reference)


def remove(reference: Reference) -> None:
    """Write how many pairs are taken out, and which first."""
    removal = Removal(_said("removal-by"), int(_said("removal-n")))
    _write(dataclasses.replace(_now(reference), removal=removal), reference)


def _said(name: str) -> Any:
    return st.session_state[f"mitigation-{name}"]


def _now(reference: Reference) -> Setting:
    """Return the setting that the page shows, and say nothing: callbacks draw nothing."""
    try:
        return _understood(reference)
    except InputError:
        return Setting()


def _write(setting: Setting, reference: Reference) -> None:
    """Write a setting into the address, without what does nothing; its pairs begin at their first page."""
    write(**{PARAMETER: normal(setting, reference.config).text or None, PAGE: None})
