"""Unit vectors of a batch → how well each pair finds its partner, which the loss is made of."""

from typing import Any

import torch
from torch import Tensor


def partner_log_probability(image: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and in-batch log-probability of each true partner, both directions averaged, [n] each.

    Less the mean of the log-probabilities, which have gradients, is open_clip's ClipLoss. That multiplies pictures with
    captions once for each direction, and for the gradients twice each; here it is once, and twice for the gradients.

    Args:
        image: unit vectors [n, dim].
        text: unit vectors [n, dim].
        scale: the logit scale.

    Example:
        >>> unit = torch.eye(2)
        >>> cosine, log_probability = partner_log_probability(unit, unit, torch.tensor(0.0))
        >>> cosine.tolist(), log_probability.exp().round(decimals=4).tolist()  # at a scale of 0
        ([1.0, 1.0], [0.5, 0.5])
    """
    return _Partners.apply(image, text, scale)


class _Partners(torch.autograd.Function):
    """The log-probability of pair i, ½(log p_ii + log q_ii) with p and q the softmax of logits over captions and over
    pictures, changes with logit ij by ½(δ_ij − p_ij) and with logit ji by ½(δ_ij − q_ji)."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        cosines = image @ text.T
        logits = scale * cosines
        over_text, over_image = torch.log_softmax(logits, dim=1), torch.log_softmax(logits, dim=0)
        ctx.save_for_backward(image, text, scale, cosines, over_text, over_image)
        ctx.mark_non_differentiable(own := cosines.diagonal().clone())
        return own, (over_text.diagonal() + over_image.diagonal()) / 2

    @staticmethod
    def backward(ctx: Any, _: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        image, text, scale, cosines, over_text, over_image = ctx.saved_tensors
        slope = over_text.exp().mul_(weight[:, None]).add_(over_image.exp().mul_(weight)).mul_(-0.5)
        slope.diagonal().add_(weight)
        by_scale = torch.dot(slope.view(-1), cosines.view(-1))
        slope *= scale
        return slope @ text, slope.T @ image, by_scale
