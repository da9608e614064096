"""The views of an audit that a person has stored: a name, and the selection it stands for.

<data>/views/<audit>.json   name → parameters of the selection in an address
"""

import json
from pathlib import Path

from clipmem_core.audit.store import Audit
from clipmem_core.config import data_folder
from clipmem_core.io import read_json, replacing

MAX_NAME = 60  # characters


def _path(audit: Audit) -> Path:
    return data_folder() / "views" / f"{audit.name}.json"


def read_views(audit: Audit) -> dict[str, dict[str, str]]:
    """Return the parameters of each stored view, by name."""
    path = _path(audit)
    return read_json(path, dict[str, dict[str, str]]) if path.is_file() else {}


def store_view(audit: Audit, name: str, parameters: dict[str, str] | None) -> None:
    """Store a view under its name, in place of one with the same name; None deletes it."""
    views = read_views(audit)
    views.pop(name, None)
    if parameters is not None:
        views[name] = parameters
    path = _path(audit)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(views, ensure_ascii=False, indent=1), "utf-8")
