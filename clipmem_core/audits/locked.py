"""The locked towers of an audit: the features of its pairs, and the models that read them."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.executor import Executor, Looks, Task, program_of
from clipmem_core.audits.prepare import given_features, pixels_folder
from clipmem_core.audits.settings import Towers, towers_of
from clipmem_core.audits.store import Audit, Record
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.features.cache import Elsewhere
from clipmem_core.features.embed import image_features, text_features
from clipmem_core.features.towers import Kind, Opened, Tower
from clipmem_core.training.model import LockedModel, Model, Standard, build_model, locked_model
from clipmem_core.training.names import model_config
from clipmem_core.training.views import FeatureViews

SHARDS = 8  # of a task: its process starts, and loads the tower, once


@dataclass(frozen=True, eq=False)
class Features:
    """What locked towers give of an audit's pairs; None is that of a tower which members train."""

    image: np.ndarray | None  # float16 [n_pairs, width], mapped from the file
    text: np.ndarray | None  # float16 [n_captions, width]
    cut: int = 0  # captions that are longer than the text tower reads

    @functools.cached_property
    def standards(self) -> dict[str, Standard]:
        """What heads standardise features by, from those of all pairs; worked out once for all members."""
        sides = {"image": self.image, "text": self.text}
        return {side: Standard.of(values) for side, values in sides.items() if values is not None}


def features_of(
    towers: Towers,
    pairs: pd.DataFrame,
    root: Path,
    *,
    elsewhere: Elsewhere | None = None,
    pictures: Callable[[int, int], None] | None = None,
    captions: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Features:
    """Return what locked towers give of pairs; it is computed once and kept, and goes on where it was stopped.

    `elsewhere` has shards of it computed by other processes; without, this one computes all. `pictures` and `captions`
    are told how many are done.
    """
    image = text = None
    cut = 0
    if towers.image:
        image = image_features(pairs, root, towers.image, elsewhere=elsewhere, progress=pictures)
    if towers.text:
        texts = [list(own) for own in pairs[c.CAPTIONS]]
        text, cut = text_features(texts, towers.text, elsewhere=elsewhere, progress=captions, say=say)
    return Features(image, text, cut)


def elsewhere(executor: Executor | None, threads: int) -> Elsewhere | None:
    """Return what has shards of features computed by an executor's tasks; None where this process computes them."""
    if executor is None:
        return None

    def compute(part: Path, names: Sequence[str]) -> Looks:
        for name in names:
            (part / name).mkdir(exist_ok=True)
        program = program_of("clipmem_core.features.embed:run_shards", part)
        owns = [tuple(names[at : at + SHARDS]) for at in range(0, len(names), SHARDS)]
        return executor([Task(tuple(part / name for name in own), program, own, threads, "shard") for own in owns])

    return compute


def open_towers(audit: Audit, record: Record, pairs: pd.DataFrame) -> tuple[Towers, Features]:
    """Return the locked towers of an audit and what they give, computed here or elsewhere."""
    if not record.config.features:
        towers = towers_of(record.config)
        return towers, features_of(towers, pairs, record.pictures)
    features = Features(*given_features(audit, pixels_folder(audit)))
    return Towers(_given("image", features.image, record), _given("text", features.text, record)), features


def _given(kind: Kind, features: np.ndarray | None, record: Record) -> Tower:
    """Return what stands for the tower of features that were computed elsewhere: it cannot be opened."""
    assert features is not None
    path = record.config.features

    def refuse() -> Opened:
        raise InputError(f"the features in {path} were computed elsewhere: nothing new can be embedded")

    return Tower(name=path, kind=kind, version="", licence="", sha256="", dim=features.shape[1], open=refuse)


def build_locked(towers: Towers, config: AuditConfig, *, seed: int, pretrained: str = "") -> LockedModel:
    """Build a model that reads what the locked towers give: its heads, and the tower that is not locked."""
    whole: Model | None = None
    if not (towers.image and towers.text):
        whole = build_model(
            config.model,
            loss=config.loss,
            seed=seed,
            image_size=config.image_size,
            pretrained=pretrained,
            device=config.device,
        )
    widths = [tower.dim if tower else 0 for tower in (towers.image, towers.text)]
    dim = int(model_config(config.model)["embed_dim"])
    return locked_model(*widths, dim=dim, loss=config.loss, seed=seed, whole=whole).to(config.device)


def fit_standards(model: LockedModel, features: Features) -> None:
    """Let heads standardise features by those of all pairs."""
    for side, tower in (("image", model.visual), ("text", model.text)):
        for part in tower.modules():
            if isinstance(part, Standard) and side in features.standards:
                part.load_state_dict(features.standards[side].state_dict())


def feature_views(model: LockedModel, seed: int) -> FeatureViews:
    """Return the views of pictures' features that a member of a seed is trained on."""
    standard = next(part for part in model.visual.modules() if isinstance(part, Standard))
    return FeatureViews(standard.mean, seed)
