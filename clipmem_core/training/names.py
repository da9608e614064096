"""Names and configs of models, and names of the files of training: everything that does not import torch."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipmem_core.config import InputError
from clipmem_core.io import read_json

CHECKPOINT = "checkpoint.pt"  # an open_clip state dict
TRAJECTORY = "trajectory.npy"
LOG = "log.jsonl"
STATE = "resume.pt"  # only while it trains

OURS = Path(__file__).parent / "models"
TOWERS = ("vision_cfg", "text_cfg", "multimodal_cfg")
# The least and the most that a field may be; the most is far above every model of open_clip's, and above it a model
# would be built for hours. A context has room for its start, a word and its end.
BOUNDS = {
    "embed_dim": (1, 1 << 16),
    "layers": (1, 512),
    "width": (1, 1 << 16),
    "head_width": (1, 1 << 16),
    "heads": (1, 1 << 12),
    "patch_size": (1, 1 << 12),
    "image_size": (1, 1 << 13),
    "context_length": (3, 1 << 16),
    "vocab_size": (1, 1 << 24),
    "mlp_ratio": (0.01, 64),
}


def _folders() -> tuple[Path, Path]:
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("open_clip is not installed: run `pip install -r requirements.txt`")
    return OURS, Path(spec.submodule_search_locations[0]) / "model_configs"


def known_models() -> list[str]:
    """Return every name `--model` takes: ours first, then open_clip's."""
    return [path.stem for folder in _folders() for path in sorted(folder.glob("*.json"))]


def model_file(name: str) -> Path:
    """Return the JSON file that describes a model.

    Example:
        >>> model_file("small").name
        'small.json'
    """
    if name.endswith(".json"):
        return _checked_file(Path(name))
    for folder in _folders():
        path = folder / f"{name.replace('/', '-')}.json"
        if path.is_file():
            return path
    models = known_models()
    alike = [model for model in models if model.lower().startswith(name.lower()[:5])] or models
    raise InputError(f"model {name!r} is unknown: try {', '.join(alike[:8])}, … or give a JSON model config")


def _checked_file(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"model {str(path)!r} is not a file: give the path of a JSON model config in open_clip's form")
    config = read_json(path, repair="give a JSON model config in open_clip's form")
    config = config.get("model_cfg", config) if isinstance(config, dict) else {}
    types = {"embed_dim": int, "vision_cfg": dict, "text_cfg": dict}
    missing = [k for k, kind in types.items() if not isinstance(config, dict) or not isinstance(config.get(k), kind)]
    if missing:
        raise InputError(f"model {str(path)!r} lacks {', '.join(missing)}: an open_clip model config has all three")
    return path


def model_config(name: str, *, image_size: int = 0) -> dict[str, Any]:
    """Return the model config of a name: embed_dim, vision_cfg, text_cfg; with another image size if one is asked."""
    config = read_json(model_file(name))
    config = config.get("model_cfg", config)
    return config | {"vision_cfg": config["vision_cfg"] | {"image_size": image_size}} if image_size else config


def check_model_fields(name: str, *, image_size: int = 0) -> None:
    """Refuse a model with a field that is no number, or out of `BOUNDS`."""
    config = model_config(name, image_size=image_size)
    fields = {"embed_dim": config["embed_dim"]}
    for tower in TOWERS:
        fields |= {f"{tower}.{field}": value for field, value in config.get(tower, {}).items() if field in BOUNDS}
    for field, value in fields.items():
        if value is None and field.endswith("patch_size"):  # a ResNet has none
            continue
        least, most = BOUNDS[field.rpartition(".")[2]]
        for number in value if isinstance(value, list) else [value]:  # a ResNet's layers, or height and width
            if isinstance(number, bool) or not isinstance(number, type(least) | int) or not least <= number <= most:
                told = f"from {least} to {most:,}, not {value!r:.60}"
                raise InputError(f"model {name!r}: {field} must be a number {told}")


def parameters(name: str, *, image_size: int = 0) -> int:
    """Return about how many weights a model has, within a tenth, without building it.

    A tower that another library builds by its name counts for nothing.
    """
    config = model_config(name, image_size=image_size)
    dim, vision, total = config["embed_dim"], config["vision_cfg"], 0
    for tower in ("text_cfg", "multimodal_cfg"):
        text, width = config.get(tower, {}), config.get(tower, {}).get("width", 512)
        if text and "hf_model_name" not in text:
            context = text.get("context_length", 77)
            # The causal mask is no weight, but takes as much room. A decoder attends to pictures too.
            total += _blocks(text, width) * (2 if tower == "multimodal_cfg" else 1)
            total += width * (text.get("vocab_size", 49408) + context + dim) + context**2
    width, layers, patch = vision.get("width", 768), vision.get("layers", 12), vision.get("patch_size", 16)
    height, breadth = size if isinstance(size := vision.get("image_size", 224), list) else (size, size)
    if "timm_model_name" in vision:
        return total
    if isinstance(layers, list):  # a ResNet of bottlenecks, four times as wide outside, and attention pooling
        stages = sum(blocks * 17 * (width << stage) ** 2 for stage, blocks in enumerate(layers))
        return total + stages + 32 * width * (3 * 32 * width + dim + height // 32 * (breadth // 32))
    positions = (height // patch) * (breadth // patch) + 1
    return total + _blocks(vision, width) + width * (3 * patch**2 + positions + dim)


def _blocks(tower: Mapping[str, Any], width: int) -> int:
    return round(tower.get("layers", 12) * width**2 * (4 + 2 * tower.get("mlp_ratio", 4)))
