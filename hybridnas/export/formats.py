"""The formats that a network leaves in, beside the bundle: ONNX, torch.export, TorchScript, OpenVINO.

All hold the deploy form in 32 bits and take any number of images.
"""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from hybridnas.cost.runtimes import Input, to_onnx, to_program
from hybridnas.errors import CannotRun, ConfigError, first_clause
from hybridnas.export.bundle import MODEL
from hybridnas.files import write_atomic


@dataclass(frozen=True)
class Format:
    """A format: its files, the one that is opened first, the packages it needs and the extra that brings them."""

    files: tuple[str, ...]
    write: Callable[[nn.Module, int, Path], None] | None = None
    needs: tuple[str, ...] = ()
    extra: str = ""

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [package for package in self.needs if find_spec(package) is None]

    def size(self, folder: Path) -> int:
        """Bytes of its files."""
        return sum((folder / name).stat().st_size for name in self.files)

    def remove(self, folder: Path) -> None:
        """Delete its files."""
        for name in self.files:
            (folder / name).unlink(missing_ok=True)


def write_onnx(network: nn.Module, image_size: int, folder: Path) -> None:
    """Write model.onnx from a network in the deploy form.

    Raises:
        CannotRun: it has no ONNX form.
    """
    write_atomic(folder / "model.onnx", to_onnx(network, _example(image_size), any_batch=True))


def write_program(network: nn.Module, image_size: int, folder: Path) -> None:
    """Write model.pt2, for `torch.export.load`.

    Raises:
        CannotRun: torch cannot export it.
    """
    write_atomic(folder / "model.pt2", to_program(network, _example(image_size), any_batch=True))


def write_torchscript(network: nn.Module, image_size: int, folder: Path) -> None:
    """Write model.ts, a trace for `torch.jit.load`.

    Raises:
        CannotRun: torch cannot trace it.
    """
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of TorchScript itself, and of sizes that the trace keeps
            traced = torch.jit.trace(network, torch.zeros(_example(image_size).shape), check_trace=False)
            torch.jit.save(traced, buffer)
    except Exception as error:  # whatever the tracer stumbles over
        raise CannotRun(f"no TorchScript form: {first_clause(error)}") from error
    write_atomic(folder / "model.ts", buffer.getvalue())


def write_openvino(network: nn.Module, image_size: int, folder: Path) -> None:
    """Write model.xml and model.bin, converted from ONNX: from the model.onnx beside them, if there is one.

    Raises:
        CannotRun: it has no ONNX form, or OpenVINO cannot convert that.
    """
    import openvino

    beside = folder / "model.onnx"
    onnx = beside.read_bytes() if beside.is_file() else to_onnx(network, _example(image_size), any_batch=True)
    with tempfile.TemporaryDirectory() as between:
        (Path(between) / "model.onnx").write_bytes(onnx)
        try:
            model = openvino.convert_model(Path(between) / "model.onnx")
            openvino.save_model(model, Path(between) / "model.xml", compress_to_fp16=False)
        except Exception as error:  # of OpenVINO's own kinds
            raise CannotRun(f"no OpenVINO form: {first_clause(error)}") from error
        for name in ("model.bin", "model.xml"):
            write_atomic(folder / name, (Path(between) / name).read_bytes())


def _example(image_size: int) -> Input:
    """Two images: torch takes a batch of one for a constant."""
    return Input((2, 3, image_size, image_size))


#: By the names that `--format` takes.
FORMATS = {
    "bundle": Format((MODEL, "weights.safetensors")),
    "onnx": Format(("model.onnx",), write_onnx, ("onnx", "onnxscript", "onnxruntime"), "onnx"),
    "torch-export": Format(("model.pt2",), write_program),
    "torchscript": Format(("model.ts",), write_torchscript),
    "openvino": Format(("model.xml", "model.bin"), write_openvino, ("onnx", "onnxscript", "openvino"), "openvino"),
}


def read_formats(text: str | None) -> tuple[str, ...]:
    """The formats that `--format` names, the bundle first: the others are its neighbours.

    None stands for the bundle, torch.export's file and, where its packages are there, ONNX's.

    Raises:
        ConfigError: there is no such format, or its extra is not installed.
    """
    if text is None:
        return tuple(name for name in ("bundle", "onnx", "torch-export") if not FORMATS[name].missing)
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in FORMATS:
            raise ConfigError(f"--format must be some of {','.join(FORMATS)}, got {name!r}.")
        if missing := FORMATS[name].missing:
            extra = FORMATS[name].extra
            raise ConfigError(f"--format {name} needs {' and '.join(missing)}: pip install 'hybridnas[{extra}]'.")
    return tuple(name for name in FORMATS if name in names or name == "bundle")
