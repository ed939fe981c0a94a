import itertools
import random

import pytest
import torch
from torch import nn

from hybridnas.blocks import BLOCKS, compat_options, option_defaults
from hybridnas.errors import SpaceError
from hybridnas.space import SearchSpace
from hybridnas.space.parts import TABLES, problem

ODD = {
    int: (-1, 0, 2, 3, 5, 8, 24),
    float: (-1.0, 0.5, 2.0, float("inf")),
    bool: (True, False),
    str: ("relu", "conv", "none", "silly"),
}
NUMBERS = {  # what problem takes, and what the constructor does
    "stems": [((width, 32), (width, 32)) for width in (8, 36)],
    "blocks": [((width, side), (width, 1, side)) for width, side in itertools.product((8, 36), (1, 7))],
    "transitions": [
        ((before, after, stride, 7), (before, after, stride, 7))
        for before, after, stride in itertools.product((8, 36), (8, 36), (1, 2))
    ],
    "heads": [((width,), (width, 10)) for width in (8, 36)],
}


def can_be_made(part, options, arguments):
    try:
        with torch.device("meta"):
            part(*arguments, **options)
    except (ValueError, TypeError, OverflowError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize(("section", "name"), [(section, name) for section in TABLES for name in TABLES[section]])
def test_a_part_fits_where_its_constructor_says_so(section, name):
    """Also where the part has a `check` of its own: it must agree with the constructor."""
    part = TABLES[section][name]
    choices = [{}]
    for option, default in option_defaults(part).items():
        choices += [{option: value} for value in ODD[type(default)]]
    rng = random.Random(0)
    for _ in range(30 if hasattr(part, "check") else 0):  # what several options forbid together
        choices.append({o: rng.choice((d, d, *ODD[type(d)])) for o, d in option_defaults(part).items()})
    for options, (numbers, arguments) in itertools.product(choices, NUMBERS[section]):
        assert (problem(section, name, options, *numbers) is None) == can_be_made(part, options, arguments), options


class Checked(nn.Identity):
    """A family that counts how often it is made."""

    made = 0

    def __init__(self, width, depth, resolution, drop_path=(), *, groups: int = 1, twin: int = 1) -> None:
        self.check(width, resolution, groups=groups, twin=twin)
        Checked.made += 1
        super().__init__()

    @staticmethod
    def check(width, resolution, *, groups: int = 1, twin: int = 1) -> None:
        if width % (groups * twin) or resolution < groups:
            raise ValueError(f"{groups} groups and {twin} twins do not fit width {width} at {resolution}")


@pytest.fixture
def checked(monkeypatch):
    monkeypatch.setitem(BLOCKS, "checked", Checked)
    monkeypatch.setattr(Checked, "made", 0)
    return """\
image_size: 32
stem: {type: conv, width: 12}
stages:
  - {transition: conv, block: checked, depth: 1, width: [12, 24]}
"""


def test_a_part_with_a_check_is_not_made(checked):
    text = checked + "blocks: {checked: {groups: [1, 2, 3], twin: [1, 2]}}\n"
    assert SearchSpace.parse(text, name="checked", file="checked.yaml").size == 12
    assert Checked.made == 0


def test_a_combination_that_no_single_option_forbids_is_found(checked):
    text = checked + "blocks: {checked: {groups: [1, 2, 4, 6], twin: [1, 2, 4]}}\n"
    with pytest.raises(SpaceError) as caught:
        SearchSpace.parse(text, name="checked", file="checked.yaml")
    assert "line 4: stages[0] cannot be built (groups 2, twin 4): checked: 2 groups and 4 twins" in str(caught.value)
    assert "width 12 at 8." in str(caught.value)


def test_a_family_is_checked_at_every_resolution(checked):
    text = checked.replace("image_size: 32", "image_size: [32, 8]") + "blocks: {checked: {groups: 3}}\n"
    with pytest.raises(SpaceError, match="width 12 at 2"):
        SearchSpace.parse(text, name="checked", file="checked.yaml")


def test_a_transition_is_checked_at_every_width_and_resolution_that_arrives(monkeypatch):
    seen = set()

    class Joint(nn.Identity):
        def __init__(self, in_width, width, stride, resolution) -> None:
            super().__init__()
            seen.add((in_width, width, stride, resolution))

    monkeypatch.setitem(TABLES["transitions"], "joint", Joint)
    text = """\
image_size: [16, 32]
stem: {type: [conv, patch4], width: [8, 16]}
stages:
  - {transition: [none, conv], block: mbconv, depth: 1, width: 24}
  - {transition: joint, stride: [1, 2], block: mbconv, depth: 1, width: [32, 40]}
"""
    SearchSpace.parse(text, name="joint", file="joint.yaml")
    arriving = {(width, side) for width in (8, 16) for side in (4, 8, 16)} | {(24, side) for side in (2, 4, 8)}
    assert seen == {(before, after, s, side) for before, side in arriving for after in (32, 40) for s in (1, 2)}


def test_compat_options_are_options():
    for table in TABLES.values():
        for part in table.values():
            assert compat_options(part) <= set(option_defaults(part))
