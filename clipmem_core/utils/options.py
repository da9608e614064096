"""The options of the config, each with its default, bounds, choices, help, slider and what depends
on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Affected = Literal["data", "members", "training", "evaluation", "machine"]
# The parts of a study setting's text, in their order
Part = Literal[
    "captions", "noise", "words", "vocabulary", "pictures", "length", "logit scale", "early"
]


@dataclass(frozen=True)
class Slider:
    """The slider of a field: range, step and usual value. Switching it on also sets the fields
    `brings`."""

    low: float
    high: float
    step: float
    usual: float
    brings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Option:
    """Everything about one field of the config."""

    name: str = ""
    default: Any = None
    help: str = ""
    title: str = ""
    choices: tuple[str, ...] = ()
    ge: float | None = None  # bounds, named as in pydantic
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    # The pairs and their storage, the number of members, training, evaluation; machine: the default
    # depends on the machine
    affects: tuple[Affected, ...] = ("training",)
    # The field is a mitigation; its default, or the value of the field `off_at`, turns it off
    mitigates: bool = False
    off_at: str = ""
    modifies: tuple[str, ...] = ()  # the mitigations it has an effect on
    part: Part | None = None  # of a study setting's text; None: settings cannot change it
    slider: Slider | None = None  # on the Mitigations page
    group: str = ""  # there
    toggle: str = ""  # its label there
    # Its name in warnings: clipmem of two audits is comparable only if their values are equal
    must_match: str = ""
    trained: str = ""  # the encoder, image or text, that must be trained for it to have an effect
    on_input: bool = False  # changes pictures or tokens: no block of the encoder may be locked

    @property
    def label(self) -> str:
        """The label of its widget."""
        return self.title or self.name.replace("_", " ").capitalize()

    @property
    def flag(self) -> str:
        """Its flag on the command line."""
        return "--" + self.name.replace("_", "-")


def control(part: Part, toggle: str, slider: Slider | None = None) -> dict[str, Any]:
    """Return the `Option` of a field that settings change: its part of their text, and its toggle
    and slider."""
    return {"part": part, "toggle": toggle, "slider": slider}


def option(default: Any, help: str = "", **facts: Any) -> Any:
    """Declare a field of the config by its default, its help, and further `Option`."""
    return field(
        default=default,
        metadata={"help": help or None, "facts": Option(default=default, help=help, **facts)},
    )
