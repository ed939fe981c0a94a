"""Options that a family cannot take are refused in one sentence that names option and value, on any device."""

import math
import re

import pytest
import torch
from forms import make

from hybridnas.blocks import BLOCKS, option_defaults

#: By option: values that no family can take at width 32.
IMPOSSIBLE = {
    "kernel": (4, 0, -3),
    "scale": (4, 0),
    "expand": (0, -1, math.inf, math.nan),
    "ratio": (0, -1),
    "inner_ratio": (0, -1),
    "value_ratio": (0, -1),
    "act": ("nonsense",),
    "style": ("nonsense",),
    "position": ("nonsense",),
    "head_dim": (12, 0, -8),
    "key_dim": (0,),
    "num_heads": (-1,),
    "window": (1, 0, -7),
    "patch": (0, -2),
    "sample": (0, -2),
    "inner_depth": (0,),
}
ANY_VALUE = {"eps"}
REFUSED = [
    (name, {option: value})
    for name, part in BLOCKS.items()
    for option in option_defaults(part)
    for value in IMPOSSIBLE.get(option, ())
]


def test_every_option_is_either_refused_for_some_value_or_takes_any():
    for part in BLOCKS.values():
        options = {option for option, default in option_defaults(part).items() if not isinstance(default, bool)}
        assert options <= IMPOSSIBLE.keys() | ANY_VALUE


@pytest.mark.parametrize(("name", "options"), REFUSED, ids=lambda value: str(value))
def test_impossible_options_are_a_value_error(name, options):
    ((option, value),) = options.items()
    with torch.device("meta"), pytest.raises(ValueError, match=rf"\b{option}\b.* '?{re.escape(str(value))}\b"):
        make(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("levit", {"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ("mbconv", {"style": "efficientvit"}, "style efficientvit"),
        ("global", {"class_token": True}, "class_token .* not relative"),
        ("global", {"fastvit": True}, "fastvit .* not relative"),
        ("global", {"fastvit": True, "position": "distance"}, "fastvit .* not distance"),
        ("global", {"fastvit": True, "class_token": True, "position": "none"}, "class_token and fastvit"),
        ("global", {"fastvit": True, "position": "none", "head_dim": 16}, "head_dim .* got 16"),
        ("global", {"fastvit": True, "position": "none", "num_heads": 2}, "num_heads .* got 2"),
        ("global", {"value_ratio": 0.01}, "value_ratio .*0.01"),
        ("levit", {"value_ratio": 0.01}, "value_ratio .*0.01"),
    ],
)
def test_impossible_combinations_are_a_value_error(name, options, named):
    with torch.device("meta"), pytest.raises(ValueError, match=named):
        make(name, **options)


@pytest.mark.parametrize(
    ("name", "width", "options"),
    [("parallel", 33, {}), ("global", 36, {"fastvit": True, "position": "none"})]
    + [(name, 36, {}) for name in ("window", "global", "linear", "lgl")],
)
def test_impossible_widths_are_a_value_error(name, width, options):
    with torch.device("meta"), pytest.raises(ValueError, match=f"width.* {width}"):
        BLOCKS[name](width, 1, 7, **options)
