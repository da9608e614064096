"""Unit vectors of a batch → its loss where pairs count differently, and how well each pair finds its partner."""

import torch
from torch import Tensor
from torch.nn import functional as F


def partner_log_probability(image: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and in-batch log-probability of each true partner, both directions averaged, [n] each."""
    with torch.no_grad():
        cosines = image @ text.T
        logits = scale * cosines
        own = logits.diagonal()
        both = 2 * own - torch.logsumexp(logits, dim=1) - torch.logsumexp(logits, dim=0)
        return cosines.diagonal(), both / 2


def resting_loss(image: Tensor, text: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    """Return CLIP's loss with each pair's own terms weighted; a pair of weight 0 is still a negative of the others.

    Args:
        image: unit vectors [n, dim].
        text: unit vectors [n, dim].
        scale: the logit scale.
        weight: of each pair, in [0, 1], [n]; with ones it is open_clip's ClipLoss.
    """
    logits = scale * image @ text.T
    own = torch.arange(len(logits), device=logits.device)
    both = F.cross_entropy(logits, own, reduction="none") + F.cross_entropy(logits.T, own, reduction="none")
    return (both * weight).sum() / (2 * len(logits))
