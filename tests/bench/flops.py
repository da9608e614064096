"""The floating-point operations that training on a batch takes, counted on paper from a model config or widths.

Only matrix products count, a multiply and an add as two. The backward pass takes two products for each of the forward
pass; the patch embedding is the exception: nothing before it needs a gradient, so its backward pass takes one.
"""

from typing import Any


def block_flops(length: int, width: int, mlp_ratio: float = 4.0) -> float:
    """Count one transformer block on one sequence, forward.

    Example:
        >>> block_flops(1, 1)  # 3 + 1 for attention in and out, 4 + 4 for the MLP, 1 + 1 for the scores and their use
        28.0
    """
    linear = length * width * width * (4 + 2 * mlp_ratio)
    scores = 2 * length * length * width
    return 2 * (linear + scores)


def patch_flops(vision: dict[str, Any]) -> float:
    """Count the patch embedding of one picture, forward."""
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    return 2.0 * patches * vision["width"] * 3 * vision["patch_size"] ** 2


def tower_flops(tower: dict[str, Any], length: int, dim: int) -> float:
    """Count the blocks of a tower and the projection of its pooled token, on one sequence, forward."""
    width = tower["width"]
    return tower["layers"] * block_flops(length, width, tower.get("mlp_ratio", 4.0)) + 2 * width * dim


def training_flops(model: dict[str, Any], *, text_length: int, batch: int) -> float:
    """Count forward and backward pass of one batch.

    Args:
        model: an open_clip model config with plain towers.
        text_length: tokens the batch's captions are cut to.
        batch: pairs; each picture is compared with each caption.
    """
    vision, text, dim = model["vision_cfg"], model["text_cfg"], model["embed_dim"]
    length = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    pair = tower_flops(vision, length, dim) + tower_flops(text, text_length, dim)
    return 3 * batch * pair + loss_flops(dim, batch) + 2 * batch * patch_flops(vision)


def head_flops(image_width: int, text_width: int, *, hidden: int, dim: int, batch: int) -> float:
    """Count forward and backward pass of one batch of features through the heads of locked towers, without the loss.

    Nothing before the first map of either head needs a gradient.

    Args:
        image_width: length of a picture's features, which one map takes to `dim`.
        text_width: length of a caption's, which two maps take there by way of `hidden`.
        hidden: width of the hidden layer.
        dim: length of an embedding.
        batch: pairs.
    """
    first, second = image_width * dim + text_width * hidden, hidden * dim
    return 2 * batch * (2 * first + 3 * second)


def loss_flops(dim: int, batch: int) -> float:
    """Count forward and backward pass of the loss of one batch, in which each picture is compared with each caption."""
    return 3 * 2.0 * batch * batch * dim
