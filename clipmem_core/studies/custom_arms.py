"""The arms that a person adds to a study beside those of its plan, kept in its own.json.

    {"arms": [{"name", "setting": its text, and where it has them "removed", "recaptioned", "epochs"}]}

What was decided and how many epochs take equally long is what it was when the arm was added.
"""

import dataclasses
from collections.abc import Sequence

import pandas as pd
from filelock import FileLock

from clipmem_core import columns as c
from clipmem_core.audits.settings import check_config
from clipmem_core.audits.store import write_json
from clipmem_core.config import AuditConfig, InputError, fingerprint
from clipmem_core.studies.arm import Arm, Context, Decided, arm_of, context_of, normal, parse_setting, reference_config
from clipmem_core.studies.plans import check_takes_settings
from clipmem_core.studies.store import ARM, OWN, SECONDS, SEED, StudyFolder, studies_folder

FEWEST_COMPARED = 10  # candidates, and as many independent pairs, that every arm trains on alike
ABOUT_EQUAL = 0.1  # of the seconds of the reference arm


def read_own(study: StudyFolder) -> list[Arm]:
    """Return the arms that a person added to a study, in that order."""
    return [arm_of(values) for values in study.own]


def find_arm(study: StudyFolder, setting: Arm, *, decided: Decided | None = None) -> str | None:
    """Return the name of the arm that has a setting, run or not, or None.

    Args:
        study: begun.
        setting: told beside its reference arm.
        decided: what `decisions` in it means; where it is not given, the arm that was added last is meant.
    """
    setting = normal(setting, reference_config(study))
    if not setting.decisions:
        return next((name for name, text in study.settings.items() if text == setting.text), None)
    found = [arm for arm in read_own(study) if arm.text == setting.text]
    if decided is not None:
        standing = context_of(study).standing(decided)
        found = [arm for arm in found if arm.decided == standing]
    return found[-1].name if found else None


def add_own(study: StudyFolder, setting: Arm, *, decided: Decided | None = None) -> str:
    """Add an arm to a study, to be run when the study goes on, and return its name.

    Where an arm has this very setting, and the same decisions, its name is returned and nothing is written.

    Args:
        study: one whose reference arm has begun.
        setting: told beside its reference arm.
        decided: what was decided, for a setting with `decisions`.

    Raises:
        InputError: it cannot run, or nothing can be said of it; one line says why, and nothing is written.
    """
    check_takes_settings(study.asked["study"])
    wanted = dataclasses.replace(setting, decided=decided or Decided())
    return add_all(study, context_of(study), [wanted])[0]


def add_all(study: StudyFolder, context: Context, wanted: Sequence[Arm]) -> list[str]:
    """Add arms to a study, all of them or, where one cannot run, none; return their names."""
    if not wanted:
        return []
    with FileLock(studies_folder() / f".{study.name}.own.lock"):
        own = read_own(study)
        before, names = len(own), []
        for arm in wanted:
            standing = context.standing(arm.decided) if arm.decisions else Decided()
            arm = dataclasses.replace(normal(arm, context.reference), decided=standing)
            name = _known(own, context, arm)
            if name is None:
                own.append(_new(own, study, context, arm))
                name = own[-1].name
            names.append(name)
        if len(own) > before:
            study.folder.mkdir(parents=True, exist_ok=True)
            write_json(study.folder / OWN, {"arms": [arm.json for arm in own]})
    return names


def equal_times(study: StudyFolder, context: Context) -> list[Arm]:
    """Return the arms whose fastest seed took a tenth more or less than the reference arm's, with equal time."""
    seconds = study.arms.groupby(ARM)[SECONDS].min()  # what else runs on a machine only adds
    planned = [
        dataclasses.replace(parse_setting(text), name=name)
        for name, text in context.planned.items()
        if text is not None
    ]
    return [
        dataclasses.replace(arm, name="", equal_time=True)
        for arm in (*planned, *read_own(study))
        if arm.name in seconds and not arm.equal_time  # and trained
        if abs(seconds[arm.name] / seconds[context.none.name] - 1) > ABOUT_EQUAL
    ]


def _known(own: Sequence[Arm], context: Context, arm: Arm) -> str | None:
    """Return the name of the first arm that does the same."""
    names = [name for name, text in context.planned.items() if text == arm.text and not arm.decisions]
    names += [other.name for other in own if other.text == arm.text and other.decided == arm.decided]
    return names[0] if names else None


def _new(own: Sequence[Arm], study: StudyFolder, context: Context, arm: Arm) -> Arm:
    """Return an arm with its name, and with its epochs where it is to have equal time."""
    _check(own, context, arm)
    epochs = {}
    if arm.equal_time:
        plain = dataclasses.replace(arm, equal_time=False)
        known = _known(own, context, plain)
        epochs = _equal_epochs(study.arms, context.none.name, known, context.config_of(plain), plain.text)
    name = arm.folder_name
    if arm.decided:  # other decisions are another arm
        name += f"-{fingerprint(list(arm.decided.json.values()))[:6]}"
    if name in {*context.planned, *(other.name for other in own)}:
        name = f"{name}-{fingerprint([arm.text, name])[:6]}"
    return dataclasses.replace(arm, name=name, epochs=epochs)


def _check(own: Sequence[Arm], context: Context, arm: Arm) -> None:
    """Refuse an arm that cannot run, or after which too little is left to train on or to compare."""
    check_config(context.config_of(arm))
    if arm.lookalikes and not context.lookalikes:
        raise InputError("lookalikes: no two of the pictures that members train on look alike, so none can be left out")
    if arm.decisions and not arm.decided:
        raise InputError("decisions: no pair of this study is decided to be removed or recaptioned: decide first")
    _check_shared(arm, context)
    changed = frozenset[str]().union(*(context.changes(one).ids for one in (arm, *own)))
    for group in (c.CANDIDATE, c.INDEPENDENT):
        left = len(context.ids(group) - changed)
        if left < FEWEST_COMPARED:
            raise InputError(
                f"{arm.text}: {left} {group} pairs would be left that all arms train on alike, and memorization "
                f"is measured on at least {FEWEST_COMPARED}: change fewer pairs, or take another study"
            )


def _check_shared(arm: Arm, context: Context) -> None:
    """Refuse an arm that takes out more than half of the shared pairs, or more than a ranking has."""
    shared, removed = context.ids(c.SHARED), context.changes(arm).removed
    fixed, ranked = len(removed & shared), arm.removal.n if arm.removal else 0
    most = len(shared) // 2 - fixed
    if most < 0:
        raise InputError(f"{fixed:,} of {len(shared):,} shared pairs would be taken out: at most half of them can be")
    if ranked:
        most = min(most, len(context.ranked - removed))
    if ranked > most:
        after = f" after the {fixed:,} others that it takes out" if fixed else ""
        raise InputError(
            f"removal takes out at most {most:,} of the {len(shared):,} shared pairs{after}, not {ranked:,}"
        )


def _equal_epochs(rows: pd.DataFrame, none: str, arm: str | None, config: AuditConfig, text: str) -> dict[str, int]:
    """Return as many epochs as take as long as the reference arm, by the fastest of the seeds that both have run."""
    sides = [rows[rows[ARM] == name].set_index(SEED).get(SECONDS, pd.Series(dtype=float)) for name in (none, arm)]
    both = pd.concat([side.dropna() for side in sides], axis=1, join="inner", keys=["none", "arm"])
    if both.empty:
        raise InputError(
            f"equal_time needs the seconds that {text!r} takes without it, and it has not run: run that first"
        )
    ratio = both["none"].min() / both["arm"].min()
    epochs = max(1, round(config.epochs * ratio))
    if not config.stop_epoch:
        return {"epochs": epochs}
    return {"epochs": epochs, "stop_epoch": min(epochs, max(1, round(config.stop_epoch * ratio)))}
