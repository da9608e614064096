"""Computes the features of locked towers for an audit's pairs, and builds the models that are trained on them."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audit.executor import Executor, Task, TaskEvents, program_of
from clipmem_core.audit.prepare import pixels_folder, precomputed_features
from clipmem_core.audit.settings import Towers, towers_of
from clipmem_core.audit.store import Audit, Record
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.features.cache import ComputeShards
from clipmem_core.features.embed import image_features, text_features
from clipmem_core.features.towers import Opened, Tower
from clipmem_core.training.model import LockedModel, Model, Standard, build_model, locked_model
from clipmem_core.training.names import model_config
from clipmem_core.training.views import FeatureViews

SHARDS = 8  # per task, whose process loads the tower once


@dataclass(frozen=True, eq=False)
class Features:
    """The output of locked towers for an audit's pairs; None for a tower that members train."""

    image: np.ndarray | None  # float16 [n_pairs, width], mapped from the file
    text: np.ndarray | None  # float16 [n_captions, width]
    cut: int = 0  # captions longer than the text tower reads

    @functools.cached_property
    def standards(self) -> dict[str, Standard]:
        """Mean and standard deviation of the features of all pairs, by side."""
        sides = {"image": self.image, "text": self.text}
        return {side: Standard.of(values) for side, values in sides.items() if values is not None}


def features_of(
    towers: Towers,
    pairs: pd.DataFrame,
    root: Path,
    *,
    elsewhere: ComputeShards | None = None,
    pictures: Callable[[int, int], None] | None = None,
    captions: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Features:
    """Return the features of pairs, computed once and cached; with `elsewhere`, other processes compute shards."""
    image, text, cut = None, None, 0
    if towers.image:
        image = image_features(pairs, root, towers.image, compute=elsewhere, progress=pictures)
    if towers.text:
        texts = [list(captions) for captions in pairs[c.CAPTIONS]]
        text, cut = text_features(texts, towers.text, compute=elsewhere, progress=captions, say=say)
    return Features(image, text, cut)


def elsewhere(executor: Executor | None, threads: int) -> ComputeShards | None:
    """Return a function that computes shards of features as tasks of an executor; None to compute them here."""
    if executor is None:
        return None

    def compute(part: Path, names: Sequence[str]) -> TaskEvents:
        for name in names:
            (part / name).mkdir(exist_ok=True)
        program = program_of("clipmem_core.features.embed:run_shards", part)
        tasks = [tuple(names[start : start + SHARDS]) for start in range(0, len(names), SHARDS)]
        return executor([Task(tuple(part / name for name in task), program, task, threads, "shard") for task in tasks])

    return compute


def open_towers(audit: Audit, record: Record, pairs: pd.DataFrame) -> tuple[Towers, Features]:
    """Return the locked towers of an audit and their features, computed here or elsewhere."""
    path = record.config.features
    if not path:
        towers = towers_of(record.config)
        return towers, features_of(towers, pairs, record.pictures)
    image, text = precomputed_features(audit, pixels_folder(audit))

    def refuse() -> Opened:
        raise InputError(f"the features in {path} were computed elsewhere: nothing new can be embedded")

    facts: dict[str, Any] = {"name": path, "version": "", "licence": "", "sha256": "", "open": refuse}
    towers = Towers(Tower(kind="image", dim=image.shape[1], **facts), Tower(kind="text", dim=text.shape[1], **facts))
    return towers, Features(image, text)


def build_member(config: AuditConfig, towers: Towers, *, seed: int, pretrained: str = "") -> Model:
    """Build the model that members train; a head, not fitted yet, replaces each locked tower."""
    full: Model | None = None
    if not (towers.image and towers.text):
        options: dict[str, Any] = {"image_size": config.image_size, "pretrained": pretrained, "device": config.device}
        full = build_model(config.model, loss=config.loss, seed=seed, **options)
    if not (towers.image or towers.text):
        return full
    widths = [tower.dim if tower else 0 for tower in (towers.image, towers.text)]
    dim = int(model_config(config.model)["embed_dim"])
    return locked_model(*widths, dim=dim, loss=config.loss, seed=seed, full_model=full).to(config.device)


def fit_standards(model: LockedModel, features: Features) -> None:
    """Let heads standardise features by the mean and deviation over all pairs."""
    for side, tower in (("image", model.visual), ("text", model.text)):
        for module in tower.modules():
            if isinstance(module, Standard) and side in features.standards:
                module.load_state_dict(features.standards[side].state_dict())


def feature_views(model: LockedModel, seed: int) -> FeatureViews:
    """Return a member's training views of image features."""
    standard = next(module for module in model.visual.modules() if isinstance(module, Standard))
    return FeatureViews(standard.mean, seed)
