"""What a field of the config says about itself: its default, bounds, choices, help, what depends on it, its slider."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Affected = Literal["data", "members", "training", "evaluation", "machine"]
# The parts of what an arm of a study may change, in the order that its text says them in.
Part = Literal["captions", "noise", "words", "vocabulary", "pictures", "length", "logit scale", "ahead"]


@dataclass(frozen=True)
class Slider:
    """How a field is set by hand: its range, its step, what is usual once it is on, and what is set with it then."""

    low: float
    high: float
    step: float
    usual: float
    brings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that a field of the config says about itself.

    Its bounds have pydantic's names. `affects` is what depends on it: which pairs there are and how they are
    stored, how many members, their training, what they are judged on; `machine` where it follows from the machine.
    A field that `mitigates` is off at its default, and where it is what the field `off_at` is; one that `modifies`
    others means something only with one of them on. `part` is set where arms of a study may change it, `alike` where
    clipmem compares only between equal values: what it is called there. `embeds` is its place in the key of tables of
    units, and `main` its place among the widgets that matter most; where `own_widget`, the page has another one for
    it. One with `trained` means something only where that encoder, image or text, is trained and not locked.
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
    alike: str = ""
    embeds: int = 0
    main: int = 0
    own_widget: bool = False
    trained: str = ""

    @property
    def label(self) -> str:
        """The label of its widget."""
        return self.title or self.name.replace("_", " ").capitalize()

    @property
    def wanted(self) -> str:
        """What it must be, in words; empty where it may be anything."""
        bounds = {"at least": self.ge, "a number above": self.gt, "at most": self.le, "below": self.lt}
        words = [f"{word} {bound}" for word, bound in bounds.items() if bound is not None]
        return f"one of {', '.join(self.choices)}" if self.choices else " and ".join(words)

    @property
    def flag(self) -> str:
        """Its flag on the command line."""
        return "--" + self.name.replace("_", "-")


def option(default: Any, help: str = "", facts: Facts = Facts()) -> Any:
    """Declare a field of the config by its default, its help, and what else is known of it."""
    own = dataclasses.replace(facts, default=default, help=help)
    return field(default=default, metadata={"help": help or None, "facts": own})
