"""The held-out level, who is ahead of it, and a loss in which those count less."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clipmem_core.training.mitigation.adaptive import HeldOutLevel


def units(n: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)), dim=1)


def test_the_level_is_a_quantile_of_alignments_over_all_other_external_pairs() -> None:
    image, text = units(20, 0), units(20, 1)
    held_out = HeldOutLevel(50, 0.75, 2)
    held_out.look(image, text)
    alignments = []
    for i in range(20):
        others = [j for j in range(20) if j != i]
        own = float(image[i] @ text[i])
        negative_text = np.mean([float(image[i] @ text[j]) for j in others])
        negative_image = np.mean([float(image[j] @ text[i]) for j in others])
        alignments.append(own - negative_text - negative_image)
    assert held_out.level == pytest.approx(np.quantile(alignments, 0.75), abs=1e-5)


def test_a_pair_is_ahead_from_when_it_is_seen_above_until_it_is_seen_below() -> None:
    external = units(30, 0), units(30, 1)
    held_out = HeldOutLevel(10, 0.9, 2)
    rows, image = np.array([3, 7, 8]), units(3, 2)
    held_out.compare(rows, image, image)
    assert not held_out.ahead.any()  # nothing was measured yet
    held_out.look(*external)
    means = [part.mean(dim=0) for part in external]
    for text in (image, -image, torch.cat([image[:1], -image[1:]])):
        held_out.compare(rows, image, text)
        expected = [
            float(a @ b) - float(a @ means[1]) - float(b @ means[0]) > held_out.level
            for a, b in zip(image, text, strict=True)
        ]
        assert held_out.ahead[rows].tolist() == expected
        assert not np.delete(held_out.ahead, rows).any()
    assert held_out.ahead.sum() == 1


def test_it_looks_every_few_epochs_but_not_before_the_first() -> None:
    assert [epoch for epoch in range(10) if HeldOutLevel(1, 0.9, 3).due(epoch)] == [3, 6, 9]
    held_out = HeldOutLevel(5, 0.9, 1)
    held_out.look(units(1, 0), units(1, 1))
    assert math.isinf(held_out.level)


def test_a_state_comes_back_whole() -> None:
    first, second = HeldOutLevel(10, 0.9, 2), HeldOutLevel(10, 0.9, 2)
    first.look(units(30, 0), units(30, 1))
    first.compare(np.arange(10), units(10, 2), units(10, 2))
    second.restore(first.state())
    first.compare(np.arange(5), units(5, 3), -units(5, 3))
    second.compare(np.arange(5), units(5, 3), -units(5, 3))
    assert (first.ahead == second.ahead).all()
    assert first.level == second.level
