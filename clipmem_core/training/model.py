"""From a model name to an open_clip model, its tokens and its two encoders."""

import functools
import math
import pickle
from collections.abc import Callable, Sequence
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
from clipmem_core.pairs.readers.hub import hub_answers
from clipmem_core.training.names import model_config, model_file

# An open_clip model: its towers are reached by attributes that torch's Module does not declare.
Model: TypeAlias = Any

# Above this length the fused attention kernel of torch wins over plain matrix products on a CPU.
SHORT = 128


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
        raise InputError(f"model {name!r} cannot be built{start}: {_one_line(error)}") from None
    if device == "cpu":
        use_short_attention(model)
    return model


def _ask_hub(name: str, pretrained: str = "") -> None:
    """Find out at once whether the hub answers where weights, a text tower or a tokenizer are to come from there."""
    of_hub = {"hf_model_name", "hf_tokenizer_name"} & set(model_config(name)["text_cfg"])
    if of_hub or (pretrained and not Path(pretrained).is_file()):
        hub_answers()


def _one_line(error: Exception) -> str:
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
            f"checkpoint {str(checkpoint)!r} does not load ({_one_line(error)}): give one of this model and loss"
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
        raise InputError(f"checkpoint {str(checkpoint)!r} does not load ({_one_line(error)})") from None
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
        raise InputError(f"the tokenizer of model {name!r} cannot be had: {_one_line(error)}") from None


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


def can_cut_text(model: Model) -> bool:
    """Tell whether text may be cut to the batch's longest caption: causal tower that pools at the end token."""
    return (
        hasattr(model, "transformer")
        and getattr(model, "attn_mask", None) is not None
        and getattr(model, "text_pool_type", "") in ("argmax", "eos")
    )


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
