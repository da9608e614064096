"""What a pass over pictures that come from a URL has found so far: a line a picture, so that a pass that was cut short
goes on. Where the squares are is on the disk before a line says so."""

import base64
import dataclasses
import json
import time
from pathlib import Path

from clipmem_core.atomic import sync
from clipmem_core.pairs.pictures import Fact

SECONDS_BETWEEN_NOTES = 20.0


class Journal:
    """The facts of pictures by their row: those that a file holds, and those that are added to it.

    Args:
        path: the file; None keeps nothing.
        pixels: where the squares of the pictures are written; None where they are not kept.
    """

    def __init__(self, path: Path | None, pixels: Path | None) -> None:
        self.facts: dict[int, Fact] = {}
        self._path, self._pixels = path, pixels
        self._new: dict[int, Fact] = {}
        self._noted = time.monotonic()
        for line in path.read_text(encoding="utf-8").splitlines() if path and path.is_file() else ():
            try:
                row, width, height, sha256, reason, descriptor = json.loads(line)
            except ValueError:  # cut off by a kill
                continue
            self.facts[row] = Fact(width, height, sha256, reason, base64.b64decode(descriptor))

    def add(self, facts: dict[int, Fact]) -> None:
        """Take note of pictures whose squares are written; every few seconds, of all of them on the disk."""
        self.facts |= facts
        self._new |= facts
        if time.monotonic() - self._noted > SECONDS_BETWEEN_NOTES:
            self.note()

    def note(self) -> None:
        """Write down what is new."""
        if self._path is None:
            return
        if self._pixels is not None:
            sync(self._pixels)
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n")  # a line cut off by a kill ends here
            for row, fact in self._new.items():
                *values, descriptor = dataclasses.astuple(fact)
                file.write(json.dumps([row, *values, base64.b64encode(descriptor).decode()]) + "\n")
        sync(self._path)
        self._new, self._noted = {}, time.monotonic()
