"""The paper's linear probe, on another data set: a torchvision ImageFolder with train/ and val/ (or test/)."""

from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import ImageFolder

from clipmem_core.audits.probe_folder import probe_folders
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.pairs.pictures import PictureError, decode, resize
from clipmem_core.scores.utility import linear_probe
from clipmem_core.shortage import shortage
from clipmem_core.training.model import Model, encode_image
from clipmem_core.training.views import ViewMaker

BATCH = 256
MAX_PICTURES = 10_000  # a part, drawn from the seed, when a split is larger


def _sample(folder: Path, seed: int) -> tuple[list[str], np.ndarray]:
    try:
        found = ImageFolder(str(folder))
    except (FileNotFoundError, OSError) as error:
        raise InputError(f"probe-data {str(folder)!r} cannot be read: {str(error).splitlines()[0]}") from None
    count = len(found.samples)
    rows = np.arange(count)
    if count > MAX_PICTURES:
        rows = np.sort(np.random.default_rng(seed).choice(count, MAX_PICTURES, replace=False))
    paths, classes = zip(*(found.samples[row] for row in rows), strict=True)
    return list(paths), np.array([found.classes[place] for place in classes])


def _square(path: Path, size: int, resize_mode: str) -> np.ndarray:
    try:
        return resize(decode(path.read_bytes(), size=size), size, resize_mode)
    except (OSError, PictureError) as error:
        if shortage(error):
            raise
        raise InputError(f"probe-data picture {str(path)!r} is broken ({error}): take it out and go on") from None


@torch.inference_mode()
def _embed(model: Model, paths: list[str], config: AuditConfig, views: ViewMaker, device: str) -> np.ndarray:
    model.eval()
    whole, blocks = np.array([[0.0, 0.0, 1.0, 1.0]]), []
    for start in range(0, len(paths), BATCH):
        part = paths[start : start + BATCH]
        pixels = np.stack([_square(Path(path), views.image_size, config.resize_mode) for path in part])
        blocks.append(encode_image(model, views.images(pixels, whole.repeat(len(part), 0), device)).cpu().numpy())
    return np.concatenate(blocks)


def probe_accuracy(model: Model, config: AuditConfig, views: ViewMaker, device: str) -> float:
    """Fit a logistic regression on the embeddings of train/ and return its accuracy on val/, in [0, 1]."""
    train_folder, test_folder = probe_folders(config.probe_data)
    train_paths, train_classes = _sample(train_folder, config.seed)
    test_paths, test_classes = _sample(test_folder, config.seed)
    train_x = _embed(model, train_paths, config, views, device)
    test_x = _embed(model, test_paths, config, views, device)
    return linear_probe(train_x, train_classes, test_x, test_classes, seed=config.seed)
