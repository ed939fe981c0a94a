"""A map leaves every part in one of two memory layouts, and one image in the layout that a batch has.

Channels that are last do not count as such for convolutions where the stride between images, arbitrary for one image,
does not fit: they copy, and all that follows is computed in the other layout.
"""

import pytest
import torch
from forms import WIDTH, make

from hybridnas.blocks import BLOCKS
from hybridnas.blocks.stems import STEMS
from hybridnas.blocks.transitions import TRANSITIONS

PARTS = [
    *(("block", name) for name in BLOCKS),
    *(("transition", name) for name in TRANSITIONS),
    *(("stem", name) for name in STEMS),
]


def part_and_shape(kind, name):
    if kind == "block":
        return make(name, 8, depth=2), (WIDTH, 8, 8)
    if kind == "stem":
        return STEMS[name](16, 64), (3, 64, 64)
    width, stride = (WIDTH, 1) if name == "none" else (2 * WIDTH, 2)
    return TRANSITIONS[name](WIDTH, width, stride, 8), (WIDTH, 8, 8)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_one_image_comes_out_in_the_layout_of_a_batch(kind, name, last):
    part, shape = part_and_shape(kind, name)
    layout = torch.channels_last if last else torch.contiguous_format
    with torch.inference_mode():
        one, two = (part.eval()(torch.randn(n, *shape).to(memory_format=layout)) for n in (1, 2))
    assert one.stride()[1:] == two.stride()[1:]
    if not two.is_contiguous():
        assert one.stride() == two.stride()
    assert two.is_contiguous() or two.is_contiguous(memory_format=torch.channels_last)
