"""What an arm does beside the reference arm `none` ↔ a short text that says it, and a folder's name.

text_mask=0.3 removal=clipmem:100 lookalikes decisions equal_time
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clipmem_core.config import (
    ARM_FIELDS,
    FIELDS,
    MODIFIERS,
    AuditConfig,
    InputError,
    as_dict,
    fingerprint,
    switched_on,
)
from clipmem_core.studies.arms import Arm
from clipmem_core.studies.mitigations import NONE
from clipmem_core.studies.rankings import DIRECTIONS, RANDOM, Removal

SWITCHES = ("lookalikes", "decisions", "equal_time")
REMOVAL = "removal"
RANKED_BY = (*DIRECTIONS, RANDOM)
LONGEST_NAME = 70  # fingerprints may follow


@dataclass(frozen=True)
class Setting:
    """What is done against memorization beside what `none` does.

    `fields` are the config's, of ARM_FIELDS, that differ from those of `none`. `removal` takes pairs out by a ranking,
    `lookalikes` all but the first of near-duplicate pictures, and `decisions` those that a person decided to remove,
    and gives the recaptioned ones their new captions. `equal_time` trains for as many epochs as take as long as
    `none` does.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    removal: Removal | None = None
    lookalikes: bool = False
    decisions: bool = False
    equal_time: bool = False

    def __post_init__(self) -> None:
        unknown = sorted(set(self.fields) - set(ARM_FIELDS))
        if unknown:
            raise ValueError(f"fields must be of {', '.join(ARM_FIELDS)}, not {', '.join(unknown)}")

    @property
    def text(self) -> str:
        """What it does, in one line and always in the same order; empty for `none`.

        Example:
            >>> Setting({"crop_scale": 0.2, "text_mask": 0.30}, Removal("clipmem", 100), lookalikes=True).text
            'text_mask=0.3 crop_scale=0.2 removal=clipmem:100 lookalikes'
        """
        parts = [f"{name}={_shortest(self.fields[name])}" for name in ARM_FIELDS if name in self.fields]
        parts += [f"{REMOVAL}={self.removal.by}:{self.removal.n}"] if self.removal else []
        return " ".join([*parts, *(name for name in SWITCHES if getattr(self, name))])

    @property
    def name(self) -> str:
        """A name for its folder.

        Example:
            >>> Setting({"text_mask": 0.3}, Removal("clipmem", 100)).name
            'text_mask-0.3_removal-clipmem-100'
        """
        found = "_".join(re.sub(r"[^\w.]+", "-", part) for part in self.text.split()) or NONE
        return found if len(found) <= LONGEST_NAME else f"{found[:LONGEST_NAME]}-{fingerprint(self.text)[:6]}"


def parse_setting(text: str) -> Setting:
    """Read a setting's text, its parts in any order.

    Raises:
        InputError: one line that says what was not understood and what can be said.

    Example:
        >>> parse_setting("decisions text_mask=.30").text
        'text_mask=0.3 decisions'
    """
    said: dict[str, Any] = {}
    for part in text.split():
        name, equals, value = part.partition("=")
        if name in said:
            raise InputError(f"a setting says {name} twice: once is enough")
        said[name] = _value(name, value, given=bool(equals))
    fields = {name: value for name, value in said.items() if name in ARM_FIELDS}
    return Setting(fields, **{name: value for name, value in said.items() if name not in ARM_FIELDS})


def setting_of(arm: Arm, none: Arm, config: AuditConfig | None = None) -> Setting | None:
    """Return what an arm of a plan does beside the reference arm; None where no setting can say it.

    Args:
        arm: with a model of its own, pairs named one by one, or fields beyond ARM_FIELDS, it has none.
        none: the reference arm.
        config: the study's, which both change; a default one where it is not given.
    """
    config = config or AuditConfig()
    listed = arm.recaptioned or (arm.removed and not arm.removal)
    if arm.model or listed or (set(arm.fields) | set(none.fields)) - set(ARM_FIELDS):
        return None
    reference = dataclasses.replace(config, **none.fields)
    own = {name: arm.fields.get(name, getattr(config, name)) for name in {**arm.fields, **none.fields}}
    return normal(Setting(own, arm.removal), reference)


def normal(setting: Setting, config: AuditConfig) -> Setting:
    """Return a setting without what does nothing, so that equal trainings have equal texts.

    Args:
        setting: any.
        config: that of `none`.

    Example:
        >>> normal(parse_setting("text_noise=0 noise_place=before text_mask=0.3 removal=random:0"), AuditConfig()).text
        'text_mask=0.3'
    """
    values = _with_one_off(as_dict(config) | dict(setting.fields))
    on = set(switched_on(values))
    idle = {name for name, needs in MODIFIERS.items() if not on & set(needs)}
    usual = _with_one_off(as_dict(config))
    fields = {name: values[name] for name in ARM_FIELDS if name not in idle and values[name] != usual[name]}
    removal = setting.removal if setting.removal and setting.removal.n else None
    some = bool(fields or removal or setting.lookalikes or setting.decisions)
    return dataclasses.replace(setting, fields=fields, removal=removal, equal_time=setting.equal_time and some)


def _with_one_off(values: dict[str, Any]) -> dict[str, Any]:
    """Say the default where another value is off as well: 0, where training is to stop after the last epoch."""
    off = {name: own.default for name, own in FIELDS.items() if own.off_at and values[name] == values[own.off_at]}
    return values | off


def _shortest(value: Any) -> str:
    """Write a value with as few digits as say it."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _value(name: str, value: str, *, given: bool) -> Any:
    if name in SWITCHES and not given:
        return True
    if name == REMOVAL:
        return _removal(value)
    if name in ARM_FIELDS and given:
        return _choice(name, value) if FIELDS[name].choices else _number(name, value)
    if name in ARM_FIELDS:
        raise InputError(f"a setting gives {name} a value, as in {name}=…")
    if name in SWITCHES:
        raise InputError(f"in a setting {name} stands alone, without a value")
    known = ", ".join((*ARM_FIELDS, REMOVAL, *SWITCHES))
    raise InputError(f"a setting does not know {name[:40]!r}: say one of {known}, as in 'text_mask=0.3 {SWITCHES[0]}'")


def _removal(value: str) -> Removal:
    by, _, count = value.partition(":")
    if by not in RANKED_BY or not re.fullmatch(r"[0-9]{1,9}", count):
        raise InputError(
            f"removal must name a ranking and a number of pairs, as in removal=clipmem:100, not {value[:40]!r}; "
            f"rankings are {', '.join(RANKED_BY)}"
        )
    return Removal(by, int(count))


def _choice(name: str, value: str) -> str:
    if value not in FIELDS[name].choices:
        raise InputError(f"{name} must be one of {', '.join(FIELDS[name].choices)}, not {value[:40]!r}")
    return value


def _number(name: str, value: str) -> float | int:
    kind = type(FIELDS[name].default)
    try:
        number = kind(value)
        known = math.isfinite(number)
    except (ValueError, OverflowError):
        known = False
    if not known:
        raise InputError(f"{name} must be a {'whole ' if kind is int else ''}number, not {value[:40]!r}")
    return number
