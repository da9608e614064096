"""The locked towers of an audit: which they are, the features of its pairs, and the models that read them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from clipmem_core import columns as c
from clipmem_core.audits.given import given_features
from clipmem_core.audits.prepare import pixels_folder
from clipmem_core.audits.record import Record
from clipmem_core.audits.store import Audit
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.features.embed import image_features, text_features
from clipmem_core.features.named import image_tower, text_tower
from clipmem_core.features.towers import Kind, Opened, Precision, Tower
from clipmem_core.training.heads import FeatureViews, LockedModel, Standard, locked_model
from clipmem_core.training.model import Model, build_model
from clipmem_core.training.names import model_config


@dataclass(frozen=True)
class Towers:
    """The locked towers of an audit; None is one that its members train."""

    image: Tower | None
    text: Tower | None


@dataclass(frozen=True, eq=False)
class Features:
    """What locked towers give of an audit's pairs; None is that of a tower which members train."""

    image: np.ndarray | None  # float16 [n_pairs, width], mapped from the file
    text: np.ndarray | None  # float16 [n_captions, width]


def towers_of(config: AuditConfig) -> Towers:
    """Return the towers that a config locks.

    Raises:
        InputError: there is no such tower, or its weights cannot be had; one line says what to do.
    """
    precision: Precision = "amp_bf16" if config.precision == "amp_bf16" else "fp32"
    image = text = None
    if config.lock_image:
        image = image_tower(
            config.image_tower or config.model,
            size=config.tower_size,
            pretrained="" if config.image_tower else config.pretrained,
            precision=precision,
            device=config.device,
        )
    if config.lock_text:
        text = text_tower(
            config.text_tower or config.model,
            pretrained="" if config.text_tower else config.pretrained,
            precision=precision,
            device=config.device,
        )
    return Towers(image, text)


def features_of(
    towers: Towers,
    pairs: pd.DataFrame,
    root: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Features:
    """Return what locked towers give of pairs; it is computed once and kept, and goes on where it was stopped.

    Raises:
        InputError: a picture is no longer what it was, or a tower gives what is no number; one line names it.
    """
    image = text = None
    if towers.image:
        image = image_features(pairs, root, towers.image, progress=progress, say=say)
    if towers.text:
        captions = [list(own) for own in pairs[c.CAPTIONS]]
        text = text_features(captions, towers.text, progress=progress, say=say).features
    return Features(image, text)


def open_towers(audit: Audit, record: Record, pairs: pd.DataFrame) -> tuple[Towers, Features]:
    """Return the locked towers of an audit and what they give, computed here or elsewhere."""
    if not record.config.features:
        towers = towers_of(record.config)
        return towers, features_of(towers, pairs, Path(record.root))
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
    """Build a model that reads what the locked towers give: its heads, and the tower that is not locked.

    Args:
        towers: those that are locked, at least one.
        config: the audit's.
        seed: of the initial weights.
        pretrained: what the tower that is not locked starts from.
    """
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


@torch.no_grad()
def fit_standards(model: LockedModel, features: Features) -> None:
    """Take what heads standardise features by from the features of all pairs."""
    for tower, values in ((model.visual, features.image), (model.text, features.text)):
        standard = next((part for part in tower.modules() if isinstance(part, Standard)), None)
        if standard is not None and values is not None:
            standard.fit(values)


def feature_views(model: LockedModel, seed: int) -> FeatureViews:
    """Return the views of pictures' features that a member of a seed is trained on."""
    standard = next(part for part in model.visual.modules() if isinstance(part, Standard))
    return FeatureViews(standard.mean, seed)
