"""What only a GPU can show: graphs of training steps, event times, precisions, whole searches. Skipped without one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from hybridnas import Architecture, Run, SearchConfig, build, profile_models, run_search, zoo
from hybridnas.cost.latency import Timer
from hybridnas.data.batches import layout
from hybridnas.data.loading import Loading
from hybridnas.data.sources import open_source
from hybridnas.errors import TrainingFailed
from hybridnas.proxy import steps, training
from hybridnas.proxy.training import Recipe, Trainer, in_layout
from hybridnas.space import SearchSpace

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

RECIPE = Recipe(epochs=2, batch_size=32)
FAMILIES = [("mbconv", "global"), ("convnext", "window"), ("repmixer", "repmixer"), ("window", "mbconv")]


@pytest.fixture(scope="module")
def trainer(npz_file: Path) -> Trainer:
    return Trainer(open_source(str(npz_file)).load(Loading(16)), torch.device("cuda"), threads=1)


def design(space_file: Path, families: tuple[str, str] = FAMILIES[0]) -> Architecture:
    found = SearchSpace.load(space_file).design(families, size=1)
    assert found is not None
    return found


@pytest.mark.parametrize("families", FAMILIES)
def test_it_learns_from_a_recorded_step(trainer: Trainer, space_file: Path, families: tuple[str, str]) -> None:
    result = trainer.train(design(space_file, families), Recipe(epochs=4, batch_size=32), seed=1)
    assert result.accuracy > 0.6  # chance is 0.33


@pytest.mark.parametrize("families", FAMILIES)
def test_replayed_steps_are_those_that_were_recorded(
    trainer: Trainer, space_file: Path, families: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In full precision, where only the order of sums differs."""
    monkeypatch.setattr(training, "autocast_dtype", lambda device: None)
    replayed = trainer.train(design(space_file, families), RECIPE, seed=1).model.state_dict()
    monkeypatch.setattr(steps, "_Recorded", lambda step, *_: step)
    eager = trainer.train(design(space_file, families), RECIPE, seed=1).model.state_dict()
    fresh = build(design(space_file, families), 3).state_dict()
    for name, value in eager.items():
        torch.testing.assert_close(replayed[name], value, rtol=0.02, atol=5e-3)
    assert any((eager[name].cpu() - fresh[name]).abs().max() > 0.05 for name in fresh if "weight" in name)


def test_the_rate_of_each_replayed_step_is_its_own(trainer: Trainer, space_file: Path) -> None:
    """With a rate of zero in all but the warm-up nothing more is learnt: the graph must not keep the rate it saw."""
    architecture, recipe = design(space_file), Recipe(epochs=1, batch_size=32, weight_decay=0.0)
    seen = []
    model = build(architecture, 3).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step < 6))
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    step = steps.make_step(model, optimizer, scaler, dtype=None, label_smoothing=0.0, clip_norm=recipe.clip_norm)
    batches = list(trainer.batches("train", 16).shuffled(32, torch.Generator().manual_seed(0), nn.Identity()))
    for x, labels in [*batches, *batches][:10]:
        before = next(model.parameters()).detach().clone()
        step(x, labels)
        schedule.step()
        seen.append(not torch.equal(before, next(model.parameters())))
    assert seen == [True] * 6 + [False] * 4


def test_a_stopped_training_goes_on(trainer: Trainer, space_file: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "half.pt"
    first = trainer.train(design(space_file), RECIPE, seed=3, until=1, checkpoint=checkpoint)
    second = trainer.train(design(space_file), RECIPE, seed=3, checkpoint=checkpoint)
    whole = trainer.train(design(space_file), RECIPE, seed=3)
    assert second.accuracies[:1] == first.accuracies and len(second.accuracies) == 2
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value, rtol=0.1, atol=0.05)
    on_cpu = Trainer(trainer.dataset, torch.device("cpu"), threads=1)
    assert on_cpu.train(design(space_file), RECIPE, seed=3, checkpoint=checkpoint).accuracies[:1] == first.accuracies


def test_gradients_of_half_precision_are_scaled(
    trainer: Trainer, space_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "autocast_dtype", lambda device: torch.float16)
    assert trainer.train(design(space_file), Recipe(epochs=4, batch_size=32), seed=1).accuracy > 0.6


class Waits(nn.Module):
    """Looks at a value in the forward pass, which a graph cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) if float(x.sum()) < 1e9 else x


def test_what_cannot_be_recorded_is_trained_without_and_said() -> None:
    model = Waits().cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    step = steps.make_step(model, optimizer, scaler, dtype=None, label_smoothing=0.0, clip_norm=1.0)
    x = torch.eye(4, device="cuda")[:3].repeat(4, 1)
    labels = torch.arange(3, device="cuda").repeat(4)
    losses = [step(x, labels).item() for _ in range(steps.WARM_UP)]
    with pytest.warns(UserWarning, match="Trained without a CUDA graph"):
        losses.append(step(x, labels).item())
    losses += [step(x, labels).item() for _ in range(20)]
    assert losses[-1] < losses[4] < losses[0]


@pytest.mark.parametrize("name", zoo.names())
def test_every_design_of_the_zoo_can_be_recorded(name: str) -> None:
    torch.manual_seed(0)
    architecture = zoo.load(name)
    model = in_layout(build(architecture, 10).cuda(), layout(torch.device("cuda"), architecture.image_size))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    step = steps.make_step(model, optimizer, scaler, dtype=torch.bfloat16, label_smoothing=0.1, clip_norm=1.0)
    x = torch.randn(4, 3, architecture.image_size, architecture.image_size, device="cuda")
    labels = torch.arange(4, device="cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = [step(x, labels).item() for _ in range(8)]
    assert all(loss == loss and loss < 100 for loss in losses)


def test_memory_that_runs_out_is_a_failed_training(npz_file: Path, space_file: Path) -> None:
    trainer = Trainer(open_source(str(npz_file)).load(Loading(16)), torch.device("cuda"), threads=1)
    trainer.batches("train", 16)
    torch.cuda.empty_cache()
    free = (torch.cuda.memory_reserved() + 4 * 2**20) / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(free)
    try:
        with pytest.raises(TrainingFailed, match="out of memory"):
            trainer.train(replace(design(space_file), image_size=64), Recipe(epochs=1, batch_size=256), seed=0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert trainer.train(design(space_file), RECIPE, seed=0).accuracy > 0.3


def test_events_tell_the_time_that_a_clock_tells() -> None:
    timer = Timer("cuda")
    model = zoo.load("resnet50")
    measured = timer.measure(build(model, 10).deploy(), model.image_size, seconds=1.0)
    network = build(model, 10).deploy().cuda().eval()
    x = torch.randn(1, 3, 224, 224, device="cuda").contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        for _ in range(10):
            network(x)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(50):
            network(x)
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - start) / 50
    assert measured.raw_p50 == pytest.approx(1000 * seconds, rel=0.5)


@pytest.mark.parametrize("runtime", ["torch", "cudagraphs"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_precisions_and_runtimes(runtime: str, precision: str) -> None:
    timer = Timer("cuda", runtime=runtime, precision=precision, batch_size=8)
    about = timer.environment
    assert "NVIDIA" in str(about["gpu"])
    assert 0 < timer.measure(build(zoo.load("levit_128"), 10).deploy(), 224, seconds=0.3).p50 < 100


def test_profile() -> None:
    table = profile_models({"levit": zoo.load("levit_128")}, target="cuda")
    assert table.latency_ms_p50.gt(0).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_search_that_trains_and_times_there(npz_file: Path, space_file: Path, tmp_path: Path, workers: int) -> None:
    config = SearchConfig(
        space=str(space_file),
        data=str(npz_file),
        device="cuda",
        target="cuda",
        trials=6,
        budget_ms=100,
        workers=workers,
    )
    run = run_search(config.model_copy(update={"out": tmp_path / "run"}))
    assert (run.trials.status == "complete").sum() >= 1 and run.result["targets"][0]["latency_ms_p50"] <= 100
    assert next(run.best_model().parameters()).device.type == "cpu"
    again = run_search(SearchConfig(out=tmp_path / "run", trials=8), resume=True)
    assert len(again.trials) >= len(run.trials)


def test_a_full_training_there(npz_file: Path, space_file: Path, tmp_path: Path) -> None:
    described = tmp_path / "design.json"
    described.write_text(design(space_file).to_json())
    command = [sys.executable, "-m", "hybridnas", "train", str(described), "--data", str(npz_file), "--device", "cuda"]
    done = subprocess.run(
        [*command, "--epochs", "3", "--out", str(tmp_path / "trained")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout


def test_a_run_from_there_is_read_without_a_gpu(npz_file: Path, space_file: Path, tmp_path: Path) -> None:
    config = SearchConfig(space=str(space_file), data=str(npz_file), device="cuda", target="cpu", trials=2)
    run_search(config.model_copy(update={"out": tmp_path / "run"}))
    read = f"Run.load({str(tmp_path / 'run')!r}).best_model()"
    code = f"from hybridnas import Run; import torch; {read}; print(torch.cuda.is_available())"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert Run.load(tmp_path / "run").best.key
