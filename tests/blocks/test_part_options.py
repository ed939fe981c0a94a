"""Options that a part cannot take are refused in one sentence that names option and value, on any device."""

import math
import re

import pytest
import torch

from hybridnas.blocks import BLOCKS, option_defaults
from hybridnas.blocks.heads import HEADS
from hybridnas.blocks.stems import STEMS
from hybridnas.blocks.transitions import TRANSITIONS

#: Each table with the numbers that its parts are made for.
TABLES = {
    "stem": (STEMS, (16, 32)),
    "transition": (TRANSITIONS, (32, 48, 2, 7)),
    "block": (BLOCKS, (32, 1, 7)),
    "head": (HEADS, (32, 10)),
}
#: By option: values that no part can take at these widths.
IMPOSSIBLE = {
    "kernel": (4, 0, -3),
    "scale": (4, 0),
    "expand": (0, -1, math.inf, math.nan),
    "ratio": (0, -1),
    "inner_ratio": (0, -1),
    "value_ratio": (0, -1),
    "act": ("nonsense",),
    "style": ("nonsense",),
    "norm": ("nonsense",),
    "position": ("nonsense",),
    "head_dim": (12, 0, -8),
    "key_dim": (0,),
    "num_heads": (-1,),
    "window": (1, 0, -7),
    "patch": (0, -2),
    "sample": (0, -2),
    "inner": (-1,),
    "inner_depth": (0,),
    "classifiers": (0, -1),
    "features": (0, -1),
    "hidden": (-1,),
}
ANY_VALUE = {"eps"}  # besides what is true or false


def options_of(part):
    return {option: default for option, default in option_defaults(part).items() if not isinstance(default, bool)}


REFUSED = [
    pytest.param(table, name, option, value, id=f"{kind} {name}-{option}={value}")
    for kind, (table, _) in TABLES.items()
    for name, part in table.items()
    for option, default in options_of(part).items()
    for value in IMPOSSIBLE.get(option, ())
    if type(default) in (type(value), float) or type(value) is str
]


def make(table, name, numbers=None, **options):
    """On the meta device: what is refused is refused before anything is allocated."""
    if numbers is None:
        (numbers,) = (numbers for known, numbers in TABLES.values() if known is table)
    with torch.device("meta"):
        return table[name](*numbers, **options)


@pytest.mark.parametrize("kind", TABLES)
def test_every_option_is_either_refused_for_some_value_or_takes_any(kind):
    options = {option for part in TABLES[kind][0].values() for option in options_of(part)}
    assert options <= IMPOSSIBLE.keys() | ANY_VALUE


@pytest.mark.parametrize(("table", "name", "option", "value"), REFUSED)
def test_impossible_options_are_a_value_error(table, name, option, value):
    with pytest.raises(ValueError, match=rf"\b{option}\b.* '?{re.escape(str(value))}\b"):
        make(table, name, **{option: value})


@pytest.mark.parametrize(
    ("table", "name", "options", "named"),
    [
        (BLOCKS, "levit", {"num_heads": 0}, "num_heads must be at least 1, got 0"),
        (BLOCKS, "levit", {"value_ratio": 0.01}, r"value_ratio .*0\.01"),
        (BLOCKS, "mbconv", {"style": "efficientvit"}, "style efficientvit"),
        (BLOCKS, "global", {"value_ratio": 0.01}, r"value_ratio .*0\.01"),
        (BLOCKS, "global", {"class_token": True}, "class_token .* not relative"),
        (BLOCKS, "global", {"fastvit": True}, "fastvit .* not relative"),
        (BLOCKS, "global", {"fastvit": True, "position": "distance"}, "fastvit .* not distance"),
        (BLOCKS, "global", {"fastvit": True, "class_token": True, "position": "none"}, "class_token and fastvit"),
        (BLOCKS, "global", {"fastvit": True, "position": "none", "head_dim": 16}, "head_dim .* got 16"),
        (BLOCKS, "global", {"fastvit": True, "position": "none", "num_heads": 2}, "num_heads .* got 2"),
        *(
            (table, name, {"expand": 0.01}, r"expand .*0\.01")
            for table in (BLOCKS, TRANSITIONS)
            for name, part in table.items()
            if name != "mbconv" and "expand" in option_defaults(part)  # it has eight channels at least
        ),
        (BLOCKS, "lgl", {"num_heads": 3}, "num_heads .* 32, got 3"),
        (TRANSITIONS, "levit", {"value_ratio": 0.01}, r"value_ratio .*0\.01"),
        (TRANSITIONS, "levit", {"key_dim": 33}, "key_dim .* 32, got 33"),
        (TRANSITIONS, "mbconv", {"style": "efficientvit", "se": True}, "style efficientvit .* se"),
        (TRANSITIONS, "mbconv", {"style": "efficientvit", "expand": 0.01}, r"expand .*0\.01"),
        (TRANSITIONS, "reparam", {"kernel": 1}, "kernel must be at least 3, got 1"),
    ],
)
def test_impossible_combinations_are_a_value_error(table, name, options, named):
    with pytest.raises(ValueError, match=named):
        make(table, name, **options)


@pytest.mark.parametrize(
    ("table", "name", "numbers", "options", "named"),
    [
        *((BLOCKS, name, (36, 1, 7), {}, "width 36") for name in ("window", "global", "linear", "lgl")),
        (BLOCKS, "global", (36, 1, 7), {"fastvit": True, "position": "none"}, "width 36"),
        (BLOCKS, "parallel", (33, 1, 7), {}, "width .* got 33"),
        (STEMS, "mixformer", (15, 32), {}, "width .* got 15"),
        (TRANSITIONS, "transformer", (36, 48, 2, 7), {}, "width 36"),
        (TRANSITIONS, "none", (32, 48, 1, 7), {}, "width 32 to 48 and stride 1"),
        (TRANSITIONS, "none", (32, 32, 2, 7), {}, "width 32 to 32 and stride 2"),
        (TRANSITIONS, "merge", (32, 48, 1, 7), {}, "must be 2, got 1"),
        (TRANSITIONS, "levit", (32, 48, 1, 7), {}, "must be 2, got 1"),
        (TRANSITIONS, "mbconv", (32, 48, 1, 7), {"style": "efficientvit"}, "style efficientvit"),
    ],
)
def test_impossible_widths_and_strides_are_a_value_error(table, name, numbers, options, named):
    with pytest.raises(ValueError, match=named):
        make(table, name, numbers, **options)


@pytest.mark.parametrize(
    ("table", "name"), [pytest.param(t, n, id=f"{kind} {n}") for kind, (t, _) in TABLES.items() for n in t]
)
def test_every_part_can_be_made_with_its_defaults_on_the_meta_device(table, name):
    part = make(table, name, (32, 32, 1, 7) if name == "none" else None, **option_defaults(table[name]))
    assert {tensor.device.type for tensor in (*part.parameters(), *part.buffers())} <= {"meta"}
