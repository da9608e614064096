"""The bridge: what an image tower's classifier knows of words, without training.

A picture is described by the logits of the classes, a text by its similarity with their names and
definitions, so that both have one number a class.
"""

from collections.abc import Callable

import numpy as np
import torch

from clipmem_core.errors.tower_fit import Bridge
from clipmem_core.features.embed import FeatureExtractor
from clipmem_core.features.towers import LITE, Tower, weights_file
from clipmem_core.utils.embeddings import unit

_POWER = 1.5  # of logits and of similarities, so that few classes decide


def class_texts() -> list[str]:
    """Return the synonyms and the definition of each class of ImageNet-1k."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return [info.index_to_description(number, detailed=True) for number in range(1_000)]


def open_bridge(image: Tower, text: Tower) -> Callable[[np.ndarray, np.ndarray], Bridge] | None:
    """Return the function from features of pictures and of texts, [n, width] each, to their vectors
    in the space of classes, [n, 1000] each; None for an image tower whose classifier is unknown."""
    if image.name not in LITE or image.unlocked:
        return None
    state = torch.load(weights_file(image.name), weights_only=True)
    weights, bias = (state[f"_fc.{name}"].numpy() for name in ("weight", "bias"))
    names = np.asarray(FeatureExtractor(text).captions(class_texts())[:], np.float32)
    middle = names.mean(axis=0)
    names = unit(names - middle)

    def vectors(pictures: np.ndarray, texts: np.ndarray) -> Bridge:
        logits = np.asarray(pictures, np.float32) @ weights.T + bias
        similarity = unit(np.asarray(texts, np.float32) - middle) @ names.T
        return unit(np.maximum(logits, 0.0) ** _POWER), np.maximum(similarity, 0.0) ** _POWER

    return vectors
