"""Runtimes other than torch run what torch runs; what they cannot do, they say in one sentence."""

import importlib.util
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from hybridnas.cost.latency import Timer
from hybridnas.cost.probe import open_openvino
from hybridnas.cost.runtimes import RUNTIMES, Input, Setting, check_installed, open_module, to_onnx, to_program
from hybridnas.errors import CannotRun, ConfigError


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.linear = nn.Linear(8, 5)

    def forward(self, x):
        return self.linear(self.conv(x).relu().mean((2, 3)))


class Sorts(nn.Module):
    """Has no half-precision form in ONNX Runtime, no ONNX form at all with this operator."""

    def forward(self, x):
        return torch.linalg.eigvals(x[:, 0]).real


def scores(file, images):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-2), ("int8", 0.1)])
def test_an_onnx_file_gives_torchs_scores(precision, tolerance):
    torch.manual_seed(0)
    network = Small().eval()
    images = torch.randn(2, 3, 16, 16)
    expected = network(images).detach().numpy()
    file = to_onnx(network, Input((2, 3, 16, 16)), precision)
    given = images.numpy().astype(np.float16 if precision == "fp16" else np.float32)
    np.testing.assert_allclose(scores(file, given), expected, atol=tolerance)
    if precision == "int8":
        kinds = {tensor.data_type for tensor in onnx.load_from_string(file).graph.initializer}
        assert onnx.TensorProto.UINT8 in kinds


def test_a_program_gives_torchs_scores(tmp_path):
    network = Small().eval()
    images = torch.randn(2, 3, 16, 16)
    (tmp_path / "network.pt2").write_bytes(to_program(network, Input((2, 3, 16, 16))))
    torch.testing.assert_close(torch.export.load(tmp_path / "network.pt2").module()(images), network(images))


@pytest.mark.parametrize(
    ("runtime", "precision"), [("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("openvino", "fp32")]
)
def test_a_module_and_its_file_are_timed(runtime, precision, tmp_path):
    timer = Timer("cpu", runtime=runtime, precision=precision)
    network = Small().eval()
    assert timer.measure(network, 16, seconds=0.05).p50 > 0
    (tmp_path / "model.onnx").write_bytes(to_onnx(network, Input((1, 3, 16, 16)), timer.setting.file_precision))
    assert timer.measure(tmp_path / "model.onnx", 16, seconds=0.05).p50 > 0
    assert runtime in timer.machine["versions"]


def test_openvino_computes_what_torch_does():
    network = Small().eval()
    run = open_openvino(to_onnx(network, Input((1, 3, 16, 16))), "cpu", 1, "fp32")
    (found,) = run().values()
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32))
    np.testing.assert_allclose(found, network(images).detach().numpy(), atol=1e-4)


def test_what_has_no_onnx_form_is_named():
    with pytest.raises(CannotRun, match="no ONNX form"):
        to_onnx(Sorts(), Input((1, 3, 16, 16)))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"runtime": "tvm"}, "--runtime must be one of torch, compile, cudagraphs, onnxruntime, openvino, tensorrt"),
        ({"precision": "fp64"}, "--precision of the runtime torch must be one of fp32, fp16, bf16, got 'fp64'"),
        ({"runtime": "onnxruntime", "precision": "bf16"}, "--precision of the runtime onnxruntime must be one of"),
    ],
)
def test_a_setting_that_is_none(fields, sentence):
    with pytest.raises(ConfigError) as caught:
        Setting(**fields)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("runtime", "extra"), [("onnxruntime", "onnx"), ("openvino", "openvino"), ("tensorrt", "tensorrt")]
)
def test_a_runtime_that_is_not_installed_names_its_extra(runtime, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"pip install 'hybridnas\[{extra}\]'"):
        check_installed(runtime)


@pytest.mark.parametrize("runtime", ["torch", "compile", "cudagraphs"])
def test_torch_needs_nothing(runtime, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_installed(runtime)


def test_every_runtime_has_full_precision():
    assert all("fp32" in precisions for precisions in RUNTIMES.values())


class Deep(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(depth)))

    def forward(self, x):
        return self.layers(x)


def test_many_networks_of_one_class_are_all_compiled(monkeypatch):
    """By default torch compiles a class eight times and then, silently, runs it as it is."""
    ran = []

    def backend(graph, inputs):
        depth = sum("conv" in str(node.target) for node in graph.graph.nodes if node.op == "call_function")

        def run(*given):
            ran.append(depth)
            return graph(*given)

        return run

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    depths = [*range(1, 13)]
    given = [Input((batch, 3, 8, 8)) for batch in (1, 4)]  # sizes are not made to vary either
    runs = [
        open_module(Deep(depth).eval(), each, torch.device("cpu"), Setting("compile"))
        for each in given
        for depth in depths
    ]
    ran.clear()
    for run in runs:
        run()
    assert ran == 2 * depths


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without CUDA")
@pytest.mark.parametrize(("runtime", "said"), [("tensorrt", "TensorrtExecutionProvider"), ("cudagraphs", "CUDA")])
def test_a_runtime_that_the_device_lacks_is_one_sentence(runtime, said):
    with pytest.raises(ConfigError, match=said) as caught:
        Timer("cpu", runtime=runtime)
    assert "\n" not in str(caught.value)
    assert "choose another --runtime or --target" in str(caught.value)


def test_a_precision_that_the_device_lacks_names_the_remedy(monkeypatch):
    import openvino

    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32"], raising=False)
    with pytest.raises(ConfigError, match=r"does not compute in bf16 on this CPU.*choose --precision fp32"):
        Timer("cpu", runtime="openvino", precision="bf16")
