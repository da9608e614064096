"""The folder of a study.

<data>/studies/<name>/   study.json: the request · arms.parquet: the rows of `lab_table` of each
                         split ·
                         audits/split-<number>/: its baseline, and in mitigations/ its arms
"""

from dataclasses import dataclass
from typing import Annotated, Any

import pandas as pd
from pydantic import AfterValidator
from typing_extensions import TypedDict

from clipmem_core.audit.settings import check_fields
from clipmem_core.audit.store import Audit, Count, Inner, Named, inside, read_table, write_table
from clipmem_core.config import AuditConfig, as_dict
from clipmem_core.io import read_json
from clipmem_core.studies.arm import NONE
from clipmem_core.studies.lab import ARM, lab_table

SPLIT = "split"
STUDY = "study.json"
ARMS = "arms.parquet"
_HINT = "delete it and run the study again; trained members stay"


class StudyFile(TypedDict):
    """The fields of study.json."""

    study: str
    source: str
    config: Annotated[AuditConfig, AfterValidator(check_fields), AfterValidator(as_dict)]
    splits: Count
    also: list[str]  # the settings of --also
    arms: dict[Inner, str]  # the title of each arm
    dataset_fingerprint: Inner
    machine: dict[str, str | int]


@dataclass(frozen=True)
class StudyFolder(Named):
    """One study's folder. Tables are read on access."""

    KIND = "study"
    PARENT = "studies"
    FIRST = STUDY

    @property
    def request(self) -> dict[str, Any]:
        """The content of study.json."""
        return read_json(self.folder / STUDY, StudyFile, repair=_HINT)

    @property
    def rows(self) -> pd.DataFrame:
        """One row per finished split, arm and member; empty before the first."""
        path = self.folder / ARMS
        return (
            read_table(path, repair=_HINT) if path.is_file() else pd.DataFrame({ARM: [], SPLIT: []})
        )

    def audit(self, split: int) -> Audit:
        """Return the audit of a split."""
        return Audit(inside(self.folder, f"audits/split-{split}"))

    def write_rows(self, splits: int) -> None:
        """Write arms.parquet from the audits of the first `splits` splits."""
        arms = [*self.request["arms"], NONE]
        tables = [
            lab_table(self.audit(split), arms).assign(**{SPLIT: split}) for split in range(splits)
        ]
        write_table(self.folder / ARMS, pd.concat(tables, ignore_index=True))


study_folder = StudyFolder.of
open_study = StudyFolder.open
list_studies = StudyFolder.every
