import ast
import functools
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"utils"},
    {"mitigations"},
    {"config"},
    {"errors"},  # which captions are wrong, and how many
    {"scores"},
    {"dataset"},
    {"features"},  # what a locked tower gives
    {"training"},  # what is trained on it
    {"auditing"},
    {"review"},
    {"figures"},
    {"export"},
    {"api"},
    {"lab"},  # the auditor, all of the above, never imports it
    {"cli", "__main__", "__init__"},
    {"dashboard"},
    {"pages"},
]


@functools.cache
def sources() -> dict[Path, set[str]]:
    """Every source file with the dotted names of what it imports, inside functions too."""
    found = {}
    for path in (
        ROOT / "app.py",
        *(ROOT / "pages").glob("*.py"),
        *(ROOT / "clipmem_core").rglob("*.py"),
    ):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        found[path] = {
            alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
        }
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path} has a relative import"
                found[path] |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@functools.cache
def packages() -> dict[Path, set[str]]:
    """Every source file with the packages it imports, `clipmem_core.x.y` as `x`."""
    found = {}
    for path, names in sources().items():
        parts = [name.split(".") for name in names]
        found[path] = {p[1] if p[0] == "clipmem_core" and len(p) > 1 else p[0] for p in parts}
    return found


def layer_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "clipmem_core" else "pages"


def test_imports_point_one_way_between_packages() -> None:
    level = {name: place for place, names in enumerate(LAYERS) for name in names}
    for path, imported in packages().items():
        own = layer_of(path)
        against = {name for name in imported & set(level) if level[name] > level[own]}
        assert not against, f"{path} imports {against}"


def test_parts_of_an_audit_import_one_way() -> None:
    parts = ["folder", "tables", "run"]
    for path, names in sources().items():
        if path.parent.parent == ROOT / "clipmem_core" / "auditing":
            later = parts[parts.index(path.parent.name) + 1 :]
            against = {
                name for name in names if name.split(".")[2:3] and name.split(".")[2] in later
            }
            assert not {name for name in against if name.startswith("clipmem_core.auditing.")}, path


def test_modules_import_each_other_in_no_circle() -> None:
    names = {
        path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sources()
    }
    modules = set(names.values())
    graph = {
        names[path]: ({*imported, *(name.rpartition(".")[0] for name in imported)} & modules)
        - {names[path], "clipmem_core"}
        for path, imported in sources().items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_heavy_libraries_stay_in_their_packages() -> None:
    for path, imported in packages().items():
        layer = layer_of(path)
        assert "streamlit" not in imported or layer in ("dashboard", "pages"), path
        heavy = imported & {"torch", "open_clip", "torchvision"}
        assert not heavy or layer not in ("dataset", "errors", "scores"), path


def test_pages_import_no_library_that_takes_seconds() -> None:
    modules = {
        f"clipmem_core.dashboard.{path.stem}"
        for path in (ROOT / "clipmem_core/dashboard").glob("*.py")
    }
    for path in (ROOT / "pages").glob("*.py"):
        modules |= {
            name.rpartition(".")[0] for name in sources()[path] if name.startswith("clipmem_core.")
        }
    code = (
        f"import sys, {', '.join(modules)}; print(*{{'torch', 'sklearn', 'scipy.stats'}} & "
        "set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_imported_packages_are_in_the_requirements() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for optional in project["optional-dependencies"].values():
        lines += optional
    named = {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in lines}
    own = {path.stem for path in (ROOT / "clipmem_core").iterdir()}
    installed = packages_distributions()
    for path, imported in packages().items():
        for package in (imported & installed.keys()) - own:
            found = {name.lower().replace("_", "-") for name in installed[package]}
            assert found & named, f"{path} imports {package}"
