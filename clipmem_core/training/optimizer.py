"""A config → the optimiser of a member, and the learning rate of each of its steps."""

import math

import torch

from clipmem_core.config import AuditConfig
from clipmem_core.training.model import Model


def learning_rate(step: int, *, total: int, peak: float, warmup: int) -> float:
    """Return the rate of a step: linear warm-up over at most a tenth of the run, then half a cosine down to 0.

    Example:
        >>> learning_rate(100, total=100, peak=1.0, warmup=10)
        0.0
    """
    warmup = min(warmup, total // 10)
    if step < warmup:
        return peak * (step + 1) / warmup
    return 0.5 * peak * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def make_optimizer(model: Model, config: AuditConfig) -> torch.optim.AdamW:
    """Build AdamW; gains, biases and the logit scale are not decayed, as in open_clip."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    marks = ("bn", "ln", "bias", "logit_scale")
    exempt = [p for name, p in named if p.ndim < 2 or any(mark in name for mark in marks)]
    kept = {id(p) for p in exempt}
    groups = [
        {"params": exempt, "weight_decay": 0.0},
        {"params": [p for _, p in named if id(p) not in kept], "weight_decay": config.weight_decay},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
