"""CLIPMem: which image–caption pairs a CLIP model memorizes, and which captions are probably
wrong."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipmem_core.review.cards import AuditFrames

__version__ = "0.1.0"


def open_audit(name: str) -> "AuditFrames":
    """Return a finished audit as tables: `.pairs`, `.scores`, `.captions`, `.decisions`,
    `.table()`, `.search()`, `.judge()`.

    Args:
        name: the audit's, in the data folder (`data/`, or what the variable CLIPMEM_DATA says).
    """
    from clipmem_core.review.cards import open_frames

    return open_frames(name)
