"""The timer's logic. How fast anything is, no test says: that depends on the machine and its hour."""

import pytest
import torch

from hybridnas.architecture import Architecture, Stage, Stem, Transition
from hybridnas.cost.latency import MIN_PAIRS, Timer, best_device, local_device
from hybridnas.errors import ConfigError
from hybridnas.model import build

SMALL = Architecture(16, Stem("patch4", 8), (Stage(Transition("none", 1), "repmixer", 1, 8),))


@pytest.fixture(scope="module")
def timer():
    return Timer("cpu", threads=1)


@pytest.fixture(scope="module")
def latency(timer):
    return timer.measure(build(SMALL, 5), 16, seconds=0.05)


def test_quantiles_are_in_order(latency):
    assert 0 < latency.p50 <= latency.p95
    assert latency.raw_p50 > 0


def test_at_least_the_promised_number_of_passes(timer):
    assert timer.measure(build(SMALL, 5), 16, seconds=0.0).num_samples == MIN_PAIRS
    assert MIN_PAIRS == 21


def test_more_time_gives_more_passes(timer):
    assert timer.measure(build(SMALL, 5), 16, seconds=1.0).num_samples > MIN_PAIRS


def test_figures_are_ratios_to_the_reference(monkeypatch):
    """With a clock that gives the network three times the reference's time, the latency is three references."""
    timer = Timer("cpu", reference_ms=2.0)
    monkeypatch.setattr(timer, "_time", lambda run: 5.0 if run is timer._reference else 15.0)
    latency = timer.measure(build(SMALL, 5), 16, seconds=0.0)
    assert latency.p50 == latency.p95 == pytest.approx(3 * 2.0)
    assert latency.raw_p50 == 15.0


def test_reference_ms_is_carried_over():
    timer = Timer("cpu", reference_ms=123.0)
    assert timer.reference_ms == 123.0
    assert timer.environment()["reference_ms"] == 123.0


def test_reference_ms_is_measured_where_none_is_given(timer):
    assert timer.reference_ms > 0


def test_threads_are_restored(timer):
    outside = torch.get_num_threads()
    seen = []
    try:
        torch.set_num_threads(2)
        model = build(SMALL, 5)
        model.stem.register_forward_hook(
            lambda *_: seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled()))
        )
        timer.measure(model, 16, seconds=0.0)
        assert set(seen) == {(1, True)}
        assert torch.get_num_threads() == 2
        Timer("cpu", threads=1, reference_ms=1.0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(outside)
    assert not torch.is_inference_mode_enabled()


def test_threads_are_restored_after_an_error(timer):
    outside = torch.get_num_threads()

    def fail(*_):
        raise RuntimeError("out of memory")

    try:
        torch.set_num_threads(2)
        model = build(SMALL, 5)
        model.stem.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            timer.measure(model, 16)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(outside)


def test_the_batch_size_is_what_passes(timer):
    seen = []
    model = build(SMALL, 5)
    model.stem.register_forward_hook(lambda module, args, out: seen.append(args[0].shape))
    Timer("cpu", batch_size=3, reference_ms=1.0).measure(model, 16, seconds=0.0)
    assert set(seen) == {(3, 3, 16, 16)}


def test_the_network_is_timed_as_it_is_given(timer):
    model = build(SMALL, 5).eval()
    modes = []
    model.register_forward_hook(lambda module, *_: modes.append(module.training))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    timer.measure(model, 16, seconds=0.0)
    timer.measure(model.train(), 16, seconds=0.0)
    assert set(modes[:MIN_PAIRS]) == {False} and set(modes[-MIN_PAIRS:]) == {True}
    model.eval()
    timer.measure(model, 16, seconds=0.0)
    assert list(model.state_dict()) == list(before)  # nothing fused


def test_a_timer_leaves_the_random_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)
    Timer("cpu", reference_ms=1.0)
    assert torch.equal(torch.rand(4), expected)


def test_the_environment_is_recorded(timer):
    environment = timer.environment()
    assert environment["threads"] == 1
    assert environment["target"] == "cpu"
    assert environment["torch"] == torch.__version__
    assert all(value for value in environment.values())


@pytest.mark.parametrize("target", ["", "gpu", "cpu0", "tpu", "cuda:-1", "meta", "xpu", "cuda:99"])
def test_an_unknown_device_is_a_config_error(target):
    with pytest.raises(ConfigError) as caught:
        local_device(target)
    sentence = str(caught.value)
    assert repr(target) in sentence
    assert "cpu" in sentence
    assert "\n" not in sentence


def test_a_timer_refuses_an_unknown_device():
    with pytest.raises(ConfigError, match="'tpu'"):
        Timer("tpu")


def test_the_best_device_is_here():
    assert local_device(best_device()).type == best_device()
