"""Noise has the variance asked for, is a pair's own, and lands where it is said to."""

import numpy as np
import pytest
import torch
from scipy import stats

from clipmem_core.draws import IMAGE_NOISE, TEXT_NOISE, draw_keys, normals, uniforms
from clipmem_core.training.mitigation.noise import draw_noise, noisy

KEYS = draw_keys([f"pair-{number}" for number in range(2000)])


@pytest.mark.parametrize("sigma", [0.01, 0.15, 0.3])
def test_noise_has_the_variance_asked_for(sigma: float) -> None:
    noise = draw_noise(KEYS, np.full(2000, sigma), 128, 0, TEXT_NOISE, 3).numpy()
    n = noise.size
    assert noise.mean() == pytest.approx(0, abs=4 * sigma / np.sqrt(n))
    assert noise.var() == pytest.approx(sigma**2, rel=4 * np.sqrt(2 / n))
    assert stats.kstest(noise[:, 0] / sigma, "norm").pvalue > 1e-3
    # What a vector's length is: the mean of the chi distribution with 128 degrees of freedom.
    assert np.linalg.norm(noise, axis=1).mean() == pytest.approx(sigma * stats.chi.mean(128), rel=0.01)


def test_each_pair_has_its_own_strength_and_noise_whatever_its_batch() -> None:
    strength = np.where(np.arange(2000) % 2, 0.2, 0.0)
    noise = draw_noise(KEYS, strength, 16, 0, TEXT_NOISE, 0)
    assert not noise[::2].any()
    assert float(noise[1::2].std()) == pytest.approx(0.2, rel=0.02)
    some = np.array([17, 3, 250])
    whole = draw_noise(KEYS, np.full(2000, 0.1), 32, 5, TEXT_NOISE, 2)
    torch.testing.assert_close(draw_noise(KEYS[some], np.full(3, 0.1), 32, 5, TEXT_NOISE, 2), whole[some])


def test_noise_is_independent_over_pairs_numbers_epochs_and_encoders() -> None:
    drawn = [normals(KEYS, 8, 0, stream, epoch) for stream in (TEXT_NOISE, IMAGE_NOISE) for epoch in (0, 1)]
    columns = np.concatenate(drawn, axis=1)
    correlation = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    assert np.abs(correlation).max() < 5 / np.sqrt(len(KEYS))
    assert np.abs(np.corrcoef(drawn[0][:20]) - np.eye(20)).max() < 5 / np.sqrt(8) * 0.6


def test_normals_are_the_quantiles_of_the_uniform_draws() -> None:
    np.testing.assert_allclose(normals(KEYS, 5, 1, 2), stats.norm.ppf(uniforms(KEYS, 5, 1, 2)), atol=1e-5)


def test_after_adds_to_the_unit_vector_and_before_to_what_the_encoder_gives() -> None:
    features, noise = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.4, -0.8]])
    # (.6, .8) + (.4, −.8) = (1, 0); (3, 4) + (.4, −.8) = (3.4, 3.2), which is 4.669 long.
    assert torch.allclose(noisy(features, noise, place="after"), torch.tensor([[1.0, 0.0]]), atol=1e-6)
    before = noisy(features, noise, place="before")
    assert torch.allclose(before, torch.tensor([[3.4, 3.2]]) / 21.8**0.5, atol=1e-6)
