"""Build and load open_clip models and heads on locked towers, and compute their embeddings.

open_clip takes two seconds to import: functions import it, so that heads do without.
"""

import copy
import functools
import json
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipmem_core.config import AuditConfig
from clipmem_core.dataset.remote import hub_answers, reason_of
from clipmem_core.errors import misfit
from clipmem_core.errors.misfit import HeldOut
from clipmem_core.features.towers import autocast
from clipmem_core.mitigations import can_cut_text
from clipmem_core.training import model_config, model_file
from clipmem_core.training.augmentation import (
    ActivationViews,
    FeatureViews,
    TrainingData,
    ViewMaker,
    Views,
)
from clipmem_core.utils.io import InputError
from clipmem_core.utils.ragged import Ragged

# an open_clip model; torch's Module does not declare the attributes of its towers
Model = Any

# above this length torch's fused attention kernel is faster than plain matrix products on a CPU
_SHORT = 128
UPPER = "upper"  # name of the unlocked blocks of a tower
TEXT_HEAD_WIDTH = 512  # of the hidden layer of a text head
# Features that mean and scale are computed from; of more, so many evenly spaced: the error of a
# mean is then below 1 % of the deviation
_MOST_STANDARD = 32_768
EVALUATION_BATCH = 256


def build_model(
    name: str,
    *,
    loss: str,
    seed: int,
    image_size: int = 0,
    pretrained: str = "",
    device: str = "cpu",
) -> Model:
    """Build an open_clip model.

    Args:
        name: one of ours, a name of open_clip's, or a JSON file.
        loss: "siglip" starts at logit scale 10 and bias -10, "clip" as open_clip.
        seed: initial weights are a function of it.
        image_size: pixels a side; 0: the model's own.
        pretrained: a checkpoint file, or a tag of open_clip's, to start from.
        device: "cpu" or "cuda".
    """
    import open_clip

    registered = _register(name)
    _ask_hub(name, pretrained)
    options = {}
    if loss == "siglip":
        options = {"init_logit_scale": math.log(10), "init_logit_bias": -10.0}
    start = f" from {pretrained!r}, which must be of this model and loss" if pretrained else ""
    with refusing(f"model {name!r} cannot be built{start}"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.create_model(
            registered,
            pretrained=pretrained or None,
            force_image_size=image_size or None,
            pretrained_text=False,
            device=device,
            output_dict=True,
            **options,
        )
    attention_block = open_clip.transformer.ResidualAttentionBlock
    for block in model.modules() if device == "cpu" else ():
        if isinstance(block, attention_block) and not hasattr(block, "ln_1_kv"):
            block.attention = functools.partial(short_attention, block.attn, block.attention)
    return model


def _ask_hub(name: str, pretrained: str = "") -> None:
    """Test whether the hub answers if weights, a text tower or a tokenizer come from there."""
    from_hub = {"hf_model_name", "hf_tokenizer_name"} & set(model_config(name)["text_cfg"])
    if from_hub or (pretrained and not Path(pretrained).is_file()):
        hub_answers()


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Make any error an input error: open_clip, torch, pickle and the hub each raise their own
    kinds."""
    try:
        yield
    except Exception as error:
        reason = reason_of(error)
        if isinstance(error, pickle.UnpicklingError):  # torch advises to run the code in the file
            reason = "it is no checkpoint, or holds more than weights"
        if isinstance(error, ModuleNotFoundError):  # optional, for towers and tokenizers of the hub
            reason = f"it needs a package: run `pip install {error.name}`"
        raise InputError(f"{what}: {reason}") from None


def load_weights(model: Model, checkpoint: Path) -> None:
    """Load the checkpoint of a member, weights only."""
    with refusing(f"checkpoint {str(checkpoint)!r} does not load"):
        model.load_state_dict(torch.load(checkpoint, "cpu", weights_only=True))


def short_attention(
    attn: nn.MultiheadAttention,
    fallback: Callable[..., Tensor],
    q_x: Tensor,
    k_x: Tensor | None = None,
    v_x: Tensor | None = None,
    attn_mask: Tensor | None = None,
) -> Tensor:
    """Attend over [batch, length, width] by matrix products: torch's CPU kernel is ten times as
    slow at length 37."""
    batch, length, width = q_x.shape
    if length > _SHORT or attn.in_proj_weight is None or not attn.batch_first:
        return fallback(q_x, k_x=k_x, v_x=v_x, attn_mask=attn_mask)
    head = width // attn.num_heads
    qkv = F.linear(q_x, attn.in_proj_weight, attn.in_proj_bias)
    qkv = qkv.view(batch, length, 3, attn.num_heads, head).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.reshape(3, batch * attn.num_heads, length, head)
    weights = torch.bmm(query * head**-0.5, key.transpose(1, 2))
    if attn_mask is not None:
        weights = weights + attn_mask.to(weights.dtype)
    mixed = torch.bmm(torch.softmax(weights, dim=-1), value)
    mixed = mixed.view(batch, attn.num_heads, length, head).transpose(1, 2)
    return attn.out_proj(mixed.reshape(batch, length, width))


def tokenize(name: str, captions: Sequence[str]) -> np.ndarray:
    """Return the tokens of captions.

    Special tokens that a caption spells are dropped: the text encoder pools at the first end token.

    Args:
        name: of the model.
        captions: n captions.

    Returns:
        int32 [n, context_length].
    """
    context = model_config(name)["text_cfg"].get("context_length", 77)
    tokenizer = open_tokenizer(name)
    if not is_byte_pair(tokenizer):
        return tokenizer(list(captions), context_length=context).numpy().astype(np.int32)
    special = set(tokenizer.all_special_ids)
    tokens = np.zeros((len(captions), context), dtype=np.int32)
    for row, caption in enumerate(captions):
        # Far more characters than `context` tokens can span; byte-pair encoding is quadratic in a
        # word's length.
        start = " ".join(caption.split())[: 64 * context]
        words = [token for token in tokenizer.encode(start) if token not in special][: context - 2]
        tokens[row, : len(words) + 2] = [tokenizer.sot_token_id, *words, tokenizer.eot_token_id]
    return tokens


def is_byte_pair(tokenizer: Any) -> bool:
    """Tell whether a tokenizer of open_clip's is that of CLIP."""
    return hasattr(tokenizer, "bpe_ranks")


def open_tokenizer(name: str) -> Any:
    """Return the tokenizer of a model."""
    import open_clip

    _ask_hub(name)
    with refusing(f"the tokenizer of model {name!r} is not available"):
        return open_clip.get_tokenizer(_register(name))


_registering = Lock()


def _register(name: str) -> str:
    """Let open_clip find a model by the stem of its file, and return the stem."""
    import open_clip

    stem = model_file(name).stem
    config = model_config(name)
    # open_clip reads all registered files again, also those that another thread deletes
    with _registering:
        if open_clip.get_model_config(stem) == config:
            return stem
        with TemporaryDirectory() as folder:  # a file may have the config in its `model_cfg`
            path = Path(folder, f"{stem}.json")
            path.write_text(json.dumps(config), encoding="utf-8")
            open_clip.add_model_config(path)
    return stem


def encode_text(model: Model, tokens: Tensor, *, cut: bool) -> Tensor:
    """Encode tokens [n, context_length] into unit vectors float32 [n, dim]; `cut` as in
    `text_outputs`."""
    return F.normalize(text_outputs(model, tokens, cut=cut), dim=-1)


def text_outputs(model: Model, tokens: Tensor, *, cut: bool) -> Tensor:
    """Encode captions, without normalisation.

    Args:
        model: an open_clip model, or one with locked towers.
        tokens: int64 [n, context_length], or features of a locked tower, float32 [n, width].
        cut: drop the columns after the longest caption, exact if `can_cut_text`.

    Returns:
        float32 [n, dim].
    """
    if not cut:
        return model.encode_text(tokens).float()
    from open_clip.transformer import text_global_pool

    length = int((tokens != 0).any(dim=0).nonzero().max()) + 1
    tokens = tokens[:, :length]
    cast = model.transformer.get_cast_dtype()
    x = model.token_embedding(tokens).to(cast) + model.positional_embedding[:length].to(cast)
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    x = text_global_pool(
        x, tokens, model.text_pool_type, eos_token_id=getattr(model, "text_eos_id", None)
    )
    projection = model.text_projection
    if projection is not None:
        x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
    return x.float()


def text_input(tokens: np.ndarray) -> Tensor:
    """Return the input of a text tower: tokens as int64, or features as float32, [n, …]."""
    return torch.from_numpy(tokens).to(torch.int64 if tokens.dtype.kind == "i" else torch.float32)


def encode_image(model: Model, images: Tensor) -> Tensor:
    """Encode images float [n, 3, size, size] into unit vectors float32 [n, dim]."""
    return F.normalize(model.encode_image(images).float(), dim=-1)


class Standard(nn.Module):
    """Standardise features: mean 0 in each dimension, mean square 1 over all; not trained."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """Standardise features [n, width]."""
        return torch.add(-self.mean / self.scale, features, alpha=1 / float(self.scale))

    @classmethod
    @torch.no_grad()
    def of(cls, features: np.ndarray) -> "Standard":
        """Fit mean and scale to features [n, width], which may be a memory map."""
        sample = features[:: -(-len(features) // _MOST_STANDARD)].astype(np.float64)
        standard = cls(features.shape[1])
        standard.mean.copy_(torch.from_numpy(sample.mean(axis=0)))
        standard.scale.fill_(sample.var(axis=0).mean() ** 0.5 or 1.0)
        return standard


class LockedModel(nn.Module):
    """A CLIP model with one or both towers locked: heads, named as in open_clip, read features [n,
    width]."""

    def __init__(self, visual: nn.Module, text: nn.Module, *, loss: str) -> None:
        super().__init__()
        self.visual = visual
        self.text = text
        siglip = loss == "siglip"
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10 if siglip else 1 / 0.07)))
        # open_clip.load_checkpoint reads this attribute of any model.
        self.logit_bias = nn.Parameter(torch.tensor(-10.0)) if siglip else None

    def encode_image(self, image: Tensor) -> Tensor:
        """Embed a batch of pictures, [n, dim]."""
        return self.visual(image)

    def encode_text(self, text: Tensor) -> Tensor:
        """Embed a batch of captions, [n, dim]."""
        return self.text(text)


def locked_model(
    image_width: int,
    text_width: int,
    *,
    dim: int,
    loss: str,
    seed: int,
    full_model: Model = None,
    uppers: Sequence[nn.Module | None] = (None, None),
) -> LockedModel:
    """Build a model with locked towers.

    Args:
        image_width, text_width: of features; 0 for a trained tower, which `full_model` has.
        dim: of embeddings.
        loss: "clip" or "siglip".
        seed: the initial weights of heads are a function of it.
        full_model: an open_clip model, if one tower is trained.
        uppers: the unlocked blocks of both towers, below the heads; None: all are locked.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if image_width:  # one linear map, named as in open_clip's timm towers
            proj = nn.Linear(image_width, dim, bias=False)
            head = nn.Sequential(OrderedDict(proj=proj))
            visual = _on_standard(image_width, uppers[0], head=head)
        else:
            visual = full_model.visual
        if text_width:  # two linear maps, named as in open_clip's Hugging Face towers
            layers = (
                nn.Linear(text_width, TEXT_HEAD_WIDTH, bias=False),
                nn.GELU(),
                nn.Linear(TEXT_HEAD_WIDTH, dim, bias=False),
            )
            text: nn.Module = _on_standard(text_width, uppers[1], proj=nn.Sequential(*layers))
        else:
            text = _TextTower(full_model)
    return LockedModel(visual, text, loss=loss)


def _on_standard(width: int, upper: nn.Module | None, **head: nn.Module) -> nn.Sequential:
    """Return a head on standardised features, under its name, and the unlocked blocks below."""
    below = {} if upper is None else {UPPER: copy.deepcopy(upper)}
    return nn.Sequential(OrderedDict(**below, standard=Standard(width), **head))


class _TextTower(nn.Module):
    """The text tower of an open_clip model."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        model.visual = None

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)


def set_standards(model: Model, standards: Mapping[str, Standard]) -> None:
    """Let heads standardise features by the mean and deviation over all pairs, by tower."""
    for tower, standard in standards.items():
        head = model.visual if tower == "image" else model.text
        head.standard.load_state_dict(standard.state_dict())


def feature_views(
    model: Model, seed: int, crop_scale: float = 1.0
) -> FeatureViews | ActivationViews:
    """Return a member's views of image features, or crops of activations."""
    upper = getattr(model.visual, UPPER, None)
    if upper is None:
        return FeatureViews(model.visual.standard.mean, seed)
    crops = ViewMaker(upper.side, crop_scale, mean=(), std=(), seed=seed)
    return ActivationViews(upper.width, crops)


def evaluation_batches(rows: np.ndarray) -> list[np.ndarray]:
    """Return rows in batches of at most `EVALUATION_BATCH`."""
    return np.split(rows, range(EVALUATION_BATCH, len(rows), EVALUATION_BATCH))


def image_blocks(
    model: Model, data: TrainingData, views: Views, config: AuditConfig, *, n_views: int
) -> Iterator[np.ndarray]:
    """Embed views of every picture.

    Args:
        model: encodes pictures.
        data: all pairs.
        views: draws the views.
        config: precision and device.
        n_views: of a picture.

    Yields:
        The mean unit vectors of a batch of pictures, float32 [n, dim].
    """
    model.eval()
    for rows in evaluation_batches(np.arange(len(data.keys))):
        pixels = data.pixels.gather(rows)
        encoded = []
        with torch.inference_mode():
            for view in range(n_views):
                images = views.evaluation_images(pixels, data.keys[rows], view, config.device)
                with autocast(config.precision, config.device):
                    encoded.append(encode_image(model, images))
            mean = torch.stack(encoded).mean(dim=0)
        yield mean.cpu().numpy()


@torch.inference_mode()
def text_embeddings(model: Model, tokens: np.ndarray, config: AuditConfig) -> np.ndarray:
    """Embed tokens [n, context_length], or features [n, width], into unit vectors, float32 [n,
    dim]; similar lengths share a batch."""
    model.eval()
    cut = can_cut_text(model)
    lengths = (tokens != 0).sum(axis=1) if tokens.dtype.kind == "i" else np.zeros(len(tokens))
    order = np.argsort(lengths, kind="stable")
    blocks = []
    for rows in evaluation_batches(order):
        with autocast(config.precision, config.device):
            vectors = encode_text(model, text_input(tokens[rows]).to(config.device), cut=cut)
        blocks.append(vectors.cpu().numpy())
    return np.concatenate(blocks)[np.argsort(order)]


def caption_blocks(
    model: Model, data: TrainingData, config: AuditConfig
) -> Iterator[tuple[Ragged, np.ndarray]]:
    """Yield the captions of each pair of a block, and their embeddings, float32 [n, dim]: features
    a batch of pairs at a time, tokens all at once, so that captions of similar length share a
    batch."""
    captions = data.captions
    at_once = len(captions) if data.tokens.dtype.kind == "i" else EVALUATION_BATCH
    for row in range(0, len(captions), at_once):
        part, at = captions.part(row, row + at_once)
        yield part, text_embeddings(model, data.tokens[at : at + part.n_items], config)


def score_captions(
    blocks: Iterable[tuple[Ragged, np.ndarray]],
    image: np.ndarray,
    owner: np.ndarray,
    beside: HeldOut,
    decoys: np.ndarray,
    scores: np.ndarray,
) -> Iterator[tuple[Ragged, np.ndarray]]:
    """Yield blocks of captions, and write similarity and margin of each, and below them of each
    decoy, into `scores`.

    Args:
        blocks: as of `caption_blocks`.
        image: embeddings of pictures, [n_pairs, dim].
        owner: each caption's pair, [n_captions].
        beside: held-out pairs; their texts are not used.
        decoys: `DECOY` [n_decoys], ascending by caption.
        scores: `CAPTION_SCORES` [n_captions + n_decoys].
    """
    done = 0
    for part, vectors in blocks:
        rows, similarity, margin = misfit.caption_scores(
            vectors, done, owner, decoys, image, beside
        )
        scores["similarity"][rows] = similarity
        scores["margin"][rows] = margin
        done += len(vectors)
        yield part, vectors
