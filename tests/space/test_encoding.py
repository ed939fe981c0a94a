"""From an architecture back to the choices, where some stages of the space may stand empty."""

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridnas.architecture import Architecture, Stage, Stem, Transition
from hybridnas.blocks import BLOCKS, option_defaults
from hybridnas.errors import SpaceError
from hybridnas.space import SearchSpace, encoding

GAPS = """\
image_size: 16
stem: {type: conv, width: [8, 16]}
stages:
  - {transition: [none, conv], block: [mbconv, repmixer], depth: [0, 1, 2], width: [16, 24]}
  - transition: [conv, none]
    block: [repmixer, convnext]
    depth: [0, 1]
    width: [16, 24]
    blocks: {convnext: {kernel: [5, 7]}}
  - {transition: none, block: [mbconv, convnext], depth: [0, 2], width: 1}
  - {transition: [conv, patch], stride: [1, 2], block: [convnext, window], depth: [0, 1], width: 24}
  - {transition: [none, patch], stride: 1, block: convnext, depth: [0, 1], width: 24}
blocks:
  mbconv: {expand: [2, 4], act: relu}
  window: {window: 2, head_dim: 8}
"""


@pytest.fixture(scope="module")
def gaps():
    return SearchSpace.parse(GAPS, name="gaps", file="gaps.yaml")


def drawn(space, seed):
    rng = random.Random(seed)
    return space.sample(lambda name, values: rng.choice(values))


def filled(architecture):
    """The same network with every option of its blocks said: one stage may say a default that another leaves open."""

    def full(stage):
        return replace(stage, options={**option_defaults(BLOCKS[stage.block]), **stage.options} if stage.depth else {})

    return replace(architecture, stages=tuple(map(full, architecture.stages)))


@given(st.integers(0, 2**32))
def test_every_sample_has_choices_that_make_it_again(gaps, seed):
    architecture = drawn(gaps, seed)
    choices = gaps.encode(architecture)
    used = set()

    def look_up(name, values):
        used.add(name)
        return choices[name]

    assert filled(gaps.sample(look_up)) == filled(architecture)
    assert used == set(choices)


@given(st.integers(0, 2**32))
def test_empty_stages_of_the_design_itself_do_not_count(gaps, seed):
    architecture = drawn(gaps, seed)
    empty = Stage(Transition("none", 1), "global", 0, architecture.stages[0].width)
    stages = (*architecture.stages[:1], empty, *architecture.stages[1:])
    padded = Architecture(architecture.image_size, architecture.stem, stages, architecture.head)
    assert gaps.encode(padded) == gaps.encode(architecture)


def test_samples_have_different_numbers_of_stages(gaps):
    assert {len(drawn(gaps, seed).stages) for seed in range(300)} == {1, 2, 3, 4, 5}


def test_the_first_stage_that_can_takes_it(gaps):
    body = Stage(Transition("conv"), "repmixer", 1, 16)
    last = Stage(Transition("patch"), "window", 1, 24, {"window": 2, "head_dim": 8})
    assert gaps.encode(Architecture(16, Stem("conv", 8), (body, last))) == {
        "stem.width": 8,
        "stage1.transition": "conv",
        "stage1.width": 16,
        "stage1.depth": 1,
        "stage1.block": "repmixer",
        "stage2.transition": "none",
        "stage2.depth": 0,
        "stage3.depth": 0,
        "stage4.transition": "patch",
        "stage4.stride": 2,
        "stage4.depth": 1,
        "stage4.block": "window",
        "stage5.transition": "none",
        "stage5.depth": 0,
    }


def test_a_stage_taken_too_early_is_given_back(gaps):
    """The first stage could take the first of these, but then the second finds no place."""
    twice = tuple(Stage(Transition("none", 1), "mbconv", 2, 8, {"expand": 2, "act": "relu"}) for _ in range(2))
    last = Stage(Transition("conv", 1), "convnext", 0, 24)
    choices = gaps.encode(Architecture(16, Stem("conv", 8), (*twice, last)))
    assert (choices["stage1.depth"], choices["stage2.depth"], choices["stage3.depth"]) == (2, 0, 2)
    one = gaps.encode(Architecture(16, Stem("conv", 8), (Stage(Transition("none", 1), "convnext", 2, 8), last)))
    assert (one["stage1.depth"], one["stage2.depth"], one["stage3.depth"]) == (0, 0, 2)


BODY = Stage(Transition("conv"), "repmixer", 1, 16)
LAST = Stage(Transition("patch"), "window", 1, 24, {"window": 2, "head_dim": 8})


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        # Four of five agree, and what is wrong stands in the fifth.
        ((BODY, BODY, LAST, LAST), "stage5.stride is 2; it is always 1 there"),
        (
            (BODY, Stage(Transition("patch"), "window", 1, 24, {"window": 3, "head_dim": 8})),
            "stage4.window.window is 3",
        ),
        (
            (Stage(Transition("conv"), "convnext", 1, 16, {"kernel": 3}), LAST),
            "stage2.convnext.kernel is 3; its values",
        ),
        (
            (Stage(Transition("conv"), "convnext", 1, 16, {"expand": 3}), LAST),
            "stage2.convnext.expand is 3; it is alwa",
        ),
        (
            (Stage(Transition("conv"), "repmixer", 1, 16, {"groups": 3}), LAST),
            "stage1.repmixer.groups is 3; there is no",
        ),
        (
            (Stage(Transition("none", 1), "mbconv", 1, 8, {"expand": 2}), LAST),
            "stage1.mbconv.act is silu; it is always",
        ),
        ((BODY,), "stage4.width is 16; it is always 24 there"),
        ((BODY,) * 6, "6 stages; it has 1 to 5"),
    ],
)
def test_the_placement_that_got_furthest_is_named(gaps, stages, sentence):
    with pytest.raises(SpaceError) as caught:
        gaps.encode(Architecture(16, Stem("conv", 8), stages))
    assert str(caught.value).startswith(f"Not in the space gaps: {sentence}")


def test_a_long_space_is_searched_without_trying_every_placement(monkeypatch):
    stage = "  - {transition: none, block: [mbconv, convnext], depth: [0, 1], width: 8}\n"
    last = "  - {transition: conv, block: mbconv, depth: 1, width: 8}\n"
    text = "image_size: 16\nstem: {type: conv, width: 8}\nstages:\n" + 10 * stage + last
    space = SearchSpace.parse(text, name="long", file="long.yaml")
    calls = itertools.count()
    draw_stage = encoding.draw_stage
    monkeypatch.setattr(encoding, "draw_stage", lambda *args: (next(calls), draw_stage(*args))[1])
    same = Stage(Transition("none", 1), "convnext", 1, 8)
    other = Stage(Transition("conv"), "convnext", 1, 8)
    with pytest.raises(SpaceError, match=r"stage11\.block is convnext"):
        space.encode(Architecture(16, Stem("conv", 8), (*[same] * 5, other)))
    assert next(calls) <= 11 * 6  # of 252 placements
