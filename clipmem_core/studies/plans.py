"""The built-in studies: a question, the arms that answer it, and what the paper found. A new one is one entry.

The reference arm of the studies of mitigations is `none`. It trains on one caption a pair, the paper's first column,
and all arms are judged on that caption and on whole pictures: on what every arm trains on.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any

import pandas as pd

from clipmem_core import columns as c
from clipmem_core.config import AuditConfig, InputError, without_meaning
from clipmem_core.studies import conclusions, scaling
from clipmem_core.studies.arm import ALL, NONE, RANDOM, Arm, Removal
from clipmem_core.training.names import model_config

STRONG_CROPS = 0.2
NO_CROPS = 1.0
FACTORS = {"half": 0.5, "one": 1.0, "double": 2.0}  # of an encoder's width
# Marks of towers whose width is not in their config.
FOREIGN = ("timm_model_name", "hf_model_name")
# With crops or further captions, one arm would be judged on what it never saw.
JUDGED_ALIKE = {"eval_crop_scale": 1.0, "eval_captions": 1, "views": 2}
# Five seeds are five splits of the pairs. What an adaptive mitigation was steered by says nothing of its price.
COMMON_DEFAULTS = {"protocol": "paper", "seeds": 5, "retrieval_apart": True}
MOST_CAPTIONS = 5
NOISE_LEVELS = (0.01, 0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
REMOVED = (50, 100, 200, 400, 800)
REMOVED_BY = (c.CLIPMEM, c.SIMILARITY_IN, RANDOM)
SCALE = (500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000)  # pairs that a member trains on, beside all that there are
CROPS: dict[str, Any] = {"crop_scale": 0.2, "colour": 0.4}
FLOOR: dict[str, Any] = {"min_logit_scale": 30.0}  # open_clip starts at 14.3
MIN_DF: dict[str, Any] = {"text_min_df": 10}
FORGET_DF: dict[str, Any] = {"text_forget_df": 3}
MASK: dict[str, Any] = {"text_mask": 0.15}
ADAPTIVE_MASK: dict[str, Any] = {"adaptive_mask": 0.6}
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


def size_arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return each width of the image encoder with each of the text encoder."""
    if config.lock_image or config.lock_text:
        raise InputError(
            "study size changes the width of encoders that are trained: take away --lock-image, --lock-text"
        )
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
    vision["width"] = head * _whole(vision.get("width", 768) / head * image, "image")
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


def views_arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return crops off, as asked and strong, with one caption a pair and, where there are more, with all."""
    if config.lock_image:
        raise InputError(
            "study views compares crops, and a locked image tower sees whole pictures: take --no-lock-image"
        )
    if not STRONG_CROPS < config.crop_scale < NO_CROPS:
        raise InputError(
            f"study views compares --crop-scale with {STRONG_CROPS} and {NO_CROPS:g}: "
            f"it must lie between them, not be {config.crop_scale:g}"
        )
    crops = {"normal": config.crop_scale, "off": NO_CROPS, "strong": STRONG_CROPS}
    several = _most_captions(pairs) > 1
    captions = {"1": {"train_captions": 1}, "all": {"train_captions": config.train_captions}} if several else {"1": {}}
    return [
        Arm(
            f"crops-{crop}-captions-{number}",
            {"crop_scale": scale, **read} if crop != "normal" else read,
            shown={"crop_scale": scale, "captions": number},
        )
        for number, read in captions.items()
        for crop, scale in crops.items()
    ]


def only_arm(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return the config as it is."""
    return [Arm(NONE)]


def captions_arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return one caption a pair, two, …, up to five or as many as the source has, and all where that is more."""
    most = _most_captions(pairs)
    if most < 2:
        raise InputError(
            "study captions compares one caption a pair with more, and this source has one: take one with several "
            "captions a pair, or another study"
        )
    counts = {str(number): number for number in range(2, min(most, MOST_CAPTIONS) + 1)}
    counts |= {"all": config.train_captions} if most > MOST_CAPTIONS else {}
    more = [Arm(f"captions-{n}", {"train_captions": count}, shown={"captions": n}) for n, count in counts.items()]
    return [_none(pairs, captions="1"), *more]


def scale_arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return ever fewer pairs to train on, for as many epochs as all pairs, and for as many steps."""
    every = int(pairs[c.GROUP].isin([c.SHARED, c.CANDIDATE]).sum())
    sizes = [size for size in SCALE if size < every]
    if len(sizes) < 2:
        raise InputError(f"study scale trains on {SCALE[0]}, {SCALE[1]} and more pairs, and here are {every:,}")
    shown = {"pairs": every, "fixed": ALL, "epochs": config.epochs}
    arms = [Arm(ALL, shown=shown)]
    for fixed in ("epochs", "steps"):
        for size in sizes:
            epochs = config.epochs if fixed == "epochs" else round(config.epochs * every / size)
            own = {"epochs": epochs} if epochs != config.epochs else {}
            told = {"pairs": size, "fixed": fixed, "epochs": epochs}
            arms.append(Arm(f"{fixed}-{size}", pairs=size, shown=told, epochs=own))
    return arms


def text_noise_arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return the paper's levels of noise on the text embedding."""
    levels = [Arm(f"text-noise-{level:.2f}", {"text_noise": level}) for level in NOISE_LEVELS]
    return [_none(pairs, text_noise=0.0), *levels]


def removal_arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return ever more of the shared pairs taken out, at most half of them, by each ranking.

    The paper takes candidates out of the training of f. Taken from the shared pairs, f and g lose the same ones, and
    memorization is that of all candidates in every arm.
    """
    shared = int((pairs[c.GROUP] == c.SHARED).sum())
    counts = [n for n in REMOVED if n <= shared // 2]
    if not counts:
        raise InputError(f"study removal takes {REMOVED[0]} of at least {2 * REMOVED[0]} shared pairs, not of {shared}")
    removals = [Removal(by, n) for n in counts for by in REMOVED_BY]
    return [
        _none(pairs, removed_by=NONE, removed=0),
        *(Arm(f"{one.by}-{one.n}", removal=one, shown={"removed_by": one.by, "removed": one.n}) for one in removals),
    ]


def combined_arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return each mitigation at one setting, and some together."""
    settings: dict[str, dict[str, Any]] = {
        "text-noise": {"text_noise": 0.15},
        "image-noise": {"image_noise": 0.15},
        "text-mask": MASK,
        "text-mask-strong": {"text_mask": 0.3},
        "crops-and-colour": CROPS,
        "weight-decay": {"weight_decay": 1.0},  # ten times the presets'
        "logit-scale-cap": {"max_logit_scale": 10.0},
        "logit-scale-floor": FLOOR,
        "rare-words-5": {"text_min_df": 5},
        "rare-words-10": MIN_DF,
        "forget-untrained": {"text_forget_df": 1},
        "forget-rare-words": FORGET_DF,
        "early-stop": {"stop_epoch": max(1, round(config.epochs * 2 / 3))},
        "adaptive-noise": {"adaptive_noise": 0.15},
        "adaptive-mask": ADAPTIVE_MASK,
        # Above the median of the held-out pairs, half of what is not memorized would rest, and nothing is learned.
        "adaptive-rest": {"adaptive_rest": 1.0, "adaptive_quantile": 0.95},
        "rare-words-and-floor": MIN_DF | FLOOR,
        "forget-rare-words-and-floor": FORGET_DF | FLOOR,
        "mask-and-noise": MASK | {"text_noise": 0.05},
        "mask-and-crops": MASK | CROPS,
        "adaptive-mask-and-crops": ADAPTIVE_MASK | CROPS,
    }
    if _most_captions(pairs) < 2:
        return [_none(pairs), *(Arm(name, fields) for name, fields in settings.items())]
    one = [Arm(name, fields, shown=fields | {"captions": "1"}) for name, fields in settings.items()]
    more = {"captions": {}, "captions-and-mask": MASK, "captions-and-adaptive-mask": ADAPTIVE_MASK}
    every = {"train_captions": config.train_captions}
    several = [Arm(name, every | fields, shown=fields | {"captions": "all"}) for name, fields in more.items()]
    return [_none(pairs, captions="1"), *one, *several]


def forgetting_arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return rare words forgotten after training in each way, beside what forgets only those never trained on."""
    if config.lock_text:
        raise InputError("study forgetting is about the words of a trained text encoder: take --no-lock-text")
    ways = {"forget": {}, "delete": {"text_forget_as": "deleted"}, "placebo": {"text_forget_as": "random"}}
    return [
        _none(pairs),
        Arm("forget-untrained", {"text_forget_df": 1}),
        *(Arm(f"{way}-{df}", {"text_forget_df": df} | own) for df in (2, 3) for way, own in ways.items()),
    ]


def _most_captions(pairs: pd.DataFrame) -> int:
    return int(pairs[c.CAPTIONS].map(len).max())


def _none(pairs: pd.DataFrame, **shown: Any) -> Arm:
    """Return the reference arm, which trains on one caption a pair."""
    return Arm(NONE, {"train_captions": 1} if _most_captions(pairs) > 1 else {}, shown=shown)


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
