import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from hybridnas.architecture import Architecture, Head, Stage, Stem, Transition
from hybridnas.errors import ArchitectureError
from hybridnas.model import build, image_batch, num_params

COATNET_LIKE = Architecture(
    33,
    Stem("conv", 8),
    (
        Stage(Transition("mbconv"), "mbconv", 1, 16, {"se": True}),
        Stage(Transition("conv"), "repmixer", 1, 16),
        Stage(Transition("merge"), "window", 2, 32, {"window": 2, "head_dim": 8}),
        Stage(Transition("patch", 1), "global", 1, 32, {"head_dim": 16}),
    ),
)
OTHERS = {
    "all convolution, patches": Architecture(
        30,
        Stem("patch4", 8),
        (Stage(Transition("none", 1), "convnext", 1, 8), Stage(Transition("patch"), "convnext", 1, 16)),
    ),
    "all attention": Architecture(
        20,
        Stem("patch2", 16),
        (
            Stage(Transition("none", 1), "window", 2, 16, {"window": 4, "head_dim": 8}),
            Stage(Transition("merge"), "global", 1, 24, {"head_dim": 8}),
        ),
    ),
    "a stage of transition alone": Architecture(
        32, Stem("conv", 8), (Stage(Transition("conv"), "mbconv", 0, 16), Stage(Transition("conv"), "mbconv", 1, 16))
    ),
}
ALL = {"C-C-T-T": COATNET_LIKE, **OTHERS}
ARCHITECTURES = pytest.mark.parametrize("architecture", ALL.values(), ids=ALL.keys())


def make(architecture, num_classes=5, *, seed=0, **kwargs):
    torch.manual_seed(seed)
    return build(architecture, num_classes, **kwargs)


def randomise(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.randn(parameter.shape))
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.copy_(torch.randn(part.num_features))
                part.running_var.copy_(0.5 + torch.rand(part.num_features))
    return model


def images(architecture, batch=2):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, 3, architecture.image_size, architecture.image_size, generator=generator)


@ARCHITECTURES
def test_scores_for_each_class(architecture):
    scores = make(architecture).eval()(images(architecture))
    assert scores.shape == (2, 5)
    assert scores.isfinite().all()
    assert not torch.equal(scores[0], scores[1])


@ARCHITECTURES
def test_feature_info_says_what_stem_and_stages_put_out(architecture):
    model = make(architecture).eval()
    found = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda module, args, out, name=name: found.update({name: out}))
    model(images(architecture))
    for info in model.feature_info:
        side = math.ceil(architecture.image_size / info["reduction"])
        assert found[info["module"]].shape == (2, info["num_chs"], side, side)


def test_the_levels_of_coatnet():
    # The stem and three of the four transitions halve; the last two stages share a resolution.
    assert make(COATNET_LIKE).feature_info == [
        {"num_chs": 8, "reduction": 2, "module": "stem.1"},
        {"num_chs": 16, "reduction": 4, "module": "stages.0"},
        {"num_chs": 16, "reduction": 8, "module": "stages.1"},
        {"num_chs": 32, "reduction": 16, "module": "stages.3"},
    ]


@ARCHITECTURES
def test_forward_is_features_then_head(architecture):
    model = make(architecture).eval()
    x = images(architecture)
    features = model.forward_features(x)
    assert features.shape[:2] == (2, model.num_features)
    assert model.num_features == architecture.stages[-1].width
    assert torch.equal(model.forward_head(features), model(x))
    before = model.forward_head(features, pre_logits=True)
    assert before.shape == (2, model.num_features)
    torch.testing.assert_close(model.head.classifiers[0](before), model(x))


def test_no_classes_leave_the_features():
    with_classes, without = make(COATNET_LIKE).eval(), make(COATNET_LIKE, 0).eval()
    state = with_classes.state_dict()
    weights = {name: value for name, value in state.items() if not name.startswith("head.classifiers")}
    without.load_state_dict(weights)
    x = images(COATNET_LIKE)
    features = with_classes.forward_head(with_classes.forward_features(x), pre_logits=True)
    assert torch.equal(without(x), features)


@ARCHITECTURES
def test_deploy_computes_the_same(architecture):
    model = randomise(make(architecture)).eval()
    x = images(architecture)
    with torch.no_grad():
        torch.testing.assert_close(model.deploy()(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@ARCHITECTURES
def test_deploy_leaves_the_original_as_it_is(architecture, training):
    model = randomise(make(architecture)).train(training)
    before = copy.deepcopy(model.state_dict())
    model.deploy()
    assert all(part.training == training for part in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    model.train()(images(architecture)).sum().backward()


def test_deploying_draws_no_random_numbers():
    model = make(COATNET_LIKE)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    model.deploy()
    assert torch.equal(torch.rand(4), expected)


@ARCHITECTURES
def test_deploy_is_for_inference(architecture):
    model = make(architecture).deploy()
    assert [name for name, part in model.named_modules() if part.training] == []
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == []
    assert [name for name, part in model.named_modules() if isinstance(part, nn.BatchNorm2d)] == []


@ARCHITECTURES
def test_deploying_a_deployed_network_changes_nothing(architecture):
    model = randomise(make(architecture)).deploy()
    x = images(architecture)
    assert torch.equal(model.deploy()(x), model(x))


def with_stage(number, **changes):
    """C-C-T-T with one stage changed, counted from 1."""
    stages = list(COATNET_LIKE.stages)
    stages[number - 1] = dataclasses.replace(stages[number - 1], **changes)
    return dataclasses.replace(COATNET_LIKE, stages=tuple(stages))


@pytest.mark.parametrize(
    ("architecture", "where", "named"),
    [
        (with_stage(2, block="repmxer"), "stage 2", ["'repmxer'", "repmixer", "global"]),
        (with_stage(3, transition=Transition("poll")), "stage 3", ["'poll'", "merge", "mbconv"]),
        (with_stage(1, options={"kernal": 3}), "stage 1", ["'kernal'", "kernel", "expand"]),
        (with_stage(1, options={"kernel": "3"}), "stage 1", ["mbconv.kernel", "int", "'3'"]),
        (with_stage(1, options={"se": 1}), "stage 1", ["mbconv.se", "bool", "1"]),
        (with_stage(1, options={"act": True}), "stage 1", ["mbconv.act", "str", "True"]),
        (with_stage(1, options={"kernel": True}), "stage 1", ["mbconv.kernel", "int", "True"]),
        (with_stage(1, options={"kernel": 4}), "stage 1", ["odd", "4"]),
        (with_stage(1, options={"kernel": 3.5}), "stage 1", ["mbconv.kernel", "3.5"]),
        (with_stage(1, options={"act": "sillu"}), "stage 1", ["mbconv", "act", "sillu"]),
        (with_stage(1, options={"expand": math.inf}), "stage 1", ["expand", "inf"]),
        (with_stage(4, options={"head_dim": 12}), "stage 4", ["width 32", "head_dim 12"]),
        (with_stage(4, options={"head_dim": 0}), "stage 4", ["head_dim", "0"]),
        (with_stage(3, transition=Transition("merge", 1)), "stage 3", ["stride must be 2", "1"]),
        (with_stage(3, transition=Transition("none", 1)), "stage 3", ["width 16 to 32"]),
        (with_stage(3, transition=Transition("conv", 2, {"kernel": 5})), "stage 3", ["'kernel'", "none"]),
        (dataclasses.replace(COATNET_LIKE, stem=Stem("patch3", 8)), "stem", ["'patch3'", "patch2, patch4"]),
        (dataclasses.replace(COATNET_LIKE, stem=Stem("conv", 8, {"act": 3})), "stem", ["conv.act", "str"]),
        (dataclasses.replace(COATNET_LIKE, head=Head("mlp")), "head", ["'mlp'", "linear"]),
    ],
)
def test_an_error_names_the_stage_and_what_is_allowed(architecture, where, named):
    with pytest.raises(ArchitectureError) as caught:
        make(architecture)
    sentence = str(caught.value)
    assert sentence.startswith(f"{where}: ")
    assert [word for word in named if word not in sentence] == []
    assert "\n" not in sentence


def test_depth_0_is_the_transition_alone():
    without = with_stage(2, depth=0)
    model = make(without).eval()
    x = images(without)
    first = model.stages[0](model.stem(x))
    assert torch.equal(model.stages[1](first), model.stages[1].transition(first))
    assert model.feature_info[2] == {"num_chs": 16, "reduction": 8, "module": "stages.1"}
    assert model(x).shape == (2, 5)


def test_parameters_in_closed_form():
    architecture = Architecture(32, Stem("patch4", 8), (Stage(Transition("patch"), "convnext", 1, 16),))
    stem = 3 * 4 * 4 * 8 + 8 + 2 * 8
    transition = 2 * 8 + 8 * 2 * 2 * 16 + 16
    block = 7 * 7 * 16 + 16 + 2 * 16 + (16 * 64 + 64) + (64 * 16 + 16) + 16
    head = 2 * 16 + 16 * 5 + 5
    assert num_params(make(architecture)) == stem + transition + block + head


def test_stochastic_depth_grows_from_zero_to_the_given_rate():
    architecture = with_stage(1, depth=2)  # 2 + 1 + 2 + 1 blocks
    model = make(architecture, drop_path_rate=0.5)
    # The first block's rate is zero: it holds no DropPath.
    rates = [part.drop_prob for part in model.modules() if type(part).__name__ == "DropPath"]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_the_seed_decides_the_weights():
    x = images(COATNET_LIKE)
    first, again, other = (make(COATNET_LIKE, seed=seed).eval()(x) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_depthwise_and_dense_convolutions_start_with_fan_out_variance():
    """He et al., 2015 (arXiv:1502.01852): the variance is 2 over kernel area times output channels of a group."""
    stem = make(Architecture(32, Stem("conv", 256), (Stage(Transition("none", 1), "convnext", 1, 256),)))
    dense, depthwise = stem.stem[1].weight, stem.stages[0].body[0].conv_dw.weight
    assert dense.std().item() == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.05)
    assert depthwise.std().item() == pytest.approx(math.sqrt(2 / 49), rel=0.05)
    assert stem.head.classifiers[0].weight.std().item() == pytest.approx(0.02, rel=0.1)


@ARCHITECTURES
def test_builds_and_runs_on_the_meta_device(architecture):
    with torch.device("meta"):
        model = build(architecture, 5)
        assert model(image_batch(2, architecture.image_size, "meta")).shape == (2, 5)
