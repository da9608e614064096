"""Model names to config files, without importing torch: what the command line checks before anything starts."""

import importlib.util
from pathlib import Path
from typing import Any

from clipmem_core.config import InputError
from clipmem_core.files import read_json

OURS = Path(__file__).parent / "models"


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
    missing = [k for k, kind in kinds.items() if not isinstance(config, dict) or not isinstance(config.get(k), kind)]
    if missing:
        raise InputError(f"model {str(path)!r} lacks {', '.join(missing)}: an open_clip model config has all three")
    return path


def model_config(name: str) -> dict[str, Any]:
    """Return the model config behind a name: embed_dim, vision_cfg, text_cfg."""
    config = read_json(model_file(name))
    return config.get("model_cfg", config)
