"""The paper's own values of the built-in studies, by arm, to be laid over what a study finds.

Wang, Dziedzic, Kim, Backes and Boenisch, "Captured by Captions", ICLR 2025: ViT-Base on COCO, 100 epochs, one f and
one g. Read off its figures to about 0.003 CLIPMem and 0.1 points, apart from what is marked as from its tables.
"""

from dataclasses import dataclass
from math import nan


@dataclass(frozen=True)
class Published:
    """One point of a curve of the paper. Its CLIPMem is divided by that run's range, so only its shape compares."""

    arm: str  # the arm of ours with the same setting
    setting: float  # captions, σ, or pairs that are taken out
    clipmem: float  # mean over candidates; NaN where the paper does not show it
    linear_probe: float  # ImageNet accuracy, %
    deviation: float  # of the linear probe, %: about what the paper's error bars show
    from_table: bool = False


def _captions() -> tuple[Published, ...]:
    probes, scores = (63.11, 63.16, 64.31, 64.77, 64.88), (0.438, 0.435, 0.428, 0.424, 0.422)
    rows = zip(range(1, 6), scores, probes, strict=True)
    return tuple(
        Published("none" if n == 1 else f"captions-{n}", n, score, probe, 0.85, from_table=n == 1)
        for n, score, probe in rows
    )


def _noise() -> tuple[Published, ...]:
    levels = (0, 0.01, 0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
    scores = (0.438, 0.435, 0.428, 0.421, 0.417, 0.422, 0.436, 0.447)
    probes = (63.11, 63.36, 64.02, 64.95, 65.35, 64.83, 63.28, 61.50)
    rows = zip(levels, scores, probes, strict=True)
    return tuple(
        Published(f"text-noise-{level:.2f}" if level else "none", level, score, probe, 0.95)
        for level, score, probe in rows
    )


def _removal() -> tuple[Published, ...]:
    counts = (0, 50, 100, 200, 400, 800, 1600, 3200)
    probes = {
        "clipmem": (63.1, 65.0, 66.4, 64.6, 63.2, 62.5, 62.0, 61.1),
        "similarity_in": (63.1, 64.8, 65.5, 64.7, 63.2, 62.6, 62.1, 61.3),
        "random": (63.1, 63.2, 63.1, 63.1, 63.0, 62.9, 62.6, 62.4),
    }
    return tuple(
        Published(f"{by}-{n}" if n else "none", n, nan, probe, 0.9)
        for by, found in probes.items()
        for n, probe in zip(counts, found, strict=True)
    )


PUBLISHED = {"captions": _captions(), "text-noise": _noise(), "removal": _removal()}
