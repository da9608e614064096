"""CLIPMem: which image–caption pairs a CLIP model memorizes, and which captions are probably
wrong."""

import importlib
from typing import Any

__all__ = ["audit", "find_wrong_captions", "open_audit"]  # noqa: F822
__version__ = "0.1.0"
_HOMES = {"audit": "api.run", "find_wrong_captions": "api.arrays", "open_audit": "api.frames"}


def __getattr__(name: str) -> Any:
    """Import a function when it is first used: it takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
