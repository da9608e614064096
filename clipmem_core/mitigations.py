"""Mitigations of memorization: each is a class with its settings, its hooks and its state.

To add one, write a class here and add it to the bases of `MitigationConfig`. The audit config
inherits its settings from there, and the command line, the Mitigations page, study settings and
result columns list them. With its defaults a mitigation changes nothing. All draws are functions
of seed, epoch and pair, so that a resumed run draws the same.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, dataclass_transform

import numpy as np

from clipmem_core.utils.draws import normals, uniforms
from clipmem_core.utils.io import InputError
from clipmem_core.utils.options import Slider, control, option
from clipmem_core.utils.ragged import Ragged

if TYPE_CHECKING:  # the config imports this module, and few of its readers need torch
    from torch import Tensor

EARLY_GROUP = "Only for pairs memorized early"
ADAPTIVE = ("adaptive_noise", "adaptive_mask", "adaptive_rest")


@dataclass(frozen=True, eq=False)
class Batch:
    """The pairs of a training step, with seed and epoch of their random draws."""

    rows: np.ndarray  # int64 [n], of the pair table
    keys: np.ndarray  # uint64 [n]
    epoch: int
    seed: int
    model: Mapping[str, Any] = field(default_factory=dict)  # its open_clip configuration
    # by setting, the smallest value that it has for each pair, [n]
    at_least: dict[str, np.ndarray] = field(default_factory=dict)


class Training(Protocol):
    """What mitigations read of the training of a member."""

    device: str
    n_pairs: int
    n_held_out: int

    def held_out_alignment(self, epoch: int) -> tuple[np.ndarray, "Tensor"]:
        """Return the alignment of each held-out pair, and the means of their embeddings."""


class Mitigation:
    """A mitigation with its settings; a training calls its hooks in the order below.

    Embeddings are the encoders' outputs before they are normalised, float32 [n, dim].
    """

    @functools.cached_property
    def state(self) -> dict[str, Any]:
        """Tensors and numbers that hooks remember; a resumed training restores them."""
        return {}

    def start(self, trainer: Training) -> None:
        """Fill the state before the first step."""

    def before_epoch(self, trainer: Training, epoch: int) -> None:
        """Measure the model, or change it, before an epoch."""

    def before_step(self, batch: Batch) -> None:
        """Raise settings of mitigations for some pairs, in `batch.at_least`."""

    def images(self, images: "Tensor", batch: Batch) -> "Tensor":
        """Change the training views of a batch, float32 [n, 3, size, size], 0 … 255."""
        return images

    def tokens(self, tokens: np.ndarray, batch: Batch) -> np.ndarray:
        """Change the captions of a batch, int32 [n, context_length], or the activations of their
        tokens where the tower is cut, [n, positions, width]."""
        return tokens

    def weight(self, batch: Batch) -> np.ndarray:
        """Return the weight of each pair in the loss, [n]."""
        return np.ones(len(batch.keys))

    def embeddings(
        self, image: "Tensor", text: "Tensor", batch: Batch
    ) -> tuple["Tensor", "Tensor"]:
        """Change the embeddings for the loss; return the same object if unchanged."""
        return image, text

    def after_step(self, model: Any) -> None:
        """Change the model's weights after a step of the optimizer."""

    def strength(self, name: str, batch: Batch) -> np.ndarray:
        """Return a setting's value for each pair of a batch, [n]."""
        return np.maximum(getattr(self, name), batch.at_least.get(name, np.zeros(len(batch.keys))))


MITIGATIONS: list[type[Mitigation]] = []  # in the order in which they act
Registered = TypeVar("Registered", bound=type[Mitigation])


@dataclass_transform(frozen_default=True)
def mitigation(
    *, group: str, trained: str = "", on_input: bool = False
) -> Callable[[Registered], Registered]:
    """Register a mitigation of a group on the Mitigations page, which needs the encoder `trained`
    (image, text or none) to be trained, from its input on with `on_input`."""

    def register(kind: Registered) -> Registered:
        dataclass(frozen=True, eq=False)(kind)
        for item in fields(kind):  # type: ignore[arg-type]  # made a dataclass above
            plain = item.metadata["facts"]
            facts = replace(
                plain,
                trained=plain.trained or trained,
                group=plain.group or group,
                mitigates=not plain.modifies,
                on_input=on_input,
            )
            item.metadata = {**item.metadata, "facts": facts}  # type: ignore[assignment]
        MITIGATIONS.append(kind)
        return kind

    return register


def mitigations_of(config: "MitigationConfig") -> list[Mitigation]:
    """Return every mitigation with the settings of an audit config."""
    made = []
    for kind in MITIGATIONS:
        names = [item.name for item in fields(kind)]  # type: ignore[arg-type]
        made.append(kind(**{name: getattr(config, name) for name in names}))
    return made


@mitigation(group=EARLY_GROUP)
class Adaptive(Mitigation):
    """Noise on text, masked words and a lower weight for pairs memorized early only.

    Every few epochs the held-out pairs are embedded, one view and one caption each; the level is a
    quantile of their alignments. A pair is memorized early if its alignment was above the level in
    its last training step. It acts first: the alignment is that of the encoders' own outputs.
    """

    adaptive_noise: float = option(
        0.0,
        "noise on the text of pairs memorized early only, those aligned better than most "
        "held-out pairs",
        ge=0,
        **control("early", "Noise on text", Slider(0.01, 0.5, 0.01, 0.15)),
    )
    adaptive_mask: float = option(
        0.0,
        "share of words dropped for pairs memorized early only, those aligned better than most "
        "held-out pairs",
        trained="text",
        ge=0,
        lt=1,
        **control("early", "Masked words", Slider(0.05, 0.95, 0.05, 0.6)),
    )
    adaptive_rest: float = option(
        0.0,
        "how much less pairs memorized early (aligned better than most held-out pairs) count in "
        "the loss, up to 1",
        ge=0,
        le=1,
        # With the median as the level, half of the pairs that are not memorized at all would weigh
        # less too.
        **control(
            "early",
            "Lower weight",
            Slider(0.05, 1.0, 0.05, 1.0, brings={"adaptive_quantile": 0.95}),
        ),
    )
    adaptive_quantile: float = option(
        0.5,
        "a pair is memorized early if its alignment is above this quantile of the held-out pairs'",
        gt=0,
        lt=1,
        modifies=ADAPTIVE,
        part="early",
        slider=Slider(0.05, 0.99, 0.01, 0.5),
    )
    adaptive_every: int = option(
        2,
        "epochs between two measurements of the held-out pairs",
        ge=1,
        modifies=ADAPTIVE,
        part="early",
        slider=Slider(1, 10, 1, 2),
    )

    def start(self, trainer: Training) -> None:
        import torch

        self.state["early"] = torch.zeros(trainer.n_pairs, dtype=torch.bool, device=trainer.device)
        self.state["level"] = math.inf  # no pair is above it before the first measurement

    def before_epoch(self, trainer: Training, epoch: int) -> None:
        is_on = any(getattr(self, name) for name in ADAPTIVE)
        is_due = epoch and epoch % self.adaptive_every == 0
        if is_on and is_due and trainer.n_held_out > 1:
            alignment, self.state["means"] = trainer.held_out_alignment(epoch)
            self.state["level"] = float(np.quantile(alignment, self.adaptive_quantile))

    def before_step(self, batch: Batch) -> None:
        early = self.state["early"][batch.rows].cpu().numpy()
        for name, value in (("text_noise", self.adaptive_noise), ("text_mask", self.adaptive_mask)):
            if value:
                batch.at_least[name] = value * early

    def weight(self, batch: Batch) -> np.ndarray:
        return 1 - self.adaptive_rest * self.state["early"][batch.rows].cpu().numpy()

    def embeddings(
        self, image: "Tensor", text: "Tensor", batch: Batch
    ) -> tuple["Tensor", "Tensor"]:
        if not math.isinf(self.state["level"]):
            own_image, own_text = (
                each.detach() / each.detach().norm(dim=1, keepdim=True) for each in (image, text)
            )
            image_mean, text_mean = self.state["means"]
            alignment = (
                (own_image * own_text).sum(dim=1) - own_image @ text_mean - own_text @ image_mean
            )
            self.state["early"][batch.rows] = alignment > self.state["level"]
        return image, text


@mitigation(group="Text")
class EmbeddingNoise(Mitigation):
    """Gaussian noise on the embeddings that the loss is computed on.

    Each number gets independent noise of standard deviation σ, so a pair's noise has length σ·√dim:
    at σ = 0.15 it is
    1.7 for 128 numbers and 3.4 for the 512 of a ViT-B, compared with a unit vector's 1. The paper
    does not say where its noise is added: to the normalised embedding, which is normalised again
    (`after`), or to the encoder's output (`before`), in whose units σ then is.
    """

    text_noise: float = option(
        0.0,
        "standard deviation of Gaussian noise on each number of a text embedding in training; it "
        "is SD·√dim long",
        ge=0,
        **control("noise", "Noise on text embeddings", Slider(0.01, 0.5, 0.01, 0.15)),
    )
    image_noise: float = option(
        0.0,
        "the same noise on image embeddings, for comparison",
        ge=0,
        group="Pictures",
        **control("noise", "Noise on image embeddings", Slider(0.01, 0.5, 0.01, 0.15)),
    )
    noise_place: str = option(
        "after",
        "before | after an embedding is normalised (after: it is normalised again)",
        choices=("before", "after"),
        modifies=("text_noise", "image_noise", "adaptive_noise"),
        part="noise",
    )

    def embeddings(
        self, image: "Tensor", text: "Tensor", batch: Batch
    ) -> tuple["Tensor", "Tensor"]:
        return self.noisy(image, "image_noise", batch), self.noisy(text, "text_noise", batch)

    def noisy(self, features: "Tensor", setting: str, batch: Batch) -> "Tensor":
        """Add noise of a setting's σ to embeddings [n, dim]; its random stream has its name."""
        strength = self.strength(setting, batch)
        if not strength.any():
            return features
        stream = setting.replace("_", " ")
        drawn = normals(batch.keys, features.shape[1], batch.seed, stream, batch.epoch)
        if self.noise_place == "after":
            features = features / features.norm(dim=1, keepdim=True)
        return features + features.new_tensor(drawn * strength.astype(np.float32)[:, None])


@mitigation(group="Text", trained="text")
class TextMask(Mitigation):
    """Drops a share of a caption's words (Déjà Vu Memorization in VLMs, 2024); later words move
    up."""

    text_mask: float = option(
        0.0,
        "share of a caption's words dropped in training, drawn each epoch",
        ge=0,
        lt=1,
        **control("words", "Masked words", Slider(0.05, 0.9, 0.05, 0.3)),
    )

    def tokens(self, tokens: np.ndarray, batch: Batch) -> np.ndarray:
        if not self.text_mask and "text_mask" not in batch.at_least:
            return tokens
        draws = uniforms(batch.keys, tokens.shape[1], batch.seed, "mask", batch.epoch)
        if tokens.ndim == 3:
            ends = tokens.any(axis=2).sum(axis=1) - 1
        else:
            ends = caption_ends(batch.model, tokens)
        return drop_words(tokens, ends, self.strength("text_mask", batch), draws)


def drop_words(
    tokens: np.ndarray, ends: np.ndarray, share: np.ndarray, draws: np.ndarray
) -> np.ndarray:
    """Drop a share of each caption's words; start token, end token and at least one word stay.

    Of n words share · n are dropped, rounded up or down at random: the share holds on average in
    short captions too.

    Args:
        tokens: start token, words, end token, then zeros, [n, context_length].
        ends: position of the end token, [n].
        share: of each caption's words that are dropped, in [0, 1), [n].
        draws: uniform in [0, 1), [n, context_length]; the first column decides the rounding.
    """
    words = between_ends(tokens, ends)
    counts = ends - 1
    wanted = np.floor(share * counts + draws[:, 0]).astype(np.int64)
    n_dropped = np.minimum(wanted, np.maximum(counts - 1, 0))
    rank = np.where(words, draws, 2.0).argsort(axis=1, kind="stable").argsort(axis=1)
    return drop_tokens(tokens, words & (rank < n_dropped[:, None]))


@mitigation(group="Text", trained="text", on_input=True)
class RareTokens(Mitigation):
    """Drops tokens that few training pairs have, in training and evaluation; see `Vocabulary`.

    A token of a single caption identifies that pair, so learning it is memorization. `min_df` is
    scikit-learn's: the number of documents, here training pairs, that must contain a token.
    """

    text_min_df: int = option(
        0,
        "tokens (words, or pieces of long ones) of fewer training pairs than this are never read, "
        "in training or after: a word of a single caption identifies its picture",
        ge=0,
        **control("vocabulary", "Without rare words", Slider(1, 100, 1, 10)),
    )


@mitigation(group="Pictures", trained="image", on_input=True)
class Colour(Mitigation):
    """Changes brightness, contrast, then saturation, with torchvision's formulas and factors for
    each picture."""

    colour: float = option(
        0.0,
        "brightness, contrast and saturation of a picture change by up to this share each time "
        "it is seen",
        ge=0,
        le=1,
        **control("pictures", "Changed colours", Slider(0.05, 1.0, 0.05, 0.4)),
    )

    def images(self, images: "Tensor", batch: Batch) -> "Tensor":
        if not self.colour:
            return images
        draws = uniforms(batch.keys, 3, batch.seed, "colour", batch.epoch)
        return jitter(images, 1 + self.colour * (2 * draws - 1))


def jitter(images: "Tensor", factors: np.ndarray) -> "Tensor":
    """Multiply brightness, then contrast, then saturation of images [n, 3, size, size], 0 … 255, by
    factors [n, 3]."""
    weights = images.new_tensor((0.2989, 0.587, 0.114))  # as in torchvision

    def grey(images: "Tensor") -> "Tensor":
        return (images * weights.view(1, 3, 1, 1)).sum(dim=1, keepdim=True)

    def blend(images: "Tensor", plain: "Tensor", factor: "Tensor") -> "Tensor":
        weight = factor.view(-1, 1, 1, 1)
        return (weight * images + (1 - weight) * plain).clamp(0, 255)

    brightness, contrast, saturation = images.new_tensor(factors.T)
    bright = blend(images, 0 * images, brightness)
    contrasted = blend(bright, grey(bright).mean(dim=(1, 2, 3), keepdim=True), contrast)
    return blend(contrasted, grey(contrasted), saturation)


@mitigation(group="Training")
class LogitScale(Mitigation):
    """Clamps the logit scale after each step, by default to CLIP's 1 … 100."""

    min_logit_scale: float = option(
        1.0,
        "smallest logit scale, the factor on similarities in the loss; it starts at 14. A high one "
        "lowers clipmem by its units alone: compare membership AUROC too",
        ge=1,
        must_match="floor of the logit scale",
        **control("logit scale", "Floor of the logit scale", Slider(1.0, 100.0, 1.0, 30.0)),
    )
    max_logit_scale: float = option(
        100.0,
        "largest logit scale; it starts at 14, and 100 is CLIP's cap",
        ge=1,
        must_match="cap on the logit scale",
        **control("logit scale", "Cap on the logit scale", Slider(1.0, 100.0, 1.0, 30.0)),
    )

    def after_step(self, model: Any) -> None:
        model.logit_scale.data.clamp_(
            math.log(self.min_logit_scale), math.log(self.max_logit_scale)
        )


@mitigation(group="Training")
class EarlyStop(Mitigation):
    """Ends training early; see `AuditConfig.trained_epochs`."""

    stop_epoch: int = option(
        0,
        "training ends after this epoch, in the middle of the learning-rate schedule; 0 means "
        "the last",
        ge=0,
        off_at="epochs",
        **control("length", "Early stop"),
    )


@dataclass(frozen=True)
class MitigationConfig(
    Adaptive, EarlyStop, LogitScale, Colour, RareTokens, TextMask, EmbeddingNoise
):
    """The settings of all mitigations, the last one first."""


def can_cut_text(model: Any) -> bool:
    """Tell whether text may be cut to the batch's longest caption: causal tower that pools at the
    end token."""
    causal = hasattr(model, "transformer") and getattr(model, "attn_mask", None) is not None
    return causal and getattr(model, "text_pool_type", "") in ("argmax", "eos")


def between_ends(tokens: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return which tokens lie between start and end token, bool [n, context_length]; `ends` as of
    `caption_ends`."""
    position = np.arange(tokens.shape[1])
    return (position > 0) & (position < ends[:, None])


def drop_tokens(tokens: np.ndarray, dropped: np.ndarray) -> np.ndarray:
    """Drop tokens, [n, context_length] or [n, context_length, width]; later ones move up, and zeros
    fill the end."""
    order = dropped.argsort(axis=1, kind="stable")
    remaining = np.arange(tokens.shape[1]) < tokens.shape[1] - dropped.sum(axis=1)[:, None]
    if tokens.ndim == 3:
        order, remaining = order[:, :, None], remaining[:, :, None]
    return np.where(remaining, np.take_along_axis(tokens, order, axis=1), 0).astype(tokens.dtype)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens that a member reads."""

    model: Mapping[str, Any]  # its open_clip configuration
    pairs: np.ndarray  # number of training pairs of each token, int64 [vocab_size]
    min_df: int

    def read(self, tokens: np.ndarray) -> np.ndarray:
        """Remove rare tokens, [n, context_length]: later ones move up, and a caption keeps its most
        common one."""
        words = between_ends(tokens, caption_ends(self.model, tokens))
        counts = np.where(words, self.pairs[tokens], -1)
        removed = words & (counts < self.min_df)
        emptied = np.flatnonzero(words.any(axis=1) & (removed == words).all(axis=1))
        removed[emptied, counts[emptied].argmax(axis=1)] = False
        return drop_tokens(tokens, removed)


def pairs_with(
    model: Mapping[str, Any], tokens: np.ndarray, captions: Ragged, rows: np.ndarray, *, first: int
) -> np.ndarray:
    """Count the training pairs of each token, int64 [vocab_size].

    Args:
        model: an open_clip configuration.
        tokens, captions: as in `TrainingData`.
        rows: the training pairs, int64 [n_trained].
        first: captions of a pair that are read; 0: all.
    """
    pair = captions.owner
    trained = np.isin(pair, rows) & (captions.number < (first or len(tokens)))
    words = between_ends(tokens, caption_ends(model, tokens))
    caption, position = np.nonzero(words & trained[:, None])
    size = model["text_cfg"]["vocab_size"]
    pair_and_token = np.unique(pair[caption] * size + tokens[caption, position])
    return np.bincount(pair_and_token % size, minlength=size)


def caption_ends(model: Mapping[str, Any], tokens: np.ndarray) -> np.ndarray:
    """Return the position of each caption's end token, int64 [n_captions].

    Args:
        model: an open_clip configuration; its text encoder must pool at the end token.
        tokens: int32 [n_captions, context_length].
    """
    text = model["text_cfg"]
    pool = text.get("pool_type", "argmax")
    other = ("hf_model_name", "no_causal_mask", "embed_cls")
    if model.get("custom_text") or any(map(text.get, other)) or pool not in ("argmax", "eos"):
        raise InputError(
            "--text-min-df, --text-mask and --adaptive-mask need a text encoder that reads up to "
            "an end token, as that of --model small does"
        )
    highest = pool == "argmax"
    return (tokens if highest else tokens == text.get("eos_id", 2)).argmax(axis=1)
