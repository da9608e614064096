"""The features that an audit's locked towers give to its pairs, computed once and cached, or
precomputed."""

import dataclasses
import functools
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audit import prepare, store
from clipmem_core.audit.executor import Executor, Task, TaskEvents, program_of
from clipmem_core.audit.settings import Towers, config_from, towers_of
from clipmem_core.audit.status import Screen
from clipmem_core.audit.store import Audit, Record
from clipmem_core.config import AuditConfig, as_dict
from clipmem_core.features.cache import ComputeShards
from clipmem_core.features.embed import FeatureExtractor
from clipmem_core.features.towers import Opened, Tower
from clipmem_core.io import InputError, read_json
from clipmem_core.training.model import Standard

PROMPT = "a picture of {}"
_SHARDS = 8  # of features per task, whose process loads the tower once
_REQUEST = "request.json"  # the config and the folder of the pictures


@dataclass(frozen=True, eq=False)
class Features:
    """The output of locked towers for an audit's pairs; None for a tower that members train."""

    image: np.ndarray | None  # mapped, float16 [n_pairs, width]
    text: np.ndarray | None  # float16 [n_captions, width]

    @functools.cached_property
    def standards(self) -> dict[str, Standard]:
        """Mean and standard deviation of the features of all pairs, by side."""
        sides = {"image": self.image, "text": self.text}
        return {side: Standard.of(values) for side, values in sides.items() if values is not None}


def caption_texts(pairs: pd.DataFrame) -> list[str]:
    """Return the captions of all pairs, in order."""
    return [caption for captions in pairs[c.CAPTIONS] for caption in captions]


def prompts(pairs: pd.DataFrame) -> list[str]:
    """Return the prompt of each class, in order."""
    labels = pairs[c.LABEL].dropna().to_numpy().astype(str)
    return [PROMPT.format(name) for name in np.unique(labels)]


def compute_features(
    towers: Towers,
    pairs: pd.DataFrame,
    root: Path,
    screen: Screen,
    *,
    compute: ComputeShards | None = None,
) -> int:
    """Compute and cache the features of pairs and of their classes' prompts, and return the number
    of captions that the text tower truncates; `compute` runs shards in other processes."""
    if towers.image:
        FeatureExtractor(towers.image, root, compute, screen.pictures, screen.say).images(pairs)
    if not towers.text:
        return 0
    texts = caption_texts(pairs)
    extractor = FeatureExtractor(towers.text, root, compute, screen.captions, screen.say)
    extractor.captions(texts)
    # Members do not open the tower.
    FeatureExtractor(towers.text, root, compute).captions(prompts(pairs))
    truncated = extractor.count_truncated(texts)
    if truncated:
        screen.say(
            f"{truncated:,} of {len(texts):,} captions are longer than the {towers.text.context} "
            f"tokens that {towers.text.name} reads"
        )
    return truncated


def shards_by(executor: Executor | None, config: AuditConfig, root: Path) -> ComputeShards | None:
    """Return a function that computes shards of features as tasks of an executor; None to use this
    process."""
    if executor is None:
        return None

    def compute(part: Path, names: Sequence[str]) -> TaskEvents:
        request = {"config": as_dict(config), "root": str(root.absolute())}
        store.write_json(part / _REQUEST, request)
        for name in names:
            (part / name).mkdir(exist_ok=True)
        program = program_of("clipmem_core.audit.locked_features:run_shards", part)
        groups = [tuple(names[start : start + _SHARDS]) for start in range(0, len(names), _SHARDS)]
        tasks = [
            Task(tuple(part / name for name in group), program, group, config.threads, "shard")
            for group in groups
        ]
        return executor(tasks)

    return compute


def run_shards(part: Path, names: Sequence[str]) -> None:
    """Compute shards of a tower's features in this process. The work of a task."""
    request = read_json(part / _REQUEST)
    towers = towers_of(config_from(request["config"]))
    for tower in (towers.image, towers.text):
        if tower and tower.key == part.parent.name:
            FeatureExtractor(tower, Path(request["root"])).run_shards(names)
            return
    raise InputError(
        f"no tower on {platform.node()} gives the features {part.parent.name}: install the same "
        "weights and libraries on all machines"
    )


def open_features(audit: Audit, record: Record, pairs: pd.DataFrame) -> tuple[Towers, Features]:
    """Return the locked towers of an audit, and their cached features or the precomputed ones."""
    path = record.config.features
    if not path:
        towers = towers_of(record.config)
        image: np.ndarray | None = None
        text: np.ndarray | None = None
        if towers.image:
            image = FeatureExtractor(towers.image, record.pictures).images(pairs)
        if towers.text:
            text = FeatureExtractor(towers.text).captions(caption_texts(pairs))
        return towers, Features(image, text)
    image, text = prepare.precomputed_features(audit)

    def refuse(_: Tower) -> Opened:
        raise InputError(f"the features in {path} are precomputed: nothing new can be embedded")

    image_tower = Tower(
        name=path, kind="image", version="", licence="", sha256="", dim=image.shape[1], load=refuse
    )
    text_tower = dataclasses.replace(image_tower, kind="text", dim=text.shape[1])
    return Towers(image_tower, text_tower), Features(image, text)
