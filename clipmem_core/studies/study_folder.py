"""The folder of a study.

<data>/studies/<name>/   study.json: the request · own.json: arms added later · arms.parquet ·
                         audits/split-<number>/<arm>/, or audits/<arm>/ with one split
"""

from dataclasses import dataclass
from typing import Annotated, Any

import pandas as pd
from pydantic import AfterValidator
from typing_extensions import TypedDict

from clipmem_core.audit.settings import check_fields
from clipmem_core.audit.store import Audit, Count, Inner, Named, inside, read_table, write_json, write_table
from clipmem_core.config import AuditConfig, as_dict
from clipmem_core.io import read_json

ARM, SEED, SPLIT = "arm", "seed", "split"
MEMBERSHIP_AUROC = "membership_auroc"
ATTACK_SHADOWS = "attack_shadows"  # members behind the attack_ columns of a row
CLIPMEM_CANDIDATE = "clipmem_candidate"  # means over candidates, and over external pairs, which measure the error
CLIPMEM_EXTERNAL = "clipmem_external"
RETRIEVAL = "retrieval"  # the mean of the six recalls
SAMPLES_SEEN, SECONDS, PEAK_MB = "samples_seen", "seconds", "peak_mb"

STUDY, ADDED, ARMS = "study.json", "own.json", "arms.parquet"
RANKING = "ranking"  # the audit with the scores that removals rank by
HINT = "delete it and run the study again; trained members stay"
Values = dict[str, bool | int | float | str | None]


class StudyFile(TypedDict):
    """The fields of study.json."""

    study: str
    source: str
    config: Annotated[AuditConfig, AfterValidator(check_fields), AfterValidator(as_dict)]
    reference_fields: Values
    arms: dict[Inner, Values]
    settings: dict[Inner, str]  # the text of each arm
    seeds_per_split: Count  # 0: all seeds share one split
    compared: list[str]  # for each split a fingerprint of the compared pairs
    dataset_fingerprint: Inner
    machine: dict[str, str | int]


@dataclass(frozen=True)
class StudyFolder(Named):
    """One study's folder. Tables are read on access."""

    KIND, PARENT, FIRST = "study", "studies", STUDY

    @property
    def request(self) -> dict[str, Any]:
        """The content of study.json."""
        return read_json(self.folder / STUDY, StudyFile, repair=HINT)

    @property
    def added(self) -> list[dict[str, Any]]:
        """The content of own.json: the added arms, trained or not."""
        path = self.folder / ADDED
        return read_json(path, dict[str, list[dict[str, Any]]], repair=HINT)["arms"] if path.is_file() else []

    @property
    def settings(self) -> dict[str, str]:
        """The text of each arm, also of added arms."""
        return self.request["settings"] | {arm["name"]: arm["setting"] for arm in self.added}

    @property
    def dataset_fingerprint(self) -> str:
        return str(self.request["dataset_fingerprint"])

    @property
    def arms(self) -> pd.DataFrame:
        """One row per finished arm and seed; empty before the first."""
        path = self.folder / ARMS
        return read_table(path, repair=HINT) if path.is_file() else pd.DataFrame({ARM: [], SEED: []})

    @property
    def seeds_per_split(self) -> int:
        """The number of seeds of one split of the pairs; 0: all seeds share one."""
        return int(self.request["seeds_per_split"]) if self.begun else 0

    def audit(self, arm: str, split: int = 0) -> Audit:
        """Return the audit of an arm on one split, over all finished seeds."""
        return Audit(inside(self.folder, f"audits/split-{split}/{arm}" if self.seeds_per_split else f"audits/{arm}"))

    def done(self) -> list[tuple[str, int]]:
        """Return the arm and seed of each row."""
        return [(str(arm), int(seed)) for arm, seed in self.arms[[ARM, SEED]].itertuples(index=False)]

    def add(self, row: dict[str, Any]) -> None:
        """Add the row of an arm and a seed."""
        table, new = self.arms, pd.DataFrame([row])
        write_table(self.folder / ARMS, pd.concat([table, new], ignore_index=True) if len(table) else new)

    def write_request(self, request: dict[str, Any]) -> None:
        """Write study.json, which marks the folder as a study."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / STUDY, request)


studies_folder, study_folder = StudyFolder.parent, StudyFolder.of
open_study, list_studies = StudyFolder.open, StudyFolder.every
