"""The space around a design: it holds the design, and every sample is one step away and can be built."""

import random

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridnas import zoo
from hybridnas.architecture import LETTERS, Architecture, Head, Stage, Stem, Transition
from hybridnas.blocks import BLOCKS
from hybridnas.blocks.global_attention import GlobalAttention
from hybridnas.errors import ArchitectureError
from hybridnas.model import build
from hybridnas.space import SearchSpace
from hybridnas.space.around import KIN, around

MBCONV = {"expand": 4, "se": True, "act": "gelu"}


def stage(transition, block, depth, width, options=None, stride=2, joint=None):
    return Stage(Transition(transition, stride, joint or {}), block, depth, width, options or {})


DESIGNS = {
    # CoAtNet (arXiv:2106.04803, table 3), ConvNeXt-T (arXiv:2201.03545), Swin-T (arXiv:2103.14030, table 7), small ones
    "coatnet": Architecture(
        224,
        Stem("conv", 64),
        (
            stage("mbconv", "mbconv", 2, 96, MBCONV, joint=MBCONV),
            stage("mbconv", "mbconv", 3, 192, MBCONV, joint=MBCONV),
            stage("mbconv", "global", 5, 384, joint=MBCONV),
            stage("mbconv", "global", 2, 768, joint=MBCONV),
        ),
    ),
    "convnext": Architecture(
        224,
        Stem("patch4", 96),
        (
            stage("none", "convnext", 3, 96, stride=1),
            stage("patch", "convnext", 3, 192),
            stage("patch", "convnext", 9, 384),
            stage("patch", "convnext", 3, 768),
        ),
    ),
    "swin": Architecture(
        224,
        Stem("patch4", 96),
        (
            stage("none", "window", 2, 96, {"window": 7}, stride=1),
            stage("merge", "window", 2, 192, {"window": 7}),
            stage("merge", "window", 6, 384, {"window": 7}),
            stage("merge", "window", 2, 768, {"window": 7}),
        ),
    ),
    # Stages that share a width, one without blocks, one block only, a width that is no multiple of 8.
    "odd": Architecture(
        32,
        Stem("conv", 20, {"act": "relu"}),
        (
            stage("none", "repmixer", 1, 20, stride=1),
            stage("conv", "global", 0, 36),
            stage("conv", "window", 1, 64, {"window": 2, "head_dim": 64}),
            stage("none", "convnext", 2, 64, {"kernel": 3, "expand": 1}, stride=1),
            stage("none", "mbconv", 0, 64, stride=1),
        ),
        Head("linear"),
    ),
}


@pytest.fixture(scope="module")
def spaces():
    return {name: around(name, design) for name, design in DESIGNS.items()}


def without_empty(design):
    stages = tuple(s for s in design.stages if s.depth or s.transition.type != "none")
    return Architecture(design.image_size, design.stem, stages, design.head)


@pytest.mark.parametrize("name", DESIGNS)
def test_the_design_is_a_point(spaces, name):
    space, design = spaces[name], DESIGNS[name]
    choices = space.encode(design)
    point = space.sample(lambda name, values: choices[name])
    assert space.encode(point) == choices
    assert [(s.transition, s.depth, s.width) for s in point.stages] == [
        (s.transition, s.depth, s.width) for s in without_empty(design).stages
    ]
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in build(a).parameters()) for a in (point, design)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("name", DESIGNS)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32))
def test_a_sample_can_be_built_and_is_one_step_away(spaces, name, seed):
    rng = random.Random(seed)
    design = without_empty(DESIGNS[name])
    sample = spaces[name].sample(lambda name, values: rng.choice(values))
    with torch.device("meta"):
        build(sample)
    assert (sample.image_size, sample.stem.type, sample.head) == (design.image_size, design.stem.type, design.head)
    assert sample.stem.width == design.stem.width or design.stages[0].transition.type == "none"
    for ours, theirs in zip(sample.stages, design.stages, strict=True):
        assert ours.transition == theirs.transition
        assert abs(ours.depth - theirs.depth) <= 1
        assert (ours.depth == 0) == (theirs.depth == 0)
        assert theirs.width / 2 <= ours.width <= theirs.width * 2
        assert ours.width == theirs.width or ours.width % 8 == 0
        same = ours.block == theirs.block or not ours.depth
        assert same or {(ours.block, theirs.block), (theirs.block, ours.block)} & set(KIN)


def test_the_steps_of_a_stage(spaces):
    first, _, third, _ = spaces["coatnet"].file.stages
    assert first.depth == [1, 2, 3]
    assert first.width == [72, 96, 120]
    assert first.transition == ["mbconv"]
    assert first.block[0] == "mbconv"
    assert "convnext" in first.block
    assert first.blocks["mbconv"] == {"act": ["gelu"], "expand": [3, 4, 5], "se": [True, False], "kernel": [3, 5]}
    assert first.transitions == {"mbconv": {"act": ["gelu"], "expand": [4], "se": [True]}}
    assert third.width == [288, 384, 480]
    assert third.blocks["global"]["head_dim"] == [16, 32]  # 64 divides neither 288 nor 480
    assert third.blocks["global"]["expand"] == [3, 4, 5]
    # Where the first stage keeps the stem's width, the stem's moves.
    assert spaces["swin"].file.stages[0].width == spaces["swin"].file.stem.width == [64, 96, 128]
    assert spaces["coatnet"].file.stem.width == [64]


def test_widths_shared_by_several_stages_move_together(spaces):
    stages = spaces["odd"].file.stages
    assert len(stages) == 4
    assert stages[2].width == stages[3].width == [64, 128]  # multiples of head_dim 64
    assert stages[1].depth == [0]
    assert stages[3].blocks["convnext"]["kernel"] == [3, 5]
    assert stages[3].blocks["convnext"]["expand"] == [1, 2]


def test_global_attention_is_no_neighbour_on_large_maps():
    design = Architecture(
        256, Stem("patch4", 32), (stage("none", "window", 1, 32, stride=1), stage("merge", "window", 1, 64))
    )
    space = around("large", design)
    assert ["global" in s.block for s in space.file.stages] == [False, True]


def test_compat_options_stay(monkeypatch):
    monkeypatch.setattr(GlobalAttention, "COMPAT", ("expand",), raising=False)
    design = Architecture(32, Stem("conv", 32), (stage("conv", "global", 1, 32, {"expand": 3}),))
    space = around("compat", design)
    assert space.file.stages[0].blocks["global"]["expand"] == [3]
    space.encode(design)


@pytest.mark.parametrize("name", DESIGNS)
def test_the_text_is_a_space_file_like_any_other(spaces, name, tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(spaces[name].text)
    again = SearchSpace.load(path)
    assert again.file == spaces[name].file
    assert "&" not in spaces[name].text
    assert yaml.safe_load(spaces[name].text)["image_size"] == DESIGNS[name].image_size


def test_every_family_has_kin():
    assert {family for pair in KIN for family in pair} == set(BLOCKS)
    assert all(a != b for a, b in KIN) and len({frozenset(pair) for pair in KIN}) == len(KIN)


@pytest.mark.parametrize("name", ["convnext_tiny", "resnet50", "mobilenetv2_100"])
def test_around_a_convolutional_design_lies_attention(name):
    space = around(name, zoo.load(name))
    assert {LETTERS[block] for stage in space.file.stages for block in stage.block} == {"C", "T"}


@pytest.mark.parametrize("name", zoo.names())
def test_every_published_design_has_a_space_around_it(name):
    design = zoo.load(name)
    space = around(name, design)
    assert space.size > 1
    rng = random.Random(0)
    choices = space.encode(design)
    for choose in (lambda name, values: choices[name], lambda name, values: rng.choice(values)):
        with torch.device("meta"):
            assert build(space.sample(choose)).num_features > 0


@pytest.mark.parametrize(
    "design",
    [
        Architecture(32, Stem("conv", 16), (stage("conv", "global", 1, 36),)),
        Architecture(32, Stem("conv", 16), (stage("conv", "unheard-of", 1, 32),)),
        Architecture(32, Stem("unheard-of", 16), (stage("conv", "mbconv", 1, 32),)),
    ],
)
def test_a_design_that_cannot_be_built_is_refused(design):
    with pytest.raises(ArchitectureError):
        around("wrong", design)
