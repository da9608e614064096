"""Build and load open_clip models and heads on locked towers, and compute their embeddings.

open_clip takes two seconds to import: functions import it, so that heads do without.
"""

import copy
import functools
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from clipmem_core.dataset.readers.remote import hub_answers, reason_of
from clipmem_core.features.towers import autocast
from clipmem_core.mitigations import can_cut_text
from clipmem_core.training.augmentation import TrainingData, Views
from clipmem_core.training.names import model_config, model_file
from clipmem_core.utils.io import InputError

# an open_clip model; torch's Module does not declare the attributes of its towers
Model = Any

# above this length torch's fused attention kernel is faster than plain matrix products on a CPU
_SHORT = 128
UPPER = "upper"  # name of the unlocked blocks of a tower
TEXT_HEAD_WIDTH = 512  # of the hidden layer of a text head
_FEATURES_AT_ONCE = 65_536
# Features that mean and scale are computed from; of more, blocks evenly spaced
_MOST_STANDARD = 2_000_000
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


def logit_scale_of(checkpoint: Path) -> float:
    """Return the factor on cosines in the loss, read from a member's checkpoint."""
    with refusing(f"checkpoint {str(checkpoint)!r} does not load"):
        state = torch.load(checkpoint, "cpu", weights_only=True)
    return float(state["logit_scale"].float().exp())


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
    from open_clip.tokenizer import SimpleTokenizer

    context = model_config(name)["text_cfg"].get("context_length", 77)
    tokenizer = open_tokenizer(name)
    if type(tokenizer) is not SimpleTokenizer:
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


def open_tokenizer(name: str) -> Any:
    """Return the tokenizer of a model."""
    import open_clip

    _ask_hub(name)
    with refusing(f"the tokenizer of model {name!r} is not available"):
        return open_clip.get_tokenizer(_register(name))


def _register(name: str) -> str:
    from open_clip import factory

    # open_clip.add_model_config ignores a config inside `model_cfg`.
    stem = model_file(name).stem
    factory._MODEL_CONFIGS[stem] = model_config(name)
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
        step = _FEATURES_AT_ONCE * -(-len(features) // _MOST_STANDARD)
        scaler = StandardScaler()
        for start in range(0, len(features), step):
            block = features[start : start + _FEATURES_AT_ONCE]
            scaler.partial_fit(block.astype(np.float64))
        standard = cls(features.shape[1])
        standard.mean.copy_(torch.from_numpy(scaler.mean_))
        standard.scale.fill_(scaler.var_.mean() ** 0.5 or 1.0)
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
    below = [{} if upper is None else {UPPER: copy.deepcopy(upper)} for upper in uppers]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if image_width:  # one linear map, named as in open_clip's timm towers
            proj = nn.Linear(image_width, dim, bias=False)
            head = nn.Sequential(OrderedDict(proj=proj))
            visual = _on_standard(image_width, below[0], head=head)
        else:
            visual = full_model.visual
        if text_width:  # two linear maps, named as in open_clip's Hugging Face towers
            layers = (
                nn.Linear(text_width, TEXT_HEAD_WIDTH, bias=False),
                nn.GELU(),
                nn.Linear(TEXT_HEAD_WIDTH, dim, bias=False),
            )
            text: nn.Module = _on_standard(text_width, below[1], proj=nn.Sequential(*layers))
        else:
            text = _TextTower(full_model)
    return LockedModel(visual, text, loss=loss)


def _on_standard(width: int, below: dict[str, nn.Module], **head: nn.Module) -> nn.Sequential:
    """Return a head on standardised features, under its name, and the unlocked blocks below."""
    return nn.Sequential(OrderedDict(**below, standard=Standard(width), **head))


class _TextTower(nn.Module):
    """The text tower of an open_clip model."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        model.visual = None

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)


def evaluation_batches(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield rows in batches of at most `EVALUATION_BATCH`."""
    for start in range(0, len(rows), EVALUATION_BATCH):
        yield rows[start : start + EVALUATION_BATCH]


def image_blocks(
    model: Model, data: TrainingData, views: Views, *, n_views: int, precision: str, device: str
) -> Iterator[np.ndarray]:
    """Embed views of every picture.

    Args:
        model: encodes pictures.
        data: all pairs.
        views: draws the views.
        n_views: of a picture.
        precision: "fp32" or "amp_bf16".
        device: "cpu" or "cuda".

    Yields:
        The mean unit vectors of a batch of pictures, float32 [n, dim].
    """
    model.eval()
    for rows in evaluation_batches(np.arange(len(data.keys))):
        pixels = data.pixels.gather(rows)
        encoded = []
        with torch.inference_mode():
            for view in range(n_views):
                images = views.evaluation_images(pixels, data.keys[rows], view, device)
                with autocast(precision, device):
                    encoded.append(encode_image(model, images))
            mean = torch.stack(encoded).mean(dim=0)
        yield mean.cpu().numpy()


@torch.inference_mode()
def text_embeddings(model: Model, tokens: np.ndarray, *, precision: str, device: str) -> np.ndarray:
    """Embed tokens [n, context_length] into unit vectors, float32 [n, dim]; similar lengths share a
    batch."""
    model.eval()
    cut = can_cut_text(model)
    lengths = (tokens != 0).sum(axis=1) if tokens.dtype.kind == "i" else np.zeros(len(tokens))
    order = np.argsort(lengths, kind="stable")
    blocks = []
    for rows in evaluation_batches(order):
        with autocast(precision, device):
            vectors = encode_text(model, text_input(tokens[rows]).to(device), cut=cut)
        blocks.append(vectors.cpu().numpy())
    return np.concatenate(blocks)[np.argsort(order)]
