"""The arms of each built-in study, from the config and the pairs: which settings are held against each other."""

import copy
from typing import Any

import pandas as pd

from clipmem_core import columns as c
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.studies.arm import ALL, NONE, RANDOM, Arm, Removal
from clipmem_core.training.names import model_config

STRONG_CROPS = 0.2
NO_CROPS = 1.0
FACTORS = {"half": 0.5, "one": 1.0, "double": 2.0}  # of an encoder's width
# Marks of towers whose width is not in their config.
FOREIGN = ("timm_model_name", "hf_model_name")
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
