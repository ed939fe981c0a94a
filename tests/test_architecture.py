import dataclasses
import json
import math
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridnas.architecture import Architecture, Head, Stage, Stem, Transition
from hybridnas.errors import ArchitectureError

NAMES = st.text(st.characters(codec="utf-8"), max_size=8)
COUNTS = st.integers(1, 4096)
VALUES = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | NAMES
OPTIONS = st.dictionaries(NAMES, VALUES, max_size=4)
TRANSITIONS = st.builds(Transition, NAMES, st.sampled_from([1, 2]), OPTIONS)
STAGES = st.builds(Stage, TRANSITIONS, NAMES, st.integers(0, 50), COUNTS, OPTIONS)
ARCHITECTURES = st.builds(
    Architecture,
    COUNTS,
    st.builds(Stem, NAMES, COUNTS, OPTIONS),
    st.lists(STAGES, min_size=1, max_size=4).map(tuple),
    st.builds(Head, NAMES, OPTIONS),
)

COATNET_LIKE = Architecture(
    64,
    Stem("conv", 16, {"act": "gelu"}),
    (
        Stage(Transition("mbconv", 2, {"expand": 4}), "mbconv", 2, 32, {"kernel": 3, "se": True}),
        Stage(Transition("none", 1), "convnext", 0, 32),
        Stage(Transition("conv"), "global", 3, 64, {"head_dim": 16, "expand": 2.5}),
    ),
)
# Stored runs are looked up by this key: if it changes, they are lost to `--resume`.
COATNET_LIKE_KEY = "b698f642a491cbc5"


def single_stage(block="mbconv", depth=1, options=None):
    return Architecture(32, Stem("conv", 16), (Stage(Transition("conv"), block, depth, 32, options or {}),))


@given(ARCHITECTURES)
def test_json_round_trip(architecture):
    again = Architecture.from_json(architecture.to_json())
    assert again == architecture
    assert again.key == architecture.key
    assert again.to_json() == architecture.to_json()


@given(ARCHITECTURES, st.randoms(use_true_random=False))
def test_key_does_not_depend_on_the_order_of_options_or_fields(architecture, random):
    def shuffled(value):
        if isinstance(value, dict):
            items = list(value.items())
            random.shuffle(items)
            return {name: shuffled(item) for name, item in items}
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    text = json.dumps(shuffled(json.loads(architecture.to_json())))
    again = Architecture.from_json(text)
    assert again.key == architecture.key
    assert again.to_json() == architecture.to_json()


@given(st.integers(-(2**53), 2**53))
def test_a_whole_float_is_the_integer(number):
    as_int = single_stage(options={"expand": number})
    as_float = single_stage(options={"expand": float(number)})
    assert as_int == as_float
    assert as_int.key == as_float.key


def test_four_in_json_is_four_point_zero():
    text = single_stage(options={"expand": 4}).to_json()
    assert '"expand": 4' in text
    written_as_float = text.replace('"expand": 4', '"expand": 4.0')
    assert Architecture.from_json(written_as_float).key == Architecture.from_json(text).key


@pytest.mark.parametrize(
    "other",
    [
        single_stage(depth=2),
        single_stage(block="convnext"),
        single_stage(options={"expand": 4}),
        single_stage(options={"expand": 4.5}),
        single_stage(options={"se": True}),
        single_stage(options={"se": 1}),
        dataclasses.replace(single_stage(), image_size=64),
        dataclasses.replace(single_stage(), head=Head("other")),
        dataclasses.replace(single_stage(), stem=Stem("patch2", 16)),
        dataclasses.replace(single_stage(), stages=single_stage().stages * 2),
    ],
    ids=lambda architecture: architecture.key,
)
def test_what_differs_has_another_key(other):
    assert other.key != single_stage().key


def test_true_and_one_have_different_keys():
    assert single_stage(options={"se": True}).key != single_stage(options={"se": 1}).key


def test_key_is_pinned():
    assert COATNET_LIKE.key == COATNET_LIKE_KEY


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_key_is_the_same_in_another_process(hash_seed):
    program = (
        "import sys; from hybridnas.architecture import Architecture as A; print(A.from_json(sys.stdin.read()).key)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=COATNET_LIKE.to_json(),
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == COATNET_LIKE_KEY


@pytest.mark.parametrize(
    ("blocks", "layout", "families"),
    [
        (["mbconv", "mbconv", "global", "global"], "CCTT", "mbconv-mbconv-global-global"),
        (["convnext", "window"], "CT", "convnext-window"),
        (["repmixer"], "C", "repmixer"),
        (["global", "unheard-of"], "T?", "global-unheard-of"),
    ],
)
def test_layout_has_a_letter_for_each_stage(blocks, layout, families):
    stages = tuple(Stage(Transition("conv"), block, 1, 32) for block in blocks)
    architecture = Architecture(32, Stem("conv", 16), stages)
    assert architecture.layout == layout
    assert architecture.families == families


def test_a_stage_without_blocks_has_no_letter():
    assert COATNET_LIKE.layout == "CT"
    assert COATNET_LIKE.families == "mbconv-global"
    assert single_stage(depth=0).layout == ""


def changed(path, value):
    """JSON text of a good architecture with one field replaced, or removed where the value is `...`."""
    content = json.loads(COATNET_LIKE.to_json())
    owner = content
    for part in path[:-1]:
        owner = owner[part]
    if value is ...:
        del owner[path[-1]]
    else:
        owner[path[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("no json", "JSON"),
        ("[]", "an architecture: Input should be an object"),
        ("3", "an architecture: Input should be an object"),
        ("{}", "image_size"),
        (changed(["image_size"], ...), "image_size"),
        (changed(["image_size"], 0), "image_size must be at least 1, got 0"),
        (changed(["image_size"], "64"), "image_size"),
        (changed(["image_size"], 64.5), "image_size"),
        (changed(["colour"], "red"), "colour"),
        (changed(["stages"], []), "at least one stage"),
        (changed(["stem", "width"], -1), "stem width must be at least 1, got -1"),
        (changed(["stem", "depth"], 1), "stem.depth"),
        (changed(["stages", 0, "depth"], -1), "stages.0"),
        (changed(["stages", 0, "depth"], True), "stages.0.depth"),
        (changed(["stages", 1, "width"], 0), "stage width must be at least 1, got 0"),
        (changed(["stages", 1, "blok"], "mbconv"), "stages.1.blok"),
        (changed(["stages", 2, "block"], ...), "stages.2.block"),
        (changed(["stages", 2, "transition", "stride"], 3), "stride must be 1 or 2, got 3"),
        (changed(["stages", 2, "transition", "pad"], 1), "stages.2.transition.pad"),
        (changed(["stages", 2, "options", "expand"], None), "stages.2.options.expand"),
        (changed(["head", "type"], 1), "head.type"),
    ],
)
def test_bad_json_is_one_sentence(text, named):
    with pytest.raises(ArchitectureError) as caught:
        Architecture.from_json(text)
    sentence = str(caught.value)
    assert named in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Stem("conv", 0), "stem width"),
        (lambda: Transition("conv", stride=0), "stride"),
        (lambda: Stage(Transition("conv"), "mbconv", -1, 32), "depth"),
        (lambda: Stage(Transition("conv"), "mbconv", 1, 0), "width"),
        (lambda: Architecture(0, COATNET_LIKE.stem, COATNET_LIKE.stages), "image_size"),
        (lambda: Architecture(32, COATNET_LIKE.stem, ()), "stage"),
    ],
)
def test_numbers_out_of_range_are_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.parametrize(
    "part",
    [
        COATNET_LIKE,
        COATNET_LIKE.stem,
        COATNET_LIKE.stages[0],
        COATNET_LIKE.stages[0].transition,
        COATNET_LIKE.head,
    ],
    ids=lambda part: type(part).__name__,
)
def test_frozen(part):
    for field in dataclasses.fields(part):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, field.name, getattr(part, field.name))


def test_the_caller_keeps_no_hold_on_what_it_passed():
    options = {"expand": 4}
    stages = [Stage(Transition("conv"), "mbconv", 1, 32, options)]
    architecture = Architecture(32, Stem("conv", 16), stages)
    key = architecture.key
    options["expand"] = 6
    stages.clear()
    assert architecture.key == key


@given(ARCHITECTURES)
def test_equal_architectures_hash_alike(architecture):
    again = Architecture.from_json(architecture.to_json())
    assert len({architecture, again}) == 1


def test_infinite_options_do_not_crash():
    assert single_stage(options={"expand": math.inf}).key != single_stage().key
