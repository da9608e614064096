"""Calls outside the public interfaces of libraries, which make towers faster; without them the same
work takes longer."""

import contextlib
import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the processes that keep memory need no torch
    from torch import Tensor, nn

# Numbers of glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def keep_memory() -> None:
    """Let this process keep freed memory, if its C library is glibc.

    glibc returns every large block, and its pages are faulted in again: features of pictures in
    float32 take 1.86 times as long.
    """
    with contextlib.suppress(AttributeError, TypeError, OSError):  # other C libraries
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def has_fused_convolution() -> bool:
    """Tell whether this build of torch and this processor have `convolution_relu6` in bfloat16."""
    import torch

    try:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):
        return False


def convolution_relu6(layer: "nn.Conv2d", x: "Tensor") -> "Tensor":
    """Apply a convolution and ReLU6 in one pass over memory, as torch's compiled models do.

    EfficientNet-Lite takes 1.16 times as long in two passes (192 pixels, bfloat16, one core).
    """
    import torch

    shape = layer.padding, layer.stride, layer.dilation, layer.groups
    return torch.ops.mkldnn._convolution_pointwise(
        x, layer.weight, layer.bias, *shape, "hardtanh", [0.0, 6.0], ""
    )
