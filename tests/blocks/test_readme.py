"""The list of parts says what there is."""

import re
from pathlib import Path

import pytest

import hybridnas.blocks
from hybridnas.architecture import LETTERS
from hybridnas.blocks import BLOCKS, compat_options, option_defaults
from hybridnas.blocks.heads import HEADS
from hybridnas.blocks.stems import STEMS
from hybridnas.blocks.transitions import TRANSITIONS

README = (Path(hybridnas.blocks.__file__).parent / "README.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+) .*?\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL))
PARTS = [
    (section, name, part)
    for section, table in (("Families", BLOCKS), ("Stems", STEMS), ("Transitions", TRANSITIONS), ("Heads", HEADS))
    for name, part in table.items()
]


def row(section, name):
    """The cells of a part's row; several parts may share one."""
    lines = [line.strip("| ").split(" | ") for line in SECTIONS[section].splitlines() if line.startswith("| `")]
    (cells,) = [cells for cells in lines if f"`{name}`" in cells[0]]
    return cells


@pytest.mark.parametrize(("section", "name", "part"), PARTS, ids=[f"{s}-{n}" for s, n, _ in PARTS])
def test_every_part_is_listed_with_its_options(section, name, part):
    text = " ".join(row(section, name)[1:])
    if "those of the family" in text:
        return
    for option, default in option_defaults(part).items():
        shown = f"{default:g}".replace("e-0", "e-") if type(default) in (int, float) else str(default).lower()
        assert f"`{option} {shown}`" in text


@pytest.mark.parametrize("name", BLOCKS)
def test_letters_and_compat_options_of_a_family(name):
    cells = row("Families", name)
    assert cells[1] == LETTERS[name]
    listed = set(re.findall(r"`(\w+) ", cells[4] if len(cells) > 4 else ""))
    assert listed == compat_options(BLOCKS[name])


@pytest.mark.parametrize("name", STEMS)
def test_strides_of_a_stem(name):
    cells = row("Stems", name)
    names = re.findall(r"`(\w+)`", cells[0])
    assert dict(zip(names, map(int, cells[1].split(", ")), strict=True))[name] == STEMS[name].stride
