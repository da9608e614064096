"""The built-in studies: a question, the arms that answer it, and how the answer is read. A new one is one entry."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from clipmem_core import columns as c
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.studies import answers, mitigation_answers
from clipmem_core.studies.arms import Arm
from clipmem_core.studies.mitigations import (
    JUDGED_ALIKE,
    NONE,
    captions_arms,
    combined_arms,
    removal_arms,
    text_noise_arms,
)
from clipmem_core.studies.published import PUBLISHED, Published
from clipmem_core.studies.sizes import FACTORS, sized
from clipmem_core.training.names import model_config

STRONG_CROPS = 0.2
NO_CROPS = 1.0


@dataclass(frozen=True)
class Study:
    """A question and how it is put.

    `arms` are drawn from the config and the pair table; `reference` is the arm that differences are taken to.
    `defaults` are config fields that hold unless typed otherwise. After each epoch of `snapshots` that is run, and
    after the last, embeddings are kept, and times.parquet tells of each. `published` is what the paper found.
    `takes_settings` tells whether a person may add arms, which the answers of some questions have no place for.
    """

    question: str
    arms: Callable[[AuditConfig, pd.DataFrame], list[Arm]]
    reference: str
    answer: answers.Answer
    defaults: Mapping[str, Any] = field(default_factory=dict)
    snapshots: tuple[int, ...] = ()
    published: tuple[Published, ...] = ()
    takes_settings: bool = True

    def epochs_kept(self, epochs: int) -> list[int]:
        """Return the epochs of a run after which embeddings are kept."""
        return sorted({epoch for epoch in self.snapshots if epoch < epochs} | {epochs}) if self.snapshots else []


def size_arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return each width of the image encoder with each of the text encoder."""
    if config.pretrained:
        raise InputError("study size changes the model: take away --pretrained")
    model = model_config(config.model)
    return [
        Arm(
            f"image-{image}-text-{text}",
            shown={"image_encoder": image, "text_encoder": text},
            model={} if image == text == "one" else sized(model, image=FACTORS[image], text=FACTORS[text]),
        )
        for image in FACTORS
        for text in FACTORS
    ]


def views_arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return crops off, as asked and strong, with one caption a pair and, where there are more, with all."""
    if not STRONG_CROPS < config.crop_scale < NO_CROPS:
        raise InputError(
            f"study views compares --crop-scale with {STRONG_CROPS} and {NO_CROPS:g}: "
            f"it must lie between them, not be {config.crop_scale:g}"
        )
    crops: dict[str, dict[str, Any]] = {
        "normal": {},
        "off": {"crop_scale": NO_CROPS},
        "strong": {"crop_scale": STRONG_CROPS},
    }
    several = bool((pairs[c.CAPTIONS].map(len) > 1).any())
    captions: dict[str, dict[str, Any]] = {"1": {"train_captions": 1}, "all": {}} if several else {"1": {}}
    return [
        Arm(
            f"crops-{crop}-captions-{number}",
            {**cropped, **read},
            shown={"crop_scale": cropped.get("crop_scale", config.crop_scale), "captions": number},
        )
        for number, read in captions.items()
        for crop, cropped in crops.items()
    ]


def only_arm(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return the config as it is."""
    return [Arm("none")]


STUDIES: dict[str, Study] = {
    "size": Study(
        question="Does a larger image encoder flip claim 3?",
        arms=size_arms,
        reference="image-one-text-one",
        answer=answers.size,
        takes_settings=False,
    ),
    "views": Study(
        question="Is the text share only the missing caption augmentation?",
        arms=views_arms,
        reference="crops-normal-captions-1",
        answer=answers.views,
        defaults=JUDGED_ALIKE,
        takes_settings=False,
    ),
    "time": Study(
        question="Which encoder memorizes first?",
        arms=only_arm,
        reference="none",
        answer=answers.time,
        takes_settings=False,
        snapshots=(1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80),
    ),
    "captions": Study(
        question="Do more captions a pair lower memorization and raise utility?",
        arms=captions_arms,
        reference=NONE,
        answer=mitigation_answers.captions,
        defaults=JUDGED_ALIKE,
        published=PUBLISHED["captions"],
    ),
    "text-noise": Study(
        question="Does noise on the text embedding lower memorization and raise utility?",
        arms=text_noise_arms,
        reference=NONE,
        answer=mitigation_answers.text_noise,
        defaults=JUDGED_ALIKE,
        published=PUBLISHED["text-noise"],
    ),
    "removal": Study(
        question="Does taking the most memorized pairs out raise utility?",
        arms=removal_arms,
        reference=NONE,
        answer=mitigation_answers.removal,
        defaults=JUDGED_ALIKE,
        published=PUBLISHED["removal"],
    ),
    "combined": Study(
        question="Which mitigations lower memorization at no loss of utility?",
        arms=combined_arms,
        reference=NONE,
        answer=mitigation_answers.combined,
        defaults=JUDGED_ALIKE,
    ),
}
COMMON_DEFAULTS = {"protocol": "paper", "seeds": 3}


def find_study(name: str) -> Study:
    """Return the study of a name.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    if name not in STUDIES:
        raise InputError(f"study {name!r} is unknown: choose one of {', '.join(STUDIES)}")
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
