"""A model config → the same with one encoder or both half or twice as wide."""

import copy
from typing import Any

from clipmem_core.config import InputError

FACTORS = {"half": 0.5, "one": 1.0, "double": 2.0}
# Marks of towers whose width is not in their config.
FOREIGN = ("timm_model_name", "hf_model_name")


def sized(model: dict[str, Any], *, image: float, text: float) -> dict[str, Any]:
    """Scale the width of each encoder and the number of its heads; depth and the embedding stay.

    Args:
        model: a config in open_clip's form, of transformers of open_clip's own.
        image: factor of the image encoder's width.
        text: factor of the text encoder's width.

    Raises:
        InputError: a tower cannot be scaled so.

    Example:
        >>> small = {"vision_cfg": {"width": 128, "head_width": 64}, "text_cfg": {"width": 128, "heads": 2}}
        >>> sized(small, image=2, text=0.5)
        {'vision_cfg': {'width': 256, 'head_width': 64}, 'text_cfg': {'width': 64, 'heads': 1}}
    """
    found = copy.deepcopy(model)
    vision, words = found["vision_cfg"], found["text_cfg"]
    foreign = [key for tower in (vision, words) for key in FOREIGN if tower.get(key)]
    if foreign or not isinstance(vision.get("layers", 12), int):
        raise InputError(
            "study size scales the width of open_clip's own transformers: take a ViT such as --model small"
        )
    head = vision.get("head_width", 64)
    heads = vision.get("width", 768) / head
    vision["width"] = head * _whole(heads * image, "image")
    words["width"] = _whole(words.get("width", 512) * text, "text")
    words["heads"] = _whole(words.get("heads", 8) * text, "text")
    return found


def _whole(value: float, encoder: str) -> int:
    if value < 1 or value != int(value):
        raise InputError(
            f"study size halves the heads of each encoder, and the {encoder} encoder would be left with {value:g}: "
            "take a model with an even number of heads"
        )
    return int(value)
