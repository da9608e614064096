"""The built-in studies: a question, the arms that answer it, and what the paper found. A new one is one entry.

The reference arm of the studies of mitigations is `none`. It trains on one caption a pair, the paper's first column,
and all arms are judged on that caption and on whole pictures: on what every arm trains on.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any

import pandas as pd

from clipmem_core import columns as c
from clipmem_core.config import AuditConfig, InputError, meant, without_meaning
from clipmem_core.studies import conclusions, scaling
from clipmem_core.studies.arm import ALL, NONE, RANDOM, Arm
from clipmem_core.studies.plan_arms import (
    NOISE_LEVELS,
    REMOVED,
    captions_arms,
    combined_arms,
    forgetting_arms,
    only_arm,
    removal_arms,
    scale_arms,
    size_arms,
    text_noise_arms,
    views_arms,
)

# With crops or further captions, one arm would be judged on what it never saw.
JUDGED_ALIKE = {"eval_crop_scale": 1.0, "eval_captions": 1, "views": 2}
# Five seeds are five splits of the pairs. What an adaptive mitigation was steered by says nothing of its price.
COMMON_DEFAULTS = {"protocol": "paper", "seeds": 5, "retrieval_apart": True}
CHOSEN_BY_HAND = (
    "No strength was tuned here: noise, masks, crops, weight decay, both ends of the logit scale, early stop, rare "
    "words and what acts on pairs that run ahead have one value each, chosen by hand. What fails may do better at "
    "another strength; the studies captions, text-noise and removal go through those of theirs."
)


@dataclass(frozen=True)
class Published:
    """One point of a curve of the paper. Its CLIPMem is divided by that run's range, so only its shape compares.

    Wang, Dziedzic, Kim, Backes and Boenisch, "Captured by Captions", ICLR 2025: ViT-Base on COCO, 100 epochs, one f and
    one g. Read off its figures to about 0.003 CLIPMem and 0.1 points, apart from what is marked as from its tables.
    """

    arm: str  # the arm of ours with the same setting
    setting: float  # captions, σ, or pairs that are taken out
    clipmem: float  # mean over candidates; NaN where the paper does not show it
    linear_probe: float  # ImageNet accuracy, %
    deviation: float  # of the linear probe, %: about what the paper's error bars show
    from_table: bool = False


@dataclass(frozen=True)
class Study:
    """A question and how it is put.

    `arms` are drawn from the config and the pair table; `reference` is the arm that differences are taken to.
    `defaults` are config fields that hold unless typed otherwise. After each epoch of `snapshots` that is run, and
    after the last, embeddings are kept, and times.parquet tells of each. `published` is what the paper found.
    `untuned` is what its report says of strengths that nobody tuned, and `takes_settings` tells whether a person may
    add arms, which the answers of some questions have no place for.
    """

    question: str
    arms: Callable[[AuditConfig, pd.DataFrame], list[Arm]]
    answer: conclusions.Answer
    reference: str = NONE
    defaults: Mapping[str, Any] = field(default_factory=dict)
    snapshots: tuple[int, ...] = ()
    published: tuple[Published, ...] = ()
    takes_settings: bool = True
    by_rarity: bool = False  # whether retrieval is told apart by rare words
    extrapolates: bool = False  # whether its report tells of another number of pairs, that a person names
    untuned: str = ""  # what its report says of strengths that somebody chose

    def epochs_kept(self, epochs: int) -> list[int]:
        """Return the epochs of a run after which embeddings are kept."""
        return sorted({epoch for epoch in self.snapshots if epoch < epochs} | {epochs}) if self.snapshots else []


def _curve(
    named: str, settings: Sequence[float], clipmem: Sequence[float], probes: Sequence[float], deviation: float
) -> tuple[Published, ...]:
    """Return a curve of the paper from `none` on; `named` writes the name of the arm of a setting."""
    return tuple(
        Published(named.format(setting) if place else NONE, setting, score, probe, deviation)
        for place, (setting, score, probe) in enumerate(zip(settings, clipmem, probes, strict=True))
    )


_CAPTIONS = _curve(
    "captions-{}",
    range(1, 6),
    (0.438, 0.435, 0.428, 0.424, 0.422),
    (63.11, 63.16, 64.31, 64.77, 64.88),
    deviation=0.85,
)
PUBLISHED = {
    "captions": (dataclasses.replace(_CAPTIONS[0], from_table=True), *_CAPTIONS[1:]),
    "text-noise": _curve(
        "text-noise-{:.2f}",
        (0, *NOISE_LEVELS),
        (0.438, 0.435, 0.428, 0.421, 0.417, 0.422, 0.436, 0.447),
        (63.11, 63.36, 64.02, 64.95, 65.35, 64.83, 63.28, 61.50),
        deviation=0.95,
    ),
    "removal": tuple(
        point
        for by, probes in {
            c.CLIPMEM: (63.1, 65.0, 66.4, 64.6, 63.2, 62.5, 62.0, 61.1),
            c.SIMILARITY_IN: (63.1, 64.8, 65.5, 64.7, 63.2, 62.6, 62.1, 61.3),
            RANDOM: (63.1, 63.2, 63.1, 63.1, 63.0, 62.9, 62.6, 62.4),
        }.items()
        for point in _curve(f"{by}-{{}}", (0, *REMOVED, 1600, 3200), [nan] * 8, probes, deviation=0.9)
    ),
}


STUDIES: dict[str, Study] = {
    "scale": Study(
        question="Does memorization shrink as epochs over pairs?",
        arms=scale_arms,
        reference=ALL,
        answer=scaling.scale,
        defaults={"batch_size": 256},  # the same at all sizes, so no larger than the smallest
        takes_settings=False,
        extrapolates=True,
    ),
    "size": Study(
        question="Does a larger image encoder flip claim 3?",
        arms=size_arms,
        reference="image-one-text-one",
        answer=conclusions.size,
        takes_settings=False,
    ),
    "views": Study(
        question="Is the text share only the missing caption augmentation?",
        arms=views_arms,
        reference="crops-normal-captions-1",
        answer=conclusions.views,
        defaults=JUDGED_ALIKE,
        takes_settings=False,
    ),
    "time": Study(
        question="Which encoder memorizes first?",
        arms=only_arm,
        answer=conclusions.time,
        takes_settings=False,
        snapshots=(1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80),
    ),
    "captions": Study(
        question="Do more captions a pair lower memorization and raise utility?",
        arms=captions_arms,
        answer=conclusions.captions,
        defaults=JUDGED_ALIKE,
        published=PUBLISHED["captions"],
    ),
    "text-noise": Study(
        question="Does noise on the text embedding lower memorization and raise utility?",
        arms=text_noise_arms,
        answer=conclusions.text_noise,
        defaults=JUDGED_ALIKE,
        published=PUBLISHED["text-noise"],
    ),
    "removal": Study(
        question="Does taking the most memorized pairs out raise utility?",
        arms=removal_arms,
        answer=conclusions.removal,
        defaults=JUDGED_ALIKE,
        published=PUBLISHED["removal"],
    ),
    "combined": Study(
        question="Which mitigations lower memorization at no loss of utility?",
        arms=combined_arms,
        answer=conclusions.combined,
        defaults=JUDGED_ALIKE,
        untuned=CHOSEN_BY_HAND,
    ),
    "forgetting": Study(
        question="What is it worth to forget rare words after training?",
        arms=forgetting_arms,
        answer=conclusions.forgetting,
        defaults=JUDGED_ALIKE,
        by_rarity=True,
    ),
}


def fault_where_locked(name: str, config: AuditConfig) -> str:
    """Return why a study has no meaning under a config that locks a tower; empty where it has one."""
    pairs = pd.DataFrame({c.CAPTIONS: [["", ""]] * 2, c.GROUP: c.SHARED})
    try:
        find_study(name).arms(config, pairs)
    except InputError as error:
        return str(error) if "lock" in str(error) else ""
    return ""


def with_meaning(arms: Sequence[Arm], config: AuditConfig) -> tuple[list[Arm], dict[str, str]]:
    """Part arms from those that change what a locked tower leaves no meaning: these by name, with the first such field.

    Example:
        >>> arms = [Arm("crops", {"crop_scale": 0.2}), Arm("decay", {"weight_decay": 1.0})]
        >>> left, out = with_meaning(arms, AuditConfig(lock_image=True))
        >>> [arm.name for arm in left], out
        (['decay'], {'crops': 'crop_scale'})
    """
    idle = without_meaning(config)
    out = {arm.name: next(name for name in arm.fields if name in idle) for arm in arms if set(arm.fields) & set(idle)}
    return [arm for arm in arms if arm.name not in out], out


def find_study(name: str) -> Study:
    """Return the study of a name.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    if name not in STUDIES:
        raise InputError(f"study {name!r} is unknown: choose one of {', '.join(STUDIES)}{meant(name, STUDIES)}")
    return STUDIES[name]


def check_takes_settings(name: str) -> None:
    """Refuse a study that nobody may add arms to.

    Raises:
        InputError: it is one; the message lists the others.
    """
    if not find_study(name).takes_settings:
        open_ = ", ".join(other for other, study in STUDIES.items() if study.takes_settings)
        raise InputError(f"study {name} has its own arms and no others: settings can be added to {open_}")


def defaults_of(name: str) -> dict[str, Any]:
    """Return the config fields that a study sets unless they are typed; of an unknown one those of all."""
    return COMMON_DEFAULTS | (dict(STUDIES[name].defaults) if name in STUDIES else {})
