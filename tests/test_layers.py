import ast
import functools
import re
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"facts", "mitigations", "config", "columns", "atomic", "shortage", "files", "glossary", "draws"},
    {"pairs", "scores"},  # side by side: neither imports the other
    {"features", "training"},  # what a locked tower gives, and what is trained on it
    {"audits"},
    {"studies"},
    {"review"},
    {"figures"},
    {"exports"},
    {"arguments", "commands", "__main__", "__init__"},
    {"dashboard"},
    {"pages"},
]


@functools.cache
def sources() -> dict[Path, set[str]]:
    """Every module of the project with what it imports, `clipmem_core.x.y` as `x`."""
    found = {}
    for path in (ROOT / "app.py", *(ROOT / "pages").glob("*.py"), *(ROOT / "clipmem_core").rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        named = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        named += [f"{node.module}.{a.name}" for node in nodes if isinstance(node, ast.ImportFrom) for a in node.names]
        named += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        parts = [name.split(".") for name in named]
        found[path] = {p[1] if p[0] == "clipmem_core" and len(p) > 1 else p[0] for p in parts}
    return found


def layer_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "clipmem_core" else "pages"


def test_imports_point_one_way() -> None:
    level = {name: place for place, names in enumerate(LAYERS) for name in names}
    for path, imported in sources().items():
        own = layer_of(path)
        beside = {"pairs", "scores"} - {own} if own in ("pairs", "scores") else set()
        against = {name for name in imported & set(level) if level[name] > level[own] or name in beside}
        assert not against, f"{path} imports {against}"


def test_only_the_dashboard_draws() -> None:
    for path, imported in sources().items():
        assert "streamlit" not in imported or layer_of(path) in ("dashboard", "pages"), path


def test_pairs_and_scores_start_without_torch() -> None:
    for path, imported in sources().items():
        assert not imported & {"torch", "open_clip", "torchvision"} or layer_of(path) not in ("pairs", "scores"), path


def test_what_is_imported_is_named_in_the_requirements() -> None:
    lines = [*(ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines(), "ray"]  # of --engine ray alone
    named = {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in lines}
    own = {path.stem for path in (ROOT / "clipmem_core").iterdir()}
    installed = packages_distributions()
    for path, imported in sources().items():
        for package in (imported & installed.keys()) - own:
            found = {name.lower().replace("_", "-") for name in installed[package]}
            assert found & named, f"{path} imports {package}"


def test_modules_of_audits_import_each_other_one_way() -> None:
    """Also inside functions: `left` loses the modules whose imports are all gone, until none is left."""
    left, package = {}, "clipmem_core.audits."
    for path in (ROOT / "clipmem_core" / "audits").glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        named = [f"{node.module}.{alias.name}" for node in froms for alias in node.names]
        imported = {name.split(".")[2] for name in named if name.startswith(package)}
        left[path.stem] = imported - {path.stem}
    while free := {name for name, imported in left.items() if not imported & left.keys()}:
        for name in free:
            left.pop(name)
    assert not left
