"""Start methods of processes that do not run the script of their parent: it may be a notebook, or a
script without a main guard."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import (
    ForkServerContext,
    ForkServerProcess,
)
from types import ModuleType
from typing import Any


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the parent's script, which multiprocessing would run in the process."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class _Forked(ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        with _without_main():
            return ForkServerProcess._Popen(process_obj)


class ForkServer(ForkServerContext):
    """Forks of a process that has imported some libraries."""

    Process = _Forked
