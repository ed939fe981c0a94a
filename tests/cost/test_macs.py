import pytest
import timm
import torch
from torch import nn

from hybridnas.cost.macs import UncountedOperatorError, count_macs
from hybridnas.errors import HybridNasError


@pytest.mark.parametrize(
    ("name", "giga_macs"),
    [
        # timm's results table: 17.58 (with attention; fvcore alone reads 16.87), DeiT's code counts the same.
        ("vit_base_patch16_224", (17.56, 17.59)),
        # torchvision's weights say 4.089; papers print 4.1 (ConvNeXt, arXiv:2201.03545, table 10).
        ("resnet50", (4.0885, 4.12)),
        # Sandler et al., 2018 (arXiv:1801.04381), table 4: 300 M.
        ("mobilenetv2_100", (0.2995, 0.3015)),
    ],
)
def test_published_figures(name, giga_macs):
    least, most = giga_macs
    assert least <= count_macs(timm.create_model(name), 224) / 1e9 <= most


class Lambda(nn.Module):
    """One convolution, then a function."""

    def __init__(self, function):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.function = function

    def forward(self, x):
        return self.function(self.conv(x))


CONV_MACS = 8 * 8 * 3 * 3 * 3 * 4  # on an 8x8 image


@pytest.mark.parametrize(
    ("function", "macs"),
    [
        (lambda x: x, 0),
        (lambda x: x.mean((2, 3)), 0),
        (lambda x: nn.functional.gelu(x) * 2 + 1, 0),
        (lambda x: nn.functional.max_pool2d(x, 2), 0),
        (lambda x: nn.functional.layer_norm(x, (8,)), 0),
        (lambda x: nn.functional.interpolate(x, scale_factor=2), 0),
        (lambda x: x @ x.transpose(2, 3), 4 * 8 * 8 * 8),
        (lambda x: torch.einsum("bchw,bdhw->bcd", x, x), 4 * 4 * 8 * 8),
        (lambda x: torch.bmm(x[0], x[0]), 4 * 8 * 8 * 8),
        (lambda x: torch.baddbmm(x[0], x[0], x[0]), 4 * 8 * 8 * 8),
        (lambda x: nn.functional.linear(x, torch.zeros(5, 8), torch.zeros(5)), 4 * 8 * 8 * 5),
        # Queries of 8 tokens with 8 channels see 8 keys; values have 3 channels.
        (lambda x: nn.functional.scaled_dot_product_attention(x, x, x[..., :3]), 4 * 8 * 8 * (8 + 3)),
        (lambda x: nn.functional.scaled_dot_product_attention(x[:, :, :2], x, x), 4 * 2 * 8 * (8 + 8)),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_closed_forms(function, macs):
    assert count_macs(Lambda(function), 8) == CONV_MACS + macs


def test_convolutions_count_by_group_stride_and_dilation():
    def of(**kwargs):
        return count_macs(nn.Sequential(nn.Conv2d(3, 12, 3, padding=1, **kwargs)), 8)

    assert of() == 8 * 8 * 9 * 3 * 12
    assert of(groups=3) == 8 * 8 * 9 * 12
    assert of(stride=2) == 4 * 4 * 9 * 3 * 12
    assert of(bias=False) == of()


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: torch.fft.fft2(x).abs(), "aten::fft_fft2"),
        (lambda x: x.cumprod(1), "aten::cumprod"),
        (lambda x: x.sort(1).values, "aten::sort"),
    ],
)
def test_an_operator_without_a_count_is_an_error(function, named):
    with pytest.raises(UncountedOperatorError, match=named) as caught:
        count_macs(Lambda(function), 8)
    assert isinstance(caught.value, HybridNasError)


def test_counts_the_eval_form_for_one_image():
    """Batch norm in training mode cannot take the single value per channel that this model gives it."""
    model = nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4)).train()
    assert count_macs(model, 8) == 8 * 8 * 3 * 4
    assert model[1].num_batches_tracked == 0


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored(training):
    model = Lambda(lambda x: x).train(training)
    count_macs(model, 8)
    assert model.training == training


def test_the_mode_is_restored_after_an_error():
    model = Lambda(lambda x: x.cumprod(1)).train()
    with pytest.raises(UncountedOperatorError):
        count_macs(model, 8)
    assert model.training


def test_a_part_in_another_mode_keeps_it():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    model[1].eval()  # a frozen norm, as in fine-tuning
    count_macs(model, 8)
    assert [part.training for part in model.modules()] == [True, True, False]


def test_the_weights_do_not_matter():
    model = Lambda(lambda x: x @ x.transpose(2, 3))
    expected = count_macs(model, 8)
    nn.init.constant_(model.conv.weight, float("nan"))
    assert count_macs(model, 8) == expected
    with torch.device("meta"):
        assert count_macs(Lambda(lambda x: x @ x.transpose(2, 3)), 8) == expected


def test_half_precision_counts_the_same():
    assert count_macs(Lambda(lambda x: x).to(torch.bfloat16), 8) == CONV_MACS
