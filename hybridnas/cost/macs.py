"""Multiply-adds of a network: convolutions, linear layers, matrix products and attention, as papers print them.

Counted by fvcore, with three changes: scaled_dot_product_attention, which fvcore counts as zero, gets a handler;
norms, pooling and interpolation, which fvcore counts though papers do not, count nothing; any other operator without
a count is an error instead of a warning.
"""

from __future__ import annotations

import copy
import logging
import warnings
from math import prod
from typing import Any

import torch
from torch import nn

from hybridnas.errors import HybridNasError

with warnings.catch_warnings():
    # fvcore scripts a function when it is imported, which newer versions of torch warn of.
    warnings.simplefilter("ignore")
    from fvcore.nn import FlopCountAnalysis

#: Operators that do no multiply-adds worth counting, beyond the shape operators that fvcore ignores by itself:
#: norms, pooling, activations, elementwise arithmetic, padding.
UNCOUNTED = frozenset(
    f"aten::{op}"
    for op in (
        "batch_norm group_norm layer_norm instance_norm rms_norm "
        "adaptive_avg_pool2d avg_pool2d max_pool2d mean sum amax "
        "upsample_nearest2d upsample_bilinear2d grid_sampler "
        "relu6 gelu silu silu_ hardswish hardswish_ hardsigmoid hardtanh hardtanh_ sigmoid sigmoid_ tanh softmax elu "
        "mish leaky_relu "
        "add add_ sub sub_ rsub mul mul_ div div_ neg abs pow sqrt rsqrt exp reciprocal clamp_min clamp_max "
        "maximum minimum norm linalg_vector_norm log log1p sin cos erf softplus square cumsum ceil leaky_relu_ "
        "reshape_as view_as expand_as repeat repeat_interleave tile im2col col2im "
        "avg_pool1d upsample_bicubic2d _upsample_bicubic2d_aa "
        "pad feature_dropout dropout_ bernoulli_ alias unflatten zeros_like ones_like where lift_fresh clone rand "
        "scalar_tensor"
    ).split()
)


class UncountedOperatorError(HybridNasError):
    """The network holds an operator that nobody said how to count."""


def count_macs(model: nn.Module, image_size: int) -> int:
    """Multiply-adds of `model`, as it is given, for one image (1, 3, image_size, image_size).

    Deploy the model first for what is run on the device: branches that fuse are counted here as they stand.
    The weights are not used: a model on the meta device counts the same.

    >>> conv = nn.Conv2d(3, 8, kernel_size=3, stride=2, padding=1)
    >>> count_macs(conv, 32) == 16 * 16 * 8 * 3 * 3 * 3  # positions, channels out, weights of each
    True
    >>> from hybridnas import build, zoo
    >>> with torch.device("meta"):
    ...     mobilenet = build(zoo.load("mobilenetv2_100"))
    >>> round(count_macs(mobilenet, 224) / 1e6)  # the paper prints 300 M
    301
    >>> count_macs(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10)), 8)
    1920

    Raises:
        UncountedOperatorError: the model runs an operator that is neither counted nor listed in `UNCOUNTED`.
    """
    return count_macs_of(model, (1, 3, image_size, image_size))


def count_macs_of(model: nn.Module, shape: tuple[int, ...]) -> int:
    """`count_macs` for an input of any `shape`, batch first; for a part of a network.

    Raises:
        UncountedOperatorError: as `count_macs`.
    """
    if next(
        model.parameters(), torch.empty(0)
    ).is_meta:  # tracing a convolution needs memory; what is in it does not matter
        model = copy.deepcopy(model).to_empty(device="cpu")
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.detach().zero_()
    parameter = next(model.parameters(), torch.empty(0))
    image = torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)
    training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        with torch.device(parameter.device), torch.no_grad(), warnings.catch_warnings():
            # Tracing specialises on shapes, which is what counting wants; it warns of each place and of its own age.
            warnings.simplefilter("ignore")
            counter = FlopCountAnalysis(model, (image,))
            counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            for operator in UNCOUNTED:
                counter.set_op_handle(operator, _nothing)
            counter.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
            counter.set_op_handle("aten::baddbmm", _baddbmm_macs)
            counter.set_op_handle("aten::_convolution_mode", _convolution_macs)  # padding given as a word
            total = int(counter.total())
            unknown = counter.unsupported_ops()
            if unknown:
                raise UncountedOperatorError(
                    f"MACs cannot be counted: no count is known for {', '.join(sorted(unknown))}; "
                    "give it a handler or list it in UNCOUNTED."
                )
            return total
    finally:
        for part in training:
            part.training = True


def _nothing(inputs: list[Any], outputs: list[Any]) -> float:
    return 0.0


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> float:
    """Queries (..., L, E), keys (..., S, E), values (..., S, V): L*S*(E+V) for each leading index."""
    query, key, value = (x.type().sizes() for x in inputs[:3])
    return float(prod(query[:-2]) * query[-2] * key[-2] * (query[-1] + value[-1]))


def _baddbmm_macs(inputs: list[Any], outputs: list[Any]) -> float:
    """(B, N, K) times (B, K, M): B*N*K*M."""
    left, right = (x.type().sizes() for x in inputs[1:3])
    return float(prod(left) * right[-1])


def _convolution_macs(inputs: list[Any], outputs: list[Any]) -> float:
    """Weight (C_out, C_in / groups, ...), output (B, C_out, ...): one multiply-add a weight of a channel and output."""
    weight, output = inputs[1].type().sizes(), outputs[0].type().sizes()
    return float(prod(weight[1:]) * prod(output))


logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
