"""From a trained model to mean embeddings: over evaluation views for pictures, over captions for texts."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from clipmem_core.training.loop import TrainingData, Views
from clipmem_core.training.model import Model, autocast, can_cut_text, encode_image, encode_text, text_input

BATCH = 256


def _cut(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))


def mean_image_embeddings(
    model: Model, data: TrainingData, views: Views, *, n_views: int, precision: str, device: str
) -> np.ndarray:
    """Embed `n_views` crops of every picture and return the mean of the unit vectors, float32 [n_pairs, dim]."""
    return np.concatenate(list(image_blocks(model, data, views, n_views=n_views, precision=precision, device=device)))


def image_blocks(
    model: Model,
    data: TrainingData,
    views: Views,
    *,
    n_views: int,
    precision: str,
    device: str,
) -> Iterator[np.ndarray]:
    """Yield what `mean_image_embeddings` returns, a few pairs at a time, float32 [n, dim]."""
    model.eval()
    for some in _cut(np.arange(len(data.keys))):
        pixels = data.pixels.gather(some)
        encoded = []
        with torch.inference_mode():
            for view in range(n_views):
                images = views.evaluation_images(pixels, data.keys[some], view, device)
                with autocast(precision, device):
                    encoded.append(encode_image(model, images))
            mean = torch.stack(encoded).mean(dim=0)
        yield mean.cpu().numpy()


def text_blocks(
    model: Model,
    tokens: np.ndarray,
    caption_start: np.ndarray,
    *,
    first: int = 0,
    note: Callable[[Iterator[np.ndarray]], Iterator[np.ndarray]] = iter,
    precision: str,
    device: str,
) -> Iterator[np.ndarray]:
    """Yield the mean over each pair's captions, all or the `first` ones, float32 [n, dim].

    Features in the place of tokens come some pairs at a time; tokens all at once, so that like lengths share a batch.
    `note` looks at the embeddings of single captions, float32 [n_captions, dim], as they come, and passes them on.
    """
    at_once = len(caption_start) if tokens.dtype.kind == "i" else BATCH
    starts = [caption_start[at : at + at_once + 1] for at in range(0, len(caption_start) - 1, at_once)]
    found = (
        text_embeddings(model, tokens[start[0] : start[-1]], precision=precision, device=device) for start in starts
    )
    for start, vectors in zip(starts, note(found), strict=True):
        yield mean_by_pair(vectors, start - start[0], first=first)


@torch.inference_mode()
def text_embeddings(model: Model, tokens: np.ndarray, *, precision: str, device: str) -> np.ndarray:
    """Embed tokens [n, context_length] into unit vectors, float32 [n, dim]; neighbours in length share a batch."""
    model.eval()
    cut = can_cut_text(model)
    lengths = (tokens != 0).sum(axis=1) if tokens.dtype.kind == "i" else np.zeros(len(tokens))
    order = np.argsort(lengths, kind="stable")
    vectors: np.ndarray | None = None
    for rows in _cut(order):
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
    if counts.max(initial=0) == 1 == counts.min(initial=1):
        return vectors
    sums = np.add.reduceat(vectors, np.cumsum(counts) - counts, axis=0, dtype=np.float32)
    return sums / counts[:, None].astype(np.float32)
