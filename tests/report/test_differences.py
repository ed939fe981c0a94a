from dataclasses import replace

import pytest

from hybridnas import Architecture, Stage, Transition
from hybridnas.architecture import Head, Stem
from hybridnas.report.differences import differences

STAGES = (
    Stage(Transition("conv", 2), "mbconv", 2, 16, {"kernel": 3}),
    Stage(Transition("conv", 2), "window", 2, 32, {"head_dim": 8}),
    Stage(Transition("patch", 2), "global", 4, 64),
)
ONE = Architecture(32, Stem("conv", 16), STAGES)


def with_stage(i, **changes):
    return replace(ONE, stages=(*STAGES[:i], replace(STAGES[i], **changes), *STAGES[i + 1 :]))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (ONE, []),
        (replace(ONE, image_size=48), ["image: size 32 → 48"]),
        (replace(ONE, stem=Stem("patch2", 24)), ["stem: type conv → patch2", "stem: width 16 → 24"]),
        (
            with_stage(1, block="global", depth=4, options={}),
            ["stage 2: family window → global", "stage 2: depth 2 → 4"],
        ),
        (with_stage(0, options={"kernel": 5}), ["stage 1: mbconv kernel 3 → 5"]),
        (
            with_stage(2, transition=Transition("conv", 1)),
            ["stage 3: transition patch → conv", "stage 3: stride 2 → 1"],
        ),
        (with_stage(1, depth=0), ["stage 2: family window → none", "stage 2: depth 2 → 0"]),
        (replace(ONE, head=Head("mlp")), ["head: type linear → mlp"]),
    ],
)
def test_each_choice_that_differs_is_named(other, said):
    assert [str(found) for found in differences(ONE, other)] == said
    back = [found._replace(before=found.after, after=found.before) for found in differences(other, ONE)]
    assert back == differences(ONE, other)


def test_an_option_that_is_said_and_one_that_is_left_to_its_default_are_the_same():
    assert differences(ONE, with_stage(0, options={"kernel": 3, "expand": 4})) == []


def test_a_stage_more_is_one_stage_more_wherever_it_stands():
    added = Stage(Transition("conv", 1), "convnext", 1, 24)
    longer = replace(ONE, stages=(STAGES[0], added, *STAGES[1:]))
    assert [str(found) for found in differences(ONE, longer)] == [
        "stage 2: transition none → conv",
        "stage 2: family none → convnext",
        "stage 2: depth 0 → 1",
    ]
    assert [str(found) for found in differences(longer, ONE)] == [
        "stage 2: transition conv → none",
        "stage 2: family convnext → none",
        "stage 2: depth 1 → 0",
    ]


def test_parts_that_nobody_knows_compare_by_what_they_say():
    assert [str(found) for found in differences(ONE, with_stage(2, block="<novel>"))] == [
        "stage 3: family global → <novel>"
    ]


def test_options_of_a_transition_and_of_blocks_that_share_its_name_are_told_apart():
    stage = Stage(Transition("levit", 2, {"key_dim": 16}), "levit", 1, 64, {"key_dim": 16})
    one, other = (Architecture(32, Stem("conv", 16), (s,)) for s in (stage, replace(stage, options={"key_dim": 32})))
    assert [str(found) for found in differences(one, other)] == ["stage 1: levit key_dim 16 → 32"]
