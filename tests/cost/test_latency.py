"""The timer's logic. How fast anything is, no test says: that depends on the machine and its hour."""

import ast
import itertools
import random
import statistics
from pathlib import Path

import pytest
import torch
from torch import nn

from hybridnas.architecture import Architecture, Stage, Stem, Transition
from hybridnas.cost import probe
from hybridnas.cost.latency import Latency, Timer
from hybridnas.cost.probe import MIN_PASSES, MIN_TURNS, median_interval, take_turns
from hybridnas.cost.reference import REFERENCES, reference, reference_for
from hybridnas.cost.runtimes import Input, Setting
from hybridnas.cost.targets import best_device, local_device, open_target
from hybridnas.errors import CannotRun, ConfigError, TargetError
from hybridnas.model import build

SMALL = Architecture(16, Stem("patch4", 8), (Stage(Transition("none", 1), "repmixer", 1, 8),))


@pytest.fixture(scope="module")
def timer():
    return Timer("cpu", threads=1)


class Clock:
    """Milliseconds that each pass takes, told instead of measured; keeps the order of the passes."""

    def __init__(self, **ms):
        self.ms = ms
        self.order = []

    def __call__(self, run):
        self.order.append(run)
        took = self.ms[run]
        return took(len(self.order)) if callable(took) else took


def turns(clock, *names, seconds=0.0, **options):
    return take_turns(names, "reference", seconds=seconds, time_pass=clock, **options)


def test_passes_lie_between_two_of_the_reference():
    clock = Clock(reference=20.0, network=90.0)
    (found,) = turns(clock, "network")
    assert len(found) == MIN_PASSES >= MIN_TURNS
    assert found == [(20.0, [90.0])] * len(found)
    timed = clock.order[-2 * len(found) :]  # warm-ups come before
    assert timed == ["network", "reference"] * len(found)


def test_quick_networks_have_several_passes_a_turn_and_some_before_that_do_not_count():
    clock = Clock(reference=3.0, network=1.0)
    (found,) = turns(clock, "network")
    assert len(found) == MIN_TURNS
    assert {len(own) for _, own in found} == {8}
    assert clock.order[-18:] == ["network"] * (6 + 8) + ["reference"] * (2 + 2)
    (found,) = turns(Clock(reference=3.0, network=1e-6), "network")
    assert {len(own) for _, own in found} == {probe.MAX_REPEATS}


def test_several_take_turns_with_each_other():
    clock = Clock(reference=10.0, a=2.0, b=3.0, c=4.0)
    found = turns(clock, "a", "b", "c")
    assert [turn[0] for turn in found] == [(10.0, [2.0]), (10.0, [3.0]), (10.0, [4.0])]
    assert clock.order[-8:] == ["a", "b", "c"] * 2 + ["reference"] * 2  # the first of each not counted


def test_a_drifting_machine_gives_the_same_ratio():
    def drift(k):
        return 1 + k / 50

    clock = Clock(reference=lambda k: 20 * drift(k), network=lambda k: 60 * drift(k))
    (found,) = turns(clock, "network")
    assert statistics.median(probe.ratios(found)) == pytest.approx(3, rel=0.01)


def test_timing_ends_when_the_interval_is_narrow():
    """With seconds to spare: the figures do not differ at all."""
    (found,) = turns(Clock(reference=10.0, network=50.0), "network", seconds=1e6)
    assert len(found) == MIN_PASSES


def test_timing_goes_on_while_the_interval_is_wide():
    generator = random.Random(0)
    clock = Clock(reference=10.0, network=lambda k: generator.choice([40.0, 50.0, 60.0]))
    (found,) = turns(clock, "network", seconds=0.05)
    assert len(found) > MIN_PASSES


def test_what_is_much_too_slow_has_few_turns(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(probe.time, "perf_counter", lambda: now[0])

    def slow(k):
        now[0] += 10
        return 1e4

    (found,) = turns(Clock(reference=1.0, network=slow), "network", seconds=2)
    assert len(found) == 3


@pytest.mark.parametrize("spread", [0.01, 0.2])
def test_the_interval_holds_the_true_median_nearly_always(spread):
    generator = random.Random(1)
    held = 0
    for _ in range(100):
        low, middle, high = median_interval([generator.gauss(1, spread) for _ in range(41)])
        assert low <= middle <= high
        held += low <= 1 <= high
    assert 88 <= held <= 100


def test_figures_are_multiples_of_the_references_milliseconds(monkeypatch):
    timer = Timer("cpu", reference_ms=2.0)
    monkeypatch.setattr(timer._target, "take_turns", lambda opened, **_: [[(5.0, [15.0, 15.0])] * 20])
    latency = timer.measure(build(SMALL, 5), 16)
    assert latency.p50 == latency.low == latency.high == latency.p95 == pytest.approx(3 * 2.0)
    assert latency.raw_p50 == 15.0
    assert latency.num_samples == 40


def test_several_sittings_give_an_interval_that_holds_them_all(timer, monkeypatch):
    sittings = iter([Latency(5, 7, 4, 6, 5.5, 20), Latency(9, 10, 8, 9.5, 9, 30), Latency(6, 6.5, 5.5, 6.5, 6, 25)])
    monkeypatch.setattr(timer, "measure", lambda model, size, seconds: next(sittings))
    pauses = []
    monkeypatch.setattr("hybridnas.cost.latency.time.sleep", pauses.append)
    found = timer.measure_apart(SMALL, 16, sittings=3, seconds=1, pause=2)
    assert found == Latency(6, 7, 4, 9.5, 6, 75)
    assert pauses == [2, 2]


def test_each_reference_is_ours_and_runs(timer):
    assert {name: reference_for(size) for name, size in (("small", 32), ("large", 96))} == {n: n for n in REFERENCES}
    for name in REFERENCES:
        network, given = reference(name)
        assert network(torch.zeros(given.shape)).shape == (1, 10)
        again, _ = reference(name)
        assert torch.equal(network(torch.ones(given.shape)), again(torch.ones(given.shape)))


def test_a_real_measurement(timer):
    latency = timer.measure(build(SMALL, 5).deploy(), 16, seconds=0.05)
    assert 0 < latency.low <= latency.p50 <= latency.high
    assert latency.p50 <= latency.p95
    assert latency.raw_p50 > 0
    assert latency.num_samples >= MIN_PASSES


def test_the_reference_speed_is_carried_over_or_measured(timer):
    carried = Timer("cpu", reference_ms=123.0)
    assert carried.reference_ms == carried.environment["reference_ms"] == 123.0
    assert timer.reference_ms > 0
    assert timer.drift() > 0


def test_a_neighbour_that_slows_some_readings_does_not_make_the_reference_slow(monkeypatch):
    readings = iter([9.0, 8.0, 5.0, 8.5])
    monkeypatch.setattr("hybridnas.cost.latency.READINGS", 4)
    monkeypatch.setattr("hybridnas.cost.targets.LocalTarget.reference_ms", lambda target: next(readings))
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    assert Timer("cpu").reference_ms == 5.0
    assert len(pauses) == 3


def test_a_machine_slower_than_last_time_is_read_on_until_it_is_not(monkeypatch):
    readings = iter([9.0, 9.5, 8.0, 5.4, 1.0])
    monkeypatch.setattr("hybridnas.cost.targets.LocalTarget.reference_ms", lambda target: next(readings))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("hybridnas.cost.latency.READ_ON_S", 60.0)
    timer = Timer("cpu", reference_ms=9.0)
    timer.read_on(5.0)
    assert timer.reference_ms == 5.4
    timer.read_on(5.0)  # quick enough: nothing is read
    assert next(readings) == 1.0


def test_a_machine_that_stays_slower_is_not_waited_for_longer_than_so(monkeypatch):
    readings = []
    now = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: next(now) / 2)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("hybridnas.cost.latency.READ_ON_S", 3.0)
    timer = Timer("cpu", reference_ms=9.0)
    monkeypatch.setattr(
        "hybridnas.cost.targets.LocalTarget.reference_ms", lambda target: readings.append(8.0) or readings[-1]
    )
    timer.read_on(5.0)
    assert timer.reference_ms == 8.0
    assert len(readings) == 5


class Tires(nn.Module):
    """Runs while it is warmed up, and has no memory left when it is timed."""

    passes = 0

    def forward(self, x):
        self.passes += 1
        if self.passes > 5:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nand more")
        return x


def test_what_fails_in_the_middle_of_timing_cannot_be_run(timer):
    threads = torch.get_num_threads()
    with pytest.raises(CannotRun, match=r"^torch on cpu: CUDA out of memory$"):
        timer.measure(Tires(), 16, seconds=0.05)
    assert torch.get_num_threads() == threads and timer.measure(nn.Identity(), 16, seconds=0.05).p50 > 0


def test_where_the_reference_fails_too_no_network_is_to_blame(monkeypatch):
    timer = Timer("cpu", threads=1)

    def gone():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(timer._target, "_reference", gone)
    with pytest.raises(TargetError, match=r"^The target cpu is gone: CUDA error: an illegal memory access"):
        timer.measure(nn.Identity(), 16, seconds=0.05)


def test_what_is_sent_to_other_machines_needs_no_newer_python_than_we_say():
    """Python 3.9: `zip` has no `strict`, there is no `match`, and no union of types outside annotations."""
    tree = ast.parse(Path(probe.__file__).read_text(), feature_version=(3, 9))
    assert "from __future__ import annotations" in Path(probe.__file__).read_text()
    keywords = [each.arg for node in ast.walk(tree) if isinstance(node, ast.Call) for each in node.keywords]
    assert "seconds" in keywords and "strict" not in keywords
    assert not any(isinstance(node, ast.Match) for node in ast.walk(tree))
    outside = [node for node in tree.body if isinstance(node, ast.Assign)]
    assert outside and not any(isinstance(node, ast.BitOr) for each in outside for node in ast.walk(each))


def test_threads_are_restored(timer):
    outside = torch.get_num_threads()
    seen = []
    try:
        torch.set_num_threads(2)
        model = build(SMALL, 5)
        model.stem.register_forward_hook(
            lambda *_: seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled()))
        )
        timer.measure(model, 16, seconds=0.01)
        assert set(seen) == {(1, True)}
        assert torch.get_num_threads() == 2
        Timer("cpu", threads=1, reference_ms=1.0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(outside)
    assert not torch.is_inference_mode_enabled()


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("out of memory. And more")


def test_what_cannot_run_is_named_and_leaves_no_trace(timer):
    outside = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(CannotRun, match="torch in fp32 on cpu: out of memory$"):
            timer.measure(Broken(), 16)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(outside)


def test_the_batch_and_the_layout_are_what_is_asked_for():
    seen = []
    model = build(SMALL, 5)
    model.stem.register_forward_hook(
        lambda module, args, out: seen.append(
            (tuple(args[0].shape), args[0].is_contiguous(memory_format=torch.channels_last))
        )
    )
    timer = Timer("cpu", batch_size=3, reference_ms=1.0)
    timer.measure(model, 16, seconds=0.0)
    assert set(seen) == {((3, 3, 16, 16), False)}
    seen.clear()
    timer.open(model, Input((2, 3, 16, 16), channels_last=True))
    assert set(seen) == {((2, 3, 16, 16), True)}


def test_the_network_is_timed_as_it_is_given(timer):
    model = build(SMALL, 5).eval()
    modes = []
    model.register_forward_hook(lambda module, *_: modes.append(module.training))
    names = list(model.state_dict())
    timer.measure(model, 16, seconds=0.0)
    assert set(modes) == {False}
    modes.clear()
    timer.measure(model.train(), 16, seconds=0.0)
    assert set(modes) == {True}
    assert list(model.state_dict()) == names  # nothing fused


def test_a_timer_leaves_the_random_generator_alone(timer):
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)
    Timer("cpu", reference_ms=1.0).measure(build(SMALL, 5).eval(), 16, seconds=0.0)
    torch.manual_seed(7)
    timer.open(nn.Conv2d(3, 4, 1), Input((1, 3, 4, 4)))
    torch.manual_seed(7)
    timer.open(nn.Identity(), Input((1, 3, 4, 4)))
    assert torch.equal(torch.rand(4), expected)


def test_the_environment_is_recorded(timer):
    environment = timer.environment
    assert environment["target"] == "cpu"
    assert (environment["runtime"], environment["precision"]) == ("torch", "fp32")
    assert (environment["threads"], environment["batch_size"]) == (1, 1)
    assert environment["versions"] == {"torch": torch.__version__.partition("+")[0]} or environment["versions"]
    assert environment["cpu"] and environment["platform"]


def test_the_fingerprint_tells_settings_apart_but_not_moments():
    def of(**setting):
        return Timer("cpu", reference_ms=1.0, **setting).fingerprint

    assert of() == of()
    assert len({of(), of(batch_size=2), of(threads=2), of(precision="bf16")}) == 4
    timer = Timer("cpu", reference_ms=1.0)
    before = timer.fingerprint
    timer.machine["clock_mhz"] = "1.0"
    assert timer.fingerprint == before
    timer.machine["cpu"] = "another"
    assert timer.fingerprint != before


@pytest.mark.parametrize("target", ["", "gpu", "cpu0", "tpu", "cuda:-1", "meta", "xpu", "cuda:99"])
def test_an_unknown_device_is_a_config_error(target):
    for ask in (local_device, lambda name: open_target(name, Setting())):
        with pytest.raises(ConfigError) as caught:
            ask(target)
        sentence = str(caught.value)
        assert repr(target) in sentence
        assert "cpu" in sentence
        assert "\n" not in sentence


def test_the_best_device_is_here():
    assert local_device(best_device()).type == best_device()
