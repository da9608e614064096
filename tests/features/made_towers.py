"""Towers that need no weights: their features are known by hand."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from clipmem_core.features.towers import Opened, Tower


@dataclass
class Seen:
    """What a fake tower was given."""

    opened: int = 0
    batches: list[int] = field(default_factory=list)


def of_caption(caption: str) -> np.ndarray:
    """The features of a caption: the first bytes of its hash, so that equal captions and only they are equal."""
    return np.frombuffer(hashlib.sha256(caption.encode()).digest()[:8], np.uint8).astype(np.float32)


def of_square(square: np.ndarray) -> np.ndarray:
    """The features of a picture: its mean colour, and the colour of its first pixel."""
    return np.concatenate([square.mean(axis=(0, 1)), square[0, 0]]).astype(np.float32)


def fake_texts(
    seen: Seen, *, context: int = 6, make: Callable[[str], np.ndarray] = of_caption, fail_after: int = 10**9
) -> Tower:
    """A text tower of eight numbers whose tokens are words; it breaks down after some batches."""

    def embed(captions: Sequence[str]) -> np.ndarray:
        if len(seen.batches) >= fail_after:
            raise KeyboardInterrupt
        seen.batches.append(len(captions))
        return np.stack([make(caption) for caption in captions])

    def open_it() -> Opened:
        seen.opened += 1
        return Opened(embed, lambda captions: np.array([len(caption.split()) for caption in captions], np.int32))

    return Tower(
        name="fake", kind="text", version="1", licence="", sha256="0" * 64, dim=8, context=context, open=open_it
    )


def fake_images(seen: Seen, *, size: int = 16, make: Callable[[np.ndarray], np.ndarray] = of_square) -> Tower:
    """An image tower of six numbers."""

    def embed(squares: np.ndarray) -> np.ndarray:
        assert squares.shape[1:] == (size, size, 3)
        seen.batches.append(len(squares))
        return np.stack([make(square) for square in squares])

    def open_it() -> Opened:
        seen.opened += 1
        return Opened(embed)

    return Tower(name="fake", kind="image", version="1", licence="", sha256="0" * 64, dim=6, size=size, open=open_it)
