"""The commands and their flags: a dataclass each, whose comments are the help."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from clipmem_core.config import AuditConfig, SourceOptions

Source = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE", help="a path, a hub name, or `scenes`")]
AuditName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME", help="the audit")]


@dataclass(frozen=True)
class Inspect:
    """Say what is in a data set and what is broken; changes nothing."""

    source: Source
    options: SourceOptions = field(default_factory=SourceOptions)


@dataclass(frozen=True)
class Fetch:
    """Fetch a real data set from Debian's archive into the data folder."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SET", help="openclipart | tuxpaint")]


@dataclass(frozen=True)
class Audit:
    """Train members with and without parts of a data set and score how strongly each pair is memorized."""

    source: Source
    name: str = ""  # the audit's folder; empty names it after the source
    config: AuditConfig = field(default_factory=AuditConfig)


@dataclass(frozen=True)
class Score:
    """Score existing checkpoints: no training."""

    source: Source
    name: str  # the audit's folder
    membership: str  # CSV or Parquet: pair_id, one true/false column a member, and optionally group
    checkpoints: tuple[str, ...]  # open_clip checkpoints, in the order of the member columns
    config: AuditConfig = field(default_factory=AuditConfig)


@dataclass(frozen=True)
class Study:
    """Compare settings over several seeds, each with its f and its g: memorization, utility and price."""

    study: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="STUDY", help="size | views | time | captions | text-noise | removal | combined"),
    ]
    source: Source
    name: str  # the study's folder
    also: tyro.conf.UseAppendAction[tuple[str, ...]] = ()  # one more arm, such as "text_mask=0.3 decisions"
    equal_time: bool = False  # add each arm that takes longer or shorter than none once more, taking as long
    only: tyro.conf.UseAppendAction[tuple[str, ...]] = ()  # train only this arm now, and the one all are compared with
    config: AuditConfig = field(default_factory=AuditConfig)


@dataclass(frozen=True)
class Units:
    """Measure UnitMem: which pair sets each unit of an audit's members off, and how far it stands out."""

    name: AuditName
    members: tuple[str, ...] = ()  # which members; all if none is named
    sample: int = 0  # pairs of a member that are looked at; 0 means all that it was trained on


@dataclass(frozen=True)
class Paradigms:
    """Teach an audit's image encoder by captions, by labels and by itself, and compare UnitMem by layer."""

    name: AuditName
    seeds: int = 3  # runs of each of the three
    epochs: int = 0  # of each run; 0 means the audit's


@dataclass(frozen=True)
class Export:
    """Write an audit's cleaned data set, decisions or report in a format of other tools."""

    name: AuditName
    format: str  # csv | coco | wds | datacomp | html | decisions
    out: str  # the file to write
    overwrite: bool = False  # replace what is there
