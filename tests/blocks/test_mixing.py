"""The families that mix by other rules than plain attention, against references that go position by position."""

import math

import pytest
import torch
from forms import randomise
from test_attention import attended
from timm.models.efficientvit_mit import LiteMLA
from torch.nn import functional as F  # noqa: N812

from hybridnas.blocks.lgl import SparseAttention
from hybridnas.blocks.linear import LinearBlock
from hybridnas.blocks.mobilevit import MobileViT
from hybridnas.blocks.parallel import DualPath

WIDTH = 12
HEAD_DIM = 4
HEADS = 3


def positions(side):
    return [(y, x) for y in range(side) for x in range(side)]


def normed(vector, norm):
    """Batch norm of one position by the running statistics."""
    return (vector - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


def depthwise(at, kernel, side):
    """A depthwise convolution of {(y, x): vector}; beyond the map there are zeros."""
    reach = kernel.shape[-1] // 2
    return {
        (y, x): sum(
            kernel[:, 0, v - y + reach, u - x + reach] * at[v, u]
            for v, u in positions(side)
            if abs(v - y) <= reach and abs(u - x) <= reach
        )
        for y, x in positions(side)
    }


def as_map(at, side):
    return torch.stack([at[place] for place in positions(side)], -1).unflatten(-1, (side, side))


def linear_reference(x, attention, scale, side):
    """EfficientViT, equation 2: weights are products of rectified queries and keys, over their sum.

    Each head has its channels of query, key and value side by side; the second scale's are neighbourhoods of these:
    each channel gathers its surroundings, then the channels of one head's query mix, of its key, of its value.
    """
    project = attention.qkv.conv.weight[:, :, 0, 0]
    first = {(v, u): project @ x[:, v, u] for v, u in positions(side)}
    around = depthwise(first, attention.aggreg[0][0].weight, side)
    mix = attention.aggreg[0][1].weight[:, :, 0, 0]  # (3C, HEAD_DIM)
    second = {
        place: torch.cat(
            [
                mix[start : start + HEAD_DIM] @ vector[start : start + HEAD_DIM]
                for start in range(0, 3 * WIDTH, HEAD_DIM)
            ]
        )
        for place, vector in around.items()
    }
    out = {}
    for place in positions(side):
        gathered = []
        for qkv in (first, second):
            for head in range(HEADS):
                q, k, v = (slice((3 * head + i) * HEAD_DIM, (3 * head + i + 1) * HEAD_DIM) for i in range(3))
                query = qkv[place][q].relu()
                weights = [query @ qkv[other][k].relu() for other in positions(side)]
                values = [qkv[other][v] for other in positions(side)]
                total = sum(weights) + attention.eps
                gathered.append(sum(w * value for w, value in zip(weights, values, strict=True)) / total)
        out[place] = normed(attention.proj.conv.weight[:, :, 0, 0] @ torch.cat(gathered), attention.proj.norm)
    return as_map(out, side)


@pytest.mark.parametrize("scale", [3, 5])
@pytest.mark.parametrize("side", [1, 4])
def test_linear_attention_is_the_slow_reference(side, scale):
    block = randomise(LinearBlock(WIDTH, HEAD_DIM, scale, 2, "hard_swish", 0.0)).eval()
    assert isinstance(block.attention, LiteMLA)
    x = torch.randn(2, WIDTH, side, side)
    with torch.no_grad():
        expected = torch.stack([linear_reference(one, block.attention, scale, side) for one in x])
        # Where rectified products nearly cancel, the division magnifies rounding.
        torch.testing.assert_close(block.attention(x), expected, rtol=1e-5, atol=1e-5)
        summed = x + expected
        torch.testing.assert_close(block(x), summed + block.local(summed), rtol=1e-4, atol=1e-4)


def sparse_reference(x, module, sample):
    """EdgeViT: every sample-th position of each side attends to its likes; a square takes its corner's result.

    Inside the square, channel c at (dy, dx) is that result times weight (c, dy, dx); then norm and projection.
    """
    side, heads = x.shape[0], module.attention.num_heads
    at = {(y, x_): module.attention.qkv(x[y, x_]).chunk(3) for y, x_ in positions(side)}
    sampled = [(y, x_) for y, x_ in at if y % sample == 0 and x_ % sample == 0]
    results = {}
    for place in sampled:
        mixed = []
        for head in range(heads):
            query = at[place][0].chunk(heads)[head]
            keys, values = ([at[other][i].chunk(heads)[head] for other in sampled] for i in (1, 2))
            mixed.append(attended(query, keys, values, [0.0] * len(sampled)))
        results[place] = torch.cat(mixed)
    out = torch.empty_like(x)
    for y, x_ in positions(side):
        result = results[y // sample * sample, x_ // sample * sample]
        if sample > 1:
            spread = result * module.propagate.weight[:, 0, y % sample, x_ % sample] + module.propagate.bias
            out[y, x_] = module.proj(module.norm(spread))
        else:
            out[y, x_] = module.attention.proj(result)
    return out


@pytest.mark.parametrize("sample", [1, 2, 4])
@pytest.mark.parametrize("side", [4, 5])
def test_sparse_attention_is_the_slow_reference(side, sample):
    module = randomise(SparseAttention(WIDTH, HEADS, sample)).eval()
    x = torch.randn(2, side, side, WIDTH)
    with torch.no_grad():
        expected = torch.stack([sparse_reference(one, module, sample) for one in x])
        torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)


def gate(vector, gate):
    """Two layers and a sigmoid, at one position."""
    first, second = gate[0], gate[1]
    hidden = F.gelu(normed(first.conv.weight[:, :, 0, 0] @ vector, first.bn))
    return (second.weight[:, :, 0, 0] @ hidden + second.bias).sigmoid()


def dual_reference(x, module, window):
    """MixFormer's two paths, position by position: windows of what lies on the map, never of its padding."""
    side, heads = x.shape[0], module.num_heads
    places = positions(side)
    table = module.bias.table

    around = depthwise({place: module.into_conv(x[place]) for place in places}, module.depthwise.conv.weight, side)
    convolved = {place: F.gelu(normed(vector, module.depthwise.bn)) for place, vector in around.items()}
    inside = {place: module.qkv(module.into_attention(x[place])).chunk(3) for place in places}
    weigh_channels = 1.0
    if module.channels is not None:
        weigh_channels = gate(sum(convolved.values()) / len(places), module.channels)

    out = torch.empty_like(x)
    for y, x_ in places:
        neighbours = [(v, u) for v, u in places if v // window == y // window and u // window == x_ // window]
        mixed = []
        for head in range(heads):
            query = inside[y, x_][0].chunk(heads)[head]
            keys = [inside[other][1].chunk(heads)[head] for other in neighbours]
            values = [(inside[other][2] * weigh_channels).chunk(heads)[head] for other in neighbours]
            rows = [(y - v + window - 1) * (2 * window - 1) + x_ - u + window - 1 for v, u in neighbours]
            mixed.append(attended(query, keys, values, table[rows, head]))
        attention = torch.cat(mixed)
        convolution = module.narrow.weight[:, :, 0, 0] @ convolved[y, x_] + module.narrow.bias
        if module.positions is not None:
            convolution = convolution * gate(attention, module.positions)
        joined = torch.cat([module.attention_norm(attention), normed(convolution, module.conv_norm)])
        out[y, x_] = module.proj(joined)
    return out


@pytest.mark.parametrize("interact", [True, False])
@pytest.mark.parametrize(("side", "window"), [(4, 4), (4, 2), (5, 2), (5, 4)])
def test_the_dual_path_is_the_slow_reference(side, window, interact):
    module = randomise(DualPath(16, HEAD_DIM, side, window, 3, interact)).eval()
    x = torch.randn(2, side, side, 16)
    with torch.no_grad():
        expected = torch.stack([dual_reference(one, module, window) for one in x])
        torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)


def mobilevit_reference(x, block, patch):
    """MobileViT: positions that share a place in their patch attend to each other, and to no others."""
    side = x.shape[-1]
    stretched = math.ceil(side / patch) * patch
    local = block.conv_1x1(block.conv_kxk(x))
    if stretched != side:
        local = F.interpolate(local, size=(stretched, stretched), mode="bilinear", align_corners=False)
    mixed = torch.empty_like(local)
    for dy, dx in positions(patch):
        alike = [(y, x_) for y, x_ in positions(stretched) if y % patch == dy and x_ % patch == dx]
        tokens = torch.stack([local[:, :, y, x_] for y, x_ in alike], dim=1)
        tokens = block.norm(block.transformer(tokens))
        for i, (y, x_) in enumerate(alike):
            mixed[:, :, y, x_] = tokens[:, i]
    if stretched != side:
        mixed = F.interpolate(mixed, size=(side, side), mode="bilinear", align_corners=False)
    return block.conv_fusion(torch.cat((x, block.conv_proj(mixed)), dim=1))


@pytest.mark.parametrize(("side", "patch"), [(4, 2), (6, 3), (4, 4), (3, 1), (5, 2), (7, 4)])
def test_mobilevit_is_the_slow_reference(side, patch):
    family = randomise(MobileViT(WIDTH, 1, side, patch=patch)).eval()
    x = torch.randn(2, WIDTH, side, side)
    with torch.no_grad():
        torch.testing.assert_close(family(x), mobilevit_reference(x, family[0], patch), rtol=1e-5, atol=1e-5)
