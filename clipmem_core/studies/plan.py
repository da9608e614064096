"""The built-in studies, arms added to them, and their command lines.

The reference arm is `none`. It trains on one caption a pair, as in the paper. All arms are evaluated on that caption
and on uncropped pictures, which every arm trains on.
"""

import dataclasses
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from filelock import FileLock

from clipmem_core import columns as c
from clipmem_core.audit.jobs import Task, jobs_folder
from clipmem_core.audit.settings import check_config, typed, typed_flags
from clipmem_core.audit.store import is_locked, write_json
from clipmem_core.config import AuditConfig, InputError, affecting, did_you_mean, fingerprint, flat
from clipmem_core.studies import arm as arms
from clipmem_core.studies.arm import NONE, Arm, Decided, Removal, Split
from clipmem_core.studies.study_folder import ADDED, StudyFolder, studies_folder, study_folder

# The config fields that studies set unless they are typed
DEFAULTS: dict[str, Any] = {
    # Five seeds are five splits. External pairs that control adaptive mitigations are not used for utility.
    **{"protocol": "paper", "seeds": 5, "retrieval_apart": True},
    # Otherwise an arm is evaluated on crops or captions it did not train on.
    **{"eval_crop_scale": 1.0, "eval_captions": 1, "views": 2},
}
MOST_CAPTIONS = 5
NOISE_LEVELS = (0.01, 0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
REMOVED = (50, 100, 200, 400, 800)
REMOVED_BY = (c.CLIPMEM, c.SIMILARITY_IN, arms.RANDOM)
CROPS: dict[str, Any] = {"crop_scale": 0.2, "colour": 0.4}
FLOOR: dict[str, Any] = {"min_logit_scale": 30.0}  # open_clip starts at 14.3
MIN_DF: dict[str, Any] = {"text_min_df": 10}
MASK: dict[str, Any] = {"text_mask": 0.15}
ADAPTIVE_MASK: dict[str, Any] = {"adaptive_mask": 0.6}
FEWEST_COMPARED = 10  # candidates, and independent pairs, that no arm changes


def captions_arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return one caption a pair, two, …, up to five, and all if there are more."""
    most = _most_captions(pairs)
    if most < 2:
        raise InputError("study captions needs pairs with several captions, and this source has none")
    counts = {str(number): number for number in range(2, min(most, MOST_CAPTIONS) + 1)}
    counts |= {"all": config.train_captions} if most > MOST_CAPTIONS else {}
    more = [Arm(f"captions-{n}", {"train_captions": count}, shown={"captions": n}) for n, count in counts.items()]
    return [_none(pairs, captions="1"), *more]


def text_noise_arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return the paper's levels of noise on the text embedding."""
    levels = [Arm(f"text-noise-{level:.2f}", {"text_noise": level}) for level in NOISE_LEVELS]
    return [_none(pairs, text_noise=0.0), *levels]


def removal_arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return growing numbers of removed shared pairs, at most half of them, by each ranking.

    The paper removes candidates from the training of f. Here f and g lose the same shared pairs, so that every arm
    measures memorization on all candidates.
    """
    shared = int((pairs[c.GROUP] == c.SHARED).sum())
    counts = [n for n in REMOVED if n <= shared // 2]
    if not counts:
        raise InputError(f"study removal needs at least {2 * REMOVED[0]} shared pairs, and there are {shared}")
    removals = [
        Arm(f"{by}-{n}", {arms.REMOVAL: Removal(by, n)}, shown={"removed_by": by, "removed": n})
        for n in counts
        for by in REMOVED_BY
    ]
    return [_none(pairs, removed_by=NONE, removed=0), *removals]


def combined_arms(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    """Return each mitigation at one setting, and some combinations."""
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
        "early-stop": {"stop_epoch": max(1, round(config.epochs * 2 / 3))},
        "adaptive-noise": {"adaptive_noise": 0.15},
        "adaptive-mask": ADAPTIVE_MASK,
        # At the median, half of all pairs that are not memorized would rest, and nothing is learned.
        "adaptive-rest": {"adaptive_rest": 1.0, "adaptive_quantile": 0.95},
        "rare-words-and-floor": MIN_DF | FLOOR,
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


def _most_captions(pairs: pd.DataFrame) -> int:
    return int(pairs[c.CAPTIONS].map(len).max())


def _none(pairs: pd.DataFrame, **shown: Any) -> Arm:
    """Return the reference arm, which trains on one caption a pair."""
    return Arm(NONE, {"train_captions": 1} if _most_captions(pairs) > 1 else {}, shown=shown)


class Study(NamedTuple):
    """A question and the arms that answer it."""

    question: str
    arms: Callable[[AuditConfig, pd.DataFrame], list[Arm]]  # from the config and the pair table


STUDIES = {
    "captions": Study("Do more captions a pair lower memorization and raise utility?", captions_arms),
    "text-noise": Study("Does noise on the text embedding lower memorization and raise utility?", text_noise_arms),
    "removal": Study("Does taking the most memorized pairs out raise utility?", removal_arms),
    "combined": Study("Which mitigations lower memorization at no loss of utility?", combined_arms),
}


def find_study(name: str) -> Study:
    """Return the study of a name."""
    if name not in STUDIES:
        raise InputError(f"study {name!r} is unknown: choose one of {', '.join(STUDIES)}{did_you_mean(name, STUDIES)}")
    return STUDIES[name]


def read_added(study: StudyFolder) -> list[Arm]:
    """Return the arms that were added to a study, in that order.

    own.json: {"arms": [{"name", "setting", and decisions "removed", "recaptioned"}]}
    """
    added = []
    for values in study.added:
        captions = {id_: tuple(words) for id_, words in values.get("recaptioned", {}).items()}
        decided = Decided(frozenset(values.get("removed", ())), captions)
        added.append(dataclasses.replace(arms.parse_setting(values["setting"]), name=values["name"], decided=decided))
    return added


def find_arm(study: StudyFolder, setting: Arm, *, decided: Decided | None = None) -> str | None:
    """Return the name of an arm with this setting, or None; with `decisions` the last one added, or with `decided`."""
    setting = arms.normal(setting, arms.reference_config(study))
    if not setting.overrides.get(arms.DECISIONS):
        return next((name for name, text in study.settings.items() if text == setting.text), None)
    matches = [arm for arm in read_added(study) if arm.text == setting.text]
    if decided is not None:
        applicable = arms.first_split(study).applicable(decided)
        matches = [arm for arm in matches if arm.decided == applicable]
    return matches[-1].name if matches else None


def add_arm(study: StudyFolder, setting: Arm, *, decided: Decided | None = None) -> str:
    """Add an arm to a study whose reference arm has begun, and return its name; an equal arm is not added again."""
    return add_arms(study, arms.first_split(study), [dataclasses.replace(setting, decided=decided or Decided())])[0]


def add_arms(study: StudyFolder, split: Split, requested: Sequence[Arm]) -> list[str]:
    """Add arms to a study, or none if one of them cannot run; return their names."""
    if not requested:
        return []
    with FileLock(studies_folder() / f".{study.name}.own.lock"):
        stored = read_added(study)
        before, names = len(stored), []
        for arm in requested:
            decided = split.applicable(arm.decided) if arm.overrides.get(arms.DECISIONS) else Decided()
            arm = dataclasses.replace(arms.normal(arm, split.reference), decided=decided)
            same = [name for name, text in split.planned.items() if text == arm.text and not decided]
            same += [other.name for other in stored if other.text == arm.text and other.decided == decided]
            if not same:
                _check_arm(arm, stored, split)
                same = [arm.folder_name]
                if decided:
                    same[0] += f"-{fingerprint(list(_decided_json(decided).values()))[:6]}"
                stored.append(dataclasses.replace(arm, name=same[0]))
            names.append(same[0])
        if len(stored) > before:
            study.folder.mkdir(parents=True, exist_ok=True)
            rows = [{"name": arm.name, "setting": arm.text, **_decided_json(arm.decided)} for arm in stored]
            write_json(study.folder / ADDED, {"arms": rows})
    return names


def _decided_json(decided: Decided) -> dict[str, Any]:
    recaptioned = {id_: list(captions) for id_, captions in sorted(decided.recaptioned.items())}
    return {"removed": sorted(decided.removed), "recaptioned": recaptioned}


def _check_arm(arm: Arm, stored: Sequence[Arm], split: Split) -> None:
    """Refuse an arm that cannot run, or leaves too few pairs to train on or to compare."""
    check_config(split.config_of(arm))
    changes = split.changes(arm)
    if arm.overrides.get(arms.NEAR_DUPLICATES) and not split.near_duplicates:
        raise InputError("near_duplicates: there are no near-duplicates among the pictures that members train on")
    if arm.overrides.get(arms.DECISIONS) and not (arm.decided and changes):
        raise InputError("decisions: no pair of this study is decided to be removed or recaptioned: decide first")
    shared = split.ids(c.SHARED)
    removed = len(changes.removed & shared) + (arm.removal.n if arm.removal else 0)
    if removed > len(shared) // 2:
        raise InputError(f"{arm.text}: removes {removed:,} of {len(shared):,} shared pairs: remove at most half")
    changed = frozenset[str]().union(*(split.changes(added).ids for added in (arm, *stored)))
    for group in (c.CANDIDATE, c.INDEPENDENT):
        remaining = len(split.ids(group) - changed)
        if remaining < FEWEST_COMPARED:
            few = f"{remaining} {group} pairs would be unchanged in all arms, fewer than {FEWEST_COMPARED}"
            raise InputError(f"{arm.text}: {few}: change fewer pairs, or use another study")


def study_arguments(study: str, source: str, name: str, config: Mapping[str, Any]) -> list[str]:
    """Return the arguments of `python -m clipmem_core study`: seeds, and fields that differ from study and preset."""
    # Members follow from seeds, which are always typed.
    values, usual = flat(config), DEFAULTS | {name: config[name] for name in ("seeds", "members")}
    fields = {key: value for key, value in typed(config).items() if value != usual.get(key)}
    # Fields that the study sets, typed back to the preset's value.
    fields |= {key: values[key] for key, value in usual.items() if values[key] != value}
    flags = [f"--name={name}", f"--preset={config['preset']}", f"--seeds={config['seeds']}"]
    return [study, source, *flags, *typed_flags(fields, joint="=")]


def resume_arguments(study: StudyFolder) -> list[str]:
    """Return the arguments that continue a study with the same config."""
    request = study.request
    words = study_arguments(request["study"], request["source"], study.name, request["config"])
    return [*words, f"--seeds-per-split={request['seeds_per_split']}"]


def command_of(study: StudyFolder) -> str:
    """Return the command that reproduces the rows of a study on any machine, with added arms."""
    request, rows = study.request, Counter(arm for arm, _ in study.done())
    config = {name: value for name, value in request["config"].items() if name not in affecting("machine")}
    config["seeds"] = max(rows.values(), default=config["seeds"])
    words = study_arguments(request["study"], request["source"], study.name, config)
    if request["seeds_per_split"] != 1:
        words.append(f"--seeds-per-split={request['seeds_per_split']}")
    words += [f"--also={arm['setting']}" for arm in study.added]
    if 0 < len(rows) < len(request["arms"]):
        words += [f"--only={arm}" for arm in rows if arm != NONE or len(rows) == 1]
    return shlex.join(["python", "-m", "clipmem_core", "study", *words])


def study_task(name: str, arguments: Sequence[str] = ()) -> Task:
    """Return the task of a study; without `arguments`, only to find its job."""
    return Task(jobs_folder() / ".studies" / study_folder(name).name, ["study", *arguments])


def resume_study(study: StudyFolder) -> None:
    """Continue a study unless another process runs it, which reads added arms itself once it has finished others."""
    if not runs_outside_job(study.name):
        study_task(study.name, resume_arguments(study)).start()


def runs_outside_job(name: str) -> bool:
    """Return whether a process other than its job runs a study."""
    job = study_task(name).find()
    return not (job is not None and job.running) and is_locked(study_folder(name).folder)
