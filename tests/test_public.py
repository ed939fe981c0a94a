"""The names that people's scripts use: their examples run, their types hold, and cheap ones cost no torch."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import murders
import pandas as pd
import pytest

import hybridnas
from hybridnas import SearchConfig, run_search

PACKAGE = Path(hybridnas.__file__).parent
README = Path(__file__).parent.parent / "README.md"


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


EXAMPLES = [module_of(path) for path in sorted(PACKAGE.rglob("*.py")) if ">>> " in path.read_text("utf-8")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, space_file: Path, npz_file: Path) -> Path:
    """Where examples run; `runs/example` in it is a finished search."""
    folder = tmp_path_factory.mktemp("examples")
    config = SearchConfig(space=str(space_file), data=str(npz_file), epochs=1, trials=4, threads=1, budget_ms=1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hybridnas.timing.Timer", murders.make_timer)
        run_search(config.model_copy(update={"out": folder / "runs" / "example"}))
    return folder


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_a_module(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert found.attempted and not found.failed


@pytest.mark.parametrize("name", [*hybridnas.__all__, "cost.count_macs"])
def test_every_public_name_has_an_example(name: str) -> None:
    first, _, second = name.rpartition(".")
    value = getattr(importlib.import_module(f"hybridnas.{first}".rstrip(".")), second)
    assert (inspect.getdoc(value) or "").count(">>> ") >= 2


def test_the_lines_of_the_readme(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (section,) = re.findall(r"^## In Python$(.*?)^## ", README.read_text("utf-8"), re.M | re.S)
    code = "\n".join(re.findall(r"```python\n(.*?)```", section, re.S))
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert isinstance(names["trials"], pd.DataFrame) and len(names["trials"]) >= 4


#: Written as a person would; what is of another type than is said here is an error.
CLIENT = """\
from typing import Any, assert_type

import pandas as pd

from hybridnas import Architecture, Head, Run, SearchConfig, SearchSpace, Stage, Stem, Transition
from hybridnas import build, profile_models, run_search, zoo
from hybridnas import no_such_name  # type: ignore[attr-defined]

stage = Stage(Transition("conv", stride=2), "mbconv", depth=1, width=16, options={"expand": 4})
architecture = Architecture(32, Stem("conv", 8), (stage,), Head())
assert_type(architecture.layout, str)
assert_type(architecture.resolutions, tuple[int | None, ...])
assert_type(Architecture.from_json(architecture.to_json()), Architecture)
Architecture(32, "conv", (stage,))  # type: ignore[arg-type]
assert_type(SearchSpace.load("tiny").sample(lambda name, values: values[0]), Architecture)
assert_type(zoo.names(), tuple[str, ...])
assert_type(build(zoo.load("resnet50"), num_classes=10).deploy().num_classes, int)
assert_type(profile_models(["resnet50"], latency=False), pd.DataFrame)
config = SearchConfig(budget_ms=10, time=60)
assert_type(run_search(config), Run)
run = Run.load("runs/x")
assert_type(run.trials, pd.DataFrame)
assert_type(run.front(), pd.DataFrame)
assert_type(run.architecture(0), Architecture)
assert_type(run.config, SearchConfig)
assert_type(run.result, dict[str, Any])
"""

#: The client's own types are asked for; those of torch would take minutes to read.
MYPY = """\
[mypy]
strict = true
[mypy-hybridnas.*]
follow_imports = silent
[mypy-torch.*,timm.*,torchvision.*,optuna.*,sqlalchemy.*,rich.*,matplotlib.*,numpy.*,scipy.*,fvcore.*,sklearn.*]
follow_imports = skip
ignore_missing_imports = true
[mypy-moocore.*,safetensors.*,ray.*,psycopg.*,yaml.*,psutil.*,tensorboardX.*,onnxruntime.*,openvino.*,onnx.*]
follow_imports = skip
ignore_missing_imports = true
"""


def test_types_reach_the_user(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "client.py").write_text(CLIENT)
    (tmp_path / "mypy.ini").write_text(MYPY)
    is_installed = PACKAGE.parent == Path(sysconfig.get_path("purelib"))  # there mypy finds it by itself
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "client.py"],
        cwd=tmp_path,
        env=os.environ | ({} if is_installed else {"MYPYPATH": str(PACKAGE.parent)}),
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("Success"), done.stdout + done.stderr
    assert (PACKAGE / "py.typed").is_file()


def modules_after(code: str) -> set[str]:
    code += "\nimport json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


HEAVY = {"torch", "timm", "optuna", "plotly", "matplotlib"}


def test_describing_and_drawing_cost_no_torch() -> None:
    code = """
from hybridnas import Architecture, Head, SearchConfig, Stage, Stem, Transition, zoo
assert "mbconv" in zoo.load("coatnet_0_rw_224")._repr_html_()
SearchConfig(budget_ms=10)
"""
    assert not modules_after(code) & HEAVY


def test_reading_a_run_costs_no_torch(folder: Path) -> None:
    code = f"""
from hybridnas import Run
run = Run.load({str(folder / "runs" / "example")!r})
assert len(run.front()) and run.architecture(0).layout and run._repr_html_()
"""
    assert not modules_after(code) & HEAVY


def test_all_names_come_with_a_star() -> None:
    names: dict[str, object] = {}
    exec("from hybridnas import *", names)
    assert (
        {name for name in names if not name.startswith("__")}
        == set(hybridnas.__all__)
        == set(hybridnas.__all__) & set(dir(hybridnas))
    )
    assert sorted(hybridnas.__all__) == hybridnas.__all__
