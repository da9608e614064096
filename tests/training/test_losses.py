"""How well partners find each other: against loops, open_clip's loss, and gradients taken by differences."""

import math

import numpy as np
import pytest
import torch
from open_clip.loss import ClipLoss
from torch import Tensor
from torch.nn import functional as F

from clipmem_core.training.trainer import partner_log_probability


def drawn(n: int, *, scale: float = 14.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return unit vectors of n pictures and captions, and a logit scale, all with gradients."""
    rng = np.random.default_rng(n)
    image, text = (F.normalize(torch.from_numpy(rng.normal(size=(n, 6))), dim=1) for _ in range(2))
    return image.requires_grad_(), text.requires_grad_(), torch.tensor(scale, dtype=torch.float64, requires_grad=True)


def test_partner_log_probability_equals_a_double_loop_of_softmax() -> None:
    rng = np.random.default_rng(0)
    image, text = (rng.normal(size=(7, 5)) for _ in range(2))
    image, text = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (image, text))
    scale = 12.5
    cosine, log_probability = partner_log_probability(
        torch.from_numpy(image), torch.from_numpy(text), torch.tensor(scale, dtype=torch.float64)
    )
    for i in range(7):
        own = math.exp(scale * sum(image[i] * text[i]))
        over_texts = sum(math.exp(scale * sum(image[i] * text[j])) for j in range(7))
        over_images = sum(math.exp(scale * sum(image[j] * text[i])) for j in range(7))
        expected = (math.log(own / over_texts) + math.log(own / over_images)) / 2
        assert float(log_probability[i]) == pytest.approx(expected)
        assert float(cosine[i]) == pytest.approx(sum(image[i] * text[i]))
    vector = torch.tensor([[0.6, 0.8]])
    _, log_probability = partner_log_probability(vector, vector, torch.tensor(100.0))
    assert float(log_probability) == pytest.approx(0, abs=1e-5)


def test_less_its_mean_is_open_clips_loss_with_the_same_gradients() -> None:
    ours, theirs = drawn(9), drawn(9)
    loss = -partner_log_probability(*ours)[1].mean()
    expected = ClipLoss()(*theirs)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_its_gradients_are_those_of_differences_whatever_counts_how_much() -> None:
    weight = torch.tensor([0.0, 1.0, 0.3, -2.0, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *given: (partner_log_probability(*given)[1] * weight).sum(), drawn(5))


def test_a_pair_that_rests_is_still_a_negative_of_the_others() -> None:
    image, text, scale = drawn(4, scale=10.0)
    weight = torch.tensor([0.0, 1.0, 1.0, 1.0])
    (-(partner_log_probability(image, text, scale)[1] * weight).mean()).backward()
    # By hand: the gradient of image 0 comes from the columns of the others alone, and pushes.
    columns = (scale * image @ text.T).softmax(dim=0)
    expected = sum(scale * columns[0, j] * text[j] for j in (1, 2, 3)) / 8
    torch.testing.assert_close(image.grad[0], expected.detach())


def test_no_distance_is_too_large() -> None:
    image = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    _, log_probability = partner_log_probability(image, -image.detach(), torch.tensor(100.0))
    assert log_probability.tolist() == [-200.0, -200.0]
    log_probability.sum().backward()
    assert torch.isfinite(image.grad).all()
