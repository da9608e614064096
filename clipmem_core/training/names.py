"""Names and configs of models, and names of the files training leaves: all that is needed without importing torch."""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clipmem_core.config import InputError
from clipmem_core.files import read_json

CHECKPOINT = "checkpoint.pt"  # an open_clip state dict
TRAJECTORY = "trajectory.npy"
LOG = "log.jsonl"
STATE = "resume.pt"  # only while it trains

OURS = Path(__file__).parent / "models"
# The least and the most that a field may be. The most is far above every model of open_clip's: above it is a slip, and
# such a model would be built for hours. A context has room for its start, a word and its end.
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
    "attn_pooler_queries": (1, 1 << 16),
}
LISTS = {"vision_cfg.layers": 4, "vision_cfg.image_size": 2}  # what may be so many numbers instead of one
TOWERS = ("vision_cfg", "text_cfg", "multimodal_cfg")


def _open_clip_configs() -> Path:
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("open_clip is not installed: run `pip install -r requirements.txt`")
    return Path(spec.submodule_search_locations[0]) / "model_configs"


def known_models() -> list[str]:
    """Return every name `--model` takes: ours first, then open_clip's."""
    return [*sorted(p.stem for p in OURS.glob("*.json")), *sorted(p.stem for p in _open_clip_configs().glob("*.json"))]


def model_file(name: str) -> Path:
    """Return the JSON file that describes a model.

    Raises:
        InputError: the name is neither ours, nor open_clip's, nor a JSON file.

    Example:
        >>> model_file("small").name
        'small.json'
    """
    if name.endswith(".json"):
        return _checked_file(Path(name))
    for folder in (OURS, _open_clip_configs()):
        path = folder / f"{name.replace('/', '-')}.json"
        if path.is_file():
            return path
    near = [known for known in known_models() if known.lower().startswith(name.lower()[:5])] or known_models()
    raise InputError(f"model {name!r} is unknown: try {', '.join(near[:8])}, … or give a JSON model config")


def _checked_file(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"model {str(path)!r} is not a file: give the path of a JSON model config in open_clip's form")
    config = read_json(path, mend="give a JSON model config in open_clip's form")
    config = config.get("model_cfg", config) if isinstance(config, dict) else {}
    kinds = {"embed_dim": int, "vision_cfg": dict, "text_cfg": dict}
    kinds |= {"multimodal_cfg": dict} if isinstance(config, dict) and "multimodal_cfg" in config else {}
    missing = [k for k, kind in kinds.items() if not isinstance(config, dict) or not isinstance(config.get(k), kind)]
    if missing:
        raise InputError(f"model {str(path)!r} lacks {', '.join(missing)}: an open_clip model config has all three")
    return path


def model_config(name: str) -> dict[str, Any]:
    """Return the model config behind a name: embed_dim, vision_cfg, text_cfg."""
    config = read_json(model_file(name))
    return config.get("model_cfg", config)


def check_model_fields(name: str, *, image_size: int = 0) -> None:
    """Refuse a model with a field that no model can have.

    Args:
        name: of the model.
        image_size: pixels, in place of the model's own; 0 keeps them.

    Raises:
        InputError: a field is no number, or out of `BOUNDS`.
    """
    for field, value in _fields(_of_size(model_config(name), image_size)):
        least, most = BOUNDS[field.rpartition(".")[2]]
        for number in value if isinstance(value, list) and len(value) == LISTS.get(field) else [value]:
            whole = isinstance(number, int) or (isinstance(number, float) and isinstance(least, float))
            if isinstance(number, bool) or not whole or not least <= number <= most:
                kind = "a number" if isinstance(least, float) else "a whole number"
                raise InputError(f"model {name!r}: {field} must be {kind} from {least} to {most:,}, not {value!r:.60}")


def _fields(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a model config that have bounds, each with its tower's name before it."""
    yield "embed_dim", config["embed_dim"]
    for tower in TOWERS:
        for field, value in config.get(tower, {}).items():
            if field in BOUNDS and (value is not None or field != "patch_size"):  # a ResNet has none
                yield f"{tower}.{field}", value


def _of_size(config: dict[str, Any], image_size: int) -> dict[str, Any]:
    vision = config["vision_cfg"] | ({"image_size": image_size} if image_size else {})
    return config | {"vision_cfg": vision}


def parameters(name: str, *, image_size: int = 0) -> int:
    """Return about how many weights a model has, within a tenth, without building it.

    A tower that another library builds by its name counts for nothing.

    Args:
        name: of the model, whose fields are in their bounds.
        image_size: pixels, in place of the model's own; 0 keeps them.
    """
    config = _of_size(model_config(name), image_size)
    dim, decoder = config["embed_dim"], config.get("multimodal_cfg")
    total = _vision_parameters(config["vision_cfg"], dim) + _text_parameters(config["text_cfg"], dim)
    return total + (_text_parameters(decoder, dim) + _blocks(decoder) if decoder else 0)  # it looks at pictures too


def _blocks(tower: Mapping[str, Any], width: int = 512) -> int:
    return round(tower.get("layers", 12) * tower.get("width", width) ** 2 * (4 + 2 * tower.get("mlp_ratio", 4)))


def _vision_parameters(tower: Mapping[str, Any], dim: int) -> int:
    width, layers, patch = tower.get("width", 768), tower.get("layers", 12), tower.get("patch_size", 16)
    height, breadth = size if isinstance(size := tower.get("image_size", 224), list) else (size, size)
    if "timm_model_name" in tower:
        return 0
    if isinstance(layers, list):  # a ResNet of bottlenecks, four times as wide outside, and a pool by attention
        stages = sum(blocks * 17 * (width << stage) ** 2 for stage, blocks in enumerate(layers))
        return stages + 32 * width * (3 * 32 * width + dim + height // 32 * (breadth // 32))
    positions = (height // patch) * (breadth // patch) + 1
    return _blocks(tower, width) + width * (3 * patch**2 + positions + dim)


def _text_parameters(tower: Mapping[str, Any], dim: int) -> int:
    width, context = tower.get("width", 512), tower.get("context_length", 77)
    if "hf_model_name" in tower:
        return 0
    # The mask of who attends to whom is no weight, but takes as much room.
    return _blocks(tower) + width * (tower.get("vocab_size", 49408) + context + dim) + context**2
