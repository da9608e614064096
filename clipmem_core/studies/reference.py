"""Studies that come with the code: the small tables of data/results, read for who has no study of their own yet.

A table has the means over seeds and the paired differences to a reference arm, but no single seed: what needs those
cannot be had of it.
"""

import functools
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from clipmem_core.config import InputError
from clipmem_core.files import reading
from clipmem_core.studies.arm import NONE
from clipmem_core.studies.effects import COLUMNS, JUDGED, Outcome
from clipmem_core.studies.store import ARM, EPOCH

RESULTS = Path(__file__).parents[2] / "data" / "results"
HEAD = ("command", "machine", "seeds", "value")  # the lines above a table that are no sentence
MEND = "get the file again from where the code came from"
_ARM = re.compile(r"paired difference to the arm (\S+?),")


@dataclass(frozen=True, eq=False)
class ReferenceStudy:
    """What a table of results says of the study that it is of."""

    name: str
    plan: str
    source: str
    preset: str
    machine: str
    seeds: int
    over: str  # what its intervals are over
    reference: str  # the arm that all others are compared with
    sentences: tuple[str, ...]
    rows: pd.DataFrame  # the columns of `differences`, of the reference arm alone; NaN where the table is from before

    @property
    def arms(self) -> list[str]:
        """The arms, as they come."""
        return list(dict.fromkeys(self.rows[ARM]))

    @property
    def told(self) -> str:
        """What it is, in a line."""
        return f"reference study: {self.source}, preset {self.preset}, {self.machine}, {self.seeds} {self.counted}"

    @property
    def counted(self) -> str:
        """What its seeds are: each a split of the pairs, or all of one."""
        return "splits" if self.over.startswith("splits") else "seeds of one split"


def reference_studies(plans: tuple[str, ...]) -> list[ReferenceStudy]:
    """Return the studies of some plans that come with the code, those over splits first.

    Raises:
        InputError: one of the tables is broken.
    """
    found = [read_reference(path) for path in sorted(RESULTS.glob("study-*.csv"))]
    known = [study for study in found if study.plan in plans]
    return sorted(known, key=lambda study: (plans.index(study.plan), study.counted != "splits"))


@functools.lru_cache(maxsize=64)
def read_reference(path: Path) -> ReferenceStudy:
    """Read a table of results.

    Raises:
        InputError: it is broken, or does not say what made it.
    """
    with reading(path, mend=MEND):
        lines = path.read_text(encoding="utf-8").splitlines()
        head = [line.removeprefix("# ") for line in lines if line.startswith("#")]
        table = pd.read_csv(path, comment="#", dtype={ARM: str})
        said = {line.partition(": ")[0]: line.partition(": ")[2] for line in reversed(head)}
        words = shlex.split(said["command"].partition("clipmem_core study ")[2])
        seeds, value = said["seeds"].split(", "), said["value"]
    lacking = {ARM, "measure", "value", "difference", "low", "high", "n"} - set(table)
    if lacking or len(words) < 2:
        raise InputError(f"{path} lacks {', '.join(sorted(lacking)) or 'its command'}: {MEND}")
    reference = next((found[1] for found in [_ARM.search(value)] if found), NONE)
    if "reference" in table:
        reference = str(table["reference"].dropna().iloc[0])
        table = table[table["reference"].eq(reference) | table["reference"].isna()]
    extra = [EPOCH] if EPOCH in table else []
    return ReferenceStudy(
        name=path.stem.removeprefix("study-"),
        plan=words[0],
        source=_source_name(Path(words[1]), path),
        preset=next((after for word, after in zip(words, words[1:], strict=False) if word == "--preset"), "small"),
        machine=said["machine"].partition(";")[0],
        seeds=len(seeds),
        over=value.partition("interval over ")[2].partition(" of the paired")[0],
        reference=reference,
        sentences=tuple(line for line in head if line.partition(": ")[0] not in HEAD),
        rows=table.reindex(columns=[*COLUMNS, *extra]).reset_index(drop=True),
    )


def _source_name(source: Path, path: Path) -> str:
    """Return what the data set is called: its folder's name, or where the command has none, what the table says."""
    if source.stem != "captions":
        return source.stem
    return source.parent.name or path.stem.removeprefix("study-").partition("-")[2].partition("-")[0]


def outcome(study: ReferenceStudy, arm: str) -> Outcome | None:
    """Return what an arm did by the table, as `effects.outcome_of` does by seeds; None where a measure is missing."""
    rows = study.rows[study.rows[ARM] == arm].set_index("measure")
    none = study.rows[study.rows[ARM] == study.reference].set_index("measure")["value"]
    if not set(JUDGED) <= set(rows.index) & set(none.index):
        return None
    clipmem, auroc, retrieval = JUDGED
    less, lost = -rows["high"][clipmem] / none[clipmem], -rows["low"][retrieval] / none[retrieval]
    return Outcome(int(rows["n"][clipmem]), float(less), float(rows["high"][auroc]), float(lost))
