"""What every block family promises. A new family joins by its line in BLOCKS and its closed form in MACS."""

import copy
import inspect

import pytest
import torch
from timm.layers import DropPath
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hybridnas.architecture import LETTERS
from hybridnas.blocks import BLOCKS, option_defaults
from hybridnas.blocks.fuse import fuse
from hybridnas.cost.macs import count_macs

WIDTH = 32
DEPTH = 2

# Beside the defaults: what changes the shape of the computation.
VARIANTS = {
    "mbconv": [{"se": True}, {"kernel": 5, "expand": 2, "act": "relu"}, {"expand": 1}],
    "convnext": [{"kernel": 3, "expand": 2}],
    "repmixer": [{"kernel": 5, "expand": 2}],
    "window": [{"window": 4, "head_dim": 8, "expand": 2}],
    "global": [{"head_dim": 8, "expand": 2}],
}
CASES = [
    pytest.param(name, options, id="-".join([name, *map(str, options.values())]))
    for name in BLOCKS
    for options in [{}, *VARIANTS.get(name, [])]
]


def make(name, resolution=7, *, seed=0, drop_path=(), depth=DEPTH, **options):
    torch.manual_seed(seed)
    return BLOCKS[name](WIDTH, depth, resolution, drop_path, **options)


def features(resolution=7, *, batch=2, seed=1):
    return torch.randn(batch, WIDTH, resolution, resolution, generator=torch.Generator().manual_seed(seed))


def randomise(module, seed=2):
    """Leave no scale at 1, no offset at 0: fresh values hide what a wrong fusion does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1 or name.endswith("gamma"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.copy_(torch.randn(part.num_features, generator=generator))
                part.running_var.copy_(0.5 + torch.rand(part.num_features, generator=generator))
    return module


def deployed(module):
    module = copy.deepcopy(module).eval()
    fuse(module)
    return module


def test_every_family_has_a_letter():
    assert set(LETTERS) == set(BLOCKS)
    assert set(LETTERS.values()) <= {"C", "T"}


@pytest.mark.parametrize("name", BLOCKS)
def test_every_family_is_called_alike(name):
    parameters = inspect.signature(BLOCKS[name]).parameters.values()
    positional = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert positional == ["width", "depth", "resolution", "drop_path"]
    assert all(type(default) in (bool, int, float, str) for default in option_defaults(BLOCKS[name]).values())


@pytest.mark.parametrize("resolution", [5, 7, 14, 15])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_keeps_the_shape_and_stays_finite(name, options, resolution):
    x = features(resolution)
    y = make(name, resolution, **options).eval()(x)
    assert y.shape == x.shape
    assert y.isfinite().all()
    assert not torch.equal(x, y)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_gradients_are_finite_and_reach_every_parameter(name, options):
    module = randomise(make(name, **options)).train()
    x = features().requires_grad_()
    (module(x) * features(seed=3)).sum().backward()
    gradients = {"input": x.grad, **{key: parameter.grad for key, parameter in module.named_parameters()}}
    assert [key for key, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []
    assert [key for key, gradient in gradients.items() if not gradient.any()] == []


@pytest.mark.parametrize(("name", "options"), CASES)
def test_deploy_form_computes_what_the_eval_form_does(name, options):
    module = randomise(make(name, **options)).eval()
    x = features()
    with torch.no_grad():
        torch.testing.assert_close(deployed(module)(x), module(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_deploy_form_has_no_batch_norm_and_no_more_parameters(name, options):
    module = make(name, **options)
    fused = deployed(module)
    assert [part for part in fused.modules() if isinstance(part, nn.BatchNorm2d)] == []
    assert sum(p.numel() for p in fused.parameters()) <= sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("name", "options"), CASES)
def test_deploying_twice_changes_nothing(name, options):
    once = deployed(randomise(make(name, **options)))
    x = features()
    with torch.no_grad():
        expected = once(x)
        assert torch.equal(deployed(once)(x), expected)


def mbconv_macs(resolution, form, *, kernel=3, expand=4, se=False, act="silu"):
    inner = WIDTH * expand
    convolutions = resolution**2 * (WIDTH * inner + kernel**2 * inner + inner * WIDTH)
    squeezed = WIDTH // 4
    return convolutions + (2 * inner * squeezed if se else 0)


def convnext_macs(resolution, form, *, kernel=7, expand=4):
    return resolution**2 * (kernel**2 * WIDTH + 2 * WIDTH * WIDTH * expand)


def repmixer_macs(resolution, form, *, kernel=3, expand=3):
    scale_branch = WIDTH if form == "training" else 0
    mixer = kernel**2 * WIDTH + scale_branch
    feed_forward = 7**2 * WIDTH + 2 * WIDTH * WIDTH * expand
    return resolution**2 * (mixer + feed_forward)


def window_macs(resolution, form, *, window=7, head_dim=32, expand=4):
    window = min(window, resolution)
    padded = -(-resolution // window) * window
    attention = padded**2 * (4 * WIDTH**2 + 2 * window**2 * WIDTH)
    return attention + resolution**2 * 2 * WIDTH * WIDTH * expand


def global_macs(resolution, form, *, head_dim=32, expand=4):
    tokens = resolution**2
    return tokens * (4 * WIDTH**2 + 2 * tokens * WIDTH + 2 * WIDTH * WIDTH * expand)


#: Multiply-adds of one block, from its paper's description.
MACS = {
    "mbconv": mbconv_macs,
    "convnext": convnext_macs,
    "repmixer": repmixer_macs,
    "window": window_macs,
    "global": global_macs,
}


class FromImage(nn.Module):
    """Feeds a family from an image, by repeating the image's channels: no multiply-adds of its own."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, image):
        return self.body(torch.cat([image] * 11, dim=1)[:, :WIDTH])


@pytest.mark.parametrize("form", ["training", "deploy"])
@pytest.mark.parametrize("resolution", [7, 10])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_macs_are_the_closed_form(name, options, resolution, form):
    module = make(name, resolution, **options)
    module = deployed(module) if form == "deploy" else module
    assert count_macs(FromImage(module), resolution) == DEPTH * MACS[name](resolution, form, **options)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_macs_agree_with_torch(name, options):
    module = make(name, 10, **options).eval()
    # In plain arithmetic: of attention's fused kernels torch counts only some.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(features(10, batch=1))
    assert count_macs(FromImage(module), 10) == pytest.approx(counter.get_total_flops() / 2, rel=0.02)


@pytest.mark.parametrize("form", ["training", "eval", "deploy"])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_channels_last_gives_the_same_numbers(name, options, form):
    module = randomise(make(name, **options)).train(form == "training")
    module = deployed(module) if form == "deploy" else module
    x = features()
    with torch.no_grad():
        expected = module(x)
        found = copy.deepcopy(module).to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_state_dict_round_trip(name, options):
    module = randomise(make(name, **options)).eval()
    other = make(name, seed=9, **options).eval()
    x = features()
    with torch.no_grad():
        assert not torch.equal(other(x), module(x))
        other.load_state_dict(module.state_dict())
        assert torch.equal(other(x), module(x))


@pytest.mark.parametrize("name", BLOCKS)
def test_drop_path_acts_in_training_only(name):
    plain, dropping = make(name), make(name, drop_path=[0.0, 0.5])
    dropping.load_state_dict(plain.state_dict())
    x = features(batch=8)
    with torch.no_grad():
        assert torch.equal(plain.train()(x), plain(x))
        assert not torch.equal(dropping.train()(x), dropping(x))
        dropping.load_state_dict(plain.state_dict())
        assert torch.equal(dropping.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("name", BLOCKS)
def test_drop_path_rates_go_to_the_blocks_in_order(name):
    module = make(name, drop_path=[0.1, 0.2, 0.3], depth=3)
    rates = [part.drop_prob for part in module.modules() if isinstance(part, DropPath)]
    assert list(dict.fromkeys(rates)) == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("rates", [[0.1], [0.1, 0.1, 0.1]])
@pytest.mark.parametrize("name", BLOCKS)
def test_one_drop_path_rate_a_block(name, rates):
    with pytest.raises(ValueError, match=f"got {len(rates)}"):
        make(name, drop_path=rates)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_works_on_the_meta_device(name, options):
    with torch.device("meta"):
        module = make(name, 15, **options)
        assert {p.device.type for p in module.parameters()} | {b.device.type for b in module.buffers()} == {"meta"}
        assert module(torch.empty(2, WIDTH, 15, 15)).shape == (2, WIDTH, 15, 15)


@pytest.mark.parametrize("form", ["training", "deploy"])
@pytest.mark.parametrize("name", BLOCKS)
def test_macs_are_counted_on_the_meta_device(name, form):
    with torch.device("meta"):
        module = make(name)
        module = deployed(module) if form == "deploy" else module
    assert count_macs(FromImage(module), 7) == DEPTH * MACS[name](7, form)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_seed_decides_the_weights(name):
    first, again, other = make(name, seed=5), make(name, seed=5), make(name, seed=6)
    x = features()
    with torch.no_grad():
        assert torch.equal(first.eval()(x), again.eval()(x))
        assert not torch.equal(first(x), other.eval()(x))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mbconv", {"kernel": 4}),
        ("convnext", {"kernel": 4}),
        ("repmixer", {"kernel": 4}),
        ("window", {"window": 1}),
        ("window", {"head_dim": 12}),
        ("global", {"head_dim": 12}),
        *((name, {"expand": expand}) for name in BLOCKS for expand in (0, -1)),
    ],
)
def test_impossible_options_are_a_value_error(name, options):
    ((option, value),) = options.items()
    with torch.device("meta"), pytest.raises(ValueError, match=rf"{option}.* {value}\b"):
        make(name, **options)
