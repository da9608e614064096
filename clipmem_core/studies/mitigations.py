"""A config and its pairs → the arms of the studies of mitigations. The reference arm of each is `none`.

`none` trains on one caption a pair, the paper's first column, and all arms are judged on that caption and on whole
pictures: on what every arm trains on.
"""

from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.studies.arms import Arm
from clipmem_core.studies.rankings import RANDOM, Removal

NONE = "none"
# Arms that leave out only tokens that no trained pair has, which `none` reads as the random vectors they began as: the
# plan's, and one that a person added.
UNTRAINED = ("forget-untrained", "text_forget_df-1")
# With crops or further captions, one arm would be judged on what it never saw.
JUDGED_ALIKE = {"eval_crop_scale": 1.0, "eval_captions": 1, "views": 2}
MOST_CAPTIONS = 5
NOISE_LEVELS = (0.01, 0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
REMOVED = (50, 100, 200, 400, 800)
REMOVED_BY = (c.CLIPMEM, c.SIMILARITY_IN, RANDOM)
CROPS: dict[str, Any] = {"crop_scale": 0.2, "colour": 0.4}
DECAY: dict[str, Any] = {"weight_decay": 1.0}  # ten times the presets'
CAP: dict[str, Any] = {"max_logit_scale": 10.0}  # open_clip starts at 14.3
FLOOR: dict[str, Any] = {"min_logit_scale": 30.0}
MIN_DF: dict[str, Any] = {"text_min_df": 10}
FORGET_DF: dict[str, Any] = {"text_forget_df": 3}
MASK: dict[str, Any] = {"text_mask": 0.15}
ADAPTIVE_MASK: dict[str, Any] = {"adaptive_mask": 0.6}
# Above the median of the held-out pairs, half of what is not memorized at all would rest, and nothing is learned.
REST: dict[str, Any] = {"adaptive_rest": 1.0, "adaptive_quantile": 0.95}


def captions_arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return one caption a pair, two, …, up to five or as many as the source has, and all where that is more."""
    most = int(pairs[c.CAPTIONS].map(len).max())
    if most < 2:
        raise InputError(
            "study captions compares one caption a pair with more, and this source has one: take one with several "
            "captions a pair, or another study"
        )
    arms = [_arm(NONE, pairs, {}, {"captions": "1"})]
    for number in range(2, min(most, MOST_CAPTIONS) + 1):
        arms.append(Arm(f"captions-{number}", {"train_captions": number}, shown={"captions": str(number)}))
    return arms if most <= MOST_CAPTIONS else [*arms, Arm("captions-all", shown={"captions": "all"})]


def text_noise_arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return the paper's levels of noise on the text embedding."""
    levels = [_arm(f"text-noise-{level:.2f}", pairs, {"text_noise": level}) for level in NOISE_LEVELS]
    return [_arm(NONE, pairs, {}, {"text_noise": 0.0}), *levels]


def removal_arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return ever more of the shared pairs taken out, at most half of them, by each ranking.

    The paper takes candidates out of the training of f. Taken from the shared pairs, f and g lose the same ones, and
    memorization is that of all candidates in every arm.
    """
    shared = int((pairs[c.GROUP] == c.SHARED).sum())
    counts = [n for n in REMOVED if n <= shared // 2]
    if not counts:
        raise InputError(f"study removal takes {REMOVED[0]} of at least {2 * REMOVED[0]} shared pairs, not of {shared}")
    return [
        _arm(NONE, pairs, {}, {"removed_by": NONE, "removed": 0}),
        *(
            _arm(f"{by}-{n}", pairs, {}, {"removed_by": by, "removed": n}, removal=Removal(by, n))
            for n in counts
            for by in REMOVED_BY
        ),
    ]


def combined_arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return each mitigation at one setting, and some together."""
    several = bool((pairs[c.CAPTIONS].map(len) > 1).any())
    settings: dict[str, dict[str, Any]] = {
        NONE: {},
        "text-noise": {"text_noise": 0.15},
        "image-noise": {"image_noise": 0.15},
        "text-mask": MASK,
        "text-mask-strong": {"text_mask": 0.3},
        "crops-and-colour": CROPS,
        "weight-decay": DECAY,
        "logit-scale-cap": CAP,
        "logit-scale-floor": FLOOR,
        "rare-words-5": {"text_min_df": 5},
        "rare-words-10": MIN_DF,
        UNTRAINED[0]: {"text_forget_df": 1},
        "forget-rare-words": FORGET_DF,
        "early-stop": {"stop_epoch": max(1, round(config.epochs * 2 / 3))},
        "adaptive-noise": {"adaptive_noise": 0.15},
        "adaptive-mask": ADAPTIVE_MASK,
        "adaptive-rest": REST,
        "rare-words-and-floor": MIN_DF | FLOOR,
        "forget-rare-words-and-floor": FORGET_DF | FLOOR,
        "mask-and-noise": MASK | {"text_noise": 0.05},
        "mask-and-crops": MASK | CROPS,
        "adaptive-mask-and-crops": ADAPTIVE_MASK | CROPS,
    }
    one = {"captions": "1"} if several else {}
    arms = [_arm(name, pairs, fields, fields | one) for name, fields in settings.items()]
    if not several:
        return arms
    more = {"captions": {}, "captions-and-mask": MASK, "captions-and-adaptive-mask": ADAPTIVE_MASK}
    return [*arms, *(Arm(name, fields, shown=fields | {"captions": "all"}) for name, fields in more.items())]


def _arm(
    name: str,
    pairs: pd.DataFrame,
    fields: dict[str, Any],
    shown: dict[str, Any] | None = None,
    removal: Removal | None = None,
) -> Arm:
    """Return an arm that trains on one caption a pair."""
    several = bool(np.any(pairs[c.CAPTIONS].map(len) > 1))
    own = {"train_captions": 1} if several else {}
    return Arm(name, own | fields, shown=fields if shown is None else shown, removal=removal)
