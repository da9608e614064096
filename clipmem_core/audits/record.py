"""What an audit and its members are: the fields of each JSON file in its folder, and what a name there may be."""

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from clipmem_core import columns as c
from clipmem_core.audits.settings import check_fields
from clipmem_core.config import SETS, AuditConfig, InputError, as_dict, data_folder

VERSION = 1  # of the folder of an audit: one of another version has to be made again
MAX_NAME = 100  # bytes; file systems take 255, and locks and temporary files add to it


def check_name(name: str) -> str:
    """Return a name that is safe as a folder's; anything else is an error."""
    if not name or name.startswith((".", "-")) or not all(c.isalnum() or c in "-_." for c in name):
        raise InputError(f"name {name!r} must be letters, digits, '-', '_' or '.', and not start with '.' or '-'")
    if len(name.encode()) > MAX_NAME:
        raise InputError(f"name {name!r} must be at most {MAX_NAME} bytes long, not {len(name.encode())}")
    return name


def check_inner(name: str) -> str:
    """Return a path that stays inside the folder it starts from, as it is written; anything else is an error."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\\" in name or ":" in name:
        raise InputError(f"path {name!r} must lie inside the folder")
    return name


def _no_twice(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise InputError("no name may be there twice")
    return names


Name = Annotated[str, AfterValidator(check_name)]
Inner = Annotated[str, AfterValidator(check_inner)]
Whole = Annotated[int, Field(ge=0)]
Row = dict[str, str | int | float | None]  # of a table in JSON
CheckedConfig = Annotated[AuditConfig, AfterValidator(check_fields)]


@dataclass(frozen=True)
class Record:
    """An audit's config.json; `source` and `root` may lie anywhere."""

    name: str
    source: str
    root: Annotated[str, Field(min_length=1)]  # the folder that the pictures are in
    format: str
    pixels: Inner  # the store of small pictures, in the data folder
    protocol: Annotated[str, Field(pattern="^(ensemble|paper)$")]
    members: Annotated[tuple[Name, ...], Field(min_length=1), AfterValidator(_no_twice)]
    seeds: dict[Name, Whole]  # that each member trains from
    threads: Annotated[int, Field(ge=1, le=1024)]  # of each member
    device: Annotated[str, Field(pattern="^(cpu|cuda)$")]
    precision: Annotated[str, Field(pattern="^(fp32|amp_bf16)$")]
    pairs: Whole
    external_pairs: Whole
    lookalikes: Whole
    quarantined: Whole
    dataset_fingerprint: str
    fingerprint: str
    prepare_seconds: float
    versions: dict[str, str]
    machine: dict[str, str | int]
    config: CheckedConfig
    snapshots: tuple[Whole, ...] = ()  # epochs after which each member keeps its embeddings
    towers: dict[str, dict[str, Any]] = field(default_factory=dict)  # what is known of those that are locked, by kind
    sampled_of: Whole = 0  # pairs of the data set, where those of the audit are a random sample of them
    again: str = ""  # the audit whose cleaned data set it is of, member by member with the same pairs

    @property
    def pictures(self) -> Path:
        """The folder that the pictures are in: `root`, or on another machine the same set in its own data folder."""
        root = Path(self.root)
        if SETS in root.parts and not root.exists():
            below = root.parts[len(root.parts) - root.parts[::-1].index(SETS) :]
            return data_folder().joinpath(SETS, *below)
        return root

    @property
    def groups(self) -> list[str]:
        """The groups that its protocol can put a pair into."""
        return [c.SCORED, c.EXTERNAL] if self.protocol == "ensemble" else [g for g in c.GROUPS if g != c.SCORED]

    @property
    def values(self) -> dict[str, Any]:
        """The content of config.json."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}
        values["config"] = as_dict(self.config)
        left_out = ("snapshots", "towers", "sampled_of", "again")
        return {"version": VERSION} | {key: value for key, value in values.items() if value or key not in left_out}


@dataclass(frozen=True)
class MemberRecord:
    """A member's config.json: what rebuilds its model, and the seed it trains from or the checkpoint it is."""

    member: str
    seed: Whole
    fingerprint: str
    model: str
    image_size: Whole
    model_config: dict[str, Any]
    checkpoint: str = ""  # a given one, which may lie anywhere
    checkpoint_sha256: str = ""

    @property
    def values(self) -> dict[str, Any]:
        """The content of its file."""
        return {key: value for key, value in vars(self).items() if value or "checkpoint" not in key}


class ManifestFile(TypedDict):
    """The fields of manifest.json, by the path of each file in the folder."""

    version: Annotated[int, Field(ge=VERSION, le=VERSION)]
    files: dict[Inner, str]  # SHA-256
    sizes: dict[Inner, Whole]  # bytes


class VerdictCheck(TypedDict, total=False):
    """One of an audit's checks of itself."""

    name: str
    good: bool | None
    sentence: str
    advice: str


class VerdictFile(TypedDict, total=False):
    """The fields of verdict.json."""

    sentence: str
    checks: list[VerdictCheck]
    uses: dict[str, str]
    groups: list[Row]
    planted: list[Row]
    wrong_captions: dict[str, Any]
    sample: dict[str, Any]  # what the counts of a sample say of the whole set
    captions_missing: str | None
    detection: list[Row]
    membership_auroc: float | None
    membership_auroc_by_member: dict[str, float | None]
    attacks: list[Row]
    ranking_stability: float | None
    ranking_reliability: float | None
    trained_share: float | None
    second_round_left_out: Whole  # pairs, where there was a second round of training
    se_kind: str
    se_degrees: float | None
    exceeding: list[Row]
    encoders: dict[str, str | float | None | dict[str, float]]
    external_pairs: Whole
    utility_pairs: Whole  # of these, where utility is measured on some that are set apart
    external_sd: float | None
    utility: dict[str, float | None]
    seconds: dict[str, float | dict[str, float | None]]
