"""The parts of architectures, how they add up, and that a whole space's are found without its points."""

import itertools
import random
from dataclasses import replace
from zlib import crc32

import pytest
import torch
from made_up import MadeUpTimer

from hybridnas import SearchSpace, zoo
from hybridnas.architecture import Architecture, Head, Stage, Stem, Transition
from hybridnas.cost.macs import count_macs
from hybridnas.cost.parts import Part, body_part, head_part, parts_of, stem_part, timings_of, transition_part
from hybridnas.cost.predict import Counter, Predictor
from hybridnas.cost.table import Table
from hybridnas.cost.whole import parts_in, timings_in
from hybridnas.errors import ArchitectureError
from hybridnas.model import build, num_params
from hybridnas.space import shipped_spaces

# As large as the others together, and made of the same parts as vit_base.
LARGE = "vit_large_patch16_224"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    table = Table(tmp_path_factory.mktemp("table") / "cost.sqlite")
    yield table
    table.close()


def samples(space, number, seed=0):
    generator = random.Random(seed)
    return [space.sample(lambda name, values: generator.choice(values)) for _ in range(number)]


def counted(architecture, num_classes):
    with torch.device("meta"):
        network = build(architecture, num_classes).deploy()
    return count_macs(network, architecture.image_size), num_params(network)


@pytest.mark.parametrize("space", shipped_spaces())
def test_counts_of_parts_add_up_to_the_networks(table, space):
    counter = Counter(table, 10)
    (architecture,) = samples(SearchSpace.load(space), 1)
    assert counter.count(architecture) == counted(architecture, 10)


@pytest.mark.parametrize("design", [name for name in zoo.names() if name != LARGE])
def test_counts_of_parts_add_up_to_the_published_designs(table, design):
    architecture = zoo.load(design)
    assert Counter(table, 1000).count(architecture) == counted(architecture, 1000)


def test_the_parts_in_the_order_of_the_image():
    stages = (
        Stage(Transition("conv"), "convnext", 3, 16),
        Stage(Transition("none", 1), "pool", 0, 16),
        Stage(Transition("patch", 2, {"norm": "batch"}), "global", 2, 32, {"class_token": True, "head_dim": 16}),
    )
    found = list(parts_of(Architecture(30, Stem("conv", 8), stages, Head("conv", {"features": 64})), 5))
    assert found == [
        (stem_part("conv", {}, 8, 30), 1),
        (transition_part("conv", {}, 8, 16, 2, 15), 1),
        (body_part("convnext", {}, 16, 8), 3),
        (transition_part("patch", {"norm": "batch"}, 16, 32, 2, 8), 1),
        (body_part("global", {"class_token": True, "head_dim": 16}, 32, 4), 2),
        (head_part("conv", {"features": 64}, 32, 5, 4, tokens=True), 1),
    ]
    assert [part.shape for part, _ in found] == [
        (3, 30, 30),
        (8, 15, 15),
        (16, 8, 8),
        (16, 8, 8),
        (32, 4, 4),
        (17, 32),
    ]


def test_options_said_or_left_at_their_defaults_are_the_same_part():
    said = body_part("mbconv", {"kernel": 3, "expand": 4, "se": False}, 16, 8)
    left = body_part("mbconv", {}, 16, 8)
    assert said == left and said.key == left.key
    assert body_part("mbconv", {"se": True}, 16, 8) != left
    assert str(body_part("mbconv", {"se": True, "kernel": 3}, 16, 8)) == "block mbconv (se True) 16, 8"


def test_a_key_is_content():
    options = {"se": True, "act": "relu6"}
    one = body_part("mbconv", options, 16, 8)
    assert one.key == body_part("mbconv", dict(reversed(options.items())), 16, 8).key
    assert one.key == Part("block", "mbconv", list(one.options), [16, 8], [16, 8, 8]).key
    others = [
        body_part("mbconv", {"se": True}, 16, 8),
        body_part("mbconv", options, 24, 8),
        body_part("mbconv", options, 16, 4),
        replace(one, shape=(16, 8, 9)),
        head_part("linear", {}, 16, 8, 8),
        head_part("linear", {}, 16, 8, 8, tokens=True),
    ]
    assert len({part.key for part in [one, *others]}) == 1 + len(others)


SMALL = Architecture(16, Stem("conv", 8), (Stage(Transition("conv"), "convnext", 1, 8),))
FIRST = SMALL.stages[0]


@pytest.mark.parametrize(
    "impossible",
    [
        replace(SMALL, stem=Stem("no", 8)),
        replace(SMALL, head=Head("no")),
        replace(SMALL, stages=(replace(FIRST, block="no"),)),
        replace(SMALL, stages=(replace(FIRST, transition=Transition("no")),)),
        replace(SMALL, stages=(replace(FIRST, options={"no": 1}),)),
        replace(SMALL, stages=(replace(FIRST, options={"kernel": 4}),)),
        replace(SMALL, stages=(replace(FIRST, transition=Transition("none", 2)),)),
        replace(SMALL, stages=(replace(FIRST, transition=Transition("none", 1), width=16),)),
        replace(SMALL, stages=(replace(FIRST, block="global", options={"class_token": True, "head_dim": 8}), FIRST)),
    ],
)
def test_what_cannot_be_built_is_not_counted(table, impossible):
    for attempt in (lambda: build(impossible, 5), lambda: Counter(table, 5).count(impossible)):
        with pytest.raises(ArchitectureError):
            attempt()


@pytest.mark.parametrize(
    ("depth", "last", "after"), list(itertools.product([1, 2, 3, 36], [False, True], [False, True]))
)
def test_what_is_timed_has_as_many_blocks_as_the_body(depth, last, after):
    found = timings_of(body_part("convnext", {}, 16, 8), depth, last, after)
    assert sum(timing.depth * often for timing, often in found) == depth
    assert found[0][0].channels_last == last
    assert all(timing.channels_last == after for timing, _ in found[1:])
    assert len({timing.key for timing, _ in found}) == len(found)


# --- layouts in memory


def comes_last(x):
    """Whether a convolution that gets `x` hands channels last on."""
    if x.ndim != 4 or x.is_contiguous():
        return False
    out = torch.nn.functional.conv2d(x, torch.zeros(2, x.shape[1], 1, 1))
    return not out.is_contiguous()


def layouts_inside(architecture):
    """Whether channels come last where the stem, each transition and body, and the head of a real network begin."""
    network = build(architecture, 5).deploy()
    seen = []
    bodies = zip(architecture.stages, network.stages, strict=True)
    modules = [network.stem]
    for stage, module in bodies:
        modules += [module.transition] if stage.transition.type != "none" else []
        modules += [module.body] if stage.depth else []
    for module in [*modules, network.head]:
        module.register_forward_pre_hook(lambda module, args: seen.append(comes_last(args[0])))
    with torch.inference_mode():
        network(torch.zeros(1, 3, architecture.image_size, architecture.image_size))
    return seen


@pytest.mark.parametrize(("space", "number"), [("tiny", 12), ("edge", 4), ("hybrid", 3)])
def test_layouts_are_those_inside_the_network(table, space, number):
    predictor = Predictor(Counter(table, 5), MadeUpTimer())
    found = set()
    for architecture in samples(SearchSpace.load(space), number, seed=1):
        last, expected = False, []
        for part, _ in parts_of(architecture, 5):
            expected.append(last)
            last = predictor.lays_last(part, last)
        assert layouts_inside(architecture) == expected
        found |= set(expected)
    assert found == {False, True}


# --- whole spaces


def by_chance(part, channels_last):
    """Layouts that nothing knows but the key."""
    return bool(crc32(f"{part.key}{channels_last}".encode()) % 2)


class Dry(Predictor):
    """Knows layouts without counting."""

    def lays_last(self, part, channels_last):
        return by_chance(part, channels_last)


@pytest.mark.parametrize("name", shipped_spaces())
def test_a_whole_space_holds_what_its_samples_ask_for(table, name):
    space = SearchSpace.load(name)
    every = list(timings_in(space, 10, by_chance))
    assert len(set(every)) == len(every)
    dry = Dry(Counter(table, 10), MadeUpTimer())
    for architecture in samples(space, 100):
        assert dry.timings(architecture).keys() <= set(every)
    assert {timing.part for timing in every} == set(parts_in(space, 10))


def test_a_whole_space_with_its_real_layouts(table, space_file):
    space = SearchSpace.load(space_file)
    predictor = Predictor(Counter(table, 5), MadeUpTimer())
    every = set(timings_in(space, 5, predictor.lays_last))
    for architecture in samples(space, 100):
        assert predictor.timings(architecture).keys() <= every
    assert {timing.channels_last for timing in every} == {False, True}


FEW = """\
image_size: [16, 24]
stem: {type: [conv, patch4], width: 8}
stages:
  - {transition: [conv, none], stride: [1, 2], block: [convnext, global], depth: [0, 2], width: [8, 16]}
  - transition: [patch, none]
    block: [convnext, global]
    depth: [1, 3]
    width: 16
    blocks: {global: {position: [none, conv], class_token: true}}
head: [linear, conv]
blocks:
  global: {head_dim: 8}
heads:
  conv: {features: [16, 32]}
rules:
  - no_global_above_tokens: 64
"""


def every_point(space):
    """All architectures of a space: every answer to every question."""
    todo = [[]]
    while todo:
        answers = todo.pop()
        asked = iter(answers)
        open_ = []

        def choose(name, values, asked=asked, open_=open_):
            answer = next(asked, None)
            if answer is None:
                open_.append(len(values))
                return values[0]
            return values[answer]

        architecture = space.sample(choose)
        if not open_:
            yield architecture
        else:
            todo += [[*answers, i] for i in range(open_[0])]


def test_a_whole_space_is_what_all_its_points_ask_for(table):
    space = SearchSpace.parse(FEW, name="few", file="few.yaml")
    points = list(every_point(space))
    assert len(points) == space.size
    dry = Dry(Counter(table, 10), MadeUpTimer())
    asked = {timing for architecture in points for timing in dry.timings(architecture)}
    assert set(timings_in(space, 10, by_chance)) == asked
    assert {len(timing.part.shape) for timing in asked} == {2, 3}
