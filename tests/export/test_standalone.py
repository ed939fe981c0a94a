"""model.py: for every part and design, the network that was built, from one file without this package."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hybridnas import Architecture, Stage, Stem, Transition, build, zoo
from hybridnas.architecture import Head
from hybridnas.blocks import BLOCKS
from hybridnas.blocks.heads import HEADS
from hybridnas.blocks.stems import STEMS
from hybridnas.blocks.transitions import TRANSITIONS
from hybridnas.export.bundle import export_bundle
from hybridnas.export.card import drawing
from hybridnas.export.preprocessing import Preprocessing
from hybridnas.export.source import source_of
from hybridnas.export.standalone import standalone
from hybridnas.model import HybridNet

HOSTILE = ('"""', "'; import os #", "back\\", "new\nline\r", "{image_size}", "\u2028\N{GRINNING FACE}", "é", '\\"')

NAMES = ("robin", "wren", "crow", "jay", "owl", "tit", "gull", "duck")

# Loads each file with this package out of reach, and saves what its two forms say.
PROGRAM = """
import importlib.util, sys
from pathlib import Path
import numpy as np, torch
sys.modules["hybridnas"] = None
for file in sorted(Path(sys.argv[1]).glob("*/model.py")):
    spec = importlib.util.spec_from_file_location("model", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with torch.inference_mode():
        images = module.preprocess(torch.from_numpy(np.load(file.parent / "images.npy")))
        scores = [model(images).numpy() for model in (module.model, module.model.deploy())]
    np.save(file.parent / "scores.npy", np.stack(scores))
"""


def one_stage(
    block: str = "mbconv", depth: int = 1, transition: str = "conv", stem: str = "conv", head: str = "linear"
):
    change = Transition(transition, 1 if transition == "none" else 2)
    return Architecture(30, Stem(stem, 32), (Stage(change, block, depth, 32),), Head(head))


CASES = {
    **{f"block {name}": one_stage(block=name, depth=2) for name in BLOCKS},
    **{f"transition {name}": one_stage(transition=name) for name in TRANSITIONS},
    **{f"stem {name}": one_stage(stem=name) for name in STEMS},
    **{f"head {name}": one_stage(head=name) for name in HEADS},
    "depth 0": one_stage(depth=0),
    **{name: replace(zoo.load(name), image_size=64) for name in ("edgevit_xxs", "fastvit_t8")},
}


def preprocessing(architecture: Architecture, names: tuple[str, ...] = NAMES) -> Preprocessing:
    return Preprocessing.of(architecture.image_size, (120.0, 121.0, 122.5), (60.0, 61.25, 62.0), names)


def network(architecture: Architecture, num_classes: int = len(NAMES)) -> HybridNet:
    """With norms that have seen something, so that folding them is no identity."""
    torch.manual_seed(0)
    model = build(architecture, num_classes)
    for name, value in model.state_dict().items():
        if "running_mean" in name or name.endswith(".bias"):
            value.uniform_(-0.2, 0.2)
        elif "running_var" in name:
            value.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a case: its model.py, weights, two images and what a process without this package made of them."""
    root = tmp_path_factory.mktemp("standalone")
    generator = np.random.default_rng(0)
    for name, architecture in CASES.items():
        folder, model = root / name, network(architecture)
        folder.mkdir()
        save_file(model.state_dict(), folder / "weights.safetensors")
        (folder / "model.py").write_text(standalone(model, preprocessing(architecture)), encoding="utf-8")
        size = architecture.image_size
        np.save(folder / "images.npy", generator.integers(0, 256, (2, 3, size, size), dtype=np.uint8))
    subprocess.run([sys.executable, "-P", "-c", PROGRAM, str(root)], check=True)
    return root


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_network_that_was_built(name: str, written: Path) -> None:
    images = torch.from_numpy(np.load(written / name / "images.npy"))
    with torch.inference_mode():
        expected = network(CASES[name])(preprocessing(CASES[name]).normal(images))
    for scores in np.load(written / name / "scores.npy"):
        torch.testing.assert_close(torch.from_numpy(scores), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_it_imports_what_comes_with_torch_and_timm(name: str, written: Path) -> None:
    found: set[str] = set()
    for node in ast.walk(ast.parse((written / name / "model.py").read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level
            found.add(node.module.split(".")[0])
    assert (
        {"torch", "safetensors"}
        <= found
        <= sys.stdlib_module_names
        | {
            "torch",
            "timm",
            "numpy",
            "PIL",
            "safetensors",
        }
    )


def test_it_reads_as_what_a_formatter_leaves(written: Path) -> None:
    pytest.importorskip("ruff")
    ruff = [sys.executable, "-m", "ruff"]
    settings = ["--isolated", "--line-length", "120"]
    subprocess.run([*ruff, "format", "--check", "--quiet", *settings, str(written)], check=True)
    subprocess.run(
        [*ruff, "check", "--quiet", *settings, "--select", "E,F,I,UP", "--ignore", "B905", str(written)], check=True
    )


@pytest.mark.parametrize("name", zoo.names())
def test_every_design_has_the_same_weights_by_name(name: str) -> None:
    with torch.device("meta"):
        model = build(zoo.load(name), 1000)
        text = standalone(model, preprocessing(zoo.load(name), tuple(map(str, range(1000)))))
        module: dict[str, object] = {"__name__": "model", "__file__": "model.py"}
        exec(text.rpartition("\nmodel = load()")[0], module)
        again = module["Network"]()  # type: ignore[operator]
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in again.state_dict().items()} == shapes
    assert "hybridnas." not in text and "import hybridnas" not in text


def test_a_name_of_a_class_stays_a_name(tmp_path: Path) -> None:
    architecture = one_stage()
    export_bundle(network(architecture), tmp_path, preprocessing(architecture, HOSTILE))
    spec = importlib.util.spec_from_file_location("model", tmp_path / "model.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert tuple(module.CLASS_NAMES) == HOSTILE == Preprocessing.read(tmp_path).class_names
    assert (tmp_path / "model.py").read_bytes().isascii()


def test_a_name_that_is_no_text_is_written_as_far_as_it_is(tmp_path: Path) -> None:
    found = Preprocessing.of(8, [1], [1], [b"bird\xff".decode("utf-8", "surrogateescape"), "cat"])
    found.write(tmp_path)
    assert Preprocessing.read(tmp_path) == found and found.class_names == ("bird\\udcff", "cat")


def test_only_what_is_needed_is_taken() -> None:
    text = source_of(STEMS["conv"]).text
    assert "class ConvStem" in text and "class PatchStem" not in text and "check" not in text
    assert {each.module for each in source_of(BLOCKS["convnext"]).imports} >= {"timm.models.convnext"}


def test_the_table_of_a_card_says_the_shapes(written: Path) -> None:
    for name in ("stem patch14", "transition levit", "edgevit_xxs"):
        model = network(CASES[name])
        shapes: list[tuple[int, ...]] = []
        for part in (model.stem, *model.stages):
            part.register_forward_hook(lambda part, given, out, to=shapes: to.append(tuple(out.shape[1:])))
        size = CASES[name].image_size
        model(torch.zeros(1, 3, size, size))
        rows = [line.split(" | ")[-1].removesuffix(" |") for line in drawing(CASES[name], 8).splitlines()[2:]]
        assert rows == [*(" x ".join(map(str, shape)) for shape in shapes), "8"]


def test_preprocessing_that_is_damaged_is_refused(tmp_path: Path) -> None:
    from hybridnas.errors import RunError

    good = Preprocessing.of(8, [1, 2, 3], [1, 2, 3], ["a", "b"])
    good.write(tmp_path)
    for file, content in (
        ("labels.json", []), ("labels.json", [1, 2]), ("preprocessing.json", {"image_size": 8}),
        ("preprocessing.json", {"image_size": 8, "mean": [1, 2, 3], "std": [1]}),
        ("preprocessing.json", {"image_size": 8, "mean": [1], "std": [0]}),
    ):  # fmt: skip
        good.write(tmp_path)
        (tmp_path / file).write_text(json.dumps(content))
        with pytest.raises(RunError, match="is damaged"):
            Preprocessing.read(tmp_path)
