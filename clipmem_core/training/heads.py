"""Heads on the features of locked towers: a new one, the views it trains on, and what it says of
pairs and captions.

What embeds captions serves models of every kind.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from clipmem_core.config import AuditConfig
from clipmem_core.errors import misfit
from clipmem_core.errors.misfit import HeldOut
from clipmem_core.training import model as models
from clipmem_core.training.augmentation import (
    ActivationViews,
    FeatureViews,
    TrainingData,
    ViewMaker,
)
from clipmem_core.training.model import LockedModel, Model, Standard
from clipmem_core.training.trainer import chosen_captions
from clipmem_core.utils.ragged import Ragged


def set_standards(model: LockedModel, standards: Mapping[str, Standard]) -> None:
    """Let heads standardise features by the mean and deviation over all pairs, by side."""
    heads: dict[str, Any] = {"image": model.visual, "text": model.text}
    for side, standard in standards.items():
        heads[side].standard.load_state_dict(standard.state_dict())


def feature_views(
    model: LockedModel, seed: int, crop_scale: float = 1.0
) -> FeatureViews | ActivationViews:
    """Return a member's views of image features, or crops of activations."""
    visual: Any = model.visual
    upper = getattr(visual, models.UPPER, None)
    if upper is None:
        return FeatureViews(visual.standard.mean, seed)
    crops = ViewMaker(upper.side, crop_scale, mean=(), std=(), seed=seed)
    return ActivationViews(upper.width, crops)


def caption_blocks(
    model: Model, data: TrainingData, config: AuditConfig
) -> Iterator[tuple[Ragged, np.ndarray]]:
    """Yield the captions of each pair of a block, and their embeddings, float32 [n, dim]: features
    a batch of pairs at a time, tokens all at once, so that captions of similar length share a
    batch."""
    captions = data.captions
    at_once = len(captions) if data.tokens.dtype.kind == "i" else models.EVALUATION_BATCH
    for row in range(0, len(captions), at_once):
        part, at = captions.part(row, row + at_once)
        yield part, embed_texts(model, data.tokens[at : at + part.n_items], config)


def embed_texts(model: Model, inputs: np.ndarray, config: AuditConfig) -> np.ndarray:
    """Embed tokens or features of captions, float32 [n, dim]."""
    return models.text_embeddings(model, inputs, precision=config.precision, device=config.device)


def score_captions(
    blocks: Iterable[tuple[Ragged, np.ndarray]],
    image: np.ndarray,
    owner: np.ndarray,
    beside: HeldOut,
    decoys: np.ndarray,
    scores: np.ndarray,
) -> Iterator[tuple[Ragged, np.ndarray]]:
    """Yield blocks of captions, and write similarity and margin of each, and below them of each
    decoy, into `scores`.

    Args:
        blocks: as of `caption_blocks`.
        image: embeddings of pictures, [n_pairs, dim].
        owner: each caption's pair, [n_captions].
        beside: held-out pairs; their texts are not used.
        decoys: `DECOY` [n_decoys], ascending by caption.
        scores: `CAPTION_SCORES` [n_captions + n_decoys].
    """
    of_decoys = scores[len(owner) :]
    done = 0
    for part, vectors in blocks:
        block = slice(done, done + len(vectors))
        similarity, margin = misfit.caption_scores(vectors, owner[block], image, beside)
        scores["similarity"][block] = similarity
        scores["margin"][block] = margin
        rows, similarity, margin = misfit.decoy_scores(
            vectors, similarity - margin, done, decoys, image, owner
        )
        of_decoys["similarity"][rows] = similarity
        of_decoys["margin"][rows] = margin
        done += len(vectors)
        yield part, vectors


def learned_captions(
    trajectory: np.ndarray, data: TrainingData, *, seed: int, first: int
) -> np.ndarray:
    """Return how well a member learned each caption, [n_captions]; NaN where no epoch drew it.

    Args: its trajectory, [n_epochs, n_pairs, 2]; the pairs it trained on; its seed; captions of a
    pair that it drew from, 0: all.
    """
    drawn = [
        chosen_captions(data, data.rows, seed=seed, epoch=epoch, first=first)
        for epoch in range(len(trajectory))
    ]
    log_probability = trajectory[:, :, misfit.LOG_PROBABILITY]
    return misfit.learned_by_caption(log_probability, data.rows, drawn, data.captions.n_items)
