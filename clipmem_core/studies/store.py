"""The folder of a study: its files, the request that made it, and its tables.

<data>/studies/<name>/   study.json · own.json: arms that a person added · arms.parquet, times.parquet ·
                         models/ of arms with their own · audits/split-<number>/<arm>/, or audits/<arm>/ where all
                         seeds share one split
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

import pandas as pd
from pydantic import AfterValidator
from typing_extensions import TypedDict

from clipmem_core import columns as c
from clipmem_core.audits.settings import check_fields
from clipmem_core.audits.store import Audit, Count, Inner, Named, inside, read_table, write_json, write_table
from clipmem_core.config import AuditConfig, as_dict
from clipmem_core.io import read_json

ARM, SEED, SPLIT, EPOCH = "arm", "seed", "split", "epoch"
CLIPMEM_CANDIDATE = "clipmem_candidate"
MEMBERSHIP_AUROC = "membership_auroc"
ATTACK_SHADOWS = "attack_shadows"  # members behind the attack_ columns of a row
CLIPMEM_EXTERNAL = "clipmem_external"
IMAGE_EXTERNAL = "clipmem_image_external"
TEXT_EXTERNAL = "clipmem_text_external"
# Means over candidates, and over external pairs: no member trains on these, so their means measure the error.
MEMORIZATION = (
    *(CLIPMEM_CANDIDATE, MEMBERSHIP_AUROC, c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT),
    *(CLIPMEM_EXTERNAL, IMAGE_EXTERNAL, TEXT_EXTERNAL, "map_fit"),
)
RETRIEVAL = "retrieval"  # the mean of the six recalls
SAMPLES_SEEN, SECONDS, PEAK_MB = "samples_seen", "seconds", "peak_mb"

STUDY, OWN, ARMS, TIMES = "study.json", "own.json", "arms.parquet", "times.parquet"
RANKING = "ranking"  # the audit of the same pairs that removals are ranked by
MEND = "delete it and run the study again; trained members stay"
Values = dict[str, bool | int | float | str | None]


class StudyFile(TypedDict):
    """The fields of study.json."""

    study: str
    source: str
    config: Annotated[AuditConfig, AfterValidator(check_fields), AfterValidator(as_dict)]
    reference: Inner
    reference_fields: Values
    arms: dict[Inner, Values]
    settings: dict[Inner, str]  # the text of each arm that a text can describe
    seeds_per_split: Count  # 0: all seeds share one split
    compared: list[str]  # a fingerprint of the pairs compared, of each split
    dataset_fingerprint: Inner
    machine: dict[str, str | int]


class OwnArmFile(TypedDict):
    """The fields of an arm in own.json."""

    name: Inner
    setting: str
    removed: NotRequired[list[str]]
    recaptioned: NotRequired[dict[str, list[str]]]


class OwnFile(TypedDict):
    """The fields of own.json."""

    arms: list[OwnArmFile]


@dataclass(frozen=True)
class StudyFolder(Named):
    """One study's folder. Tables are read on access."""

    KIND, PARENT, FIRST = "study", "studies", STUDY

    @property
    def asked(self) -> dict[str, Any]:
        """The content of study.json."""
        return read_json(self.folder / STUDY, StudyFile, repair=MEND)

    @property
    def own(self) -> list[dict[str, Any]]:
        """The content of own.json: the arms that a person added, run or not."""
        path = self.folder / OWN
        return list(read_json(path, OwnFile, repair=MEND)["arms"]) if path.is_file() else []

    @property
    def settings(self) -> dict[str, str]:
        """The text of each arm's setting, also of added arms; an arm that no text describes has none."""
        return self.asked["settings"] | {arm["name"]: arm["setting"] for arm in self.own}

    @property
    def dataset_fingerprint(self) -> str:
        """The key of the data set's content, the same as in audits of it."""
        return str(self.asked["dataset_fingerprint"])

    @property
    def arms(self) -> pd.DataFrame:
        """One row per finished arm and seed; empty before the first."""
        return self._table(ARMS)

    @property
    def times(self) -> pd.DataFrame:
        """One row per arm, seed and epoch of a study that stores snapshots; empty otherwise."""
        return self._table(TIMES)

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def seeds_per_split(self) -> int:
        """How many seeds train on one split of the pairs; 0: all share one."""
        return int(self.asked["seeds_per_split"]) if self.begun else 0

    def audit(self, arm: str, split: int = 0) -> Audit:
        """Return the audit of an arm on one split, over all finished seeds."""
        return Audit(inside(self.folder, f"audits/split-{split}/{arm}" if self.seeds_per_split else f"audits/{arm}"))

    def _table(self, name: str) -> pd.DataFrame:
        path = self.folder / name
        return read_table(path, repair=MEND) if path.is_file() else pd.DataFrame({ARM: [], SEED: []})

    def done(self) -> list[tuple[str, int]]:
        """Return the arms and seeds that have their row, in the order of the rows."""
        return [(str(arm), int(seed)) for arm, seed in self.arms[[ARM, SEED]].itertuples(index=False)]

    def add(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        """Put rows into a table, in place of those of the same arm, seed and epoch, atomically."""
        table, new = self._table(name), pd.DataFrame(rows)
        if len(table):
            keys = [key for key in (ARM, SEED, EPOCH) if key in new]
            new = pd.concat([table, new], ignore_index=True).drop_duplicates(keys, keep="last", ignore_index=True)
        write_table(self.folder / name, new)

    def write_asked(self, asked: dict[str, Any]) -> None:
        """Write study.json, which makes the folder a study."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / STUDY, asked)


studies_folder, study_folder = StudyFolder.parent, StudyFolder.of
open_study, list_studies = StudyFolder.open, StudyFolder.every
