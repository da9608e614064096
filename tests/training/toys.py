"""A model of a few thousand weights, pictures of noise and captions of random words: a member
trains in a moment."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clipmem_core.config import AuditConfig
from clipmem_core.training.augmentation import FeatureRows, TrainingData, ViewMaker
from clipmem_core.training.model import Model, build_model
from clipmem_core.training.trainer import Trainer
from clipmem_core.utils.draws import draw_keys
from clipmem_core.utils.ragged import Ragged

# END is the largest token, as in CLIP
CONTEXT = 8
START = 62
END = 63
MODEL: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 8, "layers": 1, "width": 16, "patch_size": 4, "head_width": 8},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}
CONFIG = AuditConfig(
    epochs=3, batch_size=8, lr=1e-2, warmup=2, precision="fp32", device="cpu", crop_scale=0.5
)


def write_model(folder: Path, **vision: Any) -> str:
    """Write the toy model's config, with changes to its image tower, and return its path."""
    path = folder / "toy.json"
    path.write_text(json.dumps({**MODEL, "vision_cfg": {**MODEL["vision_cfg"], **vision}}))
    return str(path)


def draw_tokens(count: int, *, context: int = CONTEXT, seed: int = 0) -> np.ndarray:
    """Draw captions of one to context - 2 words; token 0, CLIP's "!", is a word too."""
    rng = np.random.default_rng(seed)
    tokens = np.zeros((count, context), dtype=np.int32)
    for row, words in enumerate(rng.integers(1, context - 1, count)):
        tokens[row, : words + 2] = [START, *rng.integers(0, START, words), END]
    return tokens


def draw_data(
    pairs: int, *, captions: int = 1, size: int = 10, context: int = CONTEXT
) -> TrainingData:
    """Draw pairs of noise, all of them trained on; pair i has 1 + i mod captions captions."""
    of_pairs = Ragged.of(1 + np.arange(pairs) % captions)
    noise = np.random.default_rng(1).integers(0, 256, (pairs, size, size, 3), dtype=np.uint8)
    return TrainingData(
        pixels=FeatureRows(noise),
        tokens=draw_tokens(of_pairs.n_items, context=context),
        captions=of_pairs,
        keys=draw_keys([f"pair-{number}" for number in range(pairs)]),
        rows=np.arange(pairs),
    )


def held_out_data(pairs: int = 30) -> TrainingData:
    """Draw pairs of up to three captions; the last six are held-out."""
    rows = np.arange(pairs)
    return replace(draw_data(pairs, captions=3), rows=rows[:-6], held_out=rows[-6:])


def view_maker(*, crop_scale: float = 0.5, seed: int = 0) -> ViewMaker:
    return ViewMaker(8, crop_scale, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), seed)


def trainer(
    name: str, data: TrainingData, *, base: AuditConfig = CONFIG, **changes: Any
) -> Trainer:
    """Return a trainer of a new model under a config with changes."""
    config = replace(base, model=name, **changes)
    model: Model = build_model(name, loss=config.loss, seed=0)
    views = view_maker(crop_scale=config.crop_scale)
    return Trainer(model, data, config, views, seed=0)
