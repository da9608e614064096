"""From a trained model to mean embeddings: over evaluation views for pictures, over captions for texts."""

from collections.abc import Iterator

import numpy as np
import torch

from clipmem_core.training.loop import TrainingData, Views
from clipmem_core.training.model import Model, autocast, can_cut_text, encode_image, encode_text, text_input

BATCH = 256


def _blocks(count: int) -> Iterator[np.ndarray]:
    for start in range(0, count, BATCH):
        yield np.arange(start, min(start + BATCH, count))


@torch.inference_mode()
def mean_image_embeddings(
    model: Model, data: TrainingData, views: Views, *, n_views: int, precision: str, device: str
) -> np.ndarray:
    """Embed `n_views` crops of every picture and return the mean of the unit vectors, float32 [n_pairs, dim]."""
    model.eval()
    blocks = []
    for rows in _blocks(len(data.keys)):
        pixels = data.pixels.gather(rows)
        encoded = []
        for view in range(n_views):
            images = views.evaluation_images(pixels, data.keys[rows], view, device)
            with autocast(precision, device):
                encoded.append(encode_image(model, images))
        blocks.append(torch.stack(encoded).mean(dim=0).cpu().numpy())
    return np.concatenate(blocks)


@torch.inference_mode()
def text_embeddings(model: Model, tokens: np.ndarray, *, precision: str, device: str) -> np.ndarray:
    """Embed tokens [n, context_length] into unit vectors, float32 [n, dim]; neighbours in length share a batch."""
    model.eval()
    cut = can_cut_text(model)
    order = np.argsort((tokens != 0).sum(axis=1), kind="stable")
    vectors: np.ndarray | None = None
    for block in _blocks(len(tokens)):
        rows = order[block]
        with autocast(precision, device):
            encoded = encode_text(model, text_input(tokens[rows]).to(device), cut=cut)
        vectors = np.empty((len(tokens), encoded.shape[1]), np.float32) if vectors is None else vectors
        vectors[rows] = encoded.cpu().numpy()
    assert vectors is not None
    return vectors


def mean_by_pair(vectors: np.ndarray, caption_start: np.ndarray, *, first: int = 0) -> np.ndarray:
    """Average caption vectors [n_captions, dim] within each pair, all or the `first` ones, float32 [n_pairs, dim]."""
    counts = np.diff(caption_start)
    if first:
        place = np.arange(len(vectors)) - np.repeat(caption_start[:-1], counts)
        vectors, counts = vectors[place < first], np.minimum(counts, first)
    sums = np.add.reduceat(vectors, np.cumsum(counts) - counts, axis=0, dtype=np.float32)
    return sums / counts[:, None].astype(np.float32)
