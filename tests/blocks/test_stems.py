"""What every stem promises."""

import math

import pytest
import torch
from forms import batch_norms, deployed, num_params, randomise, silent
from torch.utils.flop_counter import FlopCounterMode

from hybridnas.blocks.stems import STEMS
from hybridnas.cost.macs import count_macs

VARIANTS = {
    "conv": [{"act": "relu", "inner": 8}],
    "conv3x3": [{"act": "hard_swish"}],
    "patch2": [{"norm": False}],
    "patch4": [{"position": True}],
    "patch14": [{"norm": True, "position": False}],
}
CASES = [
    pytest.param(name, options, id="-".join([name, *(f"{key}={value}" for key, value in options.items())]))
    for name in STEMS
    for options in [{}, *VARIANTS.get(name, [])]
]


def stem(name, image_size=33, **options):
    torch.manual_seed(0)
    return randomise(STEMS[name](16, image_size, **options))


def images(image_size=33):
    return torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(1))


def test_strides_of_the_stems():
    assert {name: stem.stride for name, stem in STEMS.items()} == {
        "conv": 2,
        "conv3x3": 2,
        "resnet": 4,
        "efficientformer": 4,
        "levit": 16,
        "mobileone": 4,
        "mixformer": 4,
        "patch2": 2,
        "patch4": 4,
        "patch14": 14,
        "patch16": 16,
    }


@pytest.mark.parametrize("image_size", [1, 31, 32, 33, 50])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_stem_divides_the_image_by_its_stride_and_rounds_up(name, options, image_size):
    module = stem(name, image_size, **options).eval()
    out = math.ceil(image_size / module.stride)
    y = module(images(image_size))
    assert y.shape == (2, 16, out, out)
    assert y.isfinite().all()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_stem_deploys(name, options):
    module = stem(name, **options).eval()
    fused = deployed(module)
    assert batch_norms(fused) == []
    assert num_params(fused) <= num_params(module)
    with torch.no_grad():
        found = fused(images())
        torch.testing.assert_close(found, module(images()), rtol=1e-4, atol=1e-4)
        assert torch.equal(deployed(fused)(images()), found)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_gradients_reach_every_parameter(name, options):
    module = stem(name, **options).train()
    y = module(images())
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    assert silent(module) == []


@pytest.mark.parametrize(("name", "options"), CASES)
def test_channels_last_gives_the_same_numbers(name, options):
    module = stem(name, **options).eval()
    with torch.no_grad():
        expected = module(images())
        found = module.to(memory_format=torch.channels_last)(images().to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_works_on_the_meta_device(name, options):
    with torch.device("meta"):
        module = STEMS[name](16, 33, **options)
        y = module(torch.empty(2, 3, 33, 33))
    assert y.shape[2:] == (math.ceil(33 / module.stride),) * 2


@pytest.mark.parametrize(("name", "options"), CASES)
def test_macs_agree_with_torch(name, options):
    module = stem(name, **options).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(images()[:1])
    assert count_macs(module, 33) == pytest.approx(counter.get_total_flops() / 2, rel=0.02)


@pytest.mark.parametrize(("name", "patch"), [("patch2", 2), ("patch4", 4), ("patch14", 14), ("patch16", 16)])
def test_a_patch_is_a_linear_map_of_its_pixels_plus_what_its_place_adds(name, patch):
    module = stem(name, 2 * patch, norm=False, position=True).eval()
    x = images(2 * patch)
    with torch.no_grad():
        found = module(x)
        for y, column in [(0, 0), (0, 1), (1, 0), (1, 1)]:
            pixels = x[:, :, y * patch : (y + 1) * patch, column * patch : (column + 1) * patch].flatten(1)
            expected = pixels @ module.proj.weight.flatten(1).T + module.proj.bias + module.position[0, :, y, column]
            torch.testing.assert_close(found[:, :, y, column], expected, rtol=1e-5, atol=1e-5)
