"""What a study compares: the built-in plans, the arms that a person adds, and the command line that runs them.

The reference arm of the studies of mitigations is `none`. It trains on one caption a pair, the paper's first column,
and all arms are evaluated on that caption and on whole pictures: on what every arm trains on.
"""

import copy
import dataclasses
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from filelock import FileLock

from clipmem_core import columns as c
from clipmem_core.audits.jobs import Task, jobs_folder
from clipmem_core.audits.settings import check_config, typed, typed_flags
from clipmem_core.audits.store import is_locked, write_json
from clipmem_core.config import AuditConfig, InputError, affecting, fingerprint, flat, meant, without_meaning
from clipmem_core.studies.arm import (
    ALL,
    DECISIONS,
    LOOKALIKES,
    NONE,
    PAIRS_KEPT,
    RANDOM,
    REMOVAL,
    Arm,
    Decided,
    Removal,
    Split,
    first_split,
    normal,
    parse_setting,
    reference_config,
)
from clipmem_core.studies.store import OWN, StudyFolder, studies_folder, study_folder
from clipmem_core.training.names import model_config

# With crops or further captions, one arm would be evaluated on pictures or captions it never saw.
EVALUATED_ALIKE = {"eval_crop_scale": 1.0, "eval_captions": 1, "views": 2}
# Five seeds are five splits of the pairs. External pairs that steer an adaptive mitigation don't measure its price.
COMMON_DEFAULTS = {"protocol": "paper", "seeds": 5, "retrieval_apart": True}
STRONG_CROPS, NO_CROPS = 0.2, 1.0
FACTORS = {"half": 0.5, "one": 1.0, "double": 2.0}  # of an encoder's width
FOREIGN = ("timm_model_name", "hf_model_name")  # in configs of towers whose width is not in their config
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
FEWEST_COMPARED = 10  # candidates, and as many independent pairs, that every arm trains on alike


# --- The arms of each built-in study, from the config and the pairs


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
    """Return crops off, as asked and strong, with one caption a pair and, if there are more, with all."""
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
    arms = [Arm(ALL, shown={"pairs": every, "fixed": ALL, "epochs": config.epochs})]
    for fixed in ("epochs", "steps"):
        for size in sizes:
            epochs = config.epochs if fixed == "epochs" else round(config.epochs * every / size)
            overrides = {PAIRS_KEPT: size} | ({"epochs": epochs} if epochs != config.epochs else {})
            shown = {"pairs": size, "fixed": fixed, "epochs": epochs}
            arms.append(Arm(f"{fixed}-{size}", overrides, shown=shown))
    return arms


def text_noise_arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return the paper's levels of noise on the text embedding."""
    levels = [Arm(f"text-noise-{level:.2f}", {"text_noise": level}) for level in NOISE_LEVELS]
    return [_none(pairs, text_noise=0.0), *levels]


def removal_arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return ever more of the shared pairs removed, at most half of them, by each ranking.

    The paper removes candidates from the training of f. Of the shared pairs f and g lose the same ones, and
    memorization is that of all candidates in every arm.
    """
    shared = int((pairs[c.GROUP] == c.SHARED).sum())
    counts = [n for n in REMOVED if n <= shared // 2]
    if not counts:
        raise InputError(f"study removal takes {REMOVED[0]} of at least {2 * REMOVED[0]} shared pairs, not of {shared}")
    return [
        _none(pairs, removed_by=NONE, removed=0),
        *(
            Arm(f"{by}-{n}", {REMOVAL: Removal(by, n)}, shown={"removed_by": by, "removed": n})
            for n in counts
            for by in REMOVED_BY
        ),
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
    """Return rare words forgotten after training in each way, beside an arm that forgets only those never trained."""
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


# --- The built-in studies


@dataclass(frozen=True)
class Study:
    """A question and the arms that answer it.

    `arms` are drawn from the config and the pair table; `reference` is the arm that differences are taken to.
    `defaults` are config fields that hold unless typed otherwise. After each epoch of `snapshots` that is run, and
    after the last, embeddings are stored, and times.parquet has a row for each. `takes_settings`: a person may add
    arms. `by_rarity`: retrieval is also measured apart for captions with rare words.
    """

    question: str
    arms: Callable[[AuditConfig, pd.DataFrame], list[Arm]]
    reference: str = NONE
    defaults: Mapping[str, Any] = field(default_factory=dict)
    snapshots: tuple[int, ...] = ()
    takes_settings: bool = True
    by_rarity: bool = False

    def epochs_kept(self, epochs: int) -> list[int]:
        """Return the epochs of a run after which embeddings are stored."""
        return sorted({epoch for epoch in self.snapshots if epoch < epochs} | {epochs}) if self.snapshots else []


STUDIES: dict[str, Study] = {
    "scale": Study(
        "Does memorization shrink as epochs over pairs?",
        scale_arms,
        reference=ALL,
        defaults={"batch_size": 256},  # the same at all sizes, so no larger than the smallest
        takes_settings=False,
    ),
    "size": Study(
        "Does a larger image encoder flip claim 3?",
        size_arms,
        reference="image-one-text-one",
        takes_settings=False,
    ),
    "views": Study(
        "Is the text share only the missing caption augmentation?",
        views_arms,
        reference="crops-normal-captions-1",
        defaults=EVALUATED_ALIKE,
        takes_settings=False,
    ),
    "time": Study(
        "Which encoder memorizes first?",
        lambda config, pairs: [Arm(NONE)],
        takes_settings=False,
        snapshots=(1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80),
    ),
    "captions": Study(
        "Do more captions a pair lower memorization and raise utility?", captions_arms, defaults=EVALUATED_ALIKE
    ),
    "text-noise": Study(
        "Does noise on the text embedding lower memorization and raise utility?",
        text_noise_arms,
        defaults=EVALUATED_ALIKE,
    ),
    "removal": Study("Does taking the most memorized pairs out raise utility?", removal_arms, defaults=EVALUATED_ALIKE),
    "combined": Study(
        "Which mitigations lower memorization at no loss of utility?", combined_arms, defaults=EVALUATED_ALIKE
    ),
    "forgetting": Study(
        "What is it worth to forget rare words after training?",
        forgetting_arms,
        defaults=EVALUATED_ALIKE,
        by_rarity=True,
    ),
}


def find_study(name: str) -> Study:
    """Return the study of a name.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    if name not in STUDIES:
        raise InputError(f"study {name!r} is unknown: choose one of {', '.join(STUDIES)}{meant(name, STUDIES)}")
    return STUDIES[name]


def defaults_of(name: str) -> dict[str, Any]:
    """Return the config fields that a study sets unless they are typed; for an unknown one those of all."""
    return COMMON_DEFAULTS | (dict(STUDIES[name].defaults) if name in STUDIES else {})


def check_takes_settings(name: str) -> None:
    """Refuse a study that nobody may add arms to.

    Raises:
        InputError: it is one; the message lists the others.
    """
    if not find_study(name).takes_settings:
        open_ = ", ".join(other for other, study in STUDIES.items() if study.takes_settings)
        raise InputError(f"study {name} has its own arms and no others: settings can be added to {open_}")


def fault_where_locked(name: str, config: AuditConfig) -> str:
    """Return why a study has no meaning under a config that locks a tower; empty if it has one."""
    pairs = pd.DataFrame({c.CAPTIONS: [["", ""]] * 2, c.GROUP: c.SHARED})
    try:
        find_study(name).arms(config, pairs)
    except InputError as error:
        return str(error) if "lock" in str(error) else ""
    return ""


def with_meaning(arms: Sequence[Arm], config: AuditConfig) -> tuple[list[Arm], list[str]]:
    """Return the arms that have a meaning with the locked towers of a config, and the names of the others.

    Example:
        >>> arms = [Arm("crops", {"crop_scale": 0.2}), Arm("decay", {"weight_decay": 1.0})]
        >>> left, out = with_meaning(arms, AuditConfig(lock_image=True))
        >>> [arm.name for arm in left], out
        (['decay'], ['crops'])
    """
    idle = set(without_meaning(config))
    out = [arm.name for arm in arms if idle & set(arm.overrides)]
    return [arm for arm in arms if arm.name not in out], out


# --- Arms that a person adds, in own.json: {"arms": [{"name", "setting", and decisions "removed", "recaptioned"}]}


def read_own(study: StudyFolder) -> list[Arm]:
    """Return the arms that a person added to a study, in that order."""
    found = []
    for values in study.own:
        captions = {id_: tuple(own) for id_, own in values.get("recaptioned", {}).items()}
        decided = Decided(frozenset(values.get("removed", ())), captions)
        found.append(dataclasses.replace(parse_setting(values["setting"]), name=values["name"], decided=decided))
    return found


def find_arm(study: StudyFolder, setting: Arm, *, decided: Decided | None = None) -> str | None:
    """Return the name of the arm that has a setting, run or not, or None.

    Args:
        study: begun.
        setting: its overrides of the reference arm.
        decided: the decisions meant by `decisions`; without them, those of the arm that was added last.
    """
    setting = normal(setting, reference_config(study))
    if not setting.overrides.get(DECISIONS):
        return next((name for name, text in study.settings.items() if text == setting.text), None)
    found = [arm for arm in read_own(study) if arm.text == setting.text]
    if decided is not None:
        applicable = first_split(study).applicable(decided)
        found = [arm for arm in found if arm.decided == applicable]
    return found[-1].name if found else None


def add_own(study: StudyFolder, setting: Arm, *, decided: Decided | None = None) -> str:
    """Add an arm to a study, to be run when the study goes on, and return its name.

    If an arm has this very setting, and the same decisions, its name is returned and nothing is written.

    Args:
        study: one whose reference arm has begun.
        setting: its overrides of the reference arm.
        decided: the decisions, for a setting with `decisions`.

    Raises:
        InputError: it cannot run, or nothing can be measured; one line says why, and nothing is written.
    """
    check_takes_settings(study.asked["study"])
    return add_all(study, first_split(study), [dataclasses.replace(setting, decided=decided or Decided())])[0]


def add_all(study: StudyFolder, split: Split, wanted: Sequence[Arm]) -> list[str]:
    """Add arms to a study, all of them or, if one cannot run, none; return their names."""
    if not wanted:
        return []
    with FileLock(studies_folder() / f".{study.name}.own.lock"):
        own = read_own(study)
        before, names = len(own), []
        for arm in wanted:
            decided = split.applicable(arm.decided) if arm.overrides.get(DECISIONS) else Decided()
            arm = dataclasses.replace(normal(arm, split.reference), decided=decided)
            same = [name for name, text in split.planned.items() if text == arm.text and not decided]
            same += [other.name for other in own if other.text == arm.text and other.decided == decided]
            if not same:
                _check_arm(arm, own, split)
                own.append(dataclasses.replace(arm, name=_new_name(arm, {*split.planned, *(one.name for one in own)})))
                same = [own[-1].name]
            names.append(same[0])
        if len(own) > before:
            study.folder.mkdir(parents=True, exist_ok=True)
            write_json(study.folder / OWN, {"arms": [_own_json(arm) for arm in own]})
    return names


def _new_name(arm: Arm, taken: set[str]) -> str:
    name = arm.folder_name
    if arm.decided:  # other decisions are another arm
        name += f"-{fingerprint(list(_decided_json(arm.decided).values()))[:6]}"
    return f"{name}-{fingerprint([arm.text, name])[:6]}" if name in taken else name


def _own_json(arm: Arm) -> dict[str, Any]:
    decided = {name: value for name, value in _decided_json(arm.decided).items() if value}
    return {"name": arm.name, "setting": arm.text} | decided


def _decided_json(decided: Decided) -> dict[str, Any]:
    return {
        "removed": sorted(decided.removed),
        "recaptioned": {id_: list(captions) for id_, captions in sorted(decided.recaptioned.items())},
    }


def _check_arm(arm: Arm, own: Sequence[Arm], split: Split) -> None:
    """Refuse an arm that cannot run, or after which too few pairs are left to train on or to compare."""
    check_config(split.config_of(arm))
    if arm.overrides.get(LOOKALIKES) and not split.lookalikes:
        raise InputError("lookalikes: no two of the pictures that members train on look alike, so none can be left out")
    if arm.overrides.get(DECISIONS) and not arm.decided:
        raise InputError("decisions: no pair of this study is decided to be removed or recaptioned: decide first")
    shared, removed = split.ids(c.SHARED), split.changes(arm).removed
    fixed, ranked = len(removed & shared), arm.removal.n if arm.removal else 0
    most = len(shared) // 2 - fixed
    if most < 0:
        raise InputError(f"{fixed:,} of {len(shared):,} shared pairs would be taken out: at most half of them can be")
    if ranked:
        most = min(most, len(split.ranked - removed))
    if ranked > most:
        after = f" after the {fixed:,} others that it takes out" if fixed else ""
        raise InputError(
            f"removal takes out at most {most:,} of the {len(shared):,} shared pairs{after}, not {ranked:,}"
        )
    changed = frozenset[str]().union(*(split.changes(one).ids for one in (arm, *own)))
    for group in (c.CANDIDATE, c.INDEPENDENT):
        left = len(split.ids(group) - changed)
        if left < FEWEST_COMPARED:
            raise InputError(
                f"{arm.text}: {left} {group} pairs would be left that all arms train on alike, and memorization "
                f"is measured on at least {FEWEST_COMPARED}: change fewer pairs, or take another study"
            )


# --- The command line of a study, and the detached process that runs it


def study_arguments(study: str, source: str, name: str, config: Mapping[str, Any]) -> list[str]:
    """Return the arguments of `python -m clipmem_core study` for a config: its seeds, and fields that study and preset
    set otherwise.

    Args:
        study: which one, by its name in STUDIES.
        source: a path, a hub name or `scenes`.
        name: the study's folder.
        config: its fields.
    """
    values, usual = flat(config), defaults_of(study)
    given = {
        key: value
        for key, value in typed(config).items()
        if key not in ("seeds", "members") and value != usual.get(key)  # members follow from seeds
    }
    # Fields that the study sets and somebody typed back to the preset's value.
    given |= {key: values[key] for key, value in usual.items() if key != "seeds" and values[key] != value}
    named = [f"--name={name}", f"--preset={config['preset']}", f"--seeds={config['seeds']}"]
    return [study, source, *named, *typed_flags(given, joint="=")]


def resume_arguments(study: StudyFolder) -> list[str]:
    """Return the arguments of `study` that continue a study with the very same config.

    The arms that a person added are in its folder already.
    """
    asked = study.asked
    return [
        *study_arguments(asked["study"], asked["source"], study.name, asked["config"]),
        f"--seeds-per-split={asked['seeds_per_split']}",
    ]


def commands_of(study: StudyFolder) -> list[str]:
    """Return the commands that make the rows of a study again, with the arms that a person added; on any machine.

    One if all arms have as many seeds, and one more for each number of seeds that only some have. For a study without
    rows, the command as it was asked for.
    """
    asked, rows = study.asked, Counter(arm for arm, _ in study.done())
    config = {name: own for name, own in asked["config"].items() if name not in affecting("machine")}
    commands: list[str] = []
    for seeds in sorted(set(rows.values())) or [config["seeds"]]:
        words = study_arguments(asked["study"], asked["source"], study.name, config | {"seeds": seeds})
        if asked["seeds_per_split"] != 1:
            words.append(f"--seeds-per-split={asked['seeds_per_split']}")
        if not commands:
            words += [f"--also={arm['setting']}" for arm in study.own]
        some = [arm for arm in asked["arms"] if rows[arm] >= seeds] if rows else list(asked["arms"])
        if len(some) < len(asked["arms"]):
            # The reference goes along unnamed, except where it goes alone.
            words += [f"--only={arm}" for arm in [arm for arm in some if arm != asked["reference"]] or some]
        commands.append(shlex.join(["python", "-m", "clipmem_core", "study", *words]))
    return commands


def study_task(name: str, arguments: Sequence[str] = ()) -> Task:
    """Return the task of a study.

    Args:
        name: the study's.
        arguments: those of `python -m clipmem_core study`; not needed to look for its job.

    Raises:
        InputError: the name cannot be one.
    """
    return Task(jobs_folder() / ".studies" / study_folder(name).name, ["study", *arguments])


def resume_study(study: StudyFolder) -> None:
    """Continue a study, with the arms that were added to it, unless another process holds it.

    A study at work looks for added arms when the others are done.
    """
    if not is_elsewhere(study.name):
        study_task(study.name, resume_arguments(study)).start()


def is_elsewhere(name: str) -> bool:
    """Tell whether a process works on a study that is not its job."""
    job = study_task(name).find()
    return not (job is not None and job.running) and is_locked(study_folder(name).folder)
