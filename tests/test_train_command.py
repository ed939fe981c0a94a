"""`train`: to the end, from weights, resumed; and what people get wrong."""

import json
import runpy

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hybridnas import SearchConfig, SearchSpace, build, run_search
from hybridnas.cli import exit_code
from hybridnas.config import TrainConfig
from hybridnas.data.loading import Loading
from hybridnas.data.sources import open_source
from hybridnas.export.describing import training_card
from hybridnas.full_training import train_model
from hybridnas.proxy.full import AUGMENTATIONS, Augmented, FullRecipe, FullTraining
from hybridnas.proxy.training import Trainer
from hybridnas.train import app


@pytest.fixture(scope="module")
def design(space_file, tmp_path_factory):
    """An architecture.json, and one of another architecture."""
    space = SearchSpace.load(space_file)
    folder = tmp_path_factory.mktemp("designs")
    for name, families in (("own", ("mbconv", "global")), ("other", ("convnext", "window"))):
        (folder / f"{name}.json").write_text(space.design(families, size=1).to_json())
    return folder / "own.json"


@pytest.fixture
def train(design, npz_file, tmp_path, capsys):
    def call(*flags, what=design, out="out", data=npz_file):
        given = [str(what)] * bool(what) + ["--data", str(data)] * bool(data)
        code = exit_code(app, [*given, "--out", str(tmp_path / out), *map(str, flags)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return call


def weights(folder):
    return load_file(folder / "best" / "weights.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_it_learns_and_leaves_everything(train, tmp_path):
    code, out, _ = train("--epochs", 8, "--batch-size", 32)
    assert code == 0
    folder = tmp_path / "out"
    result = json.loads((folder / "result.json").read_text())
    metrics = pd.read_csv(folder / "metrics.csv")
    assert metrics.epoch.tolist() == list(range(1, 9))
    assert result["accuracy"] == metrics.validation_accuracy.max() > 0.6  # chance is 0.33
    assert result["test_accuracy"] > 0.6
    assert f"{100 * result['test_accuracy']:.1f} % on test images" in out
    assert list(folder.glob("events.out.tfevents*"))
    loaded = runpy.run_path(str(folder / "best" / "model.py"))
    assert loaded["model"](loaded["preprocess"](torch.zeros(2, 3, 16, 16, dtype=torch.uint8))).shape == (2, 3)


@pytest.mark.parametrize("augment", ["light", "strong"])
def test_a_resumed_training_ends_in_the_same_weights(train, tmp_path, monkeypatch, augment):
    flags = ("--epochs", 3, "--augment", augment, "--flip")
    # What two runs choose hangs on what else the machine does.
    monkeypatch.setattr("hybridnas.full_training.quickest_num_threads", lambda *given: 1)
    assert train(*flags, out="whole")[0] == 0
    epoch = FullTraining.epoch

    def stopped(self, on_step):
        if self.done == 2:
            raise KeyboardInterrupt
        return epoch(self, on_step)

    with monkeypatch.context() as patch:
        patch.setattr(FullTraining, "epoch", stopped)
        assert train(*flags, out="parts")[0] == 130
    code, out, _ = train("--resume", out="parts", what=None, data=None)
    assert code == 0 and "going on after epoch 2" in out
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert same(weights(whole), weights(parts))
    states = [torch.load(each / "checkpoint.pt", weights_only=True)["training"] for each in (whole, parts)]
    assert same(states[0]["model"], states[1]["model"]) and states[0]["done"] == 3
    timeless = [pd.read_csv(each / "metrics.csv").drop(columns="seconds") for each in (whole, parts)]
    assert timeless[0].equals(timeless[1])


def test_a_finished_training_is_not_repeated(train, monkeypatch):
    assert train("--epochs", 1)[0] == 0
    monkeypatch.setattr(FullTraining, "epoch", None)
    code, out, _ = train("--resume", what=None, data=None)
    assert code == 0 and "on test images" in out


def test_a_frozen_backbone_keeps_its_weights_and_gets_a_new_head(train, design, tmp_path):
    torch.manual_seed(3)
    network = build(_read(design), 7)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    copied = tmp_path / "architecture.json"
    copied.write_text(design.read_text())
    code, out, _ = train("--epochs", 2, "--freeze-backbone", what=copied)
    assert code == 0 and "from weights" in out
    before, after = network.state_dict(), weights(tmp_path / "out")
    backbone = [key for key in before if not key.startswith("head.")]
    assert all(
        torch.allclose(before[key], after[key], atol=1e-6) for key in backbone if before[key].is_floating_point()
    )
    assert after["head.classifiers.0.weight"].shape[0] == 3


def _read(path):
    from hybridnas import Architecture

    return Architecture.from_json(path.read_text())


def test_a_run_is_trained_on(train, space_file, npz_file, tmp_path):
    config = SearchConfig(
        space=str(space_file), data=str(npz_file), epochs=1, trials=2, threads=1, seed=5, baselines="none"
    )
    run = run_search(config.model_copy(update={"out": tmp_path / "searched"}))
    code, out, _ = train("--epochs", 1, "--freeze-backbone", what=tmp_path / "searched", data=None)
    assert code == 0 and "bands" in out  # the run's data
    written = _read(tmp_path / "out" / "best" / "architecture.json")
    assert written.key == run.best.key
    mean = [line for line in (tmp_path / "searched/best/model.py").read_text().splitlines() if line.startswith("MEAN")]
    assert mean[0] in (tmp_path / "out/best/model.py").read_text()
    assert json.loads((tmp_path / "out/config.json").read_text())["split_seed"] == 5  # its test images stay unseen
    assert train("--epochs", 1, what=tmp_path / "searched", out="scratch")[0] == 0
    code, out, _ = train("--epochs", 1, "--freeze-backbone", what=tmp_path / "out", data=None, out="again")
    assert code == 0 and "bands" in out  # of a training as of a run


def test_its_own_test_images_stay_unseen_however_files_of_a_run_are_named(train, space_file, npz_file, tmp_path):
    config = SearchConfig(
        space=str(space_file), data=str(npz_file), epochs=1, trials=1, threads=1, seed=5, baselines="none"
    )
    run_search(config.model_copy(update={"out": tmp_path / "searched"}))
    best = tmp_path / "searched" / "best"
    copied = tmp_path / "design.json"
    copied.write_text((best / "architecture.json").read_text())
    elsewhere = npz_file.parent / ".." / npz_file.parent.name / npz_file.name
    assert str(elsewhere) != str(npz_file)
    weights_file = ("--pretrained", best / "weights.safetensors")
    for i, (what, data, flags, seed) in enumerate(
        [
            (best / "architecture.json", None, (), 5),
            (copied, elsewhere, weights_file, 5),
            (copied, elsewhere, (), 0),  # from scratch, so that nothing was seen
            (best / "architecture.json", None, ("--pretrained", tmp_path / "2" / "best" / "weights.safetensors"), 0),
        ]
    ):
        code, out, err = train("--epochs", 1, *flags, what=what, data=data, out=f"{i}")
        assert code == 0 and "bands" in out, err
        assert json.loads((tmp_path / f"{i}" / "config.json").read_text())["split_seed"] == seed
    # The card's command begins where this did: the split of the run follows from its folder alone.
    card = (tmp_path / "0" / "best" / "card.md").read_text()
    assert f"hybridnas train {best / 'architecture.json'} --data" in card
    assert "hybridnas train architecture.json --data" in (tmp_path / "2" / "best" / "card.md").read_text()


@pytest.mark.parametrize("colours_first", [True, False])
def test_between_grey_images_and_colours(train, design, npz_file, tmp_path, colours_first):
    """What is classified later is turned grey where the last images were."""
    with np.load(npz_file) as file:
        arrays = dict(file)
    for name in ("train_images", "test_images"):
        arrays[name] = np.stack([arrays[name], arrays[name] // 2, 255 - arrays[name]], -1)
    np.savez(tmp_path / "colours.npz", **arrays)
    data = [tmp_path / "colours.npz", npz_file]
    first, second = data if colours_first else reversed(data)
    assert train("--epochs", 1, data=first, out="first")[0] == 0
    flags = ("--epochs", 1, "--pretrained", tmp_path / "first" / "best" / "weights.safetensors")
    assert train(*flags, data=second, out="second")[0] == 0
    before, after = [
        json.loads((tmp_path / name / "best" / "preprocessing.json").read_text()) for name in ("first", "second")
    ]
    channels = 1 if colours_first else 3
    assert len(before["mean"]) == 4 - channels and len(after["mean"]) == len(after["std"]) == channels
    for name in ("mean", "std"):
        assert np.mean(after[name]) == pytest.approx(np.mean(before[name]), abs=2e-3)
    path = tmp_path / "photo.png"
    Image.new("RGB", (20, 20), (200, 30, 90)).save(path)
    loaded = runpy.run_path(str(tmp_path / "second" / "best" / "model.py"))
    pixels = loaded["read_image"](path)
    assert (pixels[0] == pixels[1]).all() == colours_first


def test_a_card_names_the_design_that_its_weights_came_with(tmp_path):
    """`--pretrained timm` is for a name of the zoo alone."""
    (tmp_path / "result.json").write_text('{"accuracy": 0.5, "test_accuracy": 0.5, "epoch": 1}')
    model = build(SearchSpace.load("tiny").design(("mbconv",) * 4, size=0), 3)
    for given, named in (
        ({"pretrained": "timm"}, "levit_128"),
        ({"freeze_backbone": True}, "levit_128"),
        ({"pretrained": "own.safetensors"}, "architecture.json"),
        ({}, "architecture.json"),
    ):
        config = TrainConfig(architecture="levit_128", data="synthetic", split_seed=0, **given)
        assert training_card(tmp_path, config, model).retrain[:3] == ["hybridnas", "train", named]
    config = TrainConfig(architecture="levit_128", data="photos", split_seed=0, flip=True, max_bad=50)
    assert training_card(tmp_path, config, model).retrain[-3:] == ["--flip", "--max-bad", "50"]


def test_timm_weights_from_a_file(train, tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model("mobilenetv2_100", num_classes=5)
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    code, _, err = train(
        "--epochs", 1, "--freeze-backbone", "--pretrained", tmp_path / "timm.pth", "--image-size", 32,
        "--train-images", 60, what="mobilenetv2_100",
    )  # fmt: skip
    assert code == 0, err
    # The images are grey: one figure for the three that theirs saw.
    assert "MEAN = [114.495]" in (tmp_path / "out" / "best" / "model.py").read_text()
    stems = [value for key, value in weights(tmp_path / "out").items() if key.startswith("stem.")]
    assert any(value.shape == theirs.conv_stem.weight.shape and value.equal(theirs.conv_stem.weight) for value in stems)


def test_images_are_the_same_in_any_process(npz_file, design):
    dataset = open_source(str(npz_file)).load(Loading(16))
    trainer = Trainer(dataset, torch.device("cpu"), threads=1)
    recipe = FullRecipe(1, 32, 1e-3, AUGMENTATIONS["strong"], flip=True)
    images = Augmented(trainer, 16, recipe)
    first = images[3, 17][0]
    assert first.shape == (3, 16, 16) and torch.equal(first, images[3, 17][0])
    assert not torch.equal(first, images[3, 18][0])
    plain = Augmented(trainer, 16, FullRecipe(1, 32, 1e-3, AUGMENTATIONS["none"]))
    expected = (torch.from_numpy(dataset.train.images[3]).float() - trainer.mean[0]) / trainer.std[0]
    assert torch.allclose(plain[3, 0][0], expected.expand(3, -1, -1), atol=1e-5)


def test_other_processes_may_augment(design, npz_file, tmp_path):
    config = TrainConfig(architecture=str(design), data=str(npz_file), epochs=1, loaders=1, out=tmp_path / "out")
    training = train_model(config)
    assert len(training.metrics) == 1 and 0 <= training.test_accuracy <= 1


def test_an_odd_batch_and_few_images(train):
    code, out, _ = train("--epochs", 1, "--batch-size", 33, "--augment", "strong")
    assert code == 0 and "steps of 32" in out
    assert train("--epochs", 1, "--batch-size", 500, out="large")[0] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--epochs", "0"), "--epochs: input should be greater than or equal to 1, got 0"),
        (("--batch-size", "1"), "--batch-size"),
        (("--learning-rate", "-1"), "--learning-rate"),
        (("--augment", "heavy"), "--augment: input should be 'none', 'light' or 'strong', got heavy"),
        (("--pretrained", "nowhere.safetensors"), "--pretrained nowhere.safetensors does not exist"),
        (("--pretrained", "timm"), "--pretrained timm is for a design of the zoo"),
        (("--freeze-backbone",), "there are no weights beside"),
        (("--device", "cuda:9"), "is not on this machine"),
        (("--learning-rate", "1e20", "--epochs", "2"), "Training failed: diverged: the loss is"),
    ],
)
def test_wrong_flags(train, flags, message):
    code, _, err = train(*flags)
    assert code == 2 and message in err and err.count("\n") == 1


def test_a_mistyped_design_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert exit_code(app, ["resnet5o"]) == 2
    assert capsys.readouterr().err.startswith("hybridnas: ")
    assert not [*tmp_path.iterdir()]


def test_weights_of_another_architecture(train, design, tmp_path):
    file = tmp_path / "other.safetensors"
    save_file(build(_read(design.parent / "other.json"), 3).state_dict(), file)
    code, _, err = train("--pretrained", file)
    assert code == 2 and "weights of another architecture" in err
    file.write_bytes(b"nothing")
    code, _, err = train("--pretrained", file)
    assert code == 2 and "cannot be read" in err
    torch.save({"weight": torch.zeros(1)}, tmp_path / "any.pth")
    code, _, err = train("--pretrained", tmp_path / "any.pth")
    assert code == 2 and "is not of hybridnas" in err


def test_wrong_words(train, tmp_path):
    assert "ARCH is missing" in train(what=None)[2]
    assert "No design 'resnet5' in the zoo" in train(what="resnet5")[2]
    assert "is no training" in train("--resume", what=None, out="nowhere")[2]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "exists already" in train(out="full")[2]
    assert "cannot be made" in train(out="full/file/out")[2]


def test_running_out_of_memory_is_said(train, monkeypatch):
    def step(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(FullTraining, "_step", step)
    code, _, err = train("--epochs", 1)
    assert code == 2 and "out of memory; try a smaller --batch-size" in err


def test_a_training_stopped_in_its_first_epoch_begins_anew(train, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(FullTraining, "epoch", stopped)
    assert train("--epochs", 1)[0] == 130
    monkeypatch.undo()
    assert train("--resume", what=None, data=None)[0] == 0


def test_what_a_resumed_training_refuses(train, design, npz_file, tmp_path, capsys):
    assert train("--epochs", 1)[0] == 0
    folder = tmp_path / "out"
    code, _, err = train("--resume", "--epochs", 5, what=None)
    assert code == 2 and "--epochs was 1 in this run and cannot become 5: --resume may change nothing" in err
    code, _, err = train("--resume", what=design.parent / "other.json")
    assert code == 2 and err.startswith("hybridnas: ARCH was ")
    assert exit_code(app, [str(folder), "--resume"]) == 2
    assert f"to go on with a training, say --resume --out {folder}." in capsys.readouterr().err
    design.rename(design.with_suffix(".away"))  # the folder has its own
    assert train("--resume", what=None, data=None)[0] == 0
    design.with_suffix(".away").rename(design)

    kept = (folder / "checkpoint.pt").read_bytes()
    assert train("--epochs", 1, what=design.parent / "other.json", out="another")[0] == 0
    (folder / "checkpoint.pt").write_bytes((tmp_path / "another" / "checkpoint.pt").read_bytes())
    code, _, err = train("--resume", what=None, data=None)
    assert code == 2 and "is of another architecture" in err
    (folder / "checkpoint.pt").write_bytes(kept[:100])
    code, _, err = train("--resume", what=None, data=None)
    assert code == 2 and "is damaged" in err
    (folder / "checkpoint.pt").write_bytes(kept)

    arrays = dict(np.load(npz_file))
    changed = tmp_path / "changed.npz"
    np.savez(changed, **arrays)
    assert train("--epochs", 1, data=changed, out="moved")[0] == 0
    np.savez(changed, **arrays | {"train_images": 255 - arrays["train_images"]})
    code, _, err = train("--resume", what=None, data=None, out="moved")
    assert code == 2 and "is not what it was" in err
