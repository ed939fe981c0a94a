"""The position bias that is kept between passes: never a stale one, and never in the way of gradients or export."""

import copy
import pickle
import weakref

import numpy as np
import pytest
import torch
from forms import deployed, features, make, randomise

from hybridnas.blocks.attention import DistanceBias, RelativeBias, distance_index, relative_index

FAMILIES = ["window", "global", "levit", "parallel"]  # at 10: with a mask and without


def fresh(bias):
    """What the bias is now, gathered by hand."""
    return torch.stack([bias.table[row] for row in bias.index]).permute(2, 0, 1).detach()


@pytest.fixture
def bias():
    """One that has kept what it gathered."""
    bias = randomise(RelativeBias(3, 2)).eval()
    with torch.no_grad():
        assert bias() is bias()  # else there is nothing to be stale
    return bias


def optimizer_step(bias, make_optimizer):
    """Training with the module in eval mode, as where running statistics are frozen."""
    optimizer = make_optimizer(bias.parameters())
    bias().square().sum().backward()
    optimizer.step()
    return bias


def in_training(bias):
    """As some optimizers and averages write: past the version counter."""
    bias.train()
    bias.table.data.mul_(2)
    return bias.eval()


def converted_there_and_back(bias):
    bias = bias.double()
    bias.table.data.mul_(2)
    return bias.float()


def changed_copy(bias):
    twin = copy.deepcopy(bias)
    with torch.no_grad():
        twin.table.mul_(2)
    return twin


def replaced(bias):
    bias.table = torch.nn.Parameter(torch.randn_like(bias.table))
    return bias


def loaded(bias, **how):
    bias.load_state_dict({"table": torch.randn_like(bias.table)}, **how)
    return bias


CHANGES = {
    "optimizer step": lambda bias: optimizer_step(bias, lambda p: torch.optim.SGD(p, lr=1.0)),
    "foreach step": lambda bias: optimizer_step(bias, lambda p: torch.optim.AdamW(p, lr=1.0, foreach=True)),
    "fused step": lambda bias: optimizer_step(bias, lambda p: torch.optim.AdamW(p, lr=1.0, fused=True)),
    "load": loaded,
    "load by assignment": lambda bias: loaded(bias, assign=True),
    "training": in_training,
    "conversion and back": converted_there_and_back,
    "copy": changed_copy,
    "replacement": replaced,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_no_stale_bias_survives_a_change_of_the_table(bias, change):
    before = fresh(bias)
    changed = change(bias)
    with torch.no_grad():
        found = changed()
    assert not torch.equal(found, before)
    assert torch.equal(found, fresh(changed))


def test_no_other_table_can_come_to_the_address_of_one_that_is_kept(bias):
    memory = np.ones(bias.table.shape, dtype=np.float32)
    held = weakref.ref(memory)
    bias.table.data = torch.from_numpy(memory)
    del memory
    with torch.no_grad():
        bias()
        bias.double()
        assert held() is not None
        bias()
        assert held() is None


def test_a_copy_leaves_the_original_alone(bias):
    before = fresh(bias)
    changed_copy(bias)
    with torch.no_grad():
        assert torch.equal(bias(), before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_bias_has_the_type_of_its_table(bias, dtype):
    expected = fresh(bias).to(dtype)
    with torch.no_grad():
        assert torch.equal(bias.to(dtype)(), expected)
        assert bias().dtype == dtype


def test_what_is_kept_is_neither_saved_nor_copied(bias):
    assert list(bias.state_dict()) == ["table"]
    kept_bytes = 2 * 9 * 9 * 4
    for other in (RelativeBias(3, 2), copy.deepcopy(bias)):
        assert abs(len(pickle.dumps(bias)) - len(pickle.dumps(other))) < kept_bytes / 4


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_reach_the_table_after_a_pass_without(name):
    module = randomise(make(name, 10)).eval()
    x = features(10)
    with torch.no_grad():
        expected = module(x)
    found = module(x)
    found.sum().backward()
    tables = {key: parameter.grad for key, parameter in module.named_parameters() if key.endswith("table")}
    assert tables and all(gradient is not None and gradient.any() for gradient in tables.values())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_inference_mode_gives_the_same_numbers_before_and_after(name):
    module = randomise(make(name, 10)).eval()
    x = features(10)
    numbers = []
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            numbers.append(module(x))
    for other in numbers[1:]:
        torch.testing.assert_close(other.detach(), numbers[0])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_deploy_form_keeps_the_bias_in_its_state_dict(name):
    fused = deployed(randomise(make(name, 10)))
    names = [key for key in fused.state_dict() if "bias." in key]
    assert names and all(key.endswith("bias.gathered") for key in names)


@pytest.mark.parametrize(("height", "width"), [(3, 3), (2, 5), (4, 1)])
def test_the_rows_of_offsets_on_any_rectangle(height, width):
    places = [(y, x) for y in range(height) for x in range(width)]
    signed = [[(v - y + height - 1) * (2 * width - 1) + u - x + width - 1 for y, x in places] for v, u in places]
    assert relative_index(height, width).tolist() == signed
    askers = [(y, x) for y, x in places if y % 2 == x % 2 == 0]
    absolute = [[abs(v - y) * width + abs(u - x) for y, x in places] for v, u in askers]
    assert distance_index(height, width, stride=2).tolist() == absolute


@pytest.mark.parametrize("bias", [RelativeBias(3, 2), DistanceBias(3, 2), DistanceBias(3, 2, stride=2)])
def test_elsewhere_the_bias_is_interpolated(bias):
    queries = 8 if getattr(bias, "stride", 1) == 1 else 2
    assert bias(2, 4).shape == (2, queries, 8)
    bias(2, 4).sum().backward()
    assert bias.table.grad.any()
    with torch.no_grad():
        bias.table.fill_(3.0)
        torch.testing.assert_close(bias(7, 2), torch.full_like(bias(7, 2), 3.0))
        assert torch.equal(bias(3, 3), bias())


def test_the_deploy_form_is_for_one_size():
    fused = deployed(RelativeBias(3, 2))
    assert torch.equal(fused(3, 3), fused())
    with pytest.raises(ValueError, match=r"a map of 2 x 4 and its deploy form is for 3 x 3 alone: call set_input_size"):
        fused(2, 4)
