"""CLIPMem: which image–caption pairs a CLIP model memorizes, and which captions are probably
wrong."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipmem_core.api import AuditFrames

__version__ = "0.1.0"


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
