"""What every reader hands over: input rows as they stand in the file, before anything is checked or merged."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One input row. Values are raw: merging cleans them. A row with a `reason` could not be used and says why."""

    source: str  # where it stands, such as `captions.csv:17`
    image: Any = None  # the reference, relative to the root
    captions: Any = None  # a text or a list of texts
    label: Any = None
    pair_id: Any = None
    planted: Any = None
    reason: str = ""


@dataclass(frozen=True)
class Rows:
    """The rows of one data set. `files` says that images are plain files, which still have to be looked for."""

    root: Path
    format: str
    rows: list[Row]
    files: bool = True
