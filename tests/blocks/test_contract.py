"""What every block family promises. A new family joins by its line in BLOCKS and its closed form in MACS.

The other promises: test_block_macs.py counts, test_part_options.py refuses, test_block_export.py exports.
"""

import copy
import inspect

import pytest
import torch
from forms import DEPTH, VARIANTS, WIDTH, batch_norms, cases, deployed, features, make, num_params, randomise, silent
from timm.layers import DropPath

from hybridnas.architecture import LETTERS
from hybridnas.blocks import BLOCKS, option_defaults
from hybridnas.palette import FAMILY_COLOURS

CASES = cases()


def test_every_family_has_a_letter():
    assert set(LETTERS) == set(BLOCKS) == set(FAMILY_COLOURS)
    assert len(set(FAMILY_COLOURS.values())) == len(FAMILY_COLOURS)
    assert set(LETTERS.values()) <= {"C", "T"}


def test_every_family_is_tested_beyond_its_defaults():
    assert set(VARIANTS) == set(BLOCKS)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_family_is_called_alike(name):
    parameters = inspect.signature(BLOCKS[name]).parameters.values()
    positional = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert positional == ["width", "depth", "resolution", "drop_path"]
    assert all(type(default) in (bool, int, float, str) for default in option_defaults(BLOCKS[name]).values())


def shape_out(options, resolution, batch=2):
    """A stage with a class token ends in tokens, every other in a map."""
    if options.get("class_token"):
        return (batch, 1 + resolution**2, WIDTH)
    return (batch, WIDTH, resolution, resolution)


@pytest.mark.parametrize("resolution", [1, 5, 7, 14, 15, 28])
@pytest.mark.parametrize(("name", "options"), cases(variants=1))
def test_keeps_the_shape_and_stays_finite(name, options, resolution):
    x = features(resolution)
    module = randomise(make(name, resolution, depth=1, **options)).eval()
    with torch.no_grad():
        y = module(x)
    assert y.shape == shape_out(options, resolution)
    assert y.isfinite().all()
    assert not torch.equal(x, y)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_gradients_are_finite_and_reach_every_parameter(name, options):
    module = randomise(make(name, **options)).train()
    x = features().requires_grad_()
    y = module(x)
    assert y.shape == shape_out(options, 7)
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    assert silent(module) == []
    assert x.grad.isfinite().all() and x.grad.any()


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("name", BLOCKS)
def test_the_seed_decides_the_numbers(name, training):
    first, again, other = (make(name, seed=seed, drop_path=[0.3, 0.5]) for seed in (5, 5, 6))
    weights = first.state_dict()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in weights.items())
    assert any(not torch.equal(value, other.state_dict()[key]) for key, value in weights.items())
    x = features()
    numbers = []
    for module in (first, again, first):
        module = randomise(module).train(training)
        torch.manual_seed(7)
        with torch.no_grad():
            numbers.append(module(x))
    assert torch.equal(numbers[0], numbers[1])
    assert torch.equal(numbers[0], numbers[2])


@pytest.mark.parametrize(("name", "options"), CASES)
def test_deploy_form_computes_what_the_eval_form_does(name, options):
    module = randomise(make(name, **options)).eval()
    x = features()
    with torch.no_grad():
        torch.testing.assert_close(deployed(module)(x), module(x), rtol=1e-4, atol=1e-4)


def batch_norms_kept(options):
    """How many batch norms a block keeps when deployed: those that no convolution or linear layer can take over."""
    style = options.get("style")
    if style == "coatnet":
        return 1  # an activation stands between it and the first convolution
    if style == "coatnet_0_rw":
        return 2 if options.get("se") else 1  # and squeeze-excite before the second
    if options.get("fastvit"):
        return 1  # before queries, keys and values, which have no bias to take its offset
    return 0


@pytest.mark.parametrize(("name", "options"), CASES)
def test_deploy_form_has_no_batch_norm_and_no_more_parameters(name, options):
    module = make(name, **options)
    fused = deployed(module)
    assert len(batch_norms(fused)) == DEPTH * batch_norms_kept(options)
    assert num_params(fused) <= num_params(module)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_deploying_twice_changes_nothing(name, options):
    once = deployed(randomise(make(name, **options)))
    x = features()
    with torch.no_grad():
        expected = once(x)
        assert torch.equal(deployed(once)(x), expected)


@pytest.mark.parametrize(("name", "options"), cases(variants=0))
def test_deploy_form_keeps_the_type_and_the_device(name, options):
    module = randomise(make(name, **options)).eval().double()
    fused = deployed(module)
    assert {tensor.dtype for tensor in fused.state_dict().values()} == {torch.float64}
    x = features().double()
    with torch.no_grad():
        torch.testing.assert_close(fused(x), module(x), rtol=1e-6, atol=1e-6)
    assert {tensor.device.type for tensor in deployed(module.to("meta")).state_dict().values()} == {"meta"}


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


@pytest.mark.parametrize("form", [lambda module: module, deployed], ids=["eval", "deploy"])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_state_dict_round_trip(name, options, form):
    module = form(randomise(make(name, **options)).eval())
    other = form(randomise(make(name, **options), seed=9).eval())
    x = features()
    with torch.no_grad():
        assert not torch.equal(other(x), module(x))
        other.load_state_dict(module.state_dict())
        assert torch.equal(other(x), module(x))


@pytest.mark.parametrize("name", BLOCKS)
def test_drop_path_acts_in_training_only(name):
    plain, dropping = randomise(make(name)), make(name, drop_path=[0.0, 0.5])
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
        assert module(torch.empty(2, WIDTH, 15, 15)).shape == shape_out(options, 15)
