"""The built-in studies and their arms.

The baseline trains on one caption a pair, as in the paper, but for the study `settings`. All arms
are evaluated on that caption and on uncropped pictures, which every arm trains on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from clipmem_core.config import AuditConfig, did_you_mean
from clipmem_core.io import InputError
from clipmem_core.studies.arm import RANKINGS

# The config fields that studies set unless they are typed
DEFAULTS: dict[str, Any] = {
    "protocol": "paper",
    # External pairs that control adaptive mitigations are not used for utility.
    "retrieval_apart": True,
    # Otherwise an arm is evaluated on crops or captions it did not train on.
    "eval_crop_scale": 1.0,
    "eval_captions": 1,
    "views": 2,
}
MOST_CAPTIONS = 5
ONE_CAPTION: dict[str, Any] = {"train_captions": 1}
NOISE_LEVELS = (0.01, 0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
REMOVED = (1, 2, 5, 10, 20)  # percent
# Each mitigation at one setting, and some combinations
COMBINED = (
    "text_noise=0.15",
    "image_noise=0.15",
    "text_mask=0.15",
    "text_mask=0.3",
    "crop_scale=0.2 colour=0.4",
    "weight_decay=1",  # ten times the presets'
    "max_logit_scale=10",
    "min_logit_scale=30",  # open_clip starts at 14.3
    "text_min_df=5",
    "text_min_df=10",
    "adaptive_noise=0.15",
    "adaptive_mask=0.6",
    # At the median, half of all pairs that are not memorized would rest, and nothing is learned.
    "adaptive_rest=1 adaptive_quantile=0.95",
    "text_min_df=10 min_logit_scale=30",
    "text_mask=0.15 text_noise=0.05",
    "text_mask=0.15 crop_scale=0.2 colour=0.4",
    "adaptive_mask=0.6 crop_scale=0.2 colour=0.4",
)
ALL_CAPTIONS = (
    "train_captions=0",
    "train_captions=0 text_mask=0.15",
    "train_captions=0 adaptive_mask=0.6",
)


def captions_arms(config: AuditConfig, most: int) -> list[str]:
    """Return two captions a pair, three, up to five, and all if there are more."""
    if most < 2:
        raise InputError(
            "study captions needs pairs with several captions, and this source has none"
        )
    counts = [*range(2, min(most, MOST_CAPTIONS) + 1), *([0] if most > MOST_CAPTIONS else [])]
    return [f"train_captions={count}" for count in counts]


def text_noise_arms(config: AuditConfig, most: int) -> list[str]:
    """Return the paper's levels of noise on the text embedding."""
    return [f"text_noise={level}" for level in NOISE_LEVELS]


def removal_arms(config: AuditConfig, most: int) -> list[str]:
    """Return growing shares of removed pairs, by each ranking.

    The paper removes candidates from the training of f. Here all members lose the same pairs, and
    memorization is compared on the others.
    """
    return [f"removal={by}:{percent}" for percent in REMOVED for by in RANKINGS]


def combined_arms(config: AuditConfig, most: int) -> list[str]:
    """Return each mitigation at one setting, and some combinations."""
    early_stop = max(1, round(config.epochs * 2 / 3))
    return [*COMBINED, f"stop_epoch={early_stop}", *(ALL_CAPTIONS if most > 1 else ())]


class Study(NamedTuple):
    """The arms of a study, as texts."""

    arms: Callable[[AuditConfig, int], list[str]]  # from the config and the most captions of a pair
    one_caption: bool = True  # whether the baseline trains on one caption a pair


STUDIES = {
    "captions": Study(captions_arms),
    "text-noise": Study(text_noise_arms),
    "removal": Study(removal_arms),
    "combined": Study(combined_arms),
    "settings": Study(lambda config, most: [], one_caption=False),
}


def find_study(name: str) -> Study:
    """Return the study of a name."""
    if name not in STUDIES:
        raise InputError(
            f"study {name!r} is unknown: choose one of "
            f"{', '.join(STUDIES)}{did_you_mean(name, STUDIES)}"
        )
    return STUDIES[name]
