"""The folder of a study.

<data>/studies/<name>/   study.json: the request · arms.parquet: the rows of `lab_table` of each
                         split ·
                         audits/split-<number>/: its baseline, and in mitigations/ its arms
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd
from typing_extensions import TypedDict

from clipmem_core.audit.setup import differing_fields
from clipmem_core.audit.store import (
    Audit,
    CheckedConfig,
    Count,
    Inner,
    Named,
    inside,
    read_table,
    write_table,
)
from clipmem_core.config import AuditConfig, affecting
from clipmem_core.io import InputError, read_json
from clipmem_core.studies.arm import BASELINE
from clipmem_core.studies.lab import lab_table

SPLIT = "split"
STUDY = "study.json"
ARMS = "arms.parquet"
_REPAIR = "delete it and run the study again; trained members stay"


class StudyFile(TypedDict):
    """The fields of study.json."""

    study: str
    source: str
    config: CheckedConfig
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
        """The content of study.json; its config as an `AuditConfig`."""
        return read_json(self.folder / STUDY, StudyFile, repair=_REPAIR)

    @property
    def rows(self) -> pd.DataFrame:
        """One row per finished split, arm and member."""
        return read_table(self.folder / ARMS, repair=_REPAIR)

    def audit(self, split: int) -> Audit:
        """Return the audit of a split."""
        return Audit(inside(self.folder, f"audits/split-{split}"))

    def write_rows(self, splits: int) -> None:
        """Write arms.parquet from the audits of the first `splits` splits."""
        arms = [*self.request["arms"], BASELINE]
        tables = [
            lab_table(self.audit(split), arms).assign(**{SPLIT: split}) for split in range(splits)
        ]
        write_table(self.folder / ARMS, pd.concat(tables, ignore_index=True))


def check_same(folder: Named, request: dict[str, Any], source: str, config: AuditConfig) -> None:
    """Refuse to resume a study or a benchmark with another source or config; unlike an audit,
    neither gets more members."""
    if differ := differing_fields(
        request["source"], request["config"], source, config, may_differ=affecting()
    ):
        raise InputError(
            f"{folder.KIND} {folder.name!r} exists with another config: {'; '.join(differ)}. Use "
            "another --name"
        )


study_folder = StudyFolder.of
open_study = StudyFolder.open
list_studies = StudyFolder.every
