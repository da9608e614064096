"""Settings that a person asks for → arms of a study beside those of its plan, frozen in its own.json.

    {"arms": [{"name", "setting": its text, and where it has them "removed", "recaptioned", "epochs"}]}

What was decided and how many epochs take equally long is what it was when the arm was added.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from filelock import FileLock

from clipmem_core import columns as c
from clipmem_core.audits.settings import check_config
from clipmem_core.audits.store import write_json
from clipmem_core.config import AuditConfig, InputError, fingerprint
from clipmem_core.studies.arms import Arm
from clipmem_core.studies.basis import Basis, Decided, basis_of, reference_config
from clipmem_core.studies.plans import check_takes_settings
from clipmem_core.studies.setting import Setting, normal, parse_setting
from clipmem_core.studies.store import ARM, OWN, SECONDS, SEED, StudyFolder, studies_folder

FEWEST_COMPARED = 10  # candidates, and as many independent pairs, that every arm trains on alike
ABOUT_EQUAL = 0.1  # of the seconds of the reference arm
Wanted = tuple[Setting, Decided | None]


@dataclass(frozen=True)
class OwnArm:
    """An arm that a person added; `epochs` are the config's `epochs` and `stop_epoch` of one with equal time."""

    name: str
    setting: Setting
    decided: Decided | None = None
    epochs: Mapping[str, int] = field(default_factory=dict)

    @property
    def json(self) -> dict[str, Any]:
        """What own.json says of it."""
        decided = self.decided or Decided()
        kept: dict[str, Any] = {"removed": sorted(decided.removed), "recaptioned": _listed(decided)}
        kept["epochs"] = dict(self.epochs)
        filled = {name: value for name, value in kept.items() if value}
        return {"name": self.name, "setting": self.setting.text} | filled


def read_own(study: StudyFolder) -> list[OwnArm]:
    """Return the arms that a person added to a study, in that order."""
    return [_own_from(values) for values in study.own]


def find_arm(study: StudyFolder, setting: Setting, *, decided: Decided | None = None) -> str | None:
    """Return the name of the arm that has a setting, run or not, or None.

    Args:
        study: begun.
        setting: told beside its reference arm.
        decided: what `decisions` in it means; where it is not given, the arm that was added last is meant.
    """
    setting = normal(setting, reference_config(study))
    if not setting.decisions:
        return next((name for name, text in study.settings.items() if text == setting.text), None)
    found = [arm for arm in read_own(study) if arm.setting.text == setting.text]
    if decided is not None:
        standing = basis_of(study).standing(decided)
        found = [arm for arm in found if arm.decided == standing]
    return found[-1].name if found else None


def add_own(study: StudyFolder, setting: Setting, *, decided: Decided | None = None) -> str:
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
    return add_all(study, basis_of(study), [(setting, decided)])[0]


def add_all(study: StudyFolder, basis: Basis, wanted: Sequence[Wanted]) -> list[str]:
    """Add arms to a study, all of them or, where one cannot run, none; return their names."""
    if not wanted:
        return []
    with FileLock(studies_folder() / f".{study.name}.own.lock"):
        before = own = read_own(study)
        names = []
        for setting, decided in wanted:
            name, own = _with(own, study, basis, normal(setting, basis.reference), decided)
            names.append(name)
        if len(own) > len(before):
            study.folder.mkdir(parents=True, exist_ok=True)
            write_json(study.folder / OWN, {"arms": [arm.json for arm in own]})
    return names


def equal_times(study: StudyFolder, basis: Basis) -> list[Wanted]:
    """Return the settings, with equal time, of the arms whose fastest seed took a tenth more or less than none."""
    rows, own = study.arms, {arm.name: arm for arm in read_own(study)}
    seconds = rows.groupby(ARM)[SECONDS].min()  # what else runs on a machine only adds
    texts = {**basis.settings, **{name: arm.setting.text for name, arm in own.items()}}
    found: list[Wanted] = []
    for name, text in texts.items():
        if name not in seconds:  # not trained yet
            continue
        setting = parse_setting(text)
        off = abs(seconds[name] / seconds[basis.none.name] - 1) > ABOUT_EQUAL
        if off and not setting.equal_time:
            decided = own[name].decided if name in own else None
            found.append((dataclasses.replace(setting, equal_time=True), decided))
    return found


def arm_from(own: OwnArm, basis: Basis) -> Arm:
    """Return an added arm as those of a plan are; which pairs its ranking takes out is found when it runs."""
    setting, decided = own.setting, own.decided or Decided()
    removed = decided.removed | (basis.lookalikes if setting.lookalikes else frozenset())
    said: dict[str, Any] = {name: True for name in ("lookalikes", "decisions") if getattr(setting, name)}
    if setting.removal:
        said["removed_by"] = setting.removal.by
    return Arm(
        own.name,
        {**basis.none.fields, **setting.fields, **own.epochs},
        shown={**setting.fields, **own.epochs, **said},
        removed=removed,
        removal=setting.removal,
        recaptioned={id_: captions for id_, captions in decided.recaptioned.items() if id_ not in removed},
    )


def _with(
    own: list[OwnArm], study: StudyFolder, basis: Basis, setting: Setting, decided: Decided | None
) -> tuple[str, list[OwnArm]]:
    """Return the name of the arm with a setting, and all arms, with a new one where there was none."""
    standing = basis.standing(decided or Decided()) if setting.decisions else None
    name = _known(own, basis, setting, standing)
    if name is not None:
        return name, own
    _check(own, basis, setting, standing)
    epochs = {}
    if setting.equal_time:
        plain = dataclasses.replace(setting, equal_time=False)
        config = dataclasses.replace(basis.reference, **setting.fields)
        epochs = _equal_epochs(study.arms, basis.none.name, _known(own, basis, plain, standing), config, plain)
    new = OwnArm(_free_name(own, basis, setting, standing), setting, standing, epochs)
    return new.name, [*own, new]


def _known(own: Sequence[OwnArm], basis: Basis, setting: Setting, standing: Decided | None) -> str | None:
    names = [name for name, text in basis.settings.items() if text == setting.text and not setting.decisions]
    names += [arm.name for arm in own if arm.setting.text == setting.text and arm.decided == standing]
    return names[0] if names else None


def _check(own: Sequence[OwnArm], basis: Basis, setting: Setting, standing: Decided | None) -> None:
    """Refuse a setting that cannot run, or after which too little is left to train on or to compare."""
    check_config(dataclasses.replace(basis.reference, **setting.fields))
    if setting.lookalikes and not basis.lookalikes:
        raise InputError("lookalikes: no two of the pictures that members train on look alike, so none can be left out")
    if setting.decisions and not standing:
        raise InputError("decisions: no pair of this study is decided to be removed or recaptioned: decide first")
    new = arm_from(OwnArm("", setting, standing), basis)
    _check_shared(new, basis)
    changed = new.changed.union(*(arm_from(arm, basis).changed for arm in own))
    for group in (c.CANDIDATE, c.INDEPENDENT):
        left = len(basis.ids(group) - changed)
        if left < FEWEST_COMPARED:
            raise InputError(
                f"{setting.text}: {left} {group} pairs would be left that all arms train on alike, and memorization "
                f"is measured on at least {FEWEST_COMPARED}: change fewer pairs, or take another study"
            )


def _check_shared(new: Arm, basis: Basis) -> None:
    """Refuse an arm that takes out more than half of the shared pairs, or more than a ranking has."""
    shared, ranked = basis.ids(c.SHARED), new.removal.n if new.removal else 0
    fixed = len(new.removed & shared)
    most = len(shared) // 2 - fixed
    if most < 0:
        raise InputError(f"{fixed:,} of {len(shared):,} shared pairs would be taken out: at most half of them can be")
    if ranked:
        most = min(most, len(basis.ranked - new.removed))
    if ranked > most:
        after = f" after the {fixed:,} others that it takes out" if fixed else ""
        raise InputError(
            f"removal takes out at most {most:,} of the {len(shared):,} shared pairs{after}, not {ranked:,}"
        )


def _equal_epochs(
    rows: pd.DataFrame, none: str, arm: str | None, config: AuditConfig, plain: Setting
) -> dict[str, int]:
    """Return as many epochs as take as long as the reference arm, by the fastest of the seeds that both have run."""
    sides = [rows[rows[ARM] == name].set_index(SEED).get(SECONDS, pd.Series(dtype=float)) for name in (none, arm)]
    both = pd.concat([side.dropna() for side in sides], axis=1, join="inner", keys=["none", "arm"])
    if both.empty:
        raise InputError(
            f"equal_time needs the seconds that {plain.text!r} takes without it, and it has not run: run that first"
        )
    ratio = both["none"].min() / both["arm"].min()
    epochs = max(1, round(config.epochs * ratio))
    if not config.stop_epoch:
        return {"epochs": epochs}
    return {"epochs": epochs, "stop_epoch": min(epochs, max(1, round(config.stop_epoch * ratio)))}


def _free_name(own: Sequence[OwnArm], basis: Basis, setting: Setting, standing: Decided | None) -> str:
    """Name an arm after its setting, and after what was decided, so that other decisions are another arm."""
    name = setting.name
    if standing:
        name += f"-{fingerprint([sorted(standing.removed), _listed(standing)])[:6]}"
    taken = {*basis.names, *(arm.name for arm in own)}
    return name if name not in taken else f"{name}-{fingerprint([setting.text, name])[:6]}"


def _listed(decided: Decided) -> dict[str, list[str]]:
    return {id_: list(captions) for id_, captions in sorted(decided.recaptioned.items())}


def _own_from(values: Mapping[str, Any]) -> OwnArm:
    setting = parse_setting(values["setting"])
    captions = {id_: tuple(own) for id_, own in values.get("recaptioned", {}).items()}
    decided = Decided(frozenset(values.get("removed", ())), captions) if setting.decisions else None
    return OwnArm(values["name"], setting, decided, values.get("epochs", {}))
