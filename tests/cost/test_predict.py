"""Predictions from the table. The timer's figures are made up: of how fast anything is, no test says anything."""

import random
from dataclasses import replace

import pytest
import torch
from made_up import MadeUpTimer
from torch import nn

from hybridnas import SearchSpace
from hybridnas.architecture import Architecture, Stage, Stem, Transition
from hybridnas.cost import predict as module
from hybridnas.cost.calibration import CALL
from hybridnas.cost.parts import Part
from hybridnas.cost.predict import TOGETHER, Counter, Predictor
from hybridnas.cost.table import Table
from hybridnas.cost.whole import timings_in
from hybridnas.errors import CannotRun
from hybridnas.model import HybridNet

NUM_TIMED = 7
CONVNEXT = Architecture(
    16,
    Stem("conv", 8),
    (
        Stage(Transition("conv"), "convnext", 3, 16),
        Stage(Transition("patch"), "global", 1, 24, {"head_dim": 8}),
    ),
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cost.sqlite"


@pytest.fixture
def opened(path):
    """Predictors as processes would open them, one after the other, on one file."""
    tables = []

    def open_(timer=None, **timers):
        tables.append(Table(path))
        return Predictor(Counter(tables[-1], 5), timer or MadeUpTimer(**timers))

    yield open_
    for table in tables:
        table.close()


@pytest.fixture(scope="module")
def networks(space_file):
    generator, space = random.Random(0), SearchSpace.load(space_file)
    return [space.sample(lambda name, values: generator.choice(values)) for _ in range(40)]


def test_the_prediction_is_the_sum_of_the_parts(opened):
    predictor = opened()
    predictor.fill(predictor.missing([CONVNEXT]))
    _, params = predictor.counter.count(CONVNEXT)
    found = predictor.predict(CONVNEXT)
    # The made-up parts take a millisecond for a thousand parameters and 0.1 for being called. Of the three blocks of
    # ConvNeXt the first makes channels come last, so that it is timed apart from the two others. Inside a network no
    # part is called on its own.
    assert found.ms == pytest.approx(params / 1e3 + 0.1 * NUM_TIMED * (1 - CALL))
    assert 0 <= found.low < found.ms < found.high


def test_a_part_is_timed_once(opened):
    predictor = opened()
    missing = predictor.missing([CONVNEXT, CONVNEXT])
    assert len({timing.key for timing in missing}) == len(missing) == NUM_TIMED
    predictor.fill(missing[:2])
    assert predictor.missing([CONVNEXT]) == missing[2:]
    assert opened().missing([CONVNEXT]) == missing[2:]
    predictor.fill(missing[2:])
    assert predictor.missing([CONVNEXT]) == []
    wider = replace(CONVNEXT, stages=(CONVNEXT.stages[0], replace(CONVNEXT.stages[1], width=32)))
    assert [timing.part.kind for timing in predictor.missing([wider])] == ["transition", "block", "head"]


def test_a_warm_predictor_builds_nothing(opened, monkeypatch, networks):
    cold = opened()
    cold.fill(cold.missing(networks))
    expected = [(cold.counter.count(network), cold.predict(network)) for network in networks]

    def fail(*_, **__):
        raise AssertionError("something was built")

    monkeypatch.setattr(Part, "build", fail)
    monkeypatch.setattr(module, "build", fail)
    monkeypatch.setattr(nn.Module, "__call__", fail)
    warm = opened()
    assert warm.missing(networks) == []
    assert [(warm.counter.count(network), warm.predict(network)) for network in networks] == expected


def test_other_machines_have_other_contexts(opened):
    here = opened()
    here.fill(here.missing([CONVNEXT]))
    for other in (opened(target="cuda"), opened(batch_size=2), opened(runtime="onnxruntime")):
        assert len(other.missing([CONVNEXT])) >= NUM_TIMED - 1
    assert opened().missing([CONVNEXT]) == []


def test_other_code_has_another_context(opened, monkeypatch):
    here = opened()
    here.fill(here.missing([CONVNEXT]))
    monkeypatch.setattr(module, "code_digest", lambda: "later")
    assert len(opened().missing([CONVNEXT])) == NUM_TIMED


def test_times_are_multiples_of_the_references(opened):
    here = opened()
    here.fill(here.missing([CONVNEXT]))
    slower = MadeUpTimer()
    slower.reference_ms *= 2
    assert opened(slower).predict(CONVNEXT).ms == pytest.approx(2 * here.predict(CONVNEXT).ms)


def test_the_batch_and_the_layout_are_those_of_the_network(opened):
    timer = MadeUpTimer(batch_size=3)
    predictor = opened(timer)
    missing = predictor.missing([CONVNEXT])
    predictor.fill(missing)
    ((*group, call),) = timer.groups
    assert isinstance(call[0], nn.ReLU)
    assert [given.shape for _, given in group] == [(3, *timing.part.shape) for timing in missing]
    assert [given.channels_last for _, given in group] == [timing.channels_last for timing in missing]


def test_files_have_no_layout_and_need_no_counts(opened, space_file, monkeypatch):
    monkeypatch.setattr(module, "_count", None)
    predictor = opened(runtime="onnxruntime")
    space = SearchSpace.load(space_file)
    assert {timing.channels_last for timing in timings_in(space, 5, predictor.lays_last)} == {False}
    predictor.fill(predictor.missing([CONVNEXT]))
    assert predictor.predict(CONVNEXT).ms > 0


def test_a_stopped_filling_keeps_what_finished(opened, networks):
    class Stopped(MadeUpTimer):
        def measure_opened(self, opened, **options):
            if len(self.groups) == 2:
                raise KeyboardInterrupt
            return super().measure_opened(opened, **options)

    told = []
    predictor = opened(Stopped())
    missing = predictor.missing(networks)
    assert len(missing) > 3 * TOGETHER
    with pytest.raises(KeyboardInterrupt):
        predictor.fill(missing, told.append)
    assert told == [TOGETHER, 2 * TOGETHER]
    again = opened()
    assert again.missing(networks) == missing[2 * TOGETHER :]
    again.fill(missing[2 * TOGETHER :], told.append)
    assert told[-1] == len(missing) - 2 * TOGETHER
    assert again.missing(networks) == []


def test_a_part_that_cannot_run_is_named(opened):
    predictor = opened(cannot=[16])
    missing = predictor.missing([CONVNEXT])
    with pytest.raises(CannotRun, match=r"^block convnext 16, 4: too few beads$"):
        predictor.fill(missing)
    with pytest.raises(CannotRun, match="^block convnext 16, 4: too few beads$"):
        predictor.measure(CONVNEXT)
    assert predictor.missing([CONVNEXT]) == missing


def test_parts_that_cannot_run_can_be_left_out(opened):
    predictor = opened(cannot=[16])
    left_out, told = [], []
    missing = predictor.missing([CONVNEXT])
    predictor.fill(missing, told.append, left_out.append)
    assert left_out == [
        "block convnext 16, 4: too few beads",
        "block convnext 16, 4: too few beads",
        "transition patch 16, 24, 2, 4: too few beads",
    ]
    assert told == [len(missing)]
    assert [timing for timing in missing if timing.part.shape[0] == 16] == predictor.missing([CONVNEXT])


def test_a_network_takes_turns_with_the_parts_that_lack(opened):
    timer = MadeUpTimer()
    predictor = opened(timer)
    missing = predictor.missing([CONVNEXT])
    predictor.fill(missing[:2])
    predictor.measure(CONVNEXT)
    assert [len(group) for group in timer.groups] == [2 + 1, len(missing) - 2 + 1]  # once a call
    network, given = timer.groups[-1][-1]
    assert isinstance(network, HybridNet) and given.shape == (1, 3, 16, 16)
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())


def test_a_network_without_its_parts(opened):
    timer = MadeUpTimer()
    predictor = opened(timer)
    latency, foreseen = predictor.measure(CONVNEXT, with_parts=False)
    assert latency.p50 > 0 and foreseen is None
    assert [len(group) for group in timer.groups] == [1]
    assert not predictor.knows(CONVNEXT) and predictor.num_networks == 0


def test_predictions_move_towards_what_was_measured(opened, networks):
    predictor = opened(factor=1.3)
    predictor.fill(predictor.missing(networks))
    different = {network.key: network for network in networks}
    *learnt, last = different.values()
    before = predictor.predict(last)
    widths = []
    for i, network in enumerate(learnt):
        expected = predictor.predict(network)
        latency, foreseen = predictor.measure(network)
        assert foreseen == expected  # said before it was known
        assert predictor.knows(network) and predictor.num_networks == i + 1
        after = predictor.predict(network)
        assert abs(after.ms - latency.p50) <= abs(foreseen.ms - latency.p50) + 1e-4 * latency.p50
        widths.append((after.high - after.low) / after.ms)
    found = predictor.predict(last)
    truth, _ = opened(factor=1.3).measure(last)
    assert abs(found.ms / truth.p50 - 1) < 0.02 < 0.15 < abs(before.ms / truth.p50 - 1)
    assert found.low <= truth.p50 <= found.high
    assert widths[-1] < widths[0] / 2


def test_a_later_process_knows_what_was_learnt(opened, networks):
    first = opened(factor=1.3)
    for network in networks[:5]:
        first.measure(network)
    second = opened(factor=1.3)
    assert second.num_networks == first.num_networks == 5
    found, expected = second.predict(networks[0]), first.predict(networks[0])
    assert (found.low, found.ms, found.high) == pytest.approx((expected.low, expected.ms, expected.high))


def test_the_random_generator_is_left_alone(opened):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    predictor = opened()
    predictor.counter.count(CONVNEXT)
    predictor.measure(CONVNEXT)
    assert torch.equal(torch.rand(2), expected)
