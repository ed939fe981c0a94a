"""What runs a network: torch itself, torch.compile, or a runtime that takes a file.

A runtime is imported when it is asked for, and each but torch's own is an extra of this package.
"""

from __future__ import annotations

import importlib.util
import io
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hybridnas.cost.probe import Run
from hybridnas.errors import CannotRun, ConfigError, first_clause

#: The precisions that each runtime computes in, where the device does.
RUNTIMES: dict[str, tuple[str, ...]] = {
    "torch": ("fp32", "fp16", "bf16"),
    "compile": ("fp32", "fp16", "bf16"),
    "cudagraphs": ("fp32", "fp16", "bf16"),
    "onnxruntime": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "fp16", "bf16"),
    "tensorrt": ("fp32", "fp16"),
}
#: Run a module as it is; the others take an ONNX file.
OF_TORCH = ("torch", "compile", "cudagraphs")
NEEDS = {
    "onnxruntime": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "tensorrt": ("onnx", "onnxscript", "onnxruntime"),
}
#: The extra of this package that brings them, where it has another name.
EXTRAS = {"onnxruntime": "onnx"}
#: More networks than a process ever compiles.
MOST_COMPILED = 1 << 20
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Input:
    """What a network or a part of one is given: noise of `shape`, batch first, in channels-last memory or not.

    Convolutions of torch on a CPU compute in the layout that they are given, up to twice as fast in the one or the
    other; files for other runtimes have no say in it.
    """

    shape: tuple[int, ...]
    channels_last: bool = False


@dataclass(frozen=True)
class Setting:
    """How a network is run: by what, in which precision, with how many images a pass and how many CPU threads.

    `reference` is a key of `REFERENCES`: the network that its times are ratios to.

    Raises:
        ConfigError: no such runtime, or it does not compute in that precision.
    """

    runtime: str = "torch"
    precision: str = "fp32"
    batch_size: int = 1
    threads: int = 1
    reference: str = "large"

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise ConfigError(f"--runtime must be one of {', '.join(RUNTIMES)}, got {self.runtime!r}.")
        if self.precision not in RUNTIMES[self.runtime]:
            raise ConfigError(
                f"--precision of the runtime {self.runtime} must be one of {', '.join(RUNTIMES[self.runtime])}, got "
                f"{self.precision!r}."
            )

    @property
    def takes_file(self) -> bool:
        """Whether the runtime runs an ONNX file, not a module."""
        return self.runtime not in OF_TORCH

    @property
    def file_precision(self) -> str:
        """The precision that the ONNX file itself has: OpenVINO computes in another one from an fp32 file."""
        return "fp32" if self.runtime == "openvino" else self.precision


def check_installed(runtime: str, *, runs_here: bool = True) -> None:
    """See that the packages are there that write the runtime's files and, where it `runs_here`, run them.

    Raises:
        ConfigError: names the extra to install.
    """
    packages = NEEDS.get(runtime, ()) if runs_here else ("onnx", "onnxscript")
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        extra = EXTRAS.get(runtime, runtime)
        raise ConfigError(f"The runtime {runtime} needs {' and '.join(missing)}: pip install 'hybridnas[{extra}]'.")


def packages_of(runtime: str) -> list[str]:
    """The distributions whose versions the times of a runtime depend on; of two that give one module, both."""
    if runtime in OF_TORCH:
        return ["torch"]
    return ["openvino"] if runtime == "openvino" else ["onnxruntime", "onnxruntime-gpu"]


def open_module(network: nn.Module, given: Input, device: torch.device, setting: Setting) -> Run:
    """A pass of a module through one of `OF_TORCH`.

    Raises:
        CannotRun: torch's reason.
    """
    dtype = DTYPES[setting.precision]
    try:
        x = _noise(given, dtype).to(device)
        network = network.to(device, dtype)
        if setting.runtime == "compile":
            return _compiled(network, x)
        return _graphed(network, x) if setting.runtime == "cudagraphs" else _eager(network, x)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise CannotRun(f"{setting.runtime} in {setting.precision} on {device}: {first_clause(error)}") from error


def _noise(given: Input, dtype: torch.dtype) -> Tensor:
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        x = torch.randn(given.shape).to(dtype)
        return x.to(memory_format=torch.channels_last) if given.channels_last and x.ndim == 4 else x


def _eager(network: nn.Module, x: Tensor) -> Run:
    def run() -> object:
        with torch.inference_mode():
            return network(x)

    run()
    return run


def _compiled(network: nn.Module, x: Tensor) -> Run:
    compiled = torch.compile(network, dynamic=False)

    def run() -> object:
        with torch.no_grad():  # inference mode is a reason to compile again
            return compiled(x)

    # All networks are of one class, whose code torch would compile a few times and then, silently, run as it is.
    # (Torch 2.6 knows the limits by these names, later ones by these, too.)
    as_often_as_needed = torch._dynamo.config.patch(
        cache_size_limit=MOST_COMPILED, accumulated_cache_size_limit=MOST_COMPILED
    )
    with warnings.catch_warnings(), as_often_as_needed:
        warnings.simplefilter("ignore")
        run()
    return run


def _graphed(network: nn.Module, x: Tensor) -> Run:
    if x.device.type != "cuda":
        raise ValueError("CUDA graphs need a CUDA device")
    side = torch.cuda.Stream(x.device)
    side.wait_stream(torch.cuda.current_stream(x.device))
    with torch.no_grad(), torch.cuda.stream(side):  # what is allocated in the first passes must not be in the graph
        for _ in range(3):
            network(x)
    torch.cuda.current_stream(x.device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        network(x)
    return graph.replay


def to_onnx(network: nn.Module, given: Input, precision: str = "fp32", *, any_batch: bool = False) -> bytes:
    """A module as an ONNX file for inputs of exactly that shape, one file with its weights, under 2 GB.

    Args:
        network: In the form that is deployed.
        given: The input; an ONNX file knows no memory layout.
        precision: fp32; fp16; or int8: weights of matrix products stored in 8 bits, activations quantised as they
            come (ONNX Runtime's dynamic quantisation).
        any_batch: Whether the file takes any number of images; then `given` must have two or more.

    Raises:
        CannotRun: something in the module has no ONNX form.
    """
    dtype = DTYPES.get(precision, torch.float32)
    network = network.to("cpu", dtype)
    x = _noise(Input(given.shape), dtype)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (x,),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["scores"],
                dynamic_shapes=_any_batch() if any_batch else None,
            )
        assert program is not None
        model: bytes = program.model_proto.SerializeToString()
    except Exception as error:  # the exporter's own errors have no common base
        raise CannotRun(f"no ONNX form: {first_clause(error)}") from error
    return _quantised(model) if precision == "int8" else model


def _any_batch() -> tuple[dict[int, torch.export.Dim], ...]:
    return ({0: torch.export.Dim("batch")},)


def _quantised(model: bytes) -> bytes:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        before.write_bytes(model)
        quantize_dynamic(before, after, weight_type=QuantType.QUInt8)
        return after.read_bytes()


def to_program(network: nn.Module, given: Input, precision: str = "fp32", *, any_batch: bool = False) -> bytes:
    """A module as `torch.export.save` writes it, for a torch elsewhere; arguments as of `to_onnx`.

    Raises:
        CannotRun: something in the module cannot be exported.
    """
    network = network.to("cpu", DTYPES[precision])
    x = _noise(given, DTYPES[precision])
    buffer = io.BytesIO()
    try:
        with torch.no_grad():
            shapes = _any_batch() if any_batch else None
            torch.export.save(torch.export.export(network, (x,), dynamic_shapes=shapes), buffer)
    except Exception as error:  # as above
        raise CannotRun(f"no exported program: {first_clause(error)}") from error
    return buffer.getvalue()
