"""What a file may say beyond the lists of its stages: options of stems and heads, of one stage, compat ones, names."""

import random

import pytest
from torch import nn

from hybridnas.blocks.heads import HEADS
from hybridnas.blocks.mbconv import MBConv
from hybridnas.errors import SpaceError
from hybridnas.space import SearchSpace

GOOD = """\
image_size: 32
stem: {type: [conv, patch2], width: 16}
stages:
  - {transition: [conv, mbconv], block: [mbconv, convnext], depth: 1, width: 32}
  - transition: [mbconv, none]
    block: mbconv
    depth: [0, 1, 2]
    width: 64
    blocks:
      mbconv:
        kernel: 5
        se: [false, true]
    transitions:
      mbconv: {expand: [2, 3]}
stems:
  conv:
    act: [gelu, relu]
heads:
  linear: {}
blocks:
  mbconv: {kernel: [3, 5, 7], expand: [2, 4]}
transitions:
  mbconv:
    expand: 4
    se: true
"""


class PlainHead(nn.Linear):
    def __init__(self, width: int, num_classes: int, *, bias: bool = True, scale: int = 1) -> None:
        super().__init__(width, num_classes, bias=bias)


def parse(text):
    return SearchSpace.parse(text, name="good", file="good.yaml")


def asked(space, num_samples=200):
    """Every name that is asked, with its values, and the samples."""
    rng, names, samples = random.Random(0), {}, []

    def choose(name, values):
        assert names.setdefault(name, values) == values
        return rng.choice(values)

    for _ in range(num_samples):
        samples.append(space.sample(choose))
    return names, samples


def test_a_stage_overrides_the_file_option_by_option():
    names, samples = asked(parse(GOOD))
    assert names["stage1.mbconv.kernel"] == [3, 5, 7]
    assert "stage2.mbconv.kernel" not in names
    assert names["stage2.mbconv.se"] == [False, True]
    assert names["stage1.mbconv.expand"] == names["stage2.mbconv.expand"] == [2, 4]
    assert names["stage2.transition.mbconv.expand"] == [2, 3]
    second = [a.stages[1] for a in samples if len(a.stages) == 2]
    assert {stage.options["kernel"] for stage in second if stage.depth} == {5}
    assert all(stage.transition.options["se"] for stage in second if stage.transition.type == "mbconv")
    assert {a.stages[0].transition.options.get("expand", 4) for a in samples} == {4}


def test_size_counts_the_options_of_stems_and_stages():
    bodies = 1 + 2 * (2 * 2)  # depth 0; two depths of se and expand
    assert parse(GOOD).size == (2 + 1) * (2 * (3 * 2 + 1)) * (2 * bodies + bodies)


def test_stem_and_head_options_are_asked_by_type(monkeypatch):
    monkeypatch.setitem(HEADS, "plain", PlainHead)
    text = GOOD.replace("  linear: {}", "  plain: {bias: [true, false], scale: 2}") + "head: [linear, plain]\n"
    space = parse(text)
    names, samples = asked(space)
    assert names["stem.conv.act"] == ["gelu", "relu"]
    assert names["head.plain.bias"] == [True, False]
    assert {a.head.options.get("scale") for a in samples if a.head.type == "plain"} == {2}
    assert {a.stem.options.get("act") for a in samples if a.stem.type == "conv"} == {"gelu", "relu"}
    assert all(not a.stem.options for a in samples if a.stem.type == "patch2")
    assert space.size == 3 * parse(GOOD).size
    for architecture in samples[:20]:
        choices = space.encode(architecture)
        assert space.sample(lambda name, values, choices=choices: choices[name]) == architecture


def test_a_stage_that_does_nothing_is_left_out():
    space = parse(GOOD)
    nothing = space.sample(lambda name, values: {"stage2.transition": "none", "stage2.depth": 0}.get(name, values[0]))
    assert len(nothing.stages) == 1
    changed = space.sample(lambda name, values: {"stage2.depth": 0}.get(name, values[0]))
    assert [stage.depth for stage in changed.stages] == [1, 0]


def test_the_designs_that_a_space_holds():
    assert parse(GOOD).holds == ()
    assert parse(GOOD + "holds: [resnet50, levit_128]\n").holds == ("resnet50", "levit_128")
    with pytest.raises(SpaceError, match=r"line \d+: holds names 'coatnet_0', which is unknown"):
        parse(GOOD + "holds: [coatnet_0]\n")


def test_a_class_token_is_for_the_last_stage():
    text = """
image_size: 32
stem: {type: patch4, width: 32}
stages:
  - {transition: none, block: BLOCK, depth: 1, width: 32}
  - {transition: none, block: [global], depth: 1, width: 32}
blocks:
  global: {position: none, class_token: true}
"""
    assert parse(text.replace("BLOCK", "convnext")).size == 1
    with pytest.raises(SpaceError, match=r"stages\[0\].block holds global with a class_token"):
        parse(text.replace("BLOCK", "[convnext, global]"))


def test_numbers_are_bounded():
    text = """
image_size: 32
stem: {type: patch4, width: 32}
stages: [{transition: none, block: convnext, depth: 1, width: 32}]
heads:
  linear: {classifiers: [1, 10000000000]}
"""
    with pytest.raises(SpaceError, match=r"line 6: heads.linear.classifiers holds 10000000000; each value must be at"):
        parse(text)


def test_a_fixed_compat_option_goes_into_every_sample(monkeypatch):
    monkeypatch.setattr(MBConv, "COMPAT", ("act",), raising=False)
    space = parse(GOOD.replace("kernel: [3, 5, 7]", "kernel: [3, 5, 7], act: relu"))
    _, samples = asked(space, 20)
    assert {s.options["act"] for a in samples for s in a.stages if s.block == "mbconv" and s.depth} == {"relu"}
    with pytest.raises(SpaceError, match=r"stage1\.mbconv\.act is relu; it is always silu there\."):
        parse(GOOD).encode(next(a for a in samples if a.stages[0].block == "mbconv"))


@pytest.mark.parametrize(
    ("old", "new", "line", "named"),
    [
        ("kernel: [3, 5, 7]", "act: [silu, relu]", 21, ["blocks.mbconv.act", "is a compat option", "fixed, not sear"]),
        ("kernel: 5", "act: [silu, relu]", 11, ["stages[1].blocks.mbconv.act", "is a compat option"]),
        ("  conv:\n    act:", "  cnv:\n    act:", 16, ["stems.cnv", "'cnv'", "allowed are conv, "]),
        ("    act: [gelu", "    actt: [gelu", 17, ["stems.conv.actt", "is no option of conv", "allowed are act"]),
        ("gelu, relu", "gelu, 3", 17, ["stems.conv.act", "holds 3", "str"]),
        ("gelu, relu", "gelu, gelu", 17, ["stems.conv.act", "gelu twice"]),
        ("gelu, relu", "gelu, silly", 2, ["stem ", "cannot be built (act silly)", "conv"]),
        ("linear: {}", "linear: {dropout: 0.5}", 19, ["heads.linear.dropout", "is no option of linear"]),
        ("linear: {}", "lineal: {}", 19, ["heads.lineal", "'lineal'", "linear"]),
        (
            "      mbconv:\n",
            "      convnext:\n",
            10,
            ["stages[1].blocks.convnext", "not offered", "allowed are mbconv"],
        ),
        ("      mbconv: {", "      conv: {", 14, ["stages[1].transitions.conv", "not offered", "mbconv, none"]),
        ("kernel: 5", "kernl: 5", 11, ["stages[1].blocks.mbconv.kernl", "kernel, expand, se, act"]),
        ("kernel: 5", "kernel: [5, 5]", 11, ["stages[1].blocks.mbconv.kernel", "5 twice"]),
        ("kernel: 5", "kernel: []", 11, ["stages[1].blocks.mbconv.kernel"]),
        ("kernel: 5", "kernel: 4", 5, ["stages[1]", "kernel 4", "mbconv", "odd"]),
        ("expand: [2, 3]", "expand: two", 14, ["stages[1].transitions.mbconv.expand", "two", "float"]),
        ("[conv, mbconv], block: [mbconv, convnext], depth: 1", "none, block: mbconv, depth: 0", 3, ["stages", "left"]),
        ("image_size: 32", "image_size: 32\nholds: []", 2, ["holds"]),
        ("image_size: 32", "image_size: 32\nholds: [a, a]", 2, ["holds", "a twice"]),
        ("image_size: 32", "image_size: 32\nholds: 3", 2, ["holds", "string"]),
        ("width: 64", "width: 70000", 8, ["stages[1].width", "less than or equal to 65536"]),
    ],
)
def test_a_mistake_is_named_with_line_and_key(monkeypatch, old, new, line, named):
    if "act: [silu" in new:
        monkeypatch.setattr(MBConv, "COMPAT", ("act",), raising=False)
    assert old in GOOD
    with pytest.raises(SpaceError) as caught:
        parse(GOOD.replace(old, new, 1))
    sentence = str(caught.value)
    assert sentence.startswith(f"good.yaml, line {line}: ")
    assert [word for word in named if word not in sentence] == []


def test_depth_0_alone_asks_nothing_of_the_family():
    text = GOOD.replace("depth: 1, width: 32", "depth: 0, width: 36").replace("[mbconv, convnext]", "global")
    parse(text)
    with pytest.raises(SpaceError, match="width 36 is not a multiple"):
        parse(text.replace("depth: 0, width: 36", "depth: [0, 1], width: 36"))


ROW = """\
image_size: 32
stem: {type: conv, width: 16}
stages:
  - {transition: conv, block: [repmixer, mbconv, window], depth: [0, 1], width: 32}
  - {transition: [none, conv], block: [repmixer, window], depth: [0, 1], width: 32}
  - {transition: conv, block: [window, global, repmixer], depth: 1, width: 32}
"""


def test_a_layout_takes_families_that_all_its_stages_offer():
    layouts = parse(ROW).layouts()
    assert layouts == {
        "C-T-T": ("mbconv", "window", "window"),
        "C-C-T": ("repmixer", "repmixer", "global"),
        "all repmixer": ("repmixer",) * 3,
        "all window": ("window",) * 3,
    }


def test_a_design_has_blocks_wherever_it_can():
    design = parse(ROW).design(("window",) * 3, size=0)
    assert [(stage.block, stage.depth) for stage in design.stages] == [("window", 1)] * 3


def test_a_rule_takes_a_family_out_of_the_layouts():
    layouts = parse(ROW + "rules: [{no_global_above_tokens: 3}]\n").layouts()
    assert layouts["C-C-T"] == ("repmixer", "repmixer", "window")
