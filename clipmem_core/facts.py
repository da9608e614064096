"""The options of the config, each with its default, bounds, choices, help, slider and what depends on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Affected = Literal["data", "members", "training", "evaluation", "machine"]
# The parts of a study arm's text, in their order
Part = Literal["captions", "noise", "words", "vocabulary", "pictures", "length", "logit scale", "ahead"]


class InputError(ValueError):
    """A mistake in the input, in one line that says what to do. The command line ends with exit code 2."""


@dataclass(frozen=True)
class Slider:
    """A field's slider: range, step, usual value once switched on, and other fields that this sets (`brings`)."""

    low: float
    high: float
    step: float
    usual: float
    brings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything about one field of the config.

    Attributes:
        ge, gt, le, lt: bounds, named as in pydantic.
        affects: `data`, the pairs and their storage; `members`, their number; `training`; `evaluation`; `machine`:
            its value follows from the machine.
        mitigates: the field is a mitigation; its default, or the value of the field `off_at`, turns it off.
        modifies: names of the mitigations this field has an effect on.
        part: part of a study arm's text; None: arms cannot change it.
        slider, group, toggle: its slider on the Mitigations page, the group there, and the label of its toggle.
        alike: name of the field in warnings that clipmem is comparable only between equal values of it.
        trained: the encoder, image or text, that must be trained for the field to have an effect.
    """

    name: str = ""
    default: Any = None
    help: str = ""
    title: str = ""
    choices: tuple[str, ...] = ()
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    affects: tuple[Affected, ...] = ("training",)
    mitigates: bool = False
    off_at: str = ""
    modifies: tuple[str, ...] = ()
    part: Part | None = None
    slider: Slider | None = None
    group: str = ""
    toggle: str = ""
    alike: str = ""
    trained: str = ""

    @property
    def label(self) -> str:
        """The label of its widget."""
        return self.title or self.name.replace("_", " ").capitalize()

    @property
    def flag(self) -> str:
        """Its flag on the command line."""
        return "--" + self.name.replace("_", "-")


def control(part: Part, toggle: str, slider: Slider | None = None) -> dict[str, Any]:
    """Return the `Facts` of a field that arms change: its part of their text, and its toggle and slider."""
    return {"part": part, "toggle": toggle, "slider": slider}


def option(default: Any, help: str = "", **facts: Any) -> Any:
    """Declare a field of the config by its default, its help, and further `Facts`."""
    return field(default=default, metadata={"help": help or None, "facts": Facts(default=default, help=help, **facts)})
