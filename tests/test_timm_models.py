"""A searched network is a model of timm: what timm's own tests ask of one, and detectors and encoders built on that."""

import copy
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import segmentation_models_pytorch as smp
import timm
import timm.models._hub
import torch
from timm.data import resolve_model_data_config
from timm.layers import DropPath
from timm.models import FeatureInfo, group_parameters, load_checkpoint, push_to_hf_hub, save_for_hf
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from hybridnas import timm_models, zoo
from hybridnas.architecture import Architecture, Head, Stage, Stem, Transition
from hybridnas.blocks import BLOCKS
from hybridnas.errors import ArchitectureError, ConfigError, RunError, ZooError
from hybridnas.export.bundle import export_bundle
from hybridnas.export.preprocessing import Preprocessing
from hybridnas.model import build

SIZE = 64
DISTANCE = {"head_dim": 8, "position": "distance"}
# Every family, and every part whose numbers depend on the size of the map.
ARCHITECTURES = {
    "coatnet": Architecture(
        SIZE,
        Stem("conv", 8),
        (
            Stage(Transition("mbconv"), "mbconv", 1, 16, {"se": True}),
            Stage(Transition("conv"), "repmixer", 1, 16),
            Stage(Transition("merge"), "window", 2, 24, {"window": 3, "head_dim": 8}),
            Stage(Transition("conv", 1), "global", 1, 32, {"head_dim": 16}),
        ),
    ),
    "mixed": Architecture(
        SIZE,
        Stem("patch4", 16, {"position": True}),
        (
            Stage(Transition("none", 1), "convnext", 1, 16),
            Stage(Transition("patch"), "parallel", 2, 16, {"window": 3}),
            Stage(Transition("levit"), "levit", 1, 24),
        ),
        Head("linear", {"norm": "batch", "classifiers": 2}),
    ),
    "light": Architecture(
        SIZE,
        Stem("mobileone", 8),
        (
            Stage(Transition("none", 1), "pool", 1, 8),
            Stage(Transition("reparam"), "mobilevit", 1, 16, {"inner_depth": 1}),
            Stage(Transition("pool"), "linear", 1, 16),
            Stage(Transition("patch"), "lgl", 1, 32),
        ),
        Head("mobileone"),
    ),
    "resnet": Architecture(
        SIZE,
        Stem("resnet", 8),
        (
            Stage(Transition("bottleneck", 1), "bottleneck", 1, 16),
            Stage(
                Transition("transformer", 2, {"head_dim": 8}), "global", 1, 16, {"head_dim": 8, "position": "distance"}
            ),
            Stage(Transition("conv"), "global", 0, 32),
            Stage(Transition("conv"), "global", 1, 32, {"fastvit": True, "position": "conv"}),
        ),
        Head("conv", {"features": 24, "hidden": 40}),
    ),
    "vit": Architecture(
        SIZE,
        Stem("patch16", 16),
        (Stage(Transition("none", 1), "global", 2, 16, {"head_dim": 8, "position": "none", "class_token": True}),),
    ),
}
REDUCTIONS = {
    "coatnet": [2, 4, 8, 16],
    "mixed": [4, 8, 16],
    "light": [4, 8, 16, 32],
    "resnet": [4, 8, 16, 32],
    "vit": [16],
}
EACH = pytest.mark.parametrize("name", ARCHITECTURES)


def create(name, **options):
    torch.manual_seed(0)
    model = timm.create_model("hybridnet", architecture=ARCHITECTURES[name], **{"num_classes": 5, **options})
    return randomise(model)


def randomise(model):
    """No scale, position or running mean is what it starts as."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        for part in model.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.running_mean.copy_(0.1 * torch.randn(part.num_features))
                part.running_var.copy_(0.5 + torch.rand(part.num_features))
    return model


def images(*size, channels=3, batch=2):
    size = size or (SIZE, SIZE)
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(3))


def features_of(model, **options):
    """The feature network with a model's weights."""
    overlay = {"state_dict": model.state_dict(), "num_classes": model.num_classes}
    return timm.create_model(
        "hybridnet",
        architecture=model.architecture,
        pretrained=True,
        features_only=True,
        pretrained_cfg_overlay=overlay,
        **options,
    ).eval()


def as_list(maps):
    return list(maps.values()) if isinstance(maps, dict) else list(maps)


def test_the_architectures_have_every_family():
    assert {stage.block for architecture in ARCHITECTURES.values() for stage in architecture.stages} == set(BLOCKS)


@EACH
def test_a_training_step_reaches_every_parameter(name):
    model = create(name, in_chans=2, drop_rate=0.1, drop_path_rate=0.2).train()
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert rates[-1] == pytest.approx(0.2)
    scores = model(images(channels=2))
    assert scores.shape == (2, 5)
    (scores * torch.randn(scores.shape)).sum().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


@EACH
def test_default_cfg_says_what_the_model_is(name):
    model = create(name).eval()
    cfg, weights = model.default_cfg, model.state_dict()
    assert cfg["input_size"] == (3, SIZE, SIZE)
    firsts = [cfg["first_conv"]] if isinstance(cfg["first_conv"], str) else cfg["first_conv"]
    assert all(weights[f"{first}.weight"].shape[1] == 3 for first in firsts)
    classifiers = [cfg["classifier"]] if isinstance(cfg["classifier"], str) else cfg["classifier"]
    assert all(weights[f"{classifier}.weight"].shape[0] == 5 for classifier in classifiers)
    if name != "vit":
        assert model.forward_features(images()).shape == (2, model.num_features, *cfg["pool_size"])


@EACH
def test_the_classifier_can_be_reset_and_removed(name):
    model = create(name).eval()
    x = images()
    before = model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(7)
    assert model(x).shape == (2, 7) and model.num_classes == 7
    layers = model.get_classifier()
    layers = layers if isinstance(layers, nn.ModuleList) else [layers]
    assert {layer.out_features for layer in layers} == {7} and len(layers) == (2 if name == "mixed" else 1)
    model.reset_classifier(0)
    assert torch.equal(model(x), before) and before.shape == (2, model.head_hidden_size)
    model.reset_classifier(0, "")
    assert torch.equal(model(x), model.forward_features(x))
    model.reset_classifier(3, model.default_cfg.get("global_pool", "token" if name == "vit" else "avg"))
    assert model(x).shape == (2, 3)
    unpooled = create(name, num_classes=0, global_pool="").eval()
    assert unpooled(x).shape == model.forward_features(x).shape


def test_pooling_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="global_pool must be 'avg' or '', got 'max'"):
        create("coatnet", global_pool="max")
    with pytest.raises(ValueError, match="num_classes must be 0 without pooling"):
        create("coatnet", global_pool="")


@EACH
@pytest.mark.parametrize("size", [(SIZE, SIZE), (96, 65)], ids=["own size", "another"])
def test_features_are_one_map_for_each_resolution(name, size):
    model = create(name, features_only=True).eval()
    assert model.feature_info.reduction() == REDUCTIONS[name]
    with torch.no_grad():
        maps = model(images(*size))
    expected = [
        (2, channels, *(math.ceil(side / reduction) for side in size))
        for channels, reduction in zip(model.feature_info.channels(), model.feature_info.reduction(), strict=True)
    ]
    assert [tuple(each.shape) for each in maps] == expected
    assert all(each.isfinite().all() for each in maps)


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in ARCHITECTURES if name != "vit" for kind in ("list", "dict", "hook", "fx", "getter")]
    + [("vit", "getter")],  # a stage with a class token puts out tokens: the others hand them on
)
def test_all_ways_to_the_features_agree(name, kind):
    whole = create(name).eval()
    with torch.no_grad():
        last, expected = whole.forward_intermediates(images())
        found = as_list(features_of(whole, feature_cls=kind)(images()))
        assert torch.equal(last, whole.forward_features(images()))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@EACH
def test_the_last_stage_of_a_resolution_is_its_level(name):
    model = create(name).eval()
    info = FeatureInfo(copy.deepcopy(model.feature_info), len(model.feature_info))
    x = model.stem(images())
    last = {SIZE // x.shape[2]: x}
    for stage in model.stages:
        x = stage(x)
        last[SIZE // x.shape[2] if x.ndim == 4 else 16] = x if x.ndim == 4 else x[:, 1:].mT.reshape(2, 16, 4, 4)
    maps = model.forward_intermediates(images(), intermediates_only=True)
    assert list(last) == info.reduction() == REDUCTIONS[name]
    assert all(torch.equal(one, other) for one, other in zip(maps, last.values(), strict=True))


def test_some_of_the_levels():
    whole = create("coatnet").eval()
    x = images()
    expected = whole.forward_intermediates(x, intermediates_only=True)
    some = features_of(whole, out_indices=(1, 3))
    assert some.feature_info.reduction() == [4, 16] and some.feature_info.channels() == [16, 32]
    assert all(torch.equal(one, other) for one, other in zip(some(x), expected[1::2], strict=True))
    last, found = whole.forward_intermediates(x, indices=[0, -3], stop_early=True)
    assert [each.shape[1] for each in found] == [8, 16] and torch.equal(last, found[-1])
    with pytest.raises(ValueError, match="output_fmt must be NCHW, got 'NLC'"):
        whole.forward_intermediates(x, output_fmt="NLC")


@pytest.mark.parametrize(("indices", "left"), [([0], 0), ([1], 1), ([0, 2], 2), (1, 4)])
def test_what_comes_after_the_levels_asked_for_can_be_pruned(indices, left):
    whole = create("coatnet").eval()
    x = images()
    expected = whole.forward_intermediates(x, indices=indices, intermediates_only=True)
    kept = whole.prune_intermediate_layers(indices)
    assert len(whole.stages) == left
    found = whole.forward_intermediates(x, indices=kept, intermediates_only=True)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert torch.equal(whole(x), expected[-1]) and whole.num_features == expected[-1].shape[1]
    whole.reset_classifier(4, "avg")
    assert whole(x).shape == (2, 4)


@EACH
def test_checkpointed_gradients_are_the_gradients(name):
    model = create(name).eval()  # batch norm in training mode would count the second pass, too
    grads = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(images()).square().sum().backward()
        grads.append({key: parameter.grad.clone() for key, parameter in model.named_parameters()})
    assert grads[0].keys() == grads[1].keys()
    for key, grad in grads[0].items():
        torch.testing.assert_close(grads[1][key], grad, rtol=1e-4, atol=1e-4 * grad.abs().max().item())


def test_checkpointing_keeps_less():
    kept = {}
    for enable in (False, True):
        model = create("coatnet").train()
        model.set_grad_checkpointing(enable)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, saved=saved: saved.append(x.numel()) or x, lambda x: x):
            model(images())
        kept[enable] = sum(saved)
    assert kept[True] < 0.7 * kept[False]


@EACH
def test_no_weight_decay_names_positions_tokens_and_scales(name):
    model = create(name)
    spared = {key for key in model.no_weight_decay() if not key.endswith("gamma")}
    places = {"table", "position", "class_token"}
    expected = {key for key, _ in model.named_parameters() if key.split(".")[-1] in places}
    assert spared == expected and bool(spared) == (name != "light")
    shapes = {key: parameter.shape for key, parameter in model.named_parameters() if key.endswith("gamma")}
    assert model.no_weight_decay() - spared == {key for key, shape in shapes.items() if len(shape) > 1}


@EACH
def test_layers_are_grouped_in_the_order_of_depth(name):
    model = create(name)
    of = group_parameters(model, model.group_matcher(), reverse=True)
    order = [of[key] for key, _ in model.named_parameters()]
    blocks = sum(max(stage.depth, 1) for stage in ARCHITECTURES[name].stages)
    assert order == sorted(order)
    assert {of[key] for key in of if key.startswith("stem")} == {0}
    assert set(order) == set(range(blocks + 2))
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert set(coarse.values()) == set(range(len(ARCHITECTURES[name].stages) + 2))


@EACH
def test_bfloat16_and_channels_last(name):
    model = create(name).eval()
    with torch.no_grad():
        expected = model(images())
        last = model.to(memory_format=torch.channels_last)(images().to(memory_format=torch.channels_last))
        torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-4)
        half = model.bfloat16()(images().bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half - expected).abs().max() < 0.1 * expected.abs().max()


@EACH
def test_exports(name):
    model = create(name).eval()
    with torch.no_grad():
        program = torch.export.export(model, (images(),))
        torch.testing.assert_close(program.module()(images()), model(images()), rtol=1e-4, atol=1e-4)


@EACH
def test_a_network_built_for_another_size_computes_what_the_old_one_does_there(name):
    """Where windows are no larger than the map."""
    model = create(name).eval()
    model.get_submodule("stages.0").requires_grad_(False)
    x = images(96, 96)
    with torch.no_grad():
        expected = model(x)
        model.set_input_size(96)
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.deploy()(x), expected, rtol=1e-3, atol=1e-3)
    assert model.architecture.image_size == 96
    assert resolve_model_data_config(model)["input_size"] == (3, 96, 96)
    frozen = [key for key, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen and all(key.startswith("stages.0") for key in frozen)
    made = timm.create_model(
        "hybridnet",
        pretrained=True,
        architecture=ARCHITECTURES[name],
        img_size=(96, 96),
        num_classes=5,
        pretrained_cfg_overlay={"state_dict": create(name).state_dict(), "num_classes": 5},
    )
    with torch.no_grad():
        torch.testing.assert_close(made.eval()(x), expected, rtol=1e-4, atol=1e-4)


def test_a_rebuilt_network_goes_on_as_it_was():
    model = create("coatnet").bfloat16().train()
    model.stages[0].eval()
    model.set_grad_checkpointing()
    model.set_input_size((32, 32))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not model.stages[0].training and model.stages[1].training
    assert model.stages[2].body.blocks.grad_checkpointing
    assert model(images(32, 32).bfloat16()).shape == (2, 5)


def test_what_cannot_be_rebuilt_says_so():
    model = create("coatnet")
    with pytest.raises(ArchitectureError, match=r"the side of a square that a network is built for, got \(64, 96\)"):
        model.set_input_size((64, 96))
    with pytest.raises(ValueError, match="before deploy"):
        model.deploy().set_input_size(96)
    with pytest.raises(ValueError, match="a map of 6 x 4 and its deploy form is for 4 x 4 alone: call set_input_size"):
        model.deploy()(images(96, 64))
    with pytest.raises(ArchitectureError, match="img_size must be .* got 0"):
        timm.create_model("hybridnet", architecture=ARCHITECTURES["coatnet"], img_size=0)


@pytest.fixture(scope="module")
def best(tmp_path_factory):
    """`best/` as a search leaves it."""
    folder = tmp_path_factory.mktemp("run") / "best"
    torch.manual_seed(5)
    model = randomise(build(ARCHITECTURES["coatnet"], 16)).eval()
    export_bundle(model, folder, Preprocessing.of(SIZE, [51.0], [102.0], [str(i) for i in range(16)]))
    return SimpleNamespace(
        model=model, description=folder / "architecture.json", weights=folder / "weights.safetensors"
    )


def test_a_run_is_a_pretrained_model(best):
    model = timm.create_model("hybridnet", pretrained=True, architecture=best.description).eval()
    x = images()
    assert torch.equal(model(x), best.model(x))
    data = resolve_model_data_config(model)
    assert data["input_size"] == (3, SIZE, SIZE)
    assert data["mean"] == pytest.approx((0.2,) * 3) and data["std"] == pytest.approx((0.4,) * 3)
    assert data["interpolation"] == "bilinear"  # timm's own default is bicubic


@pytest.mark.parametrize(
    "architecture",
    [
        lambda best: str(best.description),
        lambda best: best.description.read_text(),
        lambda best: best.model.architecture,
    ],
    ids=["path", "text", "object"],
)
def test_weights_come_from_a_file_that_is_named(best, architecture):
    x = images()
    for options in (
        {"pretrained": True, "pretrained_cfg_overlay": {"file": str(best.weights)}},
        {"checkpoint_path": str(best.weights), "num_classes": 16},
    ):
        model = timm.create_model("hybridnet", architecture=architecture(best), **options).eval()
        assert torch.equal(model(x), best.model(x))


def test_pretrained_weights_serve_other_classes_channels_and_features(best):
    model = timm.create_model("hybridnet", pretrained=True, architecture=best.description, num_classes=3, in_chans=1)
    theirs = best.model.state_dict()
    assert model(images(channels=1)).shape == (2, 3)
    torch.testing.assert_close(model.stem[0].conv.weight, theirs["stem.0.conv.weight"].sum(1, keepdim=True))
    assert torch.equal(model.stages[3].transition[0].conv.weight, theirs["stages.3.transition.0.conv.weight"])
    features = timm.create_model("hybridnet", pretrained=True, architecture=best.description, features_only=True).eval()
    expected = best.model.forward_intermediates(images(), intermediates_only=True)
    assert all(torch.equal(one, other) for one, other in zip(features(images()), expected, strict=True))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, ArchitectureError, "needs architecture="),
        ({"architecture": "none/architecture.json"}, ArchitectureError, "none/architecture.json cannot be read"),
        ({"architecture": "coatnet_0"}, ZooError, "coatnet_0_rw_224"),
        ({"architecture": '{"image_size": 32}'}, ArchitectureError, "Not an architecture: stem"),
        (
            {"architecture": Architecture(32, Stem("patch3", 8), ARCHITECTURES["vit"].stages)},
            ArchitectureError,
            "'patch3' is unknown",
        ),
        (
            {
                "architecture": ARCHITECTURES["vit"],
                "pretrained": True,
                "pretrained_cfg_overlay": {"file": "none.safetensors"},
            },
            RunError,
            "There is no file none.safetensors",
        ),
    ],
)
def test_a_mistake_is_one_sentence(options, error, words):
    with pytest.raises(error, match=words) as caught:
        timm.create_model("hybridnet", **options)
    assert "\n" not in str(caught.value)


def test_damaged_weights_are_one_sentence(best, tmp_path):
    shutil.copy(best.description, tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(best.weights.read_bytes()[:100])
    with pytest.raises(RunError, match="holds no weights that can be read"):
        timm.create_model("hybridnet", architecture=tmp_path / "architecture.json")


def test_designs_that_timm_lacks_are_registered_and_no_others():
    lacking = {name for name in zoo.names() if zoo.entry(name).timm is None}
    assert lacking and {"hybridnet"} | lacking <= set(timm.list_models(module="timm_models"))
    with torch.device("meta"):
        model = timm.create_model("edgevit_xxs", num_classes=0)
    assert model.architecture == zoo.load("edgevit_xxs")
    for name in lacking:
        assert timm.get_pretrained_cfg(name).input_size[-1] == zoo.load(name).image_size
    for name in set(zoo.names()) - lacking:
        assert not timm.models.is_model_in_modules(name, "timm_models")


def test_names_that_are_taken_or_none_are_refused():
    with pytest.raises(ConfigError, match="There is a model resnet50 already"):
        timm_models.register("resnet50", ARCHITECTURES["vit"])
    with pytest.raises(ConfigError, match="letters, digits and underscores alone, got 'my.net'"):
        timm_models.register("my.net", ARCHITECTURES["vit"])


def test_a_saved_model_needs_nothing_but_its_folder(best, tmp_path):
    """Also one of another size, channels and classes than it was made with; the description's file is gone."""
    description = shutil.copy(best.description, tmp_path)
    model = timm.create_model("hybridnet", architecture=description, num_classes=4, in_chans=1).eval()
    model.set_input_size(96)
    (tmp_path / "architecture.json").unlink()
    save_for_hf(model, tmp_path / "saved", safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    x = images(96, 96, channels=1)
    assert torch.equal(again(x), model(x))
    assert again.architecture == model.architecture
    assert again.default_cfg["input_size"] == (1, 96, 96)


def test_pushing_to_the_hub_pushes_such_a_folder(best, tmp_path, monkeypatch):
    """timm's helper, with a folder in the place of the hub."""

    class Hub:
        def __init__(self, **_):
            pass

        def create_repo(self, repo_id, **_):
            return SimpleNamespace(repo_id=repo_id)

        def file_exists(self, **_):
            return False

        def upload_folder(self, *, folder_path, repo_id, **_):
            shutil.copytree(folder_path, tmp_path / repo_id)

    monkeypatch.setattr(timm.models._hub, "HfApi", Hub)
    model = timm.create_model("hybridnet", pretrained=True, architecture=best.description).eval()
    push_to_hf_hub(model, "me/birds", model_config={"label_names": [str(i) for i in range(16)]})
    written = {path.name for path in (tmp_path / "me" / "birds").iterdir()}
    assert written == {"config.json", "model.safetensors", "pytorch_model.bin", "README.md"}
    config = json.loads((tmp_path / "me" / "birds" / "config.json").read_text())
    assert config["architecture"] == "hybridnet" and config["num_classes"] == 16
    assert config["pretrained_cfg"]["interpolation"] == "bilinear"
    again = timm.create_model(f"local-dir:{tmp_path / 'me' / 'birds'}", pretrained=True).eval()
    assert torch.equal(again(images()), best.model(images()))
    data = resolve_model_data_config(again)
    assert data["mean"] == pytest.approx((0.2,) * 3) and data["interpolation"] == "bilinear"


def step(model, part, loss):
    """One step of training, which teaches all of a part."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    before = {key: parameter.clone() for key, parameter in part.named_parameters()}
    value = loss()
    value.backward()
    optimizer.step()
    assert value.isfinite()
    assert [key for key, parameter in part.named_parameters() if torch.equal(parameter, before[key])] == []


@pytest.mark.parametrize("fixed", [True, False], ids=["square images", "images of any size"])
@pytest.mark.parametrize("name", ["coatnet", "mixed", "light", "resnet"])
def test_a_backbone_of_torchvisions_detectors(name, fixed):
    torch.manual_seed(0)
    body = create(name, features_only=True)
    layers = {module.replace(".", "_"): str(i) for i, module in enumerate(body.feature_info.module_name())}
    backbone = BackboneWithFPN(body, layers, body.feature_info.channels(), 16)
    sizes = {"fixed_size": (SIZE, SIZE)} if fixed else {"min_size": SIZE, "max_size": 100}
    model = FasterRCNN(
        backbone,
        3,
        box_detections_per_img=5,
        rpn_post_nms_top_n_train=50,
        rpn_anchor_generator=anchors(layers),
        **sizes,
    )
    targets = [{"boxes": torch.tensor([[4.0, 4.0, 30.0, 40.0]]), "labels": torch.tensor([1])} for _ in range(2)]
    pictures = [torch.rand(3, 50, 70), torch.rand(3, 64, 48)]
    step(model.train(), body, lambda: sum(model(pictures, targets).values()))
    (found, _) = model.eval()(pictures)
    assert found["boxes"].isfinite().all()


def anchors(layers):
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    levels = len(layers) + 1  # and one that the pyramid network adds
    return AnchorGenerator(tuple((8 * 2**i,) for i in range(levels)), ((0.5, 1.0, 2.0),) * levels)


@pytest.mark.parametrize(("name", "depth"), [("coatnet", 4), ("mixed", 4), ("light", 5), ("resnet", 5)])
def test_an_encoder_of_segmentation_models_pytorch(name, depth, best):
    torch.manual_seed(0)
    timm_models.register(f"searched_{name}", ARCHITECTURES[name])
    widths = (32, 16, 16, 8, 8)[:depth]
    model = smp.Unet(
        f"tu-searched_{name}", encoder_depth=depth, encoder_weights=None, decoder_channels=widths, classes=3
    )
    randomise(model.encoder)
    labels = torch.randint(0, 3, (2, SIZE, 96))
    step(model.train(), model.encoder, lambda: nn.functional.cross_entropy(model(images(SIZE, 96)), labels))


def test_an_encoder_takes_the_weights_of_a_run(best):
    timm_models.register("searched_birds", best.description)
    model = smp.Unet("tu-searched_birds", encoder_depth=4, encoder_weights=True, decoder_channels=(32, 16, 8, 8)).eval()
    expected = best.model.forward_intermediates(images(), intermediates_only=True)
    assert all(torch.equal(one, other) for one, other in zip(model.encoder(images())[1:], expected, strict=True))
    settings = smp.encoders.get_preprocessing_params("tu-searched_birds")
    assert settings["mean"] == pytest.approx((0.2,) * 3)


def test_a_checkpoint_of_timms_trainer_loads(tmp_path):
    model = create("mixed").eval()
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "last.pth.tar")
    fresh = timm.create_model("hybridnet", architecture=ARCHITECTURES["mixed"], num_classes=5).eval()
    load_checkpoint(fresh, str(tmp_path / "last.pth.tar"))
    assert torch.equal(fresh(images()), model(images()))


def test_what_the_readme_shows_runs(best, tmp_path, monkeypatch):
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    section = readme.partition("## In timm, detection and segmentation")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    assert "runs/20261123-181500/best/architecture.json" in code
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code.replace("runs/20261123-181500/best/architecture.json", str(best.description)), names)
    assert torch.equal(names["again"].eval()(images()), best.model(images()))
    assert names["other"].eval()(images(96, 96, channels=1)).shape == (2, 5)
    assert names["segmenter"].eval()(images()).shape[2:] == (SIZE, SIZE)
    names["detector"].transform.min_size, names["detector"].transform.max_size = (SIZE,), 100
    (found,) = names["detector"].eval()([torch.rand(3, 100, 80)])
    assert found["boxes"].shape[1] == 4
