"""What every transition promises, and what each does to the map."""

import math

import pytest
import torch
from forms import FromImage, batch_norms, deployed, num_params, randomise, silent
from test_attention import everywhere, reference_attention, relative_row
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hybridnas.blocks.pad import PadTo
from hybridnas.blocks.transitions import TRANSITIONS, Keep
from hybridnas.cost.macs import count_macs

IN, OUT = 32, 48
# What each can take: transition `none` changes nothing, `merge` and `levit` halve.
STRIDES = {"none": [1], "merge": [2], "levit": [2]}
VARIANTS = {
    "patch": [{"norm": "layer_after"}, {"norm": "batch"}],
    "mbconv": [
        {"se": True, "act": "gelu"},
        {"expand": 1},
        {"style": "mobilenetv3", "se": True},
        {"style": "coatnet", "se": True},
        {"style": "coatnet_0_rw", "se": True},
    ],
    "bottleneck": [{"kernel": 5, "ratio": 0.5, "act": "gelu"}],
    "transformer": [{"head_dim": 8, "expand": 2}],
    "reparam": [{"kernel": 3}],
    "levit": [{"key_dim": 8, "value_ratio": 2, "expand": 1, "act": "gelu"}],
}
CASES = [
    pytest.param(name, stride, options, id="-".join([name, str(stride), *map(str, options.values())]))
    for name in TRANSITIONS
    for stride in STRIDES.get(name, [1, 2])
    for options in [{}, *VARIANTS.get(name, [])]
] + [pytest.param("mbconv", 2, {"style": "efficientvit"}, id="mbconv-2-efficientvit")]


def transition(name, stride, resolution=7, width=OUT, **options):
    torch.manual_seed(0)
    return randomise(TRANSITIONS[name](IN, IN if name == "none" else width, stride, resolution, **options))


def maps(resolution=7):
    return torch.randn(2, IN, resolution, resolution, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("resolution", [1, 5, 7, 8, 14])
@pytest.mark.parametrize(("name", "stride", "options"), CASES)
def test_a_transition_divides_the_resolution_and_rounds_up(name, stride, options, resolution):
    y = transition(name, stride, resolution, **options).eval()(maps(resolution))
    out = math.ceil(resolution / stride)
    assert y.shape == (2, IN if name == "none" else OUT, out, out)
    assert y.isfinite().all()


@pytest.mark.parametrize(("name", "stride"), [(n, s) for n in TRANSITIONS for s in STRIDES.get(n, [1, 2])])
def test_a_transition_may_keep_the_width(name, stride):
    module = transition(name, stride, width=IN).eval()
    out = math.ceil(7 / stride)
    with torch.no_grad():
        y = module(maps())
        torch.testing.assert_close(deployed(module)(maps()), y, rtol=1e-4, atol=1e-4)
    assert y.shape == (2, IN, out, out)


#: Batch norms that no convolution can take over: before an activation, before padding, or after squeeze-excite.
KEPT = {"coatnet": 1, "coatnet_0_rw": 2, "batch": 1}


@pytest.mark.parametrize(("name", "stride", "options"), CASES)
def test_a_transition_deploys(name, stride, options):
    module = transition(name, stride, **options).eval()
    fused = deployed(module)
    assert len(batch_norms(fused)) == KEPT.get(options.get("style") or options.get("norm"), 0)
    assert num_params(fused) <= num_params(module)
    with torch.no_grad():
        expected = module(maps())
        found = fused(maps())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(deployed(fused)(maps()), found)


@pytest.mark.parametrize(("name", "stride", "options"), CASES)
def test_gradients_reach_every_parameter(name, stride, options):
    module = transition(name, stride, **options).train()
    x = maps().requires_grad_()
    y = module(x)
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    assert silent(module) == []
    assert x.grad.isfinite().all() and x.grad.any()


@pytest.mark.parametrize(("name", "stride", "options"), CASES)
def test_channels_last_gives_the_same_numbers(name, stride, options):
    module = transition(name, stride, **options).eval()
    with torch.no_grad():
        expected = module(maps())
        found = module.to(memory_format=torch.channels_last)(maps().to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "stride", "options"), CASES)
def test_works_on_the_meta_device(name, stride, options):
    with torch.device("meta"):
        module = TRANSITIONS[name](IN, IN if name == "none" else OUT, stride, 15, **options)
        y = module(torch.empty(2, IN, 15, 15))
    assert y.shape[2:] == (math.ceil(15 / stride),) * 2


@pytest.mark.parametrize(("name", "stride", "options"), [case for case in CASES if case.values[0] != "none"])
def test_macs_agree_with_torch(name, stride, options):
    module = transition(name, stride, **options).eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(maps()[:1])
    assert count_macs(FromImage(module, IN), 7) == pytest.approx(counter.get_total_flops() / 2, rel=0.02)


def test_none_keeps_the_map_itself():
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(Keep(8, 8, 1, 4)(x), x)


@pytest.mark.parametrize("name", ["merge", "patch"])
def test_patches_see_each_2x2_neighbourhood_alone(name):
    """Swin's patch merging and ConvNeXt's patches: one output position depends on its own four positions."""
    module = transition(name, 2, 6).eval()
    x = maps(6)[:1]
    nudged = x.clone()
    nudged[:, 0, 3, 4] += 1.0
    changed = (module(nudged) != module(x)).any(1)[0]
    assert changed.nonzero().tolist() == [[1, 2]]


def layer_norm(vector, norm):
    centred = vector - vector.mean()
    return centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias


@pytest.mark.parametrize("norm", ["layer", "layer_after"])
def test_patches_are_the_slow_reference(norm):
    """What lies beyond an odd map is zero after the norm, not before it."""
    module = transition("patch", 2, 3, norm=norm).eval()
    (conv,) = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
    (layer,) = [part for part in module.modules() if isinstance(part, nn.LayerNorm)]
    x = maps(3)
    with torch.no_grad():
        found = module(x)
        for one, y, column in [(0, 0, 0), (1, 0, 1), (0, 1, 0), (1, 1, 1)]:
            out = conv.bias.clone()
            for dy, dx in [(0, 0), (0, 1), (1, 0), (1, 1)]:
                if 2 * y + dy < 3 and 2 * column + dx < 3:
                    vector = x[one, :, 2 * y + dy, 2 * column + dx]
                    vector = layer_norm(vector, layer) if norm == "layer" else vector
                    out += conv.weight[:, :, dy, dx] @ vector
            out = layer_norm(out, layer) if norm == "layer_after" else out
            torch.testing.assert_close(found[one, :, y, column], out, rtol=1e-5, atol=1e-5)


def averaged(x, side):
    """2x2 averages of a (H, W, C) map, of what lies on it."""
    out = math.ceil(side / 2)
    return torch.stack(
        [
            torch.stack([x[2 * y : 2 * y + 2, 2 * column : 2 * column + 2].mean((0, 1)) for column in range(out)])
            for y in range(out)
        ]
    )


@pytest.mark.parametrize("resolution", [4, 5])
def test_the_strided_transformer_is_the_slow_reference(resolution):
    """CoAtNet, appendix A.1: attention on the normed, then pooled map; its shortcut pooled as it is."""
    module = transition("transformer", 2, resolution, head_dim=16).eval()
    side = math.ceil(resolution / 2)
    x = maps(resolution)[0].permute(1, 2, 0)
    with torch.no_grad():
        normed = torch.stack([torch.stack([layer_norm(vector, module.norm1) for vector in row]) for row in x])
        out = averaged(x, resolution) @ module.shortcut.weight[:, :, 0, 0].T + module.shortcut.bias
        pooled = averaged(normed, resolution)
        out = out + reference_attention(pooled, module.attention, relative_row(side), everywhere(side))
        out = out + module.mlp(module.norm2(out))
        found = module(maps(resolution)[:1])[0].permute(1, 2, 0)
    torch.testing.assert_close(found, out, rtol=1e-5, atol=1e-5)


def test_mbconv_transition_has_no_shortcut_where_the_width_changes():
    """Zero weights in the last norm silence a block without shortcut."""
    module = transition("mbconv", 2).eval()
    nn.init.zeros_(module[0].bn3.weight)
    nn.init.zeros_(module[0].bn3.bias)
    assert not module(maps()).any()


@pytest.mark.parametrize("style", ["coatnet", "coatnet_0_rw"])
def test_coatnets_transition_has_a_pooled_shortcut(style):
    """Zero weights in the last convolution leave the shortcut alone (appendix A.1)."""
    module = transition("mbconv", 2, 5, style=style).eval()
    nn.init.zeros_(module[0].conv3_1x1.weight)
    shortcut = module[0].shortcut.expand
    with torch.no_grad():
        expected = averaged(maps(5)[0].permute(1, 2, 0), 5) @ shortcut.weight[:, :, 0, 0].T
        torch.testing.assert_close(module(maps(5))[0].permute(1, 2, 0), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "multiple", "padded"), [(7, 4, 8), (8, 4, 8), (1, 2, 2), (5, 1, 5)])
def test_pad_to_adds_zeros_at_the_bottom_and_right(size, multiple, padded):
    x = torch.randn(2, 3, size, size)
    y = PadTo(multiple)(x)
    assert y.shape == (2, 3, padded, padded)
    assert torch.equal(y[:, :, :size, :size], x)
    assert y.abs().sum() == x.abs().sum()
