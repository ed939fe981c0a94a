"""The floors of the package: what a module may import. The picture is in CONTRIBUTING."""

import ast
import graphlib
import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hybridnas

PACKAGE = Path(hybridnas.__file__).parent

# A module stands on the floor of its longest prefix here. The package's own __init__ stands above all: it re-exports.
FLOORS = {
    "architecture": 0,
    "collecting": 0,
    "config": 0,
    "drawing": 0,
    "errors": 0,
    "pareto": 0,
    "files": 0,
    "locks": 0,
    "palette": 0,
    "seeds": 0,
    "blocks": 1,
    "backbone": 2,
    "model": 2,
    "space": 2,
    "zoo": 2,
    "cost": 3,
    "data": 3,
    "proxy": 3,
    "recommending": 3,
    "timm_models": 3,
    "study": 4,
    "report": 5,
    "export": 5,
    "pipeline": 6,
    "timing": 6,
    "finishing": 6,
    "comparing": 6,
    "profiling": 6,
    "tabling": 6,
    "trusting": 6,
    "tabular": 6,
    "replaying": 6,
    "full_training": 6,
    "starting": 6,
    "working": 6,
    "beginning": 6,
    "search": 7,
    "recommend": 7,
    "profile": 7,
    "table": 7,
    "trust": 7,
    "replay": 7,
    "dashboard": 7,
    "train": 7,
    "worker": 7,
    "__main__": 7,
    "cli": 7,
    "preloaded": 7,
    "report.__main__": 7,
    "export.__main__": 7,
    "predict": 7,
    "exporting": 6,
    "predicting": 6,
}
# Packages that share a floor without knowing each other; the one exception trains on data.
APART = {"cost", "data", "proxy", "report", "export"}
EXCEPTIONS = {("proxy", "data")}


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES.pop("")


def place(module):
    """The table's key for a module, or None."""
    parts = module.split(".")
    prefixes = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((prefix for prefix in prefixes if prefix in FLOORS), None)


def imports(source, module, is_package=False):
    """Modules of the package that `source` imports, at any depth of the code; '' stands for the package's own names."""
    here = f"hybridnas.{module}".split(".")
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + is_package] if node.level else []
            base += node.module.split(".") if node.module else []
            for alias in node.names:
                whole = ".".join([*base, alias.name])
                is_module = whole.removeprefix("hybridnas.") in MODULES
                if is_module or not alias.name.startswith("__"):  # __version__ is nobody's floor
                    found.add(whole if is_module else ".".join(base))
    ours = {name for name in found if name.split(".")[0] == "hybridnas"}
    return {name.removeprefix("hybridnas").removeprefix(".") for name in ours}


def imports_of(module):
    path = MODULES[module]
    return imports(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py")


def complaint(importer, imported):
    """What is wrong with an import, or None."""
    if imported == "":
        return "takes names from the package itself, which stands above all floors"
    above, below = place(importer), place(imported)
    if above is None or below is None:
        return "stands on no floor, or imports what does not"
    if FLOORS[above] < FLOORS[below]:
        return f"imports upwards, from floor {FLOORS[above]} to {FLOORS[below]}"
    ours, theirs = importer.split(".")[0], imported.split(".")[0]
    same_floor = FLOORS[above] == FLOORS[below]
    if same_floor and ours != theirs and {ours, theirs} <= APART and (ours, theirs) not in EXCEPTIONS:
        return "imports from beside"
    return None


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_floor(module):
    assert place(module) is not None


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    wrong = {name: complaint(module, name) for name in imports_of(module)}
    assert {name: why for name, why in wrong.items() if why} == {}


def test_no_module_imports_itself_in_a_circle():
    graph = {module: imports_of(module) - {module, ""} for module in MODULES}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    ("importer", "source", "found"),
    [
        ("space", "import hybridnas.model", {"model"}),
        ("space", "from hybridnas import model", {"model"}),
        ("space", "from hybridnas import build", {""}),
        ("space", "from hybridnas.blocks import BLOCKS", {"blocks"}),
        ("space", "from hybridnas.blocks import fuse", {"blocks.fuse"}),
        ("space", "def f():\n    from hybridnas.cost.macs import count_macs", {"cost.macs"}),
        ("space", "if TYPE_CHECKING:\n    import hybridnas.space", {"space"}),
        ("cost.macs", "from . import latency", {"cost.latency"}),
        ("cost.macs", "from ..model import build", {"model"}),
        ("space", "import hybridnas_extra, torch", set()),
    ],
)
def test_the_reader_of_imports_finds(importer, source, found):
    assert imports(source, importer) == found


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("space", "model", True),
        ("model", "cost.macs", False),
        ("proxy.training", "data.batches", True),
        ("data.batches", "proxy.training", False),
        ("proxy.training", "cost.macs", False),
        ("cost.latency", "cost.macs", True),
        ("report", "export", False),
        ("report.__main__", "pipeline", True),
        ("report", "report.__main__", False),
        ("study", "", False),
    ],
)
def test_the_rule_itself(importer, imported, allowed):
    assert (complaint(importer, imported) is None) == allowed


@pytest.mark.parametrize("heavy", ["torch", "timm", "optuna", "plotly"])
def test_importing_the_package_imports_nothing_heavy(heavy):
    program = "import hybridnas, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    assert "hybridnas" in loaded
    assert heavy not in loaded


def test_public_names_resolve():
    package = importlib.import_module("hybridnas")
    assert {"Architecture", "Stage", "Transition", "SearchSpace", "SearchConfig", "build", "run_search", "Run"} <= set(
        package.__all__
    )
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(package, "no_such_name")  # noqa: B009


def test_every_package_is_in_the_wheel():
    root = Path(__file__).parent.parent
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(root).parts) for path in (root / "hybridnas").rglob("__init__.py")}
    assert set(listed) == found | {"hybridnas.search_spaces", "hybridnas.recorded"}
