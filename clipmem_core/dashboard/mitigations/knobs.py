"""What can be done against memorization → a toggle each: its words, its range, and what it is at first."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clipmem_core.config import FIELDS, AuditConfig
from clipmem_core.dashboard.mitigations.study_data import Reference
from clipmem_core.scores.table import REMOVAL, scores_in
from clipmem_core.studies.arm import RANDOM

ALL_CAPTIONS = 0
PLACES = {"before": "Before", "after": "After"}
PLACE_HELP = (
    "After: the embedding is a unit vector when noise is added, and is made one again. Before: noise is added to what "
    "comes out of the encoder, whatever its length."
)
RANKED_BY = {name: score.removal for name, score in scores_in(REMOVAL).items()} | {RANDOM: "at random"}
REMOVED = 100  # the paper's best number


@dataclass(frozen=True)
class Knob:
    """A field of the config: a toggle, and a slider once it is on.

    `usual` is where its slider stands at first; `brings` are modifiers that are set with it when it is turned on.
    """

    name: str
    label: str
    help: str
    low: float
    high: float
    step: float
    usual: float
    brings: Mapping[str, Any] = field(default_factory=dict)

    def at_first(self, config: AuditConfig) -> float:
        """Return the usual value, or where the reference has that already, one further on."""
        return self.usual if self.usual != getattr(config, self.name) else min(self.high, self.usual + self.step)


def _knob(name: str, label: str = "", help: str = "") -> Knob:
    """Return the knob of a field that has a slider, with other words than the field's where some are given."""
    own = FIELDS[name]
    assert own.slider is not None
    return Knob(name, label or own.label, help or own.help, **vars(own.slider))


TEXT_NOISE = _knob(
    "text_noise",
    "Noise on text embeddings",
    "Gaussian noise on every caption's embedding while training. σ is its standard deviation in each number, so that "
    "σ·√dim is how long the noise is.",
)
IMAGE_NOISE = _knob(
    "image_noise",
    "Noise on image embeddings",
    "The same noise on the picture's embedding: a control for noise on the text.",
)
MASK = _knob("text_mask", "Masked words", "This share of a caption's words is left out, others each epoch.")
MIN_DF = _knob(
    "text_min_df",
    "Without rare words",
    "Tokens (words, or pieces of long ones) that fewer trained pairs than this have are never read, in training or "
    "after: a word of one caption names its picture, and says nothing of others.",
)
FORGET_DF = _knob(
    "text_forget_df",
    "Forget rare words",
    "Trained on every token, then never reading those again that fewer trained pairs than this have: at 1 only "
    "those that no pair has, which were never trained. Takes no training of its own. In checkpoint.pt what was learned "
    "stays until the rows of these tokens are deleted, and nothing here deletes them.",
)
CROPS = _knob(
    "crop_scale",
    "Crops of another strength",
    "The smallest share of a picture that a random crop may show: less is stronger, 1 shows whole pictures.",
)
COLOUR = _knob(
    "colour",
    "Changed colours",
    "Brightness, contrast and saturation of a picture change by up to this share, anew each time it is seen.",
)
DECAY = _knob(
    "weight_decay",
    "Another weight decay",
    "How strongly weights are pulled towards 0 at every step.",
)
LOGIT_FLOOR = _knob(
    "min_logit_scale",
    "Floor of the logit scale",
    "Holds the factor on similarities in the loss at or above this; it starts at 14. Smaller differences are enough "
    "then, so clipmem falls as it is in units of cosine: look at membership AUROC too.",
)
LOGIT_SCALE = _knob(
    "max_logit_scale",
    "Cap on the logit scale",
    "Holds the factor on similarities in the loss at or below this; it starts at 14, and 100 is CLIP's own cap.",
)
# Found while one model trains: nobody has to train twice to know whom to act on.
WHO = "A pair runs ahead when it is aligned better than most pairs that nobody trains on."
ADAPTIVE = (
    _knob("adaptive_noise", "Noise on their text", f"Noise on the text embedding. {WHO}"),
    _knob("adaptive_mask", "Masked words", f"This share of their words is left out. {WHO}"),
    _knob(
        "adaptive_rest",
        "Rest",
        f"They count this much less in the loss; at 1 they rest. {WHO}",
    ),
)
AHEAD = (
    _knob(
        "adaptive_quantile",
        "Ahead of this share of external pairs",
        "A pair runs ahead when it is aligned better than this share of the pairs that nobody trains on.",
    ),
    _knob("adaptive_every", "Epochs between two looks", "How often it is found anew who runs ahead."),
)

_WORDED = (TEXT_NOISE, IMAGE_NOISE, MASK, MIN_DF, FORGET_DF, CROPS, COLOUR, DECAY, LOGIT_FLOOR, LOGIT_SCALE)
_NAMED = {knob.name for knob in (*_WORDED, *ADAPTIVE, *AHEAD)}
FURTHER = tuple(_knob(name) for name, own in FIELDS.items() if own.slider and name not in _NAMED)


def early_stop(reference: Reference) -> Knob:
    """Return the knob of an early stop, at two thirds of the study's epochs at first."""
    epochs = reference.config.epochs
    text = f"Training ends after this epoch of {epochs}, with the learning rate as high as it is then."
    return Knob("stop_epoch", "Early stop", text, 1, max(2, epochs - 1), 1, max(1, round(epochs * 2 / 3)))


def caption_choices(reference: Reference) -> list[int]:
    """Return how many captions a pair may be trained on instead; 0 stands for all, and none where there is one."""
    usual = reference.config.train_captions
    counts = [*range(1, reference.captions + 1), ALL_CAPTIONS] if reference.captions > 1 else []
    return [count for count in counts if count != usual]
