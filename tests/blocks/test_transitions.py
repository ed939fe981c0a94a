import copy
import math

import pytest
import torch
from torch import nn

from hybridnas.blocks import option_defaults
from hybridnas.blocks.fuse import fuse
from hybridnas.blocks.heads import HEADS, LinearHead
from hybridnas.blocks.pad import PadTo
from hybridnas.blocks.stems import STEMS
from hybridnas.blocks.transitions import TRANSITIONS, Keep, MergeTransition

# What each can take: transition `none` changes nothing, `merge` halves.
STRIDES = {"none": [1], "merge": [2]}
CASES = [(name, stride) for name in TRANSITIONS for stride in STRIDES.get(name, [1, 2])]


def transition(name, stride, resolution=7, **options):
    torch.manual_seed(0)
    return TRANSITIONS[name](8, 8 if name == "none" else 16, stride, resolution, **options)


def randomise(module):
    """Leave no scale at 1, no offset at 0: fresh values hide what a wrong fusion does."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.randn(parameter.shape))
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.copy_(torch.randn(part.num_features))
                part.running_var.copy_(0.5 + torch.rand(part.num_features))
    return module.eval()


def assert_deploys(module, x):
    fused = copy.deepcopy(module)
    fuse(fused)
    assert [part for part in fused.modules() if isinstance(part, nn.BatchNorm2d)] == []
    with torch.no_grad():
        torch.testing.assert_close(fused(x), module(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("resolution", [1, 5, 7, 8, 14])
@pytest.mark.parametrize(("name", "stride"), CASES)
def test_a_transition_divides_the_resolution_and_rounds_up(name, stride, resolution):
    module = transition(name, stride).eval()
    out = math.ceil(resolution / stride)
    width = 8 if name == "none" else 16
    assert module(torch.randn(2, 8, resolution, resolution)).shape == (2, width, out, out)


@pytest.mark.parametrize("image_size", [1, 31, 32, 33, 50])
@pytest.mark.parametrize("name", STEMS)
def test_a_stem_divides_the_image_by_its_stride_and_rounds_up(name, image_size):
    module = STEMS[name](16, image_size).eval()
    out = math.ceil(image_size / module.stride)
    assert module(torch.randn(2, 3, image_size, image_size)).shape == (2, 16, out, out)


def test_strides_of_the_stems():
    assert {name: stem.stride for name, stem in STEMS.items()} == {"conv": 2, "patch2": 2, "patch4": 4}


@pytest.mark.parametrize(("name", "stride"), CASES)
def test_a_transition_deploys(name, stride):
    assert_deploys(randomise(transition(name, stride)), torch.randn(2, 8, 7, 7))


def test_mbconv_transition_deploys_with_squeeze_excite():
    assert_deploys(randomise(transition("mbconv", 2, se=True, act="gelu")), torch.randn(2, 8, 7, 7))


@pytest.mark.parametrize("name", STEMS)
def test_a_stem_deploys(name):
    assert_deploys(randomise(STEMS[name](16, 15)), torch.randn(2, 3, 15, 15))


@pytest.mark.parametrize(("name", "stride"), [case for case in CASES if case[0] != "none"])
def test_gradients_reach_every_parameter_of_a_transition(name, stride):
    module = randomise(transition(name, stride)).train()
    x = torch.randn(2, 8, 7, 7)
    y = module(x)
    (y * torch.randn_like(y)).sum().backward()
    assert [key for key, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(("name", "stride"), CASES)
def test_channels_last_gives_the_same_numbers(name, stride):
    module = randomise(transition(name, stride))
    x = torch.randn(2, 8, 7, 7)
    with torch.no_grad():
        expected = module(x)
        found = module.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_none_keeps_the_map_itself():
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(Keep(8, 8, 1, 4)(x), x)


@pytest.mark.parametrize(("in_width", "width", "stride"), [(8, 16, 1), (8, 8, 2), (8, 16, 2)])
def test_none_refuses_changes(in_width, width, stride):
    with pytest.raises(ValueError, match=f"width {in_width} to {width} and stride {stride}"):
        Keep(in_width, width, stride, 4)


def test_merge_refuses_stride_1():
    with pytest.raises(ValueError, match="must be 2, got 1"):
        MergeTransition(8, 16, 1, 4)


def test_merge_sees_each_2x2_neighbourhood_alone():
    """Swin's patch merging: one output position depends on its own four positions."""
    module = transition("merge", 2).eval()
    x = torch.randn(1, 8, 6, 6)
    nudged = x.clone()
    nudged[:, 0, 3, 4] += 1.0
    changed = (module(nudged) != module(x)).any(1)[0]
    assert changed.nonzero().tolist() == [[1, 2]]


def test_patch_sees_each_2x2_neighbourhood_alone():
    module = transition("patch", 2).eval()
    x = torch.randn(1, 8, 6, 6)
    nudged = x.clone()
    nudged[:, 0, 3, 4] += 1.0
    changed = (module(nudged) != module(x)).any(1)[0]
    assert changed.nonzero().tolist() == [[1, 2]]


def test_mbconv_transition_has_no_shortcut_where_the_width_changes():
    """Zero weights in the last norm silence a block without shortcut."""
    module = transition("mbconv", 2).eval()
    nn.init.zeros_(module[0].bn3.weight)
    assert not module(torch.randn(1, 8, 6, 6)).any()


@pytest.mark.parametrize(("size", "multiple", "padded"), [(7, 4, 8), (8, 4, 8), (1, 2, 2), (5, 1, 5)])
def test_pad_to_adds_zeros_at_the_bottom_and_right(size, multiple, padded):
    x = torch.randn(2, 3, size, size)
    y = PadTo(multiple)(x)
    assert y.shape == (2, 3, padded, padded)
    assert torch.equal(y[:, :, :size, :size], x)
    assert y.abs().sum() == x.abs().sum()


def test_linear_head_is_pooling_norm_and_a_matrix_product():
    head = randomise(LinearHead(8, 5))
    x = torch.randn(2, 8, 3, 4)
    pooled = x.sum((2, 3)) / 12
    mean = pooled.mean(1, keepdim=True)
    variance = ((pooled - mean) ** 2).mean(1, keepdim=True)
    normed = (pooled - mean) / (variance + 1e-5).sqrt() * head.norm.weight + head.norm.bias
    with torch.no_grad():
        torch.testing.assert_close(head(x, pre_logits=True), normed)
        torch.testing.assert_close(head(x), normed @ head.fc.weight.T + head.fc.bias)


@pytest.mark.parametrize(
    ("table", "arguments"),
    [(STEMS, (16, 32)), (TRANSITIONS, (16, 16, 2, 7)), (HEADS, (16, 10))],
    ids=["stem", "joint", "head"],
)
def test_every_part_can_be_made_with_its_defaults_on_the_meta_device(table, arguments):
    for name, part in table.items():
        numbers = (16, 16, 1) if name == "none" else arguments
        with torch.device("meta"):
            made = part(*numbers, **option_defaults(part))
        assert {p.device.type for p in made.parameters()} <= {"meta"}
