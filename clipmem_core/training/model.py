"""Models: open_clip models and heads on locked towers, how they are built and loaded, and the embeddings they give."""

import functools
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import open_clip
import torch
from open_clip import factory
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import ResidualAttentionBlock, text_global_pool
from torch import Tensor, nn
from torch.nn import functional as F

from clipmem_core.config import InputError
from clipmem_core.mitigations import can_cut_text
from clipmem_core.pairs.readers.remote import hub_answers
from clipmem_core.training.names import model_config, model_file
from clipmem_core.training.views import TrainingData, Views

# An open_clip model: its towers are reached by attributes that torch's Module does not declare.
Model: TypeAlias = Any

# Above this length the fused attention kernel of torch wins over plain matrix products on a CPU.
SHORT = 128

HIDDEN = 512  # width of the hidden layer of a text head
BLOCK = 65_536  # features that are read at a time
MOST_STANDARD = 2_000_000  # features that mean and scale are taken from; of more, blocks evenly spaced


def build_model(
    name: str, *, loss: str, seed: int, image_size: int = 0, pretrained: str = "", device: str = "cpu"
) -> Model:
    """Build an open_clip model whose initial weights are a function of the seed.

    Args:
        name: one of ours, of open_clip's, or a JSON model config.
        loss: "clip", or "siglip", which starts at logit scale 10 and bias -10.
        seed: of the initial weights.
        image_size: pixels; 0 keeps the model's own.
        pretrained: a checkpoint file, or a tag of open_clip's, to start from.

    Raises:
        InputError: the config is wrong, the weights or the tower need a network, or the checkpoint does not fit.
    """
    registered = _registered(name)
    _ask_hub(name, pretrained)
    options = {"init_logit_scale": math.log(10), "init_logit_bias": -10.0} if loss == "siglip" else {}
    try:
        with torch.random.fork_rng(devices=[]):
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
    except Exception as error:  # config classes, towers, torch and pickle each raise their own kinds
        start = f" from {pretrained!r}, which must be of this model and loss" if pretrained else ""
        raise InputError(f"model {name!r} cannot be built{start}: {one_line(error)}") from None
    if device == "cpu":
        use_short_attention(model)
    return model


def _ask_hub(name: str, pretrained: str = "") -> None:
    """Find out at once whether the hub answers where weights, a text tower or a tokenizer are to come from there."""
    of_hub = {"hf_model_name", "hf_tokenizer_name"} & set(model_config(name)["text_cfg"])
    if of_hub or (pretrained and not Path(pretrained).is_file()):
        hub_answers()


def one_line(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's own words tell people to run the code in the file
        return "it is no checkpoint, or holds more than weights"
    if isinstance(error, ModuleNotFoundError):  # towers and tokenizers of the hub, which few need
        return f"it needs a package: run `pip install {error.name}`"
    return " ".join(str(error).split())[:300] or type(error).__name__


def load_weights(model: Model, checkpoint: Path) -> None:
    """Load an open_clip checkpoint (`epoch_N.pt` or a bare state dict, with or without `module.`), weights only.

    Raises:
        InputError: not a checkpoint, one of another model, or one whose training broke.
    """
    try:
        open_clip.load_checkpoint(model, str(checkpoint), weights_only=True)
    except Exception as error:  # torch, pickle and zip each raise their own kinds
        raise InputError(
            f"checkpoint {str(checkpoint)!r} does not load ({one_line(error)}): give one of this model and loss"
        ) from None
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"checkpoint {str(checkpoint)!r} holds NaN or infinity in {name}: give an earlier one")


def logit_scale_of(checkpoint: Path) -> float:
    """Return what a model multiplies cosines by, read from its checkpoint; NaN where that does not say.

    Raises:
        InputError: not a checkpoint.
    """
    if checkpoint.suffix in (".npz", ".npy"):  # JAX weights, which open_clip has another way for
        return math.nan
    try:
        state = factory.load_state_dict(str(checkpoint), weights_only=True)
    except Exception as error:  # torch, pickle and zip each raise their own kinds
        raise InputError(f"checkpoint {str(checkpoint)!r} does not load ({one_line(error)})") from None
    return float(state["logit_scale"].float().exp()) if "logit_scale" in state else math.nan


def use_short_attention(model: Model) -> None:
    """Give every plain attention block the form that is fast for short sequences on a CPU; weights stay as they are."""
    for block in model.modules():
        if isinstance(block, ResidualAttentionBlock) and not hasattr(block, "ln_1_kv"):
            block.attention = functools.partial(short_attention, block.attn, block.attention)


def short_attention(
    attn: nn.MultiheadAttention,
    fallback: Callable[..., Tensor],
    q_x: Tensor,
    k_x: Tensor | None = None,
    v_x: Tensor | None = None,
    attn_mask: Tensor | None = None,
) -> Tensor:
    """Attend over [batch, length, width] by two batched matrix products.

    torch's fused CPU kernel spends 40 % of a training step in its backward pass at length 37; plain products are
    equal up to rounding and take a tenth.
    """
    batch, length, width = q_x.shape
    if length > SHORT or attn.in_proj_weight is None or not attn.batch_first:
        return fallback(q_x, k_x=k_x, v_x=v_x, attn_mask=attn_mask)
    head = width // attn.num_heads
    qkv = F.linear(q_x, attn.in_proj_weight, attn.in_proj_bias).view(batch, length, 3, attn.num_heads, head)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).reshape(3, batch * attn.num_heads, length, head)
    weights = torch.bmm(query * head**-0.5, key.transpose(1, 2))
    if attn_mask is not None:
        weights = weights + attn_mask.to(weights.dtype)
    mixed = torch.bmm(torch.softmax(weights, dim=-1), value).view(batch, attn.num_heads, length, head)
    return attn.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))


def tokenize(name: str, captions: Sequence[str]) -> np.ndarray:
    """Turn captions into tokens, int32 [n_captions, context_length].

    A caption that spells a special token (`<end_of_text>`) loses it: the text encoder pools at the first one it sees.

    Raises:
        InputError: the tokenizer is one of a hub and cannot be had offline.
    """
    context, tokenizer = model_config(name)["text_cfg"].get("context_length", 77), open_tokenizer(name)
    if type(tokenizer) is SimpleTokenizer:
        return _simple_tokens(tokenizer, captions, context)
    return tokenizer(list(captions), context_length=context).numpy().astype(np.int32)


def open_tokenizer(name: str) -> Any:
    """Return the tokenizer of a model, which knows no limit of length.

    Raises:
        InputError: it is one of a hub and cannot be had offline.
    """
    _ask_hub(name)
    try:
        return open_clip.get_tokenizer(_registered(name))
    except Exception as error:  # transformers and the hub client each raise their own kinds
        raise InputError(f"the tokenizer of model {name!r} cannot be had: {one_line(error)}") from None


def _registered(name: str) -> str:
    # add_model_config skips a config inside `model_cfg`, and of two files with one name it keeps the later for good.
    stem = model_file(name).stem
    factory._MODEL_CONFIGS[stem] = model_config(name)
    return stem


def _simple_tokens(tokenizer: SimpleTokenizer, captions: Sequence[str], context: int) -> np.ndarray:
    special = set(tokenizer.all_special_ids)
    tokens = np.zeros((len(captions), context), dtype=np.int32)
    for row, caption in enumerate(captions):
        # Far more than the kept tokens can span; byte-pair encoding is quadratic in a word's length.
        start = " ".join(caption.split())[: 64 * context]
        words = [token for token in tokenizer.encode(start) if token not in special][: context - 2]
        tokens[row, : len(words) + 2] = [tokenizer.sot_token_id, *words, tokenizer.eot_token_id]
    return tokens


def encode_text(model: Model, tokens: Tensor, *, cut: bool) -> Tensor:
    """Encode tokens [n, context_length] into unit vectors float32 [n, dim]; `cut` as in `text_features`."""
    return F.normalize(text_features(model, tokens, cut=cut), dim=-1)


def text_features(model: Model, tokens: Tensor, *, cut: bool) -> Tensor:
    """Encode tokens [n, context_length] into embeddings as the encoder gives them, float32 [n, dim].

    With `cut`, positions after the batch's last end token are left out: exact for causal towers, where nothing
    before that token sees them.
    """
    if not cut:
        return model.encode_text(tokens).float()
    length = int((tokens != 0).any(dim=0).nonzero().max()) + 1
    tokens = tokens[:, :length]
    cast = model.transformer.get_cast_dtype()
    x = model.token_embedding(tokens).to(cast) + model.positional_embedding[:length].to(cast)
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    x = text_global_pool(x, tokens, model.text_pool_type, eos_token_id=getattr(model, "text_eos_id", None))
    projection = model.text_projection
    if projection is not None:
        x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
    return x.float()


def text_input(tokens: np.ndarray) -> Tensor:
    """Return what a text tower takes: tokens as int64, and features as float32, [n, …]."""
    return torch.from_numpy(tokens).to(torch.int64 if tokens.dtype.kind == "i" else torch.float32)


def autocast(precision: str, device: str) -> AbstractContextManager[Any]:
    """Return the context a member computes in: bfloat16 products for amp_bf16, nothing for fp32."""
    return torch.autocast(device, dtype=torch.bfloat16) if precision == "amp_bf16" else nullcontext()


def encode_image(model: Model, images: Tensor) -> Tensor:
    """Encode images float [n, 3, size, size] into unit vectors float32 [n, dim]."""
    return F.normalize(image_features(model, images), dim=-1)


def image_features(model: Model, images: Tensor) -> Tensor:
    """Encode images float [n, 3, size, size] into embeddings as the encoder gives them, float32 [n, dim]."""
    return model.encode_image(images).float()


class Standard(nn.Module):
    """Features moved and scaled to a mean of 0 in each number and a mean square of 1 over all; not trained."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """Map features [n, width] to standard ones, [n, width]."""
        return (features - self.mean) / self.scale

    @classmethod
    @torch.no_grad()
    def of(cls, features: np.ndarray) -> "Standard":
        """Take mean and scale from features, [n, width]; they may be a memory map."""
        total, square, count = np.zeros(features.shape[1]), 0.0, 0
        for start in range(0, len(features), BLOCK * -(-len(features) // MOST_STANDARD)):
            block = features[start : start + BLOCK].astype(np.float64)
            total += block.sum(axis=0)
            square += float((block**2).sum())
            count += len(block)
        mean = total / count
        spread = max(square / (count * features.shape[1]) - float((mean**2).mean()), 0.0) ** 0.5
        standard = cls(features.shape[1])
        standard.mean.copy_(torch.from_numpy(mean))
        standard.scale.fill_(spread or 1.0)
        return standard


def image_head(width: int, dim: int) -> nn.Module:
    """Return one linear map from features [n, width] to embeddings [n, dim], named as in open_clip's timm towers."""
    head = nn.Sequential(OrderedDict({"proj": nn.Linear(width, dim, bias=False)}))
    return nn.Sequential(OrderedDict({"standard": Standard(width), "head": head}))


def text_head(width: int, dim: int) -> nn.Module:
    """Return two linear maps with a hidden layer between them, named as in open_clip's Hugging Face towers."""
    layers = nn.Sequential(nn.Linear(width, HIDDEN, bias=False), nn.GELU(), nn.Linear(HIDDEN, dim, bias=False))
    return nn.Sequential(OrderedDict({"standard": Standard(width), "proj": layers}))


class LockedModel(nn.Module):
    """A CLIP model of which one tower or both are locked: what is locked is given as features, and a head reads them.

    `encode_image` takes features [n, width] where the image tower is locked, else images; `encode_text` features or
    tokens. Its weights have the names that open_clip gives them; those of locked towers are not among them.
    """

    def __init__(self, visual: nn.Module, text: nn.Module, *, loss: str) -> None:
        super().__init__()
        self.visual, self.text = visual, text
        siglip = loss == "siglip"
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10 if siglip else 1 / 0.07)))
        # open_clip's loader of checkpoints asks for the bias of any model.
        self.logit_bias = nn.Parameter(torch.tensor(-10.0)) if siglip else None

    def encode_image(self, image: Tensor) -> Tensor:
        """Embed a batch of pictures, [n, dim]."""
        return self.visual(image)

    def encode_text(self, text: Tensor) -> Tensor:
        """Embed a batch of captions, [n, dim]."""
        return self.text(text)


def locked_model(
    image_width: int, text_width: int, *, dim: int, loss: str, seed: int, whole: Model | None = None
) -> LockedModel:
    """Build a model with locked towers; the initial weights of its heads are a function of the seed.

    Args:
        image_width: length of a picture's features; 0 where the image tower is trained.
        text_width: length of a caption's features; 0 where the text tower is trained.
        dim: length of an embedding.
        loss: "clip" or "siglip".
        seed: of the initial weights.
        whole: the model that gives the tower which is not locked, where one is not.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        visual = image_head(image_width, dim) if image_width or whole is None else whole.visual
        text = text_head(text_width, dim) if text_width or whole is None else _TextTower(whole)
    return LockedModel(visual, text, loss=loss)


class _TextTower(nn.Module):
    """The text tower of an open_clip model."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        model.visual = None

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)


BATCH = 256


def _cut(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))


def mean_image_embeddings(
    model: Model, data: TrainingData, views: Views, *, n_views: int, precision: str, device: str
) -> np.ndarray:
    """Embed `n_views` crops of every picture and return the mean of the unit vectors, float32 [n_pairs, dim]."""
    return np.concatenate(list(image_blocks(model, data, views, n_views=n_views, precision=precision, device=device)))


def image_blocks(
    model: Model,
    data: TrainingData,
    views: Views,
    *,
    n_views: int,
    precision: str,
    device: str,
) -> Iterator[np.ndarray]:
    """Yield what `mean_image_embeddings` returns, a few pairs at a time, float32 [n, dim]."""
    model.eval()
    for some in _cut(np.arange(len(data.keys))):
        pixels = data.pixels.gather(some)
        encoded = []
        with torch.inference_mode():
            for view in range(n_views):
                images = views.evaluation_images(pixels, data.keys[some], view, device)
                with autocast(precision, device):
                    encoded.append(encode_image(model, images))
            mean = torch.stack(encoded).mean(dim=0)
        yield mean.cpu().numpy()


def text_blocks(
    model: Model,
    tokens: np.ndarray,
    caption_start: np.ndarray,
    *,
    first: int = 0,
    note: Callable[[Iterator[np.ndarray]], Iterator[np.ndarray]] = iter,
    precision: str,
    device: str,
) -> Iterator[np.ndarray]:
    """Yield the mean over each pair's captions, all or the `first` ones, float32 [n, dim].

    Features in the place of tokens come some pairs at a time; tokens all at once, so that like lengths share a batch.
    `note` looks at the embeddings of single captions, float32 [n_captions, dim], as they come, and passes them on.
    """
    at_once = len(caption_start) if tokens.dtype.kind == "i" else BATCH
    starts = [caption_start[at : at + at_once + 1] for at in range(0, len(caption_start) - 1, at_once)]
    found = (
        text_embeddings(model, tokens[start[0] : start[-1]], precision=precision, device=device) for start in starts
    )
    for start, vectors in zip(starts, note(found), strict=True):
        yield mean_by_pair(vectors, start - start[0], first=first)


@torch.inference_mode()
def text_embeddings(model: Model, tokens: np.ndarray, *, precision: str, device: str) -> np.ndarray:
    """Embed tokens [n, context_length] into unit vectors, float32 [n, dim]; neighbours in length share a batch."""
    model.eval()
    cut = can_cut_text(model)
    lengths = (tokens != 0).sum(axis=1) if tokens.dtype.kind == "i" else np.zeros(len(tokens))
    order = np.argsort(lengths, kind="stable")
    vectors: np.ndarray | None = None
    for rows in _cut(order):
        with autocast(precision, device):
            encoded = encode_text(model, text_input(tokens[rows]).to(device), cut=cut)
        vectors = np.empty((len(tokens), encoded.shape[1]), np.float32) if vectors is None else vectors
        vectors[rows] = encoded.cpu().numpy()
    assert vectors is not None
    return vectors


def mean_by_pair(vectors: np.ndarray, caption_start: np.ndarray, *, first: int = 0) -> np.ndarray:
    """Average caption vectors [n_captions, dim] within each pair, all or the `first` ones, float32 [n_pairs, dim]."""
    counts = np.diff(caption_start)
    if first:
        place = np.arange(len(vectors)) - np.repeat(caption_start[:-1], counts)
        vectors, counts = vectors[place < first], np.minimum(counts, first)
    if counts.max(initial=0) == 1 == counts.min(initial=1):
        return vectors
    sums = np.add.reduceat(vectors, np.cumsum(counts) - counts, axis=0, dtype=np.float32)
    return sums / counts[:, None].astype(np.float32)
