"""Members in memory: trained and embedded as those of an audit, of which nothing is kept but what detectors read."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from clipmem_core import columns as c
from clipmem_core.audits.locked import Features, Towers, feature_views, fit_standards
from clipmem_core.audits.member import EVALUATION, build_member, caption_starts, view_maker
from clipmem_core.audits.setup import member_seeds
from clipmem_core.config import AuditConfig
from clipmem_core.draws import draw_keys
from clipmem_core.scores.membership import Membership
from clipmem_core.training.model import Model, mean_by_pair, mean_image_embeddings, text_embeddings, tokenize
from clipmem_core.training.state import Progress
from clipmem_core.training.trainer import Trainer
from clipmem_core.training.views import FeatureRows, PixelSource, TrainingData, Views


@dataclass(frozen=True, eq=False)
class Left:
    """What a member leaves."""

    image: np.ndarray  # mean embeddings of pictures, float32 [n_pairs, dim]
    text: np.ndarray  # mean embeddings of captions, float32 [n_pairs, dim]
    trajectory: np.ndarray  # float16 [n_epochs, n_pairs, 2]
    logit_scale: float


@dataclass(frozen=True, eq=False)
class Given:
    """What members are made from."""

    config: AuditConfig
    pairs: pd.DataFrame
    membership: Membership
    towers: Towers
    features: Features
    pixels: PixelSource | None  # where the image tower is trained


def trained_members(given: Given) -> Iterator[Left]:
    """Train every member of a split, one after the other, on one thread."""
    torch.set_num_threads(1)
    config, features = given.config, given.features
    captions = [caption for own in given.pairs[c.CAPTIONS] for caption in own]
    pixels = given.pixels if features.image is None else FeatureRows(features.image)
    assert pixels is not None
    data = TrainingData(
        pixels=pixels,
        tokens=tokenize(config.model, captions) if features.text is None else features.text,
        caption_start=caption_starts(given.pairs),
        keys=draw_keys(given.pairs[c.PAIR_ID].tolist()),
        rows=np.array([], dtype=np.int64),
        external=np.flatnonzero(given.membership.group == c.EXTERNAL),
    )
    seeds = member_seeds(config, given.membership.members)
    views: dict[int, Views] = {}  # members of one repeat share a seed, and with it what they see of features
    for name, trained in zip(given.membership.members, given.membership.trained, strict=True):
        own = dataclasses.replace(data, rows=np.flatnonzero(trained))
        yield _trained(given, own, seeds[name], views)


def _trained(given: Given, data: TrainingData, seed: int, views: dict[int, Views]) -> Left:
    config = given.config
    model = build_member(config, given.towers, seed=seed, pretrained=config.pretrained, device=config.device)
    if given.towers.image or given.towers.text:
        fit_standards(model, given.features)
    if seed not in views:
        views[seed] = feature_views(model, seed) if given.towers.image else view_maker(model, config, seed)
    trainer = Trainer(model, data, config, views[seed], seed=seed, device=config.device)
    progress = Progress(0, np.full((config.epochs, len(given.pairs), 2), np.nan, dtype=np.float16))
    model.train()
    for _ in trainer.steps(progress):
        pass
    evaluated = views[seed]
    if not given.towers.image:
        evaluated = view_maker(model, config, config.seed + EVALUATION, crop_scale=config.eval_crop_scale)
    scale = float(model.logit_scale.detach().exp())
    return Left(*_embedded(given, model, data, evaluated), progress.trajectory, scale)


def _embedded(given: Given, model: Model, data: TrainingData, views: Views) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean embeddings of pictures and captions; of features there is one view, the same for any seed."""
    config = given.config
    how = {"precision": config.precision, "device": config.device}
    n_views = 1 if given.towers.image else config.views
    image = mean_image_embeddings(model, data, views, n_views=n_views, **how)
    text = text_embeddings(model, data.tokens, **how)
    return image, mean_by_pair(text, data.caption_start, first=config.eval_captions)
