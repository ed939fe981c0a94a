"""timm's weights in our networks: the logits agree."""

import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from hybridnas import zoo
from hybridnas.errors import ZooError
from hybridnas.model import HybridNet

IN_TIMM = [name for name in zoo.names() if zoo.entry(name).timm]
SMALLEST = "levit_128"


def randomise(model, seed=0):
    """Draw whatever starts at zero, one or a tiny scale: fresh values hide most errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            tiny = parameter.numel() > 1 and parameter.std() < 1e-3
            if parameter.ndim <= 1 or "gamma" in name or "bias" in name or tiny:
                centre = 1.0 if name.endswith("weight") else 0.0
                parameter.copy_(centre + 0.3 * torch.randn(parameter.shape, generator=generator))
        for part in model.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.running_mean.copy_(0.5 * torch.randn(part.num_features, generator=generator))
                part.running_var.copy_(0.5 + torch.rand(part.num_features, generator=generator))
    return model.eval()


def images(name, batch=1):
    size = zoo.load(name).image_size
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", IN_TIMM)
def test_logits_are_those_of_timm(name):
    theirs = randomise(zoo.timm_model(name))
    ours = zoo.from_timm(name, theirs)
    with torch.inference_mode():
        expected, found = theirs(images(name)), ours(images(name))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.01


def test_what_comes_back_is_ours_alone():
    theirs = zoo.timm_model(SMALLEST)
    ours = zoo.from_timm(SMALLEST, theirs)
    assert isinstance(ours, HybridNet)
    assert ours.architecture == zoo.load(SMALLEST)
    assert not any(isinstance(part, type(theirs)) for part in ours.modules())
    shared = {p.data_ptr() for p in theirs.parameters()} & {p.data_ptr() for p in ours.parameters()}
    assert shared == set()


def test_any_number_of_classes():
    theirs = randomise(zoo.timm_model("resnet50", num_classes=7))
    with torch.inference_mode():
        torch.testing.assert_close(zoo.from_timm("resnet50", theirs)(images("resnet50")), theirs(images("resnet50")))


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_kept(training):
    assert zoo.from_timm(SMALLEST, zoo.timm_model(SMALLEST).train(training)).training == training


@pytest.mark.parametrize(
    ("name", "other", "options", "problem"),
    [
        (SMALLEST, "levit_128s", {}, "has 14 blocks, the weights are of"),
        (SMALLEST, "levit_192", {}, "do not fit: .* has shape"),
        (SMALLEST, "resnet18", {}, "blocks"),
        ("vit_small_patch14_dinov2", "vit_small_patch14_dinov2", {"img_size": 518}, "stem.position has shape"),
        (SMALLEST, "vgg11", {}, "No rules for the weights of a VGG"),
        ("efficientnet_b0", "mobilenetv2_100", {}, "blocks|lack|hold|fit"),
    ],
)
def test_weights_of_another_design_are_one_sentence(name, other, options, problem):
    theirs = timm.create_model(other, **options)
    theirs.pretrained_cfg = None  # a model that does not say what it is
    with pytest.raises(ZooError, match=problem) as caught:
        zoo.from_timm(name, theirs)
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "other"),
    [("efficientnet_b0", "tf_efficientnet_b0"), ("mobilenetv3_large_100", "tf_mobilenetv3_large_100")],
)
def test_a_model_that_differs_in_padding_only_is_refused(name, other):
    with pytest.raises(ZooError, match=f"{name}: the model is timm's {other}"):
        zoo.from_timm(name, timm.create_model(other))


def test_distilled_weights_without_classes():
    theirs = randomise(zoo.timm_model(SMALLEST, num_classes=0))
    with torch.inference_mode():
        expected = theirs(images(SMALLEST))
        torch.testing.assert_close(zoo.from_timm(SMALLEST, theirs)(images(SMALLEST)), expected)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file(tmp_path, suffix):
    theirs = randomise(zoo.timm_model(SMALLEST, num_classes=5))
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": theirs.state_dict()}, file)
    else:
        save_file(theirs.state_dict(), file)
    ours = zoo.pretrained(SMALLEST, file)
    assert not ours.training
    with torch.inference_mode():
        torch.testing.assert_close(ours(images(SMALLEST)), theirs(images(SMALLEST)), rtol=0, atol=1e-4)


class Bomb:
    def __reduce__(self):
        return (print, ("a file ran code",))


@pytest.mark.parametrize(
    "content",
    [b"", b"no weights", pickle.dumps({"a": Bomb()}), {"classifier.weight": "words"}, {"head.weight": 3}],
    ids=["empty", "text", "code", "words", "number"],
)
def test_a_file_that_holds_no_weights(tmp_path, content, capsys):
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(ZooError, match="holds no weights that can be read") as caught:
        zoo.pretrained(SMALLEST, file)
    assert "\n" not in str(caught.value)
    assert "a file ran code" not in capsys.readouterr().out


def test_a_file_with_the_weights_of_another_design(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(zoo.timm_model(SMALLEST).state_dict(), file)
    with pytest.raises(ZooError, match="holds no weights of resnet50"):
        zoo.pretrained("resnet50", file)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ZooError, match="There is no file"):
        zoo.pretrained(SMALLEST, tmp_path / "none.pth")


def test_a_failing_download_is_one_sentence(monkeypatch):
    def fail(*args, **options):
        assert options["pretrained"]
        raise OSError("Name or service not known.\nTried five times.")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(ZooError) as caught:
        zoo.pretrained(SMALLEST)
    assert str(caught.value) == (
        f"The weights of {SMALLEST} cannot be downloaded; give them as a file (OSError: Name or service not known)."
    )


def test_a_design_without_weights():
    for file in (None, "weights.pth"):
        with pytest.raises(ZooError, match="timm has no model edgevit_xxs"):
            zoo.pretrained("edgevit_xxs", file)
