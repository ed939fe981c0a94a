from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hybridnas.architecture import Architecture
from hybridnas.data.dataset import Dataset, Split
from hybridnas.data.loading import Loading
from hybridnas.data.sources import open_source
from hybridnas.errors import OutOfTime, TrainingFailed
from hybridnas.proxy import training
from hybridnas.proxy.training import Recipe, Trainer
from hybridnas.space import SearchSpace

RECIPE = Recipe(epochs=2, batch_size=32)


@pytest.fixture(scope="module")
def trainer(npz_file: Path) -> Trainer:
    return Trainer(open_source(str(npz_file)).load(Loading(16)), torch.device("cpu"), threads=1)


@pytest.fixture(scope="module")
def architecture(space_file: Path) -> Architecture:
    design = SearchSpace.load(space_file).design(("mbconv", "global"), size=1)
    assert design is not None
    return design


def test_it_learns_and_the_seed_decides_everything(trainer: Trainer, architecture: Architecture) -> None:
    first, again, other = (trainer.train(architecture, RECIPE, seed=seed) for seed in (1, 1, 2))
    assert first.accuracy > 0.6  # chance is 0.33
    assert first.accuracies == again.accuracies
    weights = [result.model.state_dict() for result in (first, again, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_other_random_numbers_in_between_change_nothing(trainer: Trainer, architecture: Architecture) -> None:
    first = trainer.train(architecture, RECIPE, seed=1)
    torch.rand(17)
    assert trainer.train(architecture, RECIPE, seed=1).accuracies == first.accuracies


def test_a_loss_that_is_no_number_is_a_failure_with_its_step(trainer: Trainer, architecture: Architecture) -> None:
    with pytest.raises(TrainingFailed, match=r"diverged: the loss is (nan|inf) at step \d+ of 12"):
        trainer.train(architecture, replace(RECIPE, learning_rate=1e30, warm_up=0.0), seed=0)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()]
)
def test_running_out_of_memory_is_a_failure(
    trainer: Trainer, architecture: Architecture, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def build(*args: object) -> None:
        raise error

    monkeypatch.setattr(training, "build", build)
    with pytest.raises(TrainingFailed, match="out of memory"):
        trainer.train(architecture, RECIPE, seed=0)


def test_our_own_defects_are_not_hidden(
    trainer: Trainer, architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*args: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(training, "build", build)
    with pytest.raises(RuntimeError, match="shapes"):
        trainer.train(architecture, RECIPE, seed=0)


def test_a_run_that_cannot_end_in_time_is_given_up_early(trainer: Trainer, architecture: Architecture) -> None:
    shares: list[float] = []
    with pytest.raises(OutOfTime, match="would take"):
        trainer.train(architecture, replace(RECIPE, epochs=1000), seed=0, seconds_left=0.5, on_step=shares.append)
    assert len(shares) < 100


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    rates = [training.rate(step, 100, 0.2) for step in range(101)]
    assert rates[:20] == sorted(rates[:20]) and rates[20:] == sorted(rates[20:], reverse=True)
    assert max(rates) == pytest.approx(1, abs=0.05) and rates[100] == pytest.approx(0) and rates[0] < 0.06
    assert rates[60] == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))


def test_norms_biases_and_bias_tables_do_not_decay(trainer: Trainer, architecture: Architecture) -> None:
    model = training.build(architecture, 3)
    decayed, free = training.parameter_groups(model, 0.05)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    kept = {names[id(p)] for p in free["params"]}  # type: ignore[attr-defined]
    assert free["weight_decay"] == 0 and decayed["weight_decay"] == 0.05
    assert any(name.endswith("bias.table") for name in kept)
    assert len(kept) + len(decayed["params"]) == len(names)  # type: ignore[arg-type]
    assert all(p.ndim >= 2 for p in decayed["params"])  # type: ignore[attr-defined]


def test_accuracy_is_the_mean_of_the_classes_where_these_are_of_unequal_size() -> None:
    labels = np.array([0] * 40 + [1] * 8)
    part = Split(np.zeros((48, 1, 16, 16), np.uint8), labels)
    equal = Split(np.zeros((40, 1, 16, 16), np.uint8), np.arange(40) % 2)

    class First(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([1.0, 0.0]).expand(len(x), 2)

    for train, expected in ((part, 0.5), (equal, 40 / 48)):
        trainer = Trainer(Dataset("d", train, part, part, ("a", "b")), torch.device("cpu"), threads=1)
        assert trainer.evaluate(First(), "validation", image_size=16) == pytest.approx(expected)


def test_threads_are_tried_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert training.quickest_num_threads(1, 16, 8) == 1
    assert training.quickest_num_threads(2, 1, 2) in (1, 2)  # however small images are
    for slow, expected in ((1, 2), (2, 1)):
        now = [0.0]

        def clock(now: list[float] = now, slow: int = slow) -> float:
            now[0] += 2.0 if torch.get_num_threads() == slow else 1.0
            return now[0]

        monkeypatch.setattr(training.time, "perf_counter", clock)
        torch.set_num_threads(1)
        assert training.quickest_num_threads(2, 16, 8) == expected
        assert torch.get_num_threads() == 1


def test_batches_are_shifted_and_mirrored_and_nothing_else() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), dtype=np.uint8))
    padded = torch.nn.functional.pad(images.float(), (2, 2, 2, 2), mode="replicate").byte()
    for flip in (False, True):
        augment = training.augmentation(Recipe(1, shift=0.25, flip=flip), 8)
        torch.manual_seed(0)
        found = set()
        for _ in range(150):
            moved = augment(images)
            found |= {
                (y, x, mirrored)
                for y in range(5)
                for x in range(5)
                for mirrored in (False, True)
                if torch.equal(moved.flip(3) if mirrored else moved, padded[:, :, y : y + 8, x : x + 8])
            }
        assert {(y, x) for y, x, _ in found} == {(y, x) for y in range(5) for x in range(5)}
        assert {mirrored for *_, mirrored in found} == {False, flip}
    assert torch.equal(training.augmentation(Recipe(1, shift=0.0), 8)(images), images)


def test_a_loss_that_stays_far_above_guessing_is_a_failure(trainer: Trainer, architecture: Architecture) -> None:
    with pytest.raises(TrainingFailed, match=r"diverged: the loss is [\d.e+]+ at step \d+ of 120"):
        trainer.train(architecture, replace(RECIPE, epochs=20, learning_rate=300.0, clip_norm=1e9), seed=0)


def test_averaged_weights_are_evaluated(trainer: Trainer, architecture: Architecture) -> None:
    plain, averaged = (trainer.train(architecture, replace(RECIPE, ema_decay=decay), seed=1) for decay in (0.0, 0.99))
    pairs = zip(plain.model.parameters(), averaged.model.parameters(), strict=True)
    assert not any(torch.equal(own, mean) for own, mean in pairs if own.ndim > 1)
    assert averaged.accuracy > 0.6


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_stopped_and_gone_on_with_it_is_the_same_training(
    trainer: Trainer, architecture: Architecture, tmp_path: Path, ema_decay: float
) -> None:
    recipe = replace(RECIPE, epochs=4, ema_decay=ema_decay)
    whole = trainer.train(architecture, recipe, seed=1)
    file = tmp_path / "stopped.pt"
    shares: list[float] = []
    for until in (1, 3, None):
        torch.manual_seed(99)  # whatever was drawn in between
        found = trainer.train(architecture, recipe, seed=1, until=until, checkpoint=file, on_step=shares.append)
        assert found.accuracies == whole.accuracies[: until or 4]
    assert all(torch.equal(a, b) for a, b in zip(*(r.model.state_dict().values() for r in (whole, found)), strict=True))
    steps = len(trainer.dataset.train) // recipe.batch_size
    assert len(shares) == 4 * steps and shares.count(1.0) == 3


def test_a_checkpoint_whose_moments_lie_otherwise_in_memory_is_gone_on_with(
    trainer: Trainer, architecture: Architecture, tmp_path: Path
) -> None:
    """As one that a GPU wrote, where small images lie contiguous."""
    file = tmp_path / "stopped.pt"
    whole = trainer.train(architecture, RECIPE, seed=1)
    trainer.train(architecture, RECIPE, seed=1, until=1, checkpoint=file)
    state = torch.load(file, weights_only=True)
    every = [moments["exp_avg"] for moments in state["optimizer"]["state"].values()]
    assert any(not each.is_contiguous() for each in every)
    for moments in state["optimizer"]["state"].values():
        moments |= {name: value.contiguous() for name, value in moments.items()}
    torch.save(state, file)
    found = trainer.train(architecture, RECIPE, seed=1, checkpoint=file)
    assert all(torch.equal(a, b) for a, b in zip(*(r.model.state_dict().values() for r in (whole, found)), strict=True))


@pytest.mark.parametrize("lack", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_checkpoint_outlasts_a_lack_of_memory(
    trainer: Trainer,
    architecture: Architecture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lack: Exception,
) -> None:
    file = tmp_path / "stopped.pt"
    trainer.train(architecture, RECIPE, seed=1, until=1, checkpoint=file)
    stopped = file.read_bytes()

    def full(*_: object) -> None:
        raise lack

    monkeypatch.setattr(training, "_take_over", full)
    with pytest.raises(TrainingFailed, match="out of memory"):
        trainer.train(architecture, RECIPE, seed=1, checkpoint=file)
    assert file.read_bytes() == stopped


def test_of_another_training_or_damaged_a_checkpoint_counts_as_none(
    trainer: Trainer, architecture: Architecture, tmp_path: Path
) -> None:
    file = tmp_path / "stopped.pt"
    expected = trainer.train(architecture, RECIPE, seed=1)
    for seed, recipe in ((2, RECIPE), (1, replace(RECIPE, learning_rate=1e-3))):
        trainer.train(architecture, recipe, seed=seed, until=1, checkpoint=file)
        assert trainer.train(architecture, RECIPE, seed=1, checkpoint=file).accuracies == expected.accuracies
    for damaged in (b"", b"torn", file.read_bytes()[:-500]):
        file.write_bytes(damaged)
        assert trainer.train(architecture, RECIPE, seed=1, checkpoint=file).accuracies == expected.accuracies
    torch.save({"identity": print}, file)  # code: refused
    assert trainer.train(architecture, RECIPE, seed=1, checkpoint=file).accuracies == expected.accuracies
