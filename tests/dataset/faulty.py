"""Work that crashes, hangs or is killed. Its processes start fast: this imports no library."""

import os
import signal
import time
from pathlib import Path


def misbehave(chunk: list[int], *, crash: int = -1, hang: int = -1) -> list[int]:
    """Return the squares, but crash as a decoder in C would on one item, and never return on
    another."""
    print("printing does not disturb the results")
    if crash in chunk:
        os.kill(os.getpid(), signal.SIGSEGV)
    if hang in chunk:
        time.sleep(1000)
    return [item * item for item in chunk]


def killed(chunk: list[int], *, item: int, log: Path, times: int) -> list[int]:
    """Be killed on one item a number of times, as when memory runs out; log the length of the chunk
    each time."""
    if item in chunk:
        lengths = log.read_text().split() if log.exists() else []
        log.write_text(" ".join([*lengths, str(len(chunk))]))
        if len(lengths) < times:
            os.kill(os.getpid(), signal.SIGKILL)
    return chunk
