"""Whatever stands in a file that is read, it ends in a value or in one of our errors, and nothing of it is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import murders
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybridnas import Architecture, Run, SearchConfig, SearchSpace, run_search
from hybridnas.beginning import read_environment, stored_space
from hybridnas.config import TrainConfig
from hybridnas.data.loading import Loading
from hybridnas.data.sources import open_source
from hybridnas.errors import UserError
from hybridnas.full_training import train_model
from hybridnas.predicting import Predictor
from hybridnas.proxy.training import Recipe, Trainer, read_state
from hybridnas.starting import read_training, start
from hybridnas.study.run import read_settings

#: Of each kind of file; over 2,000 between them.
EXAMPLES = 200
#: Of those that take a training each.
FEW = 25

QUIETLY = {"suppress_health_check": list(HealthCheck), "derandomize": True, "deadline": None}

SPACE = """\
image_size: 16
stem: {type: conv, width: [8, 16]}
stages:
  - {transition: conv, block: [mbconv, global], depth: [0, 1], width: 8}
blocks:
  global: {head_dim: 8}
rules:
  - no_global_above_tokens: 64
"""

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["conv", "global", "1e999", "!!python/object/apply:os.system [touch entered]", "../..", "\x00"]),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))


def replaced(tree: object, draw: Callable[[st.SearchStrategy[object]], object]) -> object:
    """The same tree with something in it replaced, left out or put twice."""
    if isinstance(tree, dict) and tree and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(tree)))
        what = draw(st.integers(0, 5))
        if what == 0:
            return {name: value for name, value in tree.items() if name != key}
        if what == 1:
            return {**tree, draw(st.text(max_size=6)): tree[key]}
        return {**tree, key: replaced(tree[key], draw)}
    if isinstance(tree, list) and tree and draw(st.integers(0, 3)):
        place = draw(st.integers(0, len(tree) - 1))
        return [*tree[:place], *([] if draw(st.booleans()) else [replaced(tree[place], draw)]), *tree[place + 1 :]]
    return draw(VALUES)


@st.composite
def mutations(draw, content: bytes, tree: object = None) -> bytes:
    """The content with a value of its tree replaced, or with bytes cut out, overwritten or put in."""
    if tree is not None and draw(st.booleans()):
        return json.dumps(replaced(tree, draw)).encode()  # which is YAML, too
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(found)))
        length = draw(st.integers(0, 40))
        found[at : at + length] = draw(st.binary(max_size=12))
    return bytes(found)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, space_file, npz_file) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hybridnas.timing.Timer", murders.make_timer)
        patch.chdir(folder.parent)
        run_search(SearchConfig(space=str(space_file), data=str(npz_file), epochs=2, trials=4, threads=1, out=folder))
    return folder


def look_at(run: Run) -> None:
    """All that a loaded run is asked for."""
    run.front()
    for number in run.trials.number:
        run.architecture(int(number))
    if run.result:
        assert run.best.key is not None


READERS: dict[str, Callable[[Path], object]] = {
    "config.json": lambda folder: read_settings(folder),
    "space.yaml": lambda folder: stored_space(SearchConfig(space="small"), folder),
    "designs.json": lambda folder: stored_space(SearchConfig(space="small"), folder),
    "environment.json": lambda folder: read_environment(folder),
    "trials.csv": lambda folder: look_at(Run.load(folder)),
    "result.json": lambda folder: look_at(Run.load(folder)),
    "best/architecture.json": lambda folder: Run.load(folder).best_model(),
    "best/labels.json": lambda folder: Predictor.open(folder),
    "best/preprocessing.json": lambda folder: Predictor.open(folder),
    "best/weights.safetensors": lambda folder: (
        Run.load(folder).best_model(),
        start(TrainConfig(architecture=str(folder), pretrained=str(folder / "best" / "weights.safetensors"))),
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_a_run_folder(finished, tmp_path, monkeypatch, name):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(tmp_path)
    if name == "space.yaml":
        (folder / name).write_text(SPACE)
    content = (folder / name).read_bytes()
    tree = {".json": json.loads, ".yaml": yaml.safe_load}.get(Path(name).suffix, lambda text: None)(content)
    seen = set()

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(mutations(content, tree))
    def read(mutated: bytes) -> None:
        (folder / name).write_bytes(mutated)
        try:
            READERS[name](folder)
            seen.add(True)
        except UserError as error:
            assert "\n" not in str(error)
            seen.add(False)

    READERS[name](folder)
    read()
    assert False in seen and os.listdir(tmp_path) == ["run"]


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), derandomize=True)
@given(mutations(SPACE.encode(), yaml.safe_load(SPACE)))
def test_a_space(mutated: bytes) -> None:
    try:
        space = SearchSpace.parse(mutated.decode("utf-8", "replace"), name="fuzz", file="fuzz.yaml")
        space.sample(lambda _, values: values[0])
    except UserError as error:
        assert "fuzz.yaml" in str(error)


def test_stopped_trainings(tmp_path):
    """A damaged checkpoint is as none; a full training's settings are said to be damaged."""
    torch.save({"identity": {"seed": 0}, "model": {"a": torch.zeros(3)}, "accuracies": [0.5]}, tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    config = TrainConfig(architecture="resnet50", data="synthetic").model_dump_json()

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(mutations(content), mutations(config.encode(), json.loads(config)))
    def read(mutated: bytes, mutated_settings: bytes) -> None:
        (tmp_path / "a.pt").write_bytes(mutated)
        assert read_state(tmp_path / "a.pt", {"seed": 0}).keys() <= {"identity", "model", "accuracies"}
        (tmp_path / "config.json").write_bytes(mutated_settings)
        try:
            read_training(tmp_path)
        except UserError as error:
            assert "\n" not in str(error)

    read()


@pytest.fixture(scope="module")
def small() -> Architecture:
    design = SearchSpace.parse(SPACE, name="fuzz", file="fuzz.yaml").design(("mbconv",), size=1)
    assert design is not None
    return design


def damaged(state: dict[str, object], draw: Callable[[st.SearchStrategy[object]], object]) -> dict[str, object]:
    """A state of the right training in which a part is something else."""
    if "training" in state and draw(st.booleans()):
        return {**state, "training": damaged(state["training"], draw)}  # type: ignore[arg-type]
    return {**state, str(draw(st.sampled_from(sorted(state.keys() - {"identity", "data"})))): draw(VALUES)}


def test_a_stopped_training_that_lacks_something_is_begun_anew(tmp_path, npz_file, small):
    """The bytes are a checkpoint's, and it is of this very training."""
    data = open_source(str(npz_file)).load(Loading(16, max_train=64))
    trainer = Trainer(data, torch.device("cpu"), threads=1)
    recipe, path = Recipe(2, batch_size=32, ema_decay=0.9), tmp_path / "a.pt"
    whole = trainer.train(small, recipe, seed=0)
    trainer.train(small, recipe, seed=0, until=1, checkpoint=path)
    state = torch.load(path, weights_only=True)
    assert trainer.train(small, recipe, seed=0, checkpoint=path).accuracies == whole.accuracies

    @settings(max_examples=FEW, **QUIETLY)
    @given(st.data())
    def train(data: st.DataObject) -> None:
        torch.save(damaged(state, data.draw), path)
        found = trainer.train(small, recipe, seed=0, checkpoint=path)
        assert len(found.accuracies) == 2 and all(0 <= accuracy <= 1 for accuracy in found.accuracies)

    train()
    for name in state.keys() - {"identity"}:
        torch.save({each: value for each, value in state.items() if each != name}, path)
        assert trainer.train(small, recipe, seed=0, checkpoint=path).accuracies == whole.accuracies


def test_a_full_training_that_lacks_something_says_so(tmp_path, npz_file, small):
    (tmp_path / "small.json").write_text(small.to_json())
    folder = tmp_path / "training"
    config = TrainConfig(
        architecture=str(tmp_path / "small.json"), data=str(npz_file), train_images=64, epochs=1, out=folder
    )
    train_model(config)
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    refused = []

    @settings(max_examples=FEW, **QUIETLY)
    @given(st.data())
    def go_on(data: st.DataObject) -> None:
        torch.save(damaged(state, data.draw), folder / "checkpoint.pt")
        try:
            train_model(TrainConfig(out=folder), resume=True)
        except UserError as error:
            assert "checkpoint.pt" in str(error) and "\n" not in str(error)
            refused.append(error)

    go_on()
    assert refused


class Bomb:
    """What a pickle may do when it is opened."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch entered",)


def test_nothing_in_a_file_is_run(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"identity": {"seed": 0}, "model": Bomb()}, tmp_path / "stopped.pt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "stopped.pt", weights_only=True)
    assert read_state(tmp_path / "stopped.pt", {"seed": 0}) == {}
    training = tmp_path / "training"
    training.mkdir()
    (tmp_path / "stopped.pt").rename(training / "checkpoint.pt")
    config = TrainConfig(architecture="resnet50", data="synthetic", epochs=1, out=training)
    (training / "config.json").write_text(config.model_dump_json())
    with pytest.raises(UserError):
        train_model(TrainConfig(out=training), resume=True)
    tag = "image_size: !!python/object/apply:os.system [touch entered]\n"
    with pytest.raises(UserError, match="fuzz.yaml"):
        SearchSpace.parse(SPACE.replace("image_size: 16\n", tag), name="fuzz", file="fuzz.yaml")
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "space.yaml").write_text(tag)
    with pytest.raises(UserError):
        stored_space(SearchConfig(space="small"), run)
    assert sorted(os.listdir(tmp_path)) == ["run", "training"]


def test_an_architecture_that_is_no_text_of_ours() -> None:
    for text in ("", "[]", "null", "{}", '{"stages": 3}', "NaN", '"x"', "[" * 5000):
        with pytest.raises(UserError):
            Architecture.from_json(text)
