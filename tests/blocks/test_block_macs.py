"""Multiply-adds of every family, as its paper describes it, and as torch counts them."""

import pytest
import torch
from forms import DEPTH, WIDTH, FromImage, cases, deployed, features, make
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hybridnas.blocks import BLOCKS
from hybridnas.cost.macs import count_macs

CASES = cases()


def padded(resolution, multiple):
    return -(-resolution // multiple) * multiple


def mlp_macs(width, expand):
    """A position's way through two linear layers."""
    return 2 * width * int(width * expand)


def mbconv_macs(resolution, form, *, kernel=3, expand=4, se=False, act="silu", style="efficientnet"):
    inner = WIDTH * expand
    widen = WIDTH * inner if expand > 1 else 0
    convolutions = resolution**2 * (widen + kernel**2 * inner + inner * WIDTH)
    squeezed = WIDTH // 4 if style == "efficientnet" else inner // 4
    return convolutions + (2 * inner * squeezed if se else 0)


def convnext_macs(resolution, form, *, kernel=7, expand=4):
    return resolution**2 * (kernel**2 * WIDTH + mlp_macs(WIDTH, expand))


def bottleneck_macs(resolution, form, *, kernel=3, ratio=0.25, act="relu"):
    inner = int(WIDTH * ratio)
    return resolution**2 * (WIDTH * inner + kernel**2 * inner**2 + inner * WIDTH)


def repmixer_macs(resolution, form, *, kernel=3, expand=3):
    scale_branch = WIDTH if form == "training" else 0
    mixer = kernel**2 * WIDTH + scale_branch
    feed_forward = 7**2 * WIDTH + mlp_macs(WIDTH, expand)
    return resolution**2 * (mixer + feed_forward)


def pool_macs(resolution, form, *, kernel=3, expand=4):
    return resolution**2 * mlp_macs(WIDTH, expand)


def window_macs(resolution, form, *, window=7, head_dim=32, expand=4):
    window = min(window, resolution)
    attention = padded(resolution, window) ** 2 * (4 * WIDTH**2 + 2 * window**2 * WIDTH)
    return attention + resolution**2 * mlp_macs(WIDTH, expand)


def global_macs(resolution, form, *, head_dim=32, expand=4, num_heads=0, value_ratio=1, **options):
    tokens = resolution**2 + (1 if options.get("class_token") else 0)
    keys = (num_heads or WIDTH // head_dim) * head_dim  # of all heads together
    values = keys * value_ratio
    attention = WIDTH * (2 * keys + values) + tokens * (keys + values) + values * WIDTH
    depthwise = 7**2 * WIDTH if options.get("fastvit") else 0
    return tokens * (attention + depthwise + mlp_macs(WIDTH, expand))


def linear_macs(resolution, form, *, head_dim=16, scale=5, expand=4, act="hard_swish"):
    project = WIDTH * 3 * WIDTH
    aggregate = 3 * WIDTH * (scale**2 + head_dim)
    # At both scales, keys times values and queries times that; one value more adds up the weights.
    attend = 2 * 2 * WIDTH * (head_dim + 1)
    join = 2 * WIDTH * WIDTH
    inner = WIDTH * expand
    local = WIDTH * inner + 3**2 * inner + inner * WIDTH
    return resolution**2 * (project + aggregate + attend + join + local)


def mobilevit_macs(resolution, form, *, kernel=3, patch=2, inner_ratio=1.5, inner_depth=2, expand=2, act="silu"):
    inner = int(WIDTH * inner_ratio)
    stretched = padded(resolution, patch)
    patches = (stretched // patch) ** 2
    layer = stretched**2 * (4 * inner**2 + 2 * patches * inner + mlp_macs(inner, expand))
    before, after, fusion = kernel**2 * WIDTH**2 + WIDTH * inner, inner * WIDTH, kernel**2 * 2 * WIDTH * WIDTH
    return resolution**2 * (before + after + fusion) + inner_depth * layer


def levit_macs(resolution, form, *, num_heads=4, key_dim=16, value_ratio=2, expand=2, act="hard_swish"):
    tokens = resolution**2
    keys, values = num_heads * key_dim, num_heads * key_dim * value_ratio
    attention = WIDTH * (2 * keys + values) + tokens * (keys + values) + values * WIDTH
    return tokens * (attention + mlp_macs(WIDTH, expand))


def lgl_macs(resolution, form, *, head_dim=32, sample=2, kernel=5, expand=4, num_heads=0):
    position = 3**2 * WIDTH
    local = position + WIDTH**2 + kernel**2 * WIDTH + WIDTH**2 + mlp_macs(WIDTH, expand)
    sampled = (padded(resolution, sample) // sample) ** 2
    attention = sampled * (3 * WIDTH**2 + 2 * sampled * WIDTH)
    propagation = sampled * sample**2 * WIDTH
    everywhere = position + WIDTH**2 + mlp_macs(WIDTH, expand)
    if sample == 1:  # nothing to aggregate, nothing to propagate
        local = propagation = 0
    return resolution**2 * (local + everywhere) + attention + propagation


def parallel_macs(resolution, form, *, window=7, head_dim=8, kernel=3, expand=4, interact=True):
    half = WIDTH // 2
    window = min(window, resolution)
    attention = resolution**2 * WIDTH * half
    attention += padded(resolution, window) ** 2 * (3 * half**2 + 2 * window**2 * half)
    convolution = resolution**2 * (WIDTH**2 + kernel**2 * WIDTH + WIDTH * half)
    channels = WIDTH * (WIDTH // 8) + (WIDTH // 8) * half  # at one position
    positions = resolution**2 * (half * (half // 8) + half // 8)
    interaction = channels + positions if interact else 0
    return attention + convolution + interaction + resolution**2 * (WIDTH**2 + mlp_macs(WIDTH, expand))


#: Multiply-adds of one block, from its paper's description.
MACS = {
    "mbconv": mbconv_macs,
    "convnext": convnext_macs,
    "bottleneck": bottleneck_macs,
    "repmixer": repmixer_macs,
    "pool": pool_macs,
    "window": window_macs,
    "global": global_macs,
    "linear": linear_macs,
    "mobilevit": mobilevit_macs,
    "levit": levit_macs,
    "lgl": lgl_macs,
    "parallel": parallel_macs,
}


def macs(name, resolution, form, **options):
    """Of a stage: its blocks, and the convolution that tells `global` its positions once."""
    once = 7**2 * WIDTH * resolution**2 if options.get("position") == "conv" else 0
    return once + DEPTH * MACS[name](resolution, form, **options)


@pytest.mark.parametrize("form", ["training", "deploy"])
@pytest.mark.parametrize(
    ("name", "options", "resolution"),
    [pytest.param(*case.values, 10, id=f"{case.id}-10") for case in CASES]
    + [pytest.param(*case.values, 7, id=f"{case.id}-7") for case in cases(variants=0)],
)
def test_macs_are_the_closed_form(name, options, resolution, form):
    module = make(name, resolution, **options)
    module = deployed(module) if form == "deploy" else module
    assert count_macs(FromImage(module), resolution) == macs(name, resolution, form, **options)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_macs_agree_with_torch(name, options):
    module = make(name, 10, **options).eval()
    # In plain arithmetic: of attention's fused kernels torch counts only some.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(features(10, batch=1))
    assert count_macs(FromImage(module), 10) == pytest.approx(counter.get_total_flops() / 2, rel=0.02)


@pytest.mark.parametrize("form", ["training", "deploy"])
@pytest.mark.parametrize("name", BLOCKS)
def test_macs_are_counted_on_the_meta_device(name, form):
    with torch.device("meta"):
        module = make(name)
        module = deployed(module) if form == "deploy" else module
    assert count_macs(FromImage(module), 7) == macs(name, 7, form)
