"""Names and configs of models, and the names of a member's files; nothing here imports torch."""

import importlib.util
from pathlib import Path
from typing import Any

from clipmem_core.config import did_you_mean
from clipmem_core.utils.io import InputError, read_json

CHECKPOINT = "checkpoint.pt"  # an open_clip state dict
TRAJECTORY = "trajectory.npy"
LOG = "log.jsonl"
STATE = "resume.pt"  # only while it trains


def _folders() -> tuple[Path, Path]:
    spec = importlib.util.find_spec("open_clip")
    assert spec
    assert spec.origin
    return Path(__file__).parent / "models", Path(spec.origin).with_name("model_configs")


def model_names() -> list[str]:
    """Return every name `--model` takes: ours first, then open_clip's."""
    return [path.stem for folder in _folders() for path in sorted(folder.glob("*.json"))]


def model_file(name: str) -> Path:
    """Return the JSON file that describes a model."""
    if name.endswith(".json") and Path(name).is_file():
        return Path(name)
    for folder in _folders():
        path = folder / f"{name.replace('/', '-')}.json"
        if path.is_file():
            return path
    hint = did_you_mean(name, model_names())
    raise InputError(
        f"model {name!r} is unknown: give a name of open_clip's or a JSON model config{hint}"
    )


def model_config(name: str) -> dict[str, Any]:
    """Return an open_clip model config: embed_dim, vision_cfg, text_cfg."""
    config = read_json(model_file(name), repair="give a JSON model config in open_clip's form")
    config = config.get("model_cfg", config) if isinstance(config, dict) else {}
    types = {"embed_dim": int, "vision_cfg": dict, "text_cfg": dict}
    missing = [key for key, kind in types.items() if not isinstance((config or {}).get(key), kind)]
    if missing:
        raise InputError(
            f"model {name!r} lacks {', '.join(missing)}: an open_clip model config has all three"
        )
    return config
