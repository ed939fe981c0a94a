"""What every head promises: class scores or features, from a map or from tokens with a class token ahead."""

import pytest
import torch
from forms import FromImage, batch_norms, deployed, num_params, randomise, silent
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hybridnas.blocks.heads import HEADS, NORMS, LinearHead
from hybridnas.cost.macs import count_macs

WIDTH = 24
CLASSES = 5
CONV = {"features": 40}
VARIANTS = {
    "linear": [{"norm": norm, "classifiers": count} for norm in NORMS for count in (1, 2)],
    "conv": [
        CONV,
        {**CONV, "hidden": 20, "act": "relu"},
        {**CONV, "hidden": 20, "layer_first": True, "hidden_norm": True},
    ],
    "mobileone": [{}, {"expand": 3}],
}
CASES = [
    pytest.param(name, options, id="-".join([name, *(f"{key}={value}" for key, value in options.items())]))
    for name in HEADS
    for options in VARIANTS[name]
]
FORMS = {
    "map": torch.randn(3, WIDTH, 3, 4, generator=torch.Generator().manual_seed(1)),
    "tokens": torch.randn(3, 1 + 12, WIDTH, generator=torch.Generator().manual_seed(2)),
}


def head(name, num_classes=CLASSES, **options):
    torch.manual_seed(0)
    return randomise(HEADS[name](WIDTH, num_classes, **options))


def num_features(name, options):
    """What the classifier gets."""
    if name == "conv":
        return options.get("hidden") or options["features"]
    return WIDTH * options.get("expand", 2) if name == "mobileone" else WIDTH


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("x", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_scores_and_features(name, options, x, training):
    module = head(name, **options).train(training)
    scores, features = module(x), module(x, pre_logits=True)
    assert scores.shape == (3, CLASSES)
    assert features.shape == (3, num_features(name, options))
    assert scores.isfinite().all() and features.isfinite().all()


@pytest.mark.parametrize("x", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_without_classes_a_head_ends_in_its_features(name, options, x):
    module = head(name, 0, **options).eval()
    with torch.no_grad():
        features = module(x)
        fused = deployed(module)
        torch.testing.assert_close(fused(x), features, rtol=1e-4, atol=1e-4)
    assert features.shape == (3, num_features(name, options))
    assert num_params(fused) <= num_params(module)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_without_classes_a_head_ends_in_what_its_classifier_would_get(name, options):
    """Batch norm of a classifier's own belongs to the classifier."""
    module, without = head(name, **options).eval(), head(name, 0, **options).eval()
    known = without.state_dict()
    weights = {key: value for key, value in module.state_dict().items() if key in known}
    without.load_state_dict({**known, **weights})
    x = FORMS["map"]
    with torch.no_grad():
        features = without(x)
        if name == "linear":
            pairs = zip(module.norms, module.classifiers, strict=True)
            scores = torch.stack([layer(norm(features)) for norm, layer in pairs]).mean(0)
        else:
            scores = module.fc(features)
        torch.testing.assert_close(module(x), scores)


@pytest.mark.parametrize("x", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_head_deploys(name, options, x):
    module = head(name, **options).eval()
    fused = deployed(module)
    assert batch_norms(fused) == []
    assert num_params(fused) <= num_params(module)
    with torch.no_grad():
        found = fused(x)
        torch.testing.assert_close(found, module(x), rtol=1e-4, atol=1e-4)
        assert torch.equal(deployed(fused)(x), found)


def test_two_classifiers_deploy_as_one():
    fused = deployed(head("linear", norm="batch", classifiers=2))
    assert [part for part in fused.modules() if isinstance(part, nn.Linear)] == [fused.classifiers[0]]
    assert num_params(fused) == WIDTH * CLASSES + CLASSES


@pytest.mark.parametrize(("name", "options"), CASES)
def test_only_the_class_token_counts(name, options):
    module = head(name, **options).eval()
    tokens = FORMS["tokens"]
    others = tokens.clone()
    others[:, 1:] = 7.0
    with torch.no_grad():
        assert torch.equal(module(tokens), module(others))
        assert not torch.equal(module(tokens), module(tokens + 1.0))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_gradients_reach_every_parameter(name, options):
    module = head(name, **options).train()
    y = module(FORMS["map"])
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    assert silent(module) == []


@pytest.mark.parametrize("shape", [(2, WIDTH, 3, 3), (2, 10, WIDTH)], ids=FORMS)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_works_on_the_meta_device(name, options, shape):
    with torch.device("meta"):
        assert HEADS[name](WIDTH, CLASSES, **options)(torch.empty(shape)).shape == (2, CLASSES)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_macs_agree_with_torch(name, options):
    module = head(name, **options).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, WIDTH, 4, 4))
    assert count_macs(FromImage(module, WIDTH), 4) == pytest.approx(counter.get_total_flops() / 2, rel=0.02)


def layer_norm(x, norm, dim):
    mean = x.mean(dim, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim, keepdim=True)
    shape = [-1 if i == dim else 1 for i in range(x.ndim)]
    return (x - mean) / (variance + norm.eps).sqrt() * norm.weight.view(shape) + norm.bias.view(shape)


@pytest.mark.parametrize("norm", ["layer", "layer_before", "none"])
def test_linear_head_is_pooling_norm_and_a_matrix_product(norm):
    module = randomise(LinearHead(WIDTH, CLASSES, norm=norm)).eval()
    (fc,) = module.classifiers
    x = FORMS["map"]
    with torch.no_grad():
        if norm == "layer_before":
            expected = layer_norm(x, module.norm, 1).sum((2, 3)) / 12
        else:
            expected = x.sum((2, 3)) / 12
        if norm == "layer":
            expected = layer_norm(expected, module.norm, 1)
        torch.testing.assert_close(module(x, pre_logits=True), expected)
        torch.testing.assert_close(module(x), expected @ fc.weight.T + fc.bias)


def test_each_classifier_has_a_batch_norm_of_its_own():
    """LeViT: the average of two, each normed by itself."""
    module = head("linear", norm="batch", classifiers=2).eval()
    pooled = FORMS["map"].sum((2, 3)) / 12
    scores = []
    for norm, fc in zip(module.norms, module.classifiers, strict=True):
        normed = (pooled - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        scores.append(normed @ fc.weight.T + fc.bias)
    with torch.no_grad():
        torch.testing.assert_close(module(FORMS["map"]), sum(scores) / 2)
