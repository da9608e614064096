"""CLIPMem: which image–caption pairs a CLIP model memorizes, and which captions are probably
wrong."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipmem_core.api import AuditFrames
    from clipmem_core.find import find_wrong_captions
    from clipmem_core.run import audit

__all__ = ["audit", "find_wrong_captions", "open_audit"]
__version__ = "0.1.0"
_HOMES = {"audit": "clipmem_core.run", "find_wrong_captions": "clipmem_core.find"}


def __getattr__(name: str) -> Any:
    """Import a function when it is first used: both take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'clipmem_core' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def open_audit(name: str) -> "AuditFrames":
    """Return a finished audit as pandas tables, with searches and decisions.

    Args:
        name: the audit's, in the data folder (`data/`, or what the variable CLIPMEM_DATA says).

    Returns:
        See clipmem_core/api.py, which has an example of each.
    """
    from clipmem_core.api import AuditFrames

    audit = AuditFrames.open(name)
    audit.check_finished()
    return audit
