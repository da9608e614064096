"""A made-up audit and a seed → embeddings for every member of it, so that it can be searched and taken apart."""

import numpy as np

from clipmem_core.audit.store import Audit

DIM = 12

Embeddings = dict[str, tuple[np.ndarray, np.ndarray]]


def embed(audit: Audit, *, seed: int = 0) -> Embeddings:
    """Write the members' indexes and return what is in them: image and text float32 [n_pairs, DIM] of each member."""
    rng, n_pairs = np.random.default_rng(seed), len(audit.membership)
    return {name: embed_member(audit, name, rng, n_pairs) for name in audit.record.members}


def embed_member(audit: Audit, name: str, rng: np.random.Generator, n_pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Write one member's indexes: means of unit vectors, whose lengths differ."""
    image, text = (rng.normal(size=(3, n_pairs, DIM)) for _ in "it")
    means = [(v / np.linalg.norm(v, axis=2, keepdims=True)).mean(axis=0).astype(np.float32) for v in (image, text)]
    audit.member(name).mkdir(parents=True, exist_ok=True)
    for side, mean in zip(("image", "text"), means, strict=True):
        np.save(audit.member(name) / f"{side}.npy", mean)
    return means[0], means[1]
