"""The shipped spaces: every sample builds, and the published designs that a file names are points of it."""

import random
from dataclasses import replace

import pytest
import torch

from hybridnas import build, zoo
from hybridnas.model import num_params
from hybridnas.space import SearchSpace, shipped_spaces

NAMES = tuple(shipped_spaces())
HELD = [(name, design) for name in NAMES for design in SearchSpace.load(name).holds]


def test_the_situations_of_the_guide_have_their_spaces():
    assert {"hybrid", "coatnet", "mobile", "edge", "server", "small_data", "tiny"} == set(NAMES)
    assert {name for name, _ in HELD} >= {"hybrid", "mobile", "edge", "server", "small_data"}


@pytest.mark.parametrize(("name", "design"), HELD)
def test_a_space_holds_the_designs_that_its_file_names(name, design):
    space, wanted = SearchSpace.load(name), zoo.load(design)
    choices = space.encode(wanted)
    asked = []

    def choose(choice, values):
        asked.append(choice)
        assert choices[choice] in values
        return choices[choice]

    point = space.sample(choose)
    assert sorted(asked) == sorted(choices)  # nothing too little, nothing too much
    assert (point.image_size, point.layout, point.families) == (wanted.image_size, wanted.layout, wanted.families)
    with torch.device("meta"):
        ours, theirs = build(point), build(wanted)
    # Everything but the epsilon of a norm: the same parameters under the same names, the same modules.
    assert {n: p.shape for n, p in ours.named_parameters()} == {n: p.shape for n, p in theirs.named_parameters()}
    assert [type(part) for part in ours.modules()] == [type(part) for part in theirs.modules()]
    for mine, its in zip(point.stages, wanted.stages, strict=True):
        assert replace(mine, options={}, transition=replace(mine.transition, options={})) == replace(
            its, options={}, transition=replace(its.transition, options={})
        )


@pytest.mark.parametrize("name", NAMES)
def test_every_sample_builds_and_encodes_back(name):
    space = SearchSpace.load(name)
    generator = random.Random(0)
    for _ in range(10):
        point = space.sample(lambda choice, values: generator.choice(values))
        choices = space.encode(point)
        again = space.sample(lambda choice, values, choices=choices: choices[choice])
        assert (again.families, again.image_size) == (point.families, point.image_size)
        with torch.device("meta"):
            assert num_params(build(again, 10)) == num_params(build(point, 10)) > 0


@pytest.mark.parametrize("name", ["hybrid", "mobile", "edge", "small_data"])
def test_a_space_has_its_like_at_another_image_size(name):
    assert SearchSpace.load(name).with_image_size(96).file.image_size == [96]
