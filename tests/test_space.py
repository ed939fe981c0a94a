import itertools
import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hybridnas.architecture import Architecture, Head, Stage, Stem, Transition
from hybridnas.errors import SpaceError
from hybridnas.model import build
from hybridnas.space import SearchSpace, shipped_spaces

NUM_SAMPLES = 20

SMALL = """\
image_size: [8, 16]
stem: {type: [conv, patch4], width: [8, 16]}
stages:
  - {transition: [mbconv, none], block: [mbconv, global], depth: [0, 1], width: [8, 24]}
  - {transition: [patch, merge, none], stride: [1, 2], block: [convnext, global, window], depth: [1, 3], width: 16}
blocks:
  mbconv: {kernel: [3, 5], se: [true, false]}
  global: {head_dim: [4, 8]}
  window: {window: [2, 3], head_dim: 8, expand: 2}
transitions:
  mbconv: {expand: [1, 2]}
rules:
  - no_global_above_tokens: 4
"""


@pytest.fixture(scope="module")
def spaces():
    return {name: SearchSpace.load(name) for name in shipped_spaces()}


@pytest.fixture(scope="module")
def small():
    return SearchSpace.parse(SMALL, name="small", file="small.yaml")


def recorded(space, seed):
    """A random architecture and what was asked for it: name to (values, choice)."""
    rng = random.Random(seed)
    asked = {}

    def choose(name, values):
        assert name not in asked, f"{name} is asked twice"
        value = rng.choice(values)
        asked[name] = (tuple(values), value)
        return value

    return space.sample(choose), asked


def every_point(space):
    """All architectures of a small space, by walking through every sequence of answers."""
    script = []
    while True:
        sizes = []

        def choose(name, values, sizes=sizes):
            sizes.append(len(values))
            if len(sizes) > len(script):
                script.append(0)
            return values[script[len(sizes) - 1]]

        yield space.sample(choose)
        while script and script[-1] == sizes[len(script) - 1] - 1:
            script.pop()
        if not script:
            return
        script[-1] += 1


def by_hand():
    """The architectures of SMALL, counted from its text by a reader who knows nothing of the code."""
    options = {
        "mbconv": [{"kernel": k, "se": s} for k in (3, 5) for s in (True, False)],
        "global": [{"head_dim": h} for h in (4, 8)],
        "window": [{"window": w, "head_dim": 8, "expand": 2} for w in (2, 3)],
        "convnext": [{}],
    }

    def bodies(blocks, depths, resolution):
        for depth in depths:
            if depth == 0:
                yield "nothing", 0, ()
                continue
            for block in blocks:
                if block != "global" or resolution * resolution <= 4:
                    yield from ((block, depth, tuple(choice.items())) for choice in options[block])

    for image_size, (stem, reduction), stem_width in itertools.product((8, 16), (("conv", 2), ("patch4", 4)), (8, 16)):
        start = math.ceil(image_size / reduction)
        joints1 = [("mbconv", e, w, 2) for e in (1, 2) for w in (8, 24)] + [("none", None, stem_width, 1)]
        for joint1 in joints1:
            resolution1 = math.ceil(start / joint1[3])
            joints2 = [("patch", 16, 1), ("patch", 16, 2), ("merge", 16, 2), ("none", joint1[2], 1)]
            for joint2 in joints2:
                resolution2 = math.ceil(resolution1 / joint2[2])
                for body1 in bodies(("mbconv", "global"), (0, 1), resolution1):
                    for body2 in bodies(("convnext", "global", "window"), (1, 3), resolution2):
                        yield image_size, stem, stem_width, joint1, body1, joint2, body2


def test_size_is_the_brute_force_count(small):
    keys = [architecture.key for architecture in every_point(small)]
    assert len(set(keys)) == len(keys)
    assert small.size == len(keys) == len(set(by_hand()))


def test_size_of_coatnet_in_closed_form(spaces):
    # Each stage: transitions times families times depths times widths; before them image sizes and stem widths.
    assert spaces["coatnet"].size == (2 * 3) * (2 * 2 * 2) * (2 * 3 * 3) * (2 * 2 * 3 * 3) * (2 * 2 * 2 * 3)


@pytest.mark.parametrize("name", shipped_spaces())
def test_samples_of_a_shipped_space_are_legal_and_can_be_built(spaces, name):
    space = spaces[name]
    limits = [limit for rule in space.file.rules for limit in rule.values()]
    assert len(limits) <= 1
    for seed in range(NUM_SAMPLES):
        architecture, _ = recorded(space, seed)
        with torch.device("meta"):
            model = build(architecture)
        reduction = model.stem.stride
        for stage in architecture.stages:
            reduction *= stage.transition.stride
            tokens = math.ceil(architecture.image_size / reduction) ** 2
            assert stage.block != "global" or not stage.depth or not limits or tokens <= limits[0]


@pytest.mark.parametrize("name", shipped_spaces())
def test_encode_undoes_sample(spaces, name):
    for seed in range(NUM_SAMPLES):
        architecture, asked = recorded(spaces[name], seed)
        assert spaces[name].encode(architecture) == {name: choice for name, (_, choice) in asked.items()}


@pytest.mark.parametrize("name", shipped_spaces())
def test_the_samples_differ(spaces, name):
    assert len({recorded(spaces[name], seed)[0].key for seed in range(NUM_SAMPLES)}) == NUM_SAMPLES


@pytest.mark.parametrize("name", shipped_spaces())
def test_a_name_is_asked_always_with_the_same_values(spaces, name):
    """Optuna refuses a choice whose values change under one name."""
    seen = {}
    for seed in range(300):
        for asked_name, (values, _) in recorded(spaces[name], seed)[1].items():
            assert seen.setdefault(asked_name, values) == values
            assert len(set(values)) == len(values) > 1


def test_a_name_is_asked_always_with_the_same_values_in_the_small_space(small):
    seen = {}
    for seed in range(500):
        for name, (values, _) in recorded(small, seed)[1].items():
            assert seen.setdefault(name, values) == values
    # Where global attention is legal decides what may be asked, and so the name.
    assert {name for name in seen if name.startswith("stage2.block")} == {
        "stage2.block",
        "stage2.block(convnext|window)",
    }


@given(st.integers(0, 2**32))
def test_encode_undoes_sample_in_the_small_space(small, seed):
    architecture, asked = recorded(small, seed)
    choices = small.encode(architecture)
    assert choices == {name: choice for name, (_, choice) in asked.items()}
    assert small.sample(lambda name, values: choices[name]).key == architecture.key


def test_encode_knows_the_points_of_the_walk(small):
    for architecture in itertools.islice(every_point(small), 0, None, 7):
        choices = small.encode(architecture)
        assert small.sample(lambda name, values, choices=choices: choices[name]) == architecture


def test_encode_takes_what_is_left_out_for_the_default(small):
    said = Architecture(
        8,
        Stem("conv", 8, {"act": "gelu"}),
        (
            Stage(Transition("none", 1), "mbconv", 1, 8, {"kernel": 3, "se": False, "expand": 4}),
            Stage(Transition("none", 1), "convnext", 1, 8, {"kernel": 7}),
        ),
    )
    left_out = Architecture(
        8,
        Stem("conv", 8),
        (Stage(Transition("none", 1), "mbconv", 1, 8), Stage(Transition("none", 1), "convnext", 1, 8)),
    )
    assert small.encode(said) == small.encode(left_out)
    assert small.encode(said)["stage1.mbconv.kernel"] == 3


POINT = {
    "image_size": 8,
    "stem": ("conv", 8),
    "stage1": ("mbconv", 2, {"expand": 2}, "mbconv", 1, 24, {"kernel": 3, "se": True}),
    "stage2": ("merge", 2, {}, "window", 3, 16, {"window": 3, "head_dim": 8, "expand": 2}),
    "head": "linear",
}


def point(**changes):
    described = {**POINT, **changes}

    def stage(transition, stride, joint, block, depth, width, options):
        return Stage(Transition(transition, stride, joint), block, depth, width, options)

    stages = tuple(stage(*described[f"stage{i}"]) for i in (1, 2))
    return Architecture(described["image_size"], Stem(*described["stem"]), stages, Head(described["head"]))


def test_the_point_itself_is_in_the_space(small):
    assert small.encode(point())["stage2.window.window"] == 3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"image_size": 12}, ["image_size is 12", "8, 16"]),
        ({"stem": ("patch2", 8)}, ["stem.type is patch2", "conv, patch4"]),
        ({"stem": ("conv", 12)}, ["stem.width is 12", "8, 16"]),
        ({"stem": ("conv", 8, {"act": "relu"})}, ["stem.conv.act is relu", "gelu"]),
        ({"head": "mlp"}, ["head is mlp", "linear"]),
        ({"stage1": ("conv", 2, {}, "mbconv", 1, 24, {})}, ["stage1.transition is conv", "mbconv, none"]),
        ({"stage1": ("mbconv", 1, {"expand": 2}, "mbconv", 1, 24, {})}, ["stage1.stride is 1", "2"]),
        ({"stage1": ("mbconv", 2, {"expand": 4}, "mbconv", 1, 24, {})}, ["stage1.transition.mbconv.expand is 4"]),
        ({"stage1": ("mbconv", 2, {"expand": 2}, "repmixer", 1, 24, {})}, ["stage1.block is repmixer"]),
        ({"stage1": ("mbconv", 2, {"expand": 2}, "unheard-of", 1, 24, {})}, ["stage1.block is unheard-of"]),
        ({"stage1": ("mbconv", 2, {"expand": 2}, "mbconv", 5, 24, {})}, ["stage1.depth is 5", "0, 1"]),
        ({"stage1": ("mbconv", 2, {"expand": 2}, "mbconv", 1, 16, {})}, ["stage1.width is 16", "8, 24"]),
        ({"stage1": ("mbconv", 2, {"expand": 2}, "mbconv", 1, 24, {"kernel": 7})}, ["stage1.mbconv.kernel is 7"]),
        ({"stage1": ("mbconv", 2, {"expand": 2}, "mbconv", 1, 24, {"act": "relu"})}, ["stage1.mbconv.act is relu"]),
        (
            {"stage1": ("mbconv", 2, {"expand": 2}, "mbconv", 1, 24, {"se": 1})},
            ["stage1.mbconv.se is 1", "True, False"],
        ),
        ({"stage1": ("none", 1, {}, "mbconv", 1, 24, {})}, ["stage1.width is 24", "8"]),
        ({"image_size": 16, "stage1": ("none", 1, {}, "global", 1, 8, {"head_dim": 8})}, ["stage1.block", "global"]),
        (
            {"stage2": ("merge", 2, {}, "window", 3, 16, {"window": 3, "head_dim": 4, "expand": 2})},
            ["stage2.window.head_dim is 4"],
        ),
    ],
)
def test_encode_refuses_a_foreign_design_and_names_the_choice(small, changes, named):
    with pytest.raises(SpaceError) as caught:
        small.encode(point(**changes))
    sentence = str(caught.value)
    assert sentence.startswith("Not in the space small: ")
    assert [word for word in named if word not in sentence] == []


def test_encode_refuses_another_number_of_stages(small):
    stages = point().stages
    with pytest.raises(SpaceError, match=r"3 stages; it has 1 to 2\."):
        small.encode(Architecture(8, Stem("conv", 8), (*stages, stages[0])))
    two = SearchSpace.parse(GOOD, name="good", file="good.yaml")
    with pytest.raises(SpaceError, match=r"1 stages; it has 2\."):
        two.encode(Architecture(32, Stem("conv", 16), (Stage(Transition("conv"), "mbconv", 1, 32),)))


def test_coatnet_covers_all_16_layouts(spaces):
    space = spaces["coatnet"]
    layouts = set()
    for families in itertools.product(("mbconv", "global"), repeat=4):
        architecture = space.design(families)
        assert tuple(stage.block for stage in architecture.stages) == families
        space.encode(architecture)
        layouts.add(architecture.layout)
    assert layouts == {"".join(letters) for letters in itertools.product("CT", repeat=4)}


def test_coatnet_names_the_layouts_of_the_papers_ablation(spaces):
    layouts = spaces["coatnet"].layouts()
    # Table 1 of the paper, and attention throughout; the favourite comes first.
    assert list(layouts)[0] == "C-C-T-T"
    assert set(layouts) == {"C-C-T-T", "C-T-T-T", "C-C-C-T", "all mbconv", "all global"}
    assert layouts["C-T-T-T"] == ("mbconv", "global", "global", "global")


def test_design_takes_the_smallest_the_middle_and_the_largest(spaces):
    families = ("mbconv", "mbconv", "global", "global")
    small, middle, large = (spaces["coatnet"].design(families, size=size) for size in (0, 0.5, 1))
    assert [stage.depth for stage in small.stages] == [1, 1, 2, 1]
    assert [stage.depth for stage in large.stages] == [2, 3, 6, 2]
    assert [stage.width for stage in large.stages] == [96, 192, 384, 768]
    assert middle.stages[1].depth == 2
    assert spaces["coatnet"].design(("window",) * 4) is None
    assert spaces["coatnet"].design(families[:3]) is None


def test_with_image_size_fixes_the_size(small):
    fixed = small.with_image_size(8)
    sizes = {recorded(fixed, seed)[0].image_size for seed in range(20)}
    assert sizes == {8}
    assert fixed.size == sum(1 for described in by_hand() if described[0] == 8)


@pytest.mark.parametrize("family", ["global", "levit", "lgl"])
def test_the_rule_is_for_every_family_that_attends_to_all_positions(family):
    both = GOOD.replace("[mbconv, global]", f"[mbconv, {family}]")
    for limit, expected in ((1, {"mbconv"}), (10**6, {"mbconv", family})):
        space = SearchSpace.parse(both + f"rules: [{{no_global_above_tokens: {limit}}}]\n", name="x", file="x.yaml")
        assert {recorded(space, seed)[0].stages[1].block for seed in range(40)} == expected


def test_with_image_size_checks_again():
    only_global = GOOD.replace("[mbconv, global]", "global") + "rules: [{no_global_above_tokens: 64}]\n"
    space = SearchSpace.parse(only_global, name="only", file="only.yaml")
    with pytest.raises(SpaceError, match=r"only at image size 128.*resolution 16\."):
        space.with_image_size(128)


def test_an_option_given_as_a_whole_float_is_the_integer():
    as_float = SearchSpace.parse(GOOD + "blocks: {mbconv: {kernel: 3.0}}\n", name="good", file="good.yaml")
    as_int = SearchSpace.parse(GOOD + "blocks: {mbconv: {kernel: 3}}\n", name="good", file="good.yaml")
    assert recorded(as_float, 0)[0].key == recorded(as_int, 0)[0].key


GOOD = """\
image_size: 32
stem: {type: conv, width: 16}
stages:
  - {transition: conv, block: mbconv, depth: 1, width: 32}
  - transition: conv
    block: [mbconv, global]
    depth: [1, 2]
    width: 64
"""


def test_the_text_that_the_errors_start_from_is_good():
    assert SearchSpace.parse(GOOD, name="good", file="good.yaml").size == 4


def bomb():
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 12))
    return f"l0: &l0 [x]\n{levels}"


@pytest.mark.parametrize(
    ("text", "line", "named"),
    [
        # typos in keys
        (GOOD.replace("image_size:", "image_sise:"), 1, ["image_sise", "image_size, stem, stages"]),
        (GOOD.replace("type:", "typ:"), 2, ["stem.typ ", "type, width"]),
        (GOOD.replace("    depth:", "    deth:"), 7, ["stages[1].deth", "transition, block, depth, width, stride"]),
        (GOOD + "stages2: []\n", 9, ["stages2", "image_size, stem, stages"]),
        # unknown names
        (GOOD.replace("block: mbconv", "block: mbcnv"), 4, ["stages[0].block", "'mbcnv'", "mbconv, convnext"]),
        (GOOD.replace("global]", "globl]"), 6, ["stages[1].block", "'globl'", "mbconv, convnext"]),
        (GOOD.replace("- transition: conv", "- transition: cnv"), 5, ["stages[1].transition", "'cnv'", "none, conv"]),
        (GOOD.replace("type: conv", "type: cnv"), 2, ["stem.type", "'cnv'", "allowed are conv, "]),
        (GOOD + "head: mlp\n", 9, ["head", "'mlp'", "linear"]),
        (GOOD + "blocks:\n  mbcnv: {kernel: 3}\n", 10, ["'mbcnv'", "mbconv, convnext"]),
        (GOOD + "rules:\n  - no_global_below: 3\n", 10, ["rules[0].no_global_below", "no_global_above_tokens"]),
        # options
        (GOOD + "blocks:\n  mbconv:\n    krnel: 3\n", 11, ["blocks.mbconv.krnel", "kernel, expand, se, act"]),
        (GOOD + "transitions:\n  conv: {kernel: 3}\n", 10, ["transitions.conv.kernel", "none"]),
        (GOOD + "blocks:\n  mbconv:\n    se: 3\n", 11, ["blocks.mbconv.se", "3", "bool"]),
        (GOOD + "blocks:\n  mbconv:\n    se: [true, maybe]\n", 11, ["blocks.mbconv.se", "maybe", "bool"]),
        (GOOD + "blocks:\n  mbconv:\n    kernel: three\n", 11, ["blocks.mbconv.kernel", "three", "int"]),
        (GOOD + "blocks:\n  mbconv:\n    kernel: 3.5\n", 11, ["blocks.mbconv.kernel", "3.5", "int"]),
        (GOOD + "blocks:\n  mbconv:\n    kernel: null\n", 11, ["blocks.mbconv.kernel"]),
        (GOOD + "blocks:\n  mbconv: {kernel: 4}\n", None, ["kernel 4", "mbconv", "odd"]),
        (GOOD + "blocks:\n  mbconv: {expand: -1}\n", None, ["expand -1", "mbconv"]),
        (GOOD + "blocks:\n  mbconv: {expand: .inf}\n", None, ["expand inf", "mbconv"]),
        (GOOD + "blocks:\n  mbconv: {act: sillu}\n", None, ["act sillu", "mbconv"]),
        # combinations
        (GOOD + "blocks:\n  global: {head_dim: [16, 24]}\n", None, ["width 64", "head_dim 24", "stages[1]"]),
        (
            GOOD.replace("block: mbconv", "block: global").replace("width: 32", "width: 36"),
            4,
            ["width 36", "head_dim 32"],
        ),
        # doubles
        (GOOD + "image_size: 64\n", 1, ["image_size", "twice", "line 9"]),
        (GOOD.replace("    width: 64", "    width: 64\n    width: 32"), 8, ["stages[1].width", "twice", "line 9"]),
        (GOOD.replace("[1, 2]", "[1, 2, 1]"), 7, ["stages[1].depth", "1 twice"]),
        # types and ranges
        (GOOD.replace("[1, 2]", "[1, two]"), 7, ["stages[1].depth", "integer"]),
        (GOOD.replace("[1, 2]", "[1, 2.5]"), 7, ["stages[1].depth", "integer"]),
        (GOOD.replace("[1, 2]", "[1, true]"), 7, ["stages[1].depth", "integer"]),
        (GOOD.replace("[1, 2]", "-1"), 7, ["stages[1].depth", "greater than or equal to 0"]),
        (GOOD.replace("width: 64", "width: 0"), 8, ["stages[1].width", "greater than or equal to 1"]),
        (GOOD.replace("width: 64", "width:"), 8, ["stages[1].width"]),
        (GOOD.replace("width: 64", "width: {from: 8, to: 64}"), 8, ["stages[1].width"]),
        (GOOD.replace("width: 64", "width: 64\n    stride: 4"), 9, ["stages[1].stride", "4", "1, 2"]),
        (GOOD.replace("width: 64", f"width: {10**24}"), None, []),
        (GOOD.replace("{type: conv, width: 16}", "conv"), 2, ["stem"]),
        (GOOD + "blocks: [mbconv]\n", 9, ["blocks"]),
        (GOOD + "rules:\n  - no_global_above_tokens: many\n", 10, ["rules[0].no_global_above_tokens", "integer"]),
        (GOOD + "1: 2\n", 9, ["1"]),
        (GOOD.partition("stages")[0], None, ["stages"]),
        ("- a\n- b\n", 1, []),
        ("32\n", 1, []),
        # empty lists
        (GOOD.replace("[1, 2]", "[]"), 7, ["stages[1].depth"]),
        (GOOD.replace("[mbconv, global]", "[]"), 6, ["stages[1].block"]),
        (GOOD.partition("stages")[0] + "stages: []\n", 3, ["stages"]),
        (GOOD + "blocks:\n  mbconv: {kernel: []}\n", 10, ["blocks.mbconv.kernel"]),
        # rules that leave nothing
        (GOOD.replace("[mbconv, global]", "global") + "rules: [{no_global_above_tokens: 9}]\n", 6, ["stages[1].block"]),
        # not YAML
        ("", None, ["empty"]),
        ("# only a comment\n", None, ["empty"]),
        (GOOD.replace("[1, 2]", "[1, 2"), 8, ["not YAML"]),
        (GOOD + "\tdepth: 3\n", 9, ["not YAML"]),
        (GOOD + "---\n" + GOOD, 9, ["not YAML"]),
        (GOOD + "blocks: !!python/object:os.system {}\n", 9, ["not YAML"]),
        (GOOD + "blocks: *nowhere\n", 9, ["not YAML"]),
        (GOOD + "? [a, b]\n: 3\n", 9, ["not YAML"]),
        (GOOD + "blocks: \x00\n", None, ["not YAML"]),
        (GOOD + "blocks: 2020-13-45\n", None, ["YAML"]),
        # aliases without end
        (bomb(), None, ["20000"]),
        ("a: &a [*a]\n", None, ["YAML"]),
    ],
)
def test_a_bad_file_is_one_sentence_with_file_line_and_key(tmp_path, text, line, named):
    path = tmp_path / "my.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpaceError) as caught:
        SearchSpace.load(path)
    sentence = str(caught.value)
    assert sentence.startswith(str(path))
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert len(sentence) < 400 + len(str(path))
    assert [word for word in named if word not in sentence] == []
    if line:
        assert f"my.yaml, line {line}" in sentence


def test_an_alias_is_fine():
    twice = GOOD.replace("depth: 1, width: 32", "depth: &d [1, 2], width: 32").replace(
        "    depth: [1, 2]", "    depth: *d"
    )
    assert SearchSpace.parse(twice, name="good", file="good.yaml").size == 8


@pytest.mark.parametrize("name", ["no_such_space", "missing/file.yaml", ".", ""])
def test_a_missing_file_names_the_shipped_spaces(name):
    with pytest.raises(SpaceError) as caught:
        SearchSpace.load(name)
    assert repr(name) in str(caught.value)
    assert [shipped for shipped in shipped_spaces() if shipped not in str(caught.value)] == []


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(SpaceError, match=r"my\.yaml"):
        SearchSpace.load(path)


def test_the_space_keeps_the_text_and_the_name_of_its_file(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(GOOD)
    space = SearchSpace.load(str(path))
    assert (space.name, space.text) == ("my", GOOD)
